//! A busy machine, a flood, a crowd: what the driver makes of them.

use std::fmt::Write as _;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::Serialize;
use serde_json::Value;
use wolfpack_types::Times;
use wolfpack_types::times::Profile;

use super::Programs;
use super::corosync::{Corosync, Token};
use super::lab::{NetLab, Program, costs};
use super::ours::Ours;

const STRESS: [&str; 8] = ["--cpu", "16", "--vm", "4", "--vm-bytes", "1G", "--switch", "4"];
const GARBAGE_RATE: u32 = 200_000;
/// Daemons in the crowd, the measured one included.
const CROWD: u8 = 64;
const PATIENCE: Duration = Duration::from_secs(120);

/// One profile on a busy machine; both nodes together.
#[derive(Debug, Serialize)]
pub(crate) struct SuspicionRow {
    who: String,
    realtime: bool,
    /// Peers taken for unreachable in vain (for Corosync: memberships formed anew).
    false_alarms: u64,
    suspected: u64,
    worst_delay_ms: Option<f64>,
    /// What is said before it happens.
    before: String,
}

#[derive(Debug, Serialize)]
pub(crate) struct FloodRow {
    sent_per_second: f64,
    driver_cpu_percent: f64,
    false_alarms: u64,
}

#[derive(Debug, Serialize)]
pub(crate) struct CrowdRow {
    daemons: u8,
    profile: &'static str,
    driver_cpu_percent: f64,
    rss_mb: f64,
    received_per_second: f64,
}

fn count(value: &Value, key: &str) -> u64 {
    value.get(key).and_then(Value::as_u64).unwrap_or(0)
}

#[expect(clippy::cast_precision_loss, reason = "counts of one run are far below 2^52")]
fn float(n: u64) -> f64 {
    n as f64
}

/// All profiles with and without real-time scheduling at the same time, and Corosync beside them.
pub(crate) fn suspicions(programs: &Programs, span: Duration) -> Result<Vec<SuspicionRow>> {
    let lab = NetLab::new(2)?;
    let mut all = Vec::new();
    let mut port = 3400;
    for profile in Profile::ALL {
        for realtime in [true, false] {
            port += 1;
            let args = [
                format!("profile={}", profile.name()),
                format!("rt={}", u8::from(realtime)),
                format!("port={port}"),
                format!("ms={}", span.as_millis()),
            ];
            let args: Vec<&str> = args.iter().map(String::as_str).collect();
            let nodes = Ours::start(&lab, programs, 2, ("idle", "idle"), &args)?;
            nodes.ready()?;
            all.push((profile, realtime, nodes));
        }
    }
    let peers = [(Token::Default, true), (Token::Short, true)];
    let peers = peers.map(|(token, realtime)| {
        // One after the other: they share ports, so each is given a lab of its own.
        let lab = NetLab::new(2)?;
        let cluster = Corosync::start(&lab, 2, token, realtime)?;
        let before = cluster.memberships();
        Ok::<_, anyhow::Error>((token, realtime, cluster, before, lab))
    });
    let stress = stress(&lab, span)?;
    let mut rows = Vec::new();
    for (profile, realtime, nodes) in &all {
        rows.push(row(*profile, *realtime, nodes, span)?);
    }
    for peer in peers {
        let (token, realtime, cluster, before, _lab) = peer?;
        rows.push(SuspicionRow {
            who: format!("Corosync, token {token:?}"),
            realtime,
            false_alarms: u64::try_from(cluster.memberships().saturating_sub(before))?,
            suspected: 0,
            worst_delay_ms: None,
            before: String::new(),
        });
    }
    drop(stress);
    Ok(rows)
}

fn stress(lab: &NetLab, span: Duration) -> Result<Program> {
    let mut command = Command::new("stress-ng");
    command.args(STRESS).args(["--timeout", &format!("{}s", span.as_secs())]);
    command.current_dir(&lab.dir);
    Program::start("stress-ng", command, &lab.dir.join("stress"))
}

fn row(profile: Profile, realtime: bool, nodes: &Ours, span: Duration) -> Result<SuspicionRow> {
    let results: Vec<Value> =
        nodes.nodes.iter().map(|n| n.result(span + PATIENCE)).collect::<Result<_>>()?;
    let sum = |key| results.iter().map(|r| count(r, key)).sum();
    let worst = results.iter().map(|r| count(r, "worst_delay_us")).max().unwrap_or(0);
    let at = |key: &str| results.iter().filter_map(|r| r.get(key)?.as_u64()).min();
    let times = Times::of(profile);
    let mut before = Vec::new();
    if !realtime && times.needs_realtime() {
        before.push("the daemon refuses to start".to_owned());
    }
    if !realtime {
        before.push("warned at the start (no real-time scheduling)".to_owned());
    }
    match (at("unsafe_at_ms"), at("unreachable_at_ms")) {
        (Some(warned), Some(alarm)) if warned <= alarm => {
            before.push(format!("warned by measured delays {} ms before", alarm - warned));
        }
        (Some(_), None) => before.push("warned by measured delays".into()),
        (_, Some(_)) => before.push("not warned by measured delays before".into()),
        (None, None) => {}
    }
    Ok(SuspicionRow {
        who: profile.name().into(),
        realtime,
        false_alarms: sum("unreachable"),
        suspected: sum("suspected"),
        worst_delay_ms: Some(float(worst) / 1000.0),
        before: before.join("; "),
    })
}

