//! The rows of the cluster database in a redb file, moved forward by whole checkpoints.
//!
//! Between checkpoints the log has what the file lacks, so the file is written rarely and always in
//! one synchronous transaction together with the position that it then stands for.

use std::collections::BTreeMap;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use redb::{Builder, Database as Redb, ReadableDatabase, ReadableTable, TableDefinition};
use serde::{Deserialize, Serialize};
use wolfpack_types::store::Snapshot;
use wolfpack_types::{Ballot, Seq, StoreId, codec};

use crate::StoreError;

const ROWS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("rows");
/// A copy that comes in pieces, until it replaces the rows.
const COPY: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("copy");
const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");
const POSITION: &str = "position";

/// Format of the tables and of [`Position`].
const VERSION: u16 = 1;
/// The file is read whole at the start and written rarely: a large cache would be idle memory.
const CACHE_BYTES: usize = 1 << 20;

/// Rows to set (Some) or to delete (None).
pub(crate) type Changes = BTreeMap<String, Option<Vec<u8>>>;

/// What the file stands for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Position {
    pub(crate) version: u16,
    pub(crate) store: StoreId,
    /// All updates up to here are in the rows.
    pub(crate) seq: Seq,
    pub(crate) ballot: Ballot,
    /// The log generation whose snapshot replaced the rows last.
    pub(crate) replaced_by: u64,
}

/// The open file.
#[derive(Debug)]
pub(crate) struct Database {
    path: PathBuf,
    redb: Redb,
}

impl Database {
    /// Makes an empty database.
    pub(crate) fn create(path: &Path, store: StoreId) -> Result<(), StoreError> {
        // For its owner alone, as the other files of the store.
        let file = std::fs::OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)
            .map_err(failed(path))?;
        let redb = builder().create_file(file).map_err(failed(path))?;
        let database = Self { path: path.to_owned(), redb };
        let position =
            Position { version: VERSION, store, seq: Seq(0), ballot: Ballot::ZERO, replaced_by: 0 };
        database.write(&position, None, &Changes::new())
    }

    /// Opens an existing database.
    pub(crate) fn open(path: &Path) -> Result<Self, StoreError> {
        let damaged = |what: String| StoreError::Damaged { path: path.to_owned(), what };
        if !path.exists() {
            return Err(damaged("it is missing".into()));
        }
        let redb = builder().open(path).map_err(|e| damaged(e.to_string()))?;
        Ok(Self { path: path.to_owned(), redb })
    }

    /// Reads everything.
    pub(crate) fn read(&self) -> Result<(Position, Snapshot), StoreError> {
        let damaged = |what: String| StoreError::Damaged { path: self.path.clone(), what };
        let read = || -> Result<_, redb::Error> {
            let transaction = self.redb.begin_read()?;
            let meta = transaction.open_table(META)?;
            let position = meta.get(POSITION)?.map(|v| v.value().to_vec());
            let mut rows = Vec::new();
            for row in transaction.open_table(ROWS)?.iter()? {
                let (key, value) = row?;
                rows.push((key.value().to_owned(), value.value().to_vec()));
            }
            Ok((position, rows))
        };
        let (position, rows) = read().map_err(|e| damaged(e.to_string()))?;
        let position = position.ok_or_else(|| damaged("it does not say its position".into()))?;
        let position: Position =
            codec::decode("position", &position).map_err(|e| damaged(e.to_string()))?;
        if position.version != VERSION {
            return Err(StoreError::Version {
                path: self.path.clone(),
                found: position.version,
                known: VERSION,
            });
        }
        Ok((position, Snapshot { seq: position.seq, ballot: position.ballot, rows }))
    }

    /// Moves forward by these changes.
    pub(crate) fn checkpoint(
        &self,
        position: &Position,
        changes: &Changes,
    ) -> Result<(), StoreError> {
        self.write(position, None, changes)
    }

    /// Takes the rows of a snapshot for its own.
    pub(crate) fn replace(
        &self,
        position: &Position,
        snapshot: &Snapshot,
    ) -> Result<(), StoreError> {
        self.write(position, Some(snapshot), &Changes::new())
    }

    /// Adds rows of a copy; `anew`: forgets an earlier one first. Durable when it returns.
    pub(crate) fn copy_rows(
        &self,
        anew: bool,
        rows: &[(String, Vec<u8>)],
    ) -> Result<(), StoreError> {
        let write = || -> Result<(), redb::Error> {
            let transaction = self.redb.begin_write()?;
            if anew {
                transaction.delete_table(COPY)?;
            }
            {
                let mut copy = transaction.open_table(COPY)?;
                for (key, value) in rows {
                    copy.insert(key.as_str(), value.as_slice())?;
                }
            }
            transaction.commit()?;
            Ok(())
        };
        write().map_err(|e| failed(&self.path)(e))
    }

    /// The copy's rows are the database's from now on, at this position. One transaction that
    /// moves no row.
    pub(crate) fn take_copy(&self, position: &Position) -> Result<(), StoreError> {
        let write = || -> Result<(), redb::Error> {
            let transaction = self.redb.begin_write()?;
            // A copy of nothing is a copy too.
            drop(transaction.open_table(COPY)?);
            transaction.delete_table(ROWS)?;
            transaction.rename_table(COPY, ROWS)?;
            {
                let mut meta = transaction.open_table(META)?;
                meta.insert(POSITION, codec::encode(position).as_slice())?;
            }
            transaction.commit()?;
            Ok(())
        };
        write().map_err(|e| failed(&self.path)(e))
    }

    /// One transaction, durable when it returns (redb's default).
    fn write(
        &self,
        position: &Position,
        instead: Option<&Snapshot>,
        changes: &Changes,
    ) -> Result<(), StoreError> {
        let write = || -> Result<(), redb::Error> {
            let transaction = self.redb.begin_write()?;
            if instead.is_some() {
                transaction.delete_table(ROWS)?;
            }
            {
                let mut rows = transaction.open_table(ROWS)?;
                for (key, value) in instead.iter().flat_map(|s| &s.rows) {
                    rows.insert(key.as_str(), value.as_slice())?;
                }
                for (key, value) in changes {
                    match value {
                        Some(value) => drop(rows.insert(key.as_str(), value.as_slice())?),
                        None => drop(rows.remove(key.as_str())?),
                    }
                }
                let mut meta = transaction.open_table(META)?;
                meta.insert(POSITION, codec::encode(position).as_slice())?;
            }
            transaction.commit()?;
            Ok(())
        };
        write().map_err(|e| failed(&self.path)(e))
    }
}

fn builder() -> Builder {
    let mut builder = Builder::new();
    builder.set_cache_size(CACHE_BYTES);
    builder
}

fn failed<E: std::fmt::Display>(path: &Path) -> impl FnOnce(E) -> StoreError {
    let path = path.to_owned();
    move |e| StoreError::Database { path, what: e.to_string() }
}
