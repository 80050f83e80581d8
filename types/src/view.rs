//! Ballots and views (protocol P2): who the members are, by whose decision, counted by which table.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::membership::WitnessSpec;
use crate::{Incarnation, NodeId, NodeInc, Seq, StoreId, VoteTable};

/// The part of a ballot that only a forced quorum raises. Two different forces never merge.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug, Serialize, Deserialize,
)]
pub struct Force {
    pub count: u32,
    pub random: u64,
}

/// The number of an attempt to form a view; ordered, never reused by a node.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Ballot {
    pub force: Force,
    pub counter: u64,
    /// The coordinator's number, 0 only in [`Ballot::ZERO`].
    node: u8,
}

impl Ballot {
    /// Below every real ballot.
    pub const ZERO: Self = Self { force: Force { count: 0, random: 0 }, counter: 0, node: 0 };

    /// A ballot of `node`.
    #[must_use]
    pub fn new(force: Force, counter: u64, node: NodeId) -> Self {
        Self { force, counter, node: node.get() }
    }

    /// The coordinator; none for [`Ballot::ZERO`].
    #[must_use]
    pub fn node(self) -> Option<NodeId> {
        NodeId::new(self.node).ok()
    }
}

impl Default for Ballot {
    fn default() -> Self {
        Self::ZERO
    }
}

impl fmt::Display for Ballot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.force.count > 0 {
            write!(f, "f{}:", self.force.count)?;
        }
        write!(f, "{}.{}", self.counter, self.node)
    }
}

impl fmt::Debug for Ballot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "b{self}")
    }
}

/// What a view says of one member.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct Member {
    pub inc: Incarnation,
    pub store: StoreId,
}

/// The members of a view or of a proposal.
pub type Members = BTreeMap<NodeId, Member>;

/// Whether `who` is among `members`, in this incarnation.
#[must_use]
pub fn same_members(members: &Members, who: NodeInc) -> bool {
    members.get(&who.node).is_some_and(|m| m.inc == who.inc)
}

/// Whether a ballot of force `own`, with these forces before it, descends from `other`.
#[must_use]
pub fn descends(forces: &[Force], own: Force, other: Force) -> bool {
    other == Force::default() || other == own || forces.contains(&other)
}

/// A membership, decided by one ballot. One ballot has one value ever.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct View {
    pub ballot: Ballot,
    pub members: Members,
    /// Who could have been a member: what this view excludes counts only if it was established.
    pub former: BTreeSet<NodeInc>,
    /// The witness takes part: it promised and accepted, members renew at it.
    pub witness_in: bool,
    pub votes: VoteTable,
    /// The table before a planned change of votes, counted too until this view is established.
    pub prev_votes: Option<VoteTable>,
    /// Last position of the log that this view starts with.
    pub base_seq: Seq,
    /// The witness that the tables speak of. A promise or an accept of any other register counts
    /// for nothing (P5: a witness is replaced by way of a view in which none votes).
    pub witness: Option<WitnessSpec>,
    /// The forces that this view descends from, oldest first (P9): the lineage. Views of two
    /// lineages of which neither contains the other never merge.
    pub forces: Vec<Force>,
}

impl View {
    /// Whether this life of the node is a member.
    #[must_use]
    pub fn has(&self, who: NodeInc) -> bool {
        same_members(&self.members, who)
    }

    /// Whether any life of the node is a member.
    #[must_use]
    pub fn has_node(&self, node: NodeId) -> bool {
        self.members.contains_key(&node)
    }

    /// The coordinator: leader, locker and owner of the quorum resource.
    ///
    /// # Panics
    /// A view of [`Ballot::ZERO`] does not exist.
    #[must_use]
    pub fn leader(&self) -> NodeId {
        self.ballot.node().expect("a view has a coordinator")
    }

    /// Whether this view, or one that it descends from, was formed under `force`. Every view
    /// descends from the time before any force.
    #[must_use]
    pub fn descends_from(&self, force: Force) -> bool {
        descends(&self.forces, self.ballot.force, force)
    }

    /// Whether `spec` is the very register that this view's tables speak of.
    #[must_use]
    pub fn same_witness(&self, spec: Option<&WitnessSpec>) -> bool {
        self.witness.as_ref().map(|w| w.id) == spec.map(|w| w.id)
    }

    /// The members with their lives.
    pub fn lives(&self) -> impl Iterator<Item = NodeInc> + '_ {
        self.members.iter().map(|(&node, m)| NodeInc::new(node, m.inc))
    }
}
