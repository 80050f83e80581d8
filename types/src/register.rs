//! The register: the witness as a voter (protocol P4). Content of a slot, and what core and
//! register machine say to each other.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::store::Snapshot;
use crate::update::LogEntry;
use crate::{Ballot, ClusterId, Incarnation, Instant, Members, NodeId, NodeInc, Seq, View};

/// How the disk keeps others out, beside the register.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Exclusion {
    /// SCSI-2 RESERVE(6) with challenge and defence.
    Reserve,
    /// The register alone.
    #[default]
    None,
}

/// One slot, written only by its node, one per (node, incarnation parity).
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Slot {
    pub cluster: ClusterId,
    pub node: NodeId,
    pub inc: Incarnation,
    /// Counts the writes of this life.
    pub wseq: u64,
    /// Highest ballot promised here, and its proposed members.
    pub mbal: Ballot,
    pub members: Members,
    /// Highest ballot accepted here, and its view.
    pub bal: Ballot,
    pub view: Option<View>,
    /// Last position of the log region: a replay that ends before it is refused.
    pub last_seq: Seq,
    /// Counts renewals.
    pub renew: u64,
}

/// Core to register machine. One at a time; a new `Promise` supersedes what is under way.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum RegisterCommand {
    /// Win the exclusion (challenge, if somebody else holds it), carry the own slots over if this
    /// life has not yet written, then write `mbal = ballot` and read all.
    Promise { id: u64, ballot: Ballot, members: Members },
    /// Checkpoint into the own region, then write `bal`, `view` and read all. `entries` continue
    /// `snapshot`.
    Accept { id: u64, view: View, snapshot: Snapshot, entries: Vec<LogEntry> },
    /// Append records to the own region and read all.
    Append { id: u64, ballot: Ballot, entries: Vec<LogEntry> },
    /// (With `reserve`: re-RESERVE, then) renew and read all. `view` is the installed view.
    Renew { id: u64, view: View },
    /// Read the log region that belongs to a slot reported by a promise.
    ReadLog { id: u64, slot: NodeInc },
    /// Stop defending and RELEASE.
    Release { id: u64 },
    /// Give up what is under way; its answer, if any, is not awaited.
    Cancel,
}

impl RegisterCommand {
    /// The number under which it is answered; `Cancel` is not.
    #[must_use]
    pub const fn id(&self) -> Option<u64> {
        match self {
            Self::Promise { id, .. }
            | Self::Accept { id, .. }
            | Self::Append { id, .. }
            | Self::Renew { id, .. }
            | Self::ReadLog { id, .. }
            | Self::Release { id } => Some(*id),
            Self::Cancel => None,
        }
    }
}

/// Register machine to core.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum RegisterEvent {
    /// `written` is the own time at which the write of `mbal` completed. `best` is the slot with
    /// the highest `bal`.
    Promised {
        id: u64,
        written: Instant,
        best: Option<Slot>,
    },
    Accepted {
        id: u64,
    },
    Appended {
        id: u64,
    },
    /// `sent`: own time at which the renewal's first command was sent. `excluded`: the lives of
    /// members of the view (self included) that some slot excludes.
    Renewed {
        id: u64,
        sent: Instant,
        excluded: BTreeSet<NodeInc>,
    },
    Log {
        id: u64,
        snapshot: Snapshot,
        entries: Vec<LogEntry>,
    },
    Released {
        id: u64,
    },
    Failed {
        id: u64,
        why: RegisterFailure,
    },
    /// The stage of a challenge, for the timeline.
    Challenge {
        stage: ChallengeStage,
    },
}

/// Why a register command was not carried out.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum RegisterFailure {
    /// The reservation is another's: the defender lives (after a challenge), or `Renew` met a
    /// holder and a background challenge was lost.
    Defended,
    /// A slot has promised a higher ballot; its counter.
    Outbid { counter: u64 },
    /// The disk or the path to it failed, or took too long.
    Io(String),
    /// What the disk says cannot be true (foreign, torn or short).
    Corrupt(String),
}

/// Stages of challenge and defence.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum ChallengeStage {
    /// RESERVE met a conflict.
    Conflict,
    /// LUN reset done, waiting 2R + margin.
    Reset,
    Won,
    Lost,
}

/// Slots by writer, as read.
pub type Slots = BTreeMap<NodeInc, Slot>;
