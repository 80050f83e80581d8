//! The failure detector: paths, peers, acknowledgements under a mask, the own lease, pauses.
//!
//! Pure: no socket, clock or thread. Driven by the driver thread of `netdrv` and by the simulator.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};

use wolfpack_types::heartbeat::{Heartbeat, HeartbeatCommand, HeartbeatNotice};
use wolfpack_types::{Instant, NetworkId, NodeId, NodeInc, Rules, Times};

/// How the detector is set up.
#[derive(Clone, Debug)]
pub struct DetectorConfig {
    pub me: NodeInc,
    pub times: Times,
    /// Each peer with the networks that lead to it.
    pub paths: BTreeMap<NodeId, BTreeSet<NetworkId>>,
    pub rules: Rules,
}

/// One thing that happened.
#[derive(Clone, Debug, PartialEq)]
pub enum Input {
    Deadline,
    /// An authenticated heartbeat.
    Received {
        network: NetworkId,
        from: NodeId,
        heartbeat: Heartbeat,
    },
    Command(HeartbeatCommand),
    /// ICMP unreachable on a path: probe, decide nothing.
    PathHint {
        network: NetworkId,
        node: NodeId,
    },
}

/// One thing to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Output {
    Transmit { network: NetworkId, to: NodeId, heartbeat: Heartbeat },
    Notice(HeartbeatNotice),
}

/// The failure detector of one node.
#[derive(Debug)]
pub struct Detector {
    config: DetectorConfig,
}

impl Detector {
    /// A new life. It acknowledges nobody until told a mask.
    #[must_use]
    pub fn new(config: DetectorConfig, _now: Instant) -> Self {
        Self { config }
    }
    /// One input.
    pub fn handle(&mut self, _now: Instant, _input: Input) {
        let _ = &self.config;
    }
    /// The next output.
    pub fn poll_output(&mut self) -> Option<Output> {
        None
    }
    /// When to call again at the latest.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        None
    }
}
