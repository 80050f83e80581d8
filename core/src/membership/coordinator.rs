//! The coordinator of one attempt: ballot, promises, log, accepts, established (P3).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use wolfpack_types::event::{EventKind, Severity};
use wolfpack_types::membership::{Stage, WitnessKind, WitnessSpec};
use wolfpack_types::objects::{Cluster, Node};
use wolfpack_types::peer::{Accept, PeerMessage, Promise};
use wolfpack_types::register::{Exclusion, RegisterCommand, Slot};
use wolfpack_types::store::{Persist, Snapshot};
use wolfpack_types::update::{LogEntry, Update};
use wolfpack_types::{
    Ballot, Force, Instant, Members, NodeId, NodeInc, Rule, Seq, Times, View, descends,
};

use crate::Core;
use crate::durable::After;
use crate::membership::choose::{Choice, NoChoice, Purpose, Question, Source, choose};
use crate::membership::voter::{at, span};
use crate::membership::{Membership, T_STABLE};

/// One attempt to form a view.
#[derive(Debug)]
pub(crate) struct Attempt {
    pub(crate) ballot: Ballot,
    pub(crate) members: Members,
    pub(crate) witness: bool,
    /// The register asked, or that would be.
    pub(crate) spec: Option<WitnessSpec>,
    pub(crate) purpose: Purpose,
    /// A forced quorum: when the nodes outside were asserted dead.
    pub(crate) asserted: Option<Instant>,
    pub(crate) creating: Option<Creation>,
    pub(crate) started: Instant,
    pub(crate) phase: Phase,
    promises: BTreeMap<NodeId, Promise>,
    register: Register,
    /// Own times of the last acknowledgement to each node by any promiser.
    ack: BTreeMap<NodeId, Instant>,
    /// Own times up to which earlier views bound leases at the register.
    carried: BTreeMap<NodeId, Instant>,
    choice: Option<Choice>,
    level: Level,
    view: Option<View>,
    bound: BTreeMap<NodeId, Instant>,
    accepted: BTreeSet<NodeId>,
    register_accepted: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Phase {
    /// The ballot is being made durable.
    Ballot,
    Promise,
    /// The newest log is being fetched.
    Level,
    Accept,
}

/// What `cluster create` asks for.
#[derive(Clone, Debug)]
pub(crate) struct Creation {
    pub(crate) request: u64,
    pub(crate) cluster: Cluster,
}

/// What an attempt is to bring about.
#[derive(Debug)]
pub(crate) struct Proposal {
    pub(crate) members: Members,
    /// The open witness is asked.
    pub(crate) witness: bool,
    pub(crate) purpose: Purpose,
    pub(crate) creating: Option<Creation>,
    pub(crate) force: Option<Forcing>,
}

impl Proposal {
    /// A view of these members.
    pub(crate) const fn view(members: Members, witness: bool) -> Self {
        Self { members, witness, purpose: Purpose::View, creating: None, force: None }
    }
}

/// A quorum that is forced.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Forcing {
    pub(crate) force: Force,
    /// When the nodes outside were asserted dead.
    pub(crate) asserted: Instant,
}

#[derive(Debug)]
enum Register {
    NotNeeded,
    Waiting,
    Promised { written: Instant, best: Option<Slot> },
}

/// The log that the new view starts with: `entries` after `start`, or after the snapshot.
#[derive(Debug, Default)]
struct Level {
    snapshot: Option<Snapshot>,
    start: Seq,
    entries: Vec<LogEntry>,
}

impl Level {
    fn last(&self) -> Seq {
        self.entries.last().map_or(self.start, |e| e.seq)
    }
}

impl Core {
    fn challenge_wait(&self) -> Duration {
        let challenged = self.witness_exclusion() == Some(Exclusion::Reserve);
        if challenged { self.config.times.challenge_wait() } else { Duration::ZERO }
    }

    /// Longest time of one attempt, with or without the witness.
    pub(crate) fn attempt_budget(&self, witness: bool) -> Duration {
        let times = &self.config.times;
        let disk =
            if witness { self.challenge_wait() + times.command_timeout } else { Duration::ZERO };
        times.vote_budget * 2 + disk
    }

