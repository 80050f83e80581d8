//! The resource manager of one node: brings what runs here in line with what the database wants
//! of this life.
//!
//! Groups that this life owns are brought online in dependency order and offline in reverse;
//! failures are restarted, then moved; a group that moves is released once nothing of it runs. It
//! starts nothing without authority (P6), and ends at once what it does not own. It talks to
//! monitors and to the locker by outputs alone; the core drives it. What ends everything at lease
//! end is the guard, not this.
//!
//! ```text
//!            Online           Done             Offline           Done
//! Offline ----------> Starting ----> Online -----------> Stopping ----> Offline
//!    ^                  |  ^           | |                  | late or failed
//!    |                  |  | Restore   | | monitor died     v
//!    |                  |  +---- Lost <+-+             Terminating ---> Offline
//!    | restart          v Failed, late |                    ^
//!    +------- Failed <--|------------- Broken --------------+ (failed: to Failed)
//! ```

mod local;
mod reconcile;
#[cfg(test)]
mod tests;
mod wish;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use wolfpack_types::event::{Cause, Event, EventKind, Severity};
use wolfpack_types::monitor::{Blame, MonitorCommand, MonitorEvent, ResourceSpec};
use wolfpack_types::objects::{GroupState, ResourceType, Wanted};
use wolfpack_types::update::Update;
use wolfpack_types::{GroupId, Instant, NodeId, NodeInc, ResourceId, Seq};

use crate::database::{Change, Database};
use crate::random::Random;
use local::{Local, Phase};

/// A proposal that has had no effect for this long is made again: it may have been lost with a
/// leader.
const REPEAT: Duration = Duration::from_secs(2);
/// The monitor enforces the pending timeout; this much later the manager stops to wait for it.
const BACKSTOP: Duration = Duration::from_secs(5);
/// Terminate has no pending timeout of its own: after this it is asked for again.
const TERMINATE: Duration = Duration::from_secs(30);
/// Pause between attempts to terminate what could not be terminated.
const TERMINATE_AGAIN: Duration = Duration::from_secs(1);
/// No answer is awaited; real calls count from one.
const NO_CALL: u64 = 0;

/// What the manager may look at while it handles an input.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Here<'a> {
    pub(crate) database: &'a Database,
    /// Members of the installed view that do not want to leave: where a group can go.
    pub(crate) up: &'a BTreeSet<NodeId>,
    /// Wall clock, milliseconds since 1970: the failover threshold counts over hours and nodes.
    pub(crate) wall_ms: u64,
}

/// One thing that happened.
#[derive(Clone, Copy, Debug)]
pub(crate) enum ResourceInput<'a> {
    /// Updates were applied, or the database was replaced.
    Database(&'a [Change]),
    Monitor(&'a MonitorEvent),
    Deadline,
    /// Gained or lost: an established view with me, and its lease.
    Authority(bool),
    /// A new view is installed: addresses are announced again and states are told again, since
    /// new members know none.
    View,
    /// This service is to leave cleanly: hand over every group.
    Leave,
}

/// One thing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ResourceOutput {
    Monitor(MonitorCommand),
    /// To the locker.
    Propose(Update),
    Event(Event),
}

/// A release that was proposed: from then on nothing of this ownership may start.
#[derive(Clone, Copy, Debug)]
struct Offer {
    since: Seq,
    again: Instant,
}

/// The resource manager. One input, drain [`Self::poll_output`], next input.
#[derive(Debug)]
pub(crate) struct ResourceManager {
    me: NodeInc,
    random: Random,
    last_call: u64,
    authority: bool,
    leaving: bool,
    /// The guard has ended everything: this life starts nothing any more.
    ended: bool,
    monitor_up: bool,
    /// Every resource of the groups that I own, and what still runs of others.
    locals: BTreeMap<ResourceId, Local>,
    offers: BTreeMap<GroupId, Offer>,
    /// States of groups as told last.
    groups: BTreeMap<GroupId, GroupState>,
    output: VecDeque<ResourceOutput>,
    deadline: Option<Instant>,
}

impl ResourceManager {
    /// A new life owns nothing and runs nothing. `seed` is for random placement.
    pub(crate) const fn new(me: NodeInc, seed: u64) -> Self {
        Self {
            me,
            random: Random::new(seed),
            last_call: 0,
            authority: false,
            leaving: false,
            ended: false,
            monitor_up: true,
            locals: BTreeMap::new(),
            offers: BTreeMap::new(),
            groups: BTreeMap::new(),
            output: VecDeque::new(),
            deadline: None,
        }
    }

