//! The witness: one register command at a time, renewals, defence, proxy grants (P4).

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use wolfpack_types::event::{EventKind, Severity};
use wolfpack_types::heartbeat::{HeartbeatCommand, ProxyGrant};
use wolfpack_types::membership::WitnessSpec;
use wolfpack_types::peer::PeerMessage;
use wolfpack_types::register::{
    ChallengeStage, Exclusion, RegisterCommand, RegisterEvent, RegisterFailure,
};
use wolfpack_types::{Ballot, Instant, NodeId, NodeInc, Rule, View};

use crate::membership::Asked;
use crate::{Core, Output};

/// A leader that cannot reach the witness for this long asks another member to lead.
const WITNESS_PATIENCE: Duration = Duration::from_millis(1000);
/// And does so at most this often: the other may be no better.
const RESIGN_PERIOD: Duration = Duration::from_secs(30);

/// What the core knows of its register machine.
#[derive(Debug, Default)]
pub(crate) struct Witness {
    /// The register to which the commands go.
    open: Option<WitnessSpec>,
    last_id: u64,
    busy: Option<(u64, Job)>,
    busy_since: Instant,
    queue: VecDeque<RegisterCommand>,
    next_renew: Instant,
    /// The reservation is held, as far as is known (exclusion `reserve`).
    holds: bool,
    /// Since when every renewal failed.
    failing_since: Option<Instant>,
    pub(crate) failure: Option<String>,
    /// Why it failed in the last regroup; said once.
    attempt_failure: Option<String>,
    resigned: Option<Instant>,
    answered: bool,
    /// The view of the renewal under way.
    renewed_under: Ballot,
    /// A note of the members' heartbeats was asked for, under this number.
    note: Option<u64>,
    noted: BTreeMap<NodeInc, Instant>,
    /// What a renewal excluded, while the wrong rule [`Rule::ProxyDone`] waits for its note.
    excluded: BTreeSet<NodeInc>,
    grants: BTreeMap<NodeId, ProxyGrant>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Job {
    Attempt,
    Append,
    Renew,
    Release,
}

impl Job {
    const fn of(command: &RegisterCommand) -> Self {
        match command {
            RegisterCommand::Append { .. } => Self::Append,
            RegisterCommand::Renew { .. } => Self::Renew,
            RegisterCommand::Release { .. } => Self::Release,
            RegisterCommand::Promise { .. }
            | RegisterCommand::Accept { .. }
            | RegisterCommand::ReadLog { .. }
            | RegisterCommand::Cancel => Self::Attempt,
        }
    }
}

impl Witness {
    /// With the witness that is open at the start.
    pub(crate) fn new(open: Option<WitnessSpec>) -> Self {
        Self { open, ..Self::default() }
    }

    /// For how long every renewal has failed; none if the last one was good, or there was none.
    pub(crate) fn failing_for(&self, now: Instant) -> Option<Duration> {
        self.failing_since.map(|since| now - since)
    }

    /// A renewal at it was good since it was opened.
    pub(crate) const fn answered(&self) -> bool {
        self.answered
    }
}

impl Core {
    /// The register that is open.
    pub(crate) fn witness_spec(&self) -> Option<&WitnessSpec> {
        self.witness.open.as_ref()
    }

    pub(crate) fn witness_exclusion(&self) -> Option<Exclusion> {
        self.witness_spec().map(|w| w.exclusion)
    }

    /// The open witness has a vote in some table that a next view must exceed.
    pub(crate) fn witness_votes(&self) -> bool {
        self.witness.open.is_some() && self.tables().iter().any(|t| t.witness > 0)
    }

    /// The register that is to be open: the one that the newest view counts; where it counts none,
    /// the one that is to be counted next.
    fn wanted_witness(&self) -> Option<&WitnessSpec> {
        let target = self.database.cluster.as_ref().map(|c| c.quorum.witness.as_ref());
        match self.membership.newest() {
            Some(view) if self.tables().iter().any(|t| t.witness > 0) => view.witness.as_ref(),
            Some(_) => target.unwrap_or(self.witness.open.as_ref()),
            None => self.witness.open.as_ref(),
        }
    }

