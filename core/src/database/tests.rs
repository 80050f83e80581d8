//! Exact effects of single updates, and the fixtures of the other modules' tests.

use std::collections::BTreeMap;

use wolfpack_types::event::Cause;
use wolfpack_types::membership::{QuorumConfig, QuorumType};
use wolfpack_types::objects::{
    Cluster, Group, GroupState, Move, Node, Resource, ResourceState, ResourceType, Wanted,
};
use wolfpack_types::update::{LogEntry, Refusal, Update};
use wolfpack_types::{
    Ballot, ClusterId, Force, GroupId, Guid, Incarnation, NodeId, NodeInc, RequestId, ResourceId,
    Seq,
};

use super::{Change, Database, FAILOVER_PERIOD_MS, REQUESTS_KEPT};
use crate::administration::new_resource;

pub(crate) fn node(id: u8) -> NodeId {
    NodeId::new(id).unwrap()
}

pub(crate) fn life(id: u8, inc: u64) -> NodeInc {
    NodeInc::new(node(id), Incarnation(inc))
}

pub(crate) const fn gid(id: u128) -> GroupId {
    GroupId(Guid(id))
}

pub(crate) const fn rid(id: u128) -> ResourceId {
    ResourceId(Guid(id))
}

pub(crate) fn ballot(counter: u64) -> Ballot {
    Ballot::new(Force::default(), counter, node(1))
}

pub(crate) fn group(id: u128, name: &str) -> Group {
    Group {
        id: gid(id),
        name: name.into(),
        wanted: Wanted::Offline,
        owner: None,
        owned_since: Seq(0),
        preferred: Vec::new(),
        moving: None,
        released: false,
        failovers_wall_ms: Vec::new(),
        failed: None,
        because: Cause::Created,
    }
}

pub(crate) fn resource(id: u128, name: &str, depends_on: &[u128]) -> Resource {
    let depends_on = depends_on.iter().map(|&d| rid(d)).collect();
    let properties = BTreeMap::from([("command".into(), "/bin/true".into())]);
    new_resource(rid(id), name, gid(1), ResourceType::GenericApplication, depends_on, properties)
}

/// Applies as the log would; returns what the entry did.
pub(crate) fn apply_at(db: &mut Database, wall_ms: u64, update: Update) -> super::Applied {
    let entry = LogEntry {
        ballot: ballot(1),
        seq: db.seq.next(),
        wall_ms,
        request: None,
        update,
        cause: None,
    };
    db.apply(&entry)
}

/// Applies what must make sense.
pub(crate) fn apply(db: &mut Database, update: Update) -> Vec<Change> {
    let applied = apply_at(db, 1_000, update);
    assert_eq!(applied.outcome, Ok(()));
    applied.changes
}

pub(crate) fn assign(db: &mut Database, id: u128, owner: NodeInc, cause: Cause) -> Vec<Change> {
    let after = db.groups[&gid(id)].owned_since;
    apply(db, Update::AssignOwner { group: gid(id), owner, cause, after })
}

/// Group 1 is given up on its present owner.
pub(crate) fn failure(db: &Database, id: u128, why: &str) -> Update {
    let since = db.groups[&gid(1)].owned_since;
    Update::GroupFailed { group: gid(1), since, resource: rid(id), why: why.into() }
}

/// A cluster of nodes n1, n2, .. and nothing else.
pub(crate) fn cluster(nodes: u8) -> Database {
    let mut db = Database::default();
    let cluster = Cluster {
        id: ClusterId(Guid(7)),
        name: "pack".into(),
        quorum: QuorumConfig::of(QuorumType::NodeAndDisk, None),
    };
    let nodes = (1..=nodes).map(|i| Node::new(node(i), format!("n{i}"))).collect();
    apply(&mut db, Update::CreateCluster { cluster, nodes });
    db
}

/// Group `web` (1): `disk` (1); `ip` (2); `app` (3) on both. Wanted online, owned by nobody.
pub(crate) fn web(nodes: u8) -> Database {
    let mut db = cluster(nodes);
    apply(&mut db, Update::CreateGroup(group(1, "web")));
    let kinds = [
        (1, "disk", ResourceType::PhysicalDisk, &[][..]),
        (2, "ip", ResourceType::IpAddress, &[]),
        (3, "app", ResourceType::GenericApplication, &[1, 2]),
    ];
    for (id, name, kind, deps) in kinds {
        let made = Resource { kind, ..resource(id, name, deps) };
        apply(&mut db, Update::CreateResource(made));
        let wanted = Update::SetResourceWanted { resource: rid(id), wanted: Wanted::Online };
        apply(&mut db, wanted);
    }
    apply(&mut db, Update::SetGroupWanted { group: gid(1), wanted: Wanted::Online });
    db
}

