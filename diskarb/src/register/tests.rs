//! The register against an in-memory unit: every job, every way in which a command can end.

use wolfpack_types::disk::{DiskOp, DiskOutcome};
use wolfpack_types::register::{
    ChallengeStage, Exclusion, RegisterCommand, RegisterEvent, RegisterFailure,
};
use wolfpack_types::store::Snapshot;
use wolfpack_types::{Rule, Seq, View};

use super::rig::{Rig, ballot, entry, life, members, view};
use super::{Input, Output};
use crate::layout::{Layout, Station};

const A: wolfpack_types::NodeInc = A1;
const A1: wolfpack_types::NodeInc = const_life(1, 1);
const B1: wolfpack_types::NodeInc = const_life(2, 1);

const fn const_life(n: u8, inc: u64) -> wolfpack_types::NodeInc {
    let Ok(node) = wolfpack_types::NodeId::new(n) else { panic!("a node") };
    wolfpack_types::NodeInc::new(node, wolfpack_types::Incarnation(inc))
}

fn two(exclusion: Exclusion) -> Rig {
    let mut rig = Rig::new(exclusion);
    rig.start(A1, &[]);
    rig.start(B1, &[]);
    rig
}

fn failure(event: RegisterEvent) -> RegisterFailure {
    match event {
        RegisterEvent::Failed { why, .. } => why,
        other => panic!("expected a failure, got {other:?}"),
    }
}

#[test]
fn what_one_accepts_and_appends_another_finds() {
    let mut rig = two(Exclusion::None);
    let v = view(ballot(2, 1), &[A1, B1]);
    rig.form(A, &v, 10, 12);
    assert!(matches!(rig.append(A, v.ballot, 13), RegisterEvent::Appended { .. }));
    assert!(matches!(rig.append(A, v.ballot, 14), RegisterEvent::Appended { .. }));
    let RegisterEvent::Promised { best: Some(best), .. } = rig.promise(B1, ballot(3, 2), &[B1])
    else {
        panic!("the register has a view")
    };
    assert_eq!((best.view, best.last_seq), (Some(v), Seq(14)));
    let RegisterEvent::Log { snapshot, entries, .. } = rig.read_log(B1, A1) else {
        panic!("the log is there")
    };
    let seqs: Vec<u64> = entries.iter().map(|e| e.seq.0).collect();
    assert_eq!((snapshot.seq, seqs), (Seq(10), vec![11, 12, 13, 14]));
}

#[test]
fn a_higher_promise_stops_the_lower_ballot_at_once() {
    let mut rig = two(Exclusion::None);
    let v = view(ballot(2, 1), &[A1, B1]);
    rig.form(A, &v, 0, 1);
    assert!(matches!(rig.promise(B1, ballot(7, 2), &[B1]), RegisterEvent::Promised { .. }));
    let outbid = RegisterFailure::Outbid { counter: 7 };
    assert_eq!(failure(rig.append(A, v.ballot, 2)), outbid);
    assert_eq!(failure(rig.promise(A, ballot(3, 1), &[A1])), outbid);
    assert_eq!(failure(rig.accept(A, view(ballot(3, 1), &[A1]), 0, 1)), outbid);
    let RegisterEvent::Renewed { excluded, .. } = rig.renew(A, v) else { panic!("renewed") };
    // By B's slot, and B by A's own, which has promised a view without it.
    assert_eq!(excluded.into_iter().collect::<Vec<_>>(), [A1, B1]);
}

#[test]
fn commit_without_read_back_is_what_the_rule_prevents() {
    let mut rig = Rig::new(Exclusion::None);
    rig.start(A1, &[Rule::NoReadBack]);
    rig.start(B1, &[]);
    let v = view(ballot(2, 1), &[A1, B1]);
    rig.form(A, &v, 0, 1);
    rig.promise(B1, ballot(7, 2), &[B1]);
    assert!(matches!(rig.append(A, v.ballot, 2), RegisterEvent::Appended { .. }));
}