    /// Has the register opened that is to be open; never in the middle of an attempt.
    pub(crate) fn open_wanted_witness(&mut self) {
        let wanted = self.wanted_witness();
        let same = wanted.map(|w| w.id) == self.witness.open.as_ref().map(|w| w.id);
        if same || self.membership.attempt.is_some() || self.exiting {
            return;
        }
        let wanted = wanted.cloned();
        self.cancel_register();
        self.witness = Witness {
            last_id: self.witness.last_id,
            next_renew: self.witness.next_renew,
            ..Witness::new(wanted.clone())
        };
        self.output(Output::OpenWitness(wanted));
    }

    pub(crate) fn witness_id(&mut self) -> u64 {
        self.witness.last_id += 1;
        self.witness.last_id
    }

    /// Hands a command to the register machine as soon as it is free; a Promise supersedes all.
    pub(crate) fn register_now(&mut self, now: Instant, command: RegisterCommand) {
        if matches!(command, RegisterCommand::Promise { .. }) {
            self.witness.queue.clear();
            self.witness.busy = None;
        }
        self.witness.queue.push_back(command);
        self.pump_witness(now);
    }

    fn pump_witness(&mut self, now: Instant) {
        if self.witness.busy.is_some() {
            return;
        }
        if let Some(command) = self.witness.queue.pop_front() {
            self.witness.busy = command.id().map(|id| (id, Job::of(&command)));
            self.witness.busy_since = now;
            self.output(Output::Register(command));
        }
    }

    pub(crate) fn cancel_register(&mut self) {
        self.witness.queue.clear();
        if self.witness.busy.take().is_some() {
            self.output(Output::Register(RegisterCommand::Cancel));
        }
    }

    fn finish(&mut self, id: u64) -> Option<Job> {
        let (_, job) = self.witness.busy.take_if(|(busy, _)| *busy == id)?;
        Some(job)
    }

    pub(crate) fn on_register(&mut self, now: Instant, event: RegisterEvent) {
        match event {
            RegisterEvent::Promised { id, written, best } => {
                if self.finish(id).is_some() {
                    self.witness.holds = true;
                    self.register_promised(now, written, best);
                }
            }
            RegisterEvent::Accepted { id } => {
                if self.finish(id).is_some() {
                    self.witness.attempt_failure = None;
                    self.register_accepted(now);
                }
            }
            RegisterEvent::Appended { id } => {
                if self.finish(id).is_some() {
                    self.register_appended(now);
                }
            }
            RegisterEvent::Log { id, snapshot, entries } => {
                if self.finish(id).is_some() {
                    self.register_log(now, snapshot, entries);
                }
            }
            RegisterEvent::Released { id } => {
                self.finish(id);
                self.witness.holds = false;
            }
            RegisterEvent::Renewed { id, sent, excluded } => {
                if self.finish(id).is_some() {
                    self.renewed(sent, &excluded);
                }
            }
            RegisterEvent::Failed { id, why } => {
                if let Some(job) = self.finish(id) {
                    self.register_failed(now, job, why);
                }
            }
            RegisterEvent::Challenge { stage } => self.challenge_event(stage),
        }
        self.pump_witness(now);
    }

    fn challenge_event(&mut self, stage: ChallengeStage) {
        let text = match stage {
            ChallengeStage::Conflict => "the witness disk is reserved by another: challenging it",
            ChallengeStage::Reset => "challenge: reservation broken by LUN reset, waiting",
            ChallengeStage::Won => "challenge won: nobody defended the witness disk",
            ChallengeStage::Lost => "challenge lost: the owner of the witness disk defends it",
        };
        if stage == ChallengeStage::Won {
            self.witness.holds = true;
        }
        let ballot = self.membership.queued.promised.to_string();
        let kind = match stage {
            ChallengeStage::Lost => EventKind::WitnessLost { ballot },
            _ => EventKind::WitnessChallenge { stage },
        };
        self.event(Severity::Info, kind, text.to_owned());
    }