    /// How long a voter that promised somebody's ballot starts none of its own: one budget, and
    /// the challenge where there may be one (P3).
    pub(crate) fn yield_budget(&self) -> Duration {
        self.config.times.vote_budget * 2 + self.challenge_wait()
    }

    /// Not everybody answered. Who never does must not keep the others from a view: a stranger is
    /// left out the next time, a member the time after that.
    pub(crate) fn attempt_timed_out(&mut self, now: Instant) {
        let Some(a) = &self.membership.attempt else { return };
        let answered = |n: &NodeId| match a.phase {
            Phase::Ballot | Phase::Level => true,
            Phase::Promise => a.promises.contains_key(n),
            Phase::Accept => a.accepted.contains(n),
        };
        let missing: Vec<NodeInc> = a
            .members
            .iter()
            .filter(|(n, _)| !answered(n))
            .map(|(&n, m)| NodeInc::new(n, m.inc))
            .collect();
        for who in missing {
            let member = self.membership.installed.as_ref().is_some_and(|v| v.has(who));
            let times = self.membership.silent.entry(who).or_insert(0);
            *times += 1;
            if *times >= if member { 2 } else { 1 } {
                self.membership.suspend(who, now);
            }
        }
        self.give_up(now, Duration::ZERO, "not all answered in time");
    }

    /// Starts an attempt: the ballot first becomes durable.
    pub(crate) fn prepare(&mut self, now: Instant, proposal: Proposal) {
        let Proposal { members, witness, purpose, creating, force } = proposal;
        let spec = self.witness_spec().cloned();
        let me = self.config.me.node;
        let m = &mut self.membership;
        let counter =
            m.counter_seen.max(m.queued.promised.counter).max(m.queued.max_ballot.counter);
        // After a force of its own a node stays in that lineage: its counter is kept by max_ballot.
        let kept = m.queued.promised.force.max(m.queued.max_ballot.force);
        let lineage = force.map_or(kept, |f| f.force);
        let ballot = Ballot::new(lineage, counter + 1, me);
        m.counter_seen = counter + 1;
        m.queued.max_ballot = ballot;
        m.want = None;
        m.attempt = Some(Attempt {
            ballot,
            members,
            witness,
            spec,
            purpose,
            asserted: force.map(|f| f.asserted),
            creating,
            started: now,
            phase: Phase::Ballot,
            promises: BTreeMap::new(),
            register: if witness { Register::Waiting } else { Register::NotNeeded },
            ack: BTreeMap::new(),
            carried: BTreeMap::new(),
            choice: None,
            level: Level::default(),
            view: None,
            bound: BTreeMap::new(),
            accepted: BTreeSet::new(),
            register_accepted: !witness,
        });
        let step = Persist::Record(m.queued.clone());
        self.persist(step, After::Ballot { ballot });
    }

    /// The forces that this node's view descends from, and that of its ballots.
    pub(crate) fn lineage(&self) -> Vec<Force> {
        let m = &self.membership;
        let mut forces = m.record.accepted.as_ref().map(|v| v.forces.clone()).unwrap_or_default();
        let own = m.queued.max_ballot.force;
        if !descends(&forces, Force::default(), own) {
            forces.push(own);
        }
        forces
    }

    fn attempt(&mut self, ballot: Ballot, phase: Phase) -> Option<&mut Attempt> {
        self.membership.attempt.as_mut().filter(|a| a.ballot == ballot && a.phase == phase)
    }

    pub(crate) fn ballot_durable(&mut self, now: Instant, ballot: Ballot) {
        let m = &mut self.membership;
        m.record.max_ballot = m.record.max_ballot.max(ballot);
        let Some(a) = self.attempt(ballot, Phase::Ballot) else { return };
        a.phase = Phase::Promise;
        let (members, witness) = (a.members.clone(), a.witness);
        self.stage(Stage::Cleanup1, ballot);
        let cause = self.events.causes.regroup_cause();
        let forces = self.lineage();
        for &node in members.keys() {
            let (members, forces) = (members.clone(), forces.clone());
            self.send(node, PeerMessage::Prepare { ballot, members, forces, cause });
        }
        if witness {
            let id = self.witness_id();
            self.register_now(now, RegisterCommand::Promise { id, ballot, members });
        }
    }

