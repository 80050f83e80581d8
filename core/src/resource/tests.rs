//! The manager against a played monitor and locker: exact commands and proposals, in order.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use wolfpack_types::event::{Cause, EventKind, Severity};
use wolfpack_types::monitor::{Blame, EntryPoint, MonitorCommand, MonitorEvent, OnlineMode};
use wolfpack_types::objects::{ResourceState, Wanted};
use wolfpack_types::update::Update;
use wolfpack_types::{Instant, NodeId, NodeInc, ResourceId};

use super::{Here, ResourceInput, ResourceManager, ResourceOutput};
use crate::database::tests::{apply, apply_at, assign, cluster, gid, group, life, node, rid};
use crate::database::tests::{resource, web};
use crate::database::{Change, Database};

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
        let blame =
            blame.map(|id| Blame { resource: rid(id), entry_point: EntryPoint::IsAlive });
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
    // A resource that failed proves nothing: a foreign claim may be why.
    let (_, out) = Rig::with_web(Cause::ResourceFailed { resource: "ip".into() });
    assert_eq!(out[..2], ["probe+online disk", "probe+online ip"]);
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
fn a_failure_takes_the_dependents_down_and_brings_them_back() {
    let mut rig = Rig::online();
    assert_eq!(
        rig.failed(2),
        ["offline app", "tell ip failed", "tell app offline-pending"],
        "the disk stays"
    );
    assert_eq!(rig.done(3, Ok(())), ["terminate ip", "tell app offline"]);
    assert_eq!(rig.done(2, Ok(())), [""; 0]);
    assert_eq!(rig.manager.next_deadline(), Some(rig.now + Duration::from_millis(500)));
    assert_eq!(rig.pass(499), [""; 0]);
    assert_eq!(rig.pass(1), ["probe+online ip", "tell ip online-pending"]);
    assert_eq!(rig.done(2, Ok(())), ["probe+online app", "tell ip online", "tell app online-pending"]);
}

#[test]
fn beyond_its_restarts_the_group_moves() {
    let mut rig = Rig::online();
    for _ in 0..3 {
        assert_eq!(rig.failed(3), ["terminate app", "tell app failed"]);
        rig.done(3, Ok(()));
        assert_eq!(rig.pass(500), ["probe+online app", "tell app online-pending"]);
        rig.done(3, Ok(()));
    }
    assert_eq!(rig.failed(3), ["terminate app", "move web to 2", "tell app failed"]);
    assert!(rig.errors[0].contains("'app' failed beyond its restart threshold on node 'n1'"));
    // Terminated, not restarted; the rest goes, and the group is released.
    assert_eq!(rig.done(3, Ok(())), [""; 0]);
    assert_eq!(
        rig.apply_proposals(),
        [
            "offline ip",
            "offline disk",
            "tell disk offline-pending",
            "tell ip offline-pending",
            "tell app offline",
        ]
    );
    rig.done(1, Ok(()));
    assert_eq!(rig.done(2, Ok(())), ["release web", "tell ip offline"]);
}

#[test]
fn with_nowhere_to_go_the_group_fails_until_an_administrator_acts() {
    let mut rig = Rig::online();
    rig.up = [node(1)].into();
    rig.failed(3);
    // Two starts that fail count too, and a third is one too many.
    for _ in 0..3 {
        assert_eq!(rig.done(3, Ok(())), [""; 0], "terminated");
        assert_eq!(rig.pass(500)[0], "probe+online app");
        let out = rig.done(3, Err("no such program"));
        assert_eq!(out[0], "terminate app");
    }
    rig.done(3, Ok(()));
    let why = rig.proposals.iter().find_map(|p| match p {
        Update::GroupFailed { why, .. } => Some(why.clone()),
        _ => None,
    });
    assert!(why.unwrap().contains("no other node is up to take the group"));
    rig.apply_proposals();
    rig.apply_proposals();
    assert!(rig.db.groups[&gid(1)].failed.is_some());
    for id in [1, 2] {
        rig.done(id, Ok(()));
    }
    rig.apply_proposals();
    assert!(rig.manager.idle());
    assert_eq!(rig.db.resources[&rid(3)].state, ResourceState::Failed, "it shows what failed");
    assert_eq!(rig.update(want(Wanted::Online))[..2], ["probe+online disk", "probe+online ip"]);
    rig.done(1, Ok(()));
    let out = rig.done(2, Ok(()));
    assert_eq!(out[0], "probe+online app");
}