#[test]
fn a_renewal_has_the_time_before_its_first_command() {
    for exclusion in [Exclusion::None, Exclusion::Reserve] {
        let mut rig = Rig::new(exclusion);
        rig.start(A1, &[]);
        let v = view(ballot(2, 1), &[A1]);
        rig.form(A, &v, 0, 1);
        let before = rig.now;
        let RegisterEvent::Renewed { sent, excluded, .. } = rig.renew(A, v.clone()) else {
            panic!("renewed")
        };
        assert_eq!(sent, before);
        assert!(excluded.is_empty());
        rig.start(A1, &[Rule::RenewDone]);
        rig.renew(A, v.clone());
        let before = rig.now;
        let RegisterEvent::Renewed { sent, .. } = rig.renew(A, v) else { panic!("renewed") };
        assert!(sent > before, "the broken rule takes the completion");
    }
}

#[test]
fn a_dead_holder_is_broken_and_a_living_one_wins() {
    let mut rig = two(Exclusion::Reserve);
    let v = view(ballot(2, 1), &[A1, B1]);
    rig.form(A, &v, 0, 1);
    // A is dead: nobody answers the challenge.
    let before = rig.now;
    let promised = rig.promise(B1, ballot(3, 2), &[B1]);
    let RegisterEvent::Promised { written, .. } = promised else { panic!("{promised:?}") };
    assert!(written - before >= wolfpack_types::Times::STANDARD.challenge_wait());
    let stages = [ChallengeStage::Conflict, ChallengeStage::Reset, ChallengeStage::Won];
    assert_eq!(rig.challenges, stages);
    // B is alive: it takes the reservation again while A waits.
    rig.give(
        A,
        Input::Command(RegisterCommand::Promise {
            id: 99,
            ballot: ballot(4, 1),
            members: members(&[A1]),
        }),
    );
    while rig.lives[&A].next_deadline().is_none() {
        rig.step(A);
    }
    let v3 = view(ballot(3, 2), &[B1]);
    assert!(matches!(rig.renew(B1, v3), RegisterEvent::Renewed { .. }));
    assert_eq!(failure(rig.answer(A)), RegisterFailure::Defended);
    assert_eq!(rig.challenges.last(), Some(&ChallengeStage::Lost));
}

#[test]
fn a_holder_that_meets_another_challenges_once_and_counts_nothing() {
    let mut rig = two(Exclusion::Reserve);
    let v = view(ballot(2, 1), &[A1, B1]);
    rig.form(A, &v, 0, 1);
    // A stranger (a dead session of its own, say) holds the unit.
    rig.unit.holder = Some(life(9, 1));
    let RegisterFailure::Io(why) = failure(rig.renew(A, v.clone())) else { panic!("not counted") };
    assert!(why.contains("regained"), "{why}");
    assert!(matches!(rig.renew(A, v.clone()), RegisterEvent::Renewed { .. }));
    // A living one: lost.
    rig.unit.holder = Some(B1);
    rig.give(A, Input::Command(RegisterCommand::Renew { id: 50, view: v }));
    while rig.lives[&A].next_deadline().is_none() {
        rig.step(A);
    }
    rig.unit.holder = Some(B1);
    assert_eq!(failure(rig.answer(A)), RegisterFailure::Defended);
}

#[test]
fn unit_attention_means_ask_again_for_reserve_and_failure_for_the_rest() {
    let mut rig = two(Exclusion::Reserve);
    let v = view(ballot(2, 1), &[A1, B1]);
    rig.form(A, &v, 0, 1);
    rig.unit.reset(&[A1, B1]);
    rig.unit.reset(&[A1, B1]);
    assert!(matches!(rig.renew(A, v.clone()), RegisterEvent::Renewed { .. }));
    assert_eq!(rig.sent.iter().filter(|op| **op == DiskOp::Reserve).count(), 3);
    for (name, outcome) in [
        ("WRITE", DiskOutcome::UnitAttention { asc: 0x29, ascq: 0 }),
        ("READ", DiskOutcome::UnitAttention { asc: 0x29, ascq: 0 }),
        ("WRITE", DiskOutcome::Aborted),
        ("READ", DiskOutcome::Busy),
        ("WRITE", DiskOutcome::Conflict),
        ("WRITE", DiskOutcome::Sense { key: 7, asc: 0x27, ascq: 0 }),
        ("RESERVE", DiskOutcome::Transport("gone".into())),
    ] {
        rig.unit.faults.push_back((name, outcome.clone()));
        let why = failure(rig.renew(A, v.clone()));
        assert!(matches!(why, RegisterFailure::Io(_)), "{name} {outcome:?}: {why:?}");
        assert!(rig.lives[&A].idle());
    }
    assert!(matches!(rig.renew(A, v), RegisterEvent::Renewed { .. }));
}

