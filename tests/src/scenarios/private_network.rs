//! The private network fails: nothing moves, and an event says that it failed.

use std::time::Duration;

use anyhow::{Result, ensure};
use wolfpack_types::event::EventKind;

use super::stage::{GROUP, Stage};
use crate::clock::now_us;
use crate::network::Wire;

/// Longer than any fail-over would take to begin.
const LONG_ENOUGH: Duration = Duration::from_secs(5);

pub(super) fn run(stage: &mut Stage<'_>) -> Result<()> {
    let owner = stage.owner("a")?;
    let ballot = view(stage, "a")?;
    let at = now_us();
    stage.lab.switch.fail(Wire::Private, true)?;
    stage.strike("the private network fails", at);
    for node in ["a", "b"] {
        let event = stage.wait_event(
            node,
            "network-changed",
            at,
            |e| matches!(e, EventKind::NetworkChanged { name, up: false, .. } if name == "private"),
        )?;
        stage.say(&format!("node {node} says: {}", event.event.text));
    }
    stage.let_pass(LONG_ENOUGH);
    for node in ["a", "b"] {
        ensure!(view(stage, node)? == ballot, "there was a regroup");
        ensure!(stage.lab.wait_online(node, GROUP)? == owner, "the group moved");
    }
    stage.wait_steady(&owner)?;
    let strangers = stage.lab.client.answers_since(at).into_iter().find(|a| a.node != owner);
    ensure!(strangers.is_none(), "another node answered: {strangers:?}");
    let healed = now_us();
    stage.lab.switch.fail(Wire::Private, false)?;
    stage.say("the private network works again");
    stage.wait_event(
        "a",
        "network-changed",
        healed,
        |e| matches!(e, EventKind::NetworkChanged { name, up: true, .. } if name == "private"),
    )?;
    ensure!(view(stage, "a")? == ballot, "there was a regroup");
    Ok(())
}

fn view(stage: &Stage<'_>, node: &str) -> Result<Option<String>> {
    Ok(stage.lab.status(node)?.view.map(|v| v.ballot))
}
