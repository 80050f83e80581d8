//! The events of this node: numbered, stamped, kept in memory for readers and in a file for later,
//! and said in the log.
//!
//! Recording never waits for a disk: the file is written by a sink of its own.

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use wolfpack_netdrv::clock::boottime;
use wolfpack_types::api::StampedEvent;
use wolfpack_types::event::{Event, Severity};

use crate::sink::Sink;

/// Events kept in memory.
const RING: usize = 10_000;
/// A file of events; one older one is kept beside it.
const FILE_BYTES_MAX: u64 = 4 << 20;

const FILE: &str = "events.jsonl";
const OLD_FILE: &str = "events.jsonl.1";

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
    node: String,
    file: Option<Sink>,
    ring: Mutex<Ring>,
    news: Condvar,
}

#[derive(Debug)]
struct Ring {
    last: u64,
    events: VecDeque<Arc<StampedEvent>>,
}

impl Journal {
    /// Opens the log of `node` in `dir` and goes on where it ended. A file that cannot be used
    /// costs the history, not the service.
    pub(crate) fn open(node: &str, dir: &Path) -> Self {
        let mut events = VecDeque::new();
        for name in [OLD_FILE, FILE] {
            read_back(&dir.join(name), &mut events);
        }
        let last = events.back().map_or(0, |e: &Arc<StampedEvent>| e.number);
        let file = RotatingFile::open(dir).and_then(|f| {
            // A gap in the numbers tells the same; JSON lines have no room for remarks.
            Sink::start("wolfpack-events", Box::new(f), |_| Vec::new())
        });
        let file = file.inspect_err(|e| {
            tracing::warn!("events are not kept in {}: {e}", dir.join(FILE).display());
        });
        let ring = Mutex::new(Ring { last, events });
        let shared = Shared { node: node.to_owned(), file: file.ok(), ring, news: Condvar::new() };
        Self { shared: Arc::new(shared) }
    }

    /// Records an event.
    pub(crate) fn record(&self, event: Event) {
        match event.severity {
            Severity::Info => tracing::info!("{}", event.text),
            Severity::Warning => tracing::warn!("{}", event.text),
            Severity::Error => tracing::error!("{}", event.text),
        }
        let (wall_us, boot_us) = stamp();
        let node = self.shared.node.clone();
        let mut ring = self.ring();
        ring.last += 1;
        let stamped = StampedEvent { number: ring.last, wall_us, boot_us, node, event };
        if let Some(file) = &self.shared.file
            && let Ok(mut line) = serde_json::to_vec(&stamped)
        {
            line.push(b'\n');
            file.write(line);
        }
        if ring.events.len() == RING {
            ring.events.pop_front();
        }
        ring.events.push_back(Arc::new(stamped));
        drop(ring);
        self.shared.news.notify_all();
    }

    /// At most `max` events later than number `after`, oldest first.
    pub(crate) fn later(&self, after: u64, max: usize) -> Vec<Arc<StampedEvent>> {
        let ring = self.ring();
        let first = ring.events.partition_point(|e| e.number <= after);
        ring.events.iter().skip(first).take(max).cloned().collect()
    }

    /// Waits until there is an event later than `after`, at most `patience`.
    pub(crate) fn wait(&self, after: u64, patience: Duration) {
        let ring = self.ring();
        // What it returns does not matter: the caller looks again.
        let _ = self.shared.news.wait_timeout_while(ring, patience, |r| r.last <= after);
    }

    /// Waits until what was recorded is written, at most `patience`.
    pub(crate) fn flush(&self, patience: Duration) {
        if let Some(file) = &self.shared.file {
            file.flush(patience);
        }
    }

