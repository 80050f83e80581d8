//! Messages between the cores of two nodes, carried in order by the reliable streams of `netdrv`.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::event::{EventBatch, EventId};
use crate::networks::NetworkVerdict;
use crate::store::Snapshot;
use crate::update::{LogEntry, Refusal, Update};
use crate::{Ballot, Force, Members, NodeId, NodeInc, RequestId, Seq, View};

/// One message of a peer's core. `cause`: the event of the sender (or the one that made it act) that
/// led to it, so that a chain of causes crosses nodes; for people, never for decisions.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum PeerMessage {
    /// Regroup, Cleanup 1: the coordinator asks for a promise.
    Prepare {
        ballot: Ballot,
        members: Members,
        /// The forces that the coordinator's own view descends from, its ballot's included.
        forces: Vec<Force>,
        cause: Option<EventId>,
    },
    Promise(Box<Promise>),
    /// `refused`: the voter's installed view lives and the sender is not in it: ask to join.
    Nack {
        ballot: Ballot,
        counter: u64,
        refused: bool,
    },
    /// The coordinator lacks entries that this replica reported.
    FetchLog {
        ballot: Ballot,
        after: Seq,
    },
    LogData {
        ballot: Ballot,
        snapshot: Option<Snapshot>,
        entries: Vec<LogEntry>,
    },
    /// Regroup, Cleanup 2.
    Accept(Box<Accept>),
    Accepted {
        ballot: Ballot,
    },
    /// Regroup, Stabilized.
    Established {
        ballot: Ballot,
        commit_seq: Seq,
    },
    /// You were excluded by an established view: start a new life.
    Restart {
        you: NodeInc,
        because: Ballot,
        cause: Option<EventId>,
    },
    /// Global update: replicate these entries.
    Append {
        ballot: Ballot,
        prev: (Ballot, Seq),
        entries: Vec<LogEntry>,
    },
    Appended {
        ballot: Ballot,
        last: Seq,
    },
    Commit {
        ballot: Ballot,
        seq: Seq,
    },
    Applied {
        ballot: Ballot,
        seq: Seq,
        digest: u64,
    },
    /// A volatile update: same order, no durability.
    Volatile {
        ballot: Ballot,
        number: u64,
        update: Update,
        cause: Option<EventId>,
    },
    /// An initiator asks the locker.
    Request {
        id: RequestId,
        update: Update,
        cause: Option<EventId>,
    },
    RequestDone {
        id: RequestId,
        result: Result<Seq, Refusal>,
    },
    /// This member wants to leave: its groups are to be moved away.
    Leaving {
        who: NodeInc,
        cause: Option<EventId>,
    },
    /// The leader cannot reach the witness: another member is to lead.
    Resign {
        ballot: Ballot,
        cause: Option<EventId>,
    },
    /// A clean leave: everything of this life is stopped (sent *after* that).
    Exit {
        who: NodeInc,
        cause: Option<EventId>,
    },
    /// Events of the sender's log, or an answer to `EventFetch`. Best effort: nothing is repeated.
    EventBatch(Box<EventBatch>),
    /// A node that was away asks for the events that it missed: of each node those later than
    /// this number (of a node that is not named: all that are held). Answered by an `EventBatch`
    /// with the same `call`.
    EventFetch {
        call: u64,
        after: BTreeMap<NodeId, u64>,
    },
    /// The leader says how the networks are, by the reports of all nodes; the whole of it, at each
    /// change and to each new view. Nothing depends on it but what people are shown.
    Networks {
        ballot: Ballot,
        verdicts: Vec<NetworkVerdict>,
    },
    /// The receiver was evicted: it is to stop until an administrator adds it again.
    Evicted {
        you: NodeInc,
    },
    /// The leader to a member: your database is not what the updates make it. Put your store aside
    /// and return as a learner (P8).
    Differs {
        ballot: Ballot,
        seq: Seq,
    },
    /// The database in pieces, for a node that is far behind and in no view (P9).
    Copy(Box<CopyMessage>),
}

/// A database on its way to a node that is in no view. One message is under way: each is answered
/// by [`CopyMessage::Ack`] when it is durable at the receiver.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum CopyMessage {
    /// Number 0: of the database at this position.
    Begin {
        id: u64,
        ballot: Ballot,
        seq: Seq,
    },
    Rows {
        id: u64,
        number: u32,
        rows: Vec<(String, Vec<u8>)>,
    },
    /// All rows were sent; `digest` is of the whole.
    End {
        id: u64,
        number: u32,
        digest: u64,
    },
    /// Committed updates since, which continue `prev`.
    Entries {
        id: u64,
        number: u32,
        prev: (Ballot, Seq),
        entries: Vec<LogEntry>,
    },
    Ack {
        id: u64,
        number: u32,
    },
}

/// Which of the ordered streams between two lives carries a message.
///
/// Order holds within a class only. Regroup and updates lean on it (an Accept is followed by the
/// appends of its ballot), so whatever the core compares with either is [`Class::Control`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash, Serialize, Deserialize)]
pub enum Class {
    /// Regroup, updates, answers: goes before all that waits in the other class.
    Control,
    /// Large or unhurried, and right in whatever order it comes among the others: snapshots for a
    /// learner, batches of events.
    Bulk,
}

impl Class {
    /// All classes, in the order of precedence.
    pub const ALL: [Self; 2] = [Self::Control, Self::Bulk];
}

impl PeerMessage {
    /// The class it travels in.
    #[must_use]
    pub const fn class(&self) -> Class {
        match self {
            // A copy is compared with nothing but itself, and with a log that only it moves. Events
            // carry their numbers, and those that are known are passed over.
            Self::Copy(_) | Self::EventBatch(_) => Class::Bulk,
            _ => Class::Control,
        }
    }
}

/// A voter's promise for a ballot, and all it knows (P3).
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Promise {
    pub ballot: Ballot,
    pub who: NodeInc,
    pub accepted: Option<View>,
    /// Position and ballot of the last entry of the log.
    pub last: (Ballot, Seq),
    /// Everything up to here is committed and applied here.
    pub commit_seq: Seq,
    /// Highest ballot known to be established.
    pub established: Ballot,
    pub installed: Ballot,
    /// Never accepted a view with this life in it.
    pub fresh: bool,
    /// The store is new and no view has included it yet: counts in no majority (P2, invariant 19).
    pub learner: bool,
    /// Age of the last acknowledgement to each configured node.
    pub ack_ages: BTreeMap<NodeId, Duration>,
    /// Time from now to bounds of earlier views on leases at the register.
    pub bounds: BTreeMap<NodeId, SignedSpan>,
}

/// A span that may lie in the past: bounds carried from node to node.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct SignedSpan(pub i64);

/// The coordinator's decision (P3, Cleanup 2).
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Accept {
    pub view: View,
    /// The receiver's log is cut after this position (its own commit_seq or later), or replaced by
    /// the snapshot, then continued with `entries`.
    pub after: Seq,
    pub snapshot: Option<Snapshot>,
    pub entries: Vec<LogEntry>,
    pub ack_ages: BTreeMap<NodeId, Duration>,
    pub bounds: BTreeMap<NodeId, SignedSpan>,
    /// The coordinator's event that led to it.
    pub cause: Option<EventId>,
}
