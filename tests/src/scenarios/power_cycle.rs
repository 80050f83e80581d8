//! Both nodes are power-cycled: the cluster forms again with its database, and the group comes
//! online once.

use anyhow::{Result, ensure};

use super::stage::Stage;

pub(super) fn run(stage: &mut Stage<'_>) -> Result<()> {
    let before = stage.lab.status("a")?;
    let tenures = stage.lab.disk.tenures().len();
    let at = stage.lab.power_cut("a")?;
    stage.lab.power_cut("b")?;
    stage.strike("the power of both nodes is cut", at);
    stage.lab.power_on("a")?;
    stage.lab.power_on("b")?;
    stage.say("both have power again");
    stage.lab.wait_members(&["a", "b"])?;
    let owner = stage.owner("a")?;
    stage.wait_moved(&owner, at)?;
    for node in ["a", "b"] {
        let after = stage.lab.status(node)?;
        ensure!(after.cluster == before.cluster, "node {node} is in another cluster");
        ensure!(after.name == before.name, "the cluster's name was lost");
        ensure!(after.commit_seq >= before.commit_seq, "node {node} lost updates");
        ensure!(after.resources.len() == before.resources.len(), "resources were lost");
    }
    let new = stage.lab.disk.tenures().split_off(tenures);
    ensure!(new.len() == 1, "the application was started more than once: {new:?}");
    Ok(())
}