#[test]
fn a_timed_out_command_blocks_everything_until_it_is_dead() {
    let mut rig = two(Exclusion::None);
    let v = view(ballot(2, 1), &[A1, B1]);
    rig.form(A, &v, 0, 1);
    rig.unit.faults.push_back(("WRITE", DiskOutcome::Timeout));
    assert!(matches!(failure(rig.renew(A, v.clone())), RegisterFailure::Io(_)));
    let command = RegisterCommand::Promise { id: 7, ballot: ballot(5, 1), members: members(&[A1]) };
    rig.give(A, Input::Command(command));
    assert!(rig.step(A).is_none(), "nothing is sent");
    assert!(!rig.lives[&A].idle());
    rig.give(A, Input::Dead { id: 1 });
    assert!(rig.step(A).is_none(), "the death of another command says nothing");
    let stalled = (1..100).find(|&id| {
        rig.give(A, Input::Dead { id });
        rig.step(A).is_some()
    });
    assert!(stalled.is_some());
    // The write of unknown fate is repeated word for word before anything new is written.
    assert!(matches!(rig.answer(A), RegisterEvent::Promised { id: 7, .. }));
}

#[test]
fn promise_supersedes_what_is_under_way_after_the_command_in_flight() {
    let mut rig = two(Exclusion::None);
    let v = view(ballot(2, 1), &[A1, B1]);
    rig.form(A, &v, 0, 1);
    rig.give(A, Input::Command(RegisterCommand::Renew { id: 40, view: v.clone() }));
    let command =
        RegisterCommand::Promise { id: 41, ballot: ballot(5, 1), members: members(&[A1]) };
    rig.give(A, Input::Command(command));
    assert!(matches!(rig.answer(A), RegisterEvent::Promised { id: 41, .. }));
    rig.give(A, Input::Command(RegisterCommand::Renew { id: 42, view: v }));
    rig.give(A, Input::Command(RegisterCommand::Cancel));
    while rig.step(A).is_some() {}
    assert!(rig.lives[&A].idle());
}

#[test]
fn a_new_life_carries_over_what_its_former_lives_promised_and_accepted() {
    let mut rig = Rig::new(Exclusion::None);
    rig.start(A1, &[]);
    let v = view(ballot(2, 1), &[A1]);
    rig.form(A, &v, 5, 6);
    rig.append(A, v.ballot, 7);
    rig.promise(A, ballot(9, 1), &[A1]);
    for inc in 2..6 {
        let me = life(1, inc);
        rig.lives.clear();
        rig.start(me, &[]);
        // A lower ballot than the former life's promise is refused by its own carried slot.
        let counter = 8 + inc - 1;
        let low = rig.promise(me, ballot(counter - 1, 1), &[me]);
        assert_eq!(failure(low), RegisterFailure::Outbid { counter });
        let RegisterEvent::Promised { best: Some(best), .. } =
            rig.promise(me, ballot(counter + 1, 1), &[me])
        else {
            panic!("promised")
        };
        assert_eq!((best.bal, best.last_seq), (v.ballot, Seq(7)));
        let RegisterEvent::Log { entries, .. } = rig.read_log(me, me) else { panic!("carried") };
        assert_eq!(entries.last().map(|e| e.seq), Some(Seq(7)));
    }
}

#[test]
fn without_carry_over_the_second_next_life_loses_the_promise() {
    let mut rig = Rig::new(Exclusion::None);
    rig.start(A1, &[]);
    rig.promise(A, ballot(9, 1), &[A1]);
    let a3 = life(1, 3);
    rig.start(a3, &[Rule::NoCarrySlot]);
    assert!(matches!(rig.promise(a3, ballot(4, 1), &[a3]), RegisterEvent::Promised { .. }));
}

