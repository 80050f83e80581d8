//! `cargo xtask bench core`: global updates through real daemons, durable on every node, beside etcd
//! and Pacemaker on the same machine in the same run; and the simulator's own speed.
//!
//! All clients keep their connections (Pacemaker's command has none), speak JSON, ask the leader, and
//! wait for each answer. All stores are on the same file system, with fsync.

mod etcd;
mod load;
mod ours;
mod pacemaker;

use std::fmt::Write as _;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::{Args, ValueEnum};
use serde::Serialize;

use crate::{setup, step};
use load::Figures;

/// Bytes of a value.
const SIZES: [usize; 2] = [64, 1024];
/// Clients at once.
const CLIENTS: [usize; 2] = [1, 16];

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, ValueEnum)]
enum Part {
    Wolfpack,
    Etcd,
    Pacemaker,
    Simulator,
}

#[derive(Args, Debug)]
pub(crate) struct Options {
    /// Only these parts.
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Part>,
    /// Seconds of each measurement.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,
    /// Take the programs from this directory, instead of building them.
    #[arg(long, value_name = "DIRECTORY")]
    binaries: Option<std::path::PathBuf>,
    /// Print the figures for machines.
    #[arg(long)]
    json: bool,
}

/// One measurement.
#[derive(Debug, Serialize)]
struct Row {
    program: &'static str,
    nodes: u8,
    bytes: usize,
    clients: usize,
    #[serde(flatten)]
    figures: Figures,
}

#[derive(Debug, Default, Serialize)]
struct Report {
    machine: String,
    load_before: String,
    seconds: u64,
    rows: Vec<Row>,
    /// What the simulator says of itself.
    simulator: Vec<String>,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let mut steps = step::Steps::new(3);
    let wanted = |part: Part| options.only.is_empty() || options.only.contains(&part);
    steps.announce("set-up");
    setup::run()?;
    if wanted(Part::Etcd) || wanted(Part::Pacemaker) {
        setup::core_peers()?;
    }
    wolfpack_lab::netns::requirements()?;
    let release = match &options.binaries {
        Some(directory) => {
            steps.announce(&format!("programs of {}", directory.display()));
            directory.clone()
        }
        None => {
            let build = ["build", "--quiet", "--release", "-p", "wolfpack-service", "-p"];
            let rest = ["wolfpack-resmon", "-p", "wolfpack-cli", "-p", "wolfpack-lab", "-p"];
            let all = [&build[..], &rest[..], &["wolfpack-sim", "--bins"]].concat();
            steps.run("release build", "cargo", &all)?;
            step::target_dir()?.parent().context("no target directory")?.join("release")
        }
    };
    steps.announce("measurements");
    let span = Duration::from_secs(options.seconds);
    let loadavg = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let mut report = Report {
        machine: crate::bench::machine(),
        load_before: loadavg.trim().to_owned(),
        seconds: options.seconds,
        ..Report::default()
    };
    if wanted(Part::Wolfpack) {
        for nodes in [2, 3] {
            report.rows.extend(ours::measure(&release, nodes, span)?);
        }
    }
    if wanted(Part::Etcd) {
        report.rows.extend(etcd::measure(span)?);
    }
    if wanted(Part::Pacemaker) {
        for nodes in [2, 3] {
            report.rows.extend(pacemaker::measure(nodes, span)?);
        }
    }
    if wanted(Part::Simulator) {
        for args in [&["--bench", "20"][..], &["--bench-regroup"]] {
            report.simulator.extend(simulator(&release.join("wolfpack-sim"), args)?);
        }
    }
    if options.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        println!("\n{}", table(&report));
    }
    Ok(())
}

fn simulator(program: &std::path::Path, args: &[&str]) -> Result<Vec<String>> {
    let out = std::process::Command::new(program).args(args).output().context("the simulator")?;
    let said = String::from_utf8_lossy(&out.stdout);
    ensure!(out.status.success(), "wolfpack-sim {args:?}: {}: {said}", out.status);
    Ok(said.lines().map(str::to_owned).collect())
}

/// Measures every size with every number of clients.
fn all(
    program: &'static str,
    nodes: u8,
    mut one: impl FnMut(usize, usize) -> Result<Figures>,
) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for bytes in SIZES {
        for clients in CLIENTS {
            let figures = one(bytes, clients).with_context(|| {
                format!("{program}, {nodes} nodes, {bytes} B, {clients} clients")
            })?;
            eprintln!(
                "    {program}, {nodes} nodes, {bytes} B, {clients} clients: {:.0}/s, median {:.2} ms",
                figures.per_second, figures.median_ms
            );
            rows.push(Row { program, nodes, bytes, clients, figures });
        }
    }
    Ok(rows)
}

fn table(report: &Report) -> String {
    let mut out = format!(
        "{}; load before: {}; {} s each.\n\n",
        report.machine, report.load_before, report.seconds
    );
    out += "| program | nodes | value | clients | updates/s | median ms | p99 ms | max ms |\n";
    out += "|---|---|---|---|---|---|---|---|\n";
    for r in &report.rows {
        let f = &r.figures;
        // Writing to a String does not fail.
        let _ = writeln!(
            out,
            "| {} | {} | {} B | {} | {:.0} | {:.2} | {:.2} | {:.1} |",
            r.program, r.nodes, r.bytes, r.clients, f.per_second, f.median_ms, f.p99_ms, f.max_ms
        );
    }
    if !report.simulator.is_empty() {
        let _ = writeln!(out, "\nThe simulator:\n\n{}", report.simulator.join("\n"));
    }
    out
}
