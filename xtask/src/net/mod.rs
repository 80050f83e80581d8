//! `cargo xtask bench net`: the network driver beside Corosync (and, for a whole failover, beside
//! keepalived), in the same namespaces and in the same run.
//!
//! Our side is the driver alone (`netdrv/examples/wolfpack-net-bench.rs`) where the driver is
//! measured, and whole daemons where a failover is.

mod corosync;
mod idle;
pub(crate) mod lab;
mod messages;
mod ours;
mod power;
mod stress;

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use serde::Serialize;

use crate::{setup, step};
use idle::IdleRow;
use messages::MessageRow;
use power::PowerRow;
use stress::{CrowdRow, FloodRow, SuspicionRow};

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, ValueEnum)]
enum Part {
    /// Processor time and memory of idle nodes at equal detection times.
    Idle,
    /// Ordered reliable messages to all: rate and round trip.
    Messages,
    /// False suspicions on a machine under stress.
    Suspicions,
    /// Garbage to the port.
    Flood,
    /// Many daemons' heartbeats against one driver.
    Crowd,
    /// Power cut to first answer with profile turbo, beside keepalived.
    Power,
}

#[derive(Args, Debug)]
pub(crate) struct Options {
    /// Only these parts.
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Part>,
    /// Seconds of each span in which something is measured; without it 20 (60 for suspicions).
    #[arg(long)]
    seconds: Option<u64>,
    /// Numbers of nodes for idle costs.
    #[arg(long, value_delimiter = ',', default_value = "2,3,8,16")]
    nodes: Vec<u8>,
    /// Power cuts of each kind.
    #[arg(long, default_value_t = 6)]
    n: usize,
    /// Debug builds: only to see that it works; the figures are worth nothing.
    #[arg(long)]
    debug: bool,
    /// Print the figures for machines.
    #[arg(long)]
    json: bool,
}

impl Options {
    fn wants(&self, part: Part) -> bool {
        self.only.is_empty() || self.only.contains(&part)
    }
}

/// Everything that was measured.
#[derive(Debug, Default, Serialize)]
struct Report {
    machine: String,
    load_before: String,
    idle: Vec<IdleRow>,
    messages: Vec<MessageRow>,
    suspicions: Vec<SuspicionRow>,
    flood: Vec<FloodRow>,
    crowd: Vec<CrowdRow>,
    power: Vec<PowerRow>,
    /// Parts that could not be measured, and why.
    failed: Vec<String>,
}

/// Where our programs are.
#[derive(Clone, Debug)]
pub(crate) struct Programs {
    pub(crate) release: PathBuf,
    pub(crate) bench: PathBuf,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let mut steps = step::Steps::new(3);
    steps.announce("set-up");
    setup::run()?;
    setup::peers()?;
    wolfpack_lab::netns::requirements()?;
    let profile = if options.debug { "dev" } else { "release" };
    let build = ["build", "--quiet", "--profile", profile];
    let bins = ["-p", "wolfpack-service", "-p", "wolfpack-resmon", "-p", "wolfpack-cli"];
    let rest = ["-p", "wolfpack-lab", "--bins"];
    let example = ["-p", "wolfpack-netdrv", "--examples"];
    steps.run("build", "cargo", &[&build[..], &example[..]].concat())?;
    if options.wants(Part::Power) {
        step::run("cargo", &[&build[..], &bins[..], &rest[..]].concat())?;
    }
    let place = if options.debug { "debug" } else { "release" };
    let release = step::target_dir()?.parent().context("no target directory")?.join(place);
    let bench = release.join("examples/wolfpack-net-bench");
    if !bench.is_file() {
        bail!("{} was not built", bench.display());
    }
    let programs = Programs { release, bench };
    steps.announce("measurements");
    let report = measure(options, &programs)?;
    if options.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        println!("\n{}", table(&report));
    }
    if !report.failed.is_empty() {
        bail!("not everything was measured:\n  {}", report.failed.join("\n  "));
    }
    Ok(())
}

fn measure(options: &Options, programs: &Programs) -> Result<Report> {
    let span = |default: u64| std::time::Duration::from_secs(options.seconds.unwrap_or(default));
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let mut report = Report {
        machine: crate::bench::machine(),
        load_before: load.trim().to_owned(),
        ..Report::default()
    };
    let failed = &mut report.failed;
    // A part that fails is said in the report; the others are measured all the same.
    macro_rules! part {
        ($part:expr, $name:literal, $into:ident, $measure:expr) => {
            if options.wants($part) {
                eprintln!("    {}", $name);
                match $measure {
                    Ok(rows) => report.$into = rows,
                    Err(e) => failed.push(format!("{}: {e:#}", $name)),
                }
            }
        };
    }
    part!(Part::Idle, "idle", idle, idle::measure(programs, &options.nodes, span(20)));
    part!(Part::Messages, "messages", messages, messages::measure(programs, span(3)));
    part!(Part::Suspicions, "suspicions", suspicions, stress::suspicions(programs, span(60)));
    part!(Part::Flood, "flood", flood, stress::flood(programs, span(20)));
    part!(Part::Crowd, "crowd", crowd, stress::crowd(programs, span(20)));
    part!(Part::Power, "power cuts", power, power::measure(programs, options.n));
    Ok(report)
}

/// A sentence for each of two figures and their ratio.
fn ratio(ours: f64, theirs: f64) -> String {
    if theirs > 0.0 { format!("{:.2}", ours / theirs) } else { "-".into() }
}

fn table(report: &Report) -> String {
    let mut out = format!("{}; load before: {}\n", report.machine, report.load_before);
    out += &idle::table(&report.idle);
    out += &messages::table(&report.messages);
    out += &stress::table(&report.suspicions, &report.flood, &report.crowd);
    out += &power::table(&report.power);
    for failed in &report.failed {
        out += &format!("\nNOT MEASURED: {failed}\n");
    }
    out
}