#[test]
fn nothing_is_written_while_commands_of_former_lives_may_live() {
    let mut rig = Rig::new(Exclusion::None);
    let config = super::RegisterConfig {
        me: A1,
        cluster: super::rig::CLUSTER,
        exclusion: Exclusion::None,
        views_only: false,
        times: wolfpack_types::Times::STANDARD,
        rules: wolfpack_types::Rules::ALL,
    };
    rig.lives.insert(A1, super::Register::new(config));
    let command = RegisterCommand::Promise { id: 1, ballot: ballot(2, 1), members: members(&[A1]) };
    rig.give(A1, Input::Command(command));
    while rig.step(A1).is_some() {}
    assert!(rig.unit.writes.is_empty());
    rig.give(A1, Input::FormerLivesDead);
    assert!(matches!(rig.answer(A1), RegisterEvent::Promised { .. }));
}

#[test]
fn a_full_ring_becomes_a_checkpoint_and_nothing_is_lost() {
    let mut rig = two(Exclusion::None);
    let v = view(ballot(2, 1), &[A1, B1]);
    rig.form(A, &v, 0, 1);
    let ring = 2048;
    for seq in 2..ring + 20 {
        let done = rig.append(A, v.ballot, seq);
        assert!(matches!(done, RegisterEvent::Appended { .. }), "{seq}: {done:?}");
    }
    let RegisterEvent::Log { snapshot, entries, .. } = rig.read_log(B1, A1) else { panic!("log") };
    assert_eq!((snapshot.seq.0, entries.len() as u64), (0, ring + 19));
}

/// A unit that is larger than the smallest, and a snapshot of 3 MiB on it.
#[test]
fn a_larger_disk_keeps_a_larger_database() {
    let mut rig = two(Exclusion::None);
    let small = Layout::new(super::rig::CLUSTER, 512, 16);
    let layout = Layout::fitting(super::rig::CLUSTER, 512, 16, small.blocks() * 4).unwrap();
    assert!(layout.checkpoint_capacity() > 4 << 20, "{}", layout.checkpoint_capacity());
    let large = |seq| Snapshot {
        seq: Seq(seq),
        ballot: ballot(1, 1),
        rows: (0..48).map(|i| (format!("k{i:02}"), vec![i; 64 << 10])).collect(),
    };
    let v = view(ballot(2, 1), &[A1, B1]);
    let accept = |id, view: &View| {
        let entries = vec![entry(view.ballot, 4)];
        RegisterCommand::Accept { id, view: view.clone(), snapshot: large(3), entries }
    };
    // The smallest has no room for it, and says both sizes.
    rig.promise(A, v.ballot, &[A1, B1]);
    let RegisterFailure::Io(why) = failure(rig.run(A, accept(90, &v))) else { panic!("taken") };
    assert!(why.contains("does not fit") && why.contains("1048576"), "{why}");
    let mut rig = two(Exclusion::None);
    rig.unit.blocks.insert(0, layout.superblock());
    rig.promise(A, v.ballot, &[A1, B1]);
    assert_eq!(rig.run(A, accept(91, &v)), RegisterEvent::Accepted { id: 91 });
    for seq in 5..9 {
        assert!(matches!(rig.append(A, v.ballot, seq), RegisterEvent::Appended { .. }));
    }
    let RegisterEvent::Log { snapshot, entries, .. } = rig.read_log(B1, A1) else { panic!("log") };
    assert_eq!((snapshot, entries.len()), (large(3), 5));
    // The next life, of the other parity, carries all of it over.
    let a2 = life(1, 2);
    rig.start(a2, &[]);
    assert!(matches!(rig.promise(a2, ballot(4, 1), &[a2]), RegisterEvent::Promised { .. }));
    let RegisterEvent::Log { snapshot, entries, .. } = rig.read_log(a2, a2) else { panic!("log") };
    assert_eq!((snapshot, entries.len()), (large(3), 5));
}