    fn register_failed(&mut self, now: Instant, job: Job, why: RegisterFailure) {
        if let RegisterFailure::Outbid { counter } = &why {
            self.membership.saw_counter(*counter);
        }
        let text = match &why {
            RegisterFailure::Defended => "its owner defends it".to_owned(),
            RegisterFailure::Outbid { .. } => "a higher ballot was promised there".to_owned(),
            RegisterFailure::Io(e) | RegisterFailure::Corrupt(e) => e.clone(),
        };
        match job {
            Job::Attempt => {
                self.membership.witness_failed = true;
                let trouble = matches!(why, RegisterFailure::Io(_) | RegisterFailure::Corrupt(_));
                if trouble && self.witness.attempt_failure.as_ref() != Some(&text) {
                    self.witness.attempt_failure = Some(text.clone());
                    let said = format!("the witness did not take part in a regroup: {text}");
                    self.event(Severity::Warning, EventKind::WitnessFailing, said);
                }
                let wait = self.config.times.vote_budget
                    + self.random.jitter(self.config.times.vote_budget * 2);
                self.give_up(now, wait, &format!("the witness did not take part: {text}"));
            }
            Job::Append => {
                self.membership.asked = Some(Asked::WitnessLost);
            }
            Job::Renew => {
                if why == RegisterFailure::Defended {
                    self.witness.holds = false;
                    self.membership.asked = Some(Asked::WitnessLost);
                }
                self.witness.failing_since.get_or_insert(now);
                if self.witness.failure.replace(text.clone()).is_none() {
                    self.event(
                        Severity::Warning,
                        EventKind::WitnessFailing,
                        format!("renewal at the witness failed: {text}"),
                    );
                }
            }
            Job::Release => self.witness.holds = false,
        }
    }

    /// A renewal was good: the grant to this node, and with `reserve` the grants by proxy.
    fn renewed(&mut self, sent: Instant, excluded: &BTreeSet<NodeInc>) {
        let me = self.config.me;
        self.witness.answered = true;
        if self.witness.failing_since.take().is_some() && self.witness.failure.take().is_some() {
            self.event(
                Severity::Info,
                EventKind::WitnessBack,
                "the witness is reachable again".to_owned(),
            );
        }
        let reserve = self.witness_exclusion() == Some(Exclusion::Reserve);
        self.witness.holds = reserve;
        let Some(view) = self.membership.installed.clone() else { return };
        let counts = view.witness_in && view.same_witness(self.witness_spec());
        if self.witness.renewed_under != view.ballot || excluded.contains(&me) || !counts {
            return;
        }
        self.output(Output::Heartbeat(HeartbeatCommand::RegisterGrant { sent }));
        if !reserve {
            return;
        }
        if self.config.rules.broken(Rule::ProxyDone) {
            self.witness.excluded.clone_from(excluded);
            return self.ask_note();
        }
        let noted = std::mem::take(&mut self.witness.noted);
        self.grant_by_proxy(&view, noted, excluded);
    }

    fn grant_by_proxy(
        &mut self,
        view: &View,
        noted: BTreeMap<NodeInc, Instant>,
        excluded: &BTreeSet<NodeInc>,
    ) {
        for (who, clock) in noted {
            let granted = self.config.rules.broken(Rule::ProxySelf) || !excluded.contains(&who);
            if view.has(who) && granted {
                let grant = ProxyGrant { ballot: view.ballot, inc: who.inc, clock };
                self.witness.grants.insert(who.node, grant);
            }
        }
        let grants = self.witness.grants.clone();
        self.output(Output::Heartbeat(HeartbeatCommand::SetProxyGrants(grants)));
    }

    /// A new view: grants of the former one are void, and the first renewal under it is due.
    pub(crate) fn reset_proxies(&mut self, now: Instant) {
        self.witness.grants.clear();
        self.witness.next_renew = now;
        self.witness.failing_since = None;
        self.output(Output::Heartbeat(HeartbeatCommand::SetProxyGrants(BTreeMap::new())));
    }

    fn renew_period(&self) -> Duration {
        match self.witness_exclusion() {
            Some(Exclusion::Reserve) => self.config.times.reserve_renew,
            _ => self.config.times.register_renew,
        }
    }

