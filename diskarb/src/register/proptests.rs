//! Random commands, faults and restarts of two nodes at one unit: what is promised stays promised,
//! what is appended stays readable, slots and regions have one writer.

use proptest::prelude::*;
use wolfpack_types::disk::DiskOutcome;
use wolfpack_types::register::{Exclusion, RegisterEvent};
use wolfpack_types::{Ballot, Incarnation, NodeInc};

use super::rig::{Rig, ballot, life, view};
use crate::layout::{Layout, Station};

#[derive(Clone, Debug)]
enum Act {
    Promise,
    Accept,
    Append,
    Renew,
    Restart,
    /// The next command of the name ends so; whether it is carried out all the same.
    Fault(&'static str, DiskOutcome, bool),
}

fn act() -> impl Strategy<Value = Act> {
    let fault = (0usize..2, 0usize..5, any::<bool>()).prop_map(|(name, outcome, executed)| {
        let outcomes = [
            DiskOutcome::Aborted,
            DiskOutcome::UnitAttention { asc: 0x29, ascq: 0 },
            DiskOutcome::Transport("cut".into()),
            DiskOutcome::Conflict,
            DiskOutcome::Timeout,
        ];
        // What was aborted, met a unit attention or a conflict was not carried out.
        let unknown = matches!(outcome, 2 | 4);
        Act::Fault(["WRITE", "READ"][name], outcomes[outcome].clone(), executed && unknown)
    });
    prop_oneof![
        4 => Just(Act::Promise),
        4 => Just(Act::Accept),
        6 => Just(Act::Append),
        2 => Just(Act::Renew),
        1 => Just(Act::Restart),
        2 => fault,
    ]
}

/// What one node believes.
struct Side {
    me: NodeInc,
    promised: Option<Ballot>,
    accepted: Option<(Ballot, u64)>,
}

/// Every answered append must be in the log of the highest accepted ballot, unless a later accept
/// (which names its own base) has replaced it.
fn check_log(rig: &mut Rig, reader: NodeInc, newest: Option<(Ballot, u64)>) {
    let b = ballot(1 << 30, reader.node.get());
    let RegisterEvent::Promised { best, .. } = rig.promise(reader, b, &[reader]) else {
        panic!("a promise above all, without faults")
    };
    let Some((bal, seq)) = newest else { return };
    let best = best.expect("something was accepted");
    assert!((best.bal, best.last_seq.0) >= (bal, seq), "{best:?} against {bal} {seq}");
    let slot = NodeInc::new(best.node, best.inc);
    let RegisterEvent::Log { snapshot, entries, .. } = rig.read_log(reader, slot) else {
        panic!("the log of the best slot is readable")
    };
    let end = entries.last().map_or(snapshot.seq, |e| e.seq);
    assert_eq!(end, best.last_seq);
}

fn revive(rig: &mut Rig, me: NodeInc) {
    for id in 0..20_000 {
        rig.give(me, super::Input::Dead { id });
    }
    while rig.step(me).is_some() {}
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn answered_means_readable(
        acts in prop::collection::vec((0usize..2, act()), 1..60)
    ) {
        let mut rig = Rig::new(Exclusion::None);
        let mut sides = [1, 2].map(|n| Side { me: life(n, 1), promised: None, accepted: None });
        for side in &sides {
            rig.start(side.me, &[]);
        }
        let (mut counter, mut newest): (u64, Option<(Ballot, u64)>) = (1, None);
        for (who, act) in acts {
            let me = sides[who].me;
            let node = me.node.get();
            match act {
                Act::Promise => {
                    counter += 1;
                    let b = ballot(counter, node);
                    let good = matches!(rig.promise(me, b, &[me]), RegisterEvent::Promised { .. });
                    sides[who].promised = good.then_some(b);
                }
                Act::Accept => {
                    let Some(b) = sides[who].promised else { continue };
                    let to = newest.map_or(1, |(_, seq)| seq);
                    if let RegisterEvent::Accepted { .. } = rig.accept(me, view(b, &[me]), 0, to) {
                        sides[who].accepted = Some((b, to));
                        newest = newest.max(Some((b, to)));
                    } else {
                        sides[who].accepted = None;
                    }
                    sides[who].promised = None;
                }
                Act::Append => {
                    let Some((b, to)) = sides[who].accepted else { continue };
                    if let RegisterEvent::Appended { .. } = rig.append(me, b, to + 1) {
                        sides[who].accepted = Some((b, to + 1));
                        newest = newest.max(Some((b, to + 1)));
                    } else {
                        sides[who].accepted = None;
                    }
                }
                Act::Renew => {
                    if let Some((b, _)) = sides[who].accepted {
                        rig.renew(me, view(b, &[me]));
                    }
                }
                Act::Restart => {
                    rig.lives.remove(&me);
                    let next = Incarnation(me.inc.0 + 1);
                    let me = NodeInc::new(me.node, next);
                    sides[who] = Side { me, promised: None, accepted: None };
                    rig.start(me, &[]);
                }
                Act::Fault(name, outcome, executed) => {
                    rig.unit.faulty_are_executed = executed;
                    rig.unit.faults.clear();
                    rig.unit.faults.push_back((name, outcome));
                }
            }
            revive(&mut rig, sides[who].me);
        }
        rig.unit.faults.clear();
        let reader = sides[0].me;
        revive(&mut rig, reader);
        check_log(&mut rig, reader, newest);
        let layout = Layout::new(super::rig::CLUSTER, 512, 16);
        for (writer, lba) in &rig.unit.writes {
            let at = Station::of(writer.node, writer.inc);
            let own = *lba == layout.slot_lba(at)
                || (layout.checkpoint_lba(at, 0)..layout.ring_lba(at) + 2048).contains(lba);
            prop_assert!(own, "{writer} wrote block {lba}");
        }
    }
}
