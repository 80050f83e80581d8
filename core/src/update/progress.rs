//! Who holds updates up: said after a second, shown in the status, removed after T_upd (P8).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use wolfpack_types::api::{StuckNode, WaitingFor};
use wolfpack_types::event::{EventKind, Severity};
use wolfpack_types::peer::PeerMessage;
use wolfpack_types::store::Persist;
use wolfpack_types::{Ballot, Instant, NodeId, NodeInc, Seq};

use super::Leading;
use crate::Core;
use crate::durable::After;
use crate::membership::Asked;

/// An update that waits for a member so long is said to.
const SAID_AFTER: Duration = Duration::from_secs(1);

/// Batches of which the digests are compared.
const COMPARED: usize = 64;

/// What the members say that their databases are, after one batch.
#[derive(Debug)]
pub(super) struct Digests {
    seq: Seq,
    said: BTreeMap<NodeId, u64>,
}

/// Who waits, for what, since when, and for which update.
pub(super) type Stuck = (NodeId, WaitingFor, Instant, Seq);

impl Leading {
    /// Members (and the witness, under the own node) that an update waits for.
    pub(super) fn waiting_for(&self, me: NodeId) -> Vec<Stuck> {
        let mut stuck = Vec::new();
        if let Some(b) = &self.batch {
            let missing = self.members.iter().filter(|n| !b.acks.contains(n));
            stuck.extend(missing.map(|&n| (n, WaitingFor::Log, b.since, b.last)));
            if !b.register {
                stuck.push((me, WaitingFor::Witness, b.since, b.last));
            }
        }
        if let Some((seq, since)) = self.committed {
            let applied = |n| self.applied.get(n).copied().unwrap_or_default();
            let missing = self.members.iter().filter(|n| applied(n) < seq);
            stuck.extend(missing.map(|&n| (n, WaitingFor::Apply, since, seq)));
        }
        stuck
    }

    /// Notes what a member says of its database. When all have said it of one batch: those that
    /// differ from most (from the leader, where it is even).
    pub(super) fn compare(&mut self, who: NodeId, seq: Seq, digest: u64) -> Vec<NodeId> {
        let me = self.ballot.node();
        let place = self.digests.partition_point(|d| d.seq < seq);
        if self.digests.get(place).is_none_or(|d| d.seq != seq) {
            self.digests.insert(place, Digests { seq, said: BTreeMap::new() });
            if self.digests.len() > COMPARED {
                self.digests.pop_front();
                return Vec::new();
            }
        }
        let Some(batch) = self.digests.get_mut(place) else { return Vec::new() };
        batch.said.insert(who, digest);
        if !self.members.iter().all(|n| batch.said.contains_key(n)) {
            return Vec::new();
        }
        let Some(batch) = self.digests.remove(place) else { return Vec::new() };
        let leads = me.and_then(|n| batch.said.get(&n)).copied();
        let mut counted: BTreeMap<u64, usize> = BTreeMap::new();
        for &digest in batch.said.values() {
            *counted.entry(digest).or_default() += 1;
        }
        let right = counted
            .into_iter()
            .max_by_key(|&(digest, n)| (n, Some(digest) == leads))
            .map(|(digest, _)| digest);
        batch.said.into_iter().filter(|&(_, d)| Some(d) != right).map(|(n, _)| n).collect()
    }
}

impl Core {
    /// For the status: what waits for longer than it should.
    pub(crate) fn stuck(&self, now: Instant) -> Vec<StuckNode> {
        let me = self.config.me.node;
        let waiting = self.leading.as_ref().map(|l| l.waiting_for(me)).unwrap_or_default();
        let long = waiting.into_iter().filter(|&(_, _, since, _)| now - since >= SAID_AFTER);
        long.map(|(node, waiting_for, since, seq)| StuckNode {
            node: self.name_of_waited_for(node, waiting_for),
            waiting_for,
            since_ms: u64::try_from((now - since).as_millis()).unwrap_or(u64::MAX),
            seq: seq.0,
        })
        .collect()
    }

