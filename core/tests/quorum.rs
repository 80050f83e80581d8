//! Stories of quorum: votes, witnesses, eviction, pause, and a quorum that is forced.

#[expect(dead_code, reason = "each test binary uses a part of the rig")]
mod rig;

use std::time::Duration;

use rig::{Rig, n};
use wolfpack_core::ExitReason;
use wolfpack_types::api::{Reply, Request};
use wolfpack_types::membership::QuorumType;
use wolfpack_types::tree::{Bytes, Transaction, TreeOp, TreeValue};
use wolfpack_types::{Guid, VoteTable};

const LONG: Duration = Duration::from_secs(60);

fn members(rig: &Rig, i: u8) -> usize {
    rig.see(i).installed.map_or(0, |v| v.members.len())
}

fn table(rig: &Rig, i: u8) -> VoteTable {
    rig.see(i).installed.map(|v| v.votes).unwrap_or_default()
}

fn votes(rig: &Rig, i: u8) -> (Vec<u8>, u8) {
    let table = table(rig, i);
    (table.nodes.values().copied().collect(), table.witness)
}

fn cluster(count: u8, kind: QuorumType) -> Rig {
    let mut rig = Rig::with(count, kind);
    rig.run(Duration::from_millis(500));
    let reply = rig.create(1);
    assert!(matches!(reply, Reply::Done { .. }), "{reply:?} {}", rig.tell());
    let all = usize::from(count);
    rig.until(LONG, "all are members", |r| (1..=count).all(|i| members(r, i) == all));
    rig
}

fn done(rig: &mut Rig, i: u8, request: Request) {
    let reply = rig.ask(i, request.clone());
    assert!(matches!(reply, Reply::Done { .. }), "{request:?}: {reply:?}\n{}", rig.tell());
}

fn refused(rig: &mut Rig, i: u8, request: Request) -> String {
    match rig.ask(i, request) {
        Reply::Error(e) => e.to_string(),
        other => panic!("not refused: {other:?}"),
    }
}

fn set(kind: Option<QuorumType>, witness: Option<&str>, dynamic: Option<bool>) -> Request {
    Request::QuorumSet {
        kind,
        witness: witness.map(Into::into),
        exclusion: None,
        weights: [].into(),
        overwrite: false,
        dynamic,
        room: None,
    }
}

fn create_group(rig: &mut Rig, i: u8, name: &str) {
    done(rig, i, Request::GroupCreate { group: name.into(), preferred: vec![] });
}

#[test]
fn weights_become_votes_of_the_view() {
    let mut rig = cluster(3, QuorumType::Majority);
    let mut request = set(None, None, None);
    if let Request::QuorumSet { weights, .. } = &mut request {
        weights.insert("node2".into(), 3);
    }
    done(&mut rig, 1, request);
    rig.until(LONG, "the votes are there", |r| votes(r, 3) == (vec![1, 3, 1], 0));
    // Three of five votes are node 2's: it is the quorum.
    rig.power_cut(1);
    rig.power_cut(3);
    rig.until(LONG, "node 2 alone goes on", |r| members(r, 2) == 1);
}

#[test]
fn dynamic_votes_leave_a_last_man_standing() {
    let mut rig = cluster(3, QuorumType::Majority);
    done(&mut rig, 1, set(None, None, Some(true)));
    rig.power_cut(3);
    rig.until(LONG, "the lost one's vote is gone", |r| votes(r, 1) == (vec![1, 0, 0], 0));
    rig.power_cut(2);
    rig.until(LONG, "one of three goes on", |r| members(r, 1) == 1);
    create_group(&mut rig, 1, "made-alone");
    // Who has no vote waits for the one that has.
    rig.power_cut(1);
    rig.start(2);
    rig.start(3);
    rig.run(Duration::from_secs(20));
    assert_eq!((members(&rig, 2), members(&rig, 3)), (0, 0), "{}", rig.tell());
    rig.start(1);
    rig.until(LONG, "together again", |r| (1..=3).all(|i| members(r, i) == 3));
    rig.until(LONG, "with their votes", |r| votes(r, 2) == (vec![1, 1, 1], 0));
}

#[test]
fn fixed_votes_stay() {
    let mut rig = cluster(3, QuorumType::Majority);
    rig.power_cut(3);
    rig.until(LONG, "out", |r| members(r, 1) == 2);
    rig.run(Duration::from_secs(20));
    assert_eq!(votes(&rig, 1), (vec![1, 1, 1], 0));
}