fn state(db: &mut Database, id: u128, by: NodeInc, state: ResourceState) -> Vec<Change> {
    let why = String::new();
    db.apply_volatile(&Update::ResourceState { resource: rid(id), by, state, why })
}

#[test]
fn a_release_counts_only_from_the_owner_and_for_its_present_ownership() {
    let mut db = web(2);
    assign(&mut db, 1, life(1, 5), Cause::Created);
    let since = db.groups[&gid(1)].owned_since;
    let offline = |by, since| Update::GroupOffline { group: gid(1), by, since };
    for wrong in
        [offline(life(2, 5), since), offline(life(1, 4), since), offline(life(1, 5), Seq(1))]
    {
        let applied = apply_at(&mut db, 0, wrong);
        assert!(matches!(applied.outcome, Err(Refusal::Busy(_))));
        assert_eq!((applied.rows, applied.changes), (vec![], vec![]));
        assert!(!db.groups[&gid(1)].released);
    }
    apply(&mut db, offline(life(1, 5), since));
    assert!(db.groups[&gid(1)].released);
    // Moved away and back: the repetition of the old release is about another ownership.
    assign(&mut db, 1, life(2, 1), Cause::Administrator);
    assign(&mut db, 1, life(1, 5), Cause::Administrator);
    assert!(apply_at(&mut db, 0, offline(life(1, 5), since)).outcome.is_err());
    assert!(!db.groups[&gid(1)].released);
}

#[test]
fn an_assignment_decided_twice_takes_effect_once() {
    let mut db = web(3);
    let twice =
        |to| Update::AssignOwner { group: gid(1), owner: to, cause: Cause::Created, after: Seq(0) };
    apply(&mut db, twice(life(1, 1)));
    assert!(apply_at(&mut db, 0, twice(life(2, 1))).outcome.is_err());
    assert_eq!(db.groups[&gid(1)].owner, Some(life(1, 1)));
}

#[test]
fn a_new_owner_starts_clean() {
    let mut db = web(2);
    assign(&mut db, 1, life(1, 1), Cause::Created);
    assert_eq!(state(&mut db, 3, life(1, 1), ResourceState::Online).len(), 1);
    apply(&mut db, Update::MoveGroup { group: gid(1), to: node(2), cause: Cause::Administrator });
    let changes = assign(&mut db, 1, life(2, 9), Cause::Administrator);
    assert_eq!(
        changes,
        [
            Change::OwnerChanged { group: gid(1), from: Some(life(1, 1)), to: life(2, 9) },
            Change::ResourceChanged(rid(3)),
        ]
    );
    let group = &db.groups[&gid(1)];
    assert_eq!((group.moving.clone(), group.failed.clone(), group.released), (None, None, false));
    assert_eq!(group.owned_since, db.seq);
    assert_eq!(db.resources[&rid(3)].state, ResourceState::Offline);
}

#[test]
fn a_state_counts_only_from_the_owner() {
    let mut db = web(2);
    assert_eq!(state(&mut db, 1, life(1, 1), ResourceState::Online), []);
    assign(&mut db, 1, life(1, 2), Cause::Created);
    assert_eq!(state(&mut db, 1, life(1, 1), ResourceState::Online), []);
    assert_eq!(state(&mut db, 1, life(2, 2), ResourceState::Online), []);
    assert_eq!(
        state(&mut db, 1, life(1, 2), ResourceState::Online),
        [Change::ResourceChanged(rid(1))]
    );
    assert_eq!(db.resources[&rid(1)].state_by, Some(life(1, 2)));
}

#[test]
fn volatile_state_is_in_no_row_and_no_digest() {
    let mut db = web(2);
    assign(&mut db, 1, life(1, 1), Cause::Created);
    let (digest, rows) = (db.digest(), db.snapshot());
    state(&mut db, 1, life(1, 1), ResourceState::Online);
    assert_eq!((db.digest(), db.snapshot()), (digest, rows));
}

