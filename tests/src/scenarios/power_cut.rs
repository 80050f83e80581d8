//! Power cut of the owner: the group comes online on the other node, whose event log tells why: back
//! to the silence. Then the node comes back, reads in its own log what it missed, and the group is
//! moved home.

use anyhow::{Context, Result, ensure};
use wolfpack_types::event::{EventId, EventKind};

use super::stage::{GROUP, Stage};
use crate::clock::wait_for;
use crate::lab::PATIENCE;

pub(super) fn run(stage: &mut Stage<'_>) -> Result<()> {
    let owner = stage.owner("a")?;
    let other = stage.lab.other(&owner).name();
    let id = stage.lab.node(other).host();
    stage.rest();
    let at = stage.lab.power_cut(&owner)?;
    stage.strike(&format!("the power of node {owner}, the owner, is cut"), at);
    stage.wait_moved(other, at)?;
    stage.say(&format!("why there: {}", stage.because(other)?));
    let named = stage.wait_event(other, "group-owner", at, |e| {
        matches!(e, EventKind::GroupOwner { name, owner, .. }
            if name == GROUP && owner.node.get() == id)
    })?;
    let story = told(stage, other, named.id, &owner)?;
    stage.say(&format!("the whole story, by 'wolfpack events --chain {}':\n{story}", named.id));
    stage.lab.power_on(&owner)?;
    stage.lab.wait_members(&["a", "b"])?;
    stage.say(&format!("node {owner} is back, as a member"));
    ensure!(
        stage.lab.wait_online(&owner, GROUP)? == other,
        "the group moved when node {owner} came back, without a wish"
    );
    wait_learned(stage, &owner, named.id)?;
    ensure!(
        told(stage, &owner, named.id, &owner)? == story,
        "node {owner} tells another story of what happened while it was away"
    );
    stage.say(&format!("node {owner} has the events that it missed in its own log"));
    stage.move_group(&owner)
}

/// The chain of causes of the event, as `node` tells it: it begins with the silence of the node
/// that was `lost`, and ends with its group on the other one.
fn told(stage: &Stage<'_>, node: &str, event: EventId, lost: &str) -> Result<String> {
    let story = stage.lab.wolfpack(node, &["events", "--chain", &event.to_string()])?;
    let first = story.lines().next().unwrap_or_default();
    let last = story.lines().next_back().unwrap_or_default();
    ensure!(
        first.contains(&format!("node {lost} is ")) && first.contains("silent on all networks"),
        "the story does not begin with the silence:\n{story}"
    );
    ensure!(
        last.contains(&format!("group '{GROUP}' is owned by")) && last.contains(&event.to_string()),
        "the story does not end with the new owner:\n{story}"
    );
    ensure!(story.contains("regroup"), "the story has no regroup:\n{story}");
    Ok(story)
}

/// Waits until a node has an event of another in its log.
fn wait_learned(stage: &Stage<'_>, node: &str, event: EventId) -> Result<()> {
    let wanted = format!("\"id\":\"{event}\"");
    wait_for(&format!("event {event} in the log of node {node}"), PATIENCE, || {
        let all = stage.lab.wolfpack(node, &["events", "--all-nodes", "--json"]);
        let all = all.map_err(|e| e.to_string())?;
        all.contains(&wanted).then_some(()).ok_or_else(|| "it is not there".to_owned())
    })
    .with_context(|| stage.lab.diagnosis())
}
