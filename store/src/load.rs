//! Opening: from what the files say to a state that fits together, or to a refusal in words.

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use wolfpack_types::store::{Record, Snapshot};
use wolfpack_types::update::LogEntry;
use wolfpack_types::{Guid, Incarnation, StoreId};

use crate::StoreError;
use crate::database::{Database, Position};
use crate::files::Files;
use crate::log::{self, BadLog, Instead, LogFile};
use crate::record::{self, BadRecord, Body};

pub(crate) const RECORD: &str = "record";
pub(crate) const DATABASE: &str = "database.redb";
const LOG_PREFIX: &str = "log-";
/// Says that the store is not to be trusted; holds its incarnation.
pub(crate) const RETIRED: &str = "retired";
/// Before the names of the files that were put aside.
const ASIDE_PREFIX: &str = "retired-";

/// The name of the log of a generation.
pub(crate) fn log_name(generation: u64) -> String {
    format!("{LOG_PREFIX}{generation:016x}")
}

/// What the files say, checked against each other.
#[derive(Debug)]
pub(crate) struct Found {
    /// Generation of the record file.
    pub(crate) generation: u64,
    pub(crate) body: Body,
    pub(crate) database: Database,
    pub(crate) position: Position,
    pub(crate) snapshot: Snapshot,
    /// What the log has beyond the database.
    pub(crate) entries: Vec<LogEntry>,
}

/// Reads the store, making a new one in a directory that has none.
pub(crate) fn load(files: &mut dyn Files) -> Result<Found, StoreError> {
    let retired = put_aside(files)?;
    let bytes = match files.read(RECORD)? {
        Some(bytes) => bytes,
        None => create(files, retired)?,
    };
    files.remove(RETIRED)?;
    let path = files.path(RECORD);
    let (generation, body) = record::newest(&bytes).map_err(|bad| match bad {
        BadRecord::Version(found) => StoreError::Version { path, found, known: record::VERSION },
        BadRecord::Both(why) => {
            StoreError::Damaged { path, what: format!("no whole record is left ({why})") }
        }
    })?;
    if body.log == 0 {
        // The start that made this store did not get far: nothing can be in the database.
        files.remove(DATABASE)?;
        Database::create(&files.path(DATABASE), body.record.store)?;
    }
    let database = Database::open(&files.path(DATABASE))?;
    let (mut position, mut snapshot) = database.read()?;
    let mut entries = Vec::new();
    if body.log > 0 {
        let name = log_name(body.log);
        let path = files.path(&name);
        let damaged = |what: String| StoreError::Damaged { path: path.clone(), what };
        let bytes = files.read(&name)?.ok_or_else(|| damaged("it is missing".into()))?;
        let found = log::read(body.log, &bytes).map_err(|bad| match bad {
            BadLog::Version(found) => {
                StoreError::Version { path: path.clone(), found, known: log::VERSION }
            }
            BadLog::Damaged(what) => damaged(what),
        })?;
        if found.torn_bytes > 0 {
            tracing::warn!(
                "{}: {} bytes of a write that was cut short are left out",
                path.display(),
                found.torn_bytes
            );
        }
        same_store(files, &name, found.store, &body.record)?;
        if position.replaced_by < body.log {
            // The crash came between the commit of what replaces the rows and the rows.
            (position, snapshot) = replaced(&database, position, snapshot, &found, body.log)?;
        }
        let last = found.entries.last().map_or(found.base, |e| e.seq);
        if position.seq < found.base || position.seq > last {
            return Err(damaged(format!(
                "it has the updates from {} to {last}, and the database stands at {}",
                found.base.next(),
                position.seq
            )));
        }
        entries = found.entries;
        entries.retain(|e| e.seq > position.seq);
    }
    same_store(files, DATABASE, position.store, &body.record)?;
    Ok(Found { generation, body, database, position, snapshot, entries })
}

/// Carries out what the log says of the rows.
fn replaced(
    database: &Database,
    old: Position,
    rows: Snapshot,
    log: &LogFile,
    generation: u64,
) -> Result<(Position, Snapshot), StoreError> {
    match &log.instead {
        Instead::Nothing => Ok((old, rows)),
        Instead::Snapshot(theirs) => {
            let position =
                Position { seq: theirs.seq, ballot: theirs.ballot, replaced_by: generation, ..old };
            database.replace(&position, theirs)?;
            Ok((position, theirs.clone()))
        }
        Instead::Copy(ballot) => {
            let position =
                Position { seq: log.base, ballot: *ballot, replaced_by: generation, ..old };
            database.take_copy(&position)?;
            database.read()
        }
    }
}

