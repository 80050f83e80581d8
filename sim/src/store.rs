//! A node's store: a queue of durable steps with random latency, and what a start finds of them.
//!
//! Steps become durable in order, each whole or not at all (that bytes which are torn in the midst of
//! a step come to one of the two is `store`'s, whose crash tests tear every byte). A crash drops what
//! waits, but for a beginning of it that became durable before anybody was told. The database may fall back to its last
//! checkpoint, since the log has the rest.

use std::collections::{BTreeMap, VecDeque};

use wolfpack_types::store::{CopyStep, Loaded, Persist, Record, Snapshot};
use wolfpack_types::update::LogEntry;
use wolfpack_types::{Ballot, Guid, Incarnation, Seq, StoreId};

use crate::clock::Time;
use crate::draw::{Delays, Dice, nanos};

/// Updates between two durable commits of the database.
const CHECKPOINT_EVERY: u64 = 12;

/// The database at one position.
#[derive(Clone, Debug, Default)]
struct Rows {
    seq: Seq,
    ballot: Ballot,
    rows: BTreeMap<String, Vec<u8>>,
}

impl Rows {
    fn of(snapshot: &Snapshot) -> Self {
        Self {
            seq: snapshot.seq,
            ballot: snapshot.ballot,
            rows: snapshot.rows.iter().cloned().collect(),
        }
    }

    fn snapshot(&self) -> Snapshot {
        Snapshot {
            seq: self.seq,
            ballot: self.ballot,
            rows: self.rows.iter().map(|(k, v)| (k.clone(), v.clone())).collect(),
        }
    }
}

/// What is durable, and what waits to be.
#[derive(Debug)]
pub struct Store {
    record: Record,
    checkpoint: Rows,
    current: Rows,
    /// After the checkpoint.
    log: Vec<LogEntry>,
    waiting: VecDeque<(u64, Persist)>,
    last_due: Time,
    /// Not to be trusted any more: the next life begins with a new one.
    retired: bool,
    /// Rows of a copy that has not come to its end.
    copy: BTreeMap<String, Vec<u8>>,
}

impl Store {
    /// A new store.
    #[must_use]
    pub fn new(identity: u128) -> Self {
        Self {
            record: Record { store: StoreId(Guid(identity)), ..Record::default() },
            checkpoint: Rows::default(),
            current: Rows::default(),
            log: Vec::new(),
            waiting: VecDeque::new(),
            last_due: 0,
            retired: false,
            copy: BTreeMap::new(),
        }
    }

    /// A new store in place of one that is lost, with another identity. Its incarnations begin far
    /// above the former ones, as those of the daemon do, which count seconds.
    #[must_use]
    pub fn in_place_of(lost: &Self) -> Self {
        let mut store = Self::new(lost.record.store.0.0 + 1);
        store.record.incarnation = Incarnation(lost.record.incarnation.0 + 1_000);
        store
    }

    /// The durable record.
    #[must_use]
    pub const fn record(&self) -> &Record {
        &self.record
    }

    /// Position and ballot of the last durable entry.
    #[must_use]
    pub fn last(&self) -> (Ballot, Seq) {
        self.log.last().map_or((self.checkpoint.ballot, self.checkpoint.seq), |e| (e.ballot, e.seq))
    }

    /// Up to here the log is only in the database.
    #[must_use]
    pub const fn base(&self) -> Seq {
        self.checkpoint.seq
    }

    /// The durable log after [`Store::base`].
    #[must_use]
    pub fn entries(&self) -> Vec<LogEntry> {
        self.log.clone()
    }

    /// Queues a step; the answer says when it is durable.
    pub fn queue(
        &mut self,
        now: Time,
        dice: &mut Dice,
        delays: Delays,
        id: u64,
        step: Persist,
    ) -> Time {
        self.last_due = self.last_due.max(now) + nanos(delays.draw(dice));
        self.waiting.push_back((id, step));
        self.last_due
    }

    /// The next step is durable now.
    ///
    /// # Errors
    /// A step that cannot follow what is there: the log would have a gap.
    pub fn complete(&mut self) -> Result<Option<(u64, Persist)>, String> {
        let Some((id, step)) = self.waiting.pop_front() else { return Ok(None) };
        self.apply(&step)?;
        Ok(Some((id, step)))
    }

    /// The service is gone. The step that was under way may have become durable without anybody
    /// having been told, and sometimes those after it. The next step, if any has become durable;
    /// None: the rest is lost.
    ///
    /// # Errors
    /// As [`Store::complete`].
    pub fn crash(&mut self, dice: &mut Dice) -> Result<Option<Persist>, String> {
        let under_way = self.waiting.pop_front().filter(|_| dice.permille(400));
        if let Some((_, step)) = under_way {
            self.apply(&step)?;
            return Ok(Some(step));
        }
        self.waiting.clear();
        Ok(None)
    }