    /// One input. Call with [`ResourceInput::Deadline`] when [`Self::next_deadline`] has come.
    pub(crate) fn handle(&mut self, now: Instant, here: &Here<'_>, input: ResourceInput<'_>) {
        self.sync(here.database);
        match input {
            ResourceInput::Database(changes) => {
                for change in changes {
                    self.on_change(now, here, change);
                }
            }
            ResourceInput::Monitor(event) => self.on_monitor(now, here, event),
            ResourceInput::Deadline => {}
            ResourceInput::Authority(authority) => self.authority = authority,
            ResourceInput::View => self.on_view(),
            ResourceInput::Leave => self.leaving = true,
        }
        self.expire(now, here);
        self.reconcile(now, here);
        self.check_invariants();
    }

    /// The next output.
    pub(crate) fn poll_output(&mut self) -> Option<ResourceOutput> {
        self.output.pop_front()
    }

    /// When to call again at the latest.
    pub(crate) const fn next_deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// Nothing is online or pending here.
    pub(crate) fn idle(&self) -> bool {
        self.locals.values().all(|l| l.phase.is_down())
    }

    /// Nothing runs here and no group waits for this life any more: time to leave.
    pub(crate) fn handed_over(&self, database: &Database) -> bool {
        self.idle() && database.groups.values().all(|g| g.owner != Some(self.me) || g.released)
    }

    /// This life has offered to release the group: it starts nothing of it any more, even if it
    /// does not learn that the release is committed.
    pub(crate) fn offered(&self, group: GroupId) -> bool {
        self.offers.contains_key(&group)
    }

    /// Something of the group runs here, or may.
    #[cfg(test)]
    pub(crate) fn holds(&self, group: GroupId) -> bool {
        self.locals.values().any(|l| l.group == group && !l.phase.is_down())
    }

    /// Every resource of an owned group has its local; what is neither owned nor running is
    /// forgotten.
    fn sync(&mut self, database: &Database) {
        let me = self.me;
        self.locals.retain(|id, local| {
            let mine = database.resources.get(id).is_some_and(|r| database.owns(me, r.group));
            mine || !local.phase.is_down()
        });
        for resource in database.resources.values().filter(|r| database.owns(me, r.group)) {
            self.locals.entry(resource.id).or_insert_with(|| Local::new(resource));
        }
        self.offers.retain(|group, offer| {
            database.owns(me, *group)
                && database.groups.get(group).is_some_and(|g| g.owned_since == offer.since)
        });
        self.groups.retain(|group, _| database.owns(me, *group));
    }

    fn on_change(&mut self, now: Instant, here: &Here<'_>, change: &Change) {
        match change {
            Change::OwnerChanged { group, to, .. } if *to == self.me => {
                let Some(group) = here.database.groups.get(group) else { return };
                let proven =
                    stop_is_proven(here.database, &group.because) && group.wanted == Wanted::Online;
                for local in self.locals.values_mut().filter(|l| l.group == group.id) {
                    local.probe = !proven;
                    local.told = None;
                }
            }
            Change::Retry(id) => {
                if let Some(local) = self.locals.get_mut(id) {
                    local.forgive();
                    if matches!(local.phase, Phase::Failed { .. }) {
                        local.phase = Phase::Failed { restart_at: Some(now) };
                    }
                }
            }
            Change::FailRequested(id) => {
                if self.locals.get(id).is_some_and(|l| matches!(l.phase, Phase::Online)) {
                    self.fail(now, here, *id, "an administrator asked for it".into());
                }
            }
            Change::OwnerChanged { .. }
            | Change::ClusterCreated
            | Change::QuorumChanged
            | Change::NodeChanged(_)
            | Change::GroupChanged(_)
            | Change::ResourceChanged(_)
            | Change::MoveStarted { .. }
            | Change::Tree(_) => {}
        }
    }

    fn on_view(&mut self) {
        for (id, local) in &mut self.locals {
            local.told = None;
            // Switches and neighbours may have learned otherwise while the network was split.
            if matches!(local.phase, Phase::Online) && local.kind == ResourceType::IpAddress {
                let command = MonitorCommand::Announce { resource: *id };
                self.output.push_back(ResourceOutput::Monitor(command));
            }
        }
    }

