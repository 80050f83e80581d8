//! Global updates: every change of the replicated database, as data. Applying one is deterministic.

use std::cell::Cell;

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize};

use crate::event::{Cause, EventId};
use crate::membership::QuorumConfig;
use crate::objects::{Cluster, Group, Node, Resource, ResourceState, Wanted};
use crate::tree::Transaction;
use crate::{Ballot, GroupId, NodeId, NodeInc, RequestId, ResourceId, Seq};

/// One entry of the log.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct LogEntry {
    pub ballot: Ballot,
    pub seq: Seq,
    /// Wall clock of the locker, milliseconds since 1970 (for people, never for decisions).
    pub wall_ms: u64,
    pub request: Option<RequestId>,
    pub update: Update,
    /// The event that led to it, on whichever node; for people, never for decisions.
    pub cause: Option<EventId>,
}

/// A change of the database. The locker has checked it and resolved everything that is not
/// deterministic (new identities are in it).
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Update {
    /// The first entry: what `cluster create` writes.
    CreateCluster {
        cluster: Cluster,
        nodes: Vec<Node>,
    },
    CreateGroup(Group),
    DeleteGroup(GroupId),
    CreateResource(Resource),
    DeleteResource(ResourceId),
    /// The administrator's will, kept over restarts (persistent state).
    SetGroupWanted {
        group: GroupId,
        wanted: Wanted,
    },
    SetResourceWanted {
        resource: ResourceId,
        wanted: Wanted,
    },
    SetPreferredOwners {
        group: GroupId,
        nodes: Vec<NodeId>,
    },
    /// Groups are to leave their owner for another node: the owner takes them offline, then says
    /// `GroupOffline`.
    MoveGroup {
        group: GroupId,
        to: NodeId,
        cause: Cause,
    },
    /// The owner (this life) has ended everything of the group. P7: 'offline' committed.
    /// `since` names the ownership that it ends: a repetition that comes late must not release a
    /// later ownership of the same life.
    GroupOffline {
        group: GroupId,
        by: NodeInc,
        since: Seq,
    },
    /// The group's owner from now on. Proposed by the leader alone, when P7 allows it.
    /// `after` names the ownership that it replaces: with any other it does nothing, so that a
    /// decision taken twice never takes a group from a new owner that runs it.
    AssignOwner {
        group: GroupId,
        owner: NodeInc,
        cause: Cause,
        after: Seq,
    },
    /// A resource has failed too often on its owner: the group stays there, failed. Said of one
    /// ownership (`since`), so that coming late it does not stop the group on its next owner.
    GroupFailed {
        group: GroupId,
        since: Seq,
        resource: ResourceId,
        why: String,
    },
    /// Volatile class: a resource's state as its owner sees it.
    ResourceState {
        resource: ResourceId,
        by: NodeInc,
        state: ResourceState,
        why: String,
    },
    /// Volatile class: the owner is to treat the resource as failed, to see what happens.
    FailResource(ResourceId),
    /// Several changes as one: all or nothing.
    Batch(#[serde(deserialize_with = "parts_of_batch")] Vec<Self>),
    /// Changes of the tree of keys and values: all or nothing, if the preconditions hold.
    Tree(Transaction),
    /// The quorum as it is to be; the leader brings the views there (P5).
    SetQuorum(QuorumConfig),
    /// No group is placed on the node (or again); with `drain`, its groups leave it.
    SetNodePaused {
        node: NodeId,
        paused: bool,
        drain: bool,
    },
    /// The node is out: the leader takes it from the view, then from the votes.
    EvictNode {
        node: NodeId,
    },
    /// A node that was evicted may come back, as a learner without votes until it is a member.
    AddNode {
        node: NodeId,
    },
    /// Volatile class: this member is to lead, and so to own the quorum resource.
    MoveQuorum {
        to: NodeId,
    },
}

/// Batches may be in each other so deep. (The locker refuses any nesting; decoding must end before
/// bytes from disk or network, two per level, use up a stack.)
const BATCH_DEPTH_MAX: u32 = 8;

thread_local! {
    static BATCH_DEPTH: Cell<u32> = const { Cell::new(0) };
}

fn parts_of_batch<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Update>, D::Error> {
    let depth = BATCH_DEPTH.get();
    if depth >= BATCH_DEPTH_MAX {
        return Err(D::Error::custom("batches are nested too deep"));
    }
    BATCH_DEPTH.set(depth + 1);
    let parts = Vec::deserialize(from);
    BATCH_DEPTH.set(depth);
    parts
}

impl Update {
    /// Volatile updates travel in the same order but are not made durable.
    #[must_use]
    pub const fn is_volatile(&self) -> bool {
        matches!(self, Self::ResourceState { .. } | Self::FailResource(_) | Self::MoveQuorum { .. })
    }
}

/// Why the locker did not carry out a request.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, thiserror::Error)]
pub enum Refusal {
    #[error("{0}")]
    Invalid(String),
    #[error("{what} '{name}' does not exist{hint}")]
    Unknown { what: String, name: String, hint: String },
    #[error("{what} '{name}' exists already")]
    Exists { what: String, name: String },
    #[error("no quorum: {0}")]
    NoQuorum(String),
    #[error("the cluster is regrouping; the request was not carried out, try again")]
    Regrouping,
    #[error("{0}")]
    Busy(String),
    /// A precondition of a transaction does not hold: what was expected, and what is.
    #[error("nothing was changed: {what} is {found}, and {wanted} was expected")]
    Precondition { what: String, wanted: String, found: String },
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::{decode, encode};

    #[test]
    fn batches_without_end_are_refused_and_not_followed() {
        let shallow = Update::Batch(vec![Update::Batch(vec![])]);
        assert_eq!(decode("update", &encode(&shallow)), Ok(shallow));
        let empty = encode(&Update::Batch(vec![]));
        let mut bytes = [empty[0], 1].repeat(1_000_000);
        bytes.extend_from_slice(&empty);
        let err = decode::<Update>("update", &bytes).unwrap_err();
        assert_eq!(err.what, "update");
        // And the limit is of one value, not of all.
        for _ in 0..100 {
            decode::<Update>("update", &bytes).unwrap_err();
        }
        assert!(decode::<Update>("update", &empty).is_ok());
    }
}