#[test]
fn old_failures_are_forgotten() {
    let mut rig = Rig::online();
    for _ in 0..8 {
        assert_eq!(rig.failed(3), ["terminate app", "tell app failed"]);
        rig.done(3, Ok(()));
        rig.pass(400_000);
        rig.done(3, Ok(()));
    }
    assert_eq!(rig.errors, [""; 0]);
}

#[test]
fn calls_that_end_badly_or_late_are_terminated() {
    let mut rig = Rig::online();
    rig.update(want(Wanted::Offline));
    assert_eq!(
        rig.done(3, Err("busy")),
        ["terminate app", "tell app offline-pending"],
        "the reason is new"
    );
    assert_eq!(rig.done(3, Ok(()))[..2], ["offline ip", "offline disk"]);
    rig.apply_proposals();
    // The monitor should have given up after its pending timeout; it did not even answer.
    assert_eq!(rig.pass(184_999), [""; 0]);
    let out = rig.pass(1);
    assert_eq!(out[..2], ["terminate disk", "terminate ip"]);
    rig.apply_proposals();
    // What cannot be terminated is not down: tried again, said, and not released.
    rig.done(1, Ok(()));
    rig.apply_proposals();
    assert_eq!(rig.done(2, Err("still there")), [""; 0]);
    assert!(rig.errors[0].contains("'ip' could not be terminated: still there"));
    assert!(rig.manager.holds(gid(1)));
    assert_eq!(rig.pass(1_000), ["terminate ip"]);
    assert_eq!(rig.pass(30_000), ["terminate ip"], "no answer at all");
    assert_eq!(rig.done(2, Ok(())), ["tell ip offline"]);
    assert!(rig.manager.idle());

    let (mut rig, _) = Rig::with_web(Cause::Administrator);
    assert_eq!(rig.pass(185_000)[..2], ["terminate ip", "terminate disk"], "a start without end");
}

#[test]
fn a_start_is_cut_short_when_the_group_moves() {
    let (mut rig, _) = Rig::with_web(Cause::Administrator);
    let first = rig.calls[&rid(1)];
    assert_eq!(rig.update(go(2))[..2], ["terminate ip", "terminate disk"]);
    let late = MonitorEvent::Done { call: first, resource: rid(1), outcome: Ok(()) };
    assert_eq!(rig.feed(ResourceInput::Monitor(&late)), [""; 0], "overtaken");
    rig.done(1, Ok(()));
    let out = rig.done(2, Ok(()));
    assert_eq!(out[0], "release web");
}

#[test]
fn a_dead_monitor_is_named_and_its_resources_restored_in_order() {
    let mut rig = Rig::online();
    let out = rig.crash(Some(3));
    assert_eq!(
        out,
        ["tell disk online-pending", "tell ip online-pending", "tell app online-pending"]
    );
    assert!(rig.errors[0].contains("died in IsAlive of resource 'app'"));
    rig.apply_proposals();
    assert_eq!(rig.restarted(), ["restore disk", "restore ip", "tell disk online-pending", "tell ip online-pending"]);
    rig.done(1, Ok(()));
    assert_eq!(rig.done(2, Ok(()))[0], "restore app");
    assert_eq!(rig.done(3, Ok(())), ["tell app online"]);
    // One failure counts for the one to blame: three more, and it is one too many.
    for expected in [false, false, true] {
        let out = rig.crash(Some(3));
        assert_eq!(out.contains(&"move web to 2".into()), expected, "{out:?}");
        if !expected {
            rig.restarted();
            for id in [1, 2, 3] {
                rig.done(id, Ok(()));
            }
        }
    }
    assert_eq!(rig.restarted()[0], "terminate app");
}

