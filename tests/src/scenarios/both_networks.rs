//! Both networks between the nodes fail while clients reach both nodes and both reach the disk:
//! exactly one side keeps or gets the group; the other stops its resources within its lease.

use anyhow::{Context, Result, ensure};
use wolfpack_types::api::ServiceState;

use super::stage::{GROUP, Stage, running};
use crate::clock::{now_us, wait_for};
use crate::lab::PATIENCE;
use crate::network::Wire;

pub(super) fn run(stage: &mut Stage<'_>) -> Result<()> {
    let at = now_us();
    stage.lab.switch.part("a", "b", Wire::Public)?;
    stage.lab.switch.fail(Wire::Private, true)?;
    stage.strike("the nodes cannot hear each other on any network", at);
    let winner = wait_for("one side alone to form a view", PATIENCE, || alone(stage))
        .with_context(|| stage.lab.diagnosis())?;
    let loser = stage.lab.other(winner).name();
    stage.say(&format!("node {winner} won the witness"));
    stage.wait_stopped(loser)?;
    let since = now_us();
    stage.wait_moved(winner, since)?;
    ensure!(running(stage.lab.node(loser))?.is_empty(), "node {loser} runs the application too");
    stage.lab.wait_status(loser, "the loser to know that it is out", |s| {
        (s.state != ServiceState::Member).then_some(())
    })?;
    stage.say(&format!("node {loser} knows that it is out, and runs nothing of the group"));
    stage.lab.switch.heal()?;
    stage.lab.switch.fail(Wire::Private, false)?;
    stage.say("the networks work again");
    stage.lab.wait_members(&["a", "b"])?;
    ensure!(stage.lab.wait_online(loser, GROUP)? == winner, "the group moved when they healed");
    Ok(())
}

/// The node that is a member of a view of its own.
fn alone(stage: &Stage<'_>) -> Result<&'static str, String> {
    let mut seen = Vec::new();
    for node in &stage.lab.nodes {
        let members = match stage.lab.status(node.name()) {
            Ok(s) if s.state == ServiceState::Member && s.stage.is_none() => {
                s.view.map_or_else(Vec::new, |v| v.members)
            }
            Ok(s) => {
                seen.push(format!("{} is {:?}", node.name(), s.state));
                continue;
            }
            Err(e) => {
                seen.push(format!("{}: {e:#}", node.name()));
                continue;
            }
        };
        if members == [node.name()] {
            return Ok(node.name());
        }
        seen.push(format!("{} is a member with {}", node.name(), members.join(", ")));
    }
    Err(seen.join("; "))
}
