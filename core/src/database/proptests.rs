//! Whatever the log holds: applying is total and deterministic, rows and digest follow it, and the
//! invariants of the database hold.

use proptest::collection::vec;
use proptest::prelude::*;
use wolfpack_types::event::Cause;
use wolfpack_types::objects::{Group, Resource, ResourceState, Wanted};
use wolfpack_types::tree::Transaction;
use wolfpack_types::update::{LogEntry, Update};
use wolfpack_types::{NodeInc, RequestId, Seq};

use super::tests::{ballot, cluster, gid, group, life, node, resource, rid};
use super::{Database, Undo};

const NODES: u8 = 3;

fn any_life() -> impl Strategy<Value = NodeInc> {
    // One node that is not configured.
    (1..=NODES + 1, 1_u64..3).prop_map(|(n, i)| life(n, i))
}

fn any_cause() -> impl Strategy<Value = Cause> {
    prop_oneof![
        Just(Cause::Administrator),
        Just(Cause::ResourceFailed { resource: "app".into() }),
        Just(Cause::OwnerLeft { node: node(1) }),
    ]
}

fn wanted() -> impl Strategy<Value = Wanted> {
    prop_oneof![Just(Wanted::Online), Just(Wanted::Offline)]
}

fn structure() -> impl Strategy<Value = Update> {
    prop_oneof![
        (0..4_u128, 0..4_u8, vec(1..=NODES + 1, 0..3)).prop_map(|(id, name, preferred)| {
            let preferred = preferred.into_iter().map(node).collect();
            Update::CreateGroup(Group { preferred, ..group(id, &format!("g{name}")) })
        }),
        (0..4_u128).prop_map(|id| Update::DeleteGroup(gid(id))),
        (0..6_u128, 0..6_u8, 0..4_u128, vec(0..6_u128, 0..3)).prop_map(|(id, name, g, deps)| {
            let made = resource(id, &format!("r{name}"), &deps);
            Update::CreateResource(Resource { group: gid(g), ..made })
        }),
        (0..6_u128).prop_map(|id| Update::DeleteResource(rid(id))),
        (0..4_u128, wanted())
            .prop_map(|(g, wanted)| Update::SetGroupWanted { group: gid(g), wanted }),
        (0..6_u128, wanted())
            .prop_map(|(r, wanted)| Update::SetResourceWanted { resource: rid(r), wanted }),
        (0..4_u128, vec(1..=NODES + 1, 0..3)).prop_map(|(g, nodes)| Update::SetPreferredOwners {
            group: gid(g),
            nodes: nodes.into_iter().map(node).collect(),
        }),
    ]
}

fn ownership() -> impl Strategy<Value = Update> {
    prop_oneof![
        (0..4_u128, 1..=NODES + 1, any_cause()).prop_map(|(g, to, cause)| Update::MoveGroup {
            group: gid(g),
            to: node(to),
            cause
        }),
        (0..4_u128, any_life(), 0..40_u64).prop_map(|(g, by, since)| Update::GroupOffline {
            group: gid(g),
            by,
            since: Seq(since)
        }),
        (0..4_u128, any_life(), any_cause(), 0..40_u64).prop_map(|(g, owner, cause, after)| {
            // Zero often enough that first assignments happen.
            let after = Seq(if after < 25 { 0 } else { after });
            Update::AssignOwner { group: gid(g), owner, cause, after }
        }),
        (0..4_u128, 0..6_u128, 0..40_u64).prop_map(|(g, r, since)| Update::GroupFailed {
            group: gid(g),
            since: Seq(since),
            resource: rid(r),
            why: "broke".into()
        }),
        (0..6_u128, any_life()).prop_map(|(r, by)| Update::ResourceState {
            resource: rid(r),
            by,
            state: ResourceState::Online,
            why: String::new()
        }),
        (0..6_u128).prop_map(|r| Update::FailResource(rid(r))),
    ]
}

fn any_update() -> impl Strategy<Value = Update> {
    let tree = || {
        vec(super::tree_proptests::op(), 1..4)
            .prop_map(|ops| Update::Tree(Transaction { preconditions: Vec::new(), ops }))
    };
    let one = || prop_oneof![3 => structure(), 3 => ownership(), 1 => tree()];
    prop_oneof![
        6 => one(),
        1 => vec(one(), 0..4).prop_map(Update::Batch),
        1 => vec(one(), 0..2).prop_map(|parts| Update::Batch(vec![Update::Batch(parts)])),
    ]
}

fn any_request() -> impl Strategy<Value = Option<RequestId>> {
    proptest::option::of(
        (any_life(), 0..20_u64).prop_map(|(from, number)| RequestId { from, number }),
    )
}

