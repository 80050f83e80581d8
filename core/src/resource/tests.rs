//! The manager against a played monitor and locker: exact commands and proposals, in order.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use wolfpack_types::event::{Cause, EventKind, Severity};
use wolfpack_types::monitor::{Blame, EntryPoint, MonitorCommand, MonitorEvent, OnlineMode};
use wolfpack_types::objects::{ResourceState, Wanted};
use wolfpack_types::update::Update;
use wolfpack_types::{Instant, NodeId, NodeInc, ResourceId};

use super::{Here, ResourceInput, ResourceManager, ResourceOutput};
use crate::database::Database;
use crate::database::tests::{apply, apply_at, assign, cluster, gid, group, life, node, rid};
use crate::database::tests::{resource, web};

mod failures;
mod random;

/// One node, its monitor and its locker.
pub(super) struct Rig {
    pub(super) now: Instant,
    pub(super) db: Database,
    pub(super) up: BTreeSet<NodeId>,
    pub(super) manager: ResourceManager,
    /// Calls that the monitor has not answered, by resource.
    pub(super) calls: BTreeMap<ResourceId, u64>,
    /// What was proposed and not yet applied.
    pub(super) proposals: Vec<Update>,
    pub(super) errors: Vec<String>,
}

pub(super) const ME: (u8, u64) = (1, 4);

pub(super) fn me() -> NodeInc {
    life(ME.0, ME.1)
}

impl Rig {
    /// This node has authority and owns what `db` says.
    pub(super) fn new(db: Database) -> Self {
        let mut rig = Self {
            now: Instant(1_000_000_000),
            db,
            up: [node(1), node(2)].into(),
            manager: ResourceManager::new(me(), 1),
            calls: BTreeMap::new(),
            proposals: Vec::new(),
            errors: Vec::new(),
        };
        assert_eq!(rig.feed(ResourceInput::Database(&[])), [""; 0], "nothing without authority");
        rig.feed(ResourceInput::Authority(true));
        rig
    }

    /// Group `web` is given to this life.
    fn with_web(cause: Cause) -> (Self, Vec<String>) {
        let mut rig = Self::new(web(2));
        let changes = assign(&mut rig.db, 1, me(), cause);
        let out = rig.feed(ResourceInput::Database(&changes));
        (rig, out)
    }

    /// `web` is online; its app may fail `restarts` times before.
    fn online() -> Self {
        let (mut rig, _) = Self::with_web(Cause::Administrator);
        for id in [1, 2, 3] {
            rig.done(id, Ok(()));
        }
        assert!(rig.apply_proposals().is_empty());
        for id in [1, 2, 3] {
            assert_eq!(rig.db.resources[&rid(id)].state, ResourceState::Online);
        }
        rig
    }

    pub(super) fn feed(&mut self, input: ResourceInput<'_>) -> Vec<String> {
        let here = Here { database: &self.db, up: &self.up, wall_ms: 1_000 };
        self.manager.handle(self.now, &here, input);
        let mut out = Vec::new();
        while let Some(output) = self.manager.poll_output() {
            out.extend(self.note(output));
        }
        out
    }

    fn name(&self, id: ResourceId) -> String {
        self.db.resources.get(&id).map_or_else(|| id.to_string(), |r| r.name.clone())
    }

    /// Remembers what it must, and puts it into few words; events only where they are errors.
    fn note(&mut self, output: ResourceOutput) -> Option<String> {
        match output {
            ResourceOutput::Monitor(MonitorCommand::Online { call, resource, mode }) => {
                self.calls.insert(resource.id, call);
                Some(match mode {
                    OnlineMode::Start { probe: true } => format!("probe+online {}", resource.name),
                    OnlineMode::Start { probe: false } => format!("online {}", resource.name),
                    OnlineMode::Restore => format!("restore {}", resource.name),
                })
            }
            ResourceOutput::Monitor(MonitorCommand::Offline { call, resource }) => {
                self.calls.insert(resource, call);
                Some(format!("offline {}", self.name(resource)))
            }
            ResourceOutput::Monitor(MonitorCommand::Terminate { call, resource }) => {
                self.calls.insert(resource, call);
                Some(format!("terminate {}", self.name(resource)))
            }
            ResourceOutput::Monitor(MonitorCommand::Announce { resource }) => {
                Some(format!("announce {}", self.name(resource)))
            }
            ResourceOutput::Monitor(MonitorCommand::Hello { .. }) => None,
            ResourceOutput::Propose(update) => {
                self.proposals.push(update.clone());
                Some(match update {
                    Update::ResourceState { resource, state, .. } => {
                        format!("tell {} {state}", self.name(resource))
                    }
                    Update::GroupOffline { .. } => "release web".into(),
                    Update::MoveGroup { to, .. } => format!("move web to {to}"),
                    Update::GroupFailed { .. } => "fail web".into(),
                    other => panic!("{other:?}"),
                })
            }
            ResourceOutput::Event(event) => {
                if event.severity == Severity::Error {
                    self.errors.push(event.text);
                }
                None
            }
        }
    }

