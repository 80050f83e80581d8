//! Only the node with the older database starts: it takes the newest state from the quorum disk.

use anyhow::{Context, Result, ensure};

use super::stage::{GROUP, Stage};

const LATER: &str = "later";

pub(super) fn run(stage: &mut Stage<'_>) -> Result<()> {
    stage.lab.power_cut("b")?;
    stage.say("the power of node b is cut");
    stage.lab.wait_members(&["a"])?;
    stage.command("a", &["group", "create", LATER])?;
    let newest = stage.lab.status("a")?.commit_seq;
    stage.say(&format!(
        "node a made the group '{LATER}' (update {newest}), of which b knows nothing"
    ));
    let at = stage.lab.power_cut("a")?;
    stage.strike("the power of node a is cut", at);
    stage.lab.power_on("b")?;
    stage.say("node b alone is switched on");
    stage.lab.wait_members(&["b"])?;
    let status = stage.lab.status("b")?;
    ensure!(status.commit_seq >= newest, "node b is at update {} only", status.commit_seq);
    let later = status.groups.iter().find(|g| g.name == LATER);
    later.context("node b does not know the group that was made while it was away")?;
    stage.say(&format!("node b knows the group '{LATER}', from the quorum disk"));
    stage.wait_moved("b", at)?;
    ensure!(stage.lab.wait_online("b", GROUP)? == "b", "the owner is another");
    stage.lab.power_on("a")?;
    stage.lab.wait_members(&["a", "b"])?;
    let status = stage.lab.status("a")?;
    ensure!(status.groups.iter().any(|g| g.name == LATER), "node a lost its own update");
    Ok(())
}
