//! Vote tables: the arithmetic of "more than half".

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::NodeId;

/// Votes of nodes and witness. Changed only by a planned view change (P5).
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct VoteTable {
    pub nodes: BTreeMap<NodeId, u8>,
    pub witness: u8,
}

impl VoteTable {
    /// All votes there are.
    #[must_use]
    pub fn total(&self) -> u32 {
        self.nodes.values().map(|&v| u32::from(v)).sum::<u32>() + u32::from(self.witness)
    }

    /// The votes of one node; zero for a node that the table does not name.
    #[must_use]
    pub fn of(&self, node: NodeId) -> u32 {
        self.nodes.get(&node).map_or(0, |&v| u32::from(v))
    }

    /// The votes of a set of nodes, with or without the witness.
    pub fn sum(&self, nodes: impl IntoIterator<Item = NodeId>, witness: bool) -> u32 {
        let nodes: u32 = nodes.into_iter().map(|n| self.of(n)).sum();
        nodes + if witness { u32::from(self.witness) } else { 0 }
    }

    /// Whether these hold more than half of all votes.
    pub fn exceeds_half(&self, nodes: impl IntoIterator<Item = NodeId>, witness: bool) -> bool {
        2 * self.sum(nodes, witness) > self.total()
    }

    /// Only the witness votes (quorum type `disk`): every view needs it.
    #[must_use]
    pub fn witness_alone(&self) -> bool {
        self.witness > 0 && self.nodes.values().all(|&v| v == 0)
    }
}
