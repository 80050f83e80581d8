//! Power cut of the owner: the group comes online on the other node. Then the node comes back and
//! the group is moved home.

use anyhow::Result;

use super::stage::{GROUP, Stage};

pub(super) fn run(stage: &mut Stage<'_>) -> Result<()> {
    let owner = stage.owner("a")?;
    let other = stage.lab.other(&owner).name();
    stage.rest();
    let at = stage.lab.power_cut(&owner)?;
    stage.strike(&format!("the power of node {owner}, the owner, is cut"), at);
    stage.wait_moved(other, at)?;
    stage.say(&format!("why there: {}", stage.because(other)?));
    stage.lab.power_on(&owner)?;
    stage.lab.wait_members(&["a", "b"])?;
    stage.say(&format!("node {owner} is back, as a member"));
    anyhow::ensure!(
        stage.lab.wait_online(&owner, GROUP)? == other,
        "the group moved when node {owner} came back, without a wish"
    );
    stage.move_group(&owner)
}
