//! The open store: turns steps into writes, in the order that makes each of them whole.
//!
//! ```text
//!  Record   record slot
//!  Append   one frame at the end of the log          (several Appends: one frame)
//!  Apply    memory; every APPLIES_MAX, and every four hours, a checkpoint
//!  Accept   new log file, record slot naming it      <- commit point
//!           then, with a snapshot, the database
//!  Retire   a mark: the next start puts these files aside and makes a new store
//! checkpoint database (by a thread of its own), then a new log file without what the database has,
//!           record slot naming it
//! ```
//! The log file is filled with zeros ahead of its end, so that an Append changes no metadata of the
//! file: it is one synchronous write. What the database lacks is in the log all the while, so the
//! checkpoint may take its time beside it.

use std::mem;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use wolfpack_types::store::{CopyStep, Loaded, Persist, Record, Snapshot};
use wolfpack_types::update::LogEntry;
use wolfpack_types::{Ballot, Incarnation, Seq};

use crate::StoreError;
use crate::database::{Changes, Database, Position};
use crate::files::{DirFiles, Files};
use crate::load::{self, Found, log_name};
use crate::lock::Lock;
use crate::log::{self, Instead, Start};
use crate::record::{self, Body};

/// A checkpoint after this many steps of the database: what a start must replay.
const APPLIES_MAX: usize = if cfg!(test) { 1000 } else { 10_000 };
/// A checkpoint when the log has grown by this much.
const LOG_BYTES_MAX: u64 = 32 << 20;
/// The log is filled with zeros so far ahead of its end.
const AHEAD_BYTES: usize = if cfg!(test) { 4096 } else { 1 << 20 };
/// A checkpoint at least this often (the Log Manager's interval in MSCS), if there is anything new.
pub(crate) const CHECKPOINT_EVERY: Duration = Duration::from_secs(4 * 60 * 60);

/// The database's file on its way to a position.
#[derive(Debug)]
struct Running {
    position: Position,
    thread: JoinHandle<Result<(), StoreError>>,
}

/// The open store of one node. At most one process has it open.
#[derive(Debug)]
pub struct Store {
    files: Box<dyn Files>,
    database: Arc<Database>,
    /// A checkpoint of the database that is under way.
    running: Option<Running>,
    checkpointed: Instant,
    /// Generation of the record file.
    generation: u64,
    body: Body,
    /// Where the database file stands.
    position: Position,
    /// What the log has beyond the database file.
    entries: Vec<LogEntry>,
    /// Next frame of the log, and where it goes.
    next_frame: u64,
    log_bytes: u64,
    /// Size of the log's file: zeros follow the end.
    log_file_bytes: u64,
    /// Applied, but not yet in the database file.
    pending: Changes,
    applied: (Seq, Ballot),
    applies: usize,
    /// A step failed: what is durable is no longer known.
    failed: bool,
    _lock: Option<Lock>,
}

impl Store {
    /// Opens the store in `dir`, or makes a new one if the directory is missing or has none, and
    /// raises the incarnation durably.
    ///
    /// # Errors
    /// Another service has it open, damage, a format of another version, or a failing disk.
    pub fn open(dir: &Path) -> Result<(Self, Loaded), StoreError> {
        load::make_directory(dir)?;
        let lock = Lock::take(dir)?;
        Self::open_files(Box::new(DirFiles::new(dir)), Some(lock))
    }

    pub(crate) fn open_files(
        mut files: Box<dyn Files>,
        lock: Option<Lock>,
    ) -> Result<(Self, Loaded), StoreError> {
        let Found { generation, body, database, position, snapshot, entries } =
            load::load(files.as_mut())?;
        let mut store = Self {
            files,
            database: Arc::new(database),
            running: None,
            checkpointed: Instant::now(),
            generation,
            body,
            position,
            entries,
            next_frame: 0,
            log_bytes: 0,
            log_file_bytes: 0,
            pending: Changes::new(),
            applied: (position.seq, position.ballot),
            applies: 0,
            failed: false,
            _lock: lock,
        };
        let mut record = store.body.record.clone();
        record.incarnation = Incarnation(record.incarnation.0 + 1);
        // A new log: a torn end of the old one is gone before anything is written behind it.
        store.commit(record.clone(), Instead::Nothing)?;
        load::tidy(store.files.as_mut(), store.body.log)?;
        let loaded = Loaded {
            new_store: record.accepted.is_none(),
            record,
            database: snapshot,
            log: store.entries.clone(),
        };
        Ok((store, loaded))
    }

