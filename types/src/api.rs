//! The local management protocol: one JSON object per line over the service's Unix socket.
//!
//! A client sends one [`Request`] per line and receives one [`Reply`] per line for it; `events`
//! with `follow` receives [`Reply::Event`] lines until it hangs up.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::event::EventQuery;
pub use crate::event::StampedEvent;
use crate::heartbeat::Reach;
use crate::membership::{Illegal, QuorumType, Stage};
pub use crate::netstatus::{
    DelayStatus, GapStatus, InterfaceStatus, NetworkStatus, PathDetail, RoundTripStatus,
};
use crate::objects::{GroupState, ResourceState, Wanted};
use crate::register::Exclusion;
use crate::tree::{Transaction, TreeChange, TreeEntry, TreeKey};

/// The longest line either side accepts.
pub const LINE_BYTES_MAX: usize = 1 << 20;

/// What an administrator asks.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    ClusterCreate {
        name: String,
        /// Overwrite foreign data on the witness disk.
        overwrite: bool,
    },
    ClusterStatus,
    NodeStatus,
    GroupStatus {
        group: Option<String>,
    },
    GroupCreate {
        group: String,
        preferred: Vec<String>,
    },
    GroupDelete {
        group: String,
    },
    GroupOnline {
        group: String,
    },
    GroupOffline {
        group: String,
    },
    GroupMove {
        group: String,
        /// None: the best other node.
        to: Option<String>,
    },
    ResourceStatus {
        resource: Option<String>,
    },
    ResourceCreate {
        resource: String,
        group: String,
        kind: String,
        properties: BTreeMap<String, String>,
        depends_on: Vec<String>,
    },
    ResourceDelete {
        resource: String,
    },
    ResourceOnline {
        resource: String,
    },
    ResourceOffline {
        resource: String,
    },
    /// Make it fail, to see what happens.
    ResourceFail {
        resource: String,
    },
    QuorumShow,
    /// The arithmetic, and which losses the quorum survives.
    QuorumExplain,
    /// What is not given stays. `witness`: the place; where it differs from the present one, the
    /// service first prepares the register there under the identity that it hands to the core as
    /// the request's entropy.
    QuorumSet {
        kind: Option<QuorumType>,
        witness: Option<String>,
        exclusion: Option<Exclusion>,
        /// By node name; replaces what was set before for these nodes.
        weights: BTreeMap<String, u8>,
        dynamic: Option<bool>,
        /// Overwrite what somebody else has written to the new witness.
        #[serde(default)]
        overwrite: bool,
        /// Bytes of the database that the witness that was prepared can keep: said by the service,
        /// whatever the client said ([`crate::membership::WitnessSpec::checkpoint_bytes`]).
        #[serde(default, skip_serializing_if = "Option::is_none")]
        room: Option<u64>,
    },
    /// Another member is to lead, and so to own the quorum resource.
    QuorumMove {
        /// None: the next member.
        to: Option<String>,
    },
    /// On a node without quorum: go on without these nodes, which are asserted to be dead.
    QuorumForce {
        dead: Vec<String>,
    },
    NodePause {
        node: String,
        /// Its groups leave it.
        drain: bool,
    },
    NodeResume {
        node: String,
    },
    NodeEvict {
        node: String,
    },
    /// Lets an evicted node come back.
    NodeAdd {
        node: String,
    },
    /// On a node without quorum: give up its copy of the cluster; it comes back as a learner.
    NodeDiscard,
    Events(EventQuery),
    /// One key of the tree, or one of its values. The empty key is the root.
    TreeGet {
        key: String,
        /// None: all of the key.
        name: Option<String>,
    },
    /// The keys below one, in order; as many as fit into a reply.
    TreeList {
        key: String,
        /// All of them, not only those directly below.
        recursive: bool,
        /// Only those behind this key: how to go on after a reply that was cut short.
        after: Option<String>,
    },
    /// A transaction on the tree.
    TreeApply {
        transaction: Transaction,
    },
    /// Changes from now on: a [`Reply::TreeChange`] each, until the client hangs up.
    TreeWatch {
        key: String,
        /// The keys below it too.
        recursive: bool,
    },
    /// Identity and name of every object, those lately deleted too.
    ObjectLog,
    /// Writes a consistent copy of the database to a file on this node.
    Backup {
        file: String,
    },
    /// Authoritative restore: the cluster begins anew from a backup. `dead`: the nodes asserted
    /// not to run (as with forced quorum).
    Restore {
        file: String,
        dead: Vec<String>,
        /// The backup is of another cluster, and that is meant.
        foreign: bool,
    },
    /// The networks and the interfaces on them; with the figures of the paths from here if asked.
    NetworkStatus {
        /// None: all.
        network: Option<String>,
        paths: bool,
    },
    /// The interfaces of all nodes, by network.
    NetworkInterfaceStatus,
    /// Reads this node's cluster key file again: the keys in it are used from now on.
    KeyReload,
}

