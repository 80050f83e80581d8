//! The Global Update Manager (protocol P8): requests go to the locker, which checks, logs, has all
//! members log, commits, and answers when all members have applied.
//!
//! ```text
//!  initiator --Request--> locker: check --Append--> every member (and the witness): durable
//!                         locker <--Appended-- all  ==> committed --Commit--> applied everywhere
//!  initiator <--RequestDone-- locker <--Applied-- all
//! ```
//!
//! One batch is in flight; what arrives meanwhile becomes the next batch (group commit). The locker
//! is the leader of the view; nothing is appended while a regroup is under way. The asker's side is
//! in [`initiator`], the look-out for members that hold updates up in [`progress`]. Why it is safe:
//! `docs/internals/update.md`.

pub(crate) mod initiator;
mod progress;
pub(crate) mod room;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use wolfpack_types::api::{Reply, WaitingFor};
use wolfpack_types::codec::encoded_bytes;
use wolfpack_types::event::EventId;
use wolfpack_types::peer::PeerMessage;
use wolfpack_types::register::RegisterCommand;
use wolfpack_types::store::Persist;
use wolfpack_types::update::{LogEntry, Refusal, Update};
use wolfpack_types::{Ballot, Instant, NodeId, NodeInc, RequestId, Seq, View};

use crate::database::{Change, Undo};
use crate::durable::After;
use crate::{Core, Output};
use room::Room;

/// Updates of one batch: enough for group commit.
const BATCH_MAX: usize = 256;
/// A batch is closed when it has reached so many bytes: with the largest update on top it is still
/// a small message.
const BATCH_BYTES: usize = 256 << 10;
/// The largest update: a transaction on the tree at its bounds, or a large batch of objects.
const UPDATE_BYTES_MAX: usize = 768 << 10;
/// Requests that wait for the locker; more are refused as busy.
const QUEUE_MAX: usize = 4096;

/// What the locker keeps while it leads.
#[derive(Debug)]
pub(crate) struct Leading {
    pub(crate) ballot: Ballot,
    members: Vec<NodeId>,
    queue: VecDeque<Asked>,
    /// Those in the queue and in `answers`: a repetition is recognised.
    known: BTreeSet<RequestId>,
    batch: Option<Batch>,
    volatile_number: u64,
    /// How far each member has applied.
    applied: BTreeMap<NodeId, Seq>,
    /// Since when the last committed update waits to be applied by all.
    committed: Option<(Seq, Instant)>,
    /// Members of whom it was said that an update waits for them.
    told_stuck: BTreeSet<(NodeId, WaitingFor)>,
    digests: VecDeque<progress::Digests>,
    /// Requests that are committed and wait until all have applied.
    answers: VecDeque<(Seq, RequestId)>,
    pub(crate) plan_due: Option<Instant>,
    /// `cluster create` waits until all have applied the first update, at this position.
    created: Option<(u64, Seq)>,
}

impl Leading {
    /// Up to here every member has applied.
    fn applied_by_all(&self) -> Seq {
        let of = |n| self.applied.get(n).copied().unwrap_or_default();
        self.members.iter().map(of).min().unwrap_or_default()
    }
}

/// A request in the locker's queue.
#[derive(Debug)]
struct Asked {
    id: RequestId,
    update: Update,
    /// The event that led to it.
    cause: Option<EventId>,
    bytes: usize,
}

#[derive(Debug)]
struct Batch {
    last: Seq,
    acks: BTreeSet<NodeId>,
    register: bool,
    since: Instant,
}

impl Core {
    /// This node leads the view it has just established.
    pub(crate) fn start_leading(
        &mut self,
        now: Instant,
        view: &View,
        commit: Seq,
        created: Option<u64>,
    ) {
        let members: Vec<NodeId> = view.members.keys().copied().collect();
        self.leading = Some(Leading {
            ballot: view.ballot,
            applied: BTreeMap::new(),
            members,
            queue: VecDeque::new(),
            known: BTreeSet::new(),
            committed: None,
            told_stuck: BTreeSet::new(),
            digests: VecDeque::new(),
            batch: None,
            volatile_number: 0,
            answers: VecDeque::new(),
            plan_due: Some(now),
            created: created.map(|request| (request, commit)),
        });
    }

    /// Another leads, or nobody. A cluster that was created stays so: its creator need not wait.
    pub(crate) fn stop_leading(&mut self) {
        if let Some((id, seq)) = self.leading.take().and_then(|l| l.created) {
            self.output(Output::Reply { id, reply: Reply::Done { seq: seq.0 } });
        }
    }

