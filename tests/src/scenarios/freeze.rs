//! The owner freezes as a whole (SIGSTOP of every process of it, as a hung machine or a starved
//! virtual machine does) and thaws ten seconds later. Nothing on it can act at lease end: the
//! kernel's lease on the address and the disk's reservation hold it off. When it thaws it finds that
//! its life is over, ends what it has, and rejoins as a new one.

use std::time::Duration;

use anyhow::{Result, ensure};
use nix::sys::signal::Signal;

use super::stage::{GROUP, Stage};
use crate::clock::{now_us, wait_for};
use crate::lab::PATIENCE;

const FROZEN: Duration = Duration::from_secs(10);

pub(super) fn run(stage: &mut Stage<'_>) -> Result<()> {
    let owner = stage.owner("a")?;
    let other = stage.lab.other(&owner).name();
    let before = stage.lab.status(&owner)?.incarnation;
    let at = now_us();
    stage.lab.node(&owner).signal_all(Signal::SIGSTOP)?;
    stage.strike(&format!("node {owner}, the owner, freezes"), at);
    stage.wait_moved(other, at)?;
    wait_for("ten seconds to pass", PATIENCE, || {
        let passed = now_us() - at;
        if u128::from(passed) >= FROZEN.as_micros() { Ok(()) } else { Err("they have not".into()) }
    })?;
    let thawed = now_us();
    stage.lab.node(&owner).signal_all(Signal::SIGCONT)?;
    stage.say(&format!("node {owner} thaws"));
    wait_for("the thawed node to rejoin", PATIENCE, || match stage.lab.status(&owner) {
        Ok(status) if status.incarnation > before && status.view.is_some() => Ok(()),
        Ok(status) => Err(format!("it still is life {}", status.incarnation)),
        Err(e) => Err(e.to_string()),
    })?;
    stage.lab.wait_members(&["a", "b"])?;
    ensure!(stage.lab.wait_online(&owner, GROUP)? == other, "the group moved again");
    let tenures = stage.lab.disk.tenures();
    let late = tenures.iter().find(|t| t.node == owner && t.last_us > thawed);
    ensure!(late.is_none(), "the thawed node wrote to the disk: {late:?}");
    Ok(())
}
