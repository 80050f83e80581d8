//! The event log on real files.

use wolfpack_types::event::{Event, EventKind};

use super::*;

fn node(n: u8) -> NodeId {
    NodeId::new(n).unwrap()
}

fn event(n: u8, number: u64) -> StampedEvent {
    let kind = EventKind::UpdateApplied { seq: number, what: "x".into() };
    let event = Event { kind, severity: Severity::Info, text: format!("event {number}") };
    StampedEvent::plain(EventId::new(node(n), number), format!("node{n}"), event)
}

fn ids(events: &[Arc<StampedEvent>]) -> Vec<String> {
    events.iter().map(|e| e.id.to_string()).collect()
}

fn all_after(journal: &Journal, number: u64, all_nodes: bool) -> Vec<String> {
    let (mut cursor, _) = journal.after(number, all_nodes).unwrap();
    ids(&journal.read(&mut cursor, usize::MAX).events)
}

fn flush(journal: &Journal) {
    journal.flush(Duration::from_secs(60));
}

#[test]
fn numbers_go_on_over_lives_and_torn_lines_are_left_out() {
    let dir = tempfile::tempdir().unwrap();
    let journal = Journal::open(node(1), dir.path());
    assert_eq!(journal.start().next, 1);
    for n in 1..=3 {
        journal.record(event(1, n));
    }
    flush(&journal);
    let path = dir.path().join(OWN_FILE);
    let mut bytes = fs::read(&path).unwrap();
    bytes.extend_from_slice(b"{\"id\":\"1:4\",\"wall");
    fs::write(&path, bytes).unwrap();

    let journal = Journal::open(node(1), dir.path());
    assert_eq!((journal.start().next, journal.start().recent.len()), (4, 3));
    journal.record(event(1, 4));
    assert_eq!(all_after(&journal, 0, false), ["1:1", "1:2", "1:3", "1:4"]);
    assert_eq!(all_after(&journal, 2, false), ["1:3", "1:4"]);
    assert!(all_after(&journal, 4, false).is_empty());
    assert_eq!(journal.after(5, false), Err(NotYet { newest: 4 }));
    flush(&journal);
    let journal = Journal::open(node(1), dir.path());
    assert_eq!(all_after(&journal, 0, false), ["1:1", "1:2", "1:3", "1:4"]);
    assert_eq!(*journal.everything()[3], event(1, 4));
}

#[test]
fn events_of_others_are_kept_once_apart_and_in_the_order_in_which_they_came() {
    let dir = tempfile::tempdir().unwrap();
    let journal = Journal::open(node(1), dir.path());
    journal.record(event(1, 1));
    journal.record_others(vec![event(2, 7), event(2, 8), event(2, 7)]);
    journal.record(event(1, 2));
    // Not believed: nobody else speaks for this node.
    journal.record_others(vec![event(2, 8), event(1, 9), event(3, 1)]);
    assert_eq!(all_after(&journal, 0, true), ["1:1", "2:7", "2:8", "1:2", "3:1"]);
    assert_eq!(all_after(&journal, 1, true), ["2:7", "2:8", "1:2", "3:1"]);
    assert_eq!(all_after(&journal, 2, true), ["3:1"]);
    assert_eq!(all_after(&journal, 0, false), ["1:1", "1:2"]);
    flush(&journal);
    let journal = Journal::open(node(1), dir.path());
    assert_eq!(journal.start().next, 3);
    journal.record_others(vec![event(2, 8), event(2, 9)]);
    let mut kept = all_after(&journal, 0, true);
    kept.sort();
    assert_eq!(kept, ["1:1", "1:2", "2:7", "2:8", "2:9", "3:1"]);
}

#[test]
fn files_and_memory_are_bounded_and_a_slow_reader_learns_what_it_missed() {
    let dir = tempfile::tempdir().unwrap();
    let journal = Journal::open(node(1), dir.path());
    let long = "y".repeat(2000);
    let count = RING as u64 + 500;
    let (mut slow, _) = journal.after(0, true).unwrap();
    for n in 1..=count {
        let mut e = event(1, n);
        e.event.text.clone_from(&long);
        journal.record(e);
        if n == 100 {
            assert_eq!(journal.read(&mut slow, 60).events.len(), 60);
        }
        if n % 1000 == 0 {
            flush(&journal);
        }
    }
    flush(&journal);
    let read = journal.read(&mut slow, usize::MAX);
    // 60 were read, 500 are gone: exactly what lies between is missing.
    assert_eq!((read.dropped, read.events.len(), read.events[0].number), (440, RING, 501));
    assert_eq!(journal.read(&mut slow, usize::MAX).events.len(), 0);
    assert!(journal.after(30, false).unwrap().1, "what follows number 30 is gone");
    assert!(!journal.after(0, false).unwrap().1, "who asks for all gets what there is");
    for name in [OWN_FILE.to_owned(), old_name(OWN_FILE)] {
        let bytes = fs::metadata(dir.path().join(&name)).unwrap().len();
        assert!(bytes > 0 && bytes <= FILE_BYTES_MAX + 4096, "{name} has {bytes} bytes");
    }
    // Both files together still give a run without a gap that ends at the last event.
    let kept: Vec<u64> =
        Journal::open(node(1), dir.path()).everything().iter().map(|e| e.number).collect();
    assert_eq!(kept.last(), Some(&count));
    assert!(kept.windows(2).all(|w| w[1] == w[0] + 1));
}

