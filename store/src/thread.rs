//! The store's own thread: a slow disk must never hold up the core.
use crossbeam_channel::Sender;
use wolfpack_types::store::Persist;

use crate::{Store, StoreError};

/// What the store thread reports.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum StoreEvent {
    /// This step, and all before it, are durable.
    Persisted { id: u64 },
    /// No durability any more; said once.
    Failed { error: String },
}

/// The thread that owns an open store.
#[derive(Debug)]
pub struct StoreThread {}

impl StoreThread {
    /// Starts the thread; `notify` gets its events.
    ///
    /// # Errors
    /// No thread could be made.
    pub fn start(_store: Store, _notify: Sender<StoreEvent>) -> std::io::Result<Self> {
        Ok(Self {})
    }

    /// Queues one step; never blocks.
    ///
    /// # Errors
    /// The store has failed, or is further behind than it may be.
    pub fn persist(&self, _id: u64, _step: Persist) -> Result<(), StoreError> {
        Err(StoreError::Stopped)
    }

    /// Carries out what is queued, writes a checkpoint, and ends.
    ///
    /// # Errors
    /// The last steps could not be made durable.
    pub fn stop(self) -> Result<(), StoreError> {
        Ok(())
    }
}
