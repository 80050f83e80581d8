//! Replication among machines on a made-up network.

use proptest::prelude::*;
use wolfpack_types::event::{Event, EventKind, Severity};

use super::*;

fn n(node: u8) -> NodeId {
    NodeId::new(node).unwrap()
}

fn life(node: u8, inc: u64) -> NodeInc {
    NodeInc::new(n(node), Incarnation(inc))
}

fn event(node: u8, number: u64) -> StampedEvent {
    let event = Event {
        kind: EventKind::QuorumLost,
        severity: Severity::Info,
        text: format!("event {number}"),
    };
    StampedEvent::plain(EventId::new(n(node), number), format!("n{node}"), event)
}

fn machine(node: u8, inc: u64, recent: &[StampedEvent]) -> Replicator {
    Replicator::new(life(node, inc), (1..=3).map(n), recent, Instant::ZERO)
}

fn outputs(machine: &mut Replicator) -> Vec<ReplicationOutput> {
    std::iter::from_fn(|| machine.poll_output()).collect()
}

fn seconds(s: u64) -> Instant {
    Instant::ZERO + Duration::from_secs(s)
}

/// The batches among the outputs, with whom they go to.
fn batches(outputs: Vec<ReplicationOutput>) -> Vec<(NodeId, EventBatch)> {
    let batch = |o| match o {
        ReplicationOutput::Send { to, message: PeerMessage::EventBatch(batch) } => {
            Some((to, *batch))
        }
        _ => None,
    };
    outputs.into_iter().filter_map(batch).collect()
}

#[test]
fn a_batch_goes_when_it_is_old_or_full_and_one_at_a_time() {
    let mut a = machine(1, 1, &[]);
    a.logged(seconds(0), &event(1, 1));
    a.tick(seconds(30));
    assert_eq!((outputs(&mut a).len(), a.next_deadline()), (0, None), "nobody is there");
    a.view(seconds(30), n(1), [life(1, 1), life(2, 1), life(3, 1)]);
    a.received(seconds(30), life(2, 1), EventBatch { call: Some(1), ..EventBatch::default() });
    a.tick(seconds(30));
    let sent = batches(outputs(&mut a));
    assert_eq!(
        sent.iter().map(|(to, b)| (to.get(), b.events.len())).collect::<Vec<_>>(),
        [(2, 1), (3, 1)]
    );

    a.logged(seconds(40), &event(1, 2));
    a.view(seconds(40), n(1), [life(1, 1), life(2, 1)]);
    assert_eq!(a.next_deadline(), Some(seconds(60)), "who goes is no reason to hurry");
    a.tick(seconds(59));
    assert!(outputs(&mut a).is_empty(), "neither old nor full");
    a.tick(seconds(60));
    assert_eq!(batches(outputs(&mut a))[0].1.events, [event(1, 2)]);

    a.logged(seconds(60), &event(1, 3));
    a.view(seconds(61), n(1), [life(1, 1), life(2, 1), life(3, 2)]);
    assert_eq!(a.next_deadline(), Some(seconds(60) + BATCH_PAUSE), "who comes wants it now");
    a.tick(seconds(61));
    assert_eq!(batches(outputs(&mut a))[0].1.events, [event(1, 3)]);
    a.tick(seconds(61));
    a.view(seconds(62), n(1), [life(1, 1), life(2, 1)]);

    for number in 4..4 + 2 * BATCH_EVENTS_MAX as u64 + 10 {
        a.logged(seconds(62), &event(1, number));
    }
    a.tick(seconds(62));
    let first = batches(outputs(&mut a));
    a.tick(seconds(62));
    assert!(outputs(&mut a).is_empty(), "a backlog must leave room for others");
    let second_at = a.next_deadline().unwrap();
    assert_eq!(second_at, seconds(62) + BATCH_PAUSE);
    a.tick(second_at);
    let second = batches(outputs(&mut a));
    let (first, second) = (&first[0].1.events, &second[0].1.events);
    assert!(first.len() <= BATCH_EVENTS_MAX && second.len() <= BATCH_EVENTS_MAX);
    assert_eq!(first[0].number, 4);
    assert_eq!(second[0].number, 4 + first.len() as u64);
    // The rest is neither full nor old: it waits for its twenty seconds.
    assert_eq!(a.next_deadline(), Some(second_at + BATCH_AGE));
}

#[test]
fn a_batch_has_no_more_bytes_than_one_message_should() {
    let mut a = machine(1, 1, &[]);
    a.view(seconds(0), n(1), [life(1, 1), life(2, 1)]);
    let long = |number| {
        let mut e = event(1, number);
        e.event.text = "x".repeat(8000);
        e
    };
    for number in 1..=20 {
        a.logged(seconds(0), &long(number));
    }
    a.tick(seconds(0));
    let sent = batches(outputs(&mut a));
    let bytes = wolfpack_types::codec::encode(&sent[0].1).len();
    assert!(bytes > 8000 && bytes < BATCH_BYTES_MAX + 9000, "{bytes}");
}