    fn name_of_waited_for(&self, node: NodeId, waiting_for: WaitingFor) -> String {
        match (waiting_for, &self.config.witness) {
            (WaitingFor::Witness, Some(witness)) => witness.clone(),
            _ => self.name(node).to_owned(),
        }
    }

    pub(super) fn watch_progress(&mut self, now: Instant) {
        let me = self.config.me.node;
        let Some(l) = &mut self.leading else { return };
        let waiting = l.waiting_for(me);
        l.told_stuck.retain(|told| waiting.iter().any(|&(n, what, ..)| *told == (n, what)));
        let mut news = Vec::new();
        for (node, what, since, seq) in waiting {
            if now - since >= SAID_AFTER && l.told_stuck.insert((node, what)) {
                news.push((node, what, seq));
            }
        }
        for (node, waiting_for, seq) in news {
            let name = self.name_of_waited_for(node, waiting_for);
            let text = match waiting_for {
                WaitingFor::Log => format!("update {seq} waits for node {name} to log it"),
                WaitingFor::Apply => format!("update {seq} waits for node {name} to apply it"),
                WaitingFor::Witness => format!("update {seq} waits for the witness ({name})"),
            };
            let kind = EventKind::UpdateWaits { node, seq: seq.0, waiting_for };
            self.event(Severity::Warning, kind, text);
        }
        self.remove_slow_members(now);
    }

    /// Members whose databases are not what the updates make them: removed, they return as
    /// learners with a new copy. A leader that is wrong itself does the same.
    pub(super) fn remove_those_that_differ(&mut self, now: Instant, differ: &[NodeId], seq: Seq) {
        let Some(view) = self.membership.installed.clone() else { return };
        for &node in differ {
            let Some(member) = view.members.get(&node) else { continue };
            let who = NodeInc::new(node, member.inc);
            self.event(
                Severity::Error,
                EventKind::DatabaseDiffers { node },
                format!(
                    "the database of node {} differs at update {seq}: it is removed, and returns \
                     with a new copy",
                    self.name(node)
                ),
            );
            self.send(node, PeerMessage::Differs { ballot: view.ballot, seq });
            if who != self.config.me {
                self.membership.suspend(who, now);
                self.membership.asked = Some(Asked::MemberGone);
            }
        }
    }

    /// The leader says that this node's database is wrong: nobody can say what else is. The store
    /// is put aside, and the next life begins with a new one, as a learner (P2, P8).
    pub(crate) fn on_differs(&mut self, from: NodeInc, ballot: Ballot, seq: Seq) {
        let installed = self.membership.installed.as_ref().is_some_and(|v| v.ballot == ballot);
        if !installed || ballot.node() != Some(from.node) {
            return;
        }
        let node = self.config.me.node;
        self.event(
            Severity::Error,
            EventKind::DatabaseDiffers { node },
            format!(
                "the database of this node differs from the others' at update {seq}: it is put \
                 aside, and this node starts anew as a learner"
            ),
        );
        self.persist(Persist::Retire, After::Retired);
    }

    /// T_upd: who cannot keep up is removed by a regroup, which brings the witness in.
    fn remove_slow_members(&mut self, now: Instant) {
        let limit = self.config.times.update_timeout;
        let me = self.config.me.node;
        let Some(l) = &self.leading else { return };
        let waiting = l.waiting_for(me);
        let late = waiting.iter().filter(|&&(_, _, since, _)| now - since > limit);
        let slow: BTreeSet<NodeId> = late.map(|&(n, ..)| n).collect();
        if slow.is_empty() {
            return;
        }
        let Some(view) = self.membership.installed.clone() else { return };
        self.stop_leading();
        for node in slow.into_iter().filter(|&n| n != me) {
            let Some(member) = view.members.get(&node) else { continue };
            let who = NodeInc::new(node, member.inc);
            self.event(
                Severity::Error,
                EventKind::MemberTooSlow { node },
                format!(
                    "node {} did not acknowledge an update within {} ms: it is removed",
                    self.name(node),
                    limit.as_millis()
                ),
            );
            self.membership.suspend(who, now);
        }
        self.membership.asked = Some(Asked::MemberGone);
    }
}