    pub(super) fn done(&mut self, id: u128, outcome: Result<(), &str>) -> Vec<String> {
        let call = self.calls.remove(&rid(id)).expect("a call to answer");
        let outcome = outcome.map_err(Into::into);
        let event = MonitorEvent::Done { call, resource: rid(id), outcome };
        self.feed(ResourceInput::Monitor(&event))
    }

    pub(super) fn failed(&mut self, id: u128) -> Vec<String> {
        let event = MonitorEvent::Failed { resource: rid(id), why: "it broke".into() };
        self.feed(ResourceInput::Monitor(&event))
    }

    pub(super) fn update(&mut self, update: Update) -> Vec<String> {
        let changes = apply(&mut self.db, update);
        self.feed(ResourceInput::Database(&changes))
    }

    /// The locker carries out what was proposed; what that brings about (but for new states).
    pub(super) fn apply_proposals(&mut self) -> Vec<String> {
        let mut out = Vec::new();
        for update in std::mem::take(&mut self.proposals) {
            let changes = if update.is_volatile() {
                self.db.apply_volatile(&update)
            } else {
                apply_at(&mut self.db, 1_000, update).changes
            };
            out.extend(self.feed(ResourceInput::Database(&changes)));
        }
        out
    }

    fn pass(&mut self, ms: u64) -> Vec<String> {
        self.now += Duration::from_millis(ms);
        self.feed(ResourceInput::Deadline)
    }

    fn crash(&mut self, blame: Option<u128>) -> Vec<String> {
        let blame = blame.map(|id| Blame { resource: rid(id), entry_point: EntryPoint::IsAlive });
        self.calls.clear();
        self.feed(ResourceInput::Monitor(&MonitorEvent::Crashed { monitor: 1, blame }))
    }

    fn restarted(&mut self) -> Vec<String> {
        self.feed(ResourceInput::Monitor(&MonitorEvent::Restarted { monitor: 1 }))
    }
}

fn go(to: u8) -> Update {
    Update::MoveGroup { group: gid(1), to: node(to), cause: Cause::Administrator }
}

fn want(wanted: Wanted) -> Update {
    Update::SetGroupWanted { group: gid(1), wanted }
}

#[test]
fn a_group_comes_online_by_its_dependencies_and_goes_in_reverse() {
    let (mut rig, out) = Rig::with_web(Cause::Created);
    // The independent ones side by side; nothing proves that nobody else uses the address.
    assert_eq!(
        out,
        [
            "probe+online disk",
            "probe+online ip",
            "tell disk online-pending",
            "tell ip online-pending",
        ]
    );
    assert_eq!(rig.done(2, Ok(())), ["tell ip online"]);
    assert!(!rig.manager.idle() && rig.manager.holds(gid(1)));
    assert_eq!(
        rig.done(1, Ok(())),
        ["probe+online app", "tell disk online", "tell app online-pending"]
    );
    assert_eq!(rig.done(3, Ok(())), ["tell app online"]);
    rig.apply_proposals();

    assert_eq!(rig.update(want(Wanted::Offline)), ["offline app", "tell app offline-pending"]);
    assert_eq!(
        rig.done(3, Ok(())),
        [
            "offline ip",
            "offline disk",
            "tell disk offline-pending",
            "tell ip offline-pending",
            "tell app offline",
        ]
    );
    assert_eq!(rig.done(1, Ok(())), ["tell disk offline"]);
    assert_eq!(rig.done(2, Ok(())), ["tell ip offline"]);
    assert!(rig.manager.idle() && !rig.manager.holds(gid(1)));
    rig.apply_proposals();
    assert_eq!(rig.manager.next_deadline(), None);
}

