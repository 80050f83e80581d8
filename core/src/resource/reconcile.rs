//! One pass that turns the difference between wish and presence into commands and proposals.

use std::collections::BTreeMap;

use wolfpack_types::event::{Cause, EventKind, Severity};
use wolfpack_types::monitor::{MonitorCommand, OnlineMode};
use wolfpack_types::objects::{Group, GroupState, ResourceState, Wanted};
use wolfpack_types::update::Update;
use wolfpack_types::{Instant, ResourceId};

use super::local::{Phase, Told};
use super::wish::Wish;
use super::{BACKSTOP, Here, Offer, REPEAT, ResourceManager, ResourceOutput, spec};
use crate::database::derive_state;
use crate::failover::{AfterFailure, after_failure, random_for};

impl ResourceManager {
    /// Calls whose time is over. While the monitor is down nobody can answer, or be asked.
    pub(super) fn expire(&mut self, now: Instant, here: &Here<'_>) {
        if !self.monitor_up {
            return;
        }
        let late: Vec<_> = self
            .locals
            .iter()
            .filter(|(_, l)| deadline_of(&l.phase).is_some_and(|by| now >= by))
            .map(|(&id, l)| (id, l.phase.clone(), l.why.clone()))
            .collect();
        for (id, phase, why) in late {
            match phase {
                Phase::Starting { .. } => {
                    self.fail(now, here, id, "it did not come online in time".into());
                }
                Phase::Stopping { .. } => {
                    self.terminate(now, id, false, "it did not go offline in time".into());
                }
                Phase::Terminating { failed, .. } => self.terminate(now, id, failed, why),
                _ => {}
            }
        }
    }

    pub(super) fn reconcile(&mut self, now: Instant, here: &Here<'_>) {
        let wish = Wish::new(here.database, self.me, self.locals.keys().copied(), |group| {
            self.may_run(group)
        });
        self.settle(here, &wish);
        self.end(now, here, &wish);
        self.start(now, here, &wish);
        self.escalate(now, here);
        self.offer(now, here);
        self.tell_groups(here);
        self.tell(now, here);
        self.plan_deadline(now, here);
    }

    /// Whether resources of a group that I own may run at all.
    fn may_run(&self, group: &Group) -> bool {
        group.wanted == Wanted::Online
            && group.moving.is_none()
            && group.failed.is_none()
            && !group.released
            && !self.leaving
            && !self.offers.contains_key(&group.id)
    }

    /// What is down and not wanted is plainly offline, and its next start is a first one.
    fn settle(&mut self, here: &Here<'_>, wish: &Wish) {
        for id in &wish.order {
            let Some(local) = self.locals.get(id).filter(|l| l.phase.is_down()) else { continue };
            let Some(resource) = here.database.resources.get(id) else { continue };
            let Some(group) = here.database.groups.get(&resource.group) else { continue };
            let unwanted = group.wanted == Wanted::Offline || resource.wanted == Wanted::Offline;
            let going = group.moving.is_some() || group.released || self.leaving;
            let forget = matches!(local.phase, Phase::Failed { .. })
                && (unwanted || going)
                && group.failed.is_none();
            if forget {
                self.set(*id, Phase::Offline, String::new());
            }
            if let Some(local) = self.locals.get_mut(id) {
                if forget {
                    local.forgive();
                }
                local.probe |= unwanted;
            }
        }
    }

    /// Ends what is not wanted or has lost what it depends on: dependents first.
    fn end(&mut self, now: Instant, here: &Here<'_>, wish: &Wish) {
        if !self.monitor_up {
            return;
        }
        for &id in wish.order.iter().rev() {
            let Some(local) = self.locals.get(&id).filter(|l| !l.phase.is_down()) else { continue };
            if wish.foreign.contains(&id) {
                self.end_foreign(now, id);
                continue;
            }
            let unsupported = self.unsupported(here, id);
            let stop = !wish.online.contains(&id) || unsupported;
            let dependents = wish.dependents.get(&id).map_or(&[][..], Vec::as_slice);
            let alone =
                dependents.iter().all(|d| self.locals.get(d).is_none_or(|l| l.phase.is_down()));
            if !alone {
                continue;
            }
            match local.phase {
                Phase::Broken => {
                    let why = local.why.clone();
                    self.terminate(now, id, true, why);
                }
                Phase::Online if stop => {
                    let by = now + local.pending_timeout + BACKSTOP;
                    let call = self.next_call();
                    let command = MonitorCommand::Offline { call, resource: id };
                    self.output.push_back(ResourceOutput::Monitor(command));
                    self.set(id, Phase::Stopping { call, by }, String::new());
                }
                // Not waited for: a start may take minutes, and nobody wants its end.
                Phase::Starting { .. } | Phase::Lost if stop => {
                    self.terminate(now, id, false, String::new());
                }
                _ => {}
            }
        }
    }

