//! Quorum types and their changes: who goes on when nodes are lost, and who waits; votes, witness and
//! nodes changed while the cluster runs; a quorum forced.

use anyhow::{Context, Result, ensure};

use super::stage::{GROUP, Stage};
use crate::clock::{now_us, wait_for};
use crate::lab::PATIENCE;
use crate::node::Daemon;
use crate::san::{Lun, San};

/// Three nodes by majority: one may be lost, not two.
pub(super) fn majority(stage: &mut Stage<'_>) -> Result<()> {
    let at = stage.lab.power_cut("a")?;
    stage.strike("the power of node a, the owner, is cut", at);
    stage.wait_moved("b", at)?;
    stage.lab.wait_members(&["b", "c"])?;
    stage.lab.power_cut("c")?;
    stage.say("the power of node c is cut too");
    wait_without_quorum(stage, "b", &["a", "c"])?;
    stage.wait_stopped("b")?;
    stage.say("node b has stopped the group");
    let since = now_us();
    stage.lab.power_on("c")?;
    stage.lab.wait_members(&["b", "c"])?;
    stage.lab.wait_online("b", GROUP)?;
    let owner = stage.owner("b")?;
    stage.wait_moved(&owner, since)?;
    stage.lab.power_on("a")?;
    stage.lab.wait_members(&["a", "b", "c"])
}

/// Waits until a node says that it has no quorum, and for whom it waits.
fn wait_without_quorum(stage: &mut Stage<'_>, node: &str, missing: &[&str]) -> Result<()> {
    let words = stage.lab.wait_status(node, "no quorum", |s| {
        let waiting = s.waiting_for.clone()?;
        (!s.quorum.has_quorum).then_some(waiting)
    })?;
    stage.say(&format!("node {node} waits for {words}"));
    ensure!(missing.iter().any(|m| words.contains(m)), "it does not name {missing:?}: {words}");
    Ok(())
}

/// The disk alone has the vote.
pub(super) fn disk(stage: &mut Stage<'_>) -> Result<()> {
    let leader =
        stage.lab.wait_status("a", "a leader", |s| Some(s.view.as_ref()?.leader.clone()))?;
    let other = stage.lab.other(&leader).name();
    if leader != "a" {
        stage.move_group(&leader)?;
    }
    stage.rest();
    let at = stage.lab.power_cut(&leader)?;
    stage.strike(&format!("the power of node {leader}, which has the quorum disk, is cut"), at);
    stage.wait_moved(other, at)?;
    stage.lab.power_on(&leader)?;
    stage.lab.wait_members(&["a", "b"])
}

/// A file share has a vote, and no data.
pub(super) fn share(stage: &mut Stage<'_>) -> Result<()> {
    stage.rest();
    let at = stage.lab.power_cut("a")?;
    stage.strike("the power of node a, the owner, is cut", at);
    stage.wait_moved("b", at)?;
    stage
        .lab
        .wait_status("b", "a view with the share", |s| s.view.as_ref()?.witness_in.then_some(()))?;
    stage.command("b", &["group", "create", "later"])?;
    stage.say("node b, with the share, makes a group of which a knows nothing");
    stage.lab.power_cut("b")?;
    stage.lab.power_on("a")?;
    stage.say("node b loses its power, node a alone is switched on");
    let words = stage.lab.wait_status("a", "somebody to wait for", |s| {
        let words = s.waiting_for.clone()?;
        (!s.quorum.has_quorum && words.contains("share") && words.ends_with(" b")).then_some(words)
    })?;
    stage.say(&format!("node a waits for {words}"));
    stage.lab.power_on("b")?;
    stage.lab.wait_members(&["a", "b"])?;
    let status = stage.lab.status("a")?;
    ensure!(status.groups.iter().any(|g| g.name == "later"), "the newest state is lost");
    stage.lab.wait_online("a", GROUP)?;
    Ok(())
}

/// Votes are changed while the cluster runs.
pub(super) fn votes(stage: &mut Stage<'_>) -> Result<()> {
    stage.command("b", &["quorum", "set", "--votes", "a=3"])?;
    stage.lab.wait_status("c", "three votes of node a", |s| {
        (s.quorum.votes.get("a") == Some(&3) && s.quorum.total == 5).then_some(())
    })?;
    stage.lab.wait_members(&["a", "b", "c"])?;
    let explained = stage.command("a", &["quorum", "explain"])?;
    stage.say(explained.trim_end());
    stage.lab.power_cut("b")?;
    let at = stage.lab.power_cut("c")?;
    stage.strike("the power of nodes b and c is cut", at);
    stage.lab.wait_members(&["a"])?;
    stage.lab.wait_answer("a", now_us())?;
    ensure!(stage.lab.wait_online("a", GROUP)? == "a", "the owner is another");
    stage.say("node a has 3 of 5 votes, and goes on");
    stage.lab.power_on("b")?;
    stage.lab.power_on("c")?;
    stage.lab.wait_members(&["a", "b", "c"])
}

