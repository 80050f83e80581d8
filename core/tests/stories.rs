//! Short stories of three nodes without a witness, on an ideal network.

#[expect(dead_code, reason = "each test binary uses a part of the rig")]
mod rig;

use std::time::Duration;

use rig::{Rig, n};
use wolfpack_core::{ExitReason, Input};
use wolfpack_types::api::{Reply, Request};
use wolfpack_types::objects::{GroupState, ResourceState};

const LONG: Duration = Duration::from_secs(30);

fn members(rig: &Rig, i: u8) -> usize {
    rig.see(i).installed.map_or(0, |v| v.members.len())
}

fn cluster() -> Rig {
    let mut rig = Rig::new(3);
    rig.run(Duration::from_millis(500));
    assert!(matches!(rig.create(1), Reply::Done { .. }), "{}", rig.tell());
    rig.until(LONG, "all three are members", |r| (1..=3).all(|i| members(r, i) == 3));
    rig
}

fn with_group() -> Rig {
    let mut rig = cluster();
    let create = Request::GroupCreate { group: "web".into(), preferred: vec!["node2".into()] };
    assert!(matches!(rig.ask(3, create), Reply::Done { .. }));
    let create = Request::ResourceCreate {
        resource: "app".into(),
        group: "web".into(),
        kind: "generic-application".into(),
        properties: [("command".to_owned(), "/bin/true".to_owned())].into(),
        depends_on: vec![],
    };
    let reply = rig.ask(1, create);
    assert!(matches!(reply, Reply::Done { .. }), "{reply:?}");
    assert!(matches!(rig.ask(1, Request::GroupOnline { group: "web".into() }), Reply::Done { .. }));
    rig.until(LONG, "online on the preferred node", |r| r.nodes[&n(2)].running.len() == 1);
    rig
}

fn runners(rig: &Rig) -> Vec<u8> {
    rig.nodes.iter().filter(|(_, x)| !x.running.is_empty()).map(|(id, _)| id.get()).collect()
}

#[test]
fn a_cluster_is_created_once() {
    let mut rig = cluster();
    assert!(matches!(rig.create(2), Reply::Error(_)));
    assert_eq!(rig.see(1).digest, rig.see(3).digest);
}

#[test]
fn a_minority_cannot_create() {
    let mut rig = Rig::new(3);
    rig.cut(1, 2);
    rig.cut(1, 3);
    rig.run(Duration::from_secs(2));
    let Reply::Error(e) = rig.create(1) else { panic!("created by a minority") };
    assert!(e.what.contains("1 of 3 votes"), "{e}");
}

#[test]
fn a_group_runs_where_it_prefers_and_all_members_know() {
    let mut rig = with_group();
    rig.run(Duration::from_millis(50));
    for i in 1..=3 {
        let Reply::Groups { groups } = rig.ask(i, Request::GroupStatus { group: None }) else {
            panic!("no status")
        };
        assert_eq!(groups[0].state, GroupState::Online, "node {i}");
        assert_eq!(groups[0].owner.as_deref(), Some("node2"));
    }
}

#[test]
fn a_power_cut_moves_the_group_after_the_wait() {
    let mut rig = with_group();
    rig.run(Duration::from_secs(3));
    let cut = rig.now;
    rig.power_cut(2);
    rig.until(LONG, "the group runs elsewhere", |r| !runners(r).is_empty());
    let outage = rig.now - cut;
    assert!(outage >= Duration::from_millis(2300), "before the lease was over: {outage:?}");
    assert!(outage <= Duration::from_millis(2700), "{outage:?}\n{}", rig.tell());
}

#[test]
fn a_proven_death_needs_no_wait() {
    let mut rig = with_group();
    rig.run(Duration::from_secs(3));
    let who = rig.nodes[&n(2)].me;
    rig.power_cut(2);
    let cut = rig.now;
    rig.prove_dead(who);
    rig.until(LONG, "the group runs elsewhere", |r| !runners(r).is_empty());
    assert!(rig.now - cut < Duration::from_millis(300), "{:?}", rig.now - cut);
}

