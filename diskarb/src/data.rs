//! A data disk in a resource monitor: taken by RESERVE (with challenge and defence), defended every
//! R, read and written through the same session.

use wolfpack_types::Times;

use crate::device::{Naming, OpenError};

/// A data disk could not be taken.
#[derive(Debug, thiserror::Error)]
pub enum TakeError {
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error("{disk} is held by another initiator that defends it")]
    Defended { disk: String },
    #[error("{disk}: {what} failed: {why}")]
    Io { disk: String, what: &'static str, why: String },
}

/// What happens to a held disk.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum DataEvent {
    /// The reservation is another's, or the path is gone for good: this node is not the owner any
    /// more. Said once; nothing is written after it.
    Lost { why: String },
}

/// A read, write or flush was not carried out.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum IoError {
    #[error("the disk is not held any more")]
    NotHeld,
    #[error("{0} bytes at {1} are outside the disk of {2} bytes")]
    Range(u64, u64, u64),
    #[error("{what} failed: {why}")]
    Failed { what: &'static str, why: String },
}

/// A disk that this process holds and defends. Dropping it releases.
#[derive(Debug)]
pub struct DataDisk {
    handle: DiskHandle,
}

/// Reads and writes of a held disk; can be cloned to any thread.
#[derive(Clone, Debug)]
pub struct DiskHandle {}

impl DataDisk {
    /// Opens and takes the disk: RESERVE; at a conflict LUN RESET and RESERVE at once (the former
    /// owner is proven dead); at another conflict the full challenge (LUN RESET, 2R + margin,
    /// RESERVE), which a living defender wins. `on_event` is called from the disk's own thread.
    ///
    /// # Errors
    /// The disk cannot be opened, is defended, or fails.
    pub fn take(
        disk: &str,
        naming: &Naming,
        times: &Times,
        on_event: impl Fn(DataEvent) + Send + 'static,
    ) -> Result<Self, TakeError> {
        let _ = (naming, times, on_event);
        Err(TakeError::Defended { disk: disk.to_owned() })
    }

    /// Whether the last defence succeeded and nothing has been lost since. Never blocks.
    #[must_use]
    pub fn still_held(&self) -> bool {
        false
    }

    /// TEST UNIT READY and a read of block 0, through the session (blocks at most two command
    /// timeouts).
    ///
    /// # Errors
    /// Why the disk is not usable.
    pub fn check(&self) -> Result<(), IoError> {
        Err(IoError::NotHeld)
    }

    /// For reading and writing.
    #[must_use]
    pub fn handle(&self) -> DiskHandle {
        self.handle.clone()
    }

    /// Stops defending, RELEASEs and ends the session. Never fails: the end of the session releases
    /// too.
    pub fn release(self) {}
}

impl DiskHandle {
    /// Size in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        0
    }

    /// Reads `length` bytes at `offset`, any alignment.
    ///
    /// # Errors
    /// Outside the disk, not held any more, or failing.
    pub fn read(&self, offset: u64, length: u32) -> Result<Vec<u8>, IoError> {
        Err(IoError::Range(u64::from(length), offset, 0))
    }

    /// Writes durably (FUA) at `offset`, any alignment.
    ///
    /// # Errors
    /// Outside the disk, not held any more, or failing; then what was written is not known.
    pub fn write(&self, offset: u64, data: Vec<u8>) -> Result<(), IoError> {
        Err(IoError::Range(data.len() as u64, offset, 0))
    }
}
