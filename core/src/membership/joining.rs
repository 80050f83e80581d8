//! Who may join the installed view (P3): whom all its members hear and who hears them all. A node
//! that was pruned, or that keeps getting lost, must have been so for T_stable, which doubles: one
//! sick link must not cost the others a view every few seconds.

use std::collections::BTreeSet;
use std::time::Duration;

use wolfpack_types::heartbeat::Reach;
use wolfpack_types::{Force, Instant, NodeId, NodeInc, Rule, View};

use super::{Membership, T_STABLE};
use crate::Core;

/// Exits of a node are remembered for this long.
const MEMORY: Duration = Duration::from_secs(300);
/// A node that was lost this often within that time is treated as if it had been pruned.
const LOST_OFTEN: usize = 3;
/// T_stable doubles this often at most.
const DOUBLINGS_MAX: u32 = 2;

/// What is remembered of a node that was left out.
#[derive(Clone, Debug, Default)]
pub(crate) struct Exits {
    /// When it was left out.
    marks: Vec<Instant>,
    /// It was heard when it was left out: its links are bad, not its power.
    pruned: bool,
    /// Since when it has had two-way links with all members.
    connected: Option<Instant>,
}

impl Exits {
    /// How long it must be connected before it is let in.
    fn patience(&self) -> Duration {
        if !self.pruned && self.marks.len() < LOST_OFTEN {
            return Duration::ZERO;
        }
        let often = if self.pruned { self.marks.len() } else { self.marks.len() - LOST_OFTEN + 1 };
        let doublings = u32::try_from(often.saturating_sub(1)).unwrap_or(u32::MAX);
        T_STABLE * 2_u32.pow(doublings.min(DOUBLINGS_MAX))
    }

    fn ripe(&self, now: Instant) -> bool {
        let patience = self.patience();
        patience.is_zero() || self.connected.is_some_and(|since| now - since >= patience)
    }
}

impl Membership {
    /// A view was installed that leaves out members of the former one.
    pub(crate) fn note_exits(&mut self, now: Instant, former: &View, view: &View) {
        for who in former.lives().filter(|who| !view.has_node(who.node)) {
            if self.dead.contains_key(&who) || self.leaving.contains(&who.node) {
                continue;
            }
            let heard = self
                .peers
                .get(&who.node)
                .is_some_and(|p| p.reach != Reach::Unreachable && p.inc == who.inc);
            let exits = self.exits.entry(who.node).or_default();
            exits.marks.retain(|&at| now - at < MEMORY);
            exits.marks.push(now);
            exits.pruned = heard;
            exits.connected = None;
        }
    }

    /// Whether both hear each other, as their newest rows say.
    fn linked(&self, me: NodeInc, alive: &BTreeSet<NodeId>, a: NodeId, b: NodeId) -> bool {
        let hears = |x: NodeId, y: NodeId| {
            if x == me.node {
                alive.contains(&y)
            } else {
                self.peers.get(&x).is_some_and(|p| p.row.contains(&y))
            }
        };
        hears(a, b) && hears(b, a)
    }
}

impl Core {
    /// Nodes outside the installed view that its members could take in now.
    pub(crate) fn joiners(&self, now: Instant) -> BTreeSet<NodeId> {
        let m = &self.membership;
        let Some(view) = &m.installed else { return BTreeSet::new() };
        let ripe = |n: &NodeId| m.exits.get(n).is_none_or(|e| e.ripe(now));
        self.connected(view).into_iter().filter(ripe).collect()
    }

    /// Nodes outside the view with two-way links to all its members.
    fn connected(&self, view: &View) -> BTreeSet<NodeId> {
        let me = self.config.me;
        let alive = self.alive();
        alive
            .iter()
            .copied()
            .filter(|n| !view.has_node(*n))
            .filter(|&n| {
                view.members.keys().all(|&member| self.membership.linked(me, &alive, n, member))
            })
            .collect()
    }

    /// Keeps in mind since when nodes that were left out have been connected to all.
    pub(crate) fn watch_exits(&mut self, now: Instant) {
        if self.membership.exits.is_empty() {
            return;
        }
        let Some(view) = self.membership.installed.clone() else { return };
        let connected = self.connected(&view);
        for (node, exits) in &mut self.membership.exits {
            if connected.contains(node) {
                exits.connected.get_or_insert(now);
            } else {
                exits.connected = None;
            }
        }
        self.membership.exits.retain(|node, exits| {
            exits.marks.retain(|&at| now - at < MEMORY);
            !exits.marks.is_empty() || exits.pruned && !view.has_node(*node)
        });
    }

    /// Whether this peer may be asked to be in a view with this node at all: it is not evicted, and
    /// its views do not descend from another force.
    pub(crate) fn admissible(&self, node: NodeId) -> bool {
        let evicted =
            self.database.is_evicted(node) && !self.config.rules.broken(Rule::EvictedReturns);
        !evicted && self.descends(node)
    }

    /// This node's newest view descends from that of the peer, so the peer can go on from it. One
    /// that is ahead by a force will itself ask this node to follow.
    fn descends(&self, node: NodeId) -> bool {
        let m = &self.membership;
        let Some(own) = &m.record.accepted else { return true };
        let theirs = m.peers.get(&node).and_then(|p| p.standing.accepted);
        theirs.is_none_or(|b| own.descends_from(b.force))
            || self.config.rules.broken(Rule::ForceMerge)
    }

    /// The peer's newest view was forced apart from this node's.
    pub(crate) fn forked(&self, node: NodeId) -> bool {
        let m = &self.membership;
        let Some(peer) = m.peers.get(&node) else { return false };
        let Some(own) = &m.record.accepted else { return false };
        let theirs = peer.standing.accepted.map_or_else(Force::default, |b| b.force);
        // A higher count may descend from the own force: its members know, and will say so.
        theirs.count <= own.ballot.force.count
            && !own.descends_from(theirs)
            && !self.config.rules.broken(Rule::ForceMerge)
    }
}