    /// Should never happen: something runs of a group that this life does not own.
    fn end_foreign(&mut self, now: Instant, id: ResourceId) {
        let Some(local) = self.locals.get(&id) else { return };
        if matches!(local.phase, Phase::Terminating { .. }) {
            return;
        }
        let text = format!(
            "resource '{}' runs here but its group is not this node's: it is ended at once",
            local.name
        );
        self.terminate(now, id, false, "its group is not this node's".into());
        self.state_event(id, Severity::Error, text);
    }

    /// Something that it depends on is not there for it. While its monitor restores both, what it
    /// depends on may be on its way.
    fn unsupported(&self, here: &Here<'_>, id: ResourceId) -> bool {
        let Some(resource) = here.database.resources.get(&id) else { return true };
        let lost = self.locals.get(&id).is_some_and(|l| matches!(l.phase, Phase::Lost));
        !resource.depends_on.iter().all(|dependency| {
            self.locals.get(dependency).is_some_and(|l| match l.phase {
                Phase::Online => true,
                Phase::Lost | Phase::Starting { .. } => lost,
                _ => false,
            })
        })
    }

    /// Starts what is wanted and whose dependencies are online.
    fn start(&mut self, now: Instant, here: &Here<'_>, wish: &Wish) {
        if !self.authority || self.ended || !self.monitor_up {
            return;
        }
        for &id in wish.order.iter().filter(|id| wish.online.contains(id)) {
            let Some(local) = self.locals.get(&id) else { continue };
            let mode = match local.phase {
                Phase::Offline if !local.exhausted => OnlineMode::Start { probe: local.probe },
                Phase::Failed { restart_at: Some(at) } if now >= at => {
                    OnlineMode::Start { probe: local.probe }
                }
                Phase::Lost => OnlineMode::Restore,
                _ => continue,
            };
            let supported = here.database.resources.get(&id).is_some_and(|r| {
                r.depends_on
                    .iter()
                    .all(|d| self.locals.get(d).is_some_and(|l| l.phase == Phase::Online))
            });
            let Some(resource) = spec(here.database, id).filter(|_| supported) else { continue };
            let by = now + local.pending_timeout + BACKSTOP;
            let call = self.next_call();
            let command = MonitorCommand::Online { call, resource, mode };
            self.output.push_back(ResourceOutput::Monitor(command));
            self.set(id, Phase::Starting { call, by }, String::new());
            if let Some(local) = self.locals.get_mut(&id) {
                local.probe = true;
            }
        }
    }

    /// Proposes what becomes of groups with a resource that failed beyond its restarts.
    fn escalate(&mut self, now: Instant, here: &Here<'_>) {
        if !self.authority {
            return;
        }
        for (&id, local) in self.locals.iter_mut().filter(|(_, l)| l.exhausted) {
            let Some(group) = here.database.groups.get(&local.group) else { continue };
            let settled = group.owner != Some(self.me) || !group_runs(group) || self.leaving;
            if settled || now < local.escalate_at {
                continue;
            }
            local.escalate_at = now + REPEAT;
            let random = random_for(self.random.next(), group.id);
            let node = self.me.node;
            let verdict = after_failure(here.database, group, node, here.up, here.wall_ms, random);
            let update = match verdict {
                AfterFailure::Move(to) => Update::MoveGroup {
                    group: group.id,
                    to,
                    cause: Cause::ResourceFailed { resource: local.name.clone() },
                },
                AfterFailure::Stay(reason) => Update::GroupFailed {
                    group: group.id,
                    since: group.owned_since,
                    resource: id,
                    why: shorten(&format!(
                        "resource '{}' failed ({}), and the group stays: {reason}",
                        local.name, local.why
                    )),
                },
            };
            self.output.push_back(ResourceOutput::Propose(update));
        }
    }