#[test]
fn a_witness_is_replaced_while_all_runs() {
    let mut rig = cluster(2, QuorumType::NodeAndDisk);
    done(&mut rig, 2, set(None, Some("w2"), None));
    rig.until(LONG, "the new witness votes", |r| {
        let place = |i| r.see(i).installed.and_then(|v| v.witness).map(|w| w.place);
        (1..=2).all(|i| votes(r, i).1 == 1 && place(i).as_deref() == Some("w2"))
    });
    assert_eq!(votes(&rig, 1), (vec![1, 1], 1));
    // The former witness is of no use to anybody; the new one carries a node alone.
    rig.papers.get_mut(&Guid(1)).unwrap().broken = true;
    rig.power_cut(1);
    rig.until(LONG, "node 2 alone with the new witness", |r| members(r, 2) == 1);
    create_group(&mut rig, 2, "made-alone");
    rig.power_cut(2);
    rig.start(1);
    rig.until(LONG, "node 1 takes the log from the witness", |r| members(r, 1) == 1);
    let Reply::Groups { groups } = rig.ask(1, Request::GroupStatus { group: None }) else {
        panic!()
    };
    assert_eq!(groups[0].name, "made-alone");
}

#[test]
fn the_quorum_type_changes_while_all_runs() {
    let mut rig = cluster(3, QuorumType::Majority);
    done(&mut rig, 1, set(Some(QuorumType::Disk), Some("w2"), None));
    rig.until(LONG, "the disk alone votes", |r| votes(r, 1) == (vec![0, 0, 0], 1));
    rig.until(LONG, "it is in the view", |r| r.see(1).installed.unwrap().witness_in);
    done(&mut rig, 1, set(Some(QuorumType::NodeAndShare), Some("share:/w3"), None));
    rig.until(LONG, "nodes and share", |r| votes(r, 1) == (vec![1, 1, 1], 1));
    done(&mut rig, 1, set(Some(QuorumType::Majority), None, None));
    rig.until(LONG, "nodes alone", |r| votes(r, 1) == (vec![1, 1, 1], 0));
}

#[test]
fn a_share_that_names_a_view_does_not_stand_in_for_its_members() {
    let mut rig = cluster(2, QuorumType::NodeAndShare);
    rig.power_cut(2);
    rig.until(LONG, "node 1 alone with the share", |r| members(r, 1) == 1);
    create_group(&mut rig, 1, "made-alone");
    rig.power_cut(1);
    rig.start(2);
    rig.run(Duration::from_secs(20));
    assert_eq!(members(&rig, 2), 0, "{}", rig.tell());
    let Reply::Cluster(status) = rig.ask(2, Request::ClusterStatus) else { panic!() };
    let waiting = status.waiting_for.unwrap_or_default();
    assert!(waiting.contains("node1"), "{waiting}");
    rig.start(1);
    rig.until(LONG, "both", |r| members(r, 2) == 2);
    rig.run(Duration::from_millis(200));
    assert_eq!(rig.see(1).digest, rig.see(2).digest);
}

#[test]
fn a_lone_wolf_needs_nobody() {
    let mut rig = cluster(1, QuorumType::Local);
    create_group(&mut rig, 1, "den");
    rig.power_cut(1);
    rig.start(1);
    rig.until(LONG, "back", |r| members(r, 1) == 1);
}

#[test]
fn an_evicted_node_is_out_until_it_is_added() {
    let mut rig = cluster(4, QuorumType::Majority);
    done(&mut rig, 1, Request::NodeEvict { node: "node4".into() });
    rig.until(LONG, "it goes", |r| r.nodes[&n(4)].exit == Some(ExitReason::Evicted));
    rig.until(LONG, "it has no vote", |r| table(r, 1).nodes.len() == 3);
    rig.start(4);
    rig.until(LONG, "it is told", |r| r.nodes[&n(4)].exit == Some(ExitReason::Evicted));
    assert_eq!(members(&rig, 1), 3);
    done(&mut rig, 1, Request::NodeAdd { node: "node4".into() });
    rig.start(4);
    rig.until(LONG, "it is back", |r| members(r, 1) == 4);
    rig.until(LONG, "with its vote", |r| table(r, 1).nodes.len() == 4);
}

#[test]
fn an_eviction_that_would_cost_the_quorum_is_refused() {
    let mut rig = cluster(4, QuorumType::Majority);
    rig.power_cut(4);
    rig.until(LONG, "out", |r| members(r, 1) == 3);
    let why = refused(&mut rig, 1, Request::NodeEvict { node: "node3".into() });
    assert!(why.contains("no majority"), "{why}");
}

