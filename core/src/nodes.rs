//! Nodes as administrators want them: paused, evicted, added again; and the quorum resource's place.
//! The database holds the wish, the members act on it: the failover plan places and drains groups,
//! the leader changes views and votes.

use std::collections::BTreeSet;

use wolfpack_types::event::{EventKind, Severity};
use wolfpack_types::membership::QuorumType;
use wolfpack_types::peer::PeerMessage;
use wolfpack_types::update::{Refusal, Update};
use wolfpack_types::{Instant, NodeId, NodeInc};

use crate::membership::Asked;
use crate::{Core, ExitReason};

impl Core {
    /// A node was paused, resumed, evicted or added.
    pub(crate) fn node_changed(&mut self, now: Instant, node: NodeId) {
        let evicted = self.database.is_evicted(node);
        if !evicted {
            self.membership.evicted.remove(&node);
            return self.plan_soon(now);
        }
        if self.membership.evicted.insert(node, now).is_none() {
            let text = format!("node {} is evicted from the cluster", self.name(node));
            self.event(Severity::Warning, EventKind::Evicted { node }, text);
        }
        if node == self.config.me.node {
            // What it owns moves away; then it goes, and stays away.
            self.begin_leave(now);
        }
        self.plan_soon(now);
    }

    /// The database was replaced, or loaded: who is evicted is known from it.
    pub(crate) fn evicted_anew(&mut self, now: Instant) {
        let evicted = self.database.nodes.values().filter(|n| n.evicted).map(|n| (n.id, now));
        self.membership.evicted = evicted.collect();
    }

    /// A member says that this node was evicted. Who has a lease of its own knows better.
    pub(crate) fn on_evicted(&mut self, now: Instant, from: NodeInc, you: NodeInc) {
        if you != self.config.me || self.has_lease(now) || self.exiting {
            return;
        }
        self.event(
            Severity::Error,
            EventKind::Evicted { node: you.node },
            format!(
                "node {} says that this node was evicted: it stops until an administrator adds it \
                 again",
                self.name(from.node)
            ),
        );
        self.exit(ExitReason::Evicted);
    }

    /// Tells evicted nodes that knock what they are.
    pub(crate) fn tell_evicted(&mut self, now: Instant) {
        let m = &self.membership;
        let Some(view) = &m.installed else { return };
        let knock: Vec<NodeInc> = m
            .evicted
            .keys()
            .filter(|n| !view.has_node(**n) && self.database.is_evicted(**n))
            .filter_map(|n| Some(NodeInc::new(*n, m.peers.get(n)?.inc)))
            .collect();
        for you in knock {
            let told = self.restart_told.get(&you);
            if told.is_none_or(|&t| now - t > self.config.times.lease) {
                self.restart_told.insert(you, now);
                self.send(you.node, PeerMessage::Evicted { you });
            }
        }
    }

    /// An administrator wants this member to lead.
    pub(crate) fn quorum_to(&mut self, now: Instant, to: NodeId) {
        let leader = self.membership.installed.as_ref().map(|v| v.leader());
        if leader == Some(to) {
            return;
        }
        let text = format!("an administrator moves the quorum resource to node {}", self.name(to));
        self.event(Severity::Info, EventKind::QuorumMoving { to }, text);
        self.witness_rests(now);
        if to == self.config.me.node {
            self.membership.asked = Some(Asked::TakeOver);
        }
    }

    /// What the database alone cannot judge: whether the quorum would survive the update.
    ///
    /// # Errors
    /// Why it would not.
    pub(crate) fn survivable(&self, now: Instant, update: &Update) -> Result<(), Refusal> {
        match update {
            Update::EvictNode { node } => {
                let mut rest = self.alive();
                rest.remove(node);
                if !self.eligible(&rest) {
                    return Err(Refusal::NoQuorum(format!(
                        "without node '{}' the nodes that are up have no majority; start more of \
                         them first",
                        self.name(*node)
                    )));
                }
                if self.quorum_type() == QuorumType::Majority
                    && self.database.active_nodes().count() == 3
                {
                    return Err(Refusal::Invalid(
                        "two nodes without a witness cannot survive the loss of either; give the \
                         cluster a witness first ('wolfpack quorum set')"
                            .into(),
                    ));
                }
                Ok(())
            }
            Update::SetQuorum(config) => {
                let table = self.database.full_table(config);
                let set: BTreeSet<NodeId> = self.pruned(now);
                if !table.exceeds_half(set.iter().copied(), table.witness > 0) {
                    return Err(Refusal::NoQuorum(format!(
                        "the nodes that are up would hold {} of {} votes, and more than half is \
                         needed",
                        table.sum(set.iter().copied(), true),
                        table.total()
                    )));
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// The quorum type in force, or to be.
    pub(crate) fn quorum_type(&self) -> QuorumType {
        self.database.cluster.as_ref().map_or(self.config.quorum, |c| c.quorum.kind)
    }
}
