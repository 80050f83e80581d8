//! Everything that can befall the networks between the nodes and must not befall the group: while
//! one path works, in both directions, nothing moves and no view changes.

use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use wolfpack_types::api::{NetworkStatus, Reply, Request};
use wolfpack_types::config::CLUSTER_PORT;
use wolfpack_types::event::EventKind;
use wolfpack_types::heartbeat::Reach;
use wolfpack_types::networks::{InterfaceState, NetworkState};

use super::stage::{GROUP, Stage};
use crate::clock::{now_us, wait_for};
use crate::lab::PATIENCE;
use crate::network::Wire;
use crate::shim::{Badness, Shim};

/// Longer than any fail-over would take to begin.
const LONG_ENOUGH: Duration = Duration::from_secs(4);

/// The two networks between the nodes.
const BETWEEN: [Wire; 2] = [Wire::Private, Wire::Public];

/// Each of the two networks is lost and restored, and each end of a cable: states in words, no
/// fail-over.
pub(super) fn loss(stage: &mut Stage<'_>) -> Result<()> {
    wait_state(stage, Wire::Private, NetworkState::Up)?;
    wait_state(stage, Wire::Public, NetworkState::Up)?;
    for wire in BETWEEN {
        let name = wire.name();
        undisturbed(stage, &format!("network '{name}' fails and comes back"), |stage| {
            let at = now_us();
            stage.lab.switch.fail(wire, true)?;
            let event = stage.wait_event("b", "network-state", at, |e| {
                matches!(e, EventKind::NetworkState { name: n, state: NetworkState::Down, .. } if n == name)
            })?;
            stage.say(&format!("node b says: {}", event.event.text));
            ensure!(
                event.event.text.contains("while all hear each other over"),
                "the switch is not told from the nodes: {}",
                event.event.text
            );
            let at = now_us();
            stage.lab.switch.fail(wire, false)?;
            stage.wait_event("b", "network-state", at, |e| {
                matches!(e, EventKind::NetworkState { name: n, state: NetworkState::Up, .. } if n == name)
            })?;
            Ok(())
        })?;
    }
    undisturbed(stage, "one direction of the private network is lost", |stage| {
        stage.lab.switch.mute("a", "b", Wire::Private)?;
        let found = wait_state(stage, Wire::Private, NetworkState::Down)?;
        ensure!(found.why.contains("though"), "the direction is not named: {}", found.why);
        stage.lab.switch.heal()?;
        wait_state(stage, Wire::Private, NetworkState::Up)?;
        Ok(())
    })
}

/// Loss, disorder, repetition, a flood.
pub(super) fn trouble(stage: &mut Stage<'_>) -> Result<()> {
    undisturbed(stage, "30 % of all cluster datagrams are lost", |stage| {
        for wire in BETWEEN {
            stage.lab.switch.lose(wire, CLUSTER_PORT, 30)?;
        }
        wait_path(stage, "loss of about 30 %", |path| (150..450).contains(&path.loss_permille))?;
        stage.lab.switch.heal()
    })?;
    undisturbed(
        stage,
        "datagrams are late, out of order, twice, and one in ten is lost",
        |stage| {
            let badness = Badness { lost: 100, twice: 200, late_us: 300_000 };
            let mut shims = Vec::new();
            for wire in BETWEEN {
                for (from, to) in [(("a", 1), ("b", 2)), (("b", 2), ("a", 1))] {
                    let switch = &stage.lab.switch;
                    shims.push(Shim::start(switch, wire, from, to, CLUSTER_PORT, badness)?);
                }
            }
            wait_path(stage, "heartbeats out of order", |path| path.reordered > 10)?;
            for shim in &shims {
                let [taken, overtaken] =
                    [&shim.counts.taken, &shim.counts.overtaken].map(|c| c.load(Ordering::Relaxed));
                ensure!(taken > 20 && overtaken > 0, "the wire was not bad: {:?}", shim.counts);
            }
            drop(shims);
            stage.lab.switch.heal()
        },
    )?;
    undisturbed(stage, "garbage comes as fast as one thread can send it", |stage| {
        let node = stage.lab.node("b");
        let sent = crate::intruder::flood(
            &stage.lab.switch,
            Wire::Private,
            1,
            (node.name(), node.host()),
            CLUSTER_PORT,
            LONG_ENOUGH,
        )?;
        stage.say(&format!("{sent} datagrams of garbage in {LONG_ENOUGH:.0?}"));
        ensure!(sent > 10_000, "that was no flood: {sent}");
        Ok(())
    })
}