    /// Carries out these steps, in order; all are durable when it returns.
    ///
    /// # Errors
    /// After the first error the store refuses all further steps.
    pub fn persist(&mut self, steps: Vec<Persist>) -> Result<(), StoreError> {
        if self.failed {
            return Err(StoreError::Stopped);
        }
        let result = self.carry_out(steps);
        self.failed = result.is_err();
        result
    }

    /// Writes a checkpoint and closes the files, so that the next start has nothing to replay.
    ///
    /// # Errors
    /// As [`Store::persist`]; what was durable before remains so.
    pub fn close(mut self) -> Result<(), StoreError> {
        if self.failed {
            return Err(StoreError::Stopped);
        }
        self.end_checkpoint()?;
        if self.applies > 0 {
            self.begin_checkpoint()?;
            self.end_checkpoint()?;
        }
        Ok(())
    }

    /// Begins a checkpoint if it is time for one, and ends one that has been written.
    ///
    /// # Errors
    /// As [`Store::persist`].
    pub(crate) fn keep_house(&mut self) -> Result<(), StoreError> {
        if self.failed {
            return Err(StoreError::Stopped);
        }
        let result = self.look_at_checkpoint();
        self.failed = result.is_err();
        result
    }

    fn look_at_checkpoint(&mut self) -> Result<(), StoreError> {
        if self.running.as_ref().is_some_and(|r| r.thread.is_finished()) {
            self.end_checkpoint()?;
        }
        let due = self.applies >= APPLIES_MAX
            || self.log_bytes >= LOG_BYTES_MAX
            || self.checkpointed.elapsed() >= CHECKPOINT_EVERY;
        if due && self.applies > 0 && self.running.is_none() {
            self.begin_checkpoint()
        } else {
            Ok(())
        }
    }

    /// Neighbouring steps of one kind become one write: nobody is told in between.
    fn carry_out(&mut self, steps: Vec<Persist>) -> Result<(), StoreError> {
        let mut unwritten: Vec<LogEntry> = Vec::new();
        let mut record: Option<Record> = None;
        for step in steps {
            match step {
                Persist::Append { entries } => {
                    self.flush_record(&mut record)?;
                    let last = unwritten.last().map_or_else(|| self.last(), |e| e.seq);
                    continues(last, &entries)?;
                    unwritten.extend(entries);
                }
                Persist::Apply { seq, ballot, rows } => {
                    let last = unwritten.last().map_or_else(|| self.last(), |e| e.seq);
                    self.apply(last, seq, ballot, rows)?;
                }
                Persist::Record(new) => {
                    self.flush_entries(&mut unwritten)?;
                    self.check_identity(&new)?;
                    record = Some(new);
                }
                Persist::Retire => {
                    self.flush_entries(&mut unwritten)?;
                    self.flush_record(&mut record)?;
                    let incarnation = self.body.record.incarnation.0;
                    self.files.replace(load::RETIRED, &incarnation.to_le_bytes())?;
                }
                Persist::Copy(step) => {
                    self.flush_entries(&mut unwritten)?;
                    self.flush_record(&mut record)?;
                    self.copy(step)?;
                }
                Persist::Accept { record: new, after, snapshot, entries } => {
                    self.flush_entries(&mut unwritten)?;
                    self.check_identity(&new)?;
                    // The step's record replaces the one that waits.
                    record = None;
                    self.accept(new, after, snapshot, entries)?;
                }
            }
        }
        self.flush_entries(&mut unwritten)?;
        self.flush_record(&mut record)?;
        self.look_at_checkpoint()
    }

