//! The voter: answers Prepare and Accept of a coordinator (P3, Cleanup 1 and 2), installs views.

use std::collections::BTreeMap;
use std::time::Duration;

use wolfpack_types::event::{EventKind, Severity};
use wolfpack_types::membership::Stage;
use wolfpack_types::peer::{Accept, PeerMessage, Promise, SignedSpan};
use wolfpack_types::store::{Persist, Snapshot};
use wolfpack_types::update::LogEntry;
use wolfpack_types::{Ballot, Instant, Members, NodeId, NodeInc, Rule, Seq, View, same_members};

use crate::durable::After;
use crate::membership::{Membership, Pending};
use crate::{Core, ExitReason, Output};

impl Core {
    pub(crate) fn on_prepare(
        &mut self,
        now: Instant,
        from: NodeInc,
        ballot: Ballot,
        members: Members,
    ) {
        let me = self.config.me;
        let m = &mut self.membership;
        m.saw_counter(ballot.counter);
        let in_hand = m.pending.as_ref().map_or(Ballot::ZERO, |p| p.ballot);
        let floor = m.queued.promised.max(in_hand);
        if ballot <= floor {
            let counter = m.counter_seen.max(floor.counter);
            return self.send(from.node, PeerMessage::Nack { ballot, counter, refused: false });
        }
        if ballot.node() != Some(from.node) || !same_members(&members, me) {
            return;
        }
        if self.refuses(now, from) {
            let counter = self.membership.counter_seen;
            self.event(
                Severity::Info,
                EventKind::Refused { by: me.node, ballot },
                format!("refused ballot {ballot}: node {} is not in the living view", from.node),
            );
            return self.send(from.node, PeerMessage::Nack { ballot, counter, refused: true });
        }
        self.membership.pending =
            Some(Pending { ballot, members, from: from.node, mask: 0, last_ack: None });
        let mask = self.set_mask();
        if let Some(p) = &mut self.membership.pending {
            p.mask = mask;
        }
        if self.config.rules.broken(Rule::MaskAsync) {
            self.mask_in_force(now, mask, BTreeMap::new());
        }
    }

    /// A half-connected stranger cannot disturb a healthy view.
    fn refuses(&self, now: Instant, from: NodeInc) -> bool {
        let m = &self.membership;
        let (Some(view), Some(accepted)) = (&m.installed, &m.record.accepted) else {
            return false;
        };
        let stands = view.ballot == accepted.ballot || self.config.rules.broken(Rule::RefusalText);
        stands && !accepted.has(from) && now < m.lease_end
    }

    /// The mask of the Prepare in hand is in force: no acknowledgement outside it leaves any more.
    pub(crate) fn mask_in_force(
        &mut self,
        now: Instant,
        mask: u64,
        last_ack: BTreeMap<NodeId, Instant>,
    ) {
        let m = &mut self.membership;
        let Some(pending) = &mut m.pending else { return };
        if pending.mask != mask || pending.last_ack.is_some() {
            return;
        }
        pending.last_ack = Some(last_ack);
        let (ballot, from) = (pending.ballot, pending.from);
        m.queued.promised = ballot;
        m.queued.promised_members = pending.members.clone();
        let step = Persist::Record(m.queued.clone());
        if self.config.rules.broken(Rule::PromiseFirst) {
            self.send_promise(now, ballot, from);
        }
        self.persist(step, After::Promised { ballot });
    }

    pub(crate) fn promise_durable(&mut self, now: Instant, ballot: Ballot) {
        let m = &mut self.membership;
        m.record.promised = m.record.promised.max(ballot);
        let Some(pending) = m.pending.take_if(|p| p.ballot == ballot) else { return };
        m.record.promised = ballot;
        m.record.promised_members = pending.members;
        m.promised_at = now;
        let last_ack = pending.last_ack.unwrap_or_default();
        for (node, at) in last_ack {
            Membership::merge(&mut m.carried_ack, node, at);
        }
        if pending.from != self.config.me.node {
            // Let it finish: one budget, and the challenge where there may be one.
            let until = now + self.yield_budget();
            self.membership.back_off_until(until);
            self.membership.want = None;
            if self.membership.attempt.as_ref().is_some_and(|a| a.ballot < ballot) {
                self.membership.attempt = None;
            }
        }
        if !self.config.rules.broken(Rule::PromiseFirst) {
            self.send_promise(now, ballot, pending.from);
        }
        self.publish_standing();
    }