#[test]
fn a_log_never_outgrows_what_the_next_life_can_carry_over() {
    let mut rig = two(Exclusion::None);
    let v = view(ballot(2, 1), &[A1, B1]);
    rig.promise(A, v.ballot, &[A1, B1]);
    let rows = vec![("k".into(), vec![1; (1 << 20) - 1000])];
    let snapshot = Snapshot { seq: Seq(0), ballot: ballot(1, 1), rows };
    let command =
        RegisterCommand::Accept { id: 90, view: v.clone(), snapshot, entries: Vec::new() };
    assert_eq!(rig.run(A, command), RegisterEvent::Accepted { id: 90 });
    let appended = (1..200)
        .take_while(|&seq| matches!(rig.append(A, v.ballot, seq), RegisterEvent::Appended { .. }));
    let last = appended.last().unwrap();
    assert!(last < 150, "{last} entries fit");
    let RegisterFailure::Io(why) = failure(rig.append(A, v.ballot, last + 1)) else {
        panic!("appended")
    };
    assert!(why.contains("new checkpoint"), "{why}");
    // What was appended is there in the next life.
    let a2 = life(1, 2);
    rig.start(a2, &[]);
    assert!(matches!(rig.promise(a2, ballot(4, 1), &[a2]), RegisterEvent::Promised { .. }));
    let RegisterEvent::Log { entries, .. } = rig.read_log(a2, a2) else { panic!("log") };
    assert_eq!(entries.last().map(|e| e.seq), Some(Seq(last)));
}

#[test]
fn a_torn_checkpoint_leaves_the_former_view_readable() {
    let mut rig = two(Exclusion::None);
    let v = view(ballot(2, 1), &[A1, B1]);
    rig.form(A, &v, 3, 4);
    rig.append(A, v.ballot, 5);
    rig.promise(A, ballot(4, 1), &[A1]);
    // The power fails while the next checkpoint is written.
    rig.unit.faults.push_back(("WRITE", DiskOutcome::Transport("power".into())));
    failure(rig.accept(A, view(ballot(4, 1), &[A1]), 5, 6));
    let RegisterEvent::Log { entries, .. } = rig.read_log(B1, A1) else { panic!("log") };
    assert_eq!(entries.last().map(|e| e.seq), Some(Seq(5)));
    // Damage of the checkpoint in force is seen, not replayed.
    let layout = Layout::new(super::rig::CLUSTER, 512, 16);
    let lba = layout.checkpoint_lba(Station::of(A1.node, A1.inc), 0) + 1;
    rig.unit.blocks.get_mut(&lba).unwrap()[3] ^= 1;
    assert!(matches!(failure(rig.read_log(B1, A1)), RegisterFailure::Corrupt(_)));
}

#[test]
fn a_replay_that_ends_early_is_refused() {
    let mut rig = two(Exclusion::None);
    let v = view(ballot(2, 1), &[A1, B1]);
    rig.form(A, &v, 3, 4);
    rig.append(A, v.ballot, 5);
    rig.append(A, v.ballot, 6);
    let layout = Layout::new(super::rig::CLUSTER, 512, 16);
    let lba = layout.ring_lba(Station::of(A1.node, A1.inc)) + 1;
    rig.unit.blocks.remove(&lba);
    let RegisterFailure::Corrupt(why) = failure(rig.read_log(B1, A1)) else { panic!("corrupt") };
    assert!(why.contains("end at 5 instead of 6"), "{why}");
}

#[test]
fn large_views_use_bodies_and_never_overwrite_the_one_in_use() {
    let mut rig = Rig::new(Exclusion::None);
    rig.start(A1, &[]);
    rig.start(B1, &[]);
    let all: Vec<_> = (1..=16).map(|n| life(n, 1 << 40)).chain([]).collect();
    let v = view(ballot(2, 1), &all);
    rig.form(A, &v, 0, 1);
    for round in 0..6 {
        rig.unit.faults.push_back(("WRITE", DiskOutcome::Aborted));
        failure(rig.renew(A, v.clone()));
        let RegisterEvent::Renewed { .. } = rig.renew(B1, v.clone()) else { panic!("{round}") };
        let RegisterEvent::Renewed { .. } = rig.renew(A, v.clone()) else { panic!("{round}") };
    }
}