#[test]
fn a_group_state_follows_precedence() {
    use ResourceState::{Failed, Offline, Online, OnlinePending};
    let mut db = web(2);
    let me = life(1, 1);
    assign(&mut db, 1, me, Cause::Created);
    assert_eq!(db.group_state(gid(1)), GroupState::Offline);
    for (states, expected) in [
        ([Online, Online, Online], GroupState::Online),
        ([Online, Offline, Offline], GroupState::PartialOnline),
        ([Online, OnlinePending, Offline], GroupState::Pending),
        ([Online, OnlinePending, Failed], GroupState::Failed),
        ([Offline, Offline, Offline], GroupState::Offline),
    ] {
        for (id, s) in (1..).zip(states) {
            state(&mut db, id, me, s);
        }
        assert_eq!(db.group_state(gid(1)), expected, "{states:?}");
    }
    let failed = failure(&db, 1, "it broke");
    apply(&mut db, failed);
    assert_eq!(db.group_state(gid(1)), GroupState::Failed);
}

#[test]
fn moves_because_of_failures_are_counted_over_the_period() {
    let mut db = web(2);
    assign(&mut db, 1, life(1, 1), Cause::Created);
    let failed = || Update::MoveGroup {
        group: gid(1),
        to: node(2),
        cause: Cause::ResourceFailed { resource: "app".into() },
    };
    let fail = |db: &mut Database, wall| {
        db.groups.get_mut(&gid(1)).unwrap().moving = None;
        apply_at(db, wall, failed()).outcome.unwrap();
    };
    fail(&mut db, 5);
    apply_at(&mut db, 5, failed()).outcome.unwrap();
    assert_eq!(db.groups[&gid(1)].failovers_wall_ms, [5], "proposed twice, it is one failure");
    let moving =
        Some(Move { to: node(2), cause: Cause::ResourceFailed { resource: "app".into() } });
    assert_eq!(db.groups[&gid(1)].moving, moving);
    fail(&mut db, 6);
    fail(&mut db, 5 + FAILOVER_PERIOD_MS);
    assert_eq!(db.groups[&gid(1)].failovers_wall_ms, [6, 5 + FAILOVER_PERIOD_MS]);
    for wall in 0..200 {
        fail(&mut db, FAILOVER_PERIOD_MS + wall);
    }
    assert_eq!(db.groups[&gid(1)].failovers_wall_ms.len(), 64);
    db.groups.get_mut(&gid(1)).unwrap().moving = None;
    apply(&mut db, Update::MoveGroup { group: gid(1), to: node(2), cause: Cause::Administrator });
    assert_eq!(db.groups[&gid(1)].failovers_wall_ms.len(), 64, "an administrator's is no failure");
}

#[test]
fn requests_are_remembered_per_life() {
    let mut db = cluster(2);
    let ask = |db: &mut Database, from, number: u64| {
        let request = Some(RequestId { from, number });
        let name = format!("g{number}-{from}");
        let update = Update::CreateGroup(group(u128::from(db.seq.0), &name));
        let seq = db.seq.next();
        db.apply(&LogEntry { ballot: ballot(1), seq, wall_ms: 0, request, update, cause: None })
    };
    let applied = ask(&mut db, life(1, 1), 1);
    assert_eq!(applied.rows.len(), 2, "the group and the requests");
    let first = RequestId { from: life(1, 1), number: 1 };
    assert_eq!(db.seen(first), Some(Seq(2)));
    let again = ask(&mut db, life(1, 1), 1);
    assert_eq!((again.outcome, again.rows, again.changes), (Ok(()), vec![], vec![]));
    assert_eq!((db.seen(first), db.groups.len()), (Some(Seq(2)), 1), "carried out once");
    for number in 2..=u64::try_from(REQUESTS_KEPT).unwrap() + 1 {
        ask(&mut db, life(1, 1), number);
    }
    assert_eq!(db.seen(first), None, "only so many are kept");
    ask(&mut db, life(1, 2), 1);
    assert_eq!(db.seen(RequestId { from: life(1, 1), number: 9 }), None, "that life is over");
    ask(&mut db, life(1, 1), 500);
    assert_eq!(db.requests[&node(1)].1.len(), 1, "an old life's request displaces nothing");
}