#[test]
fn what_was_being_ended_when_the_monitor_died_is_ended() {
    let mut rig = Rig::online();
    rig.update(go(2));
    rig.crash(None);
    assert!(rig.errors[0].contains("outside of any call"));
    assert_eq!(rig.restarted()[..1], ["terminate app"]);
    assert_eq!(rig.done(3, Ok(()))[..2], ["terminate ip", "terminate disk"], "unwatched by now");
    rig.done(1, Ok(()));
    assert_eq!(rig.done(2, Ok(()))[0], "release web");
}

#[test]
fn what_is_not_mine_is_ended_at_once() {
    let mut rig = Rig::online();
    let changes = assign(&mut rig.db, 1, life(2, 1), Cause::Administrator);
    assert_eq!(
        rig.feed(ResourceInput::Database(&changes)),
        ["terminate app", "terminate ip", "terminate disk"]
    );
    assert_eq!(rig.errors.len(), 3);
    assert!(rig.errors[0].contains("its group is not this node's"));
    for id in [1, 2, 3] {
        assert_eq!(rig.done(id, Ok(())), [""; 0], "and nothing is told of it");
    }
    assert!(rig.manager.idle());

    let mut rig = Rig::online();
    rig.db.resources.remove(&rid(3));
    let out = rig.feed(ResourceInput::Database(&[Change::ResourceChanged(rid(3))]));
    assert_eq!(out, [format!("terminate {}", rid(3))], "deleted under a running one");
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
fn an_administrator_can_make_it_fail() {
    let mut rig = Rig::online();
    let changes = rig.db.apply_volatile(&Update::FailResource(rid(3)));
    let out = rig.feed(ResourceInput::Database(&changes));
    assert_eq!(out, ["terminate app", "tell app failed"]);
}

#[test]
fn one_resource_offline_takes_only_its_dependents() {
    let mut rig = Rig::online();
    let offline = Update::SetResourceWanted { resource: rid(2), wanted: Wanted::Offline };
    assert_eq!(rig.update(offline), ["offline app", "tell app offline-pending"]);
    assert_eq!(
        rig.done(3, Ok(())),
        ["offline ip", "tell ip offline-pending", "tell app offline"]
    );
    rig.done(2, Ok(()));
    assert!(rig.manager.holds(gid(1)), "the disk stays");
    let online = Update::SetResourceWanted { resource: rid(2), wanted: Wanted::Online };
    assert_eq!(rig.update(online), ["probe+online ip", "tell ip online-pending"]);
    assert_eq!(rig.done(2, Ok(()))[0], "probe+online app");
}

#[test]
fn when_the_guard_has_ended_everything_nothing_starts_again() {
    let mut rig = Rig::online();
    let ended = MonitorEvent::Terminated { why: "the lease is over".into(), left: vec![] };
    rig.feed(ResourceInput::Monitor(&ended));
    assert!(rig.manager.idle());
    let out = rig.update(want(Wanted::Online));
    assert!(!out.iter().any(|o| o.contains("online ")), "{out:?}");
}

#[test]
fn answers_nobody_waits_for_change_nothing() {
    let mut rig = Rig::online();
    for call in [0, 1, 77] {
        for id in [1, 99] {
            let done =
                MonitorEvent::Done { call, resource: rid(id), outcome: Err("odd".into()) };
            assert_eq!(rig.feed(ResourceInput::Monitor(&done)), [""; 0]);
        }
    }
    let failed = MonitorEvent::Failed { resource: rid(99), why: "odd".into() };
    assert_eq!(rig.feed(ResourceInput::Monitor(&failed)), [""; 0]);
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
