//! States of networks and interfaces, and the figures of paths: what nodes tell each other about
//! their networks, and what is shown of it.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{Instant, NetworkId, NodeId, NodeSet};

/// Networks that a cluster may have; ids are below.
pub const NETWORKS_MAX: usize = 16;

/// Over each network, whom a node hears; and which of its own interfaces it knows to be broken.
/// Carried in every heartbeat.
#[derive(Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct NetworkRows {
    rows: [NodeSet; NETWORKS_MAX],
    broken: u16,
}

impl NetworkRows {
    /// Whom it hears over this network; nobody where there is no such network.
    #[must_use]
    pub fn row(&self, network: NetworkId) -> NodeSet {
        self.rows.get(usize::from(network.0)).copied().unwrap_or_default()
    }

    /// Notes whether a node is heard over a network.
    pub fn set(&mut self, network: NetworkId, node: NodeId, heard: bool) {
        if let Some(row) = self.rows.get_mut(usize::from(network.0)) {
            if heard {
                row.insert(node);
            } else {
                row.remove(node);
            }
        }
    }

    const fn bit(network: NetworkId) -> u16 {
        if (network.0 as usize) < NETWORKS_MAX { 1 << network.0 } else { 0 }
    }

    /// Whether the node says that its own interface on this network cannot work (there is none, it
    /// is down, it has no carrier or lost its address).
    #[must_use]
    pub const fn broken(&self, network: NetworkId) -> bool {
        self.broken & Self::bit(network) != 0
    }

    /// Notes what is known of the own interface.
    pub const fn set_broken(&mut self, network: NetworkId, broken: bool) {
        if broken {
            self.broken |= Self::bit(network);
        } else {
            self.broken &= !Self::bit(network);
        }
    }
}

impl fmt::Debug for NetworkRows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ids = (0..=u8::MAX).take(NETWORKS_MAX).map(NetworkId);
        let said = ids.filter(|&n| !self.row(n).is_empty() || self.broken(n));
        let said = said.map(|n| (n.0, (self.row(n), if self.broken(n) { "broken" } else { "" })));
        f.debug_map().entries(said).finish()
    }
}

/// State of one node's interface on a network, by the reports of all nodes that are up.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum InterfaceState {
    /// It and every other working interface of the network hear each other.
    Up,
    /// At least one working interface of the network does not reach it, or is not reached.
    Unreachable,
    /// The interface itself is broken: its node says so, or it alone reaches nobody.
    Failed,
    /// Its node is down.
    Unavailable,
}

/// State of a network, by the reports of all nodes that are up.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NetworkState {
    /// All interfaces on it that have not failed hear each other.
    Up,
    /// It works for some pairs of nodes and not for others.
    Partitioned,
    /// Nobody hears anybody over it.
    Down,
    /// Fewer than two nodes are up: nothing can be said of it.
    Unavailable,
}

macro_rules! words {
    ($type:ty, $($variant:ident => $word:literal),+) => {
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(match self { $(Self::$variant => $word),+ })
            }
        }
    };
}

words!(InterfaceState, Up => "up", Unreachable => "unreachable", Failed => "failed", Unavailable => "unavailable");
words!(NetworkState, Up => "up", Partitioned => "partitioned", Down => "down", Unavailable => "unavailable");

/// What the leader makes of all reports about one network.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct NetworkVerdict {
    pub network: NetworkId,
    pub state: NetworkState,
    /// Why, in words; empty while it is up.
    pub why: String,
    pub interfaces: BTreeMap<NodeId, InterfaceVerdict>,
}

/// What the leader makes of all reports about one node's interface on a network.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct InterfaceVerdict {
    pub state: InterfaceState,
    /// Why, in words; empty while it is up.
    pub why: String,
}

/// Gaps remembered per path.
pub const GAPS_MAX: usize = 16;

/// What was measured on one path to a peer since its present life was first heard. Spans are of the
/// own clock or of differences on the peer's: clocks are never compared.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PathFigures {
    pub network: NetworkId,
    pub node: NodeId,
    pub up: bool,
    /// Since the last heartbeat on it (since the start, before the first).
    pub silence: Duration,
    /// Heartbeats sent on it.
    pub sent: u64,
    /// Heartbeats received on it.
    pub received: u64,
    /// Heartbeats that the peer had sent and that did not come.
    pub lost: u64,
    /// Heartbeats that came after a later one.
    pub reordered: u64,
    /// The newest heartbeats, bit 0 the newest: 1 is a miss. `history_len` of them count (0 to 64).
    pub history: u64,
    pub history_len: u8,
    /// Mean deviation of the spacing of arrivals from that of sending (RFC 3550, section 6.4.1).
    pub jitter: Duration,
    /// Round trip without the time that the peer held the echo; none before the first.
    pub round_trip: Option<RoundTrip>,
    /// The last gaps, oldest first, at most [`GAPS_MAX`].
    pub gaps: Vec<Gap>,
}

impl PathFigures {
    /// Loss among the newest heartbeats, in thousandths.
    #[must_use]
    pub fn loss_permille(&self) -> u32 {
        let kept = u32::from(self.history_len.min(64));
        let mask = 1_u64.checked_shl(kept).map_or(u64::MAX, |bit| bit - 1);
        (self.history & mask).count_ones() * 1000 / kept.max(1)
    }
}

/// Round trips on a path.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RoundTrip {
    pub last: Duration,
    /// Smoothed with 1/8 (RFC 6298, section 2).
    pub smoothed: Duration,
    pub min: Duration,
    pub max: Duration,
}

/// Heartbeats in a row that did not come.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Gap {
    /// Own time at which the next one came.
    pub at: Instant,
    pub missed: u32,
    /// How long nothing had come.
    pub silence: Duration,
}

/// How late the failure detector was run, against the time it had asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Delays {
    /// The worst of the last one to two minutes.
    pub worst: Duration,
    /// The worst of this life.
    pub worst_ever: Duration,
    /// What the times allow: a third of T_detect.
    pub allowed: Duration,
}

/// What the failure detector has measured.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct NetworkFigures {
    pub paths: Vec<PathFigures>,
    pub delays: Delays,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_know_sixteen_networks_and_no_more() {
        let node = NodeId::new(3).unwrap();
        let mut rows = NetworkRows::default();
        for id in [0, 15, 16, 255].map(NetworkId) {
            rows.set(id, node, true);
            rows.set_broken(id, true);
        }
        assert!(rows.row(NetworkId(15)).contains(node) && rows.broken(NetworkId(15)));
        assert!(rows.row(NetworkId(16)).is_empty() && !rows.broken(NetworkId(255)));
        rows.set(NetworkId(0), node, false);
        rows.set_broken(NetworkId(0), false);
        assert!(rows.row(NetworkId(0)).is_empty() && !rows.broken(NetworkId(0)));
    }

    #[test]
    fn loss_counts_what_history_there_is() {
        let mut path = PathFigures {
            network: NetworkId(0),
            node: NodeId::new(1).unwrap(),
            up: true,
            silence: Duration::ZERO,
            sent: 0,
            received: 0,
            lost: 0,
            reordered: 0,
            history: u64::MAX,
            history_len: 0,
            jitter: Duration::ZERO,
            round_trip: None,
            gaps: Vec::new(),
        };
        assert_eq!(path.loss_permille(), 0);
        path.history_len = 64;
        assert_eq!(path.loss_permille(), 1000);
        (path.history, path.history_len) = (0b1_0010, 4);
        assert_eq!(path.loss_permille(), 250);
    }
}
