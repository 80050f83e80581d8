//! The cluster key is changed, step by step, under the running cluster; then a service is killed, so
//! that its guard speaks, and its next life joins, under the new key.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::service_kill;
use super::stage::{GROUP, Stage};
use crate::clock::now_us;

/// What a step must not change: the view, the lives in it, where the group runs.
fn standing(stage: &Stage<'_>, node: &str) -> Result<(String, Vec<Option<u64>>, String)> {
    let status = stage.lab.status(node)?;
    let view = status.view.context("there is no view")?;
    let lives = status.nodes.iter().map(|n| n.incarnation).collect();
    Ok((view.ballot, lives, stage.lab.wait_online(node, GROUP)?))
}

pub(super) fn run(stage: &mut Stage<'_>) -> Result<()> {
    let before = standing(stage, "a")?;
    let new = stage.lab.dir().join("new-key").display().to_string();
    stage.command("a", &["key", "generate", &new])?;
    stage.strike("the cluster key is changed in three steps", now_us());
    for step in ["accept", "switch", "finish"] {
        for node in ["a", "b"] {
            let file = stage.lab.node(node).dir().join("key").display().to_string();
            stage.command(node, &["key", "rotate-step", step, &new, "--file", &file])?;
            stage.command(node, &["key", "reload"])?;
            // The nodes are a step apart for longer than a lease.
            stage.let_pass(Duration::from_secs(3));
            let now = standing(stage, "a")?;
            ensure!(now == before, "after '{step}' on node {node}: {now:?} instead of {before:?}");
        }
    }
    let early = stage.lab.wolfpack("b", &["key", "rotate-step", "switch", &new]);
    ensure!(early.is_err(), "a key file that is not there was rewritten");
    stage.say("the key is another, in the same view, with the group where it was");
    service_kill::run(stage)
}