    /// The last position of the log.
    fn last(&self) -> Seq {
        self.entries.last().map_or(self.position.seq, |e| e.seq)
    }

    /// P2: store and incarnation are fixed for a life.
    fn check_identity(&self, new: &Record) -> Result<(), StoreError> {
        let old = &self.body.record;
        if (new.store, new.incarnation) == (old.store, old.incarnation) {
            return Ok(());
        }
        Err(StoreError::Misfit(format!(
            "a record of store {} incarnation {} for store {} incarnation {}",
            new.store, new.incarnation.0, old.store, old.incarnation.0
        )))
    }

    fn flush_record(&mut self, record: &mut Option<Record>) -> Result<(), StoreError> {
        match record.take() {
            Some(record) => self.write_record(Body { log: self.body.log, record }),
            None => Ok(()),
        }
    }

    fn write_record(&mut self, body: Body) -> Result<(), StoreError> {
        let (place, bytes) = record::encode(self.generation + 1, &body)
            .ok_or_else(|| StoreError::Misfit("the record is larger than its slot".into()))?;
        self.files.write_at(load::RECORD, place, &bytes)?;
        self.generation += 1;
        self.body = body;
        Ok(())
    }

    fn flush_entries(&mut self, unwritten: &mut Vec<LogEntry>) -> Result<(), StoreError> {
        if unwritten.is_empty() {
            return Ok(());
        }
        let mut frame = log::append(self.body.log, self.next_frame, unwritten);
        let end = self.log_bytes + frame.len() as u64;
        if end > self.log_file_bytes {
            frame.resize(frame.len() + AHEAD_BYTES, 0);
            self.log_file_bytes = end + AHEAD_BYTES as u64;
        }
        self.files.write_at(&log_name(self.body.log), self.log_bytes, &frame)?;
        self.log_bytes = end;
        self.next_frame += 1;
        self.entries.append(unwritten);
        Ok(())
    }

    fn apply(
        &mut self,
        last: Seq,
        seq: Seq,
        ballot: Ballot,
        rows: Vec<(String, Option<Vec<u8>>)>,
    ) -> Result<(), StoreError> {
        if seq <= self.applied.0 || seq > last {
            return Err(StoreError::Misfit(format!(
                "the database at {} cannot move to {seq}: the log ends at {last}",
                self.applied.0
            )));
        }
        self.applied = (seq, ballot);
        self.applies += 1;
        self.pending.extend(rows);
        Ok(())
    }

    fn accept(
        &mut self,
        record: Record,
        after: Seq,
        snapshot: Option<Snapshot>,
        entries: Vec<LogEntry>,
    ) -> Result<(), StoreError> {
        let Some(snapshot) = snapshot else {
            return self.accept_log(record, after, entries);
        };
        // It would come after the snapshot, and be older.
        self.end_checkpoint()?;
        continues(snapshot.seq, &entries)?;
        self.entries = entries;
        self.pending.clear();
        self.applies = 0;
        self.applied = (snapshot.seq, snapshot.ballot);
        self.position.seq = snapshot.seq;
        self.position.ballot = snapshot.ballot;
        let old = self.body.log;
        self.commit(record, Instead::Snapshot(snapshot.clone()))?;
        self.position.replaced_by = self.body.log;
        self.database.replace(&self.position, &snapshot)?;
        self.files.remove(&log_name(old))
    }

    fn accept_log(
        &mut self,
        record: Record,
        after: Seq,
        entries: Vec<LogEntry>,
    ) -> Result<(), StoreError> {
        let last = self.last();
        if after < self.applied.0 || after > last {
            return Err(StoreError::Misfit(format!(
                "the log cannot be cut after {after}: {} is applied and it ends at {last}",
                self.applied.0
            )));
        }
        continues(after, &entries)?;
        if after == last && entries.is_empty() {
            // The log stays as it is: the ordinary case, and it must be quick.
            return self.write_record(Body { log: self.body.log, record });
        }
        self.entries.retain(|e| e.seq <= after);
        self.entries.extend(entries);
        let old = self.body.log;
        self.commit(record, Instead::Nothing)?;
        self.files.remove(&log_name(old))
    }