#[test]
fn a_proven_stop_of_the_former_owner_saves_the_probe_once() {
    let lost = Cause::OwnerLost { node: node(2), view: "3.1".into() };
    let (mut rig, out) = Rig::with_web(lost);
    assert_eq!(out[..2], ["online disk", "online ip"]);
    rig.done(1, Ok(()));
    rig.done(2, Ok(()));
    rig.update(want(Wanted::Offline));
    // Long offline, and somebody may use the address.
    for id in [3, 2, 1] {
        rig.done(id, Ok(()));
    }
    let out = rig.update(want(Wanted::Online));
    assert_eq!(out[..2], ["probe+online disk", "probe+online ip"]);
    // An address that failed proves nothing: a foreign claim may be why. A disk says nothing of it.
    let (_, out) = Rig::with_web(Cause::ResourceFailed { resource: "ip".into() });
    assert_eq!(out[..2], ["probe+online disk", "probe+online ip"]);
    let (_, out) = Rig::with_web(Cause::ResourceFailed { resource: "disk".into() });
    assert_eq!(out[..2], ["online disk", "online ip"]);
}

#[test]
fn a_group_that_moves_is_released_when_nothing_of_it_runs() {
    let mut rig = Rig::online();
    assert_eq!(rig.update(go(2)), ["offline app", "tell app offline-pending"]);
    assert_eq!(rig.done(3, Ok(()))[..2], ["offline ip", "offline disk"]);
    assert_eq!(rig.done(2, Ok(())), ["tell ip offline"]);
    assert_eq!(rig.done(1, Ok(())), ["release web", "tell disk offline"]);
    assert!(matches!(
        rig.proposals.iter().rev().find(|p| !p.is_volatile()),
        Some(Update::GroupOffline { by, since, .. })
            if *by == me() && *since == rig.db.groups[&gid(1)].owned_since
    ));
    // Lost with a leader, maybe: again after a while, not before.
    let states = rig.proposals.split_off(0).into_iter().filter(Update::is_volatile).collect();
    rig.proposals = states;
    assert_eq!(rig.apply_proposals(), [""; 0]);
    assert_eq!(rig.pass(1_000), [""; 0]);
    assert_eq!(rig.manager.next_deadline(), Some(rig.now + Duration::from_millis(1_000)));
    assert_eq!(rig.pass(1_000), ["release web"]);
    assert_eq!(rig.apply_proposals(), [""; 0]);
    assert!(rig.db.groups[&gid(1)].released);
    // Named again, the same life runs it again.
    let changes = assign(&mut rig.db, 1, me(), Cause::Administrator);
    assert_eq!(rig.feed(ResourceInput::Database(&changes))[..2], ["online disk", "online ip"]);
}

#[test]
fn after_the_offer_nothing_starts_whatever_the_database_says_of_the_move() {
    let mut rig = Rig::new(web(2));
    let changes = assign(&mut rig.db, 1, me(), Cause::Created);
    // The move comes together with the ownership: nothing ever runs, and it is released.
    let mut all = changes;
    all.extend(apply(&mut rig.db, go(2)));
    assert_eq!(rig.feed(ResourceInput::Database(&all)), ["release web"]);
    rig.db.groups.get_mut(&gid(1)).unwrap().moving = None;
    assert_eq!(rig.feed(ResourceInput::Database(&[])), [""; 0]);
}

#[test]
fn what_is_released_does_not_start() {
    let mut rig = Rig::new(web(2));
    let changes = assign(&mut rig.db, 1, me(), Cause::Created);
    rig.db.groups.get_mut(&gid(1)).unwrap().released = true;
    assert_eq!(rig.feed(ResourceInput::Database(&changes)), [""; 0]);
}

#[test]
fn a_takeover_that_never_started_is_no_takeover_any_more() {
    let mut rig = Rig::new(web(2));
    rig.feed(ResourceInput::Authority(false));
    let changes = assign(&mut rig.db, 1, me(), Cause::OwnerLeft { node: node(2) });
    rig.feed(ResourceInput::Database(&changes));
    rig.update(want(Wanted::Offline));
    rig.update(want(Wanted::Online));
    let out = rig.feed(ResourceInput::Authority(true));
    assert_eq!(out[..2], ["probe+online disk", "probe+online ip"]);
}

#[test]
fn without_authority_nothing_starts() {
    let mut rig = Rig::new(web(2));
    rig.feed(ResourceInput::Authority(false));
    let changes = assign(&mut rig.db, 1, me(), Cause::Administrator);
    assert_eq!(rig.feed(ResourceInput::Database(&changes)), [""; 0]);
    assert_eq!(
        rig.feed(ResourceInput::Authority(true)),
        ["online disk", "online ip", "tell disk online-pending", "tell ip online-pending"]
    );
    rig.feed(ResourceInput::Authority(false));
    assert_eq!(rig.done(1, Ok(())), [""; 0]);
    assert_eq!(rig.done(2, Ok(())), [""; 0], "the next waits, and nobody can be told");
    let out = rig.feed(ResourceInput::Authority(true));
    assert_eq!(
        out,
        ["online app", "tell disk online", "tell ip online", "tell app online-pending"]
    );
}

