//! The disk watcher: reads the data disk's backing file beside the target, and checks the records
//! that the demo application writes: the counter has no gap, a record once written never changes,
//! and a tenure never comes back after another has written.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};

use super::{Shared, Watching};
use crate::record::{RECORD_BYTES, RING, Record};

const PERIOD: Duration = Duration::from_millis(50);
/// So many of the newest records are read again each time: a late write of a former owner hits
/// the neighbourhood of the newest record.
const AGAIN: u64 = 64;

/// One run of records of one tenure.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Tenure {
    pub id: u64,
    pub node: String,
    pub first: u64,
    pub last: u64,
    /// When its first and last record were written, CLOCK_BOOTTIME, microseconds.
    pub first_us: u64,
    pub last_us: u64,
}

#[derive(Debug, Default)]
struct Notes {
    next: u64,
    tenures: Vec<Tenure>,
    recent: BTreeMap<u64, Record>,
    breaches: Vec<String>,
}

impl Notes {
    /// Takes a record that stands where counter `next` belongs.
    fn take(&mut self, record: Record) {
        self.next = record.counter + 1;
        let known = self.tenures.iter().rposition(|t| t.id == record.tenure);
        match known {
            Some(at) if at + 1 == self.tenures.len() => {
                let tenure = &mut self.tenures[at];
                (tenure.last, tenure.last_us) = (record.counter, record.time_us);
            }
            Some(_) => self.breaches.push(format!(
                "tenure {:x} of node {} wrote record {} after another tenure had begun",
                record.tenure, record.node, record.counter
            )),
            None => self.tenures.push(Tenure {
                id: record.tenure,
                node: record.node.clone(),
                first: record.counter,
                last: record.counter,
                first_us: record.time_us,
                last_us: record.time_us,
            }),
        }
        self.recent.insert(record.counter, record);
        while self.recent.len() as u64 > AGAIN {
            self.recent.pop_first();
        }
    }

    /// Compares what stands there now with what stood there before.
    fn again(&mut self, counter: u64, found: Option<Record>) {
        let Some(before) = self.recent.get(&counter) else { return };
        if found.as_ref() == Some(before) {
            return;
        }
        let now = found.as_ref().map_or_else(|| "no record".into(), |r| format!("{r:?}"));
        self.breaches.push(format!("record {counter} changed: it was {before:?}, it is {now}"));
        // Said once.
        if let Some(found) = found {
            self.recent.insert(counter, found);
        }
    }
}

/// The watcher and its thread.
#[derive(Debug)]
pub struct DiskWatcher {
    watching: Watching<Notes, Result<()>>,
}

impl DiskWatcher {
    /// Starts reading.
    ///
    /// # Errors
    /// The backing file cannot be opened.
    pub fn start(image: &Path) -> Result<Self> {
        let file = File::open(image).with_context(|| format!("disk image {}", image.display()))?;
        let shared = Arc::new(Shared::<Notes>::default());
        let theirs = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("lab-disk".into()).spawn(move || {
            while !theirs.stopped() {
                look(&theirs, &file)?;
                std::thread::sleep(PERIOD);
            }
            look(&theirs, &file)
        })?;
        Ok(Self { watching: Watching { shared, thread: Some(thread) } })
    }

    /// The tenures so far, oldest first.
    #[must_use]
    pub fn tenures(&self) -> Vec<Tenure> {
        self.watching.shared.notes().tenures.clone()
    }

    /// Records seen so far.
    #[must_use]
    pub fn records(&self) -> u64 {
        self.watching.shared.notes().next
    }

    /// Every breach.
    #[must_use]
    pub fn breaches(&self) -> Vec<String> {
        self.watching.shared.notes().breaches.clone()
    }
}

fn look(shared: &Shared<Notes>, file: &File) -> Result<()> {
    let read = |counter: u64| -> Result<Option<Record>> {
        let mut block = [0; RECORD_BYTES];
        file.read_exact_at(&mut block, Record::offset(counter))?;
        Ok(Record::decode(&block))
    };
    let mut notes = shared.notes();
    let recent: Vec<u64> = notes.recent.keys().copied().collect();
    for counter in recent {
        let found = read(counter)?;
        notes.again(counter, found);
    }
    // At most one round, so that a disk of impossible content cannot hold the watcher.
    for _ in 0..RING {
        let next = notes.next;
        match read(next)? {
            Some(record) if record.counter == next => notes.take(record),
            Some(record) if record.counter > next => {
                notes.breaches.push(format!("record {next} is missing, {record:?} is there"));
                notes.take(record);
            }
            _ => break,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(counter: u64, tenure: u64) -> Record {
        Record { tenure, counter, time_us: counter, node: format!("n{tenure}") }
    }

    #[test]
    fn tenures_that_follow_each_other_are_fine() {
        let mut notes = Notes::default();
        for (counter, tenure) in [(0, 1), (1, 1), (2, 2), (3, 2), (4, 3)] {
            notes.take(record(counter, tenure));
        }
        assert!(notes.breaches.is_empty());
        assert_eq!(notes.tenures.len(), 3);
        assert_eq!((notes.tenures[1].first, notes.tenures[1].last), (2, 3));
    }

    #[test]
    fn a_tenure_that_comes_back_is_a_breach() {
        let mut notes = Notes::default();
        for (counter, tenure) in [(0, 1), (1, 2), (2, 1)] {
            notes.take(record(counter, tenure));
        }
        assert_eq!(notes.breaches.len(), 1);
        assert!(notes.breaches[0].contains("after another tenure"));
    }

    #[test]
    fn a_changed_record_is_a_breach() {
        let mut notes = Notes::default();
        notes.take(record(0, 1));
        notes.again(0, Some(record(0, 1)));
        assert!(notes.breaches.is_empty());
        notes.again(0, Some(record(0, 2)));
        assert_eq!(notes.breaches.len(), 1);
        notes.again(0, Some(record(0, 2)));
        assert_eq!(notes.breaches.len(), 1, "said once");
    }
}