fn entry(seq: Seq, request: Option<RequestId>, update: Update) -> LogEntry {
    LogEntry { ballot: ballot(1), seq, wall_ms: 10 * seq.0, request, update, cause: None }
}

fn without_volatile(db: &Database) -> Database {
    Database::from_snapshot(&db.snapshot()).expect("its own snapshot")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn apply_is_total_and_deterministic(log in vec((any_request(), any_update()), 0..60)) {
        let (mut a, mut b) = (cluster(NODES), cluster(NODES));
        let mut store: std::collections::BTreeMap<_, _> = a.snapshot().rows.into_iter().collect();
        for (number, (request, update)) in log.into_iter().enumerate() {
            let entry = entry(a.seq.next(), request, update);
            let before = a.clone();
            let checked = a.check(&entry.update);
            prop_assert_eq!(&a, &before, "a check leaves nothing behind");
            let mut undo = Undo::begin(&a);
            let tried = a.apply_on_trial(&entry, &mut undo);
            a.take_back(undo);
            prop_assert_eq!(&a, &before, "a trial leaves nothing behind");
            let applied = a.apply(&entry);
            prop_assert_eq!(&tried, &applied.outcome);
            // The other one knows other volatile states, and has restarted on the way.
            if number % 7 == 3 {
                b = without_volatile(&b);
            }
            for id in 0..6 {
                let state = ResourceState::Failed;
                for by in [life(1, 1), life(2, 1)] {
                    let why = String::new();
                    b.apply_volatile(&Update::ResourceState { resource: rid(id), by, state, why });
                }
            }
            prop_assert_eq!(&b.apply(&entry).outcome, &applied.outcome);
            prop_assert_eq!(a.digest(), b.digest());
            // What the locker lets pass takes effect, unless that very request already has.
            if checked.is_ok() && !entry.update.is_volatile() {
                prop_assert_eq!(&applied.outcome, &Ok(()));
            }
            if applied.outcome.is_err() {
                prop_assert!(applied.rows.is_empty() && applied.changes.is_empty());
                prop_assert_eq!(before.digest(), a.digest());
            }
            for (key, row) in applied.rows {
                match row {
                    Some(bytes) => store.insert(key, bytes),
                    None => store.remove(&key),
                };
            }
            // The rows given to the store are the database.
            let rows: std::collections::BTreeMap<_, _> = a.snapshot().rows.into_iter().collect();
            prop_assert_eq!(&rows, &store);
        }
        prop_assert_eq!(without_volatile(&a), without_volatile(&b));
    }

    #[test]
    fn invariants_hold_whatever_is_applied(log in vec(any_update(), 0..80)) {
        let mut db = cluster(NODES);
        for update in log {
            let entry = entry(db.seq.next(), None, update);
            db.apply(&entry);
            // Reading its own snapshot back checks references and cycles.
            let again = without_volatile(&db);
            prop_assert_eq!(again.digest(), db.digest());
            prop_assert_eq!(again.snapshot(), db.snapshot());
            for group in db.groups.values() {
                prop_assert!(!group.released || group.owner.is_some());
                prop_assert!(group.owned_since <= db.seq);
                prop_assert!(group.owner.is_none() == (group.owned_since == Seq(0)));
                prop_assert!(group.owner.is_none_or(|o| db.nodes.contains_key(&o.node)));
            }
        }
    }

    #[test]
    fn any_rows_are_read_or_refused(rows in vec(("(cluster|node/[0-3]|group/0{31}[12])",
        vec(any::<u8>(), 0..40)), 0..5))
    {
        let snapshot = wolfpack_types::store::Snapshot { rows, ..Default::default() };
        if let Ok(db) = Database::from_snapshot(&snapshot) {
            let again = Database::from_snapshot(&db.snapshot()).expect("its own snapshot");
            prop_assert_eq!(again.digest(), db.digest());
        }
    }

    #[test]
    fn dependencies_come_first(edges in vec((0..12_u128, 0..12_u128), 0..40)) {
        let mut db = cluster(1);
        db.groups.insert(gid(1), group(1, "web"));
        for id in 0..12 {
            // Only towards smaller numbers: no cycle.
            let deps: std::collections::BTreeSet<_> =
                edges.iter().filter(|e| e.0 == id && e.1 < id).map(|e| e.1).collect();
            let deps: Vec<_> = deps.into_iter().collect();
            db.resources.insert(rid(id), resource(id, &format!("r{id}"), &deps));
        }
        let order = db.in_dependency_order(db.resources.keys().copied());
        prop_assert_eq!(order.len(), 12);
        for (position, id) in order.iter().enumerate() {
            for dependency in &db.resources[id].depends_on {
                prop_assert!(order[..position].contains(dependency));
            }
        }
    }
}