#[test]
fn a_batch_is_carried_out_whole_or_not_at_all() {
    let mut db = cluster(2);
    let before = db.clone();
    let parts = vec![
        Update::CreateGroup(group(1, "web")),
        Update::CreateResource(resource(1, "app", &[99])),
    ];
    assert!(matches!(db.check(&Update::Batch(parts.clone())), Err(Refusal::Unknown { .. })));
    let applied = apply_at(&mut db, 0, Update::Batch(parts));
    assert!(applied.outcome.is_err());
    assert_eq!((applied.rows, applied.changes), (vec![], vec![]));
    assert_eq!((&db.groups, db.digest()), (&before.groups, before.digest()));
    let good = Update::Batch(vec![
        Update::CreateGroup(group(1, "web")),
        Update::CreateResource(resource(1, "app", &[])),
    ]);
    assert_eq!(db.check(&good), Ok(()));
    let rows = apply_at(&mut db, 0, good.clone()).rows;
    assert_eq!(
        rows.iter().map(|(k, v)| (k.as_str(), v.is_some())).collect::<Vec<_>>(),
        [
            ("group/00000000000000000000000000000001", true),
            ("resource/00000000000000000000000000000001", true),
        ]
    );
    assert!(matches!(
        db.check(&Update::Batch(vec![Update::Batch(vec![])])),
        Err(Refusal::Invalid(_))
    ));
}

#[test]
fn deleting_asks_for_order_and_rest() {
    let mut db = web(2);
    assign(&mut db, 1, life(1, 1), Cause::Created);
    let busy = |db: &Database, update: &Update| db.clone().check(update).unwrap_err().to_string();
    assert_eq!(
        busy(&db, &Update::DeleteGroup(gid(1))),
        "group 'web' is not empty; delete resource 'disk' first"
    );
    assert_eq!(
        busy(&db, &Update::DeleteResource(rid(1))),
        "resource 'app' depends on 'disk'; delete 'app' first"
    );
    assert_eq!(
        busy(&db, &Update::DeleteResource(rid(3))),
        "resource 'app' is wanted online; take it offline first"
    );
    apply(&mut db, Update::SetGroupWanted { group: gid(1), wanted: Wanted::Offline });
    state(&mut db, 3, life(1, 1), ResourceState::OfflinePending);
    assert_eq!(
        busy(&db, &Update::DeleteResource(rid(3))),
        "resource 'app' is offline-pending; take it offline first"
    );
    state(&mut db, 3, life(1, 1), ResourceState::Offline);
    for id in [3, 2, 1] {
        assert_eq!(db.check(&Update::DeleteResource(rid(id))), Ok(()));
        apply(&mut db, Update::DeleteResource(rid(id)));
    }
    let rows = apply_at(&mut db, 0, Update::DeleteGroup(gid(1))).rows;
    assert_eq!(rows[0], ("group/00000000000000000000000000000001".into(), None));
    assert_eq!(rows[1].0, "gone/00000000000000000000000000000001");
    assert_eq!(rows.len(), 2);
    // Its name is still known.
    assert_eq!(db.object_name(Guid(1)), Some("web"));
}

#[test]
fn the_locker_refuses_what_makes_no_sense() {
    let mut db = web(2);
    let refuse = |db: &Database, update: Update, part: &str| {
        let refusal = db.clone().check(&update).unwrap_err().to_string();
        assert!(refusal.contains(part), "{refusal}");
    };
    refuse(&db, Update::CreateGroup(group(9, "web")), "group 'web' exists already");
    refuse(&db, Update::CreateGroup(group(9, "a b")), "cannot name a group");
    refuse(&db, Update::CreateGroup(group(9, &"x".repeat(1 << 20))), "cannot name a group");
    let owned = Group { owner: Some(life(1, 1)), ..group(9, "mail") };
    refuse(&db, Update::CreateGroup(owned), "neither owner nor history");
    let stranger = Group { preferred: vec![node(9)], ..group(9, "mail") };
    refuse(&db, Update::CreateGroup(stranger), "node '9' does not exist");
    let twice = Group { preferred: vec![node(1), node(1)], ..group(9, "mail") };
    refuse(&db, Update::CreateGroup(twice), "named twice");
    refuse(&db, Update::CreateResource(resource(9, "app", &[])), "resource 'app' exists already");
    refuse(&db, Update::CreateResource(resource(9, "x", &[9])), "that is a cycle");
    refuse(&db, Update::CreateResource(resource(9, "x", &[1, 1])), "named twice");
    refuse(
        &db,
        Update::CreateResource(Resource { properties: BTreeMap::new(), ..resource(9, "x", &[]) }),
        "resource 'x': ",
    );
    let mut quick = resource(9, "x", &[]);
    quick.policy.looks_alive_ms = 1;
    refuse(&db, Update::CreateResource(quick), "looks_alive_ms is 1, outside 100");
    apply(&mut db, Update::CreateGroup(group(2, "mail")));
    let abroad = Resource { group: gid(2), ..resource(9, "x", &[1]) };
    refuse(&db, Update::CreateResource(abroad), "that is in another group");
    let go = |to| Update::MoveGroup { group: gid(1), to, cause: Cause::Administrator };
    refuse(&db, go(node(2)), "no owner yet");
    assign(&mut db, 1, life(1, 1), Cause::Created);
    refuse(&db, go(node(1)), "is on node 'n1' already");
    refuse(&db, Update::FailResource(rid(1)), "only one that is online can fail");
    assert_eq!(db.check(&go(node(2))), Ok(()));
    let empty = Database::default();
    refuse(&empty, Update::CreateGroup(group(9, "mail")), "there is no cluster yet");
}

