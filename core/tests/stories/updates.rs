//! Stories of updates: settings, who holds them up, databases that differ, and databases that are
//! too large to go along with a view.

use std::time::Duration;

use wolfpack_core::{Input, backup};
use wolfpack_types::api::{Reply, Request, WaitingFor};
use wolfpack_types::tree::{Bytes, Precondition, Transaction, TreeChangeKind, TreeOp, TreeValue};

use super::rig::{Rig, n};
use super::{LONG, cluster, members};

fn set(key: &str, name: &str, value: TreeValue) -> Request {
    let op = TreeOp::SetValue { key: key.into(), name: name.into(), value };
    Request::TreeApply { transaction: Transaction { preconditions: Vec::new(), ops: vec![op] } }
}

fn done(rig: &mut Rig, i: u8, request: Request) {
    let reply = rig.ask(i, request);
    assert!(matches!(reply, Reply::Done { .. }), "{reply:?}");
}

fn get(rig: &mut Rig, i: u8, key: &str, name: &str) -> Option<TreeValue> {
    let ask = Request::TreeGet { key: key.into(), name: Some(name.into()) };
    match rig.ask(i, ask) {
        Reply::TreeValue(entry) => Some(entry.value),
        _ => None,
    }
}

fn same_everywhere(rig: &Rig) -> bool {
    let first = rig.see(1);
    (2..=3).all(|i| {
        let other = rig.see(i);
        (other.commit_seq, other.digest) == (first.commit_seq, first.digest)
    })
}

#[test]
fn a_setting_that_was_answered_is_on_every_member_and_a_failed_precondition_on_none() {
    let mut rig = cluster();
    let watch = Request::TreeWatch { key: "app".into(), recursive: true };
    let id = rig.request(3, watch);
    done(&mut rig, 2, set("app/web", "port", TreeValue::Dword(80)));
    for i in 1..=3 {
        assert_eq!(get(&mut rig, i, "app/web", "port"), Some(TreeValue::Dword(80)));
    }
    let Some(Reply::TreeChange(change)) = rig.reply_to(id) else { panic!("no change was told") };
    assert!(matches!(change.what, TreeChangeKind::ValueSet { .. }), "{change:?}");
    let transaction = Transaction {
        preconditions: vec![Precondition::ValueEquals {
            key: "app/web".into(),
            name: "port".into(),
            value: TreeValue::Dword(8080),
        }],
        ops: vec![TreeOp::DeleteKey { key: "app".into(), subkeys: true }],
    };
    let Reply::Error(e) = rig.ask(3, Request::TreeApply { transaction }) else { panic!("done") };
    assert!(e.what.contains("is dword 80, and dword 8080 was expected"), "{}", e.what);
    assert_eq!(get(&mut rig, 1, "app/web", "port"), Some(TreeValue::Dword(80)));
}

#[test]
fn who_holds_an_update_up_is_named_and_then_removed() {
    let mut rig = cluster();
    rig.hold_disk(3, true);
    let id = rig.request(1, set("app", "x", TreeValue::Dword(1)));
    rig.run(Duration::from_millis(1500));
    let Reply::Cluster(status) = rig.ask(1, Request::ClusterStatus) else { panic!("no status") };
    let stuck = &status.stuck[0];
    assert_eq!((stuck.node.as_str(), stuck.waiting_for), ("node3", WaitingFor::Log));
    assert!(stuck.since_ms >= 1000, "{stuck:?}");
    assert!(rig.tell().contains("waits for node node3 to log it"), "{}", rig.tell());
    // It hangs for ever: after T_upd the others go on without it.
    rig.until(LONG, "the update is answered", |r| r.has_reply(id));
    assert_eq!(members(&rig, 1), 2);
}

#[test]
fn a_member_whose_database_differs_returns_as_a_learner_with_a_new_copy() {
    let mut rig = cluster();
    done(&mut rig, 1, set("app", "x", TreeValue::Dword(1)));
    // The rows reach the disk with the next tick.
    rig.run(Duration::from_secs(1));
    rig.power_cut(3);
    rig.until(LONG, "a view of two", |r| members(r, 1) == 2);
    // A disk that lies: the value is another one, and the row is whole.
    let changed = rig.tamper(3, |key, row| {
        if key.starts_with("value/app") {
            *row.last_mut().unwrap() ^= 1;
            return true;
        }
        false
    });
    assert_eq!(changed, 1);
    rig.start(3);
    rig.until(LONG, "it is found out", |r| r.nodes[&n(3)].exit.is_some());
    rig.start(3);
    rig.until(LONG, "it is back", |r| members(r, 1) == 3 && members(r, 3) == 3);
    done(&mut rig, 3, set("app", "y", TreeValue::Dword(2)));
    assert_eq!(get(&mut rig, 3, "app", "x"), Some(TreeValue::Dword(1)));
    assert!(same_everywhere(&rig));
}

