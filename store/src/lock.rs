//! One service per store: an exclusive lock on a file of the directory, held while the process
//! lives. It says who holds it.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use crate::StoreError;

/// The lock; released when dropped.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: Flock<File>,
}

impl Lock {
    /// Takes the lock of the store in `dir`.
    pub(crate) fn take(dir: &Path) -> Result<Self, StoreError> {
        let path = dir.join("lock");
        let failed = |act, source: io::Error| StoreError::Io { act, path: path.clone(), source };
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(|e| failed("open", e))?;
        let mut file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(file) => file,
            Err((file, Errno::EWOULDBLOCK)) => {
                return Err(StoreError::InUse { dir: dir.to_owned(), holder: holder(&file) });
            }
            Err((_, e)) => return Err(failed("lock", e.into())),
        };
        // Only for people: the lock itself does not depend on what is written here.
        file.set_len(0).map_err(|e| failed("write", e))?;
        file.rewind().map_err(|e| failed("write", e))?;
        writeln!(file, "pid {}", std::process::id()).map_err(|e| failed("write", e))?;
        Ok(Self { _file: file })
    }
}

fn holder(file: &File) -> String {
    let mut text = String::new();
    let read = file.take(64).read_to_string(&mut text);
    let text = text.trim();
    if read.is_err() || text.is_empty() { "pid unknown".into() } else { text.to_owned() }
}
