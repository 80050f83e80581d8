//! What an idle node costs, at equal detection times.

use std::fmt::Write as _;
use std::time::Duration;

use anyhow::Result;
use serde::Serialize;

use super::corosync::{Corosync, Token};
use super::lab::{Cost, NetLab, costs, median};
use super::ours::{DETECT_145, DETECT_6300, Ours};
use super::{Programs, ratio};

/// What comes before: sessions, first windows, memberships.
const SETTLE: Duration = Duration::from_secs(3);

/// One number of nodes at one detection time; medians over the nodes.
#[derive(Debug, Serialize)]
pub(crate) struct IdleRow {
    nodes: u8,
    detection_ms: u32,
    ours: Option<Side>,
    corosync: Option<Side>,
    /// Why a side has no figures.
    note: String,
}

#[derive(Clone, Copy, Debug, Serialize)]
struct Side {
    cpu_percent: f64,
    rss_mb: f64,
}

fn side(costs: &[Cost]) -> Side {
    Side {
        cpu_percent: median(costs.iter().map(|c| c.cpu_percent).collect()),
        rss_mb: median(costs.iter().map(|c| c.rss_mb).collect()),
    }
}

pub(crate) fn measure(programs: &Programs, nodes: &[u8], span: Duration) -> Result<Vec<IdleRow>> {
    let lab = NetLab::new(nodes.iter().copied().max().unwrap_or(2))?;
    let mut rows = Vec::new();
    for &count in nodes {
        for (detection_ms, token, args) in
            [(6300, Token::Default, DETECT_6300), (145, Token::Short, DETECT_145)]
        {
            eprintln!("    idle: {count} nodes, detection within {detection_ms} ms");
            let mut note = String::new();
            let ours = ours(&lab, programs, count, &args, span);
            let theirs = corosync(&lab, count, token, span, &mut note);
            let mut take = |result: Result<Side>| match result {
                Ok(side) => Some(side),
                Err(e) => {
                    note += &format!("{e:#}; ");
                    None
                }
            };
            let (ours, corosync) = (take(ours), take(theirs));
            rows.push(IdleRow { nodes: count, detection_ms, ours, corosync, note });
        }
    }
    Ok(rows)
}

fn ours(
    lab: &NetLab,
    programs: &Programs,
    count: u8,
    args: &[&str],
    span: Duration,
) -> Result<Side> {
    let ms = format!("ms={}", (span + SETTLE * 20).as_millis());
    let args = [args, &[&ms]].concat();
    let nodes = Ours::start(lab, programs, count, ("idle", "idle"), &args)?;
    nodes.ready()?;
    std::thread::sleep(SETTLE);
    Ok(side(&costs(&nodes.pids()?, span)?))
}

fn corosync(
    lab: &NetLab,
    count: u8,
    token: Token,
    span: Duration,
    note: &mut String,
) -> Result<Side> {
    let nodes = Corosync::start(lab, count, token, true)?;
    std::thread::sleep(SETTLE);
    let before = nodes.memberships();
    let side = side(&costs(&nodes.pids()?, span)?);
    let changes = nodes.memberships() - before;
    if changes > 0 {
        *note += &format!("corosync changed its membership {changes} times while idle; ");
    }
    Ok(side)
}

pub(crate) fn table(rows: &[IdleRow]) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let mut out = String::from(
        "\nIdle node, medians over the nodes (ours: the driver alone; real-time on both sides)\n\n\
         | nodes | detection ms | ours CPU % | Corosync CPU % | ratio | ours MB | Corosync MB | ratio | note |\n\
         |---|---|---|---|---|---|---|---|---|\n",
    );
    for row in rows {
        let figure = |side: Option<Side>, of: fn(Side) -> f64| {
            side.map_or_else(|| "-".to_owned(), |s| format!("{:.2}", of(s)))
        };
        let both = |of: fn(Side) -> f64| match (row.ours, row.corosync) {
            (Some(a), Some(b)) => ratio(of(a), of(b)),
            _ => "-".into(),
        };
        let cpu = |s: Side| s.cpu_percent;
        let rss = |s: Side| s.rss_mb;
        // Writing to a String does not fail.
        let _ = writeln!(
            out,
            "| {} | {} | {} | {} | {} | {} | {} | {} | {} |",
            row.nodes,
            row.detection_ms,
            figure(row.ours, cpu),
            figure(row.corosync, cpu),
            both(cpu),
            figure(row.ours, rss),
            figure(row.corosync, rss),
            both(rss),
            row.note
        );
    }
    out
}
