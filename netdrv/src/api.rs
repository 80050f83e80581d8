//! What the driver is told at its start, and what it tells: configuration, events, errors.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

pub use wolfpack_types::config::EventLoop;
use wolfpack_types::event::Proof;
use wolfpack_types::heartbeat::HeartbeatNotice;
use wolfpack_types::security::{Cipher, PublicKey, SecurityLevel};
use wolfpack_types::{Incarnation, NetworkId, NodeId, NodeInc, Rules, Times};

use crate::{ClusterKey, NodeKey};

/// How the driver is set up. The peers are fixed for its life.
#[derive(Clone, Debug)]
pub struct DriverConfig {
    /// This node, in this life; the incarnation must be above that of all earlier lives.
    pub me: NodeInc,
    pub key: ClusterKey,
    pub times: Times,
    /// The UDP port, on every network and every node.
    pub port: u16,
    /// The networks that carry cluster traffic.
    pub networks: Vec<DriverNetwork>,
    /// Run the thread at SCHED_RR and lock the process's memory; a refusal is logged, not fatal.
    pub realtime: bool,
    /// By what the thread waits for the kernel.
    pub event_loop: EventLoop,
    /// [`Rules::ALL`] in the daemon.
    pub rules: Rules,
    pub security: Security,
}

/// How the traffic is protected; the default is the safest that the cluster key alone allows.
#[derive(Clone, Debug, Default)]
pub struct Security {
    pub level: SecurityLevel,
    pub cipher: Cipher,
    /// This machine's static key; None where none is configured: then a key stands in that
    /// everyone with the cluster key can compute.
    pub node_key: Option<NodeKey>,
    /// The static keys of the peers that have one.
    pub peer_keys: BTreeMap<NodeId, PublicKey>,
    /// The keys of all sessions are written to this file (debugging).
    pub key_log: Option<PathBuf>,
}

/// One network as this node uses it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DriverNetwork {
    pub id: NetworkId,
    pub name: String,
    /// The interface that the socket is bound to.
    pub interface: String,
    /// This node's address on the network. A link-local one belongs to the interface.
    pub address: IpAddr,
    /// The peers' addresses on the network, of the same kind.
    pub peers: BTreeMap<NodeId, IpAddr>,
    /// Messages take the usable network of the lowest number, then of the lowest id; heartbeats
    /// take all.
    pub priority: u8,
}

/// How the driver fares. All counters run from its start.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct DriverStats {
    /// "io_uring" or "epoll".
    pub event_loop: &'static str,
    /// Whether the thread runs at SCHED_RR.
    pub realtime: bool,
    /// Whether the process's memory is locked.
    pub memory_locked: bool,
    /// Worst delay between the time for which the loop asked to be woken and the time when it ran,
    /// in the last one to two minutes.
    pub recent_worst_delay: Duration,
    /// Worst delay since the start.
    pub worst_delay: Duration,
    /// How often the loop was late by less than 2^i microseconds (and not by less than half of
    /// that); the last counts everything longer.
    pub delays: [u64; DELAY_BUCKETS],
    /// Datagrams that came in and were given to the engine.
    pub received: u64,
    /// Datagrams that the kernel took.
    pub sent: u64,
    /// Times that the thread was woken.
    pub turns: u64,
}

/// Buckets of [`DriverStats::delays`]: the last begins at about 4 s.
pub const DELAY_BUCKETS: usize = 24;

/// What the driver tells the service, through the channel given to [`crate::start`]. Give it a
/// bounded one: when it is full, peers keep their messages until there is room.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum DriverEvent {
    /// The failure detector's notices, leases included.
    Heartbeat(HeartbeatNotice),
    /// A session with this life of a peer: from now on its heartbeats and messages arrive, and
    /// messages to it can be sent. Messages that waited for an earlier life are dropped.
    Session(NodeInc),
    /// A message of this life of a peer, once, in the order in which it was sent.
    Message { from: NodeInc, bytes: Vec<u8> },
    /// Proof that nothing of this life runs any more (P7).
    Dead { who: NodeInc, proof: Proof },
    /// Datagrams refused, counted since the last event of that network and reason (at most one
    /// event each ten seconds).
    Dropped { network: NetworkId, reason: DropReason, count: u64 },
    /// The network's socket cannot be had at present; tried again as soon as the kernel tells of a
    /// change.
    BindFailed { network: NetworkId, error: String },
    /// The network's socket is there (at the start, and after [`DriverEvent::BindFailed`]).
    Bound { network: NetworkId },
    /// Real-time scheduling or locked memory is not to be had, and why: once, at the start.
    NotRealtime { scheduling: Option<String>, memory: Option<String> },
    /// So many datagrams a second were refused that the kernel refuses their like from now on, but
    /// for a sample.
    Flood { network: NetworkId, per_second: u64 },
}

