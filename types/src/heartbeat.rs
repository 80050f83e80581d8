//! What heartbeats say, and what the failure detector and the core say to each other.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::networks::{Delays, NetworkFigures, NetworkRows};
use crate::{
    Ballot, Guid, Incarnation, Instant, NetworkId, NodeId, NodeInc, NodeMap, NodeSet, Seq, StoreId,
    VersionRange, VoteTable,
};

/// One heartbeat (P6): who I am, what I stand for, whom I acknowledge, whom I hear. It is made for
/// one receiver and one path, and allocates nothing.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Heartbeat {
    pub inc: Incarnation,
    /// Counts the heartbeats of this life, on this path.
    pub seq: u64,
    /// The sender's clock when it sent this.
    pub clock: Instant,
    /// Asks for an answer at once (probe burst).
    pub probe: bool,
    pub standing: Standing,
    /// Newest clock received from each acknowledged peer: this is what grants it a lease.
    pub acks: NodeMap<Ack>,
    /// Peers that I hear on any path: my row of the connectivity matrix.
    pub row: NodeSet,
    /// Whom I hear over each network, and which of my interfaces are broken.
    pub networks: NetworkRows,
    /// The newest heartbeat of the receiver on this path, for its round trips.
    pub echo: Option<Echo>,
    /// Proxy grants of the leader (exclusion `reserve`, P4), by member.
    pub grants: NodeMap<ProxyGrant>,
}

/// "The newest heartbeat that I had from you on this path, and how long ago that was." A round trip
/// is the age of that clock less the time held: both are spans of one clock.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Echo {
    /// The receiver's own clock in that heartbeat.
    pub clock: Instant,
    /// Nanoseconds between its arrival and this.
    pub held_ns: u32,
}

/// An acknowledgement of one life of a peer.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Ack {
    pub inc: Incarnation,
    /// The clock of the newest heartbeat received from it: *its* clock.
    pub clock: Instant,
}

/// "The newest of your heartbeats that I had before my last good renewal" (P4).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ProxyGrant {
    /// Counts only under this accepted ballot of the receiver.
    pub ballot: Ballot,
    pub inc: Incarnation,
    /// The receiver's own clock in that heartbeat.
    pub clock: Instant,
}

/// What a node says of its protocol state in every heartbeat.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Standing {
    pub installed: Ballot,
    /// None while the node is fresh (never accepted a view with itself in it, in this life).
    pub accepted: Option<Ballot>,
    pub commit_seq: Seq,
    pub store: StoreId,
    /// What its release can speak; a node that speaks nothing that I speak is no peer.
    pub versions: VersionRange,
}

/// What counts for the own lease (P6).
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct LeaseTerms {
    /// Every table must be exceeded; empty: no lease at all.
    pub tables: Vec<VoteTable>,
    /// The own ballot accepted: proxy grants count only under it.
    pub accepted: Ballot,
    /// The register's grant counts.
    pub register_counts: bool,
    /// Which register: grants of another one are forgotten when this changes.
    pub witness: Option<Guid>,
}

/// Core to failure detector.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum HeartbeatCommand {
    /// Acknowledge these lives only, from now on. Answered by [`HeartbeatNotice::MaskInForce`].
    SetMask { id: u64, mask: BTreeSet<NodeInc> },
    /// What the next heartbeats say; a change of it is sent at once.
    SetStanding(Standing),
    /// What counts for the own lease.
    SetLeaseTerms(LeaseTerms),
    /// A renewal at the register, sent at this own time, was good (own or by proxy).
    RegisterGrant { sent: Instant },
    /// Note the newest heartbeat of each peer. Answered by [`HeartbeatNotice::Noted`].
    Note { id: u64 },
    /// The proxy grants to send to members from now on.
    SetProxyGrants(BTreeMap<NodeId, ProxyGrant>),
    /// This life of a peer is known to be over: take it for silent now.
    DeclareDead(NodeInc),
    /// Say what was measured. Answered by [`HeartbeatNotice::Figures`].
    Report { id: u64 },
}

/// How a peer looks from here, over all paths.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reach {
    /// Heard within T_detect on some path.
    Up,
    /// Silent on all paths for half of T_detect; probed.
    Suspected,
    /// Silent on all paths for T_detect and through the probe burst.
    Unreachable,
}

/// Failure detector to core.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum HeartbeatNotice {
    /// A peer's life, standing or row is new.
    Heard { from: NodeInc, standing: Standing, row: BTreeSet<NodeId>, networks: NetworkRows },
    /// A peer's reachability changed; `silence` since its last sign of life.
    Reach { node: NodeId, reach: Reach, silence: Duration },
    /// One path changed.
    Path { network: NetworkId, node: NodeId, up: bool, silence: Duration },
    /// The mask is in force; no acknowledgement outside it leaves any more. `last_ack` is the own
    /// time of the last acknowledgement to each node, read after that.
    MaskInForce { id: u64, last_ack: BTreeMap<NodeId, Instant> },
    /// Answer to [`HeartbeatCommand::Note`]: newest clock of each life heard.
    Noted { id: u64, newest: BTreeMap<NodeInc, Instant> },
    /// The own lease ends then (own clock); [`Instant::ZERO`]: there is none.
    Lease { end: Instant },
    /// The own clock stood still or ran late against the peers' clocks: a pause.
    Paused { behind: Duration },
    /// The driver thread was late by this much and has discounted it.
    Stalled { late: Duration },
    /// Something happened to the own interface of a network.
    Interface { network: NetworkId, change: InterfaceChange },
    /// Whom this node itself hears over each network, and which of its interfaces are broken.
    Networks(NetworkRows),
    /// Answer to [`HeartbeatCommand::Report`].
    Figures { id: u64, figures: Box<NetworkFigures> },
    /// Whether the delays of this machine allow the times in force: said at each change.
    Delays { safe: bool, delays: Delays },
}

/// What happened to an own interface, as the kernel tells it (rtnetlink), at once.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum InterfaceChange {
    /// It exists now (at the start, or created anew).
    Appeared,
    /// It exists no more.
    Gone,
    /// Switched off, or no carrier: a cable, a switch port, a driver.
    LinkLost,
    LinkBack,
    /// This node's address on it was taken away, or is not usable (a duplicate, tentative).
    AddressLost,
    AddressBack,
}

impl InterfaceChange {
    /// Whether it makes the network usable rather than not.
    #[must_use]
    pub const fn good(self) -> bool {
        matches!(self, Self::Appeared | Self::LinkBack | Self::AddressBack)
    }
}

impl std::fmt::Display for InterfaceChange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Appeared => "is there",
            Self::Gone => "went away",
            Self::LinkLost => "lost its link (cable, switch port, or switched off)",
            Self::LinkBack => "has its link again",
            Self::AddressLost => "lost this node's address",
            Self::AddressBack => "has this node's address again",
        })
    }
}
