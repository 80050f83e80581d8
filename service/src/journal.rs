//! The event log of this node: its own events and, as far as they came here, those of the others;
//! kept in memory for readers and in files for later, and said in the service's log.
//!
//! The core numbers and stamps; here nothing is decided. Recording never waits for a disk: files are
//! written by sinks of their own, and what does not fit or cannot be written is dropped and counted.

use std::collections::{BTreeSet, VecDeque};
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use wolfpack_core::EventStart;
use wolfpack_netdrv::clock::boottime;
use wolfpack_types::NodeId;
use wolfpack_types::event::{EventId, Severity, StampedEvent};

use crate::sink::Sink;

/// Events kept in memory, of this node and as many of the others.
const RING: usize = 10_000;
/// Of each, so many are given to a new core, to send to nodes that missed them.
const RECENT: usize = 1024;
/// A file of events; one older one is kept beside it.
const FILE_BYTES_MAX: u64 = 4 << 20;

const OWN_FILE: &str = "events.jsonl";
const OTHERS_FILE: &str = "events-others.jsonl";

/// Now, by the wall clock and by CLOCK_BOOTTIME, in microseconds.
pub(crate) fn stamp() -> (u64, u64) {
    let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    (u64::try_from(wall.as_micros()).unwrap_or(u64::MAX), boottime().0 / 1000)
}

/// The event log. Clones are handles of the same one.
#[derive(Clone, Debug)]
pub(crate) struct Journal {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    me: NodeId,
    own_file: Option<Sink>,
    others_file: Option<Sink>,
    log: Mutex<Log>,
    news: Condvar,
}

/// What is in memory.
#[derive(Debug, Default)]
struct Log {
    own: Ring,
    others: Ring,
    /// What is in `others`: an event may come from two nodes.
    known: BTreeSet<EventId>,
    /// Events recorded since the log was opened: the order in which they came.
    count: u64,
}

#[derive(Debug, Default)]
struct Ring {
    /// With the place of each in the order in which they came.
    events: VecDeque<(u64, Arc<StampedEvent>)>,
    /// Events pushed out so far.
    gone: u64,
}

impl Ring {
    fn push(&mut self, place: u64, event: Arc<StampedEvent>) -> Option<Arc<StampedEvent>> {
        self.events.push_back((place, event));
        if self.events.len() <= RING {
            return None;
        }
        self.gone += 1;
        self.events.pop_front().map(|(_, e)| e)
    }

    /// What is kept from the `from`th event on, and how many before that are gone.
    fn from(&self, from: u64) -> (impl Iterator<Item = &(u64, Arc<StampedEvent>)>, u64) {
        let skip = usize::try_from(from.saturating_sub(self.gone)).unwrap_or(usize::MAX);
        (self.events.iter().skip(skip), self.gone.saturating_sub(from))
    }
}

/// How far a reader has come: how many events of each ring it has passed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Cursor {
    own: u64,
    others: u64,
    /// Events of the other nodes are wanted too.
    all_nodes: bool,
}

/// What a reader gets at once.
#[derive(Debug, Default)]
pub(crate) struct Read {
    /// Events before these that are gone: the reader was too slow.
    pub(crate) dropped: u64,
    pub(crate) events: Vec<Arc<StampedEvent>>,
}

/// A reader asks for what is later than an event that has not happened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct NotYet {
    pub(crate) newest: u64,
}

impl Journal {
    /// Opens the log of node `me` in `dir` and goes on where it ended. A file that cannot be used
    /// costs the history, not the service.
    pub(crate) fn open(me: NodeId, dir: &Path) -> Self {
        let mut log = Log::default();
        for event in read_back(dir, OWN_FILE) {
            // Numbers only grow; readers rely on it.
            let last = log.own.events.back().map_or(0, |(_, e)| e.number);
            if event.id.node == me && event.number > last {
                log.add_own(Arc::new(event));
            }
        }
        for event in read_back(dir, OTHERS_FILE) {
            if event.id.node != me {
                log.add_other(Arc::new(event));
            }
        }
        let file = |name, thread| {
            let file = RotatingFile::open(dir, name).and_then(|f| {
                // A gap in the numbers tells the same; JSON lines have no room for remarks.
                Sink::start(thread, Box::new(f), |_| Vec::new())
            });
            let file = file.inspect_err(|e| {
                tracing::warn!("events are not kept in {}: {e}", dir.join(name).display());
            });
            file.ok()
        };
        let own_file = file(OWN_FILE, "wolfpack-events");
        let others_file = file(OTHERS_FILE, "wolfpack-others");
        let (log, news) = (Mutex::new(log), Condvar::new());
        Self { shared: Arc::new(Shared { me, own_file, others_file, log, news }) }
    }

