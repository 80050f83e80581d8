//! When to regroup, with whom, and who coordinates (P3: Activate, Closing, Pruning; P9).

use std::collections::BTreeSet;
use std::time::Duration;

use wolfpack_types::event::{EventKind, Severity};
use wolfpack_types::heartbeat::Reach;
use wolfpack_types::membership::Stage;
use wolfpack_types::peer::PeerMessage;
use wolfpack_types::{
    Ballot, Instant, Member, Members, NodeId, NodeInc, Rule, StoreId, View, VoteTable,
};

use crate::Core;
use crate::membership::choose::Purpose;
use crate::membership::coordinator::Proposal;
use crate::membership::planned::TABLE_PERIOD;
use crate::membership::pruning::{Rows, prune};
use crate::membership::{Asked, Peer};

/// An evicted member is given this time to hand its groups over and to leave by itself.
const EVICT_PATIENCE: Duration = Duration::from_secs(25);

/// A wish for a new view, from the moment it arose.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Want {
    since: Instant,
    reason: Reason,
    /// When this node, by its rank, may coordinate.
    pub(crate) due: Instant,
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Reason {
    /// No view with this life in it is installed.
    NotInstalled,
    /// A newer view was accepted, or a ballot promised, and nothing came of it.
    Unfinished,
    /// Members are silent, or live a new life.
    Loss(BTreeSet<NodeInc>),
    Asked(Asked),
    /// Nodes are to be let in.
    Join,
    /// The witness is no longer needed: leases need not wait for it.
    DropWitness,
    /// Votes or witness are to be others.
    Table,
}

impl Reason {
    /// Kinds are compared: a second loss does not start the clock anew.
    fn same_kind(&self, other: &Self) -> bool {
        std::mem::discriminant(self) == std::mem::discriminant(other)
    }
}

impl Core {
    /// Looks whether a new view is wanted, and starts an attempt when it is this node's turn.
    pub(crate) fn consider_regroup(&mut self, now: Instant) {
        self.membership.suspended.retain(|_, until| *until > now);
        self.watch_exits(now);
        if let Some(a) = &self.membership.attempt {
            if now - a.started <= self.attempt_budget(a.witness) {
                return;
            }
            self.attempt_timed_out(now);
        }
        if self.consider_force(now) {
            self.membership.want = None;
            return;
        }
        // A Prepare in hand is about to be promised: its coordinator has the turn.
        let in_hand = self.membership.pending.is_some();
        if self.membership.record.accepted.is_none() || in_hand || self.exiting {
            self.membership.want = None;
            return;
        }
        let Some(reason) = self.reason(now) else {
            self.membership.want = None;
            return;
        };
        let since = match &self.membership.want {
            Some(w) if w.reason.same_kind(&reason) => w.since,
            _ => {
                if matches!(reason, Reason::Loss(_)) {
                    self.stage(Stage::Activate, self.membership.queued.promised);
                }
                now
            }
        };
        let due = self.due(now, since, &reason).max(self.membership.back_off);
        self.membership.want = Some(Want { since, reason, due });
        if now >= due {
            self.regroup(now);
        }
    }

    fn reason(&self, now: Instant) -> Option<Reason> {
        let m = &self.membership;
        let Some(view) = m.installed.as_ref() else { return Some(Reason::NotInstalled) };
        let gone = self.gone(now, view);
        if !gone.is_empty() {
            return Some(Reason::Loss(gone));
        }
        if let Some(asked) = m.asked {
            return Some(Reason::Asked(asked));
        }
        if !m.settled() {
            return Some(Reason::Unfinished);
        }
        if view.leader() != self.config.me.node {
            return None;
        }
        if !self.joiners(now).is_empty() {
            return Some(Reason::Join);
        }
        let stable = now - m.installed_at > self.config.times.detect() * 2;
        let spare = view.witness_in && !view.votes.witness_alone();
        let enough = view.votes.exceeds_half(view.members.keys().copied(), false);
        let all_here = view.members.keys().all(|n| {
            *n == self.config.me.node
                || m.peers.get(n).is_some_and(|p| p.standing.installed == view.ballot)
        });
        if stable && all_here && self.wanted_table(now).is_some() {
            return Some(Reason::Table);
        }
        (spare && enough && stable && all_here).then_some(Reason::DropWitness)
    }