    fn on_monitor(&mut self, now: Instant, here: &Here<'_>, event: &MonitorEvent) {
        match event {
            MonitorEvent::Hello { .. } => {}
            MonitorEvent::Done { call, resource, outcome } => {
                self.on_done(now, here, *call, *resource, outcome);
            }
            MonitorEvent::Failed { resource, why } => {
                if self.locals.get(resource).is_some_and(|l| matches!(l.phase, Phase::Online)) {
                    self.fail(now, here, *resource, why.clone());
                }
            }
            MonitorEvent::Crashed { monitor, blame } => {
                self.on_crash(now, here, *monitor, blame.as_ref());
            }
            MonitorEvent::Restarted { monitor } => self.on_restarted(now, *monitor),
            MonitorEvent::Terminated { left, .. } => {
                self.ended = true;
                if left.is_empty() {
                    for local in self.locals.values_mut() {
                        local.phase = Phase::Offline;
                    }
                }
            }
        }
    }

    fn on_done(
        &mut self,
        now: Instant,
        here: &Here<'_>,
        call: u64,
        id: ResourceId,
        outcome: &Result<(), String>,
    ) {
        // Answers to calls that were overtaken are no news.
        let awaited = |l: &&Local| call != NO_CALL && l.phase.call() == Some(call);
        let Some(local) = self.locals.get(&id).filter(awaited) else { return };
        match (local.phase.clone(), outcome) {
            (Phase::Starting { .. }, Ok(())) => self.set(id, Phase::Online, String::new()),
            (Phase::Starting { .. }, Err(why)) => {
                let why = format!("it did not come online: {why}");
                // Restarts help against a crash. What cannot even be restarted here is better
                // tried elsewhere, where there is an elsewhere.
                let again = !local.failures.is_empty();
                if again && here.up.iter().any(|n| *n != self.me.node) {
                    self.give_up(now, here, id, why);
                } else {
                    self.fail(now, here, id, why);
                }
            }
            (Phase::Stopping { .. }, Ok(())) => self.set(id, Phase::Offline, String::new()),
            (Phase::Stopping { .. }, Err(why)) => {
                self.terminate(now, id, false, format!("it did not go offline: {why}"));
            }
            (Phase::Terminating { failed: true, .. }, Ok(())) => {
                let restart_at = (!local.exhausted).then(|| now + local.restart_delay);
                let why = local.why.clone();
                self.set(id, Phase::Failed { restart_at }, why);
            }
            (Phase::Terminating { failed: false, .. }, Ok(())) => {
                self.set(id, Phase::Offline, String::new());
            }
            (Phase::Terminating { failed, .. }, Err(why)) => {
                // Not down, so its group is not released: it is tried for ever, and said.
                let text = format!("resource '{}' could not be terminated: {why}", local.name);
                let phase = Phase::Terminating { call: NO_CALL, by: now + TERMINATE_AGAIN, failed };
                let why = local.why.clone();
                self.set(id, phase, why);
                self.state_event(id, Severity::Error, text);
            }
            _ => {}
        }
    }

    fn on_crash(&mut self, now: Instant, here: &Here<'_>, monitor: u32, blame: Option<&Blame>) {
        self.monitor_up = false;
        let blamed = blame.and_then(|b| self.locals.get(&b.resource)).map(|l| l.name.clone());
        let entry_point = blame.map(|b| b.entry_point.to_string());
        let text = match (&blamed, &entry_point) {
            (Some(name), Some(entry)) => {
                format!("resource monitor {monitor} died in {entry} of resource '{name}'")
            }
            _ => format!("resource monitor {monitor} died outside of any call"),
        };
        let kind = EventKind::MonitorCrashed { monitor, resource: blamed, entry_point };
        self.event(kind, Severity::Error, text);
        let running: Vec<_> = self
            .locals
            .iter()
            .filter(|(_, l)| matches!(l.phase, Phase::Starting { .. } | Phase::Online))
            .map(|(&id, _)| id)
            .collect();
        for id in running {
            self.set(id, Phase::Lost, "its resource monitor died".into());
        }
        if let Some(blame) = blame
            && let Some(local) = self.locals.get_mut(&blame.resource)
            && matches!(local.phase, Phase::Lost)
            && local.count_failure(now)
        {
            let why = format!("its resource monitor died again in {}", blame.entry_point);
            self.give_up(now, here, blame.resource, why);
        }
    }

    fn on_restarted(&mut self, now: Instant, monitor: u32) {
        self.monitor_up = true;
        let text = format!("resource monitor {monitor} runs again");
        self.event(EventKind::MonitorRestarted { monitor }, Severity::Info, text);
        // What was being ended is ended the short way; what was lost, reconcile restores.
        let ending: Vec<_> = self
            .locals
            .iter()
            .filter_map(|(&id, l)| match l.phase {
                Phase::Stopping { .. } => Some((id, false, l.why.clone())),
                Phase::Terminating { failed, .. } => Some((id, failed, l.why.clone())),
                _ => None,
            })
            .collect();
        for (id, failed, why) in ending {
            self.terminate(now, id, failed, why);
        }
    }

