//! Failures of resources, of their monitor, and of what was believed of ownership.

use std::time::Duration;

use wolfpack_types::event::Cause;
use wolfpack_types::monitor::MonitorEvent;
use wolfpack_types::objects::{ResourceState, Wanted};
use wolfpack_types::update::Update;

use super::{Rig, go, want};
use crate::database::Change;
use crate::database::tests::{assign, gid, life, node, rid};
use crate::resource::ResourceInput;

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
    assert_eq!(
        rig.done(2, Ok(())),
        ["probe+online app", "tell ip online", "tell app online-pending"]
    );
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
fn a_restart_that_cannot_come_online_moves_the_group_at_once() {
    let mut rig = Rig::online();
    rig.failed(3);
    rig.done(3, Ok(()));
    rig.pass(500);
    assert_eq!(
        rig.done(3, Err("no such program")),
        ["terminate app", "move web to 2", "tell app failed"]
    );
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
    // Between two attempts no answer is awaited, whatever its number.
    let odd = MonitorEvent::Done { call: 0, resource: rid(2), outcome: Ok(()) };
    assert_eq!(rig.feed(ResourceInput::Monitor(&odd)), [""; 0]);
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
    assert!(rig.errors[0].contains("died in is-alive of resource 'app'"));
    rig.apply_proposals();
    assert_eq!(
        rig.restarted(),
        ["restore disk", "restore ip", "tell disk online-pending", "tell ip online-pending"]
    );
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
fn an_administrator_can_make_it_fail() {
    let mut rig = Rig::online();
    let changes = rig.db.apply_volatile(&Update::FailResource(rid(3)));
    let out = rig.feed(ResourceInput::Database(&changes));
    assert_eq!(out, ["terminate app", "tell app failed"]);
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
            let done = MonitorEvent::Done { call, resource: rid(id), outcome: Err("odd".into()) };
            assert_eq!(rig.feed(ResourceInput::Monitor(&done)), [""; 0]);
        }
    }
    let failed = MonitorEvent::Failed { resource: rid(99), why: "odd".into() };
    assert_eq!(rig.feed(ResourceInput::Monitor(&failed)), [""; 0]);
}