/// Why a datagram was refused. The text says what to do where there is something to do.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum DropReason {
    /// Shorter or longer than its header says, or than any datagram of ours.
    Truncated,
    /// Not of this protocol at all.
    Foreign,
    /// This protocol in another version.
    Version { ours: u8, theirs: u8 },
    /// From an address that no peer has.
    UnknownSender,
    /// From a peer's address, but of another cluster, or made with another cluster key.
    WrongKey(NodeId),
    /// Claims to be from a peer, but the authentication code is not right.
    Forged(NodeId),
    /// For another node, or brought over from another network.
    Misdirected,
    /// No session with the sender yet: usual for a moment after a start, therefore no event.
    NoSession,
    /// Of another session than the one in force: of an earlier life of either side.
    OtherSession(NodeId),
    /// Its counter was seen before.
    Replayed(NodeId),
    /// From a life that a later one has replaced.
    OldLife(NodeId),
    /// Another machine runs with this peer's number and incarnation: a clone.
    Clone { node: NodeId, inc: Incarnation },
    /// Authentic, but its body makes no sense: the peer's program differs or is broken.
    Malformed(NodeId),
    /// From a node that was evicted: whatever it says is refused.
    Expelled(NodeId),
}

impl fmt::Display for DropReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Truncated => f.write_str("length is not that of a cluster datagram"),
            Self::Foreign => f.write_str("not a cluster datagram"),
            Self::Version { ours, theirs } => write!(
                f,
                "protocol version {theirs}, this node speaks version {ours}: install the same \
                 release on all nodes"
            ),
            Self::UnknownSender => {
                f.write_str("sender's address is not that of a configured peer on this network")
            }
            Self::WrongKey(node) => write!(
                f,
                "node {node} uses another cluster key or belongs to another cluster: give both \
                 nodes the same key file (while the key is changed: with the other as 'also')"
            ),
            Self::Forged(node) => {
                write!(
                    f,
                    "claims to be from node {node} but does not authenticate (does the configuration \
                     name the public_key that 'wolfpack key node' prints there?)"
                )
            }
            Self::Misdirected => f.write_str("meant for another node or another network"),
            Self::NoSession => f.write_str("no session with the sender yet"),
            Self::OtherSession(node) => {
                write!(f, "of an earlier session with node {node} (late or replayed)")
            }
            Self::Replayed(node) => write!(f, "a repetition of a datagram of node {node}"),
            Self::OldLife(node) => write!(f, "of an earlier life of node {node}"),
            Self::Clone { node, inc } => write!(
                f,
                "a second machine runs as node {node} in incarnation {}: a clone of its disk? \
                 stop one of them",
                inc.0
            ),
            Self::Expelled(node) => {
                write!(f, "node {node} was evicted: stop it there, or let it join again")
            }
            Self::Malformed(node) => write!(
                f,
                "node {node} sent a body that this release does not understand: install the same \
                 release on all nodes"
            ),
        }
    }
}

/// The driver cannot start.
#[derive(Debug, thiserror::Error)]
pub enum DriverError {
    #[error("no network carries cluster traffic: configure a [[network]] that is not client-only")]
    NoNetworks,
    #[error("{0}")]
    Config(String),
    #[error(
        "network '{network}': UDP port {port} of {address} is in use: does another wolfpackd run \
         on this node?"
    )]
    PortInUse { network: String, address: IpAddr, port: u16 },
    #[error(
        "io_uring is not available ({step}): allow it (sysctl kernel.io_uring_disabled=0, no \
         seccomp filter against it) on a kernel of 6.0 or later"
    )]
    NoUring {
        step: &'static str,
        #[source]
        source: std::io::Error,
    },
    #[error("cannot keep the key log {}", path.display())]
    KeyLog {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("{what}")]
    System {
        what: &'static str,
        #[source]
        source: std::io::Error,
    },
}

/// A message that was not taken. Nothing of it is sent.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SendError {
    #[error("node {0} is not a peer of this node")]
    UnknownNode(NodeId),
    #[error("there is no session with node {0}: it is not running, or not reachable")]
    NoSession(NodeId),
    #[error("a message of {size} bytes is longer than the longest allowed, {max}")]
    TooLong { size: usize, max: usize },
    #[error("{queued} bytes wait for node {node} already: it does not take them")]
    Full { node: NodeId, queued: usize },
    #[error("the network driver has stopped")]
    Stopped,
}
