//! Our driver in the lab: one program on each node.

use std::process::Command;
use std::time::Duration;

use anyhow::Result;

use super::Programs;
use super::lab::{NetLab, Program};

/// How long all nodes may take to hear each other.
const PATIENCE: Duration = Duration::from_secs(70);

/// A running set of nodes.
#[derive(Debug)]
pub(crate) struct Ours {
    pub(crate) nodes: Vec<Program>,
}

/// Arguments for detection times that are not a profile's.
pub(crate) const DETECT_6300: [&str; 3] = ["heartbeat_ms=600", "misses=10", "probe_ms=300"];
/// 22 ms x 6 + 13 ms = 145 ms.
pub(crate) const DETECT_145: [&str; 3] = ["heartbeat_ms=22", "misses=6", "probe_ms=13"];

impl Ours {
    /// Starts `count` nodes: the first in `mode`, the others in `rest`. They must be waited for by
    /// [`Self::ready`].
    pub(crate) fn start(
        lab: &NetLab,
        programs: &Programs,
        count: u8,
        (mode, rest): (&str, &str),
        args: &[&str],
    ) -> Result<Self> {
        let mut nodes = Vec::new();
        for n in 1..=count {
            let mut command: Command = lab.nodes[usize::from(n) - 1].command(&programs.bench)?;
            command.args([
                format!("mode={}", if n == 1 { mode } else { rest }),
                format!("id={n}"),
                format!("nodes={count}"),
                format!("nets={}", NetLab::nets()),
            ]);
            command.args(args);
            let what = format!("our node {n} ({mode})");
            nodes.push(Program::start(&what, command, &lab.dir.join("ours"))?);
        }
        Ok(Self { nodes })
    }

    pub(crate) fn ready(&self) -> Result<()> {
        self.nodes.iter().try_for_each(|node| node.ready(PATIENCE))
    }

    pub(crate) fn pids(&self) -> Result<Vec<i32>> {
        self.nodes.iter().map(Program::pid).collect()
    }
}