    /// A copy comes in pieces, into a table of its own; its end is the moment at which a record
    /// names a log that says so.
    fn copy(&mut self, step: CopyStep) -> Result<(), StoreError> {
        match step {
            CopyStep::Begin => self.database.copy_rows(true, &[]),
            CopyStep::Rows { rows } => self.database.copy_rows(false, &rows),
            CopyStep::End { ballot, seq } => {
                if seq < self.last() {
                    return Err(StoreError::Misfit(format!(
                        "a copy of update {seq} for a log that ends at {}",
                        self.last()
                    )));
                }
                self.end_checkpoint()?;
                self.entries.clear();
                self.pending.clear();
                self.applies = 0;
                self.applied = (seq, ballot);
                (self.position.seq, self.position.ballot) = (seq, ballot);
                let old = self.body.log;
                self.commit(self.body.record.clone(), Instead::Copy(ballot))?;
                self.position.replaced_by = self.body.log;
                self.database.take_copy(&self.position)?;
                self.files.remove(&log_name(old))
            }
        }
    }

    /// A new log with what memory has, and the record that names it.
    fn commit(&mut self, record: Record, instead: Instead) -> Result<(), StoreError> {
        let generation = self.body.log + 1;
        let bytes = log::new_file(
            generation,
            &Start {
                store: record.store,
                base: self.position.seq,
                instead,
                entries: self.entries.clone(),
            },
        );
        self.files.replace(&log_name(generation), &bytes)?;
        self.write_record(Body { log: generation, record })?;
        self.next_frame = 1;
        self.log_bytes = bytes.len() as u64;
        self.log_file_bytes = self.log_bytes;
        Ok(())
    }

    /// Sets out to move the database file to what is applied.
    fn begin_checkpoint(&mut self) -> Result<(), StoreError> {
        let position = Position { seq: self.applied.0, ballot: self.applied.1, ..self.position };
        let changes = mem::take(&mut self.pending);
        let database = Arc::clone(&self.database);
        let thread = std::thread::Builder::new()
            .name("wolfpack-rows".into())
            .spawn(move || database.checkpoint(&position, &changes))
            .map_err(|source| StoreError::Io {
                act: "start a thread for",
                path: self.files.path(load::DATABASE),
                source,
            })?;
        self.applies = 0;
        self.checkpointed = Instant::now();
        self.running = Some(Running { position, thread });
        Ok(())
    }

    /// Waits for the checkpoint under way, if there is one, and drops from the log what it has.
    fn end_checkpoint(&mut self) -> Result<(), StoreError> {
        let Some(Running { position, thread }) = self.running.take() else { return Ok(()) };
        thread.join().unwrap_or(Err(StoreError::Stopped))?;
        self.position = position;
        self.entries.retain(|e| e.seq > position.seq);
        let old = self.body.log;
        self.commit(self.body.record.clone(), Instead::Nothing)?;
        self.files.remove(&log_name(old))
    }
}

/// The database's file is free for the next who opens it only when its thread is done.
impl Drop for Store {
    fn drop(&mut self) {
        if let Some(running) = self.running.take() {
            // What it could not write is still in the log.
            let _ = running.thread.join();
        }
    }
}

/// Whether `entries` continue a log that ends at `last`.
fn continues(last: Seq, entries: &[LogEntry]) -> Result<(), StoreError> {
    let mut expected = last;
    for entry in entries {
        expected = expected.next();
        if entry.seq != expected {
            return Err(StoreError::Misfit(format!(
                "update {} for the log, which goes on with {expected}",
                entry.seq
            )));
        }
    }
    Ok(())
}
