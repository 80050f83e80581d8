//! The plan, table by table, and what it must never do, whatever the situation.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use proptest::collection::{btree_map, btree_set, vec};
use proptest::prelude::*;
use wolfpack_types::event::{Cause, Proof};
use wolfpack_types::objects::{Group, Move};
use wolfpack_types::update::Update;
use wolfpack_types::{
    Incarnation, Instant, Member, NodeId, NodeInc, Rule, Rules, Seq, StoreId, View, VoteTable,
};

use super::{AfterFailure, Plan, Situation, after_failure, after_loss, best_possible, plan};
use crate::database::Database;
use crate::database::tests::{apply, assign, ballot, cluster, gid, group, life, node};

fn view(members: &[(u8, u64)]) -> View {
    let member = |&(n, inc): &(u8, u64)| {
        (node(n), Member { inc: Incarnation(inc), store: StoreId::default() })
    };
    View {
        ballot: ballot(4),
        members: members.iter().map(member).collect(),
        former: BTreeSet::new(),
        witness_in: false,
        votes: VoteTable::default(),
        prev_votes: None,
        base_seq: Seq(0),
        witness: None,
        forces: Vec::new(),
    }
}

/// A situation that owns its parts.
#[derive(Debug)]
struct Scene {
    db: Database,
    view: View,
    not_before: BTreeMap<NodeId, Instant>,
    dead: BTreeMap<NodeInc, Proof>,
    leaving: BTreeSet<NodeId>,
    rules: Rules,
}

const NOW: Instant = Instant(1_000);
const LATER: Instant = Instant(2_000);

impl Scene {
    fn new(db: Database, members: &[(u8, u64)]) -> Self {
        Self {
            db,
            view: view(members),
            not_before: BTreeMap::new(),
            dead: BTreeMap::new(),
            leaving: BTreeSet::new(),
            rules: Rules::ALL,
        }
    }

    fn plan(&self, now: Instant) -> Plan {
        plan(&Situation {
            now,
            database: &self.db,
            view: &self.view,
            not_before: &self.not_before,
            dead: &self.dead,
            leaving: &self.leaving,
            random: 11,
            rules: &self.rules,
        })
    }

    fn group(&mut self) -> &mut Group {
        self.db.groups.get_mut(&gid(1)).unwrap()
    }

    /// The only update: an assignment; to whom and why.
    fn assigned(&self, now: Instant) -> (NodeInc, Cause) {
        match &self.plan(now).updates[..] {
            [Update::AssignOwner { group, owner, cause, after }] => {
                assert_eq!((*group, *after), (gid(1), self.db.groups[&gid(1)].owned_since));
                (*owner, cause.clone())
            }
            other => panic!("{other:?}"),
        }
    }
}

/// Group 1, owned by life 1 of `owner` (0: nobody).
fn owned(nodes: u8, owner: u8, preferred: &[u8]) -> Database {
    let mut db = cluster(nodes);
    let preferred = preferred.iter().map(|&n| node(n)).collect();
    apply(&mut db, Update::CreateGroup(Group { preferred, ..group(1, "web") }));
    if owner > 0 {
        assign(&mut db, 1, life(owner, 1), Cause::Created);
    }
    db
}

fn set(nodes: &[u8]) -> BTreeSet<NodeId> {
    nodes.iter().map(|&n| node(n)).collect()
}

#[test]
fn a_lost_owner_is_waited_for() {
    let mut s = Scene::new(owned(2, 1, &[]), &[(2, 1)]);
    assert_eq!(s.plan(NOW), Plan::default(), "no bound is known: never");
    s.not_before.insert(node(1), LATER);
    let waits = BTreeMap::from([(node(1), LATER)]);
    assert_eq!(s.plan(NOW), Plan { updates: vec![], next: Some(LATER), waits });
    let cause = Cause::OwnerLost { node: node(1), view: "4.1".into() };
    assert_eq!(s.assigned(LATER), (life(2, 1), cause.clone()));
    s.rules = Rules::without([Rule::NoOwnerWait]);
    assert_eq!(s.assigned(NOW), (life(2, 1), cause), "the broken rule shows");
}

#[test]
fn proof_release_and_a_newer_life_end_the_wait() {
    let mut s = Scene::new(owned(2, 1, &[]), &[(2, 1)]);
    s.not_before.insert(node(1), LATER);
    s.dead.insert(life(1, 2), Proof::Exit);
    assert_eq!(s.plan(NOW).updates, [], "another life's proof is none");
    s.dead.insert(life(1, 1), Proof::AllTerminated);
    let cause = Cause::OwnerProvenDead { node: node(1), proof: Proof::AllTerminated };
    assert_eq!(s.assigned(NOW), (life(2, 1), cause));

    s.dead.clear();
    s.view = view(&[(1, 2), (2, 1)]);
    let cause = Cause::OwnerRestarted { node: node(1) };
    assert_eq!(s.assigned(NOW), (life(1, 2), cause.clone()), "it was at home there");
    s.group().preferred = vec![node(2)];
    assert_eq!(s.assigned(NOW), (life(2, 1), cause), "but the list knows better");

    s.view = view(&[(2, 1)]);
    s.group().released = true;
    assert_eq!(s.assigned(NOW), (life(2, 1), Cause::OwnerLeft { node: node(1) }));
}

