//! The register machine (protocol P4): pure. Turns the core's [`RegisterCommand`]s into disk
//! commands, one at a time, and their outcomes into [`RegisterEvent`]s.

use wolfpack_types::disk::{DiskOp, DiskOutcome};
use wolfpack_types::register::{Exclusion, RegisterCommand, RegisterEvent};
use wolfpack_types::{ClusterId, Instant, NodeInc, Rules, Times};

/// How the register is set up.
#[derive(Clone, Debug)]
pub struct RegisterConfig {
    pub me: NodeInc,
    pub cluster: ClusterId,
    pub exclusion: Exclusion,
    pub times: Times,
    pub rules: Rules,
}

/// One thing that happened.
#[derive(Clone, Debug, PartialEq)]
pub enum Input {
    Deadline,
    Command(RegisterCommand),
    /// The outcome of the command in flight. After `Timeout` the machine sends no command until
    /// `Dead` for the same id.
    Done {
        id: u64,
        outcome: DiskOutcome,
    },
    /// The timed-out command is known never to be executed any more (or its late end has come).
    Dead {
        id: u64,
    },
    /// No command of a former life of this node can be executed any more.
    FormerLivesDead,
}

/// One thing to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Output {
    /// One command; the next only after its end.
    Disk {
        id: u64,
        op: DiskOp,
    },
    Event(RegisterEvent),
}

/// The register machine of one node.
#[derive(Debug)]
pub struct Register {
    config: RegisterConfig,
}

impl Register {
    /// A new life: knows nothing of the disk yet.
    #[must_use]
    pub fn new(config: RegisterConfig) -> Self {
        Self { config }
    }
    /// One input.
    pub fn handle(&mut self, _now: Instant, _input: Input) {
        let _ = &self.config;
    }
    /// The next output.
    pub fn poll_output(&mut self) -> Option<Output> {
        None
    }
    /// When to call again at the latest.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        None
    }
}