impl Request {
    /// The request on one line: its verb and its plain fields. For people.
    #[must_use]
    pub fn in_words(&self) -> String {
        const FIELD_MAX: usize = 100;
        const FIELDS_MAX: usize = 12;
        let Ok(serde_json::Value::Object(fields)) = serde_json::to_value(self) else {
            return String::new();
        };
        let plain = |value: &serde_json::Value| match value {
            serde_json::Value::String(s) => Some(s.chars().take(FIELD_MAX).collect()),
            serde_json::Value::Number(n) => Some(n.to_string()),
            serde_json::Value::Bool(true) => Some("yes".to_owned()),
            _ => None,
        };
        let verb = fields.get("verb").and_then(plain).unwrap_or_default();
        let rest = fields.iter().filter(|(name, _)| *name != "verb");
        let rest = rest.filter_map(|(name, value)| Some(format!(" {name}={}", plain(value)?)));
        rest.take(FIELDS_MAX).fold(verb, |words, field| words + &field)
    }

    /// Whether it changes something (and so goes through the locker).
    #[must_use]
    pub const fn changes(&self) -> bool {
        !matches!(
            self,
            Self::ClusterStatus
                | Self::NodeStatus
                | Self::GroupStatus { .. }
                | Self::ResourceStatus { .. }
                | Self::QuorumShow
                | Self::QuorumExplain
                | Self::Events(_)
                | Self::TreeGet { .. }
                | Self::TreeList { .. }
                | Self::TreeWatch { .. }
                | Self::ObjectLog
                | Self::Backup { .. }
                | Self::NetworkStatus { .. }
                | Self::NetworkInterfaceStatus
                | Self::KeyReload
        )
    }
}

/// What the service answers.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "kebab-case")]
pub enum Reply {
    /// Committed and visible on every member. 0 for what is not logged (making a resource fail).
    Done {
        seq: u64,
    },
    Cluster(Box<ClusterStatus>),
    Nodes {
        nodes: Vec<NodeStatus>,
    },
    Groups {
        groups: Vec<GroupStatus>,
    },
    Resources {
        resources: Vec<ResourceStatus>,
    },
    Quorum(QuorumStatus),
    Explanation(QuorumExplanation),
    Event(Box<StampedEvent>),
    /// In place of events that are gone: a reader was too slow, or asks for what is no longer
    /// kept. None: how many is not known.
    Dropped {
        count: Option<u64>,
    },
    /// The end of a list of events that is not followed.
    End,
    Error(ErrorReply),
    TreeKey(TreeKey),
    TreeValue(TreeEntry),
    TreeKeys {
        keys: Vec<TreeKey>,
        /// More follow: ask again, after the last of these.
        more: bool,
    },
    TreeChange(TreeChange),
    Objects {
        objects: Vec<ObjectName>,
    },
    /// The file is written and synced.
    BackedUp {
        file: String,
        seq: u64,
        bytes: u64,
    },
    Networks {
        networks: Vec<NetworkStatus>,
        /// How late this node's network driver runs.
        delays: DelayStatus,
    },
    NetworkInterfaces {
        interfaces: Vec<InterfaceStatus>,
    },
}

/// A refusal: what, and what to do.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, thiserror::Error)]
#[error("{what}{}{advice}", if .advice.is_empty() { "" } else { "; " })]
pub struct ErrorReply {
    pub kind: ErrorKind,
    pub what: String,
    pub advice: String,
}

/// Kinds of failure; the command line gives each its exit code.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ErrorKind {
    Invalid,
    Unknown,
    Exists,
    NoQuorum,
    Busy,
    Internal,
}