    /// Releases groups that are to go and of which nothing runs any more (P7).
    fn offer(&mut self, now: Instant, here: &Here<'_>) {
        if !self.authority || self.ended {
            return;
        }
        let running: std::collections::BTreeSet<_> =
            self.locals.values().filter(|l| !l.phase.is_down()).map(|l| l.group).collect();
        for group in here.database.groups.values() {
            let going = group.moving.is_some() || self.leaving;
            let mine = group.owner == Some(self.me) && !group.released;
            if !going || !mine || running.contains(&group.id) {
                continue;
            }
            if self.offers.get(&group.id).is_some_and(|o| now < o.again) {
                continue;
            }
            let offer = Offer { since: group.owned_since, again: now + REPEAT };
            self.offers.insert(group.id, offer);
            self.output.push_back(ResourceOutput::Propose(Update::GroupOffline {
                group: group.id,
                by: self.me,
                since: group.owned_since,
            }));
        }
    }

    fn tell_groups(&mut self, here: &Here<'_>) {
        let mut states: BTreeMap<_, Vec<ResourceState>> = BTreeMap::new();
        for local in self.locals.values() {
            states.entry(local.group).or_default().push(local.phase.state());
        }
        for (id, states) in states {
            let Some(group) = here.database.groups.get(&id) else { continue };
            if group.owner != Some(self.me) {
                continue;
            }
            let state =
                if group.failed.is_some() { GroupState::Failed } else { derive_state(states) };
            if self.groups.insert(id, state).unwrap_or(GroupState::Offline) == state {
                continue;
            }
            let name = group.name.clone();
            let (severity, text) = match &group.failed {
                Some(why) => (Severity::Error, format!("group '{name}' has failed: {why}")),
                None => (Severity::Info, format!("group '{name}' is {state}")),
            };
            let kind = EventKind::GroupState { group: id, name, state: state.to_string() };
            self.event(kind, severity, text);
        }
    }

    /// Tells the states that the others do not know, or may have missed.
    fn tell(&mut self, now: Instant, here: &Here<'_>) {
        if !self.authority {
            return;
        }
        for (&id, local) in &mut self.locals {
            let Some(resource) = here.database.resources.get(&id) else { continue };
            if !here.database.owns(self.me, resource.group) {
                continue;
            }
            let state = local.phase.state();
            let due = match &local.told {
                // A member that is new here holds everything for offline.
                None => state != ResourceState::Offline || resource.state != state,
                Some(told) if told.state != state || told.why != local.why => true,
                Some(told) => resource.state != state && now >= told.at + REPEAT,
            };
            if !due {
                continue;
            }
            let why = shorten(&local.why);
            local.told = Some(Told { state, why: local.why.clone(), at: now });
            self.output.push_back(ResourceOutput::Propose(Update::ResourceState {
                resource: id,
                by: self.me,
                state,
                why,
            }));
        }
    }

    fn plan_deadline(&mut self, now: Instant, here: &Here<'_>) {
        let mut times = Vec::new();
        for (id, local) in &self.locals {
            if self.monitor_up {
                times.extend(deadline_of(&local.phase));
            }
            if let Phase::Failed { restart_at: Some(at) } = local.phase {
                times.push(at);
            }
            if !self.authority {
                continue;
            }
            if local.exhausted {
                times.push(local.escalate_at);
            }
            let missed = here.database.resources.get(id).map(|r| r.state);
            if let Some(told) = &local.told
                && missed.is_some_and(|state| state != told.state)
            {
                times.push(told.at + REPEAT);
            }
        }
        if self.authority {
            times.extend(self.offers.values().map(|o| o.again));
        }
        // What is past waits for something else than time, and that comes as an input.
        self.deadline = times.into_iter().filter(|&at| at > now).min();
    }
}

const fn deadline_of(phase: &Phase) -> Option<Instant> {
    match phase {
        Phase::Starting { by, .. } | Phase::Stopping { by, .. } | Phase::Terminating { by, .. } => {
            Some(*by)
        }
        _ => None,
    }
}

/// Whether the database still leaves the group to its owner to run.
fn group_runs(group: &Group) -> bool {
    group.wanted == Wanted::Online
        && group.moving.is_none()
        && group.failed.is_none()
        && !group.released
}

/// Reasons come from resource types and may be long; the database takes only so much.
fn shorten(why: &str) -> String {
    const KEPT: usize = 1024;
    if why.len() <= KEPT {
        return why.into();
    }
    let end = (0..=KEPT).rev().find(|&i| why.is_char_boundary(i)).unwrap_or(0);
    format!("{} ...", &why[..end])
}
