//! Events: what happened, to what, because of what.

use serde::{Deserialize, Serialize};

use crate::heartbeat::{InterfaceChange, Reach};
use crate::membership::Stage;
use crate::objects::ResourceState;
use crate::register::ChallengeStage;
use crate::{Ballot, GroupId, NetworkId, NodeId, NodeInc, ResourceId};

/// Why a decision was taken.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cause {
    #[default]
    Created,
    Administrator,
    /// The owner left the view and its lease, with margin, was over.
    OwnerLost {
        node: NodeId,
        view: String,
    },
    /// The owner's death is proven.
    OwnerProvenDead {
        node: NodeId,
        proof: Proof,
    },
    OwnerLeft {
        node: NodeId,
    },
    ResourceFailed {
        resource: String,
    },
    /// The owner started a new life.
    OwnerRestarted {
        node: NodeId,
    },
}

impl Cause {
    /// The cause as a clause, with the nodes by name.
    #[must_use]
    pub fn in_words(&self, name: impl Fn(NodeId) -> String) -> String {
        match self {
            Self::Created => "it was created there".into(),
            Self::Administrator => "an administrator moved it".into(),
            Self::OwnerLost { node, view } => {
                format!("node {} was lost (view {view}) and its lease was over", name(*node))
            }
            Self::OwnerProvenDead { node, proof } => {
                format!("node {} proved that nothing of it runs ({proof})", name(*node))
            }
            Self::OwnerLeft { node } => format!("node {} left cleanly", name(*node)),
            Self::ResourceFailed { resource } => {
                format!("resource '{resource}' failed beyond its restart threshold")
            }
            Self::OwnerRestarted { node } => format!("node {} started anew", name(*node)),
        }
    }
}

/// Who proved a death (P7).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Proof {
    /// `Exit`, sent after everything was stopped.
    Exit,
    /// The guard saw that nothing runs.
    AllTerminated,
}

impl std::fmt::Display for Proof {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Exit => "it said so when it left",
            Self::AllTerminated => "its guard saw it",
        })
    }
}

/// One event of one node. Numbers and stamps are given by the service that logs it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Event {
    pub kind: EventKind,
    pub severity: Severity,
    /// One plain sentence.
    pub text: String,
}

/// How much an event matters.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    Info,
    Warning,
    Error,
}

/// What happened. Serialised names are stable: tools and tests match on them.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum EventKind {
    ServiceStarted {
        me: NodeInc,
    },
    ServiceStopping {
        me: NodeInc,
    },
    PathChanged {
        network: NetworkId,
        node: NodeId,
        up: bool,
    },
    /// Every path of a network from here is down, or one is up again.
    NetworkChanged {
        network: NetworkId,
        name: String,
        up: bool,
    },
    NodeReach {
        node: NodeId,
        reach: Reach,
    },
    RegroupStage {
        stage: Stage,
        ballot: String,
    },
    /// The witness promised this node's ballot.
    WitnessWon {
        ballot: String,
    },
    WitnessLost {
        ballot: String,
    },
    /// A stage of challenge and defence.
    WitnessChallenge {
        stage: ChallengeStage,
    },
    /// Renewals at the witness fail; `WitnessBack` ends it.
    WitnessFailing,
    WitnessBack,
    /// A member's database is not what the updates make it.
    DatabaseDiffers {
        node: NodeId,
    },
    /// A member did not acknowledge an update in time.
    MemberTooSlow {
        node: NodeId,
    },
    /// The leader asks another member to lead (and so to own the quorum resource).
    QuorumMoving {
        to: NodeId,
    },
    ViewInstalled {
        ballot: String,
        members: Vec<NodeId>,
        witness_in: bool,
    },
    QuorumLost,
    /// A lost node's lease, with margin, is over: its groups may start.
    WaitOver {
        node: NodeId,
    },
    ProofReceived {
        who: NodeInc,
        proof: Proof,
    },
    LeaseEnded,
    Excluded {
        ballot: String,
    },
    Paused {
        behind_ms: u64,
    },
    /// The network driver was late.
    Stalled {
        late_ms: u64,
    },
    GroupOwner {
        group: GroupId,
        name: String,
        owner: NodeInc,
    },
    GroupMoving {
        group: GroupId,
        name: String,
        to: NodeId,
    },
    GroupState {
        group: GroupId,
        name: String,
        state: String,
    },
    ResourceState {
        resource: ResourceId,
        name: String,
        state: ResourceState,
    },
    ResourceRestart {
        resource: ResourceId,
        name: String,
        count: u32,
    },
    MonitorCrashed {
        monitor: u32,
        resource: Option<String>,
        entry_point: Option<String>,
    },
    MonitorRestarted {
        monitor: u32,
    },
    ResourcesTerminated {
        why: String,
    },
    StoreFailed {
        error: String,
    },
    DatagramsDropped {
        network: NetworkId,
        count: u64,
    },
    UpdateApplied {
        seq: u64,
        what: String,
    },
    DiskLost {
        disk: String,
    },
    /// The ballot of the highest refusal met, when this node may not regroup.
    Refused {
        by: NodeId,
        ballot: Ballot,
    },
    /// An update has waited for this node for a second.
    UpdateWaits {
        node: NodeId,
        seq: u64,
        waiting_for: crate::api::WaitingFor,
    },
    /// Something happened to an own interface.
    InterfaceChanged {
        network: NetworkId,
        name: String,
        change: InterfaceChange,
    },
    /// No real-time scheduling, or no locked memory: a busy machine may make this node look dead.
    NotRealtime {
        scheduling: Option<String>,
        memory: Option<String>,
    },
    /// More refused datagrams than a network may bring: refused in the kernel from now on.
    Flood {
        network: NetworkId,
        name: String,
        per_second: u64,
    },
}