/// A tree of `count` values of 100 kB.
fn fill(rig: &mut Rig, count: u32) {
    for i in 0..count {
        let bytes = vec![u8::try_from(i % 251).unwrap(); 100_000];
        let value = TreeValue::Binary(Bytes(bytes));
        done(rig, 1, set(&format!("large/{i}"), "v", value));
    }
}

#[test]
fn a_large_database_goes_ahead_to_who_joins_while_updates_go_on() {
    let mut rig = cluster();
    rig.power_cut(3);
    rig.until(LONG, "a view of two", |r| members(r, 1) == 2);
    fill(&mut rig, 60);
    rig.start(3);
    let mut updates = 0;
    while members(&rig, 3) < 3 {
        done(&mut rig, 2, set("app", "count", TreeValue::Dword(updates)));
        updates += 1;
        assert!(updates < 5000, "never let in\n{}", rig.tell());
    }
    assert!(rig.largest_message < 2 << 20, "{} bytes in one message", rig.largest_message);
    assert!(rig.nodes[&n(3)].exit.is_none());
    done(&mut rig, 3, set("app", "end", TreeValue::Dword(1)));
    assert!(same_everywhere(&rig));
}

#[test]
fn after_a_power_cut_the_one_that_is_far_behind_gets_its_copy_too() {
    let mut rig = cluster();
    rig.power_cut(1);
    rig.until(LONG, "a view of two", |r| members(r, 2) == 2);
    for i in 0..60_u32 {
        let value = TreeValue::Binary(Bytes(vec![u8::try_from(i).unwrap(); 100_000]));
        done(&mut rig, 2, set(&format!("large/{i}"), "v", value));
    }
    let answered = rig.see(2).commit_seq;
    rig.power_cut(2);
    rig.power_cut(3);
    // The lowest id, which would coordinate, is the one that lacks nearly everything.
    rig.start(1);
    rig.start(2);
    rig.until(LONG * 2, "both are members", |r| members(r, 1) == 2 && members(r, 2) == 2);
    rig.until(LONG, "all is there", |r| r.see(1).commit_seq >= answered);
    assert_eq!(rig.see(1).digest, rig.see(2).digest);
    assert!(rig.largest_message < 2 << 20, "{} bytes in one message", rig.largest_message);
}

#[test]
fn a_backup_that_is_restored_is_the_cluster_from_then_on() {
    let mut rig = cluster();
    done(&mut rig, 1, set("app", "x", TreeValue::Dword(1)));
    rig.input(n(2), Input::Backup { id: 900 });
    let bytes = backup::encode(&rig.backup.take().expect("a backup"));
    let saved = backup::decode(&bytes).expect("whole");
    done(&mut rig, 1, set("app", "x", TreeValue::Dword(2)));
    let restore = |dead: &[u8]| Input::Restore {
        id: 901,
        backup: Box::new(saved.clone()),
        dead: dead.iter().map(|&i| n(i)).collect(),
        foreign: false,
    };
    // Not while anything runs.
    rig.input(n(1), restore(&[2, 3]));
    let Some(Reply::Error(e)) = rig.reply_to(901) else { panic!("restored while it runs") };
    assert!(e.what.contains("stop the cluster service on all nodes"), "{}", e.what);
    (1..=3).for_each(|i| rig.power_cut(i));
    rig.start(1);
    rig.run(Duration::from_secs(2));
    // The dead are named, all of them.
    rig.input(n(1), restore(&[2]));
    let Some(Reply::Error(e)) = rig.reply_to(901) else { panic!("restored") };
    assert!(e.what.contains("node3"), "{}", e.what);
    rig.input(n(1), restore(&[2, 3]));
    rig.until(LONG, "it is restored", |r| r.has_reply(901));
    let Some(Reply::Done { .. }) = rig.reply_to(901) else { panic!("{}", rig.tell()) };
    assert_eq!(get(&mut rig, 1, "app", "x"), Some(TreeValue::Dword(1)));
    // Who comes back takes it, though its own log said otherwise.
    rig.start(2);
    rig.start(3);
    rig.until(LONG * 2, "all are back", |r| (1..=3).all(|i| members(r, i) == 3));
    assert_eq!(get(&mut rig, 3, "app", "x"), Some(TreeValue::Dword(1)));
    done(&mut rig, 2, set("app", "y", TreeValue::Dword(3)));
    assert!(same_everywhere(&rig));
}