    fn send_promise(&mut self, now: Instant, ballot: Ballot, to: NodeId) {
        let me = self.config.me;
        let m = &self.membership;
        let mut ages: BTreeMap<NodeId, Duration> =
            m.carried_ack.iter().map(|(&n, &at)| (n, Membership::age(now, at))).collect();
        if let Some(last_ack) = m.pending.as_ref().and_then(|p| p.last_ack.as_ref()) {
            for (&n, &at) in last_ack {
                let age = Membership::age(now, at);
                let entry = ages.entry(n).or_insert(age);
                *entry = (*entry).min(age);
            }
        }
        let promise = Promise {
            ballot,
            who: me,
            accepted: m.record.accepted.clone(),
            last: self.log.last(),
            commit_seq: self.database.seq(),
            established: m.record.established,
            installed: m.installed.as_ref().map_or(Ballot::ZERO, |v| v.ballot),
            fresh: m.is_fresh(me),
            learner: m.record.learner,
            ack_ages: ages,
            bounds: m.carried_bound.iter().map(|(&n, &at)| (n, span(now, at))).collect(),
        };
        self.send(to, PeerMessage::Promise(Box::new(promise)));
    }

    pub(crate) fn on_accept(&mut self, now: Instant, from: NodeInc, accept: Accept) {
        let me = self.config.me;
        let m = &mut self.membership;
        let view = accept.view;
        let newest = m.queued.accepted.as_ref().map_or(Ballot::ZERO, |v| v.ballot);
        if m.queued.promised != view.ballot || !view.has(me) || newest >= view.ballot {
            return;
        }
        self.events.causes.regroup_because(accept.cause);
        let Some(accept_log) = self.usable_log(accept.after, accept.snapshot, accept.entries)
        else {
            return;
        };
        let (after, snapshot, entries) = accept_log;
        self.receiving = None;
        let m = &mut self.membership;
        m.queued.accepted = Some(view.clone());
        if view.former.is_empty() {
            // The first view of all: its founders are what there is to count.
            m.queued.learner = false;
        }
        for (node, age) in accept.ack_ages {
            Membership::merge(&mut m.carried_ack, node, now.before(age));
        }
        for (node, bound) in accept.bounds {
            Membership::merge(&mut m.carried_bound, node, at(now, bound));
        }
        match &snapshot {
            Some(snapshot) => {
                self.log = crate::log::Log::new((snapshot.ballot, snapshot.seq), []);
                self.incoming = Some(snapshot.clone());
            }
            None => self.log.cut_after(after),
        }
        for e in &entries {
            self.log.push(e.clone());
        }
        let step =
            Persist::Accept { record: self.membership.queued.clone(), after, snapshot, entries };
        self.persist(step, After::Accepted { view: Box::new(view), to: from.node });
    }

    /// What of a levelled log is new here: what is committed here is in it already, and stays.
    /// None: it does not continue what this node has; not from a coordinator that knows my promise.
    fn usable_log(
        &self,
        after: Seq,
        snapshot: Option<Snapshot>,
        mut entries: Vec<LogEntry>,
    ) -> Option<(Seq, Option<Snapshot>, Vec<LogEntry>)> {
        let start = snapshot.as_ref().map_or(after, |s| s.seq);
        if !entries.iter().zip(start.0 + 1..).all(|(e, seq)| e.seq.0 == seq) {
            return None;
        }
        let end = entries.last().map_or(start, |e| e.seq);
        let committed = self.database.seq();
        if end < committed {
            return None;
        }
        if start > committed {
            let known = snapshot.is_some() || self.log.ballot_at(after).is_some();
            return known.then_some((start, snapshot, entries));
        }
        entries.retain(|e| e.seq > committed);
        Some((committed, None, entries))
    }