    fn apply(&mut self, step: &Persist) -> Result<(), String> {
        match step {
            Persist::Record(record) => self.record = record.clone(),
            Persist::Accept { record, after, snapshot, entries } => {
                self.record = record.clone();
                if let Some(snapshot) = snapshot {
                    self.checkpoint = Rows::of(snapshot);
                    self.current = self.checkpoint.clone();
                    self.log.clear();
                } else {
                    if *after < self.current.seq {
                        return Err(format!(
                            "an accept cuts the log after {after}, the database is at {}",
                            self.current.seq
                        ));
                    }
                    self.log.retain(|e| e.seq <= *after);
                }
                self.extend(entries)?;
            }
            Persist::Append { entries } => self.extend(entries)?,
            Persist::Apply { seq, ballot, rows } => {
                if *seq > self.last().1 {
                    return Err(format!("update {seq} is applied before it is in the log"));
                }
                self.current.seq = *seq;
                self.current.ballot = *ballot;
                for (key, value) in rows {
                    match value {
                        Some(value) => {
                            self.current.rows.insert(key.clone(), value.clone());
                        }
                        None => {
                            self.current.rows.remove(key);
                        }
                    }
                }
                if self.current.seq.0 >= self.checkpoint.seq.0 + CHECKPOINT_EVERY {
                    self.checkpoint = self.current.clone();
                    let upto = self.checkpoint.seq;
                    self.log.retain(|e| e.seq > upto);
                }
            }
            Persist::Retire => self.retired = true,
            Persist::Copy(CopyStep::Begin) => self.copy.clear(),
            Persist::Copy(CopyStep::Rows { rows }) => self.copy.extend(rows.iter().cloned()),
            Persist::Copy(CopyStep::End { ballot, seq }) => {
                if *seq < self.last().1 {
                    return Err(format!("a copy at {seq} replaces a log up to {}", self.last().1));
                }
                let rows = std::mem::take(&mut self.copy);
                self.checkpoint = Rows { seq: *seq, ballot: *ballot, rows };
                self.current = self.checkpoint.clone();
                self.log.clear();
            }
        }
        Ok(())
    }

    fn extend(&mut self, entries: &[LogEntry]) -> Result<(), String> {
        for entry in entries {
            let last = self.last().1;
            if entry.seq != last.next() {
                return Err(format!("the log ends at {last} and is continued with {}", entry.seq));
            }
            self.log.push(entry.clone());
        }
        Ok(())
    }

    /// A new life: the incarnation is raised durably, and this is what it finds.
    pub fn load(&mut self, now: Time, dice: &mut Dice) -> Loaded {
        if self.retired {
            *self = Self::in_place_of(self);
        }
        self.record.incarnation = Incarnation(self.record.incarnation.0 + 1);
        self.last_due = now;
        if dice.permille(400) {
            self.current = self.checkpoint.clone();
        }
        let database = self.current.snapshot();
        let log = self.log.iter().filter(|e| e.seq > database.seq).cloned().collect();
        let new_store = self.record.accepted.is_none();
        Loaded { record: self.record.clone(), database, log, new_store }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wolfpack_types::update::Update;

    fn entry(seq: u64) -> LogEntry {
        LogEntry {
            ballot: Ballot::ZERO,
            seq: Seq(seq),
            wall_ms: 0,
            request: None,
            update: Update::Batch(vec![]),
            cause: None,
        }
    }

    fn delays() -> Delays {
        Delays { quick_us: 10, usual_us: 10, slow_us: 10 }
    }

    #[test]
    fn a_crash_drops_what_waits_and_a_gap_is_told() {
        let mut dice = Dice::new(1, 1);
        let mut store = Store::new(1);
        store.queue(0, &mut dice, delays(), 1, Persist::Append { entries: vec![entry(1)] });
        assert_eq!(store.complete().unwrap().unwrap().0, 1);
        store.queue(0, &mut dice, delays(), 2, Persist::Append { entries: vec![entry(2)] });
        store.queue(0, &mut dice, delays(), 3, Persist::Append { entries: vec![entry(3)] });
        while store.crash(&mut dice).unwrap().is_some() {}
        let loaded = store.load(0, &mut dice);
        let kept: Vec<u64> = loaded.log.iter().map(|e| e.seq.0).collect();
        assert!([1, 2, 3].starts_with(&kept) && !kept.is_empty(), "a beginning: {kept:?}");
        assert_eq!(loaded.record.incarnation, Incarnation(1));
        store.queue(0, &mut dice, delays(), 4, Persist::Append { entries: vec![entry(9)] });
        assert!(store.complete().is_err());
    }

    #[test]
    fn the_database_may_fall_back_but_the_log_has_the_rest() {
        let mut dice = Dice::new(5, 1);
        let mut store = Store::new(1);
        for seq in 1..=30 {
            store.queue(0, &mut dice, delays(), 1, Persist::Append { entries: vec![entry(seq)] });
            store.complete().unwrap();
            let rows = vec![("k".to_owned(), Some(vec![u8::try_from(seq).unwrap()]))];
            let apply = Persist::Apply { seq: Seq(seq), ballot: Ballot::ZERO, rows };
            store.queue(0, &mut dice, delays(), 2, apply);
            store.complete().unwrap();
            let loaded = store.load(0, &mut dice);
            assert_eq!(loaded.database.seq.0 + loaded.log.len() as u64, seq);
        }
    }
}
