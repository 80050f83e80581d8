//! Serves a held data disk to the node's applications as a network block device (NBD, fixed
//! newstyle) on a Unix socket: the userspace counterpart of the gate.

use std::path::Path;
use std::sync::Arc;

use crate::data::DiskHandle;

/// Whether the owner may still act; asked before every write is sent. Must not block.
pub type Authority = Arc<dyn Fn() -> bool + Send + Sync>;

/// The export could not be started.
#[derive(Debug, thiserror::Error)]
#[error("cannot serve the disk at {path}")]
pub struct ExportError {
    pub path: String,
    #[source]
    pub source: std::io::Error,
}

/// A running export. Dropping it closes every connection and removes the socket.
pub struct Export {}

impl std::fmt::Debug for Export {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Export")
    }
}

impl Export {
    /// Serves `disk` at the Unix socket `path` (a socket left there by a former process is
    /// replaced).
    ///
    /// # Errors
    /// The socket cannot be made.
    pub fn start(path: &Path, disk: DiskHandle, authority: Authority) -> Result<Self, ExportError> {
        let _ = (disk, authority);
        Err(ExportError {
            path: path.display().to_string(),
            source: std::io::ErrorKind::Unsupported.into(),
        })
    }

    /// Closes all connections and the socket; when it returns no write is sent any more.
    pub fn stop(self) {}
}
