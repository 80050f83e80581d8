//! The objects of the cluster database.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::event::Cause;
use crate::membership::QuorumConfig;
use crate::{ClusterId, GroupId, NodeId, NodeInc, ResourceId, Seq};

/// The cluster itself.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Cluster {
    pub id: ClusterId,
    pub name: String,
    pub quorum: QuorumConfig,
}

/// A configured node.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Node {
    pub id: NodeId,
    pub name: String,
    /// No group is placed on it; it keeps what it has, unless it is drained.
    pub paused: bool,
    /// Paused, and its groups are to leave it.
    pub drain: bool,
    /// Out of the cluster until it is added again; it counts for nothing.
    pub evicted: bool,
}

impl Node {
    /// A node as it begins: active.
    #[must_use]
    pub const fn new(id: NodeId, name: String) -> Self {
        Self { id, name, paused: false, drain: false, evicted: false }
    }
}

/// The administrator's will for a group or resource.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Wanted {
    Online,
    #[default]
    Offline,
}

/// A group: the unit of failover.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Group {
    pub id: GroupId,
    pub name: String,
    pub wanted: Wanted,
    /// Who alone may run it. Changes only as P7 allows.
    pub owner: Option<NodeInc>,
    /// Position of the update that named the owner; zero before the first. An ownership is this
    /// position: the same life may own a group twice.
    pub owned_since: Seq,
    /// Preferred owners, best first.
    pub preferred: Vec<NodeId>,
    /// A move under way.
    pub moving: Option<Move>,
    /// The owner's life has said that nothing of the group runs, and no new owner is named yet.
    pub released: bool,
    /// Failures that moved it, with the wall clock in milliseconds: the failover threshold counts
    /// them over its period.
    pub failovers_wall_ms: Vec<u64>,
    /// Beyond its thresholds: left as it is until an administrator acts.
    pub failed: Option<String>,
    /// Why the owner is the owner.
    pub because: Cause,
}

/// Where a group is going, and why.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Move {
    pub to: NodeId,
    pub cause: Cause,
}

/// A resource.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Resource {
    pub id: ResourceId,
    pub name: String,
    pub group: GroupId,
    pub kind: ResourceType,
    pub wanted: Wanted,
    /// Resources of the same group that must be online before this one.
    pub depends_on: Vec<ResourceId>,
    /// Private properties, checked by the type.
    pub properties: BTreeMap<String, String>,
    pub policy: Policy,
    /// Volatile: as the owner last said.
    pub state: ResourceState,
    pub state_by: Option<NodeInc>,
    pub state_why: String,
}

/// The built-in resource types.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ResourceType {
    PhysicalDisk,
    IpAddress,
    GenericApplication,
}

impl ResourceType {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::PhysicalDisk, Self::IpAddress, Self::GenericApplication];

    /// The type's name as commands take it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::PhysicalDisk => "physical-disk",
            Self::IpAddress => "ip-address",
            Self::GenericApplication => "generic-application",
        }
    }

    /// Finds a type by its name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|t| t.name() == name)
    }
}

impl fmt::Display for ResourceType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// States of a resource.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ResourceState {
    #[default]
    Offline,
    OnlinePending,
    Online,
    OfflinePending,
    Failed,
}

impl fmt::Display for ResourceState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Offline => "offline",
            Self::OnlinePending => "online-pending",
            Self::Online => "online",
            Self::OfflinePending => "offline-pending",
            Self::Failed => "failed",
        })
    }
}

/// States of a group, derived from its resources by precedence.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GroupState {
    Offline,
    Pending,
    PartialOnline,
    Online,
    Failed,
}

impl fmt::Display for GroupState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Offline => "offline",
            Self::Pending => "pending",
            Self::PartialOnline => "partial-online",
            Self::Online => "online",
            Self::Failed => "failed",
        })
    }
}

/// How a resource is watched and restarted. Defaults are those of the Windows cluster.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Policy {
    pub looks_alive_ms: u32,
    pub is_alive_ms: u32,
    pub pending_timeout_ms: u32,
    /// Restarts on the same node within the period before the group fails over.
    pub restart_threshold: u32,
    pub restart_period_ms: u32,
    pub restart_delay_ms: u32,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            looks_alive_ms: 5_000,
            is_alive_ms: 60_000,
            pending_timeout_ms: 180_000,
            restart_threshold: 3,
            restart_period_ms: 900_000,
            restart_delay_ms: 500,
        }
    }
}
