//! The durable part of one node: its record (ballots, promise, accepted view), its log of updates,
//! and its copy of the database.
//!
//! It carries out [`wolfpack_types::store::Persist`] steps in order and takes no decision. Each
//! step is whole or not at all after a crash; nothing is reported done before it is durable. What
//! cannot be read back is refused in words: a store that silently forgot a promise would break the
//! protocol (P2), so damage is never taken for newness.
//!
//! Driven by [`StoreThread`], which belongs to the service.

mod error;
mod thread;

use std::path::Path;

pub use error::StoreError;
pub use thread::{StoreEvent, StoreThread};
use wolfpack_types::store::{Loaded, Persist};

/// The open store of one node. At most one process has it open.
#[derive(Debug)]
pub struct Store {}

impl Store {
    /// Opens the store in `dir`, or makes a new one if the directory is missing or empty, and
    /// raises the incarnation durably.
    ///
    /// # Errors
    /// Another service has it open, damage, a format of another version, or a failing disk.
    pub fn open(_dir: &Path) -> Result<(Self, Loaded), StoreError> {
        Err(StoreError::Stopped)
    }

    /// Carries out these steps, in order; all are durable when it returns.
    ///
    /// # Errors
    /// After the first error the store refuses all further steps.
    pub fn persist(&mut self, _steps: Vec<Persist>) -> Result<(), StoreError> {
        Err(StoreError::Stopped)
    }
}
