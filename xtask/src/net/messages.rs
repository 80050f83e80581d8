//! Ordered reliable messages to all nodes, encrypted on both sides: how many a second from one node,
//! and how long one takes. Ours is acknowledged by every receiver's program; Corosync's is over when
//! the sender's own copy is delivered in the agreed order.

use std::fmt::Write as _;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::Serialize;
use serde_json::Value;

use super::corosync::{Corosync, Token};
use super::lab::NetLab;
use super::ours::Ours;
use super::{Programs, ratio};

/// Round trips back to back, and after a pause of 50 ms each.
const TRIPS: [(u32, u32); 2] = [(3000, 0), (60, 50)];
const SIZES: [u32; 3] = [64, 1024, 8192];
const PATIENCE: Duration = Duration::from_secs(120);

/// One number of nodes and size.
#[derive(Debug, Serialize)]
pub(crate) struct MessageRow {
    nodes: u8,
    bytes: u32,
    ours: Side,
    corosync: Side,
}

#[derive(Debug, Default, Serialize)]
struct Side {
    per_second: f64,
    /// Back to back, then after 50 ms idle.
    p50_us: [f64; 2],
    p99_us: [f64; 2],
}

pub(crate) fn measure(programs: &Programs, span: Duration) -> Result<Vec<MessageRow>> {
    let lab = NetLab::new(3)?;
    let mut rows = Vec::new();
    for nodes in [2, 3] {
        let corosync = Corosync::start(&lab, nodes, Token::Default, true)?;
        for bytes in SIZES {
            eprintln!("    messages: {nodes} nodes, {bytes} bytes: Corosync");
            let theirs = corosync_side(&lab, &corosync, nodes, bytes, span)?;
            rows.push(MessageRow { nodes, bytes, ours: Side::default(), corosync: theirs });
        }
        drop(corosync);
        for row in rows.iter_mut().filter(|row| row.nodes == nodes) {
            eprintln!("    messages: {nodes} nodes, {} bytes: ours", row.bytes);
            row.ours = our_side(&lab, programs, nodes, row.bytes, span)?;
        }
    }
    Ok(rows)
}

fn number(value: &Value, key: &str) -> Result<f64> {
    value.get(key).and_then(Value::as_f64).with_context(|| format!("no {key} in {value}"))
}

fn our_side(
    lab: &NetLab,
    programs: &Programs,
    nodes: u8,
    bytes: u32,
    span: Duration,
) -> Result<Side> {
    let run = |mode: &str, extra: &[String]| -> Result<Value> {
        let size = format!("size={bytes}");
        let mut args: Vec<&str> = vec![&size, "profile=standard"];
        args.extend(extra.iter().map(String::as_str));
        let nodes = Ours::start(lab, programs, nodes, (mode, "answer"), &args)?;
        nodes.ready()?;
        nodes.nodes[0].result(PATIENCE)
    };
    let ms = |ms: u128| format!("ms={ms}");
    // The receivers live on until they are ended: the first one's time is its own.
    let per_second = number(&run("flood", &[ms(span.as_millis())])?, "rate")?;
    let mut side = Side { per_second, ..Side::default() };
    for (i, (count, pause)) in TRIPS.into_iter().enumerate() {
        let args = [ms(60_000), format!("count={count}"), format!("pause_ms={pause}")];
        let trips = run("ring", &args)?;
        side.p50_us[i] = number(&trips, "p50_us")?;
        side.p99_us[i] = number(&trips, "p99_us")?;
    }
    Ok(side)
}

fn corosync_side(
    lab: &NetLab,
    corosync: &Corosync,
    nodes: u8,
    bytes: u32,
    span: Duration,
) -> Result<Side> {
    let members = nodes.to_string();
    let sinks: Vec<_> =
        (2..=nodes).map(|n| corosync.client(lab, n, &["sink", &members])).collect::<Result<_>>()?;
    let (bytes, ms) = (bytes.to_string(), span.as_millis().to_string());
    let run = |args: &[&str]| -> Result<Value> {
        let client = corosync.client(lab, 1, args)?;
        client.ready(PATIENCE)?;
        client.result(PATIENCE)
    };
    let per_second = number(&run(&["flood", &members, &bytes, &ms])?, "rate")?;
    let mut side = Side { per_second, ..Side::default() };
    for (i, (count, pause)) in TRIPS.into_iter().enumerate() {
        let trips = run(&["ring", &members, &bytes, &count.to_string(), &pause.to_string()])?;
        side.p50_us[i] = number(&trips, "p50_us")?;
        side.p99_us[i] = number(&trips, "p99_us")?;
    }
    drop(sinks);
    Ok(side)
}

pub(crate) fn table(rows: &[MessageRow]) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let mut out = String::from(
        "\nOrdered reliable messages to all, encrypted (ours: the driver alone), from one node\n\n\
         | nodes | bytes | ours /s | Corosync /s | ratio | ours p50 us | Corosync p50 us | ratio | ours after 50 ms | Corosync | ratio |\n\
         |---|---|---|---|---|---|---|---|---|---|---|\n",
    );
    for row in rows {
        let (a, b) = (&row.ours, &row.corosync);
        // Writing to a String does not fail.
        let _ = writeln!(
            out,
            "| {} | {} | {:.0} | {:.0} | {} | {:.0} | {:.0} | {} | {:.0} | {:.0} | {} |",
            row.nodes,
            row.bytes,
            a.per_second,
            b.per_second,
            ratio(a.per_second, b.per_second),
            a.p50_us[0],
            b.p50_us[0],
            ratio(a.p50_us[0], b.p50_us[0]),
            a.p50_us[1],
            b.p50_us[1],
            ratio(a.p50_us[1], b.p50_us[1])
        );
    }
    out
}
