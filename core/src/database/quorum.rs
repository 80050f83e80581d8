//! Updates about who takes part: quorum configuration, pause, eviction. What they are asked to be is
//! kept here; the leader brings the views there ([`crate::membership`]).

use wolfpack_types::membership::{QuorumConfig, QuorumType};
use wolfpack_types::objects::Node;
use wolfpack_types::update::{Refusal, Update};
use wolfpack_types::{NodeId, VoteTable};

use super::check::invalid;
use super::{Change, Database, Key};

/// Votes of one node at most: what differs more is a mistake.
const WEIGHT_MAX: u8 = 16;
/// Bytes of a witness' place.
const PLACE_BYTES_MAX: usize = 255;

impl Database {
    /// Nodes that are not evicted.
    pub(crate) fn active_nodes(&self) -> impl Iterator<Item = &Node> + '_ {
        self.nodes.values().filter(|n| !n.evicted)
    }

    /// Whether the node was evicted, and not added again.
    pub(crate) fn is_evicted(&self, node: NodeId) -> bool {
        self.nodes.get(&node).is_some_and(|n| n.evicted)
    }

    /// Whether groups may be placed on the node.
    pub(crate) fn takes(&self, node: NodeId) -> bool {
        self.nodes.get(&node).is_some_and(|n| !n.evicted && !n.paused)
    }

    /// Whether the groups of the node are to leave it.
    pub(crate) fn drains(&self, node: NodeId) -> bool {
        self.nodes.get(&node).is_some_and(|n| n.evicted || n.drain)
    }

    fn active(&self, node: NodeId) -> Result<&Node, Refusal> {
        match self.nodes.get(&node) {
            Some(n) if !n.evicted => Ok(n),
            Some(n) => Err(Refusal::Busy(format!("node '{}' is evicted", n.name))),
            None => Err(invalid(format!("there is no node {node}"))),
        }
    }

    /// Structure of an update of this kind.
    pub(super) fn possible_quorum(&self, update: &Update) -> Result<(), Refusal> {
        match update {
            Update::SetNodePaused { node, .. } => self.active(*node).map(|_| ()),
            Update::EvictNode { node } => {
                let name = &self.active(*node)?.name;
                if self.active_nodes().count() < 2 {
                    return Err(invalid(format!(
                        "node '{name}' is the last one: a cluster without nodes is no cluster"
                    )));
                }
                Ok(())
            }
            Update::AddNode { node } => match self.nodes.get(node) {
                Some(n) if n.evicted => Ok(()),
                Some(n) => Err(Refusal::Exists { what: "node".into(), name: n.name.clone() }),
                None => Err(invalid(format!("there is no node {node}"))),
            },
            _ => Ok(()),
        }
    }

    /// The locker's evaluation of a quorum configuration.
    pub(super) fn check_quorum(&self, config: &QuorumConfig) -> Result<(), Refusal> {
        let kind = config.kind;
        match (&config.witness, kind.witness_kind()) {
            (None, None) => {}
            (Some(w), Some(expected)) if w.kind == expected => {
                if w.place.is_empty() || w.place.len() > PLACE_BYTES_MAX {
                    return Err(invalid(format!(
                        "the witness' place must have 1 to {PLACE_BYTES_MAX} bytes"
                    )));
                }
            }
            (Some(w), Some(_)) => {
                return Err(invalid(format!(
                    "'{}' is no witness for quorum type '{kind}'",
                    w.place
                )));
            }
            (Some(_), None) => {
                return Err(invalid(format!("quorum type '{kind}' has no witness")));
            }
            (None, Some(_)) => {
                return Err(invalid(format!(
                    "quorum type '{kind}' needs a witness; give its place"
                )));
            }
        }
        for (node, weight) in &config.weights {
            let name = &self.active(*node)?.name;
            if *weight > WEIGHT_MAX {
                return Err(invalid(format!(
                    "{weight} votes of node '{name}' are too many; {WEIGHT_MAX} is the most"
                )));
            }
        }
        let nodes = self.active_nodes().count();
        if kind == QuorumType::Local && nodes != 1 {
            return Err(invalid(format!(
                "quorum type 'local' is for a single node, and the cluster has {nodes}; \
                 evict the others first"
            )));
        }
        if kind == QuorumType::Majority && nodes == 2 {
            return Err(invalid(
                "two nodes without a witness cannot survive the loss of either; use \
                 'node-and-disk', 'node-and-share' or 'disk' with a witness, or a third node",
            ));
        }
        crate::update::room::check_witness(self, config)?;
        if self.full_table(config).total() == 0 {
            return Err(invalid("with these weights nobody has a vote"));
        }
        Ok(())
    }

    /// The votes when everybody takes part.
    pub(crate) fn full_table(&self, config: &QuorumConfig) -> VoteTable {
        VoteTable {
            nodes: self.active_nodes().map(|n| (n.id, config.weight(n.id))).collect(),
            witness: u8::from(config.kind.has_witness()),
        }
    }

    /// Carries out an update of this kind that was found possible.
    pub(super) fn mutate_quorum(&mut self, update: &Update) -> Vec<(Key, Change)> {
        match update {
            Update::SetQuorum(config) => {
                if let Some(cluster) = &mut self.cluster {
                    cluster.quorum = config.clone();
                }
                vec![(Key::Cluster, Change::QuorumChanged)]
            }
            Update::SetNodePaused { node, paused, drain } => {
                if let Some(n) = self.nodes.get_mut(node) {
                    (n.paused, n.drain) = (*paused, *paused && *drain);
                }
                vec![(Key::Node(*node), Change::NodeChanged(*node))]
            }
            Update::EvictNode { node } | Update::AddNode { node } => {
                let evicted = matches!(update, Update::EvictNode { .. });
                if let Some(n) = self.nodes.get_mut(node) {
                    (n.paused, n.drain, n.evicted) = (false, false, evicted);
                }
                let mut done = vec![(Key::Node(*node), Change::NodeChanged(*node))];
                if let Some(cluster) = self.cluster.as_mut().filter(|_| evicted)
                    && cluster.quorum.weights.remove(node).is_some()
                {
                    done.push((Key::Cluster, Change::QuorumChanged));
                }
                done
            }
            _ => Vec::new(),
        }
    }
}