    pub(crate) fn on_nack(
        &mut self,
        now: Instant,
        from: NodeInc,
        ballot: Ballot,
        counter: u64,
        refused: bool,
    ) {
        self.membership.saw_counter(counter);
        if self.membership.attempt.as_ref().is_none_or(|a| a.ballot != ballot) {
            return;
        }
        let wait = if refused {
            // The voter's view lives: raise no more ballots for a while, wait to be let in.
            let times = self.membership.refused.map_or(0, |(_, times)| times);
            let until = now + T_STABLE * 2_u32.pow(times.min(2));
            self.membership.refused = Some((until, times + 1));
            self.yield_budget() * 3
        } else {
            self.rank_back_off()
        };
        self.give_up(now, wait, &format!("node {} did not promise", from.node));
    }

    /// Back-off after a lost ballot: rank x 100 ms and jitter.
    fn rank_back_off(&mut self) -> Duration {
        let me = self.config.me.node;
        let rank = self.config.nodes.keys().position(|&n| n == me).unwrap_or(0);
        let step = self.config.times.vote_budget / 3;
        step * u32::try_from(rank).unwrap_or(u32::MAX) + self.random.jitter(step)
    }

    /// Ends the attempt; a new one not before `wait` is over.
    pub(crate) fn give_up(&mut self, now: Instant, wait: Duration, why: &str) {
        let Some(a) = self.membership.attempt.take() else { return };
        if a.witness {
            self.cancel_register();
        }
        if let Some(creation) = a.creating {
            self.creation_failed(creation.request, why);
        }
        self.last_failure = Some(format!("ballot {}: {why}", a.ballot));
        self.membership.back_off_until(now + wait);
    }

    pub(crate) fn on_promise(&mut self, now: Instant, promise: Promise) {
        let ballot = promise.ballot;
        let from = promise.who;
        let Some(a) = self.attempt(ballot, Phase::Promise) else { return };
        if !wolfpack_types::same_members(&a.members, from) {
            return;
        }
        for (&node, &age) in &promise.ack_ages {
            Membership::merge(&mut a.ack, node, now.before(age));
        }
        for (&node, &bound) in &promise.bounds {
            Membership::merge(&mut a.carried, node, at(now, bound));
        }
        a.promises.insert(from.node, promise);
        self.promises_complete(now);
    }

    pub(crate) fn register_promised(&mut self, now: Instant, written: Instant, best: Option<Slot>) {
        let Some(a) = self.membership.attempt.as_mut().filter(|a| a.witness) else { return };
        if a.phase != Phase::Promise {
            return;
        }
        a.register = Register::Promised { written, best };
        let ballot = a.ballot;
        self.event(
            Severity::Info,
            EventKind::WitnessWon { ballot: ballot.to_string() },
            format!("the witness promised ballot {ballot} to this node"),
        );
        self.promises_complete(now);
    }

    fn promises_complete(&mut self, now: Instant) {
        let Some(a) = &self.membership.attempt else { return };
        if a.phase != Phase::Promise || a.promises.len() != a.members.len() {
            return;
        }
        let register = match &a.register {
            Register::NotNeeded => None,
            Register::Waiting => return,
            Register::Promised { best, .. } => Some(best.as_ref()),
        };
        let answer = choose(&Question {
            me: self.config.me.node,
            ballot: a.ballot,
            members: &a.members,
            promises: &a.promises,
            register,
            witness: a.spec.as_ref(),
            purpose: &a.purpose,
            rules: &self.config.rules,
        });
        match answer {
            Ok(choice) => self.chosen(now, choice),
            Err(no) => self.not_chosen(now, no),
        }
    }

