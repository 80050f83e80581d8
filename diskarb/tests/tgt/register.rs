//! The register thread on a real unit: promise to log read by two nodes, challenge and defence,
//! resets by strangers, lost paths, hanging targets.

use std::collections::BTreeSet;
use std::time::Duration;

use crossbeam_channel::{Receiver, unbounded};
use wolfpack_diskarb::device::{Purpose, open};
use wolfpack_diskarb::format::{Overwrite, Prepared, prepare, prepare_for};
use wolfpack_diskarb::register::RegisterConfig;
use wolfpack_diskarb::thread::{Place, RegisterNotice, RegisterThread};
use wolfpack_types::disk::DiskOp;
use wolfpack_types::event::Cause;
use wolfpack_types::register::{
    ChallengeStage, Exclusion, RegisterCommand, RegisterEvent, RegisterFailure,
};
use wolfpack_types::store::Snapshot;
use wolfpack_types::update::{LogEntry, Update};
use wolfpack_types::{
    Ballot, Force, GroupId, Incarnation, Instant, Member, Members, NodeId, NodeInc, Rules, Seq,
    StoreId, Times, View, VoteTable,
};

use crate::fixture::{CLUSTER, PATIENCE, Target, available, naming, until};

fn node(n: u8) -> NodeId {
    NodeId::new(n).unwrap()
}

fn life(n: u8, inc: u64) -> NodeInc {
    NodeInc::new(node(n), Incarnation(inc))
}

fn ballot(counter: u64, n: u8) -> Ballot {
    Ballot::new(Force::default(), counter, node(n))
}

fn members(lives: &[NodeInc]) -> Members {
    let member = |inc| Member { inc, store: StoreId::default() };
    lives.iter().map(|l| (l.node, member(l.inc))).collect()
}

fn view(b: Ballot, lives: &[NodeInc]) -> View {
    View {
        ballot: b,
        members: members(lives),
        former: BTreeSet::new(),
        witness_in: true,
        votes: VoteTable::default(),
        prev_votes: None,
        base_seq: Seq(0),
        witness: None,
        forces: Vec::new(),
    }
}

fn entry(b: Ballot, seq: u64) -> LogEntry {
    let update =
        Update::MoveGroup { group: GroupId::default(), to: node(1), cause: Cause::default() };
    LogEntry { ballot: b, seq: Seq(seq), wall_ms: 0, request: None, update, cause: None }
}

/// A node's register and what it says.
struct Node {
    me: NodeInc,
    thread: RegisterThread,
    notices: Receiver<RegisterNotice>,
    number: u64,
    challenges: Vec<ChallengeStage>,
    lost: u32,
    back: u32,
}

impl Node {
    fn start(disk: &str, me: NodeInc, exclusion: Exclusion, times: Times) -> Self {
        let (notify, notices) = unbounded();
        let config = RegisterConfig {
            me,
            cluster: CLUSTER,
            exclusion,
            views_only: false,
            times,
            rules: Rules::ALL,
        };
        let place = Place { cluster: CLUSTER, register: config, disk: disk.to_owned() };
        let thread = RegisterThread::start(Some(place), notify).unwrap();
        let mut node =
            Self { me, thread, notices, number: 0, challenges: vec![], lost: 0, back: 0 };
        node.wait_back(1);
        node
    }

    /// The next event that answers a command.
    fn next(&mut self) -> Option<RegisterEvent> {
        match self.notices.recv_timeout(PATIENCE).expect("a notice") {
            RegisterNotice::Event(RegisterEvent::Challenge { stage }) => {
                self.challenges.push(stage);
            }
            RegisterNotice::Event(event) => return Some(event),
            RegisterNotice::DiskLost { .. } => self.lost += 1,
            RegisterNotice::DiskBack { .. } => self.back += 1,
        }
        None
    }

    fn wait_back(&mut self, times: u32) {
        while self.back < times {
            assert_eq!(self.next(), None, "only notices");
        }
    }

    fn give(&mut self, make: impl FnOnce(u64) -> RegisterCommand) {
        self.number += 1;
        self.thread.command(make(self.number));
    }

    fn answer(&mut self) -> RegisterEvent {
        loop {
            if let Some(event) = self.next() {
                return event;
            }
        }
    }

    fn promise(&mut self, b: Ballot, m: &[NodeInc]) -> RegisterEvent {
        self.give(|id| RegisterCommand::Promise { id, ballot: b, members: members(m) });
        self.answer()
    }

