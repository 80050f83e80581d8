//! The log of updates in memory: what follows the database, and a tail of what is already in it,
//! kept to bring members that lag behind up to date without a snapshot.

use std::collections::VecDeque;

use wolfpack_types::update::LogEntry;
use wolfpack_types::{Ballot, Seq};

/// Committed entries kept for members that lag behind.
const KEPT_MAX: usize = 512;

/// Entries `(base, last]`, gap-free. The base is what a snapshot stands for.
#[derive(Clone, Debug, Default)]
pub(crate) struct Log {
    base: (Ballot, Seq),
    entries: VecDeque<LogEntry>,
}

impl Log {
    pub(crate) fn new(base: (Ballot, Seq), entries: impl IntoIterator<Item = LogEntry>) -> Self {
        let mut log = Self { base, entries: VecDeque::new() };
        for e in entries {
            log.push(e);
        }
        log
    }

    /// Ballot and position of the last entry.
    pub(crate) fn last(&self) -> (Ballot, Seq) {
        self.entries.back().map_or(self.base, |e| (e.ballot, e.seq))
    }

    /// Adds the next entry.
    ///
    /// # Panics
    /// If it is not the next one.
    pub(crate) fn push(&mut self, entry: LogEntry) {
        assert_eq!(entry.seq, self.last().1.next(), "the log has no gaps");
        self.entries.push_back(entry);
    }

    /// Ballot of the entry at `seq`, if it is held (or is the base).
    pub(crate) fn ballot_at(&self, seq: Seq) -> Option<Ballot> {
        if seq == self.base.1 {
            return Some(self.base.0);
        }
        self.get(seq).map(|e| e.ballot)
    }

    pub(crate) fn get(&self, seq: Seq) -> Option<&LogEntry> {
        let index = seq.0.checked_sub(self.base.1.0 + 1)?;
        self.entries.get(usize::try_from(index).ok()?)
    }

    /// The entries after `seq`; none if the log starts later than that.
    pub(crate) fn after(&self, seq: Seq) -> Option<Vec<LogEntry>> {
        let skip = seq.0.checked_sub(self.base.1.0)?;
        let skip = usize::try_from(skip).ok()?;
        (skip <= self.entries.len()).then(|| self.entries.iter().skip(skip).cloned().collect())
    }

    /// Drops everything after `seq`.
    pub(crate) fn cut_after(&mut self, seq: Seq) {
        let keep = seq.0.saturating_sub(self.base.1.0);
        self.entries.truncate(usize::try_from(keep).unwrap_or(usize::MAX));
    }

    /// Forgets the oldest entries that are in the database (up to `committed`) beyond a limit.
    pub(crate) fn trim(&mut self, committed: Seq) {
        while self.entries.len() > KEPT_MAX
            && self.entries.front().is_some_and(|e| e.seq <= committed)
        {
            if let Some(e) = self.entries.pop_front() {
                self.base = (e.ballot, e.seq);
            }
        }
    }
}