    /// Members of the view that are silent, dead, or live a new life.
    fn gone(&self, now: Instant, view: &View) -> BTreeSet<NodeInc> {
        let m = &self.membership;
        view.lives()
            .filter(|who| who.node != self.config.me.node)
            .filter(|who| {
                m.dead.contains_key(who)
                    || self.expelled(now, who.node)
                    || m.peers
                        .get(&who.node)
                        .is_none_or(|p| p.reach == Reach::Unreachable || p.inc > who.inc)
            })
            .collect()
    }

    /// An evicted member has had its time to leave by itself.
    fn expelled(&self, now: Instant, node: NodeId) -> bool {
        self.membership.evicted.get(&node).is_some_and(|&since| now - since > EVICT_PATIENCE)
    }

    /// Activate, and the turn by rank.
    fn due(&self, now: Instant, since: Instant, reason: &Reason) -> Instant {
        let m = &self.membership;
        let times = &self.config.times;
        let tick = times.tick();
        let set = self.pruned(now);
        let mut due = since;
        match reason {
            // One own tick proves the own timer; suspected ones get two.
            Reason::Loss(gone) if gone.iter().all(|w| m.dead.contains_key(w)) => due += tick,
            Reason::Loss(_) => due += times.suspected_wait,
            Reason::NotInstalled => {
                // P9: try to be let in first.
                due = due.max(self.started + times.detect() + Duration::from_secs(1));
                let hosts = m
                    .peers
                    .values()
                    .any(|p| p.reach == Reach::Up && p.standing.installed > Ballot::ZERO);
                if hosts {
                    due += times.lease * 2;
                    due = due.max(m.refused.map_or(due, |(until, _)| until));
                }
            }
            Reason::Unfinished
            | Reason::Asked(_)
            | Reason::Join
            | Reason::DropWitness
            | Reason::Table => {}
        }
        if self.some_member_is_suspected() {
            due = due.max(now + tick);
        }
        let turn = self.rank(&set, reason);
        due += self.attempt_budget(self.needs_witness(&set)) * turn;
        if turn == 0 && self.must_win_witness(&set, reason) {
            due += self.head_start(&set);
        }
        due
    }

    fn some_member_is_suspected(&self) -> bool {
        let m = &self.membership;
        m.installed.as_ref().is_some_and(|v| {
            v.lives().any(|who| {
                !m.dead.contains_key(&who)
                    && m.peers
                        .get(&who.node)
                        .is_some_and(|p| p.inc == who.inc && p.reach == Reach::Suspected)
            })
        })
    }

    /// Whose turn it is: the leader of the installed view first (it holds the quorum resource),
    /// then lowest ids; who is asked to take over goes first, who leaves goes last.
    fn rank(&self, set: &BTreeSet<NodeId>, reason: &Reason) -> u32 {
        let m = &self.membership;
        let me = self.config.me.node;
        if *reason == Reason::Asked(Asked::TakeOver) {
            return 0;
        }
        let leader = m.installed.as_ref().map(View::leader);
        // A new life of a member, or a node that comes, coordinates nothing yet.
        let member = |n: NodeId| {
            let inc =
                if n == me { Some(self.config.me.inc) } else { m.peers.get(&n).map(|p| p.inc) };
            let life = inc.map(|inc| NodeInc::new(n, inc));
            life.is_some_and(|life| m.installed.as_ref().is_none_or(|v| v.has(life)))
        };
        let mut order: Vec<NodeId> = set.iter().copied().collect();
        order.sort_by_key(|&n| (m.leaving.contains(&n), !member(n), Some(n) != leader, n));
        u32::try_from(order.iter().position(|&n| n == me).unwrap_or(0)).unwrap_or(u32::MAX)
    }

    /// The witness is needed, and somebody who may live owns it.
    fn must_win_witness(&self, set: &BTreeSet<NodeId>, reason: &Reason) -> bool {
        let Reason::Loss(gone) = reason else { return false };
        let leader = self.membership.installed.as_ref().map(View::leader);
        let owner_lost =
            gone.iter().any(|w| Some(w.node) == leader && !self.membership.dead.contains_key(w));
        owner_lost && self.needs_witness(set)
    }

    /// `D_tie (1 + lost share)`: larger parts and the owner come first.
    fn head_start(&self, set: &BTreeSet<NodeId>) -> Duration {
        let Some(view) = &self.membership.installed else { return Duration::ZERO };
        let all = view.votes.sum(view.members.keys().copied(), false).max(1);
        let have = view.votes.sum(set.iter().copied(), false).min(all);
        let tie = self.config.times.tie_break;
        tie + tie * (all - have) / all
    }