fn same_store(
    files: &dyn Files,
    name: &str,
    found: StoreId,
    record: &Record,
) -> Result<(), StoreError> {
    if found == record.store {
        return Ok(());
    }
    Err(StoreError::Damaged {
        path: files.path(name),
        what: format!("it belongs to another store ({found}, not {})", record.store),
    })
}

/// Puts a retired store aside, the record last, and returns its incarnation. (A crash in between is
/// followed by the same again; the mark goes when the new record is there.)
fn put_aside(files: &mut dyn Files) -> Result<Option<Incarnation>, StoreError> {
    let Some(mark) = files.read(RETIRED)? else { return Ok(None) };
    for name in files.names()? {
        if name == DATABASE || name.starts_with(LOG_PREFIX) {
            files.rename(&name, &format!("{ASIDE_PREFIX}{name}"))?;
        }
    }
    if files.read(RECORD)?.is_some() {
        files.rename(RECORD, &format!("{ASIDE_PREFIX}{RECORD}"))?;
    }
    tracing::warn!(
        "the store was retired: its files are kept as {}*, and a new one is made",
        files.path(ASIDE_PREFIX).display()
    );
    let mark = mark.first_chunk().map_or(0, |b| u64::from_le_bytes(*b));
    Ok(Some(Incarnation(mark)))
}

/// Makes a new store and returns its record file. Its incarnations begin above `retired`. The record comes first, so that a database or a
/// log without a record is never the trace of a crash here.
fn create(files: &mut dyn Files, retired: Option<Incarnation>) -> Result<Vec<u8>, StoreError> {
    let names = files.names()?;
    let mut ours = names
        .iter()
        .filter(|n| *n == DATABASE || n.starts_with(LOG_PREFIX) && !n.ends_with(".new"));
    if let Some(orphan) = ours.next() {
        return Err(StoreError::Damaged {
            path: files.path(RECORD),
            what: format!("it is missing, though '{orphan}' is there"),
        });
    }
    let mut random = [0; 16];
    getrandom::fill(&mut random).map_err(|e| StoreError::Io {
        act: "get entropy for",
        path: files.path(RECORD),
        source: std::io::Error::other(e.to_string()),
    })?;
    let store = StoreId(Guid(u128::from_le_bytes(random)));
    let record = Record {
        store,
        incarnation: first_incarnation().max(retired.unwrap_or_default()),
        ..Record::default()
    };
    let body = Body { log: 0, record };
    let bytes = record::new_file(0, &body)
        .ok_or_else(|| StoreError::Misfit("an empty record does not fit".into()))?;
    files.replace(RECORD, &bytes)?;
    Ok(bytes)
}

/// Where the incarnations of a new store begin: the seconds since 2026.
///
/// A store may replace a lost one of the same node, and no life may ever be taken for an earlier one
/// of the same number: its proven death, its old messages and its slots would be taken for the new
/// one's. As a service does not start more often than once a second for long, the clock is ahead of
/// every count that began with it. Should the clock be wrong, the guard and the peers refuse the old
/// number.
fn first_incarnation() -> Incarnation {
    const YEAR_2026: Duration = Duration::from_secs(1_767_225_600);
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Incarnation(since_1970.saturating_sub(YEAR_2026).as_secs())
}

/// Removes logs that no record names, and what unfinished writes left behind.
pub(crate) fn tidy(files: &mut dyn Files, current: u64) -> Result<(), StoreError> {
    let keep = log_name(current);
    for name in files.names()? {
        let stale = name.starts_with(LOG_PREFIX) && name != keep;
        if stale || name == format!("{RECORD}.new") {
            files.remove(&name)?;
        }
    }
    Ok(())
}

/// Makes the directory, for root alone.
pub(crate) fn make_directory(dir: &Path) -> Result<(), StoreError> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(|source| {
        StoreError::Io { act: "create the directory", path: dir.to_owned(), source }
    })
}