#[test]
fn a_full_database_takes_no_more() {
    let mut db = cluster(1);
    for id in 0..super::OBJECTS_MAX as u128 {
        db.groups.insert(gid(id), group(id, &format!("g{id}")));
    }
    let refusal = db.check(&Update::CreateGroup(group(1 << 40, "one-more"))).unwrap_err();
    assert!(refusal.to_string().contains("no more fit"));
}

#[test]
fn an_administrator_forgives_failures() {
    let mut db = web(2);
    assign(&mut db, 1, life(1, 1), Cause::Created);
    let fail = failure(&db, 3, "broke");
    apply(&mut db, fail.clone());
    assert!(apply_at(&mut db, 0, fail.clone()).outcome.is_err(), "it has failed already");
    let online = Update::SetGroupWanted { group: gid(1), wanted: Wanted::Online };
    assert_eq!(
        apply(&mut db, online),
        [
            Change::GroupChanged(gid(1)),
            Change::Retry(rid(1)),
            Change::Retry(rid(2)),
            Change::Retry(rid(3)),
        ]
    );
    assert_eq!(db.groups[&gid(1)].failed, None);
    apply(&mut db, fail.clone());
    let online = Update::SetResourceWanted { resource: rid(3), wanted: Wanted::Online };
    apply(&mut db, online);
    assert_eq!(db.groups[&gid(1)].failed, None);
    assign(&mut db, 1, life(2, 1), Cause::Administrator);
    let late = apply_at(&mut db, 0, fail).outcome;
    assert!(late.is_err(), "said of another ownership");
}

#[test]
fn entries_applied_already_change_nothing() {
    let mut db = cluster(1);
    let entry = LogEntry {
        ballot: ballot(1),
        seq: db.seq,
        wall_ms: 0,
        request: None,
        update: Update::CreateGroup(group(1, "web")),
        cause: None,
    };
    assert_eq!(db.apply(&entry).rows, []);
    assert_eq!(db.groups.len(), 0);
}

type Rows = Vec<(String, Vec<u8>)>;

#[test]
fn hostile_snapshots_are_refused() {
    let good = web(2).snapshot();
    assert_eq!(Database::from_snapshot(&good).unwrap().snapshot(), good);
    let edit = |f: &dyn Fn(&mut Rows)| {
        let mut snapshot = good.clone();
        f(&mut snapshot.rows);
        Database::from_snapshot(&snapshot).unwrap_err().to_string()
    };
    assert!(edit(&|rows| rows[0].1.truncate(3)).contains("cluster row"));
    assert!(edit(&|rows| rows[1].0 = "node/01".into()).contains("unknown row 'node/01'"));
    assert!(edit(&|rows| rows[1].0 = "node/3".into()).contains("holds another object"));
    assert!(edit(&|rows| rows[1] = rows[2].clone()).contains("is there twice"));
    assert!(edit(&|rows| rows.retain(|r| !r.0.starts_with("group"))).contains("no known group"));
    let cyclic = |rows: &mut Rows| {
        for (id, other) in [(4_u128, 5_u128), (5, 4)] {
            let row = resource(id, &format!("r{id}"), &[other]);
            rows.push((format!("resource/{id:032x}"), wolfpack_types::codec::encode(&row)));
        }
    };
    assert!(edit(&cyclic).contains("cycle"));
    assert!(
        edit(&|rows| rows.retain(|r| !r.0.ends_with("0002") || !r.0.starts_with("resource")))
            .contains("outside its group")
    );
}

#[test]
fn unknown_names_come_with_a_hint() {
    let db = web(2);
    assert_eq!(
        db.group_by_name("wbe").unwrap_err().to_string(),
        "group 'wbe' does not exist; there is: web"
    );
    assert_eq!(
        db.resource_by_name("dsk").unwrap_err().to_string(),
        "resource 'dsk' does not exist; did you mean 'disk'?"
    );
    assert_eq!(db.node_by_name("n2").unwrap().id, node(2));
}
