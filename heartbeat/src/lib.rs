//! The failure detector: paths, peers, acknowledgements under a mask, the own lease, pauses.
//!
//! Pure: no socket, clock or thread. Driven by the driver thread of `netdrv` and by the simulator:
//! one [`Input`] to [`Detector::handle`], then [`Detector::poll_output`] until it is empty, then the
//! next input, at [`Detector::next_deadline`] at the latest. It decides neither membership nor
//! ownership; it says who is heard and until when the own lease lasts (protocol P6, P11).

#![forbid(unsafe_code)]

mod detector;
mod figures;
mod lease;
mod pause;
mod peer;
#[cfg(test)]
mod proptests;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use wolfpack_types::heartbeat::{Heartbeat, HeartbeatCommand, HeartbeatNotice};
use wolfpack_types::{NetworkId, NodeId, NodeInc, Rules, Times};

pub use detector::Detector;

/// How the detector is set up.
#[derive(Clone, Debug)]
pub struct DetectorConfig {
    /// This node in this life.
    pub me: NodeInc,
    /// The times of the cluster.
    pub times: Times,
    /// Each peer with the networks that lead to it.
    pub paths: BTreeMap<NodeId, BTreeSet<NetworkId>>,
    /// The rules in force; the simulator breaks some.
    pub rules: Rules,
}

/// One thing that happened.
#[derive(Clone, Debug, PartialEq)]
pub enum Input {
    /// The time of [`Detector::next_deadline`] has come.
    Deadline,
    /// An authenticated heartbeat.
    Received {
        network: NetworkId,
        from: NodeId,
        heartbeat: Heartbeat,
    },
    Command(HeartbeatCommand),
    /// A peer can hear this node from now on (a session has begun): it waits for a heartbeat.
    Introduced {
        node: NodeId,
    },
    /// ICMP unreachable, or a send that failed, on a path: probe, decide nothing.
    PathHint {
        network: NetworkId,
        node: NodeId,
    },
    /// Whether the own interface on a network can work at all, as the kernel says (there is none,
    /// it is down, it has no carrier, its address is gone). For reports alone; it decides nothing.
    Interface {
        network: NetworkId,
        works: bool,
    },
}

/// One thing to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Output {
    /// Send it now: it carries the time and the acknowledgements of now.
    Transmit {
        network: NetworkId,
        to: NodeId,
        heartbeat: Heartbeat,
    },
    Notice(HeartbeatNotice),
}