/// The witness is moved to another disk while the cluster runs.
pub(super) fn witness_move(stage: &mut Stage<'_>) -> Result<()> {
    let spare = San::url(Lun::Spare);
    stage.command("b", &["quorum", "set", "--witness", &spare, "--exclusion", "reserve"])?;
    for node in ["a", "b"] {
        stage.lab.wait_status(node, "the new witness", |s| {
            (s.quorum.witness.as_deref() == Some(&spare) && s.quorum.total == 3).then_some(())
        })?;
    }
    stage.lab.wait_members(&["a", "b"])?;
    stage.lab.san.remove(Lun::Quorum)?;
    stage.say("the witness is the spare disk; the former one is taken away");
    stage.lab.wait_answer("a", now_us())?;
    stage.rest();
    let at = stage.lab.power_cut("a")?;
    stage.strike("the power of node a, the owner, is cut", at);
    stage.wait_moved("b", at)?;
    stage.say("node b goes on with the new witness");
    stage.lab.power_cut("b")?;
    stage.lab.power_on("b")?;
    stage.say("node b is power-cycled; its configuration still names the former witness");
    stage.lab.wait_members(&["b"])?;
    stage.lab.power_on("a")?;
    stage.lab.wait_members(&["a", "b"])?;
    stage.lab.wait_online("a", GROUP)?;
    Ok(())
}

/// A node is taken out of the cluster, and let in again.
pub(super) fn evict(stage: &mut Stage<'_>) -> Result<()> {
    let alone = stage.lab.wolfpack("a", &["node", "evict", "c"]);
    let alone = alone.err().context("a majority of two nodes was allowed")?;
    stage.say(&format!("two nodes by majority are refused: {alone}"));
    let share = format!("share:{}", stage.lab.share().display());
    let kind = ["quorum", "set", "--type", "node-and-share", "--witness", &share];
    stage.command("b", &kind)?;
    stage.lab.wait_status("a", "a vote of the share", |s| {
        (s.quorum.witness.as_deref() == Some(&share) && s.quorum.witness_votes == 1).then_some(())
    })?;
    let service = stage.lab.node("c").daemon(Daemon::Service)?;
    let pid = service.pid()?;
    service.set_restart(false);
    stage.command("a", &["node", "evict", "c"])?;
    stage.strike("node c is evicted", now_us());
    let end = stage.lab.node("c").daemon(Daemon::Service)?.wait_end(pid, PATIENCE)?;
    ensure!(end.how == "exit status: 77", "node c did not end as evicted: {}", end.how);
    stage.lab.wait_members(&["a", "b"])?;
    stage.lab.wait_status("a", "no votes of node c", |s| {
        (s.quorum.votes.get("c").copied().unwrap_or(0) == 0).then_some(())
    })?;
    stage.command("a", &["group", "create", "later"])?;
    stage.command("a", &["node", "add", "c"])?;
    stage.lab.node("c").daemon(Daemon::Service)?.set_restart(true);
    stage.say("node c is added, and its service started");
    stage.lab.wait_members(&["a", "b", "c"])?;
    stage.lab.wait_status("c", "everything that happened meanwhile", |s| {
        s.groups.iter().any(|g| g.name == "later").then_some(())
    })?;
    stage.lab.wait_status("a", "a vote of node c", |s| {
        (s.quorum.votes.get("c") == Some(&1)).then_some(())
    })
}

/// A quorum is forced on the last of three.
pub(super) fn force(stage: &mut Stage<'_>) -> Result<()> {
    let early = stage.lab.wolfpack("a", &["quorum", "force", "--dead", "b,c", "--yes"]);
    let early = early.err().context("a quorum was forced where there is one")?;
    stage.say(&format!("with quorum it is refused: {early}"));
    stage.lab.power_cut("b")?;
    let at = stage.lab.power_cut("c")?;
    stage.strike("the power of nodes b and c is cut", at);
    wait_without_quorum(stage, "a", &["b", "c"])?;
    stage.wait_stopped("a")?;
    let half = force_when_there(stage, "b")?;
    let half = half.err().context("a quorum was forced though c may live")?;
    stage.say(&format!("without the name of node c it is refused: {half}"));
    let since = now_us();
    force_when_there(stage, "b,c")??;
    stage.say("with both names the quorum is forced");
    stage.lab.wait_members(&["a"])?;
    stage.lab.wait_online("a", GROUP)?;
    stage.wait_moved("a", since)?;
    stage.command("a", &["group", "create", "later"])?;
    stage.lab.power_on("b")?;
    stage.say("node b is switched on again, and follows the forced quorum");
    stage.lab.wait_members(&["a", "b"])?;
    stage.lab.wait_status("b", "what was made under the forced quorum", |s| {
        s.groups.iter().any(|g| g.name == "later").then_some(())
    })
}

/// Forces a quorum on node a; its service may just be ending its former life, which had the group.
fn force_when_there(stage: &Stage<'_>, dead: &str) -> Result<Result<String>> {
    let args = ["quorum", "force", "--dead", dead, "--yes"];
    wait_for("node a's next life to answer", PATIENCE, || match stage.lab.wolfpack("a", &args) {
        Err(e) if ["exit status: 7", "is ending"].iter().any(|w| format!("{e:#}").contains(w)) => {
            Err(format!("{e:#}"))
        }
        answer => Ok(answer),
    })
}

/// The owner is paused and drained.
pub(super) fn pause(stage: &mut Stage<'_>) -> Result<()> {
    let since = now_us();
    stage.command("b", &["node", "pause", "a", "--drain", "--wait"])?;
    stage.strike("node a, the owner, is paused and drained", since);
    stage.wait_moved("b", since)?;
    let back = stage.lab.wolfpack("b", &["group", "move", GROUP, "--to", "a"]);
    let back = back.err().context("a group was moved to a paused node")?;
    stage.say(&format!("it is not moved back: {back}"));
    let nodes = stage.command("b", &["node", "status"])?;
    ensure!(nodes.contains("paused"), "the pause is not shown:\n{nodes}");
    stage.command("a", &["node", "resume", "a"])?;
    stage.move_group("a")
}