/// Interfaces change under the running driver.
pub(super) fn interfaces(stage: &mut Stage<'_>) -> Result<()> {
    undisturbed(stage, "the private network has an MTU of 1280", |stage| {
        for node in ["a", "b"] {
            stage.lab.node(node).netns()?.ip("link set private mtu 1280")?;
        }
        // Messages go over the private network first: a change must get through.
        stage.command("a", &["group", "create", "extra"])?;
        stage.command("a", &["group", "delete", "extra"])?;
        for node in ["a", "b"] {
            stage.lab.node(node).netns()?.ip("link set private mtu 1500")?;
        }
        Ok(())
    })?;
    undisturbed(stage, "an interface is removed and made anew", |stage| {
        let at = now_us();
        stage.lab.switch.netns().ip("link del b-private")?;
        wait_broken_interface(stage, at)?;
        let (node, at) = (stage.lab.node("b"), now_us());
        stage.lab.switch.plug(node.netns()?, "b", Wire::Private, node.host())?;
        wait_mended_interface(stage, at)
    })?;
    undisturbed(stage, "an address is taken away and given back", |stage| {
        let node = stage.lab.node("b");
        let address = node.address(Wire::Private);
        let at = now_us();
        node.netns()?.ip(&format!("addr del {address}/24 dev private"))?;
        wait_state(stage, Wire::Private, NetworkState::Down)?;
        stage.lab.node("b").netns()?.ip(&format!("addr add {address}/24 dev private"))?;
        wait_mended_interface(stage, at)
    })?;
    undisturbed(stage, "a cable is pulled and plugged in", |stage| {
        let at = now_us();
        stage.lab.switch.cable("b", Wire::Private, false)?;
        wait_broken_interface(stage, at)?;
        let at = now_us();
        stage.lab.switch.cable("b", Wire::Private, true)?;
        wait_mended_interface(stage, at)
    })
}

/// The network is down, and the interface of node b is to blame.
fn wait_broken_interface(stage: &mut Stage<'_>, since_us: u64) -> Result<()> {
    let event = stage.wait_event("a", "interface-state", since_us, |e| {
        matches!(e, EventKind::InterfaceState { node, state: InterfaceState::Failed, .. } if node.get() == 2)
    })?;
    stage.say(&format!("node a says: {}", event.event.text));
    Ok(())
}

fn wait_mended_interface(stage: &Stage<'_>, since_us: u64) -> Result<()> {
    stage.wait_event("a", "interface-state", since_us, |e| {
        matches!(e, EventKind::InterfaceState { node, state: InterfaceState::Up, .. } if node.get() == 2)
    })?;
    wait_state(stage, Wire::Private, NetworkState::Up)?;
    Ok(())
}

/// Does something to the networks; then everything must be as it was: owner, view, nobody was taken
/// for unreachable, and the client was answered by the owner alone.
fn undisturbed(
    stage: &mut Stage<'_>,
    what: &str,
    act: impl FnOnce(&mut Stage<'_>) -> Result<()>,
) -> Result<()> {
    let owner = stage.owner("a")?;
    let ballot = view(stage, "a")?;
    let at = now_us();
    stage.strike(what, at);
    act(stage).with_context(|| what.to_owned())?;
    stage.let_pass(LONG_ENOUGH);
    for node in ["a", "b"] {
        ensure!(view(stage, node)? == ballot, "{what}: there was a regroup");
        ensure!(stage.lab.wait_online(node, GROUP)? == owner, "{what}: the group moved");
        let unreachable = stage.lab.node(node).event_since(at, |e| {
            matches!(e, EventKind::NodeReach { reach: Reach::Unreachable, .. })
        });
        ensure!(unreachable.is_none(), "{what}: a false alarm on node {node}: {unreachable:?}");
    }
    stage.wait_steady(&owner)?;
    let strangers = stage.lab.client.answers_since(at).into_iter().find(|a| a.node != owner);
    ensure!(strangers.is_none(), "{what}: another node answered: {strangers:?}");
    stage.say("nothing has moved");
    Ok(())
}

fn view(stage: &Stage<'_>, node: &str) -> Result<Option<String>> {
    Ok(stage.lab.status(node)?.view.map(|v| v.ballot))
}

fn networks(stage: &Stage<'_>, node: &str) -> Result<Vec<NetworkStatus>> {
    let socket = stage.lab.node(node).socket();
    let mut client = wolfpack_client::Client::connect(&socket, Duration::from_secs(10))?;
    match client.request(&Request::NetworkStatus { network: None, paths: true })? {
        Reply::Networks { networks, .. } => Ok(networks),
        other => anyhow::bail!("the question for networks was answered by {other:?}"),
    }
}

/// Waits until node b shows this state of a network.
fn wait_state(stage: &Stage<'_>, wire: Wire, wanted: NetworkState) -> Result<NetworkStatus> {
    let what = format!("network '{}' to be {wanted}", wire.name());
    let found = wait_for(&what, PATIENCE, || {
        let all = networks(stage, "b").map_err(|e| format!("{e:#}"))?;
        let found = all.into_iter().find(|n| n.name == wire.name());
        found.filter(|n| n.state == Some(wanted)).ok_or_else(|| "it is not".to_owned())
    });
    found.with_context(|| stage.lab.diagnosis())
}

/// Waits until every path of node b shows something.
fn wait_path(
    stage: &Stage<'_>,
    what: &str,
    wanted: impl Fn(&wolfpack_types::api::PathDetail) -> bool,
) -> Result<()> {
    wait_for(what, PATIENCE, || {
        let all = networks(stage, "b").map_err(|e| format!("{e:#}"))?;
        let paths: Vec<_> = all.iter().flat_map(|n| &n.paths).collect();
        if !paths.is_empty() && paths.iter().all(|path| wanted(path)) {
            return Ok(());
        }
        Err(format!("the paths are {paths:?}"))
    })
}