#[test]
fn who_comes_asks_one_after_the_other_and_gets_what_it_missed() {
    let mut leader = machine(2, 1, &[]);
    leader.view(seconds(0), n(2), [life(1, 2), life(2, 1), life(3, 1)]);
    outputs(&mut leader);
    for number in 1..=300 {
        leader.logged(seconds(0), &event(2, number));
    }
    let batch = EventBatch { events: vec![event(3, 5), event(3, 6)], ..EventBatch::default() };
    leader.received(seconds(0), life(3, 1), batch);
    outputs(&mut leader);

    let mut a = machine(1, 2, &[event(2, 10), event(3, 5), event(1, 9)]);
    a.view(seconds(1), n(2), [life(1, 2), life(2, 1), life(3, 1)]);
    let mut got = Vec::new();
    let mut rounds = 0;
    while let Some(ReplicationOutput::Send { to, message }) = a.poll_output() {
        let PeerMessage::EventFetch { call, after } = message else { panic!("{message:?}") };
        assert_eq!(to, n(2), "the leader is asked");
        rounds += 1;
        leader.asked(life(1, 2), call, &after);
        let (_, batch) = batches(outputs(&mut leader)).remove(0);
        a.received(seconds(1), life(2, 1), batch);
        if let Some(ReplicationOutput::Log(events)) = a.poll_output() {
            got.extend(events.iter().map(|e| e.id));
        }
    }
    let wanted: Vec<EventId> =
        (11..=300).map(|i| EventId::new(n(2), i)).chain([EventId::new(n(3), 6)]).collect();
    assert_eq!((got, rounds), (wanted, 2));
    assert_eq!(a.fetches.next_deadline(), None, "the fetch is over");
    // A second view is no reason to ask again.
    a.view(seconds(2), n(3), [life(1, 2), life(3, 1)]);
    assert!(outputs(&mut a).iter().all(|o| !matches!(
        o,
        ReplicationOutput::Send { message: PeerMessage::EventFetch { .. }, .. }
    )));
}

#[test]
fn who_does_not_answer_or_dies_is_replaced_by_another() {
    let fetch = |a: &mut Replicator| match a.poll_output() {
        Some(ReplicationOutput::Send { to, message: PeerMessage::EventFetch { call, .. } }) => {
            Some((to.get(), call))
        }
        None => None,
        other => panic!("{other:?}"),
    };
    let mut a = machine(1, 2, &[]);
    a.view(seconds(0), n(3), [life(1, 2), life(2, 1), life(3, 1)]);
    let (first, late) = fetch(&mut a).unwrap();
    a.tick(seconds(5));
    let (second, _) = fetch(&mut a).unwrap();
    assert_eq!((first, second), (3, 2));
    // The first one answers after all: nobody waits for it any more.
    let batch = EventBatch { call: Some(late), events: vec![event(3, 1)], more: true };
    a.received(seconds(6), life(3, 1), batch);
    assert_eq!(fetch(&mut a), None);
    a.ended(seconds(6), life(2, 1));
    assert_eq!((fetch(&mut a), a.next_deadline()), (None, None), "nobody is left to ask");
}

#[test]
fn strangers_are_not_answered_and_nonsense_is_not_logged() {
    let mut a = machine(1, 1, &[]);
    a.view(seconds(0), n(1), [life(1, 1), life(2, 4)]);
    outputs(&mut a);
    a.logged(seconds(0), &event(1, 1));
    a.asked(life(2, 3), 1, &BTreeMap::new());
    a.asked(life(3, 1), 1, &BTreeMap::new());
    assert!(outputs(&mut a).is_empty());
    a.asked(life(2, 4), 1, &BTreeMap::new());
    assert_eq!(batches(outputs(&mut a)).len(), 1);

    let mut huge = event(2, 2);
    huge.event.text = "x".repeat(TEXT_MAX + 1);
    let mut two_faced = event(2, 3);
    two_faced.number = 4;
    let bad = vec![event(9, 1), event(2, 0), huge, two_faced];
    a.received(seconds(0), life(2, 4), EventBatch { events: bad, ..EventBatch::default() });
    assert!(outputs(&mut a).is_empty());
}

#[test]
fn what_nobody_had_when_it_fell_out_is_counted_and_memory_is_bounded() {
    let mut a = machine(1, 1, &[]);
    let count = KEPT_MAX as u64 + 100;
    for number in 1..=count {
        a.logged(seconds(0), &event(1, number));
    }
    assert_eq!((a.kept.len(), a.order.len()), (KEPT_MAX, KEPT_MAX));
    a.view(seconds(0), n(1), [life(1, 1), life(2, 1)]);
    a.tick(seconds(0));
    let out = outputs(&mut a);
    assert!(out.contains(&ReplicationOutput::NotSent { count: 100 }));
    assert_eq!(batches(out)[0].1.events[0].number, 101);
}