    fn form(&mut self, v: &View) {
        let lives: Vec<NodeInc> = v.lives().collect();
        let promised = self.promise(v.ballot, &lives);
        assert!(matches!(promised, RegisterEvent::Promised { .. }), "{promised:?}");
        let (view, entries) = (v.clone(), vec![entry(v.ballot, 1)]);
        let rows = vec![("name".to_owned(), vec![7; 3000])];
        let snapshot = Snapshot { rows, ..Default::default() };
        self.give(|id| RegisterCommand::Accept { id, view, snapshot, entries });
        let accepted = self.answer();
        assert!(matches!(accepted, RegisterEvent::Accepted { .. }), "{accepted:?}");
    }

    fn append(&mut self, b: Ballot, seq: u64) -> RegisterEvent {
        let entries = vec![entry(b, seq)];
        self.give(|id| RegisterCommand::Append { id, ballot: b, entries });
        self.answer()
    }

    fn renew(&mut self, v: &View) -> RegisterEvent {
        let view = v.clone();
        self.give(|id| RegisterCommand::Renew { id, view });
        self.answer()
    }
}

fn witness(target: &mut Target) -> String {
    let name = target.unit(128);
    let mut device = open(&name, &naming(1, Purpose::Admin)).unwrap();
    assert_eq!(prepare(&mut *device, CLUSTER, Overwrite::No).unwrap(), Prepared::Written);
    name
}

fn failure(event: RegisterEvent) -> RegisterFailure {
    match event {
        RegisterEvent::Failed { why, .. } => why,
        other => panic!("expected a failure, got {other:?}"),
    }
}

/// A unit of 512 MiB keeps several MiB for each node.
#[test]
fn a_larger_unit_keeps_a_larger_database() {
    if !available() {
        return;
    }
    let mut target = Target::start();
    let disk = target.unit(512);
    let mut device = open(&disk, &naming(1, Purpose::Admin)).unwrap();
    let refused = prepare_for(&mut *device, CLUSTER, Overwrite::No, 20 << 20).unwrap_err();
    assert!(refused.to_string().contains("20971520 are needed"), "{refused}");
    let ready = prepare_for(&mut *device, CLUSTER, Overwrite::No, 3 << 20).unwrap();
    assert_eq!(ready.done, Prepared::Written, "nothing was written before");
    assert!(ready.room.unwrap() > 6 << 20, "{ready:?}");
    let again = prepare_for(&mut *device, CLUSTER, Overwrite::No, 3 << 20).unwrap();
    assert_eq!((again.done, again.room), (Prepared::Already, ready.room));
    drop(device);
    let mut a = Node::start(&disk, life(1, 1), Exclusion::None, Times::STANDARD);
    let mut b = Node::start(&disk, life(2, 1), Exclusion::None, Times::STANDARD);
    let v = view(ballot(2, 1), &[a.me, b.me]);
    a.promise(v.ballot, &[a.me, b.me]);
    let rows = (0..48).map(|i| (format!("k{i:02}"), vec![i; 64 << 10])).collect();
    let snapshot = Snapshot { rows, ..Default::default() };
    let (view, entries, kept) = (v.clone(), vec![entry(v.ballot, 1)], snapshot.clone());
    a.give(|id| RegisterCommand::Accept { id, view, snapshot: kept, entries });
    let accepted = a.answer();
    assert!(matches!(accepted, RegisterEvent::Accepted { .. }), "{accepted:?}");
    assert!(matches!(a.append(v.ballot, 2), RegisterEvent::Appended { .. }));
    let promised = b.promise(ballot(3, 2), &[b.me]);
    assert!(matches!(promised, RegisterEvent::Promised { .. }), "{promised:?}");
    b.give(|id| RegisterCommand::ReadLog { id, slot: life(1, 1) });
    let RegisterEvent::Log { snapshot: read, entries, .. } = b.answer() else { panic!("a log") };
    assert_eq!((read, entries.len()), (snapshot, 2));
}

