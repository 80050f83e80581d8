//! The key log: the keys of all sessions in a file, so that captured traffic can be read. For
//! debugging alone, and only if the configuration says so.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::DriverError;

/// The open file. A line that cannot be written is lost: traffic does not wait for it.
#[derive(Debug)]
pub(crate) struct KeyLog {
    file: File,
    path: PathBuf,
}

impl KeyLog {
    /// Opens the file at its end; makes it, readable by its owner alone, if it is not there.
    pub(crate) fn open(path: &Path) -> Result<Self, DriverError> {
        let failed = |source| DriverError::KeyLog { path: path.into(), source };
        let file = File::options().append(true).create(true).mode(0o600).open(path);
        let file = file.map_err(failed)?;
        let meta = file.metadata().map_err(failed)?;
        if !meta.is_file() || meta.mode() & 0o077 != 0 {
            return Err(failed(std::io::Error::other("others may read it: run chmod 600 on it")));
        }
        tracing::warn!(
            "security.key_log is set: the keys of all sessions go to {}; whoever reads it can read \
             captured cluster traffic. Remove the setting and the file when you have seen enough",
            path.display()
        );
        Ok(Self { file, path: path.into() })
    }

    pub(crate) fn write(&mut self, line: &str) {
        if let Err(error) = self.file.write_all(format!("{line}\n").as_bytes()) {
            tracing::warn!(%error, "cannot write the key log {}", self.path.display());
        }
    }
}
