//! The owner loses the path to the disks: the quorum resource and the group with the disk move.

use anyhow::{Result, ensure};

use super::stage::Stage;
use crate::clock::now_us;
use crate::network::Wire;

pub(super) fn run(stage: &mut Stage<'_>) -> Result<()> {
    let owner = stage.owner("a")?;
    let other = stage.lab.other(&owner).name();
    let leader =
        stage.lab.wait_status(&owner, "a leader", |s| Some(s.view.as_ref()?.leader.clone()))?;
    ensure!(leader == owner, "the scenario wants the owner to have the quorum resource too");
    let at = now_us();
    stage.lab.switch.cable(&owner, Wire::Storage, false)?;
    stage.strike(&format!("the storage cable of node {owner}, the owner, is pulled"), at);
    stage.wait_moved(other, at)?;
    stage.say(&format!("why there: {}", stage.because(other)?));
    stage.lab.wait_status(other, "the quorum resource to move", |s| {
        (s.view.as_ref()?.leader == other).then_some(())
    })?;
    stage.say(&format!("node {other} has the quorum resource"));
    stage.wait_stopped(&owner)?;
    stage.lab.switch.cable(&owner, Wire::Storage, true)?;
    stage.say("the storage cable is plugged in again");
    stage.lab.wait_members(&["a", "b"])?;
    stage.move_group(&owner)
}