    /// Leads, and nothing newer is under way.
    pub(crate) fn can_lead(&self) -> bool {
        let leads = |l: &Leading| {
            self.membership.settled()
                && self.membership.installed.as_ref().is_some_and(|v| v.ballot == l.ballot)
        };
        self.leading.as_ref().is_some_and(leads)
    }

    /// Nothing is in flight or waiting at this locker.
    pub(crate) fn locker_idle(&self) -> bool {
        self.can_lead()
            && self.leading.as_ref().is_some_and(|l| l.batch.is_none() && l.queue.is_empty())
            && self.log.last().1 == self.database.seq()
    }

    pub(crate) fn on_request(
        &mut self,
        now: Instant,
        id: RequestId,
        update: Update,
        cause: Option<EventId>,
    ) {
        if !self.can_lead() {
            // The initiator asks again when it knows the new leader.
            return;
        }
        if update.is_volatile() {
            // It has no position in the log: its order is that of the stream.
            let result = self.database.check(&update).map(|()| Seq::default());
            if result.is_ok() {
                self.broadcast_volatile(now, update, cause);
            }
            return self.answer(id, result);
        }
        if let Some(seq) = self.database.seen(id) {
            return self.answer_when_applied(id, seq);
        }
        let bytes = encoded_bytes(&update);
        if bytes > UPDATE_BYTES_MAX {
            let why = format!("the update has {bytes} bytes, and {UPDATE_BYTES_MAX} go at once");
            return self.answer(id, Err(Refusal::Invalid(why)));
        }
        let Some(l) = &self.leading else { return };
        if l.known.contains(&id) {
            return;
        }
        if l.queue.len() >= QUEUE_MAX {
            return self.answer(id, Err(Refusal::Busy("the locker's queue is full".into())));
        }
        // The initiator has looked, too; since then others may have gone.
        if let Err(refusal) =
            self.survivable(now, &update).and_then(|()| self.no_other_eviction(&update))
        {
            return self.answer(id, Err(refusal));
        }
        let Some(l) = &mut self.leading else { return };
        l.known.insert(id);
        l.queue.push_back(Asked { id, update, cause, bytes });
        self.pump_updates(now);
    }

    /// One node is evicted at a time: of two at once neither knows that the other counts for
    /// nothing any more.
    fn no_other_eviction(&self, update: &Update) -> Result<(), Refusal> {
        let evicts = |update: &Update| matches!(update, Update::EvictNode { .. });
        if !evicts(update) {
            return Ok(());
        }
        let waits = self.leading.iter().flat_map(|l| &l.queue).any(|asked| evicts(&asked.update));
        let logged = self.log.after(self.database.seq()).unwrap_or_default();
        if waits || logged.iter().any(|entry| evicts(&entry.update)) {
            let why = "another node is being evicted; try again when it is out";
            return Err(Refusal::Busy(why.into()));
        }
        Ok(())
    }

    fn answer(&mut self, id: RequestId, result: Result<Seq, Refusal>) {
        self.send(id.from.node, PeerMessage::RequestDone { id, result });
    }

    /// An update that is done is answered when every member of this view has applied it: after a
    /// view change the new members may not have.
    fn answer_when_applied(&mut self, id: RequestId, seq: Seq) {
        let Some(l) = &mut self.leading else { return };
        if l.applied_by_all() >= seq {
            return self.answer(id, Ok(seq));
        }
        if l.known.insert(id) {
            let place = l.answers.partition_point(|(at, _)| *at <= seq);
            l.answers.insert(place, (seq, id));
        }
    }

    fn broadcast_volatile(&mut self, now: Instant, update: Update, cause: Option<EventId>) {
        let Some(l) = &mut self.leading else { return };
        l.volatile_number += 1;
        let (ballot, number) = (l.ballot, l.volatile_number);
        for node in l.members.clone() {
            let update = update.clone();
            self.send(node, PeerMessage::Volatile { ballot, number, update, cause });
        }
        self.plan_soon(now);
    }

    pub(crate) fn on_volatile(&mut self, now: Instant, ballot: Ballot, update: &Update) {
        if self.membership.installed.as_ref().is_none_or(|v| v.ballot != ballot) {
            return;
        }
        if let Update::MoveQuorum { to } = update {
            return self.quorum_to(now, *to);
        }
        let changes = self.database.apply_volatile(update);
        self.database_changed(now, &changes);
    }