#[test]
fn a_full_disk_costs_the_file_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink("/dev/full", dir.path().join(OWN_FILE)).unwrap();
    let journal = Journal::open(node(1), dir.path());
    for n in 1..=3 {
        journal.record(event(1, n));
    }
    flush(&journal);
    assert_eq!(all_after(&journal, 0, false), ["1:1", "1:2", "1:3"]);
}

#[test]
fn a_line_that_could_not_be_written_does_not_spoil_the_next() {
    let dir = tempfile::tempdir().unwrap();
    let mut file = RotatingFile::open(dir.path(), OWN_FILE).unwrap();
    let line = |n| {
        let mut line = serde_json::to_vec(&event(1, n)).unwrap();
        line.push(b'\n');
        line
    };
    file.write_all(&line(1)).unwrap();
    let good =
        std::mem::replace(&mut file.file, File::options().append(true).open("/dev/full").unwrap());
    file.write_all(&line(2)).unwrap();
    assert_eq!(file.failed, 1);
    file.file = good;
    // Half of it had been written before the disk was full.
    file.file.write_all(&line(2)[..20]).unwrap();
    file.write_all(&line(3)).unwrap();
    assert_eq!(file.failed, 0);
    let numbers: Vec<u64> = read_back(dir.path(), OWN_FILE).iter().map(|e| e.number).collect();
    assert_eq!(numbers, [1, 3]);
}

#[test]
fn a_reader_is_woken() {
    let dir = tempfile::tempdir().unwrap();
    let journal = Journal::open(node(1), dir.path());
    let other = journal.clone();
    let reader = std::thread::spawn(move || {
        let (mut cursor, _) = other.after(0, false).unwrap();
        while other.read(&mut cursor, 1).events.is_empty() {
            other.wait(cursor, Duration::from_secs(60));
        }
    });
    journal.record(event(1, 1));
    reader.join().unwrap();
}

mod readers {
    use proptest::prelude::*;

    use super::*;

    /// What happens next to a log with one reader.
    #[derive(Clone, Debug)]
    enum Step {
        Own(u16),
        Other(u16),
        Read(usize),
        /// The reader comes back and goes on after the last own event that it has.
        Return,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (1u16..3000).prop_map(Step::Own),
            2 => (1u16..3000).prop_map(Step::Other),
            4 => (1usize..4000).prop_map(Step::Read),
            1 => Just(Step::Return),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        /// Whoever reads, however slowly: every event once and in order, and what is not read is
        /// counted exactly.
        #[test]
        fn no_gap_is_silent_and_nothing_comes_twice(
            steps in prop::collection::vec(step(), 1..30),
        ) {
            let dir = tempfile::tempdir().unwrap();
            let journal = Journal::open(node(1), dir.path());
            let (mut cursor, _) = journal.after(0, true).unwrap();
            let (mut own, mut others) = (0, 0);
            let (mut seen_own, mut seen_others, mut counted) = (0, 0, 0);
            for step in steps.into_iter().chain([Step::Read(usize::MAX)]) {
                match step {
                    Step::Own(count) => for _ in 0..count {
                        own += 1;
                        journal.record(event(1, own));
                    },
                    Step::Other(count) => for _ in 0..count {
                        others += 1;
                        journal.record_others(vec![event(2, others)]);
                    },
                    Step::Return if seen_own > 0 => {
                        let (back, gone) = journal.after(seen_own, false).unwrap();
                        let mut alone = back;
                        let read = journal.read(&mut alone, 1);
                        let next = read.events.first().map(|e| e.number);
                        // Either it goes on without a gap, or it is said that there is one.
                        prop_assert_eq!(gone, next.is_some_and(|n| n > seen_own + 1));
                    }
                    Step::Return => {}
                    Step::Read(max) => {
                        let read = journal.read(&mut cursor, max);
                        counted += read.dropped;
                        prop_assert!(read.events.len() <= max);
                        for e in read.events {
                            let seen =
                                if e.id.node == node(1) { &mut seen_own } else { &mut seen_others };
                            prop_assert!(e.number > *seen, "{} again", e.id);
                            counted += 1;
                            *seen = e.number;
                        }
                    }
                }
            }
            prop_assert_eq!(counted, own + others, "each event was read, or counted as gone");
            prop_assert_eq!((seen_own, seen_others), (own, others));
        }
    }
}