    pub(crate) fn accept_durable(&mut self, now: Instant, view: View, to: NodeId) {
        let ballot = view.ballot;
        let m = &mut self.membership;
        if !view.witness_in {
            m.no_witness_since = m.no_witness_since.max(ballot);
        }
        m.record.learner &= !view.former.is_empty();
        m.record.accepted = Some(view);
        if let Some(snapshot) = self.incoming.take() {
            self.load_database(now, &snapshot);
        }
        self.set_mask();
        self.publish_standing();
        self.send(to, PeerMessage::Accepted { ballot });
    }

    /// The view of this ballot is established, and everything up to `commit` is committed.
    pub(crate) fn on_established(&mut self, now: Instant, ballot: Ballot, commit: Seq) {
        if self.membership.accepted_ballot() != ballot {
            return;
        }
        self.install(now);
        self.commit_to(now, commit);
    }

    /// Installs the accepted view, if this life is in it and it is not installed yet.
    pub(crate) fn install(&mut self, now: Instant) {
        let me = self.config.me;
        let m = &mut self.membership;
        let Some(view) = m.record.accepted.clone() else { return };
        if !view.has(me) || m.installed.as_ref().is_some_and(|v| v.ballot >= view.ballot) {
            return;
        }
        let ballot = view.ballot;
        if m.installed.is_none() {
            self.history_end = view.base_seq;
        }
        let former = m.installed.replace(view.clone());
        if let Some(former) = &former {
            m.note_exits(now, former, &view);
        }
        m.refused = None;
        m.installed_at = now;
        m.want = None;
        m.need_witness = false;
        m.witness_failed = false;
        // What was yielded to has come about.
        m.back_off = now;
        m.asked = None;
        m.silent.clear();
        m.leaving.retain(|&n| view.has_node(n));
        m.queued.established = m.queued.established.max(ballot);
        m.queued.learner = false;
        m.record.learner = false;
        let step = Persist::Record(m.queued.clone());
        self.persist(step, After::Established { ballot });
        self.reset_proxies(now);
        self.stage(Stage::Stabilized, ballot);
        let members: Vec<NodeId> = view.members.keys().copied().collect();
        let names: Vec<&str> = members.iter().map(|&n| self.name(n)).collect();
        let text = format!(
            "view {ballot}: members {}{}",
            names.join(", "),
            if view.witness_in { ", with the witness" } else { "" }
        );
        self.event(
            Severity::Info,
            EventKind::ViewInstalled {
                ballot: ballot.to_string(),
                members,
                witness_in: view.witness_in,
            },
            text,
        );
        self.publish_standing();
        self.view_installed(now);
    }

    /// An established view excludes this life.
    pub(crate) fn on_restart(&mut self, you: NodeInc, because: Ballot) {
        if you != self.config.me || because <= self.membership.accepted_ballot() {
            return;
        }
        self.excluded(because);
    }

    pub(crate) fn excluded(&mut self, because: Ballot) {
        self.event(
            Severity::Warning,
            EventKind::Excluded { ballot: because.to_string() },
            format!("view {because} excludes this life of the node: it ends and starts anew"),
        );
        self.output(Output::Exit(ExitReason::Excluded));
    }
}

/// Signed time from `now` to `at`, saturated.
pub(crate) fn span(now: Instant, at: Instant) -> SignedSpan {
    let clamp = |d: Duration| i64::try_from(d.as_nanos()).unwrap_or(i64::MAX);
    SignedSpan(if at >= now { clamp(at - now) } else { -clamp(now - at) })
}

/// The inverse of [`span`].
pub(crate) fn at(now: Instant, span: SignedSpan) -> Instant {
    let nanos = Duration::from_nanos(span.0.unsigned_abs());
    if span.0 >= 0 { now + nanos } else { now.before(nanos) }
}
