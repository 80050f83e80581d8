//! SIGSTOP of the service for ten seconds, then SIGCONT: the guard ends the resources at lease end;
//! the group moves; the woken node finds that it is out, touches nothing, rejoins as a new life.

use std::time::Duration;

use anyhow::{Result, ensure};
use nix::sys::signal::Signal;

use super::stage::{GROUP, Stage};
use crate::clock::{now_us, wait_for};
use crate::lab::PATIENCE;
use crate::node::Daemon;

const STOPPED: Duration = Duration::from_secs(10);

pub(super) fn run(stage: &mut Stage<'_>) -> Result<()> {
    let owner = stage.owner("a")?;
    let other = stage.lab.other(&owner).name();
    let before = stage.lab.status(&owner)?.incarnation;
    let at = now_us();
    let pid = stage.lab.node(&owner).signal(Daemon::Service, Signal::SIGSTOP)?;
    stage.strike(&format!("wolfpackd on node {owner}, the owner, is stopped (SIGSTOP)"), at);
    stage.wait_stopped(&owner)?;
    stage.say(&format!("the guard of node {owner} has ended the resources"));
    stage.wait_moved(other, at)?;
    wait_for("ten seconds to pass", PATIENCE, || {
        let passed = now_us() - at;
        if u128::from(passed) >= STOPPED.as_micros() { Ok(()) } else { Err("they have not".into()) }
    })?;
    let woken = now_us();
    stage.lab.node(&owner).signal(Daemon::Service, Signal::SIGCONT)?;
    stage.say(&format!("wolfpackd on node {owner} is woken (SIGCONT)"));
    let service = stage.lab.node(&owner).daemon(Daemon::Service)?;
    let end = service.wait_end(pid, PATIENCE)?;
    stage.say(&format!("it found that it is out, and ended itself ({})", end.how));
    stage.lab.wait_members(&["a", "b"])?;
    let after = stage.lab.status(&owner)?.incarnation;
    ensure!(after > before, "the woken node rejoined as the life that was excluded ({before})");
    ensure!(stage.lab.wait_online(&owner, GROUP)? == other, "the group moved again");
    let tenures = stage.lab.disk.tenures();
    let late = tenures.iter().find(|t| t.node == owner && t.last_us > woken);
    ensure!(late.is_none(), "the woken node wrote to the disk: {late:?}");
    Ok(())
}
