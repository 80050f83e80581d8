//! A forced quorum (P9): an administrator asserts that the nodes which cannot be heard are dead, and
//! the rest goes on without their votes.
//!
//! The ballot of a forced view is above every ordinary one, and its force names the lineage from then
//! on: views of two lineages of which neither contains the other never merge. Every attempt takes a
//! force of its own, so that one force is one decision (docs/internals/quorum.md).

use std::collections::BTreeSet;
use std::time::Duration;

use wolfpack_types::api::{ErrorKind, ErrorReply, Reply};
use wolfpack_types::event::{EventKind, Severity};
use wolfpack_types::heartbeat::Reach;
use wolfpack_types::{Force, Instant, NodeId, Times, VoteTable};

use super::choose::Purpose;
use super::coordinator::{Forcing, Proposal};
use crate::{Core, ExitReason, Output};

/// An administrator is told after this that it did not come about.
const PATIENCE: Duration = Duration::from_secs(30);

/// A forced quorum that is wanted.
#[derive(Clone, Debug)]
pub(crate) struct Forced {
    /// The request that waits for it.
    request: u64,
    dead: BTreeSet<NodeId>,
    /// When the nodes were asserted dead: from then on they renew no lease.
    asserted: Instant,
    /// When their last lease, with margin, is over on any clock.
    due: Instant,
}

fn error(kind: ErrorKind, what: String, advice: &str) -> ErrorReply {
    ErrorReply { kind, what, advice: advice.into() }
}

impl Core {
    /// The request of an administrator on this node.
    pub(crate) fn force_quorum(&mut self, now: Instant, request: u64, dead: &[String]) {
        match self.may_force(now, dead) {
            Ok(dead) => {
                let names: Vec<&str> = dead.iter().map(|&n| self.name(n)).collect();
                let text = format!(
                    "an administrator forces a quorum and asserts that these are dead: {}",
                    names.join(", ")
                );
                let kind = EventKind::QuorumForced { dead: dead.iter().copied().collect() };
                self.event(Severity::Warning, kind, text);
                let wait = self.longest_lease() + self.config.times.margin;
                let forced = Forced { request, dead, asserted: now, due: now + wait };
                self.membership.forced = Some(forced);
            }
            Err(refusal) => {
                self.output(Output::Reply { id: request, reply: Reply::Error(refusal) })
            }
        }
    }

    /// The longest lease that a node outside may hold, on any clock.
    pub(crate) fn longest_lease(&self) -> Duration {
        let times = &self.config.times;
        let witness = self.membership.newest().is_some_and(|v| v.witness_in);
        Times::drifted(if witness { times.lease.max(times.register_lease) } else { times.lease })
    }

    fn may_force(&self, now: Instant, dead: &[String]) -> Result<BTreeSet<NodeId>, ErrorReply> {
        let m = &self.membership;
        if m.record.accepted.is_none() || m.record.learner {
            return Err(error(
                ErrorKind::Invalid,
                "this node has no copy of the cluster to go on from".into(),
                "force the quorum on a node that was a member",
            ));
        }
        if self.has_lease(now) {
            return Err(error(
                ErrorKind::Invalid,
                "this node has quorum; there is nothing to force".into(),
                "see 'wolfpack quorum explain'",
            ));
        }
        if m.forced.is_some() {
            let what = "a quorum is just being forced here".to_owned();
            return Err(error(ErrorKind::Busy, what, "wait for its end"));
        }
        let mut named = BTreeSet::new();
        for name in dead {
            let found = self.config.nodes.iter().find(|(_, known)| *known == name);
            let Some((&node, _)) = found else {
                let known: Vec<&str> = self.config.nodes.values().map(String::as_str).collect();
                let what = format!("node '{name}' does not exist; there is: {}", known.join(", "));
                return Err(error(ErrorKind::Unknown, what, ""));
            };
            if node == self.config.me.node || self.is_heard(node) {
                return Err(error(
                    ErrorKind::Invalid,
                    format!("node '{name}' is heard: it is not dead"),
                    "name only nodes that are switched off",
                ));
            }
            named.insert(node);
        }
        let silent: Vec<&str> = self
            .config
            .nodes
            .iter()
            .filter(|&(n, _)| *n != self.config.me.node && !self.database.is_evicted(*n))
            .filter(|&(n, _)| !self.is_heard(*n) && !named.contains(n))
            .map(|(_, name)| name.as_str())
            .collect();
        if silent.is_empty() {
            return Ok(named);
        }
        Err(error(
            ErrorKind::Invalid,
            format!("not heard and not named as dead: {}", silent.join(", ")),
            "make sure that they are switched off, then name them with --dead; if one of them runs, \
             two nodes may run the same groups",
        ))
    }

