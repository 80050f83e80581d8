//! The compact failover core: membership, quorum, global update, database, failover, resources and
//! events behind one [`Core::handle`].
#![forbid(unsafe_code)]

mod database;
mod failover;
mod io;
mod random;

pub use database::{Applied, Change, Database};
pub use io::{CoreConfig, ExitReason, Input, Output};

use wolfpack_types::Instant;

/// The core of one node.
#[derive(Debug)]
pub struct Core {
    config: CoreConfig,
}

impl Core {
    /// A new life.
    #[must_use]
    pub fn new(config: CoreConfig, _now: Instant) -> Self {
        Self { config }
    }
    /// One input.
    pub fn handle(&mut self, _now: Instant, _input: Input) {}
    /// The next output.
    pub fn poll_output(&mut self) -> Option<Output> {
        let _ = &self.config;
        None
    }
    /// When to call again at the latest.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        None
    }
}