#[test]
fn an_owner_in_the_view_keeps_its_group() {
    let mut s = Scene::new(owned(3, 1, &[2]), &[(1, 1), (2, 1)]);
    s.not_before.insert(node(1), Instant::ZERO);
    assert_eq!(s.plan(NOW), Plan::default());
    s.group().failed = Some("broke".into());
    assert_eq!(s.plan(NOW), Plan::default());
    s.group().moving = Some(Move { to: node(2), cause: Cause::Administrator });
    assert_eq!(s.plan(NOW), Plan::default(), "it is going by itself");
}

#[test]
fn a_released_group_goes_where_it_was_sent_if_that_is_up() {
    let mut s = Scene::new(owned(3, 1, &[]), &[(1, 1), (2, 1), (3, 1)]);
    s.group().moving = Some(Move { to: node(3), cause: Cause::Administrator });
    s.group().released = true;
    assert_eq!(s.assigned(NOW), (life(3, 1), Cause::Administrator));
    s.view = view(&[(1, 1), (2, 1)]);
    assert_eq!(s.assigned(NOW), (life(2, 1), Cause::Administrator));
    s.view = view(&[(1, 1)]);
    assert_eq!(s.assigned(NOW), (life(1, 1), Cause::Administrator), "rather back than nowhere");
    s.leaving = set(&[1]);
    assert_eq!(s.plan(NOW).updates, []);
}

#[test]
fn a_new_group_starts_at_the_top_of_its_list() {
    let s = Scene::new(owned(3, 0, &[3, 2]), &[(1, 1), (2, 7)]);
    assert_eq!(s.assigned(NOW), (life(2, 7), Cause::Created));
    let s = Scene::new(owned(3, 0, &[]), &[(2, 7)]);
    assert_eq!(s.assigned(NOW), (life(2, 7), Cause::Created));
    let mut s = Scene::new(owned(3, 0, &[]), &[(2, 7)]);
    s.leaving = set(&[2]);
    assert_eq!(s.plan(NOW), Plan::default());
}

#[test]
fn groups_of_a_leaving_node_move_once() {
    let mut s = Scene::new(owned(2, 1, &[]), &[(1, 1), (2, 1)]);
    s.leaving = set(&[1]);
    let cause = Cause::OwnerLeft { node: node(1) };
    let update = Update::MoveGroup { group: gid(1), to: node(2), cause: cause.clone() };
    assert_eq!(s.plan(NOW).updates, [update]);
    s.group().moving = Some(Move { to: node(2), cause });
    assert_eq!(s.plan(NOW), Plan::default());
    s.group().moving = None;
    s.leaving = set(&[1, 2]);
    assert_eq!(s.plan(NOW), Plan::default(), "nowhere to go");
}

#[test]
fn placement_follows_the_preferred_list() {
    // The table of the Windows cluster's FAQ: list, owner, who is up, next.
    let table: &[(&[u8], u8, &[u8], u8)] = &[
        (&[1, 2, 3], 1, &[2, 3], 2),
        (&[1, 2, 3], 1, &[3], 3),
        (&[1, 2, 3], 2, &[1, 3], 3),
        // The list names all nodes: it wraps.
        (&[1, 2, 3], 3, &[1, 2], 1),
        (&[3, 1, 2], 2, &[1, 3], 3),
        // A part of them: below the owner, else at random (here among one).
        (&[1, 2], 1, &[2, 3], 2),
        (&[1, 2], 2, &[3], 3),
        (&[2, 1], 3, &[1], 1),
        (&[], 1, &[2], 2),
        // Itself only if nobody else is up.
        (&[1, 2, 3], 1, &[1], 1),
        (&[1, 2, 3], 1, &[1, 3], 3),
    ];
    for &(list, from, up, expected) in table {
        let db = owned(3, from, list);
        let to = after_loss(&db, &db.groups[&gid(1)], node(from), &set(up), 5);
        assert_eq!(to, Some(node(expected)), "{list:?} from {from}, up {up:?}");
    }
    let db = owned(3, 1, &[]);
    let group = &db.groups[&gid(1)];
    assert_eq!(after_loss(&db, group, node(1), &set(&[]), 5), None);
    let drawn: BTreeSet<_> =
        (0..64).filter_map(|r| after_loss(&db, group, node(1), &set(&[1, 2, 3]), r)).collect();
    assert_eq!(drawn, set(&[2, 3]), "random reaches every other node");
    // Last on a list of some: at random, not back to its top.
    let db = owned(4, 2, &[1, 2]);
    let group = &db.groups[&gid(1)];
    let drawn: BTreeSet<_> =
        (0..64).filter_map(|r| after_loss(&db, group, node(2), &set(&[1, 3, 4]), r)).collect();
    assert_eq!(drawn, set(&[1, 3, 4]));
    assert_eq!(best_possible(group, Some(node(4)), &set(&[3, 4]), 0), Some(node(4)));
    assert_eq!(best_possible(group, Some(node(4)), &set(&[2, 3, 4]), 0), Some(node(2)));
}

