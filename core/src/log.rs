//! The log of updates in memory: what follows the database, and a tail of what is already in it,
//! kept to bring members that lag behind up to date without a snapshot.

use std::collections::VecDeque;

use wolfpack_types::codec::encoded_bytes;
use wolfpack_types::update::LogEntry;
use wolfpack_types::{Ballot, Seq};

/// Committed entries kept for members that lag behind ...
const KEPT_MAX: usize = 512;
/// ... and their bytes, so that they fit into an Accept.
const KEPT_BYTES_MAX: usize = 4 << 20;
/// Bytes kept for a copy that is under way.
const COPIED_BYTES_MAX: usize = 64 << 20;

/// Entries `(base, last]`, gap-free. The base is what a snapshot stands for.
#[derive(Clone, Debug, Default)]
pub(crate) struct Log {
    base: (Ballot, Seq),
    entries: VecDeque<LogEntry>,
    /// Of the entries, encoded.
    bytes: usize,
}

impl Log {
    pub(crate) fn new(base: (Ballot, Seq), entries: impl IntoIterator<Item = LogEntry>) -> Self {
        let mut log = Self { base, entries: VecDeque::new(), bytes: 0 };
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
        self.bytes += encoded_bytes(&entry);
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
        let keep = usize::try_from(keep).unwrap_or(usize::MAX).min(self.entries.len());
        self.bytes -= self.entries.drain(keep..).map(|e| encoded_bytes(&e)).sum::<usize>();
    }

    /// Whether it has all entries after `seq`.
    pub(crate) fn reaches(&self, seq: Seq) -> bool {
        seq >= self.base.1 && seq <= self.last().1
    }

    /// Entries after `seq` up to `end`, no more than this many and about this many bytes.
    pub(crate) fn some_after(
        &self,
        seq: Seq,
        end: Seq,
        most: usize,
        bytes: usize,
    ) -> Vec<LogEntry> {
        let mut some: Vec<LogEntry> = Vec::new();
        let mut size = 0;
        let mut at = seq.next();
        while at <= end
            && some.len() < most
            && size < bytes
            && let Some(entry) = self.get(at)
        {
            size += encoded_bytes(entry);
            some.push(entry.clone());
            at = at.next();
        }
        some
    }

    /// Forgets the oldest entries that are in the database (up to `committed`) beyond the limits.
    /// A copy under way needs those after `copied`, as long as they are not too many.
    pub(crate) fn trim(&mut self, committed: Seq, copied: Option<Seq>) {
        while self.entries.len() > KEPT_MAX || self.bytes > KEPT_BYTES_MAX {
            let needed = self.bytes <= COPIED_BYTES_MAX
                && self.entries.front().is_some_and(|e| copied.is_some_and(|c| e.seq > c));
            let done = self.entries.front().is_some_and(|e| e.seq <= committed);
            if needed || !done {
                break;
            }
            if let Some(e) = self.entries.pop_front() {
                self.bytes -= encoded_bytes(&e);
                self.base = (e.ballot, e.seq);
            }
        }
    }
}