    fn ring(&self) -> std::sync::MutexGuard<'_, Ring> {
        // A panic ends the process; if one is under way, the ring is still whole.
        self.shared.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads what an earlier life has written. A line that is no event (torn by a crash, or of another
/// version) is left out.
fn read_back(path: &Path, events: &mut VecDeque<Arc<StampedEvent>>) {
    let Ok(file) = File::open(path) else { return };
    let mut lines = BufReader::new(io::Read::take(file, 2 * FILE_BYTES_MAX));
    let mut line = Vec::new();
    loop {
        line.clear();
        match lines.read_until(b'\n', &mut line) {
            Ok(0) => return,
            Ok(_) => {}
            Err(e) => {
                tracing::warn!("cannot read {}: {e}", path.display());
                return;
            }
        }
        let Ok(event) = serde_json::from_slice::<StampedEvent>(&line) else { continue };
        // Numbers only grow; `later` relies on it.
        if events.back().is_none_or(|last| last.number < event.number) {
            if events.len() == RING {
                events.pop_front();
            }
            events.push_back(Arc::new(event));
        }
    }
}

/// The file, replaced by a new one when it is full.
#[derive(Debug)]
struct RotatingFile {
    dir: PathBuf,
    file: File,
    bytes: u64,
}

impl RotatingFile {
    fn open(dir: &Path) -> io::Result<Self> {
        let path = dir.join(FILE);
        let mut file = OpenOptions::new().create(true).append(true).mode(0o600).open(&path)?;
        let bytes = file.metadata()?.len();
        if bytes > 0 && !fs::read(&path)?.ends_with(b"\n") {
            // A line that a crash cut short must not swallow the next one.
            file.write_all(b"\n")?;
        }
        Ok(Self { dir: dir.to_owned(), file, bytes })
    }
}

impl Write for RotatingFile {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.bytes >= FILE_BYTES_MAX {
            fs::rename(self.dir.join(FILE), self.dir.join(OLD_FILE))?;
            *self = Self::open(&self.dir)?;
        }
        self.file.write_all(line)?;
        self.bytes += line.len() as u64;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

#[cfg(test)]
mod tests {
    use wolfpack_types::event::EventKind;

    use super::*;

    fn event(n: u64) -> Event {
        let kind = EventKind::UpdateApplied { seq: n, what: "x".into() };
        Event { kind, severity: Severity::Info, text: format!("event {n}") }
    }

    fn numbers(events: &[Arc<StampedEvent>]) -> Vec<u64> {
        events.iter().map(|e| e.number).collect()
    }

    #[test]
    fn numbers_go_on_over_lives_and_torn_lines_are_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let journal = Journal::open("a", dir.path());
        for n in 1..=3 {
            journal.record(event(n));
        }
        journal.flush(Duration::from_secs(60));
        let path = dir.path().join(FILE);
        let mut bytes = fs::read(&path).unwrap();
        bytes.extend_from_slice(b"{\"number\":4,\"wall");
        fs::write(&path, bytes).unwrap();

        let journal = Journal::open("a", dir.path());
        journal.record(event(4));
        assert_eq!(numbers(&journal.later(0, 100)), [1, 2, 3, 4]);
        assert_eq!(numbers(&journal.later(2, 1)), [3]);
        assert!(journal.later(4, 100).is_empty());
        journal.flush(Duration::from_secs(60));
        let journal = Journal::open("a", dir.path());
        assert_eq!(numbers(&journal.later(0, 100)), [1, 2, 3, 4]);
        assert_eq!(journal.later(3, 1)[0].event, event(4));
    }

    #[test]
    fn files_and_memory_are_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let journal = Journal::open("a", dir.path());
        let long = "y".repeat(2000);
        let count = RING as u64 + 500;
        for n in 1..=count {
            journal.record(Event { text: long.clone(), ..event(n) });
            if n % 1000 == 0 {
                journal.flush(Duration::from_secs(60));
            }
        }
        journal.flush(Duration::from_secs(60));
        let all = journal.later(0, usize::MAX);
        assert_eq!((all.len(), all[0].number), (RING, 501));
        for name in [FILE, OLD_FILE] {
            let bytes = fs::metadata(dir.path().join(name)).unwrap().len();
            assert!(bytes > 0 && bytes <= FILE_BYTES_MAX + 4096, "{name} has {bytes} bytes");
        }
        // Both files together still give a run without a gap that ends at the last event.
        let kept = numbers(&Journal::open("a", dir.path()).later(0, usize::MAX));
        assert_eq!(kept.last(), Some(&count));
        assert!(kept.windows(2).all(|w| w[1] == w[0] + 1));
    }

    #[test]
    fn a_reader_is_woken() {
        let dir = tempfile::tempdir().unwrap();
        let journal = Journal::open("a", dir.path());
        let other = journal.clone();
        let reader = std::thread::spawn(move || {
            while other.later(0, 1).is_empty() {
                other.wait(0, Duration::from_secs(60));
            }
        });
        journal.record(event(1));
        reader.join().unwrap();
    }
}