/// The cluster at a glance.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct ClusterStatus {
    pub name: Option<String>,
    pub cluster: String,
    pub node: String,
    pub incarnation: u64,
    pub state: ServiceState,
    /// What it waits for, in words, when it is not `member`.
    pub waiting_for: Option<String>,
    pub view: Option<ViewStatus>,
    /// A regroup under way.
    pub stage: Option<Stage>,
    pub lease_ms: Option<u64>,
    pub commit_seq: u64,
    /// The version of the protocol between nodes that all members of the view speak.
    #[serde(default)]
    pub protocol: u16,
    /// Nodes that updates wait for, as the locker sees it (empty elsewhere).
    #[serde(default)]
    pub stuck: Vec<StuckNode>,
    /// Messages of other nodes that this life did not act upon, by reason. A few of those that are
    /// late belong to every regroup.
    #[serde(default)]
    pub refused: BTreeMap<Illegal, u64>,
    pub nodes: Vec<NodeStatus>,
    pub groups: Vec<GroupStatus>,
    pub resources: Vec<ResourceStatus>,
    pub quorum: QuorumStatus,
}

/// A node that an update waits for.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct StuckNode {
    pub node: String,
    pub waiting_for: WaitingFor,
    pub since_ms: u64,
    /// The update.
    pub seq: u64,
}

/// What is waited for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WaitingFor {
    /// It has not yet said that the update is durable there.
    Log,
    /// It has not yet said that the update is in its database.
    Apply,
    /// The witness has not yet taken the update (`node` names the witness).
    Witness,
}

/// Identity and name of an object.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ObjectName {
    pub id: String,
    /// `group`, `resource` or `node`.
    pub kind: String,
    pub name: String,
    /// The update that deleted it.
    pub deleted: Option<u64>,
}

/// What this node's service is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ServiceState {
    /// No cluster was created or joined yet.
    Empty,
    /// Looks for the others, or for quorum.
    Waiting,
    Regrouping,
    Member,
    Leaving,
}

/// The installed view.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ViewStatus {
    pub ballot: String,
    pub leader: String,
    pub members: Vec<String>,
    pub witness_in: bool,
}

/// One node as seen from here.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct NodeStatus {
    pub id: u8,
    pub name: String,
    pub state: NodeState,
    pub reach: Option<Reach>,
    pub incarnation: Option<u64>,
    pub paths: Vec<PathStatus>,
}

/// States of a node.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NodeState {
    Up,
    Down,
    Joining,
    /// A member on which no group is placed.
    Paused,
    /// Out of the cluster until it is added again.
    Evicted,
}

/// One path to a node.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PathStatus {
    pub network: String,
    pub up: bool,
}

/// One group.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct GroupStatus {
    pub name: String,
    pub id: String,
    pub state: GroupState,
    pub wanted: Wanted,
    pub owner: Option<String>,
    pub moving_to: Option<String>,
    pub preferred: Vec<String>,
    /// Why the owner is the owner, or why it failed.
    pub because: String,
    /// How well its disks are protected against a second writer.
    pub protection: Protection,
}

/// P7: computed and shown.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Protection {
    /// All its disks are reserved (SCSI-2); `reserve` is exclusion, not a full fence.
    Reserved,
    /// It has no disk: leases alone.
    Lease,
}

/// One resource.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ResourceStatus {
    pub name: String,
    pub id: String,
    pub group: String,
    pub kind: String,
    pub state: ResourceState,
    pub node: Option<String>,
    pub why: String,
    pub depends_on: Vec<String>,
    pub properties: BTreeMap<String, String>,
}

/// Who counts, who is there, and what it takes.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct QuorumStatus {
    pub kind: Option<QuorumType>,
    pub witness: Option<String>,
    pub exclusion: Option<String>,
    pub votes: BTreeMap<String, u8>,
    pub witness_votes: u8,
    pub have: u32,
    pub total: u32,
    pub has_quorum: bool,
    /// In plain words: what holds, and what can still fail.
    pub explanation: String,
}

/// The quorum explained: one plain sentence per line.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct QuorumExplanation {
    pub quorum: QuorumStatus,
    pub lines: Vec<String>,
}