#[test]
fn an_administrator_moves_a_group_at_once() {
    let mut rig = with_group();
    let start = rig.now;
    let to = Request::GroupMove { group: "web".into(), to: Some("node3".into()) };
    assert!(matches!(rig.ask(1, to), Reply::Done { .. }));
    rig.until(LONG, "moved", |r| runners(r) == [3]);
    assert!(rig.now - start < Duration::from_millis(60), "{:?}", rig.now - start);
}

#[test]
fn an_isolated_owner_ends_before_another_starts() {
    let mut rig = with_group();
    rig.run(Duration::from_secs(3));
    rig.cut(2, 1);
    rig.cut(2, 3);
    while runners(&rig) == [2] {
        rig.run(Duration::from_millis(1));
    }
    assert!(runners(&rig).is_empty(), "two owners: {:?}", runners(&rig));
    assert!(matches!(rig.nodes[&n(2)].exit, Some(ExitReason::Fenced(_))));
    rig.until(LONG, "the group runs elsewhere", |r| !runners(r).is_empty());
    rig.heal();
    rig.start(2);
    rig.until(LONG, "node 2 is back", |r| (1..=3).all(|i| members(r, i) == 3));
}

#[test]
fn a_returning_node_learns_what_it_missed() {
    let mut rig = with_group();
    rig.power_cut(3);
    rig.until(LONG, "out", |r| members(r, 1) == 2);
    for i in 0..20 {
        let group = Request::GroupCreate { group: format!("g{i}"), preferred: vec![] };
        assert!(matches!(rig.ask(1, group), Reply::Done { .. }));
    }
    rig.start(3);
    rig.until(LONG, "back", |r| members(r, 3) == 3);
    rig.run(Duration::from_millis(100));
    assert_eq!(rig.see(1).digest, rig.see(3).digest);
    let Reply::Resources { resources } = rig.ask(3, Request::ResourceStatus { resource: None })
    else {
        panic!("no status")
    };
    assert_eq!(resources[0].state, ResourceState::Online, "volatile states are told again");
}

#[test]
fn all_nodes_power_cycled_form_again() {
    let mut rig = with_group();
    for i in 1..=3 {
        rig.power_cut(i);
    }
    rig.run(Duration::from_secs(1));
    for i in 1..=3 {
        rig.start(i);
    }
    rig.until(LONG, "formed", |r| (1..=3).all(|i| members(r, i) == 3));
    rig.until(LONG, "online once", |r| runners(r).len() == 1);
    rig.run(Duration::from_secs(5));
    assert_eq!(runners(&rig).len(), 1);
}

#[test]
fn a_clean_leave_costs_no_detection() {
    let mut rig = with_group();
    rig.run(Duration::from_secs(2));
    let start = rig.now;
    rig.input(n(2), Input::Leave);
    rig.until(LONG, "the group runs elsewhere", |r| matches!(runners(r).as_slice(), [1] | [3]));
    assert!(rig.now - start < Duration::from_millis(100), "{:?}", rig.now - start);
    rig.until(LONG, "the view is without it", |r| members(r, 1) == 2);
    assert!(rig.now - start < Duration::from_millis(500), "{:?}", rig.now - start);
    assert_eq!(rig.nodes[&n(2)].exit, Some(ExitReason::Left));
}

#[test]
fn the_last_minority_waits_and_says_for_whom() {
    let mut rig = with_group();
    rig.power_cut(2);
    rig.power_cut(3);
    rig.run(Duration::from_secs(8));
    let Reply::Cluster(status) = rig.ask(1, Request::ClusterStatus) else { panic!() };
    let waiting = status.waiting_for.unwrap_or_default();
    assert!(waiting.contains("node2") && waiting.contains("node3"), "{waiting}");
    assert!(!status.quorum.has_quorum);
    rig.start(3);
    rig.until(LONG, "two are enough", |r| members(r, 1) == 2);
}

#[test]
fn a_resource_made_to_fail_is_restarted_and_the_request_is_answered() {
    let mut rig = with_group();
    let reply = rig.ask(3, Request::ResourceFail { resource: "app".into() });
    assert!(matches!(reply, Reply::Done { .. }), "{reply:?}");
    rig.until(LONG, "ended", |r| runners(r).is_empty());
    rig.until(LONG, "restarted on its node", |r| runners(r) == [2]);
    let reply = rig.ask(1, Request::ResourceFail { resource: "ap".into() });
    assert!(matches!(reply, Reply::Error(_)), "{reply:?}");
}