    /// Makes the next batch of what waits.
    pub(crate) fn pump_updates(&mut self, now: Instant) {
        if !self.can_lead() || self.log.last().1 != self.database.seq() {
            return;
        }
        let wall_ms = self.wall_ms(now);
        let Some(l) = &mut self.leading else { return };
        if l.batch.is_some() || l.queue.is_empty() {
            return;
        }
        let (prev, ballot) = (self.log.last(), l.ballot);
        let (mut entries, mut bytes, mut decided) = (Vec::new(), 0, Vec::new());
        // Later updates of a batch are checked against the earlier ones: each is applied on trial,
        // and all are taken back, since only committed updates reach the database.
        let mut trial = Undo::begin(&self.database);
        let (committed, view) = (self.database.row_bytes(), self.membership.installed.as_ref());
        let mut logged = 0;
        while entries.len() < BATCH_MAX
            && bytes < BATCH_BYTES
            && let Some(asked) = l.queue.pop_front()
        {
            if let Some(seq) = self.database.seen(asked.id) {
                decided.push((asked.id, Ok(seq)));
                continue;
            }
            // Database and batch must have room at the witness; a later batch finds more of it.
            let room = Room::of(&self.database, view);
            logged += room::entry_bytes(asked.bytes);
            let full = room.filter(|room| logged > room.for_batch(committed));
            if full.is_some() && !entries.is_empty() {
                l.queue.push_front(asked);
                break;
            }
            let Asked { id, update, cause, bytes: size } = asked;
            let fills = room::fills(&update);
            if let Some(room) = full.filter(|_| fills) {
                decided.push((id, Err(room.too_large(size, committed))));
                logged = 0;
                continue;
            }
            if let Err(refusal) = self.database.check(&update) {
                decided.push((id, Err(refusal)));
                continue;
            }
            let seq = Seq(prev.1.0 + 1 + entries.len() as u64);
            let request = Some(id);
            let entry = LogEntry { ballot, seq, wall_ms, request, update, cause };
            let room = room.filter(|_| fills);
            if room.is_some() || !l.queue.is_empty() {
                let (before, mut own) = (self.database.row_bytes(), Undo::begin(&self.database));
                // What the check let pass takes effect; if not, the log says so on every node.
                let _ = self.database.apply_on_trial(&entry, &mut own);
                let after = self.database.row_bytes();
                if let Some(Err(refusal)) = room.map(|room| room.admits(before, after)) {
                    self.database.take_back(own);
                    decided.push((id, Err(refusal)));
                    continue;
                }
                trial.absorb(own);
            }
            bytes += size;
            entries.push(entry);
        }
        self.database.take_back(trial);
        for (id, _) in &decided {
            l.known.remove(id);
        }
        for (id, result) in decided {
            match result {
                Ok(seq) => self.answer_when_applied(id, seq),
                Err(refusal) => self.answer(id, Err(refusal)),
            }
        }
        self.append(now, prev, entries);
    }

    fn append(&mut self, now: Instant, prev: (Ballot, Seq), entries: Vec<LogEntry>) {
        let Some(last) = entries.last().map(|e| e.seq) else { return };
        let witness_in = self.logs_at_witness();
        let Some(l) = &mut self.leading else { return };
        let ballot = l.ballot;
        l.batch = Some(Batch { last, acks: BTreeSet::new(), register: !witness_in, since: now });
        for entry in &entries {
            l.answers.extend(entry.request.map(|id| (entry.seq, id)));
        }
        for node in l.members.clone() {
            let entries = entries.clone();
            self.send(node, PeerMessage::Append { ballot, prev, entries });
        }
        if witness_in && self.witness_is_right() {
            let id = self.witness_id();
            self.register_now(now, RegisterCommand::Append { id, ballot, entries });
        }
    }

    pub(crate) fn on_append(
        &mut self,
        now: Instant,
        from: NodeInc,
        ballot: Ballot,
        prev: (Ballot, Seq),
        entries: Vec<LogEntry>,
    ) {
        let m = &self.membership;
        let accepted = m.queued.accepted.as_ref().map_or(Ballot::ZERO, |v| v.ballot);
        let current = m.queued.promised == ballot && accepted == ballot;
        // A later life of a member has the same store, but it is no member of that view.
        let member = m.queued.accepted.as_ref().is_some_and(|v| v.has(self.config.me));
        if !current || !member || ballot.node() != Some(from.node) || self.log.last() != prev {
            return;
        }
        let follows =
            entries.iter().zip(prev.1.0 + 1..).all(|(e, seq)| e.seq.0 == seq && e.ballot == ballot);
        let Some(last) = entries.last().map(|e| e.seq) else { return };
        if !follows {
            return;
        }
        // An update in a ballot implies that its view is established.
        if self.membership.accepted_ballot() == ballot {
            self.install(now);
        }
        for entry in &entries {
            self.log.push(entry.clone());
        }
        self.persist(Persist::Append { entries }, After::Appended { ballot, last, to: from.node });
    }