    /// Where the core is to go on.
    pub(crate) fn start(&self) -> EventStart {
        let log = self.log();
        let newest = |ring: &Ring| -> Vec<StampedEvent> {
            let skip = ring.events.len().saturating_sub(RECENT);
            ring.events.iter().skip(skip).map(|(_, e)| e.as_ref().clone()).collect()
        };
        let mut recent = newest(&log.own);
        recent.extend(newest(&log.others));
        EventStart { next: log.newest() + 1, wall_ms: stamp().0 / 1000, recent }
    }

    /// Records an event of this node.
    pub(crate) fn record(&self, event: StampedEvent) {
        match event.event.severity {
            Severity::Info => tracing::info!("{event}"),
            Severity::Warning => tracing::warn!("{event}"),
            Severity::Error => tracing::error!("{event}"),
        }
        let mut log = self.log();
        write(self.shared.own_file.as_ref(), &event);
        log.add_own(Arc::new(event));
        drop(log);
        self.shared.news.notify_all();
    }

    /// Records events of other nodes.
    pub(crate) fn record_others(&self, events: Vec<StampedEvent>) {
        let mut log = self.log();
        for event in events {
            let event = Arc::new(event);
            if event.id.node != self.shared.me && log.add_other(Arc::clone(&event)) {
                write(self.shared.others_file.as_ref(), &event);
            }
        }
        drop(log);
        self.shared.news.notify_all();
    }

    /// A reader of what comes after the own event of this number; 0: of everything kept.
    ///
    /// # Errors
    /// That event has not happened yet.
    pub(crate) fn after(&self, number: u64, all_nodes: bool) -> Result<(Cursor, bool), NotYet> {
        let log = self.log();
        let newest = log.newest();
        if number > newest {
            return Err(NotYet { newest });
        }
        let events = &log.own.events;
        let passed = events.partition_point(|(_, e)| e.number <= number);
        let place = passed.checked_sub(1).and_then(|i| events.get(i)).map_or(0, |(p, _)| *p);
        let others = log.others.events.partition_point(|(p, _)| number > 0 && *p <= place);
        let cursor = Cursor {
            own: log.own.gone + passed as u64,
            others: log.others.gone + others as u64,
            all_nodes,
        };
        // What was between it and the oldest that is kept, if anything, is gone.
        let gone = number > 0 && passed == 0 && !events.is_empty();
        Ok((cursor, gone))
    }

    /// At most `max` events after the cursor, in the order in which they came here.
    pub(crate) fn read(&self, cursor: &mut Cursor, max: usize) -> Read {
        let log = self.log();
        let (own, mut dropped) = log.own.from(cursor.own);
        cursor.own = cursor.own.max(log.own.gone);
        let mut own = own.peekable();
        let mut events = Vec::new();
        if !cursor.all_nodes {
            events.extend(own.take(max).map(|(_, e)| Arc::clone(e)));
            cursor.own += events.len() as u64;
            return Read { dropped, events };
        }
        let (others, gone) = log.others.from(cursor.others);
        dropped += gone;
        cursor.others = cursor.others.max(log.others.gone);
        let mut others = others.peekable();
        while events.len() < max {
            let own_first = match (own.peek(), others.peek()) {
                (Some((a, _)), Some((b, _))) => a < b,
                (Some(_), None) => true,
                (None, Some(_)) => false,
                (None, None) => break,
            };
            let next = if own_first { own.next() } else { others.next() };
            *(if own_first { &mut cursor.own } else { &mut cursor.others }) += 1;
            events.extend(next.map(|(_, e)| Arc::clone(e)));
        }
        Read { dropped, events }
    }

    /// Everything that is kept, of all nodes.
    pub(crate) fn everything(&self) -> Vec<Arc<StampedEvent>> {
        let log = self.log();
        let all = log.own.events.iter().chain(&log.others.events);
        all.map(|(_, e)| Arc::clone(e)).collect()
    }

    /// Waits until there is something after the cursor, at most `patience`.
    pub(crate) fn wait(&self, cursor: Cursor, patience: Duration) {
        let nothing = |log: &mut Log| {
            let end = |ring: &Ring| ring.gone + ring.events.len() as u64;
            end(&log.own) <= cursor.own && (!cursor.all_nodes || end(&log.others) <= cursor.others)
        };
        // What it returns does not matter: the caller looks again.
        let _ = self.shared.news.wait_timeout_while(self.log(), patience, nothing);
    }

