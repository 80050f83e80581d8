//! What must be durable, as data: the core says what, the store does it in order and says when.

use serde::{Deserialize, Serialize};

use crate::update::LogEntry;
use crate::{Ballot, Incarnation, Members, Seq, StoreId, View};

/// The database at one position of the log.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Snapshot {
    /// All updates up to here are in it.
    pub seq: Seq,
    /// Ballot of the update at `seq`.
    pub ballot: Ballot,
    /// Rows by key, as the database manager defines them.
    pub rows: Vec<(String, Vec<u8>)>,
}

/// The durable record pair (P2), small, written synchronously, apart from the database.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Record {
    pub store: StoreId,
    pub incarnation: Incarnation,
    /// No ballot of this node above it was ever sent.
    pub max_ballot: Ballot,
    pub promised: Ballot,
    pub promised_members: Members,
    pub accepted: Option<View>,
    /// Highest ballot known established; written lazily.
    pub established: Ballot,
    /// The store is younger than the cluster, and no view that did not count this node has yet
    /// included it: it counts in no majority (P2, invariant 19). Kept by the core.
    pub learner: bool,
}

/// One durable step. Steps are carried out in order; each is whole or not at all after a crash.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Persist {
    /// Replace the record pair (its `store` and `incarnation` never change within a life).
    Record(Record),
    /// One transaction: the log is cut after `after` (or replaced by `snapshot`, which also
    /// replaces the database), continued with `entries`; the record takes its new value.
    Accept { record: Record, after: Seq, snapshot: Option<Snapshot>, entries: Vec<LogEntry> },
    /// Continue the log.
    Append { entries: Vec<LogEntry> },
    /// The database moves to `seq`: rows set (Some) or deleted (None). Need not be durable before
    /// the next checkpoint, since the log has it.
    Apply { seq: Seq, ballot: Ballot, rows: Vec<(String, Option<Vec<u8>>)> },
    /// The store is not to be trusted: the next start puts it aside and makes a new one (P2: the
    /// node is a learner then). The last step of a life.
    Retire,
    /// A database that comes in pieces, beside the one that is there.
    Copy(CopyStep),
}

/// A step of a copy (P9). Until its end nothing of it counts.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum CopyStep {
    /// Forgets any copy that came to no end.
    Begin,
    Rows {
        rows: Vec<(String, Vec<u8>)>,
    },
    /// One transaction: the rows of the copy replace the database, at this position; the log is
    /// empty after it. The record stays.
    End {
        ballot: Ballot,
        seq: Seq,
    },
}

/// What a start finds in the store. The store has already raised the incarnation durably.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Loaded {
    pub record: Record,
    pub database: Snapshot,
    /// The log after `database.seq`.
    pub log: Vec<LogEntry>,
    /// The store was made by this start: the node is a learner until a view includes it.
    pub new_store: bool,
}