    fn not_chosen(&mut self, now: Instant, no: NoChoice) {
        let wait = self.rank_back_off();
        match no {
            NoChoice::NeedWitness => {
                self.membership.need_witness = true;
                self.give_up(now, wait, "the promisers hold too few votes");
            }
            NoChoice::MustRestart(who) => {
                let because = self.membership.attempt.as_ref().map_or(Ballot::ZERO, |a| a.ballot);
                self.give_up(now, wait, "a member must start a new life first");
                if who == self.config.me {
                    self.excluded(because);
                } else {
                    let cause = self.events.causes.regroup_cause();
                    self.send(who.node, PeerMessage::Restart { you: who, because, cause });
                }
            }
            NoChoice::OtherWitness(view) => {
                self.membership.learn(*view);
                self.give_up(now, wait, "the witness that was asked is not the present one");
            }
            NoChoice::OnlyShare(members) => {
                let names: Vec<&str> = members.iter().map(|&n| self.name(n)).collect();
                let why = format!(
                    "the share names a view whose updates only its members have: waiting for {}",
                    names.join(" or ")
                );
                self.give_up(now, self.yield_budget(), &why);
            }
            NoChoice::Forked => {
                self.give_up(now, self.yield_budget(), "the views descend from different forces");
            }
            NoChoice::NeverCreated => {
                self.give_up(now, self.yield_budget(), "there is no cluster yet");
            }
            NoChoice::AlreadyCreated => {
                self.give_up(now, wait, "these nodes or this witness belong to a cluster already");
            }
        }
    }

    fn chosen(&mut self, now: Instant, choice: Choice) {
        let start = self.database.seq();
        let Some(a) = &mut self.membership.attempt else { return };
        let source = choice.source;
        a.choice = Some(choice);
        a.phase = Phase::Level;
        let ballot = a.ballot;
        match source {
            Source::Nothing => {
                a.level = Level::default();
                self.levelled(now);
            }
            Source::Node(node) if node == self.config.me.node => {
                // Everything committed here is in the database; what follows is in the log.
                let entries = self.log.after(start).expect("the log reaches back to the database");
                a.level = Level { snapshot: None, start, entries };
                self.levelled(now);
            }
            Source::Node(node) => {
                self.send(node, PeerMessage::FetchLog { ballot, after: start });
            }
            Source::Register(slot) => {
                let id = self.witness_id();
                self.register_now(now, RegisterCommand::ReadLog { id, slot });
            }
        }
    }

    /// A coordinator that I promised asks for my log.
    pub(crate) fn on_fetch_log(&mut self, now: Instant, from: NodeInc, ballot: Ballot, after: Seq) {
        if self.membership.record.promised != ballot || ballot.node() != Some(from.node) {
            return;
        }
        let (snapshot, entries) = match self.log.after(after) {
            Some(entries) => (None, entries),
            // Too much for one message: it goes ahead, and the next attempt asks for the rest.
            None if self.database.row_bytes() > self.inline_bytes => {
                return self.send_copy(now, from.node);
            }
            None => {
                let entries = self.log.after(self.database.seq()).unwrap_or_default();
                (Some(self.database.snapshot()), entries)
            }
        };
        self.send(from.node, PeerMessage::LogData { ballot, snapshot, entries });
    }

    pub(crate) fn on_log_data(
        &mut self,
        now: Instant,
        from: NodeInc,
        ballot: Ballot,
        snapshot: Option<Snapshot>,
        entries: Vec<LogEntry>,
    ) {
        let start = self.database.seq();
        let Some(a) = self.attempt(ballot, Phase::Level) else { return };
        let promised_last = a.promises.get(&from.node).map(|p| p.last.1);
        let wanted = a.choice.as_ref().map(|c| c.source);
        if wanted != Some(Source::Node(from.node)) {
            return;
        }
        self.level_from(now, start, snapshot, entries, promised_last);
    }

    pub(crate) fn register_log(
        &mut self,
        now: Instant,
        snapshot: Snapshot,
        entries: Vec<LogEntry>,
    ) {
        let start = self.database.seq();
        let Some(a) = &self.membership.attempt else { return };
        if a.phase != Phase::Level {
            return;
        }
        let last = match &a.register {
            Register::Promised { best: Some(slot), .. } => Some(slot.last_seq),
            _ => None,
        };
        self.level_from(now, start, Some(snapshot), entries, last);
    }