#[test]
fn a_life_that_lost_its_log_learns_which_numbers_are_taken() {
    let mut b = machine(2, 1, &[]);
    b.view(seconds(0), n(2), [life(1, 1), life(2, 1)]);
    let known = EventBatch { events: vec![event(1, 1_000_007)], ..EventBatch::default() };
    b.received(seconds(0), life(1, 1), known);
    outputs(&mut b);
    b.asked(life(1, 1), 1, &BTreeMap::new());
    let (_, mut batch) = batches(outputs(&mut b)).remove(0);
    let mut a = machine(1, 1, &[]);
    a.view(seconds(0), n(2), [life(1, 1), life(2, 1)]);
    outputs(&mut a);
    batch.call = Some(1);
    a.received(seconds(0), life(2, 1), batch);
    assert_eq!(outputs(&mut a), [ReplicationOutput::NumbersTaken { to: 1_000_007 }]);
}

/// What happens next in a small cluster of two.
#[derive(Clone, Debug)]
enum Step {
    Log,
    Pass(u64),
    /// Node 2 starts anew with what its log has kept (or without).
    Restart {
        kept: bool,
    },
    /// The oldest message on the way to this node arrives, or is lost.
    Deliver(u8),
    Lose(u8),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => Just(Step::Log),
        3 => (1u64..30).prop_map(Step::Pass),
        1 => any::<bool>().prop_map(|kept| Step::Restart { kept }),
        6 => (1u8..=2).prop_map(Step::Deliver),
        1 => (1u8..=2).prop_map(Step::Lose),
    ]
}

proptest! {
    /// Whatever is lost and in whatever order things happen, nothing is logged twice in a life
    /// that kept its log, nothing is made up, and of what came nothing is out of bounds.
    #[test]
    fn nothing_is_logged_twice(steps in prop::collection::vec(step(), 1..200)) {
        let mut now = seconds(0);
        let mut inc = 1;
        let mut machines = [machine(1, 1, &[]), machine(2, 1, &[])];
        let mut wire: [VecDeque<(NodeInc, PeerMessage)>; 2] = Default::default();
        let mut log: Vec<StampedEvent> = Vec::new();
        let mut last = 0;
        for m in &mut machines {
            m.view(now, n(1), [life(1, 1), life(2, inc)]);
        }
        for step in steps {
            match step {
                Step::Log => {
                    last += 1;
                    machines[0].logged(now, &event(1, last));
                }
                Step::Pass(s) => now += Duration::from_secs(s),
                Step::Restart { kept } => {
                    inc += 1;
                    if !kept {
                        log.clear();
                    }
                    wire = Default::default();
                    machines[1] = machine(2, inc, &log);
                    for m in &mut machines {
                        m.view(now, n(1), [life(1, 1), life(2, inc)]);
                    }
                }
                Step::Lose(to) => drop(wire[usize::from(to) - 1].pop_front()),
                Step::Deliver(to) => {
                    let place = usize::from(to) - 1;
                    if let Some((from, message)) = wire[place].pop_front() {
                        match message {
                            PeerMessage::EventBatch(b) => machines[place].received(now, from, *b),
                            PeerMessage::EventFetch { call, after } => {
                                machines[place].asked(from, call, &after);
                            }
                            other => panic!("{other:?}"),
                        }
                    }
                }
            }
            for (i, m) in machines.iter_mut().enumerate() {
                m.tick(now);
                let me = m.me;
                while let Some(output) = m.poll_output() {
                    match output {
                        ReplicationOutput::Send { to, message } => {
                            wire[to.index()].push_back((me, message));
                        }
                        ReplicationOutput::Log(events) => {
                            for e in events {
                                prop_assert_eq!((i, e.id.node), (1, n(1)));
                                prop_assert!(e.number <= last && !log.contains(&e));
                                log.push(e);
                            }
                        }
                        ReplicationOutput::NotSent { .. }
                        | ReplicationOutput::NumbersTaken { .. } => prop_assert!(false),
                    }
                }
            }
        }
        // Nothing is lost from here on: in the end everything is there.
        inc += 1;
        wire = Default::default();
        machines[1] = machine(2, inc, &log);
        for m in &mut machines {
            m.view(now, n(1), [life(1, 1), life(2, inc)]);
        }
        for _ in 0..200 {
            now += Duration::from_secs(1);
            for (i, m) in machines.iter_mut().enumerate() {
                while let Some((from, message)) = wire[i].pop_front() {
                    match message {
                        PeerMessage::EventBatch(b) => m.received(now, from, *b),
                        PeerMessage::EventFetch { call, after } => m.asked(from, call, &after),
                        _ => {}
                    }
                }
                m.tick(now);
            }
            for m in &mut machines {
                let me = m.me;
                for output in outputs(m) {
                    match output {
                        ReplicationOutput::Send { to, message } => {
                            wire[to.index()].push_back((me, message));
                        }
                        ReplicationOutput::Log(events) => log.extend(events),
                        _ => {}
                    }
                }
            }
        }
        let mut ids: Vec<u64> = log.iter().map(|e| e.number).collect();
        ids.sort_unstable();
        let before = ids.len();
        ids.dedup();
        prop_assert_eq!(ids.len(), before, "twice");
        // What a kept log began with and a lost batch lacked in the middle is not asked for again.
        prop_assert_eq!(ids.last().copied().unwrap_or(0), last);
    }
}