    /// Peers that are heard now, and this node.
    pub(crate) fn alive(&self) -> BTreeSet<NodeId> {
        let m = &self.membership;
        let usable = |node: NodeId, p: &Peer| {
            let life = NodeInc::new(node, p.inc);
            p.reach == Reach::Up
                && !m.dead.contains_key(&life)
                && !m.suspended.contains_key(&life)
                && self.admissible(node)
                && !self.is_far(node, p.standing.commit_seq)
        };
        let mut alive: BTreeSet<NodeId> =
            m.peers.iter().filter(|&(&n, p)| usable(n, p)).map(|(&n, _)| n).collect();
        alive.insert(self.config.me.node);
        alive
    }

    /// Closing and Pruning: the heaviest set of nodes that all hear each other, with this one.
    pub(crate) fn pruned(&self, now: Instant) -> BTreeSet<NodeId> {
        let set = self.pruned_of(self.candidates(now));
        // Better a sick node than no quorum.
        if self.eligible(&set) { set } else { self.pruned_of(self.alive()) }
    }

    /// Who may be in the next view: those that live; beside a view that is installed, only its
    /// members and those that may join it.
    fn candidates(&self, now: Instant) -> BTreeSet<NodeId> {
        let mut alive = self.alive();
        if let Some(view) = &self.membership.installed {
            let joiners = self.joiners(now);
            alive.retain(|&n| view.has_node(n) || joiners.contains(&n));
        }
        alive
    }

    pub(crate) fn pruned_of(&self, alive: BTreeSet<NodeId>) -> BTreeSet<NodeId> {
        let m = &self.membership;
        let me = self.config.me.node;
        let mut rows: Rows = m.peers.iter().map(|(&n, p)| (n, p.row.clone())).collect();
        rows.insert(me, alive.clone());
        let votes = m.record.accepted.as_ref().map_or(&self.config.votes, |v| &v.votes);
        let leader = m.installed.as_ref().map(View::leader);
        prune(me, &alive, &rows, votes, leader)
    }

    /// The tables that a next view must exceed (P6): the former one too unless it is known past.
    pub(crate) fn tables(&self) -> Vec<&VoteTable> {
        let m = &self.membership;
        let Some(accepted) = m.newest() else { return vec![&self.config.votes] };
        let mut tables = vec![&accepted.votes];
        if let Some(prev) = &accepted.prev_votes
            && m.record.established != accepted.ballot
        {
            tables.push(prev);
        }
        tables
    }

    fn needs_witness(&self, set: &BTreeSet<NodeId>) -> bool {
        let m = &self.membership;
        let has_witness = self.witness_votes();
        let always = self.tables().iter().any(|t| t.witness_alone());
        // Nodes whose store no view has included count in no majority.
        let counted: Vec<NodeId> =
            set.iter().copied().filter(|&n| !self.looks_like_learner(n)).collect();
        let enough = self.tables().iter().all(|t| t.exceeds_half(counted.iter().copied(), false));
        has_witness && (always || m.need_witness || !enough)
    }

    /// A view that follows one with the witness keeps it, needed or not: a member that comes has
    /// acknowledged nobody yet, so the register's grant must go on counting. The witness is dropped
    /// by a view change of its own, when all members acknowledge each other.
    fn keeps_witness(&self) -> bool {
        let m = &self.membership;
        let dropping = m.want.as_ref().is_some_and(|w| w.reason == Reason::DropWitness);
        let witness_in =
            |v: &View| v.witness_in && v.votes.witness > 0 && v.same_witness(self.witness_spec());
        m.installed.as_ref().is_some_and(witness_in) && !dropping && !m.witness_failed
    }

    pub(crate) fn looks_like_learner(&self, node: NodeId) -> bool {
        let m = &self.membership;
        let store = self.store_of(node);
        m.record
            .accepted
            .as_ref()
            .and_then(|v| v.members.get(&node))
            .is_some_and(|member| member.store != store)
    }

    fn store_of(&self, node: NodeId) -> StoreId {
        if node == self.config.me.node {
            return self.membership.record.store;
        }
        self.membership.peers.get(&node).map_or_else(StoreId::default, |p| p.standing.store)
    }