#[test]
fn another_life_of_this_node_is_not_me() {
    let mut rig = Rig::new(web(2));
    let changes = assign(&mut rig.db, 1, life(ME.0, ME.1 - 1), Cause::Created);
    assert_eq!(rig.feed(ResourceInput::Database(&changes)), [""; 0]);
}

#[test]
fn a_new_view_hears_of_addresses_and_states_again() {
    let mut rig = Rig::online();
    assert_eq!(
        rig.feed(ResourceInput::View),
        ["announce ip", "tell disk online", "tell ip online", "tell app online"]
    );
    assert_eq!(rig.feed(ResourceInput::Deadline), [""; 0]);
}

#[test]
fn a_state_that_did_not_arrive_is_told_again() {
    let mut rig = Rig::online();
    rig.update(Update::SetResourceWanted { resource: rid(3), wanted: Wanted::Offline });
    rig.done(3, Ok(()));
    rig.proposals.clear();
    assert_eq!(rig.manager.next_deadline(), Some(rig.now + Duration::from_secs(2)));
    assert_eq!(rig.pass(2_000), ["tell app offline"]);
    rig.apply_proposals();
    assert_eq!(rig.manager.next_deadline(), None);
}

#[test]
fn a_clean_leave_releases_every_group() {
    let mut rig = Rig::online();
    apply(&mut rig.db, Update::CreateGroup(group(2, "empty")));
    let changes = assign(&mut rig.db, 2, me(), Cause::Created);
    rig.feed(ResourceInput::Database(&changes));
    assert!(!rig.manager.handed_over(&rig.db));
    assert_eq!(
        rig.feed(ResourceInput::Leave),
        ["offline app", "release web", "tell app offline-pending"],
        "the empty group at once"
    );
    rig.done(3, Ok(()));
    rig.done(1, Ok(()));
    rig.done(2, Ok(()));
    assert!(rig.manager.idle() && !rig.manager.handed_over(&rig.db));
    rig.apply_proposals();
    assert!(rig.manager.handed_over(&rig.db));
}

#[test]
fn one_resource_offline_takes_only_its_dependents() {
    let mut rig = Rig::online();
    let offline = Update::SetResourceWanted { resource: rid(2), wanted: Wanted::Offline };
    assert_eq!(rig.update(offline), ["offline app", "tell app offline-pending"]);
    assert_eq!(rig.done(3, Ok(())), ["offline ip", "tell ip offline-pending", "tell app offline"]);
    rig.done(2, Ok(()));
    assert!(rig.manager.holds(gid(1)), "the disk stays");
    let online = Update::SetResourceWanted { resource: rid(2), wanted: Wanted::Online };
    assert_eq!(rig.update(online), ["probe+online ip", "tell ip online-pending"]);
    assert_eq!(rig.done(2, Ok(()))[0], "probe+online app");
}

#[test]
fn group_states_are_events() {
    let mut db = cluster(2);
    apply(&mut db, Update::CreateGroup(group(1, "web")));
    apply(&mut db, Update::CreateResource(resource(3, "app", &[])));
    apply(&mut db, want(Wanted::Online));
    apply(&mut db, Update::SetResourceWanted { resource: rid(3), wanted: Wanted::Online });
    let mut manager = ResourceManager::new(me(), 1);
    let changes = assign(&mut db, 1, me(), Cause::Created);
    let mut seen = Vec::new();
    let done = MonitorEvent::Done { call: 1, resource: rid(3), outcome: Ok(()) };
    for input in [
        ResourceInput::Authority(true),
        ResourceInput::Database(&changes),
        ResourceInput::Monitor(&done),
    ] {
        let here = Here { database: &db, up: &BTreeSet::new(), wall_ms: 0 };
        manager.handle(Instant(1), &here, input);
        while let Some(output) = manager.poll_output() {
            let ResourceOutput::Event(event) = output else { continue };
            seen.push(match event.kind {
                EventKind::GroupState { name, state, .. } => format!("{name} {state}"),
                EventKind::ResourceState { name, state, .. } => format!("{name} {state}"),
                other => panic!("{other:?}"),
            });
        }
    }
    assert_eq!(seen, ["app online-pending", "web pending", "app online", "web online"]);
}
