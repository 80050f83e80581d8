//! SIGKILL of the service alone on the owner: its guard ends the resources and proves it to the
//! others; the group moves without the wait for the lease.

use anyhow::{Result, ensure};
use nix::sys::signal::Signal;
use wolfpack_types::event::{EventKind, Proof};

use super::stage::Stage;
use crate::clock::now_us;
use crate::node::Daemon;

pub(super) fn run(stage: &mut Stage<'_>) -> Result<()> {
    let owner = stage.owner("a")?;
    let (node, other) = (stage.lab.node(&owner), stage.lab.other(&owner).name());
    let (id, before) = (node.host(), node.daemon(Daemon::Guard)?.pid()?);
    let at = now_us();
    node.signal(Daemon::Service, Signal::SIGKILL)?;
    stage.strike(&format!("wolfpackd on node {owner}, the owner, is killed"), at);
    stage.wait_moved(other, at)?;
    stage.wait_event(other, "proof-received", at, |e| {
        matches!(e, EventKind::ProofReceived { who, proof: Proof::AllTerminated }
            if who.node.get() == id)
    })?;
    let because = stage.because(other)?;
    ensure!(because.contains("proved"), "the group did not move for the proof: {because}");
    stage.say(&format!("why there: {because}"));
    stage.lab.wait_members(&["a", "b"])?;
    let guard = stage.lab.node(&owner).daemon(Daemon::Guard)?;
    ensure!(guard.pid()? == before, "the guard did not live through it");
    stage.say(&format!("node {owner} is back, as a member, under the same guard"));
    Ok(())
}
