//! `cargo xtask bench failover`: how long a client has no answer, n times for each kind of fault,
//! split into stages; and what an idle node needs. Release builds, one lab for all runs.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Args;
use nix::sys::signal::Signal;
use serde::Serialize;
use wolfpack_lab::clock::now_us;
use wolfpack_lab::lab::LabOptions;
use wolfpack_lab::node::{Daemon, LabQuorum};
use wolfpack_lab::scenarios::{GROUP, Stage};
use wolfpack_lab::timeline::{Split, Timeline};
use wolfpack_types::times::Profile;

use crate::idle::{self, Needs};
use crate::{ProfileName, setup, step};

const IDLE_SPAN: Duration = Duration::from_secs(20);

#[derive(Args, Debug)]
pub(crate) struct Options {
    /// Runs of each kind.
    #[arg(long, default_value_t = 10)]
    n: usize,
    /// The cluster's times.
    #[arg(long, value_enum, default_value = "standard")]
    profile: ProfileName,
    /// Print the figures for machines.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    PowerCut,
    DaemonKill,
    PlannedMove,
}

impl Kind {
    const ALL: [Self; 3] = [Self::PowerCut, Self::DaemonKill, Self::PlannedMove];

    const fn name(self) -> &'static str {
        match self {
            Self::PowerCut => "power cut",
            Self::DaemonKill => "daemon kill",
            Self::PlannedMove => "planned move",
        }
    }
}

/// Least, middle and greatest of some figures, in milliseconds.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
struct Spread {
    min: f64,
    median: f64,
    max: f64,
}

#[derive(Debug, Serialize)]
struct Row {
    fault: &'static str,
    n: usize,
    outage_ms: Option<Spread>,
    detection_ms: Option<Spread>,
    witness_ms: Option<Spread>,
    regroup_ms: Option<Spread>,
    wait_ms: Option<Spread>,
    online_ms: Option<Spread>,
    answer_ms: Option<Spread>,
}

#[derive(Debug, Serialize)]
struct Report {
    profile: String,
    machine: String,
    rows: Vec<Row>,
    idle: Vec<Needs>,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let mut steps = step::Steps::new(3);
    steps.announce("set-up");
    setup::run()?;
    wolfpack_lab::netns::requirements()?;
    let build = ["build", "--quiet", "--release", "-p", "wolfpack-service", "-p"];
    let rest = ["wolfpack-resmon", "-p", "wolfpack-cli", "-p", "wolfpack-lab", "--bins"];
    steps.run("release build", "cargo", &[&build[..], &rest[..]].concat())?;
    steps.announce(&format!("{} runs of {} kinds", options.n, Kind::ALL.len()));
    let report = measure(options)?;
    if options.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        println!("\n{}", table(&report));
    }
    Ok(())
}

fn measure(options: &Options) -> Result<Report> {
    let mut say = |line: &str| eprintln!("{line}");
    let release = step::target_dir()?.parent().context("no target directory")?.join("release");
    let lab = LabOptions {
        profile: options.profile.into(),
        binaries: Some(release),
        ..LabOptions::default()
    };
    let mut stage = Stage::new(lab, &mut say)?;
    stage.make_cluster()?;
    let idle = idle::measure(&daemons(&stage)?, IDLE_SPAN)?;
    let mut rows = Vec::new();
    for kind in Kind::ALL {
        let mut stories = Vec::new();
        for i in 1..=options.n {
            let story = strike(&mut stage, kind)
                .with_context(|| format!("{} {i}: {}", kind.name(), stage.keep_logs("bench")))?;
            let outage = story.outage_ms.context("the client saw no outage")?;
            stage.say(&format!("{} {i}/{}: {outage:.0} ms", kind.name(), options.n));
            stories.push(story);
        }
        rows.push(row(kind, &stories));
    }
    stage.lab.check_watchers()?;
    let profile = format!("{:?}", options.profile).to_lowercase();
    Ok(Report { profile, machine: machine(), rows, idle })
}

fn daemons(stage: &Stage<'_>) -> Result<Vec<(String, i32)>> {
    let mut all = Vec::new();
    for node in &stage.lab.nodes {
        let name = node.name();
        all.push((format!("wolfpackd ({name})"), node.daemon(Daemon::Service)?.pid()?));
        all.push((format!("guard ({name})"), node.daemon(Daemon::Guard)?.pid()?));
        // The monitor runs only where a service has started one.
        if let Ok(pid) = node.monitor() {
            all.push((format!("monitor ({name})"), pid));
        }
    }
    Ok(all)
}