#[test]
fn a_paused_node_gets_no_group_and_a_drained_one_keeps_none() {
    let mut rig = cluster(3, QuorumType::Majority);
    create_group(&mut rig, 1, "a");
    let owner = |rig: &mut Rig| {
        let Reply::Groups { groups } = rig.ask(1, Request::GroupStatus { group: None }) else {
            panic!()
        };
        groups[0].owner.clone().unwrap_or_default()
    };
    rig.run(Duration::from_secs(1));
    let first = owner(&mut rig);
    done(&mut rig, 1, Request::NodePause { node: first.clone(), drain: false });
    rig.run(Duration::from_secs(2));
    assert_eq!(owner(&mut rig), first, "paused, it keeps what it has");
    done(&mut rig, 1, Request::NodePause { node: first.clone(), drain: true });
    rig.run(Duration::from_secs(2));
    assert_ne!(owner(&mut rig), first, "drained");
    let back = Request::GroupMove { group: "a".into(), to: Some(first.clone()) };
    let why = refused(&mut rig, 1, back.clone());
    assert!(why.contains("not an active member"), "{why}");
    done(&mut rig, 1, Request::NodeResume { node: first });
    done(&mut rig, 1, back);
}

#[test]
fn the_quorum_resource_moves_to_whom_it_is_given() {
    let mut rig = cluster(3, QuorumType::Majority);
    done(&mut rig, 1, Request::QuorumMove { to: Some("node3".into()) });
    rig.until(LONG, "node 3 leads", |r| r.see(3).leader);
    assert_eq!(members(&rig, 1), 3);
}

#[test]
fn a_quorum_is_forced_after_the_lease_and_the_returning_ones_follow() {
    let mut rig = cluster(3, QuorumType::Majority);
    create_group(&mut rig, 1, "before");
    rig.power_cut(2);
    rig.power_cut(3);
    rig.run(Duration::from_secs(6));
    let why = refused(&mut rig, 1, Request::QuorumForce { dead: vec!["node2".into()] });
    assert!(why.contains("not heard and not named as dead: node3"), "{why}");
    let start = rig.now;
    let dead = vec!["node2".into(), "node3".into()];
    done(&mut rig, 1, Request::QuorumForce { dead });
    assert!(rig.now - start >= Duration::from_millis(2500), "{:?}", rig.now - start);
    assert_eq!(members(&rig, 1), 1);
    assert_eq!(votes(&rig, 1), (vec![1, 0, 0], 0));
    create_group(&mut rig, 1, "after");
    rig.start(2);
    rig.start(3);
    rig.until(LONG, "they follow", |r| (1..=3).all(|i| members(r, i) == 3));
    rig.until(LONG, "with their votes", |r| votes(r, 3) == (vec![1, 1, 1], 0));
    rig.run(Duration::from_millis(200));
    assert_eq!(rig.see(1).digest, rig.see(3).digest);
}

#[test]
fn two_forces_never_merge_by_themselves() {
    let mut rig = cluster(4, QuorumType::Majority);
    for a in [1, 2] {
        for b in [3, 4] {
            rig.cut(a, b);
        }
    }
    rig.run(Duration::from_secs(8));
    let left = rig.request(1, Request::QuorumForce { dead: vec!["node3".into(), "node4".into()] });
    let right = rig.request(3, Request::QuorumForce { dead: vec!["node1".into(), "node2".into()] });
    rig.until(LONG, "two quorums", |r| members(r, 1) == 2 && members(r, 3) == 2);
    assert_ne!(left, right);
    create_group(&mut rig, 1, "left");
    create_group(&mut rig, 3, "right");
    rig.heal();
    rig.run(Duration::from_secs(60));
    for i in 1..=4 {
        assert_eq!(members(&rig, i), 2, "node {i}\n{}", rig.tell());
    }
    let told = rig.tell();
    assert!(told.contains("never merge by themselves"), "{told}");
    // The administrator gives one side up.
    for i in [3, 4] {
        done(&mut rig, i, Request::NodeDiscard);
        assert_eq!(rig.nodes[&n(i)].exit, Some(ExitReason::Discarded));
        rig.wipe(i);
        rig.start(i);
    }
    rig.until(LONG, "one cluster", |r| (1..=4).all(|i| members(r, i) == 4));
    let Reply::Groups { groups } = rig.ask(4, Request::GroupStatus { group: None }) else {
        panic!()
    };
    assert_eq!(groups.iter().map(|g| g.name.as_str()).collect::<Vec<_>>(), ["left"]);
}

#[test]
fn with_quorum_there_is_nothing_to_force() {
    let mut rig = cluster(3, QuorumType::Majority);
    rig.run(Duration::from_secs(2));
    let why = refused(&mut rig, 1, Request::QuorumForce { dead: vec![] });
    assert!(why.contains("has quorum"), "{why}");
}