#[test]
fn a_failed_resource_moves_its_group_up_to_the_threshold() {
    let mut db = owned(3, 2, &[]);
    let next = |db: &Database, up: &[u8], wall| {
        after_failure(db, &db.groups[&gid(1)], node(2), &set(up), wall, 1)
    };
    assert_eq!(next(&db, &[1, 2, 3], 0), AfterFailure::Move(node(3)), "the circle of numbers");
    assert_eq!(next(&db, &[1, 2], 0), AfterFailure::Move(node(1)));
    assert_eq!(
        next(&db, &[2], 0),
        AfterFailure::Stay("no other node is up to take the group".into())
    );
    db.groups.get_mut(&gid(1)).unwrap().failovers_wall_ms = vec![10, 20];
    assert!(
        matches!(next(&db, &[1, 2, 3], 30), AfterFailure::Stay(why) if why.contains("2 times"))
    );
    let period = crate::database::FAILOVER_PERIOD_MS;
    assert_eq!(next(&db, &[1, 2, 3], 10 + period), AfterFailure::Move(node(3)), "one is past");
    let db = owned(2, 1, &[1, 2]);
    let up = set(&[1, 2]);
    let verdict = after_failure(&db, &db.groups[&gid(1)], node(1), &up, 0, 1);
    assert_eq!(verdict, AfterFailure::Move(node(2)), "of two nodes, one move is allowed");
}

fn any_scene() -> impl Strategy<Value = Scene> {
    let groups = vec(
        (0..4_u8, 1..4_u64, vec(1..=4_u8, 0..4), any::<bool>(), proptest::option::of(1..=4_u8)),
        0..5,
    );
    (
        groups,
        btree_map(1..=4_u8, 1..4_u64, 1..4),
        btree_map(1..=4_u8, 0..3_000_u64, 0..4),
        btree_set((1..=4_u8, 1..4_u64), 0..3),
        btree_set(1..=4_u8, 0..3),
    )
        .prop_map(|(groups, members, not_before, dead, leaving)| {
            let mut db = cluster(4);
            for (id, (owner, inc, preferred, released, moving)) in (1..).zip(groups) {
                let mut list = Vec::new();
                for n in preferred.into_iter().map(node) {
                    if !list.contains(&n) {
                        list.push(n);
                    }
                }
                let made = Group { preferred: list, ..group(id, &format!("g{id}")) };
                apply(&mut db, Update::CreateGroup(made));
                if owner == 0 {
                    continue;
                }
                assign(&mut db, id, life(owner, inc), Cause::Created);
                let group = db.groups.get_mut(&gid(id)).unwrap();
                group.released = released;
                group.moving = moving.map(|to| Move { to: node(to), cause: Cause::Administrator });
            }
            let members: Vec<_> = members.into_iter().collect();
            let mut scene = Scene::new(db, &members);
            scene.not_before =
                not_before.into_iter().map(|(n, at)| (node(n), Instant(at))).collect();
            scene.dead = dead.into_iter().map(|(n, i)| (life(n, i), Proof::Exit)).collect();
            scene.leaving = leaving.into_iter().map(node).collect();
            scene
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// Protocol P7, said the other way round.
    #[test]
    fn no_group_is_taken_from_a_life_that_may_run_it(scene in any_scene()) {
        let plan = scene.plan(NOW);
        let mut planned = BTreeSet::new();
        for update in &plan.updates {
            let (Update::AssignOwner { group, .. } | Update::MoveGroup { group, .. }) = update
            else {
                return Err(TestCaseError::fail("another update"));
            };
            prop_assert!(planned.insert(*group), "one update for a group");
            prop_assert_eq!(scene.db.clone().check(update), Ok(()));
            let Update::AssignOwner { owner, .. } = update else { continue };
            prop_assert!(scene.view.has(*owner), "outside the view");
            prop_assert!(!scene.leaving.contains(&owner.node), "to one that leaves");
            let g = &scene.db.groups[group];
            let Some(former) = g.owner else { continue };
            let newer = scene.view.members.get(&former.node).is_some_and(|m| m.inc > former.inc);
            let waited = !scene.view.has(former)
                && scene.not_before.get(&former.node).is_some_and(|&at| at <= NOW);
            let allowed = g.released || newer || waited
                || (scene.dead.contains_key(&former) && !scene.view.has(former));
            prop_assert!(allowed, "{former} may still run it");
        }
        prop_assert_eq!(&plan, &scene.plan(NOW), "the same situation, the same plan");
    }

    /// Nothing is forgotten: at the time that the plan names, it goes on.
    #[test]
    fn every_wait_has_an_end(scene in any_scene()) {
        let first = scene.plan(NOW);
        if let Some(next) = first.next {
            prop_assert!(next > NOW && first.waits.values().min() == Some(&next));
            let up = scene.view.members.keys().any(|n| !scene.leaving.contains(n));
            let second = scene.plan(next + Duration::from_nanos(1));
            prop_assert!(second.next.is_none_or(|n| n > next));
            prop_assert!(!up || second.updates.len() > first.updates.len());
        }
    }
}