    fn is_heard(&self, node: NodeId) -> bool {
        self.membership.peers.get(&node).is_some_and(|p| p.reach != Reach::Unreachable)
    }

    /// Starts the attempt when its time has come. Says whether a quorum is being forced.
    pub(crate) fn consider_force(&mut self, now: Instant) -> bool {
        let Some(forced) = self.membership.forced.clone() else { return false };
        if self.has_lease(now) && self.membership.settled() {
            // The quorum is there: this one's, or one that came about by itself.
            self.membership.forced = None;
            let seq = self.database.seq().0;
            self.output(Output::Reply { id: forced.request, reply: Reply::Done { seq } });
            return false;
        }
        let back = forced.dead.iter().find(|n| self.is_heard(**n));
        let late = now > forced.due + PATIENCE;
        if late || back.is_some() {
            self.membership.forced = None;
            let what = match back {
                Some(&node) => {
                    format!("node '{}' was named as dead and is heard now", self.name(node))
                }
                None => format!(
                    "the forced quorum did not come about: {}",
                    self.last_failure.as_deref().unwrap_or("not all nodes that are heard answered")
                ),
            };
            let reply = Reply::Error(error(ErrorKind::NoQuorum, what, "see 'wolfpack events'"));
            self.output(Output::Reply { id: forced.request, reply });
            return false;
        }
        let ready = now >= forced.due && now >= self.membership.back_off;
        if ready && self.membership.pending.is_none() {
            self.force_now(&forced, now);
        }
        true
    }

    /// A quorum is being forced here.
    pub(crate) fn is_forcing(&self) -> bool {
        self.membership.forced.is_some()
    }

    fn force_now(&mut self, forced: &Forced, now: Instant) {
        self.adopt_restored(now);
        let set = self.pruned_of(self.alive());
        let members = self.members_of(&set);
        let weight = |n: NodeId| self.database.cluster.as_ref().map_or(1, |c| c.quorum.weight(n));
        let nodes = self.config.nodes.keys().filter(|n| !self.database.is_evicted(**n));
        let votes =
            VoteTable { nodes: nodes.map(|&n| (n, weight(n).max(1))).collect(), witness: 0 };
        let count = self.highest_force() + 1;
        let force = Force { count, random: self.random.next() };
        let proposal = Proposal {
            purpose: Purpose::Force(votes),
            force: Some(Forcing { force, asserted: forced.asserted }),
            ..Proposal::view(members, false)
        };
        self.prepare(now, proposal);
    }

    /// The highest count of a force that this node knows of.
    fn highest_force(&self) -> u32 {
        let m = &self.membership;
        let heard = m.peers.values().filter_map(|p| p.standing.accepted).map(|b| b.force.count);
        let own = [m.queued.max_ballot.force.count, m.queued.promised.force.count];
        heard.chain(own).max().unwrap_or(0)
    }

    /// Says once of each peer that its views were forced apart from this node's.
    pub(crate) fn note_fork(&mut self, node: NodeId) {
        if !self.forked(node) || !self.membership.forks.insert(node) {
            return;
        }
        let text = format!(
            "node {} has a quorum that was forced apart from this node's: they never merge by \
             themselves. Choose one side, and give up the other's copy of the cluster on each of its \
             nodes ('wolfpack node discard')",
            self.name(node)
        );
        self.event(Severity::Error, EventKind::Forked { node }, text);
    }

    /// This node's copy of the cluster is given up: it comes back as a learner.
    pub(crate) fn discard(&mut self, now: Instant, request: u64) {
        let apart = !self.membership.forks.is_empty();
        if self.has_lease(now) && !apart {
            let what = "this node has quorum; its copy of the cluster is in use".to_owned();
            let advice = "evict the node instead ('wolfpack node evict')";
            let refusal = error(ErrorKind::Invalid, what, advice);
            return self.output(Output::Reply { id: request, reply: Reply::Error(refusal) });
        }
        self.output(Output::Reply { id: request, reply: Reply::Done { seq: 0 } });
        self.exit(ExitReason::Discarded);
    }
}
