//! Events: what happened, to what, because of what.
//!
//! An [`Event`] is what happened; a [`StampedEvent`] is the entry of the log: with its identity, the
//! event that led to it, the objects that it is about, and its time. The core numbers and stamps
//! every event of its node, those too that other parts of the service report to it.

mod chain;
mod query;
mod record;

use serde::{Deserialize, Serialize};

use crate::api::NodeState;
use crate::heartbeat::{InterfaceChange, Reach};
use crate::membership::Stage;
use crate::objects::ResourceState;
use crate::register::ChallengeStage;
use crate::{Ballot, GroupId, NetworkId, NodeId, NodeInc, ResourceId, VersionRange};

pub use chain::{Chain, chain, timeline};
pub use query::{EventFilter, EventQuery};
pub use record::{
    About, BATCH_BYTES_MAX, BATCH_EVENTS_MAX, EventBatch, EventId, EventIdError, StampedEvent,
};

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

/// What happened. Identity, cause and stamps are given by the core that logs it ([`StampedEvent`]).
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
    /// An administrator asked this node for a change, in words.
    AdministratorAsked {
        request: String,
    },
    /// A node is another than it was. None: this life of the service did not know it before.
    NodeState {
        node: NodeId,
        state: NodeState,
        was: Option<NodeState>,
    },
    /// A node speaks no version of the protocol that this one speaks: it is no peer.
    VersionRefused {
        who: NodeInc,
        theirs: VersionRange,
        ours: VersionRange,
    },
    /// Events of this node were not passed on to the others: too many, or nobody was there.
    EventsNotSent {
        count: u64,
    },
    /// The leader's verdict on a network changed.
    NetworkState {
        network: NetworkId,
        name: String,
        state: crate::networks::NetworkState,
    },
    /// The leader's verdict on a node's interface changed.
    InterfaceState {
        network: NetworkId,
        node: NodeId,
        state: crate::networks::InterfaceState,
    },
    /// Whether this machine is quick enough for the times in force.
    DelaysSafe {
        safe: bool,
        worst_us: u64,
        allowed_us: u64,
    },
    /// An administrator took the node out of the cluster.
    Evicted {
        node: NodeId,
    },
    /// A view with other votes, or another witness, is installed.
    VotesChanged {
        votes: String,
    },
    /// The core has another witness opened.
    WitnessOpened {
        place: String,
    },
    /// An administrator forced a quorum without these nodes.
    QuorumForced {
        dead: Vec<NodeId>,
    },
    /// A peer's views descend from another force: they never merge by themselves.
    Forked {
        node: NodeId,
    },
}

impl EventKind {
    /// The names of all kinds, as [`Self::name`] gives them.
    pub const NAMES: [&str; 51] = [
        "service-started",
        "service-stopping",
        "path-changed",
        "network-changed",
        "node-reach",
        "regroup-stage",
        "witness-won",
        "witness-lost",
        "witness-challenge",
        "witness-failing",
        "witness-back",
        "database-differs",
        "member-too-slow",
        "quorum-moving",
        "view-installed",
        "quorum-lost",
        "wait-over",
        "proof-received",
        "lease-ended",
        "excluded",
        "paused",
        "stalled",
        "group-owner",
        "group-moving",
        "group-state",
        "resource-state",
        "resource-restart",
        "monitor-crashed",
        "monitor-restarted",
        "resources-terminated",
        "store-failed",
        "datagrams-dropped",
        "update-applied",
        "disk-lost",
        "refused",
        "update-waits",
        "interface-changed",
        "not-realtime",
        "flood",
        "administrator-asked",
        "node-state",
        "version-refused",
        "events-not-sent",
        "network-state",
        "interface-state",
        "delays-safe",
        "evicted",
        "votes-changed",
        "witness-opened",
        "quorum-forced",
        "forked",
    ];