    /// Takes a log from elsewhere; it must reach as far as was promised.
    fn level_from(
        &mut self,
        now: Instant,
        start: Seq,
        snapshot: Option<Snapshot>,
        mut entries: Vec<LogEntry>,
        promised_last: Option<Seq>,
    ) {
        let (snapshot, begin) = match snapshot {
            // A snapshot older than the own database is not needed.
            Some(s) if s.seq <= start => {
                entries.retain(|e| e.seq > start);
                (None, start)
            }
            Some(s) => {
                let seq = s.seq;
                (Some(s), seq)
            }
            None => (None, start),
        };
        let whole = entries.iter().zip(begin.0 + 1..).all(|(e, seq)| e.seq.0 == seq);
        let level = Level { snapshot, start: begin, entries };
        if !whole || Some(level.last()) < promised_last {
            return self.give_up(now, self.config.times.vote_budget, "the newest log has gaps");
        }
        let Some(a) = &mut self.membership.attempt else { return };
        a.level = level;
        self.levelled(now);
    }

    /// The log is there: decide the view and ask for accepts.
    fn levelled(&mut self, now: Instant) {
        let longest_lease = self.longest_lease();
        let wall_ms = self.wall_ms(now);
        let cause = self.events.causes.regroup_cause();
        let nodes: Vec<Node> =
            self.config.nodes.iter().map(|(&id, name)| Node::new(id, name.clone())).collect();
        let Some(a) = &mut self.membership.attempt else { return };
        let Some(choice) = &a.choice else { return };
        if let Some(creation) = &a.creating {
            a.level.entries = vec![LogEntry {
                ballot: a.ballot,
                seq: Seq(1),
                wall_ms,
                request: None,
                update: Update::CreateCluster { cluster: creation.cluster.clone(), nodes },
                cause,
            }];
        }
        let mut bounds = BTreeMap::new();
        if let Register::Promised { written, .. } = a.register {
            let end = written + Times::drifted(self.config.times.register_lease);
            let dropped = &choice.drop_register;
            for &node in self.config.nodes.keys().filter(|n| !dropped.contains(n)) {
                bounds.insert(node, end);
            }
        }
        for (&node, &at) in &a.carried {
            Membership::merge(&mut bounds, node, at);
        }
        let lease = if self.config.rules.broken(Rule::NoDrift) {
            self.config.times.lease
        } else {
            Times::drifted(self.config.times.lease)
        };
        if let Some(asserted) = a.asserted {
            // The promisers are no majority: what bounds the leases of the dead is the assertion.
            for &node in self.config.nodes.keys() {
                Membership::merge(&mut bounds, node, asserted + longest_lease);
            }
        }
        a.bound = bounds.clone();
        for &node in self.config.nodes.keys() {
            let last = a.ack.get(&node).copied().unwrap_or(a.started);
            Membership::merge(&mut a.bound, node, last + lease);
        }
        let view = View {
            ballot: a.ballot,
            members: a.members.clone(),
            former: choice.former.clone(),
            witness_in: a.witness,
            votes: choice.votes.clone(),
            prev_votes: choice.prev_votes.clone(),
            base_seq: a.level.last(),
            witness: choice.witness.clone(),
            forces: choice.forces.clone(),
        };
        a.view = Some(view.clone());
        a.phase = Phase::Accept;
        let ack = a.ack.clone();
        self.stage(Stage::Cleanup2, view.ballot);
        self.send_accepts(now, &view, &ack, &bounds);
    }