    /// The defence, each period.
    pub(crate) fn witness_tick(&mut self, now: Instant) {
        if self.witness.open.is_none() || now < self.witness.next_renew || self.exiting {
            return;
        }
        self.witness.next_renew = now + self.renew_period();
        if matches!(self.witness.busy, Some((_, Job::Renew))) {
            // A renewal that does not end is a renewal that fails.
            let since = self.witness.busy_since;
            if now - since > self.config.times.command_timeout {
                self.witness.failing_since.get_or_insert(since);
            }
        }
        self.maybe_resign(now);
        let m = &self.membership;
        let me = self.config.me;
        let attempting = m.attempt.as_ref().is_some_and(|a| a.witness);
        if self.witness.busy.is_some() || !self.witness.queue.is_empty() || attempting {
            return;
        }
        let reserve = self.witness_exclusion() == Some(Exclusion::Reserve);
        let view = m.installed.as_ref().filter(|v| v.has(me)).cloned();
        match view {
            None => {
                if reserve && self.witness.holds {
                    self.release(now);
                }
            }
            Some(view) if !reserve => {
                // Every member of a view with the witness; of others the leader: the storage
                // heartbeat, by which it knows in time that the witness cannot be reached.
                if view.witness_in || view.leader() == me.node {
                    self.renew(now, view);
                }
            }
            Some(view) => {
                let mine = m.queued.promised.node() == Some(me.node)
                    || self.config.rules.broken(Rule::DefendForeign);
                let lost = m.asked == Some(Asked::WitnessLost);
                if view.leader() == me.node && mine && !lost {
                    if self.may_defend() {
                        self.note_then_renew(now, view);
                    } else if self.witness.holds {
                        self.release(now);
                    }
                } else if self.witness.holds && !mine {
                    self.release(now);
                }
            }
        }
    }

    fn release(&mut self, now: Instant) {
        let id = self.witness_id();
        self.register_now(now, RegisterCommand::Release { id });
    }

    fn renew(&mut self, now: Instant, view: View) {
        let id = self.witness_id();
        self.witness.renewed_under = view.ballot;
        self.register_now(now, RegisterCommand::Renew { id, view });
    }

    /// The newest heartbeat of each member is noted before the RESERVE is sent.
    fn note_then_renew(&mut self, now: Instant, view: View) {
        if self.config.rules.broken(Rule::ProxyDone) {
            self.renew(now, view);
        } else {
            self.ask_note();
        }
    }

    fn ask_note(&mut self) {
        let id = self.witness_id();
        self.witness.note = Some(id);
        self.output(Output::Heartbeat(HeartbeatCommand::Note { id }));
    }

    pub(crate) fn on_noted(&mut self, now: Instant, id: u64, newest: BTreeMap<NodeInc, Instant>) {
        if self.witness.note.take_if(|n| *n == id).is_none() || self.witness.busy.is_some() {
            return;
        }
        let me = self.config.me;
        let view = self.membership.installed.clone();
        if self.config.rules.broken(Rule::ProxyDone) {
            let excluded = std::mem::take(&mut self.witness.excluded);
            if let Some(view) = view {
                self.grant_by_proxy(&view, newest, &excluded);
            }
            return;
        }
        self.witness.noted = newest;
        if let Some(view) = view.filter(|v| v.has(me) && v.leader() == me.node) {
            self.renew(now, view);
        }
    }

    /// The leader cannot reach the witness: another member is to lead.
    fn maybe_resign(&mut self, now: Instant) {
        let me = self.config.me.node;
        let Some(since) = self.witness.failing_since else { return };
        let recently = self.witness.resigned.is_some_and(|t| now - t < RESIGN_PERIOD);
        if now - since < WITNESS_PATIENCE || recently {
            return;
        }
        let Some(view) = &self.membership.installed else { return };
        let alive = self.alive();
        let other = view.members.keys().copied().find(|&n| n != me && alive.contains(&n));
        if let (true, Some(other)) = (view.leader() == me, other) {
            let ballot = view.ballot;
            self.witness.resigned = Some(now);
            self.event(
                Severity::Warning,
                EventKind::QuorumMoving { to: other },
                format!(
                    "this node cannot reach the witness: node {} is asked to lead",
                    self.name(other)
                ),
            );
            let cause = self.events.causes.witness_cause();
            self.send(other, PeerMessage::Resign { ballot, cause });
        }
    }

    /// Somebody else is to lead by an administrator's will: this node does not ask for it again soon.
    pub(crate) fn witness_rests(&mut self, now: Instant) {
        self.witness.resigned = Some(now);
    }

    pub(crate) fn on_resign(&mut self, now: Instant, from: NodeInc, ballot: Ballot) {
        let installed = self.membership.installed.as_ref();
        if installed.is_some_and(|v| v.ballot == ballot && v.leader() == from.node) {
            self.witness.resigned = Some(now);
            self.membership.asked = Some(Asked::TakeOver);
        }
    }

    pub(crate) fn witness_deadline(&self) -> Option<Instant> {
        self.witness.open.as_ref().map(|_| self.witness.next_renew)
    }
}