/// Two nodes, and a third machine that sends garbage to the first.
pub(crate) fn flood(programs: &Programs, span: Duration) -> Result<Vec<FloodRow>> {
    let lab = NetLab::new(3)?;
    let ms = format!("ms={}", (span + Duration::from_secs(3)).as_millis());
    let nodes = Ours::start(&lab, programs, 2, ("idle", "idle"), &[&ms, "profile=standard"])?;
    nodes.ready()?;
    let mut command = lab.nodes[2].command(&programs.bench)?;
    command.args(["mode=garbage", "to=10.88.0.1", &format!("rate={GARBAGE_RATE}")]);
    command.arg(format!("ms={}", (span + Duration::from_secs(1)).as_millis()));
    let garbage = Program::start("the flood", command, &lab.dir.join("flood"))?;
    garbage.ready(PATIENCE)?;
    let cost = costs(&nodes.pids()?[..1], span)?;
    let sent = garbage.result(PATIENCE)?;
    let mut alarms = 0;
    for node in &nodes.nodes {
        let result = node.result(PATIENCE)?;
        alarms += count(&result, "unreachable") + count(&result, "suspected");
    }
    let seconds = sent.get("seconds").and_then(Value::as_f64).context("no seconds")?;
    Ok(vec![FloodRow {
        sent_per_second: float(count(&sent, "sent") - count(&sent, "refused")) / seconds,
        driver_cpu_percent: cost[0].cpu_percent,
        false_alarms: alarms,
    }])
}

/// One driver, and all the others of the largest cluster in another process, over loopback of one
/// namespace.
pub(crate) fn crowd(programs: &Programs, span: Duration) -> Result<Vec<CrowdRow>> {
    let lab = NetLab::new(1)?;
    let nets = "nets=lo:127.0.8.,lo:127.0.9.";
    let nodes = format!("nodes={CROWD}");
    let start = |what: &str, args: &[&str]| -> Result<Program> {
        let mut command = lab.nodes[0].command(&programs.bench)?;
        command.args([nets, &nodes, "profile=standard"]).args(args);
        Program::start(what, command, &lab.dir.join("crowd"))
    };
    let life = format!("ms={}", (span + Duration::from_secs(30)).as_millis());
    let last = format!("last={CROWD}");
    let others = start("the crowd", &["mode=crowd", "id=2", &last, &life])?;
    let one =
        start("one node", &["mode=idle", "id=1", &format!("ms={}", span.as_millis() + 2000)])?;
    one.ready(PATIENCE)?;
    let cost = costs(&[one.pid()?], span)?;
    let result = one.result(PATIENCE)?;
    drop(others);
    Ok(vec![CrowdRow {
        daemons: CROWD,
        profile: "standard",
        driver_cpu_percent: cost[0].cpu_percent,
        rss_mb: cost[0].rss_mb,
        received_per_second: float(count(&result, "received")) / (span.as_secs_f64() + 2.0),
    }])
}

pub(crate) fn table(suspicions: &[SuspicionRow], flood: &[FloodRow], crowd: &[CrowdRow]) -> String {
    let mut out = String::new();
    if !suspicions.is_empty() {
        out += &format!(
            "\nFalse suspicions under stress-ng {}, all at once (ours: the driver alone)\n\n\
             | who | real-time | false alarms | suspected | worst delay ms | said before |\n|---|---|---|---|---|---|\n",
            STRESS.join(" ")
        );
    }
    // Writing to a String does not fail.
    for r in suspicions {
        let _ = writeln!(
            out,
            "| {} | {} | {} | {} | {} | {} |",
            r.who,
            r.realtime,
            r.false_alarms,
            r.suspected,
            r.worst_delay_ms.map_or_else(|| "-".into(), |ms| format!("{ms:.1}")),
            r.before
        );
    }
    for r in flood {
        let _ = writeln!(
            out,
            "\nFlood: {:.0} garbage datagrams a second cost the driver {:.1} % of a core; false \
             suspicions: {}",
            r.sent_per_second, r.driver_cpu_percent, r.false_alarms
        );
    }
    for r in crowd {
        let _ = writeln!(
            out,
            "\nCrowd: {} daemons, profile {}: {:.0} datagrams a second cost one driver {:.2} % of a \
             core; {:.1} MB",
            r.daemons, r.profile, r.received_per_second, r.driver_cpu_percent, r.rss_mb
        );
    }
    out
}