#[test]
fn what_one_node_appends_the_other_reads_and_a_higher_promise_stops_it() {
    if !available() {
        return;
    }
    let mut target = Target::start();
    let disk = witness(&mut target);
    let mut a = Node::start(&disk, life(1, 1), Exclusion::None, Times::STANDARD);
    let mut b = Node::start(&disk, life(2, 1), Exclusion::None, Times::STANDARD);
    let v = view(ballot(2, 1), &[a.me, b.me]);
    a.form(&v);
    for seq in 2..6 {
        assert!(matches!(a.append(v.ballot, seq), RegisterEvent::Appended { .. }));
    }
    assert!(matches!(b.renew(&v), RegisterEvent::Renewed { .. }));
    let before = Instant(0);
    let RegisterEvent::Promised { best: Some(best), written, .. } =
        b.promise(ballot(3, 2), &[b.me])
    else {
        panic!("promised")
    };
    assert!(written > before);
    assert_eq!((best.bal, best.last_seq), (v.ballot, Seq(5)));
    b.give(|id| RegisterCommand::ReadLog { id, slot: life(1, 1) });
    let RegisterEvent::Log { snapshot, entries, .. } = b.answer() else { panic!("a log") };
    assert_eq!(snapshot.rows[0].1.len(), 3000);
    assert_eq!(entries.last().map(|e| e.seq), Some(Seq(5)));
    assert_eq!(failure(a.append(v.ballot, 6)), RegisterFailure::Outbid { counter: 3 });
    let RegisterEvent::Renewed { excluded, .. } = a.renew(&v) else { panic!("renewed") };
    assert!(excluded.contains(&a.me));
    // A new life of the same node carries its slots over.
    a.thread.stop();
    let mut a = Node::start(&disk, life(1, 2), Exclusion::None, Times::STANDARD);
    let low = failure(a.promise(ballot(1, 1), &[a.me]));
    assert!(matches!(low, RegisterFailure::Outbid { .. }), "{low:?}");
    assert!(matches!(a.promise(ballot(4, 1), &[a.me]), RegisterEvent::Promised { .. }));
}

#[test]
fn a_dead_holder_is_broken_and_a_living_defender_wins() {
    if !available() {
        return;
    }
    let mut target = Target::start();
    let disk = witness(&mut target);
    let mut a = Node::start(&disk, life(1, 1), Exclusion::Reserve, Times::STANDARD);
    let mut b = Node::start(&disk, life(2, 1), Exclusion::Reserve, Times::STANDARD);
    let v = view(ballot(2, 1), &[a.me, b.me]);
    a.form(&v);
    // A has its session but does not defend: as a machine that was cut from power.
    let v3 = view(ballot(3, 2), &[b.me]);
    b.form(&v3);
    let stages = [ChallengeStage::Conflict, ChallengeStage::Reset, ChallengeStage::Won];
    assert_eq!(b.challenges, stages);
    // B lives and defends; A loses.
    let me = a.me;
    a.give(|id| RegisterCommand::Promise { id, ballot: ballot(4, 1), members: members(&[me]) });
    let lost = loop {
        // A's reset may abort one renewal; the next finds the unit free and takes it.
        let renewed = b.renew(&v3);
        let aborted = matches!(renewed, RegisterEvent::Failed { why: RegisterFailure::Io(_), .. });
        assert!(aborted || matches!(renewed, RegisterEvent::Renewed { .. }), "{renewed:?}");
        if let Ok(notice) = a.notices.recv_timeout(Duration::from_millis(50)) {
            match notice {
                RegisterNotice::Event(RegisterEvent::Challenge { stage }) => {
                    a.challenges.push(stage);
                }
                RegisterNotice::Event(event) => break event,
                other => panic!("{other:?}"),
            }
        }
    };
    assert_eq!(failure(lost), RegisterFailure::Defended);
    assert_eq!(a.challenges.last(), Some(&ChallengeStage::Lost));
    // A hand-over: no challenge.
    b.give(|id| RegisterCommand::Release { id });
    assert!(matches!(b.answer(), RegisterEvent::Released { .. }));
    a.challenges.clear();
    assert!(matches!(a.promise(ballot(5, 1), &[me]), RegisterEvent::Promised { .. }));
    assert!(a.challenges.is_empty());
}