    /// Whether this set, with the witness where there is one, can be a quorum.
    pub(crate) fn eligible(&self, set: &BTreeSet<NodeId>) -> bool {
        let witness = self.witness_votes();
        self.tables().iter().all(|t| t.exceeds_half(set.iter().copied(), witness))
    }

    fn regroup(&mut self, now: Instant) {
        let set = self.pruned(now);
        let promised = self.membership.queued.promised;
        let fresh = self.membership.is_fresh(self.config.me);
        let with_others = fresh && set.len() > 1;
        if !self.eligible(&set) && !with_others {
            // Better a slow member than no quorum.
            self.membership.suspended.clear();
            self.note_lost_quorum(now, &set);
            return;
        }
        self.quorum_noted = false;
        if self.membership.want.as_ref().is_some_and(|w| matches!(w.reason, Reason::Loss(_))) {
            self.stage(Stage::Closing, promised);
            self.stage(Stage::Pruning, promised);
        }
        let members = self.members_of(&set);
        if self.membership.want.as_ref().is_some_and(|w| w.reason == Reason::Table) {
            // Who would be left out by it may still hold a lease under the present votes (P5).
            let same = self.membership.installed.as_ref().is_some_and(|v| v.members == members);
            if same {
                return self.change_table(now, members);
            }
        }
        let witness = self.needs_witness(&set) || self.keeps_witness();
        self.prepare(now, Proposal::view(members, witness));
    }

    /// A planned change of votes, among the members that there are.
    fn change_table(&mut self, now: Instant, members: Members) {
        let Some((table, asks)) = self.wanted_table(now) else { return };
        self.membership.next_table = now + TABLE_PERIOD;
        let proposal = Proposal {
            purpose: Purpose::Table(table),
            ..Proposal::view(members, asks || self.keeps_witness())
        };
        self.prepare(now, proposal);
    }

    pub(crate) fn members_of(&self, set: &BTreeSet<NodeId>) -> Members {
        let me = self.config.me;
        set.iter()
            .filter_map(|&n| {
                let inc = if n == me.node { me.inc } else { self.membership.peers.get(&n)?.inc };
                Some((n, Member { inc, store: self.store_of(n) }))
            })
            .collect()
    }

    /// Says once that there is no quorum and for whom this node waits.
    fn note_lost_quorum(&mut self, now: Instant, set: &BTreeSet<NodeId>) {
        self.membership.back_off_until(now + self.config.times.vote_budget);
        if self.quorum_noted {
            return;
        }
        self.quorum_noted = true;
        let missing: Vec<String> = self
            .config
            .nodes
            .iter()
            .filter(|&(n, _)| !set.contains(n))
            .map(|(_, name)| name.clone())
            .collect();
        self.event(
            Severity::Error,
            EventKind::QuorumLost,
            format!("no quorum: waiting for {}", missing.join(", ")),
        );
    }

    /// Tells peers that live under an older view which excludes them that they are out.
    pub(crate) fn restart_excluded(&mut self, now: Instant) {
        let m = &self.membership;
        let Some(view) = &m.installed else { return };
        let ballot = view.ballot;
        let out: Vec<NodeInc> = m
            .peers
            .iter()
            .filter(|&(&n, p)| p.reach == Reach::Up && self.admissible(n))
            .map(|(&n, p)| (NodeInc::new(n, p.inc), p.standing.accepted))
            .filter(|(who, accepted)| accepted.is_some_and(|a| a < ballot) && !view.has(*who))
            .map(|(who, _)| who)
            .collect();
        for you in out {
            let due =
                self.restart_told.get(&you).is_none_or(|&t| now - t > self.config.times.lease);
            if due {
                self.restart_told.insert(you, now);
                let cause = self.events.causes.view_cause();
                self.send(you.node, PeerMessage::Restart { you, because: ballot, cause });
            }
        }
    }

    /// The next time at which membership has something to do.
    pub(crate) fn membership_deadline(&self) -> Option<Instant> {
        let m = &self.membership;
        let attempt = m
            .attempt
            .as_ref()
            .map(|a| a.started + self.attempt_budget(a.witness) + Duration::from_nanos(1));
        let want = m.want.as_ref().map(|w| w.due);
        // Who may join, a table that is due, a forced quorum: the tick looks.
        attempt.into_iter().chain(want).min()
    }

    /// Whether no rule about votes is left out, for the witness' defender (P4).
    pub(crate) fn may_defend(&self) -> bool {
        self.config.rules.broken(Rule::DefendAlways) || self.eligible(&self.alive())
    }
}