/// Power cuts of the serving node through whole daemons: how long the client had no answer, each.
///
/// # Errors
/// What did not come about.
pub(crate) fn power_cuts(
    (nodes, quorum): (u8, LabQuorum),
    profile: Profile,
    release: PathBuf,
    n: usize,
) -> Result<Vec<Timeline>> {
    let mut say = |line: &str| eprintln!("{line}");
    let lab =
        LabOptions { nodes, quorum, profile, binaries: Some(release), ..LabOptions::default() };
    let mut stage = Stage::new(lab, &mut say)?;
    stage.make_cluster()?;
    let mut stories = Vec::new();
    for i in 1..=n {
        let story = strike(&mut stage, Kind::PowerCut)
            .with_context(|| format!("power cut {i}: {}", stage.keep_logs("bench")))?;
        eprintln!("{}", story.text());
        stories.push(story);
    }
    stage.lab.check_watchers()?;
    Ok(stories)
}

/// One fault, from node `a` serving to node `a` serving again.
fn strike(stage: &mut Stage<'_>, kind: Kind) -> Result<Timeline> {
    if kind == Kind::PowerCut {
        stage.rest();
    }
    stage.wait_steady("a")?;
    let at = match kind {
        Kind::PowerCut => stage.lab.power_cut("a")?,
        Kind::DaemonKill => {
            let at = now_us();
            stage.lab.node("a").signal(Daemon::Service, Signal::SIGKILL)?;
            at
        }
        Kind::PlannedMove => {
            let at = now_us();
            stage.lab.wolfpack("b", &["group", "move", GROUP, "--to", "b"])?;
            at
        }
    };
    stage.strike(kind.name(), at);
    stage.wait_moved("b", at)?;
    let story = stage.timeline();
    ensure!(story.answered_after.as_deref() == Some("b"), "node b did not answer first");
    if kind == Kind::PowerCut {
        stage.lab.power_on("a")?;
    }
    stage.lab.wait_members(&stage.names())?;
    stage.move_group("a")?;
    Ok(story)
}

fn row(kind: Kind, stories: &[Timeline]) -> Row {
    let of = |part: fn(&Split) -> Option<f64>| {
        spread(stories.iter().filter_map(|s| part(&s.split)).collect())
    };
    Row {
        fault: kind.name(),
        n: stories.len(),
        outage_ms: spread(stories.iter().filter_map(|s| s.outage_ms).collect()),
        detection_ms: of(|s| s.detection_ms),
        witness_ms: of(|s| s.witness_ms),
        regroup_ms: of(|s| s.regroup_ms),
        wait_ms: of(|s| s.wait_ms),
        online_ms: of(|s| s.online_ms),
        answer_ms: of(|s| s.answer_ms),
    }
}

fn spread(mut figures: Vec<f64>) -> Option<Spread> {
    figures.sort_by(f64::total_cmp);
    let (min, max) = (*figures.first()?, *figures.last()?);
    let middle = figures.len() / 2;
    let median = if figures.len() % 2 == 1 {
        figures[middle]
    } else {
        f64::midpoint(figures[middle - 1], figures[middle])
    };
    Some(Spread { min, median, max })
}

/// The machine, in a line.
pub(crate) fn machine() -> String {
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    format!("{cores} cores, Linux {}", kernel.trim())
}

fn table(report: &Report) -> String {
    let mut out = format!("Profile {}, {}.\n\n", report.profile, report.machine);
    out += "| fault | n | outage min / median / max ms | detection | witness | regroup | wait | online | answer |\n";
    out += "|---|---|---|---|---|---|---|---|---|\n";
    let middle = |s: Option<Spread>| s.map_or_else(|| "-".into(), |s| format!("{:.0}", s.median));
    for r in &report.rows {
        let whole = r.outage_ms.map_or_else(
            || "-".into(),
            |s| format!("{:.0} / {:.0} / {:.0}", s.min, s.median, s.max),
        );
        let parts =
            [r.detection_ms, r.witness_ms, r.regroup_ms, r.wait_ms, r.online_ms, r.answer_ms];
        let parts = parts.map(middle).join(" | ");
        // Writing to a String does not fail.
        let _ = writeln!(out, "| {} | {} | {whole} | {parts} |", r.fault, r.n);
    }
    out +=
        "\nThe stages are medians in ms, each from the end of the one before it that occurred.\n";
    out += "\n| idle process | CPU % of a core | resident MB |\n|---|---|---|\n";
    for n in &report.idle {
        let _ = writeln!(out, "| {} | {:.2} | {:.1} |", n.program, n.cpu_percent, n.rss_mb);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_even_and_odd_counts() {
        let s = spread(vec![3.0, 1.0, 2.0]).unwrap();
        assert_eq!((s.min, s.median, s.max), (1.0, 2.0, 3.0));
        assert_eq!(spread(vec![1.0, 2.0]).unwrap().median, 1.5);
        assert_eq!(spread(vec![]), None);
    }
}