    /// A failure of something that ran or was starting: restart it, or give up.
    fn fail(&mut self, now: Instant, here: &Here<'_>, id: ResourceId, why: String) {
        let Some(local) = self.locals.get_mut(&id) else { return };
        if local.count_failure(now) {
            self.give_up(now, here, id, why);
            return;
        }
        let (name, count) = (local.name.clone(), local.failures.len());
        let (of, delay) = (local.restart_threshold, local.restart_delay);
        self.set(id, Phase::Broken, why);
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        let text = format!(
            "resource '{name}' is restarted after {} ms ({count} of {of})",
            delay.as_millis()
        );
        let kind = EventKind::ResourceRestart { resource: id, name, count };
        self.event(kind, Severity::Warning, text);
    }

    /// Beyond its restarts: the group moves or fails. Reconcile proposes it.
    fn give_up(&mut self, now: Instant, here: &Here<'_>, id: ResourceId, why: String) {
        let Some(local) = self.locals.get_mut(&id) else { return };
        local.exhausted = true;
        local.escalate_at = now;
        let text = format!(
            "resource '{}' failed beyond its restart threshold on node '{}'",
            local.name,
            here.database.node_name(self.me.node)
        );
        self.set(id, Phase::Broken, why);
        self.state_event(id, Severity::Error, text);
    }

    fn next_call(&mut self) -> u64 {
        self.last_call += 1;
        self.last_call
    }

    fn terminate(&mut self, now: Instant, id: ResourceId, failed: bool, why: String) {
        let call = self.next_call();
        let command = MonitorCommand::Terminate { call, resource: id };
        self.output.push_back(ResourceOutput::Monitor(command));
        self.set(id, Phase::Terminating { call, by: now + TERMINATE, failed }, why);
    }

    /// Enters a phase; says so if that is another state to the outside.
    fn set(&mut self, id: ResourceId, phase: Phase, why: String) {
        let Some(local) = self.locals.get_mut(&id) else { return };
        let before = local.phase.state();
        local.phase = phase;
        local.why = why;
        let state = local.phase.state();
        if state == before {
            return;
        }
        let mut text = format!("resource '{}' is {state}", local.name);
        if !local.why.is_empty() {
            text.push_str(": ");
            text.push_str(&local.why);
        }
        let severity = if matches!(local.phase, Phase::Broken | Phase::Failed { .. }) {
            Severity::Warning
        } else {
            Severity::Info
        };
        self.state_event(id, severity, text);
    }

    fn state_event(&mut self, id: ResourceId, severity: Severity, text: String) {
        let Some(local) = self.locals.get(&id) else { return };
        let (name, state) = (local.name.clone(), local.phase.state());
        self.event(EventKind::ResourceState { resource: id, name, state }, severity, text);
    }

    fn event(&mut self, kind: EventKind, severity: Severity, text: String) {
        self.output.push_back(ResourceOutput::Event(Event { kind, severity, text }));
    }

    /// # Panics
    /// If a call number was never given: an answer could then be taken for another's.
    fn check_invariants(&self) {
        for local in self.locals.values() {
            assert!(local.phase.call().is_none_or(|call| call <= self.last_call));
        }
    }
}

/// Whether this cause of an ownership proves that the former owner, which alone could use the
/// group's addresses, has stopped: then nothing is probed. An address that failed proves nothing,
/// since a foreign claim to it may be what it failed of.
fn stop_is_proven(database: &Database, because: &Cause) -> bool {
    match because {
        Cause::Created => false,
        Cause::ResourceFailed { resource } => {
            database.resource_by_name(resource).is_ok_and(|r| r.kind != ResourceType::IpAddress)
        }
        Cause::Administrator
        | Cause::OwnerLost { .. }
        | Cause::OwnerProvenDead { .. }
        | Cause::OwnerLeft { .. }
        | Cause::OwnerRestarted { .. } => true,
    }
}

fn spec(database: &Database, id: ResourceId) -> Option<ResourceSpec> {
    let resource = database.resources.get(&id)?;
    Some(ResourceSpec {
        id,
        name: resource.name.clone(),
        group: database.groups.get(&resource.group)?.name.clone(),
        kind: resource.kind,
        properties: resource.properties.clone(),
        policy: resource.policy,
    })
}
