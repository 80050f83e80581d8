//! The few operations on files that the store is made of, behind a trait so that tests can tear and
//! fail each of them.
//!
//! An operation that returned `Ok` is durable.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::StoreError;

/// No file of a store is ever this large; a larger one is not read into memory.
const FILE_BYTES_MAX: u64 = 1 << 30;

/// Files of one directory.
pub(crate) trait Files: Debug + Send {
    /// The directory, for messages.
    fn path(&self, name: &str) -> PathBuf;
    /// The names of all files.
    fn names(&self) -> Result<Vec<String>, StoreError>;
    /// A whole file; None if there is none.
    fn read(&self, name: &str) -> Result<Option<Vec<u8>>, StoreError>;
    /// Makes the file, or replaces it, in one step.
    fn replace(&mut self, name: &str, bytes: &[u8]) -> Result<(), StoreError>;
    /// Writes into an existing file, or at its end. May be torn by a crash.
    fn write_at(&mut self, name: &str, offset: u64, bytes: &[u8]) -> Result<(), StoreError>;
    /// Removes a file; one that is not there is no error.
    fn remove(&mut self, name: &str) -> Result<(), StoreError>;
    /// Gives a file another name, in place of any file of that name.
    fn rename(&mut self, from: &str, to: &str) -> Result<(), StoreError>;
}

/// The real ones.
#[derive(Debug)]
pub(crate) struct DirFiles {
    dir: PathBuf,
    /// Files that were written to, open with O_DSYNC.
    open: BTreeMap<String, File>,
}

impl DirFiles {
    pub(crate) fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned(), open: BTreeMap::new() }
    }
}

fn failed(act: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StoreError {
    let path = path.to_owned();
    move |source| StoreError::Io { act, path, source }
}

impl Files for DirFiles {
    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    fn names(&self) -> Result<Vec<String>, StoreError> {
        let entries = fs::read_dir(&self.dir).map_err(failed("list", &self.dir))?;
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry.map_err(failed("list", &self.dir))?;
            // A name that is no UTF-8 is none of ours.
            names.extend(entry.file_name().into_string().ok());
        }
        names.sort();
        Ok(names)
    }

    fn read(&self, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let path = self.path(name);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(failed("open", &path)(e)),
        };
        let mut bytes = Vec::new();
        let limit = FILE_BYTES_MAX + 1;
        let read = file.take(limit).read_to_end(&mut bytes).map_err(failed("read", &path))?;
        if read as u64 == limit {
            return Err(StoreError::Damaged { path, what: "it is larger than 1 GiB".into() });
        }
        Ok(Some(bytes))
    }

    fn replace(&mut self, name: &str, bytes: &[u8]) -> Result<(), StoreError> {
        let path = self.path(name);
        let new = self.path(&format!("{name}.new"));
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&new)
            .map_err(failed("create", &new))?;
        file.write_all(bytes).map_err(failed("write", &new))?;
        file.sync_all().map_err(failed("sync", &new))?;
        // The handle may belong to the file that is being replaced.
        self.open.remove(name);
        fs::rename(&new, &path).map_err(failed("rename", &new))?;
        sync_directory(&self.dir)
    }

    fn write_at(&mut self, name: &str, offset: u64, bytes: &[u8]) -> Result<(), StoreError> {
        let path = self.path(name);
        let file = match self.open.entry(name.to_owned()) {
            std::collections::btree_map::Entry::Occupied(e) => e.into_mut(),
            std::collections::btree_map::Entry::Vacant(e) => {
                let file = OpenOptions::new()
                    .write(true)
                    .custom_flags(libc::O_DSYNC)
                    .open(&path)
                    .map_err(failed("open", &path))?;
                e.insert(file)
            }
        };
        file.write_all_at(bytes, offset).map_err(failed("write", &path))
    }

    fn remove(&mut self, name: &str) -> Result<(), StoreError> {
        self.open.remove(name);
        let path = self.path(name);
        match fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(failed("remove", &path)(e)),
            _ => Ok(()),
        }
    }

    fn rename(&mut self, from: &str, to: &str) -> Result<(), StoreError> {
        self.open.remove(from);
        self.open.remove(to);
        let path = self.path(from);
        fs::rename(&path, self.path(to)).map_err(failed("rename", &path))?;
        sync_directory(&self.dir)
    }
}

/// Makes renames in a directory durable.
pub(crate) fn sync_directory(dir: &Path) -> Result<(), StoreError> {
    File::open(dir).and_then(|d| d.sync_all()).map_err(failed("sync", dir))
}