/// Values of 60 kB under different keys, until one is refused; how many there are, and why.
fn fill(rig: &mut Rig) -> (u32, String) {
    for i in 0..60 {
        match rig.ask(1, value(i, 60_000)) {
            Reply::Done { .. } => {}
            Reply::Error(e) => return (i, e.to_string()),
            other => panic!("{other:?}"),
        }
    }
    panic!("3.6 MB were taken beside a witness disk of 1 MiB");
}

fn value(key: u32, bytes: usize) -> Request {
    let value = TreeValue::Binary(Bytes(vec![7; bytes]));
    let op = TreeOp::SetValue { key: format!("data/{key}"), name: "v".into(), value };
    Request::TreeApply { transaction: Transaction { preconditions: Vec::new(), ops: vec![op] } }
}

#[test]
fn the_database_never_outgrows_the_witness_disk_and_fails_over_when_it_is_full() {
    let mut rig = cluster(2, QuorumType::NodeAndDisk);
    let (taken, why) = fill(&mut rig);
    // 1 MiB less the reserve of 256 KiB.
    assert_eq!(taken, 13, "{why}");
    for part in ["786432", "1048576", "witness disk", "quorum set --witness"] {
        assert!(why.contains(part), "{why}");
    }
    let shown = match rig.ask(2, Request::QuorumShow) {
        Reply::Quorum(quorum) => quorum.explanation,
        other => panic!("{other:?}"),
    };
    assert!(shown.contains("at most 786432 are kept at the witness disk"), "{shown}");
    // One that is too large beside the database, and yet would make it no larger.
    let ops = (0..8).map(|i| TreeOp::SetValue {
        key: format!("data/{i}"),
        name: "v".into(),
        value: TreeValue::Binary(Bytes(vec![8; 60_000])),
    });
    let transaction = Transaction { preconditions: Vec::new(), ops: ops.collect() };
    let why = refused(&mut rig, 2, Request::TreeApply { transaction });
    assert!(why.contains("divide the update"), "{why}");
    // What the cluster itself has to say is not refused: ownership, moves, states.
    create_small_groups_until_refused(&mut rig);
    done(&mut rig, 1, Request::GroupOnline { group: "g0".into() });
    rig.power_cut(1);
    rig.until(LONG, "node 2 and the witness go on", |r| members(r, 2) == 1);
    rig.start(1);
    rig.until(LONG, "together again", |r| members(r, 1) == 2 && members(r, 2) == 2);
    done(&mut rig, 1, Request::GroupMove { group: "g0".into(), to: None });
    // Room is made by deleting.
    let op = TreeOp::DeleteKey { key: "data".into(), subkeys: true };
    let transaction = Transaction { preconditions: Vec::new(), ops: vec![op] };
    done(&mut rig, 2, Request::TreeApply { transaction });
    done(&mut rig, 2, value(1, 60_000));
}

/// Fills what a value of 60 kB has left.
fn create_small_groups_until_refused(rig: &mut Rig) {
    for i in 0..20 {
        create_group(rig, 1, &format!("g{i}"));
    }
    for i in (0..60_000).rev().step_by(500) {
        if matches!(rig.ask(1, value(1000, i)), Reply::Done { .. }) {
            let why = refused(rig, 1, value(1001, 600));
            assert!(why.contains("witness disk"), "{why}");
            return;
        }
    }
    panic!("nothing was taken");
}

#[test]
fn a_larger_witness_takes_a_larger_database_and_a_smaller_one_is_refused_then() {
    let mut rig = cluster(2, QuorumType::NodeAndDisk);
    let to = |place, bytes| {
        let mut request = set(None, Some(place), None);
        if let Request::QuorumSet { room, .. } = &mut request {
            *room = Some(bytes);
        }
        request
    };
    done(&mut rig, 1, to("w2", 8 << 20));
    let open = |r: &Rig, place: &str| {
        (1..=2).all(|i| r.see(i).witness.is_some_and(|w| w.place == place) && votes(r, i).1 == 1)
    };
    rig.until(LONG, "the larger one counts", |r| open(r, "w2"));
    for i in 0..50 {
        done(&mut rig, 2, value(i, 60_000));
    }
    let before = rig.see(1);
    let why = refused(&mut rig, 1, to("w3", 2 << 20));
    assert!(why.contains("2097152") && why.contains("w3") && why.contains("not changed"), "{why}");
    rig.run(Duration::from_secs(5));
    let after = rig.see(1);
    assert_eq!((after.digest, votes(&rig, 1).1), (before.digest, 1));
    assert!(open(&rig, "w2"));
    rig.power_cut(1);
    rig.until(LONG, "node 2 and the witness go on", |r| members(r, 2) == 1);
    done(&mut rig, 2, value(99, 60_000));
}