#[test]
fn foreign_and_impossible_disks_are_refused() {
    let mut rig = Rig::new(Exclusion::None);
    rig.start(A1, &[]);
    rig.unit.blocks.remove(&0);
    let why = failure(rig.promise(A, ballot(2, 1), &[A1]));
    assert!(matches!(&why, RegisterFailure::Corrupt(w) if w.contains("not prepared")), "{why:?}");
    let other = wolfpack_types::ClusterId(wolfpack_types::Guid(1));
    rig.unit.blocks.insert(0, Layout::new(other, 512, 16).superblock());
    let why = failure(rig.promise(A, ballot(2, 1), &[A1]));
    assert!(matches!(&why, RegisterFailure::Corrupt(w) if w.contains("cluster")), "{why:?}");
    rig.unit.blocks.insert(0, Layout::new(super::rig::CLUSTER, 512, 16).superblock());
    rig.unit.blocks.insert(5, vec![9; 512]);
    let why = failure(rig.promise(A, ballot(2, 1), &[A1]));
    assert!(matches!(&why, RegisterFailure::Corrupt(w) if w.contains("slot 3/0")), "{why:?}");
    rig.unit.blocks.remove(&5);
    rig.promise(A, ballot(2, 1), &[A1]);
    let me = life(17, 1);
    rig.start(me, &[]);
    let why = failure(rig.promise(me, ballot(3, 17), &[me]));
    assert!(matches!(&why, RegisterFailure::Corrupt(w) if w.contains("16 nodes")), "{why:?}");
}

#[test]
fn a_slot_of_a_later_life_of_this_node_is_refused() {
    let mut rig = Rig::new(Exclusion::None);
    let later = life(1, 5);
    rig.start(later, &[]);
    rig.promise(later, ballot(2, 1), &[later]);
    rig.start(A1, &[]);
    let why = failure(rig.promise(A, ballot(3, 1), &[A1]));
    assert!(matches!(&why, RegisterFailure::Corrupt(w) if w.contains("another copy")), "{why:?}");
}

#[test]
fn release_gives_the_unit_to_the_next_without_a_challenge() {
    let mut rig = two(Exclusion::Reserve);
    rig.promise(A, ballot(2, 1), &[A1]);
    let released = rig.run(A, RegisterCommand::Release { id: 9 });
    assert_eq!(released, RegisterEvent::Released { id: 9 });
    rig.promise(B1, ballot(3, 2), &[B1]);
    assert!(rig.challenges.is_empty());
    assert_eq!(rig.unit.holder, Some(B1));
}

#[test]
fn commands_out_of_turn_are_refused_and_nothing_is_written() {
    let mut rig = two(Exclusion::None);
    let v = view(ballot(2, 1), &[A1]);
    failure(rig.accept(A, v.clone(), 0, 1));
    failure(rig.append(A, v.ballot, 2));
    rig.promise(A, ballot(2, 1), &[A1]);
    let writes = rig.unit.writes.len();
    failure(rig.accept(A, view(ballot(3, 1), &[A1]), 0, 1));
    failure(rig.append(A, v.ballot, 2));
    rig.accept(A, v.clone(), 0, 1);
    failure(rig.append(A, v.ballot, 9));
    assert!(rig.unit.writes.len() > writes);
    let huge = Snapshot { rows: vec![("x".into(), vec![0; 2 << 20])], ..Default::default() };
    rig.promise(A, ballot(4, 1), &[A1]);
    let command = RegisterCommand::Accept {
        id: 70,
        view: view(ballot(4, 1), &[A1]),
        snapshot: huge,
        entries: vec![],
    };
    let why = failure(rig.run(A, command));
    assert!(matches!(&why, RegisterFailure::Io(w) if w.contains("does not fit")), "{why:?}");
}

#[test]
fn outcomes_of_commands_that_are_not_in_flight_are_ignored() {
    let mut rig = two(Exclusion::None);
    rig.give(A, Input::Done { id: 3, outcome: DiskOutcome::Good(vec![]) });
    rig.give(A, Input::Dead { id: 3 });
    assert!(rig.lives[&A].idle());
    let command = RegisterCommand::Promise { id: 1, ballot: ballot(2, 1), members: members(&[A1]) };
    rig.give(A, Input::Command(command));
    let Some(Output::Disk { id, op }) = rig.lives.get_mut(&A).unwrap().poll_output() else {
        panic!("a read")
    };
    assert_eq!(op, DiskOp::Read { lba: 0, blocks: 1 });
    rig.give(A, Input::Done { id: id + 1, outcome: DiskOutcome::Good(vec![]) });
    assert!(rig.step(A).is_none());
    rig.give(A, Input::Done { id, outcome: DiskOutcome::Good(vec![]) });
    assert!(matches!(failure(rig.answer(A)), RegisterFailure::Corrupt(_)));
}
