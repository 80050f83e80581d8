//! What a crash between any two writes leaves: the other node still reads the former state, whole.
//! Each of these breaks if the writer overwrites what the disk's slot may name.

use wolfpack_types::disk::DiskOutcome;
use wolfpack_types::register::{Exclusion, RegisterEvent};
use wolfpack_types::{NodeInc, Seq, View};

use super::Input;
use super::rig::{CLUSTER, Rig, ballot, life, view};
use crate::layout::{Layout, Station};

fn layout() -> Layout {
    Layout::new(CLUSTER, 512, 16)
}

fn slot_of(me: NodeInc) -> u64 {
    layout().slot_lba(Station::of(me.node, me.inc))
}

/// The body that the next slot goes to: not the one that was written last.
fn next_body(rig: &Rig, me: NodeInc) -> u64 {
    let bodies = [0, 1].map(|which| layout().body_lba(Station::of(me.node, me.inc), which));
    let last = rig.unit.writes.iter().rev().find(|(_, lba)| bodies.contains(lba));
    let (_, last) = last.expect("a body was written");
    bodies[usize::from(*last == bodies[0])]
}

fn two() -> (Rig, NodeInc, NodeInc) {
    let (a, b) = (life(1, 1), life(2, 1));
    let mut rig = Rig::new(Exclusion::None);
    rig.start(a, &[]);
    rig.start(b, &[]);
    (rig, a, b)
}

/// So many members that the slot needs a body.
fn large(counter: u64) -> View {
    let mut lives: Vec<NodeInc> = (3..=16).map(|n| life(n, 1 << 40)).collect();
    lives.push(life(1, 1));
    view(ballot(counter, 1), &lives)
}

/// The last entry that `reader` finds in the log of `writer`, and the ballot of the log's view.
fn found(rig: &mut Rig, reader: NodeInc, writer: NodeInc) -> (wolfpack_types::Ballot, Seq) {
    match rig.read_log(reader, writer) {
        RegisterEvent::Log { entries, .. } => {
            let last = entries.last().unwrap();
            assert!(entries.iter().all(|e| e.ballot == last.ballot), "of one view: {entries:?}");
            (last.ballot, last.seq)
        }
        other => panic!("the log is readable: {other:?}"),
    }
}

fn failed(event: &RegisterEvent) {
    assert!(matches!(event, RegisterEvent::Failed { .. }), "{event:?}");
}

fn forget_timeouts(rig: &mut Rig, me: NodeInc) {
    for id in 0..1000 {
        rig.give(me, Input::Dead { id });
    }
}

#[test]
fn between_checkpoint_and_slot_the_former_view_stands() {
    let (mut rig, a, b) = two();
    let v2 = view(ballot(2, 1), &[a, b]);
    rig.form(a, &v2, 0, 1);
    rig.append(a, v2.ballot, 2);
    // Repeated, so that each area has its turn.
    for counter in 4..8 {
        rig.promise(a, ballot(counter, 1), &[a]);
        rig.unit.fault_at = Some((slot_of(a), DiskOutcome::Aborted));
        let v = view(ballot(counter, 1), &[a]);
        let before = found(&mut rig, b, a);
        failed(&rig.accept(a, v, 5, 9));
        assert_eq!(found(&mut rig, b, a), before, "ballot {counter}");
    }
}

#[test]
fn between_record_and_slot_the_entry_was_never_taken() {
    let (mut rig, a, b) = two();
    let v2 = view(ballot(2, 1), &[a, b]);
    rig.form(a, &v2, 0, 1);
    rig.unit.fault_at = Some((slot_of(a), DiskOutcome::Aborted));
    failed(&rig.append(a, v2.ballot, 2));
    assert_eq!(found(&mut rig, b, a), (v2.ballot, Seq(1)));
    // The same where the ring is full and the entry is in a new checkpoint.
    rig.renew(a, v2.clone());
    let mut seq = 3;
    let ring_ends = layout().ring_lba(Station::of(a.node, a.inc)) + 2047;
    while !rig.unit.blocks.contains_key(&ring_ends) {
        assert!(matches!(rig.append(a, v2.ballot, seq), RegisterEvent::Appended { .. }), "{seq}");
        seq += 1;
    }
    rig.unit.fault_at = Some((slot_of(a), DiskOutcome::Aborted));
    failed(&rig.append(a, v2.ballot, seq));
    assert_eq!(found(&mut rig, b, a), (v2.ballot, Seq(seq - 1)));
}

#[test]
fn between_body_and_slot_the_former_body_stands() {
    let (mut rig, a, b) = two();
    rig.form(a, &large(2), 0, 1);
    for round in 0..4 {
        rig.unit.fault_at = Some((slot_of(a), DiskOutcome::Aborted));
        failed(&rig.renew(a, large(2)));
        assert_eq!(found(&mut rig, b, a), (ballot(2, 1), Seq(1)), "{round}");
    }
}

#[test]
fn a_slot_write_of_unknown_fate_is_settled_before_its_bodies_are_written() {
    let (mut rig, a, b) = two();
    rig.form(a, &large(2), 0, 1);
    rig.unit.fault_at = Some((slot_of(a), DiskOutcome::Timeout));
    failed(&rig.renew(a, large(2)));
    forget_timeouts(&mut rig, a);
    // The next writes reach the body only.
    rig.unit.fault_at = Some((slot_of(a), DiskOutcome::Aborted));
    failed(&rig.renew(a, large(2)));
    assert_eq!(found(&mut rig, b, a), (ballot(2, 1), Seq(1)));
    rig.renew(a, large(2));
    rig.unit.fault_at = Some((slot_of(a), DiskOutcome::Aborted));
    failed(&rig.renew(a, large(2)));
    assert_eq!(found(&mut rig, b, a), (ballot(2, 1), Seq(1)));
}

#[test]
fn a_slot_that_never_reached_the_disk_is_written_before_a_checkpoint_is() {
    let (mut rig, a, b) = two();
    rig.form(a, &large(2), 0, 1);
    let lives: Vec<NodeInc> = large(3).lives().collect();
    rig.promise(a, ballot(3, 1), &lives);
    // The checkpoint of 3 is written, the body of its slot is not.
    rig.unit.fault_at = Some((next_body(&rig, a), DiskOutcome::Aborted));
    failed(&rig.accept(a, large(3), 0, 4));
    assert_eq!(found(&mut rig, b, a), (ballot(2, 1), Seq(1)));
    // Its repetition must not write a checkpoint over the one in force.
    rig.unit.fault_at = Some((slot_of(a), DiskOutcome::Aborted));
    failed(&rig.accept(a, large(3), 0, 5));
    assert_eq!(found(&mut rig, b, a), (ballot(2, 1), Seq(1)));
    let accepted = rig.accept(a, large(3), 0, 6);
    assert!(matches!(accepted, RegisterEvent::Accepted { .. }), "{accepted:?}");
    assert_eq!(found(&mut rig, b, a), (ballot(3, 1), Seq(6)));
}
