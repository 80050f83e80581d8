//! What goes into the core and what comes out: plain data, so that the simulator and the daemon
//! drive the same code.

use std::collections::BTreeSet;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use wolfpack_types::api::{Reply, Request};
use wolfpack_types::backup::Backup;
use wolfpack_types::event::{Event, Proof, StampedEvent};
use wolfpack_types::heartbeat::{HeartbeatCommand, HeartbeatNotice};
use wolfpack_types::membership::WitnessSpec;
use wolfpack_types::monitor::{MonitorCommand, MonitorEvent};
use wolfpack_types::objects::Cluster;
use wolfpack_types::peer::PeerMessage;
use wolfpack_types::register::{RegisterCommand, RegisterEvent};
use wolfpack_types::store::Persist;
use wolfpack_types::{NetworkId, NodeId, NodeInc};

/// One thing that happened. Contract: one input, drain [`crate::Core::poll_output`] fully, next
/// input; call with [`Input::Deadline`] when [`crate::Core::next_deadline`] has come.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub enum Input {
    /// A deadline has come, or may have.
    Deadline,
    /// A message of a peer's core, in order.
    Peer {
        from: NodeInc,
        message: PeerMessage,
    },
    /// The failure detector says.
    Heartbeat(HeartbeatNotice),
    /// This step, and all before it, are durable.
    Persisted {
        id: u64,
    },
    /// The store failed: no durability any more.
    StoreFailed {
        error: String,
    },
    Register(RegisterEvent),
    Monitor(MonitorEvent),
    /// Nothing of this life of a node runs any more, and this proves it.
    Dead {
        who: NodeInc,
        proof: Proof,
    },
    /// `cluster create`: the witness disk is prepared. Answered like a request.
    Create {
        id: u64,
        cluster: Cluster,
        entropy: u128,
    },
    /// An administrator's request. `entropy` makes new identities and random placement.
    Request {
        id: u64,
        entropy: u128,
        /// (Its tagged form needs a format that describes itself: recorded as JSON.)
        #[serde(with = "crate::flight::json")]
        request: Request,
    },
    /// The service is to leave cleanly (SIGTERM).
    Leave,
    /// Wall clock, milliseconds since 1970, for stamps; told once a second or so.
    WallClock {
        ms: u64,
    },
    /// The client of this request has hung up: its watch ends. One that does not exist is no error.
    Unwatch {
        id: u64,
    },
    /// Asks for a consistent copy of the database: answered by [`Output::Backup`], or by a reply.
    Backup {
        id: u64,
    },
    /// Authoritative restore of this backup (read and checked). Answered like a request.
    Restore {
        id: u64,
        backup: Box<Backup>,
        /// Nodes asserted not to run.
        dead: BTreeSet<NodeId>,
        /// It may be of another cluster.
        foreign: bool,
    },
    /// Something happened in another part of the service: to be logged as an event of this node.
    Report(#[serde(with = "crate::flight::json")] Event),
}

/// One thing to do.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub enum Output {
    /// Send to the life of the node that is there now.
    Send {
        to: NodeId,
        message: PeerMessage,
    },
    Heartbeat(HeartbeatCommand),
    /// Carry out in order, then answer [`Input::Persisted`].
    Persist {
        id: u64,
        step: Persist,
    },
    Register(RegisterCommand),
    Monitor(MonitorCommand),
    Reply {
        id: u64,
        #[serde(serialize_with = "crate::flight::json::serialize")]
        reply: Reply,
    },
    /// To be logged: an event of this node.
    Event(#[serde(serialize_with = "crate::flight::json::serialize")] Box<StampedEvent>),
    /// To be logged: events of other nodes, each for the first time as far as is known here.
    Replicated(#[serde(serialize_with = "crate::flight::json::serialize")] Vec<StampedEvent>),
    /// From now on the register commands go to this witness, or to none; until it is open they
    /// fail. At the start the witness of the configuration is open, and this comes only if the
    /// views speak of another one (told apart by `id`).
    OpenWitness(Option<WitnessSpec>),
    /// This life is over.
    Exit(ExitReason),
    /// The copy that [`Input::Backup`] asked for, to be written where its asker wants it. The asker
    /// is answered when that is done.
    Backup {
        id: u64,
        backup: Box<Backup>,
    },
    /// This life of an evicted node does not go though it was told to: its session is to be dropped
    /// and the life refused for good. A later life of the node may come.
    Expel(NodeInc),
}

/// Why a life ends. The service ends its resources through the guard, then itself.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum ExitReason {
    /// An established view excluded it: start a new life.
    Excluded,
    /// It left cleanly; all peers that could be told were told.
    Left,
    /// No durability.
    StoreFailed(String),
    /// The own clock stood still for longer than the lease allows, or the guard has ended
    /// everything: this life may own nothing any more.
    Fenced(String),
    /// The node was evicted: it stays down until an administrator adds it again.
    Evicted,
    /// An administrator gave this node's copy of the cluster up: the store is removed (its
    /// incarnation goes on), then the node starts as a learner.
    Discarded,
}

/// How the core is set up. The same on every node but for `me`, `loaded`, `seed`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CoreConfig {
    pub me: NodeInc,
    pub cluster: wolfpack_types::ClusterId,
    /// Configured nodes and their names.
    pub nodes: std::collections::BTreeMap<NodeId, String>,
    pub networks: Vec<String>,
    /// Those of them that carry no cluster traffic.
    pub client_networks: BTreeSet<NetworkId>,
    pub votes: wolfpack_types::VoteTable,
    pub quorum: wolfpack_types::membership::QuorumType,
    /// The witness in words, if there is one.
    pub witness: Option<String>,
    pub exclusion: wolfpack_types::register::Exclusion,
    pub times: wolfpack_types::Times,
    pub loaded: wolfpack_types::store::Loaded,
    /// For jitter; the only randomness there is.
    pub seed: u64,
    pub rules: wolfpack_types::Rules,
    pub events: EventStart,
}

/// Where the event log goes on.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct EventStart {
    /// The number after the last one in the log of this node; a new life begins at the first number
    /// of its own if that is higher.
    pub next: u64,
    /// Wall clock at the start, milliseconds since 1970; 0: not known yet.
    pub wall_ms: u64,
    /// The newest events that the log has kept, of all nodes, in any order: what the others need
    /// not send again, and what can be sent to them.
    #[serde(with = "crate::flight::json")]
    pub recent: Vec<StampedEvent>,
}

impl CoreConfig {
    /// The witness of the configuration: open at the start, and that of the first view.
    #[must_use]
    pub fn configured_witness(&self) -> Option<WitnessSpec> {
        let kind = self.quorum.witness_kind()?;
        let place = self.witness.clone()?;
        Some(WitnessSpec {
            place,
            kind,
            exclusion: self.exclusion,
            id: self.cluster.0,
            checkpoint_bytes: 0,
        })
    }
}

/// How long a request may wait for the locker before it is answered with "regrouping".
pub(crate) const REQUEST_PATIENCE: Duration = Duration::from_secs(10);