    /// The serialised name, as filters take it.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::ServiceStarted { .. } => "service-started",
            Self::ServiceStopping { .. } => "service-stopping",
            Self::PathChanged { .. } => "path-changed",
            Self::NetworkChanged { .. } => "network-changed",
            Self::NodeReach { .. } => "node-reach",
            Self::RegroupStage { .. } => "regroup-stage",
            Self::WitnessWon { .. } => "witness-won",
            Self::WitnessLost { .. } => "witness-lost",
            Self::WitnessChallenge { .. } => "witness-challenge",
            Self::WitnessFailing => "witness-failing",
            Self::WitnessBack => "witness-back",
            Self::DatabaseDiffers { .. } => "database-differs",
            Self::MemberTooSlow { .. } => "member-too-slow",
            Self::QuorumMoving { .. } => "quorum-moving",
            Self::ViewInstalled { .. } => "view-installed",
            Self::QuorumLost => "quorum-lost",
            Self::WaitOver { .. } => "wait-over",
            Self::ProofReceived { .. } => "proof-received",
            Self::LeaseEnded => "lease-ended",
            Self::Excluded { .. } => "excluded",
            Self::Paused { .. } => "paused",
            Self::Stalled { .. } => "stalled",
            Self::GroupOwner { .. } => "group-owner",
            Self::GroupMoving { .. } => "group-moving",
            Self::GroupState { .. } => "group-state",
            Self::ResourceState { .. } => "resource-state",
            Self::ResourceRestart { .. } => "resource-restart",
            Self::MonitorCrashed { .. } => "monitor-crashed",
            Self::MonitorRestarted { .. } => "monitor-restarted",
            Self::ResourcesTerminated { .. } => "resources-terminated",
            Self::StoreFailed { .. } => "store-failed",
            Self::DatagramsDropped { .. } => "datagrams-dropped",
            Self::UpdateApplied { .. } => "update-applied",
            Self::DiskLost { .. } => "disk-lost",
            Self::Refused { .. } => "refused",
            Self::UpdateWaits { .. } => "update-waits",
            Self::InterfaceChanged { .. } => "interface-changed",
            Self::NotRealtime { .. } => "not-realtime",
            Self::Flood { .. } => "flood",
            Self::AdministratorAsked { .. } => "administrator-asked",
            Self::NodeState { .. } => "node-state",
            Self::VersionRefused { .. } => "version-refused",
            Self::EventsNotSent { .. } => "events-not-sent",
            Self::NetworkState { .. } => "network-state",
            Self::InterfaceState { .. } => "interface-state",
            Self::DelaysSafe { .. } => "delays-safe",
            Self::Evicted { .. } => "evicted",
            Self::VotesChanged { .. } => "votes-changed",
            Self::WitnessOpened { .. } => "witness-opened",
            Self::QuorumForced { .. } => "quorum-forced",
            Self::Forked { .. } => "forked",
        }
    }

    /// May begin a story: a start, a wish, silence or a sign of life, a failure. Every other kind
    /// follows from something and names it.
    #[must_use]
    pub const fn may_be_root(&self) -> bool {
        !matches!(
            self,
            Self::RegroupStage { .. }
                | Self::WitnessWon { .. }
                | Self::ViewInstalled { .. }
                | Self::WaitOver { .. }
                | Self::GroupOwner { .. }
                | Self::GroupMoving { .. }
                | Self::GroupState { .. }
                | Self::ResourceRestart { .. }
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_its_name() {
        // The error names all that there are.
        let error = serde_json::from_str::<EventKind>(r#"{"event":"eclipse"}"#).unwrap_err();
        let told = error.to_string();
        let known: Vec<&str> = told.split('`').skip(3).step_by(2).collect();
        assert_eq!(known, EventKind::NAMES);
        let kind = EventKind::WaitOver { node: NodeId::new(1).unwrap() };
        let json = serde_json::to_value(&kind).unwrap();
        assert_eq!(json["event"], kind.name());
    }
}