    pub(crate) fn append_durable(&mut self, ballot: Ballot, last: Seq, to: NodeId) {
        self.send(to, PeerMessage::Appended { ballot, last });
    }

    /// Whether this very life is a member of the installed view.
    fn is_member(&self, who: NodeInc) -> bool {
        self.membership.installed.as_ref().is_some_and(|v| v.has(who))
    }

    pub(crate) fn on_appended(&mut self, now: Instant, from: NodeInc, ballot: Ballot, last: Seq) {
        if !self.is_member(from) {
            return;
        }
        let Some(l) = self.leading.as_mut().filter(|l| l.ballot == ballot) else { return };
        if let Some(batch) = l.batch.as_mut().filter(|b| b.last == last) {
            batch.acks.insert(from.node);
            self.try_commit(now);
        }
    }

    pub(crate) fn register_appended(&mut self, now: Instant) {
        if let Some(batch) = self.leading.as_mut().and_then(|l| l.batch.as_mut()) {
            batch.register = true;
            self.try_commit(now);
        }
    }

    /// Committed = durable at all members, and at the witness where it is in.
    fn try_commit(&mut self, now: Instant) {
        let Some(l) = &mut self.leading else { return };
        let all = |b: &Batch| b.register && l.members.iter().all(|n| b.acks.contains(n));
        if !l.batch.as_ref().is_some_and(all) {
            return;
        }
        let Some(batch) = l.batch.take() else { return };
        let (ballot, seq) = (l.ballot, batch.last);
        l.committed = Some((seq, now));
        self.committed.push((ballot, seq));
        for node in l.members.clone() {
            self.send(node, PeerMessage::Commit { ballot, seq });
        }
    }

    pub(crate) fn on_commit(&mut self, now: Instant, from: NodeInc, ballot: Ballot, seq: Seq) {
        let m = &self.membership;
        let installed = m.installed.as_ref().is_some_and(|v| v.ballot == ballot);
        if ballot.node() != Some(from.node) || m.accepted_ballot() != ballot || !installed {
            return;
        }
        self.commit_to(now, seq);
    }

    /// Applies everything up to `commit` that is in the log, and says so to the leader.
    pub(crate) fn commit_to(&mut self, now: Instant, commit: Seq) {
        let mut changes = Vec::new();
        while self.database.seq() < commit {
            let Some(entry) = self.log.get(self.database.seq().next()) else { break };
            let cause = entry.cause;
            let applied = self.database.apply(entry);
            self.events.applied(cause, &applied.changes, &self.database);
            if self.database.seq() > self.history_end {
                for change in &applied.changes {
                    self.ownership_event(change);
                }
            }
            changes.extend(applied.changes);
            self.applied_rows(self.database.seq(), self.database.ballot, applied.rows);
        }
        let seq = self.database.seq();
        self.events.because(None);
        self.log.trim(seq, self.copied_up_to());
        self.publish_standing();
        if let Some(view) = &self.membership.installed {
            let (ballot, leader) = (view.ballot, view.leader());
            let digest = self.database.digest();
            self.send(leader, PeerMessage::Applied { ballot, seq, digest });
        }
        self.tell_watchers(&changes);
        changes.retain(|change| !matches!(change, Change::Tree(_)));
        self.database_changed(now, &changes);
    }

    pub(crate) fn on_applied(
        &mut self,
        now: Instant,
        from: NodeInc,
        ballot: Ballot,
        seq: Seq,
        digest: u64,
    ) {
        if !self.is_member(from) {
            return;
        }
        let Some(l) = self.leading.as_mut().filter(|l| l.ballot == ballot) else { return };
        l.applied.insert(from.node, seq);
        let differ = l.compare(from.node, seq, digest);
        if !differ.is_empty() {
            return self.remove_those_that_differ(now, &differ, seq);
        }
        let done = l.applied_by_all();
        let created = l.created.take_if(|(_, at)| *at <= done);
        let mut ready = Vec::new();
        while let Some(&(at, id)) = l.answers.front() {
            if at > done {
                break;
            }
            ready.push((at, id));
            l.known.remove(&id);
            l.answers.pop_front();
        }
        if l.committed.is_some_and(|(at, _)| at <= done) {
            l.committed = None;
        }
        if let Some((id, at)) = created {
            self.output(Output::Reply { id, reply: Reply::Done { seq: at.0 } });
        }
        for (at, id) in ready {
            self.answer(id, Ok(at));
        }
        self.plan_soon(now);
        self.pump_updates(now);
    }
}