#[test]
fn a_reset_by_a_stranger_is_noticed_and_the_reservation_regained() {
    if !available() {
        return;
    }
    let mut target = Target::start();
    let disk = witness(&mut target);
    let mut a = Node::start(&disk, life(1, 1), Exclusion::Reserve, Times::FAST);
    let v = view(ballot(2, 1), &[a.me]);
    a.form(&v);
    let mut stranger = open(&disk, &naming(9, Purpose::Admin)).unwrap();
    stranger.execute(&DiskOp::LunReset, PATIENCE);
    // The unit attention is met by the re-RESERVE, which asks again.
    assert!(matches!(a.renew(&v), RegisterEvent::Renewed { .. }));
    // The stranger keeps it without defending it: one challenge, and that renewal does not count.
    stranger.execute(&DiskOp::LunReset, PATIENCE);
    until("the stranger has it", || {
        matches!(
            stranger.execute(&DiskOp::Reserve, PATIENCE),
            wolfpack_types::disk::DiskOutcome::Good(_)
        )
    });
    let RegisterFailure::Io(why) = failure(a.renew(&v)) else { panic!("not counted") };
    assert!(why.contains("regained"), "{why}");
    assert!(matches!(a.renew(&v), RegisterEvent::Renewed { .. }));
}

#[test]
fn a_lost_path_fails_at_once_and_comes_back() {
    if !available() {
        return;
    }
    let mut target = Target::start();
    let disk = witness(&mut target);
    let mut a = Node::start(&disk, life(1, 1), Exclusion::None, Times::STANDARD);
    let v = view(ballot(2, 1), &[a.me]);
    a.form(&v);
    target.cut_sessions();
    assert!(matches!(failure(a.renew(&v)), RegisterFailure::Io(_)));
    a.wait_back(2);
    assert_eq!(a.lost, 1);
    assert!(matches!(a.renew(&v), RegisterEvent::Renewed { .. }));
}

#[test]
fn a_path_that_is_lost_while_nothing_is_asked_is_noticed() {
    if !available() {
        return;
    }
    let mut target = Target::start();
    let disk = witness(&mut target);
    let mut a = Node::start(&disk, life(1, 1), Exclusion::None, Times::FAST);
    target.cut_sessions();
    a.wait_back(2);
    assert_eq!(a.lost, 1);
    target.freeze(true);
    while a.lost < 2 {
        assert_eq!(a.next(), None);
    }
    target.freeze(false);
    a.wait_back(3);
}

#[test]
fn a_hanging_target_is_a_failure_and_nothing_is_sent_until_the_command_is_dead() {
    if !available() {
        return;
    }
    let mut target = Target::start();
    let disk = witness(&mut target);
    let mut a = Node::start(&disk, life(1, 1), Exclusion::None, Times::FAST);
    let v = view(ballot(2, 1), &[a.me]);
    a.form(&v);
    target.freeze(true);
    let RegisterFailure::Io(why) = failure(a.renew(&v)) else { panic!("an error of the disk") };
    assert!(why.contains("no answer"), "{why}");
    target.freeze(false);
    assert!(matches!(a.renew(&v), RegisterEvent::Renewed { .. }));
    // So long that the session is given up: a new one, and its quarantine.
    target.set_answering(false);
    assert!(matches!(failure(a.renew(&v)), RegisterFailure::Io(_)));
    while a.lost == 0 {
        assert_eq!(a.next(), None);
    }
    target.set_answering(true);
    a.wait_back(2);
    assert!(matches!(a.renew(&v), RegisterEvent::Renewed { .. }));
}

#[test]
fn an_unreachable_witness_is_said_and_commands_fail() {
    let (notify, notices) = unbounded();
    let config = RegisterConfig {
        me: life(1, 1),
        cluster: CLUSTER,
        exclusion: Exclusion::None,
        views_only: false,
        times: Times::FAST,
        rules: Rules::ALL,
    };
    // Port 9 of loopback: nobody listens there.
    let disk = "iscsi://127.0.0.1:9/iqn.2026-11.test:t/1".to_owned();
    let place = Place { cluster: CLUSTER, register: config, disk };
    let thread = RegisterThread::start(Some(place), notify).unwrap();
    let lost = notices.recv_timeout(PATIENCE).unwrap();
    assert!(
        matches!(&lost, RegisterNotice::DiskLost { why, .. } if why.contains("storage network")),
        "{lost:?}"
    );
    thread.command(RegisterCommand::Promise {
        id: 1,
        ballot: ballot(2, 1),
        members: members(&[life(1, 1)]),
    });
    let RegisterNotice::Event(event) = notices.recv_timeout(PATIENCE).unwrap() else {
        panic!("an event")
    };
    assert!(matches!(failure(event), RegisterFailure::Io(_)));
    thread.stop();
}
