//! Clean stop of the owner: the group moves without detection time, because the node says that it
//! leaves once nothing runs on it.

use anyhow::{Result, ensure};
use wolfpack_types::event::EventKind;
use wolfpack_types::heartbeat::Reach;

use super::stage::{GROUP, Stage};
use crate::lab::PATIENCE;
use crate::node::Daemon;

pub(super) fn run(stage: &mut Stage<'_>) -> Result<()> {
    let owner = stage.owner("a")?;
    let other = stage.lab.other(&owner).name();
    let id = stage.lab.node(&owner).host();
    let (at, end) = stage.lab.node(&owner).stop_cleanly(PATIENCE)?;
    stage.strike(&format!("wolfpackd on node {owner}, the owner, is asked to stop"), at);
    ensure!(end.how == "exit status: 0", "it did not end well: {}", end.how);
    stage.wait_moved(other, at)?;
    let named = stage.wait_event(other, "group-owner", at, |e| {
        matches!(e, EventKind::GroupOwner { name, owner, .. }
            if name == GROUP && owner.node.get() != id)
    })?;
    let missed = stage.lab.node(other).event_since(at, |e| {
        matches!(e, EventKind::NodeReach { node, reach: Reach::Unreachable } if node.get() == id)
    });
    ensure!(
        missed.as_ref().is_none_or(|e| e.boot_us > named.boot_us),
        "node {owner} was found missing before the group moved: {missed:?}"
    );
    let because = stage.because(other)?;
    ensure!(because.contains("left"), "the group did not move for the leave: {because}");
    stage.say(&format!("why there: {because}"));
    stage.wait_stopped(&owner)?;
    stage.lab.node(&owner).daemon(Daemon::Service)?.set_restart(true);
    stage.say(&format!("wolfpackd on node {owner} is started again"));
    stage.lab.wait_members(&["a", "b"])
}
