//! Every scenario as a test. Each makes a lab of its own, so they are run one after another:
//! their daemons want the processor to themselves.

use std::sync::{Mutex, PoisonError};

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn scenario(name: &str) {
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    wolfpack_lab::scenarios::test(name);
}

#[test]
fn power_cut() {
    scenario("power-cut");
}

#[test]
fn service_kill() {
    scenario("service-kill");
}

#[test]
fn service_stop() {
    scenario("service-stop");
}

#[test]
fn freeze() {
    scenario("freeze");
}

#[test]
fn monitor_kill() {
    scenario("monitor-kill");
}

#[test]
fn service_and_guard_kill() {
    scenario("service-and-guard-kill");
}

#[test]
fn private_network() {
    scenario("private-network");
}

#[test]
fn network_loss() {
    scenario("network-loss");
}

#[test]
fn network_trouble() {
    scenario("network-trouble");
}

#[test]
fn network_interfaces() {
    scenario("network-interfaces");
}

#[test]
fn both_networks() {
    scenario("both-networks");
}

#[test]
fn disk_path() {
    scenario("disk-path");
}

#[test]
fn clean_stop() {
    scenario("clean-stop");
}

#[test]
fn power_cycle() {
    scenario("power-cycle");
}

#[test]
fn older_database() {
    scenario("older-database");
}

#[test]
fn majority() {
    scenario("majority");
}

#[test]
fn disk_quorum() {
    scenario("disk-quorum");
}

#[test]
fn share_quorum() {
    scenario("share-quorum");
}

#[test]
fn votes() {
    scenario("votes");
}

#[test]
fn witness_move() {
    scenario("witness-move");
}

#[test]
fn evict() {
    scenario("evict");
}

#[test]
fn force() {
    scenario("force");
}

#[test]
fn pause() {
    scenario("pause");
}

#[test]
fn key_change() {
    scenario("key-change");
}
