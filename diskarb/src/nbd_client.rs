//! A small blocking client of [`crate::export`], for applications and tests.

use std::io;
use std::path::Path;

/// A connection to an exported disk.
#[derive(Debug)]
pub struct NbdClient {
    size: u64,
}

impl NbdClient {
    /// Connects to the socket of an export.
    ///
    /// # Errors
    /// Nobody serves there, or it speaks something else.
    pub fn connect(path: &Path) -> io::Result<Self> {
        Err(io::Error::new(io::ErrorKind::NotConnected, path.display().to_string()))
    }

    /// Size of the disk in bytes.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// Fills `data` from `offset`.
    ///
    /// # Errors
    /// The export refused (EIO once authority has ended) or is gone.
    pub fn read_at(&mut self, offset: u64, data: &mut [u8]) -> io::Result<()> {
        let _ = (offset, data);
        Err(io::ErrorKind::NotConnected.into())
    }

    /// Writes `data` at `offset`; durable when it returns.
    ///
    /// # Errors
    /// As for reading.
    pub fn write_at(&mut self, offset: u64, data: &[u8]) -> io::Result<()> {
        let _ = (offset, data);
        Err(io::ErrorKind::NotConnected.into())
    }

    /// Makes earlier writes durable (they are already; kept for the protocol).
    ///
    /// # Errors
    /// As for reading.
    pub fn flush(&mut self) -> io::Result<()> {
        Err(io::ErrorKind::NotConnected.into())
    }
}