    /// Waits until what was recorded is written, at most `patience` for each file.
    pub(crate) fn flush(&self, patience: Duration) {
        for file in [&self.shared.own_file, &self.shared.others_file].into_iter().flatten() {
            file.flush(patience);
        }
    }

    fn log(&self) -> std::sync::MutexGuard<'_, Log> {
        // A panic ends the process; if one is under way, the log is still whole.
        self.shared.log.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Log {
    /// The number of the newest own event.
    fn newest(&self) -> u64 {
        self.own.events.back().map_or(0, |(_, e)| e.number)
    }

    fn add_own(&mut self, event: Arc<StampedEvent>) {
        self.count += 1;
        self.own.push(self.count, event);
    }

    /// Whether it was new.
    fn add_other(&mut self, event: Arc<StampedEvent>) -> bool {
        let new = self.known.insert(event.id);
        if new {
            self.count += 1;
            if let Some(old) = self.others.push(self.count, event) {
                self.known.remove(&old.id);
            }
        }
        new
    }
}

fn write(file: Option<&Sink>, event: &StampedEvent) {
    if let Some(file) = file
        && let Ok(mut line) = serde_json::to_vec(event)
    {
        line.push(b'\n');
        file.write(line);
    }
}

fn old_name(name: &str) -> String {
    format!("{name}.1")
}

/// Reads what earlier lives have written, the newest last. A line that is no event (torn by a
/// crash, or of another version) is left out.
fn read_back(dir: &Path, name: &str) -> VecDeque<StampedEvent> {
    let mut events = VecDeque::new();
    for name in [old_name(name), name.to_owned()] {
        let path = dir.join(name);
        let Ok(file) = File::open(&path) else { continue };
        let mut lines = BufReader::new(io::Read::take(file, 2 * FILE_BYTES_MAX));
        let mut line = Vec::new();
        loop {
            line.clear();
            match lines.read_until(b'\n', &mut line) {
                Ok(0) => break,
                Ok(_) => {}
                Err(e) => {
                    tracing::warn!("cannot read {}: {e}", path.display());
                    break;
                }
            }
            let Ok(event) = serde_json::from_slice::<StampedEvent>(&line) else { continue };
            if events.len() == RING {
                events.pop_front();
            }
            events.push_back(event);
        }
    }
    events
}

/// A file, replaced by a new one when it is full.
#[derive(Debug)]
struct RotatingFile {
    dir: PathBuf,
    name: &'static str,
    file: File,
    bytes: u64,
    /// Lines that could not be written since the last one that could.
    failed: u64,
}

impl RotatingFile {
    fn open(dir: &Path, name: &'static str) -> io::Result<Self> {
        let path = dir.join(name);
        let mut file = OpenOptions::new().create(true).append(true).mode(0o600).open(&path)?;
        let bytes = file.metadata()?.len();
        if bytes > 0 && !fs::read(&path)?.ends_with(b"\n") {
            // A line that a crash cut short must not swallow the next one.
            file.write_all(b"\n")?;
        }
        Ok(Self { dir: dir.to_owned(), name, file, bytes, failed: 0 })
    }

    fn path(&self) -> PathBuf {
        self.dir.join(self.name)
    }

    fn append(&mut self, line: &[u8]) -> io::Result<()> {
        if self.bytes >= FILE_BYTES_MAX {
            fs::rename(self.dir.join(self.name), self.dir.join(old_name(self.name)))?;
            *self = Self { failed: self.failed, ..Self::open(&self.dir, self.name)? };
        }
        if self.failed > 0 {
            // The last one may have been written in part.
            self.file.write_all(b"\n")?;
        }
        self.file.write_all(line)?;
        self.bytes += line.len() as u64;
        Ok(())
    }
}

impl Write for RotatingFile {
    /// Takes every line: one that cannot be written (the disk is full) is dropped and counted.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        match self.append(line) {
            Ok(()) if self.failed > 0 => {
                tracing::warn!("{} events are missing in {}", self.failed, self.path().display());
                self.failed = 0;
            }
            Ok(()) => {}
            Err(e) => {
                if self.failed == 0 {
                    tracing::error!("events are not kept in {}: {e}", self.path().display());
                }
                self.failed += 1;
            }
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

#[cfg(test)]
mod tests;
