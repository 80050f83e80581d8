//! SIGKILL of service and guard together, and nobody restarts them: no process is left that could
//! act at lease end, and the application may even live on. The kernel alone ends the answers.

use anyhow::{Result, ensure};
use nix::sys::signal::Signal;

use super::stage::Stage;
use crate::clock::now_us;
use crate::lab::cluster_address;
use crate::netns::output;
use crate::network::Wire;
use crate::node::Daemon;

pub(super) fn run(stage: &mut Stage<'_>) -> Result<()> {
    let owner = stage.owner("a")?;
    let other = stage.lab.other(&owner).name();
    let node = stage.lab.node(&owner);
    let both = [Daemon::Guard, Daemon::Service];
    for daemon in both {
        node.daemon(daemon)?.set_restart(false);
    }
    // Frozen first, so that neither sees the other die.
    let at = now_us();
    for signal in [Signal::SIGSTOP, Signal::SIGKILL] {
        for daemon in both {
            node.signal(daemon, signal)?;
        }
    }
    let mac = node.mac(Wire::Public);
    stage.strike(&format!("service and guard of node {owner}, the owner, are killed"), at);
    stage.wait_moved(other, at)?;
    let last = stage.lab.address.last_answer_of(mac).unwrap_or(0);
    let first = stage.lab.client.outage(at).map_or(0, |o| o.first.at_us);
    ensure!(last < first, "node {owner} still answered ARP when node {other} served");
    let because = stage.because(other)?;
    ensure!(!because.contains("proved"), "nobody was left to prove anything: {because}");
    let shown = output("ip", &["-n", stage.lab.node(&owner).netns()?.name(), "addr"], None)?;
    let there = shown.contains(&cluster_address().to_string());
    stage.say(&format!(
        "no process of node {owner} acted; the address is {} its interface, and the kernel lets \
         nothing out",
        if there { "still on" } else { "expired from" }
    ));
    for daemon in both {
        stage.lab.node(&owner).daemon(daemon)?.set_restart(true);
    }
    stage.say(&format!("service and guard of node {owner} may start again"));
    stage.wait_stopped(&owner)?;
    stage.lab.wait_members(&["a", "b"])?;
    stage.say(&format!("node {owner} cleaned up what was left, and is a member"));
    Ok(())
}
