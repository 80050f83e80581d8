//! Networks, interfaces and paths as administrators see them.

use serde::{Deserialize, Serialize};

use crate::networks::{InterfaceState, NetworkState};

/// One network, as the leader judges it by all nodes' reports.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct NetworkStatus {
    pub name: String,
    /// None while no leader has judged it (no view, or the view is new).
    pub state: Option<NetworkState>,
    /// Why it is not up, in words.
    pub why: String,
    pub interfaces: Vec<InterfaceStatus>,
    /// The paths from the answering node over this network; empty unless asked for.
    pub paths: Vec<PathDetail>,
}

/// One node's interface on a network.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct InterfaceStatus {
    pub network: String,
    pub node: String,
    pub state: Option<InterfaceState>,
    pub why: String,
}

/// What was measured on one path from the answering node.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PathDetail {
    pub node: String,
    pub up: bool,
    /// Since the last heartbeat.
    pub silence_ms: u64,
    pub sent: u64,
    pub received: u64,
    pub lost: u64,
    pub reordered: u64,
    /// Thousandths lost of the newest heartbeats (up to 64).
    pub loss_permille: u32,
    /// Those heartbeats, oldest first: `.` came, `x` did not.
    pub history: String,
    pub jitter_us: u64,
    pub round_trip: Option<RoundTripStatus>,
    /// The last times that heartbeats did not come, oldest first.
    pub gaps: Vec<GapStatus>,
}

/// Round trips in microseconds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RoundTripStatus {
    pub last_us: u64,
    pub smoothed_us: u64,
    pub min_us: u64,
    pub max_us: u64,
}

/// Heartbeats in a row that did not come.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct GapStatus {
    /// How long ago the next one came.
    pub ago_ms: u64,
    pub missed: u32,
    pub silence_ms: u64,
}

/// How late the network driver runs on this machine, in microseconds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct DelayStatus {
    pub worst_us: u64,
    pub worst_ever_us: u64,
    /// What the times in force allow: a third of T_detect.
    pub allowed_us: u64,
}