    fn send_accepts(
        &mut self,
        now: Instant,
        view: &View,
        ack: &BTreeMap<NodeId, Instant>,
        bounds: &BTreeMap<NodeId, Instant>,
    ) {
        let Some(a) = &self.membership.attempt else { return };
        let cause = self.events.causes.regroup_cause();
        let committed = |n: NodeId| a.promises.get(&n).map_or(Seq(0), |p| p.commit_seq);
        // A large database goes ahead of an Accept, not in one.
        let far = view.members.keys().copied().find(|n| {
            let large = self.database.row_bytes() > self.inline_bytes;
            large && a.level.snapshot.is_none() && !self.log.reaches(committed(*n))
        });
        if let Some(node) = far {
            let name = self.name(node).to_owned();
            self.send_copy(now, node);
            let why = format!("node {name} is far behind: the database goes to it first");
            return self.give_up(now, self.config.times.vote_budget, &why);
        }
        let mut messages = Vec::new();
        for &node in view.members.keys() {
            let committed = committed(node);
            let (after, snapshot, entries) = self.log_for(&a.level, committed);
            messages.push((
                node,
                Accept {
                    view: view.clone(),
                    after,
                    snapshot,
                    entries,
                    ack_ages: ack.iter().map(|(&n, &t)| (n, Membership::age(now, t))).collect(),
                    bounds: bounds.iter().map(|(&n, &t)| (n, span(now, t))).collect(),
                    cause,
                },
            ));
        }
        if view.witness_in {
            let share = view.witness.as_ref().is_some_and(|w| w.kind == WitnessKind::Share);
            let (snapshot, entries) = if share {
                // It keeps views only.
                (Snapshot::default(), Vec::new())
            } else {
                let snapshot = a.level.snapshot.clone().unwrap_or_else(|| self.database.snapshot());
                let newer = a.level.entries.iter().filter(|e| e.seq > snapshot.seq);
                (snapshot.clone(), newer.cloned().collect())
            };
            let id = self.witness_id();
            let view = view.clone();
            self.register_now(now, RegisterCommand::Accept { id, view, snapshot, entries });
        }
        for (node, accept) in messages {
            self.send(node, PeerMessage::Accept(Box::new(accept)));
        }
    }

    /// What a member that has committed up to `committed` lacks of the levelled log.
    fn log_for(&self, level: &Level, committed: Seq) -> (Seq, Option<Snapshot>, Vec<LogEntry>) {
        let from = |seq| level.entries.iter().filter(|e| e.seq > seq).cloned().collect();
        if committed >= level.start {
            return (committed, None, from(committed));
        }
        if let Some(snapshot) = &level.snapshot {
            return (snapshot.seq, Some(snapshot.clone()), level.entries.clone());
        }
        // The level starts at the own database; older entries may still be in the own log.
        match self.log.after(committed) {
            Some(mut entries) => {
                entries.retain(|e| e.seq <= level.start);
                entries.extend(level.entries.iter().cloned());
                (committed, None, entries)
            }
            None => {
                let snapshot = self.database.snapshot();
                let seq = snapshot.seq;
                (seq, Some(snapshot), from(seq))
            }
        }
    }

    pub(crate) fn on_accepted(&mut self, now: Instant, from: NodeInc, ballot: Ballot) {
        let Some(a) = self.attempt(ballot, Phase::Accept) else { return };
        if wolfpack_types::same_members(&a.members, from) {
            a.accepted.insert(from.node);
            self.accepts_complete(now);
        }
    }

    pub(crate) fn register_accepted(&mut self, now: Instant) {
        if let Some(a) = &mut self.membership.attempt
            && a.phase == Phase::Accept
        {
            a.register_accepted = true;
            self.accepts_complete(now);
        }
    }

    fn accepts_complete(&mut self, now: Instant) {
        let done = self
            .membership
            .attempt
            .as_ref()
            .is_some_and(|a| a.accepted.len() == a.members.len() && a.register_accepted);
        if !done {
            return;
        }
        let Some(a) = self.membership.attempt.take() else { return };
        let (Some(view), Some(choice)) = (a.view, a.choice) else { return };
        let counted = || view.members.keys().copied().filter(|n| !choice.learners.contains(n));
        let forced = matches!(a.purpose, Purpose::Force(_));
        let old = choice.base.as_ref().filter(|_| !forced).map(|v| &v.votes);
        let tables = [Some(&view.votes), view.prev_votes.as_ref(), old];
        if tables.into_iter().flatten().any(|t| !t.exceeds_half(counted(), view.witness_in)) {
            return self.membership.back_off_until(now + self.config.times.vote_budget);
        }
        let margin = self.config.times.margin;
        self.membership.not_before =
            a.bound.iter().map(|(&node, &end)| (node, end + margin)).collect();
        self.established.push((view.ballot, a.bound));
        let commit = view.base_seq;
        for &node in view.members.keys() {
            self.send(node, PeerMessage::Established { ballot: view.ballot, commit_seq: commit });
        }
        self.start_leading(now, &view, commit, a.creating.map(|c| c.request));
    }
}
