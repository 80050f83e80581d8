//! The section between real processes: leases seen at once, crash records that survive SIGKILL,
//! torn entries that blame nobody.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::Ordering;
use std::time::Duration;

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use proptest::prelude::*;
use wolfpack_types::monitor::{Blame, EntryPoint};
use wolfpack_types::{Guid, ResourceId};

use super::calls::{SEQUENCE, slot_at};
use super::*;

const ENTRY_16: usize = 16;

fn me(inc: u64) -> NodeInc {
    NodeInc::new(NodeId::new(1).unwrap(), Incarnation(inc))
}

fn resource(n: u128) -> ResourceId {
    ResourceId(Guid(n << 64 | 7))
}

#[test]
fn the_lease_goes_from_writer_to_readers() {
    let section = Section::create(me(3)).unwrap();
    let writer = LeaseWriter::open(section.as_fd(), me(3)).unwrap();
    let reader = LeaseReader::open(section.as_fd()).unwrap();
    assert_eq!(reader.life(), me(3));
    assert_eq!(reader.remaining(Instant(5)), None);
    writer.publish(Instant(10));
    assert_eq!(section.lease_end(), Instant(10));
    assert_eq!(reader.remaining(Instant(4)), Some(Duration::from_nanos(6)));
    assert_eq!(reader.remaining(Instant(10)), None);
    section.beat(Instant(9));
    assert_eq!(writer.guard_beat(), Instant(9));
    section.mark_ended(Instant(9));
    writer.publish(Instant(1000));
    assert!(writer.ended() && reader.ended());
    assert_eq!(reader.remaining(Instant(11)), None, "an ended life has no authority");
}

#[test]
fn another_life_and_foreign_descriptors_are_refused() {
    let section = Section::create(me(3)).unwrap();
    let err = LeaseWriter::open(section.as_fd(), me(4)).unwrap_err();
    assert!(matches!(err, SectionError::OtherLife { found: 3, .. }), "{err}");
    for number in [0, MONITORS_MAX + 1, u32::MAX] {
        assert!(CallRecorder::open(section.as_fd(), number).is_err());
    }
    let null = File::open("/dev/null").unwrap();
    assert!(LeaseReader::open(null.as_fd()).is_err());
    let unsealed = memfd_create(c"x", MFdFlags::MFD_CLOEXEC).unwrap();
    ftruncate(&unsealed, i64::try_from(SECTION_BYTES).unwrap()).unwrap();
    assert!(LeaseReader::open(unsealed.as_fd()).unwrap_err().to_string().contains("sealed"));
    let blank = memfd_create(c"x", MFdFlags::MFD_ALLOW_SEALING).unwrap();
    ftruncate(&blank, i64::try_from(SECTION_BYTES).unwrap()).unwrap();
    fcntl(&blank, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_SHRINK)).unwrap();
    assert!(LeaseReader::open(blank.as_fd()).unwrap_err().to_string().contains("magic"));
}

#[test]
fn calls_are_seen_while_they_run_and_not_after() {
    let section = Section::create(me(1)).unwrap();
    let recorder = CallRecorder::open(section.as_fd(), 2).unwrap();
    let reader = CallReader::open(section.as_fd(), 2).unwrap();
    assert_eq!(reader.calls_in_progress(), CallReport::default());
    let online = recorder.begin(EntryPoint::Online, resource(1), Instant(10));
    let newer = recorder.begin(EntryPoint::IsAlive, resource(2), Instant(20));
    let report = reader.calls_in_progress();
    let seen: Vec<_> = report.calls.iter().map(|c| (c.resource, c.entry_point)).collect();
    assert_eq!(seen, [(resource(1), EntryPoint::Online), (resource(2), EntryPoint::IsAlive)]);
    let newest = Blame { resource: resource(2), entry_point: EntryPoint::IsAlive };
    assert_eq!(report.blame(), Some(newest));
    recorder.crashed_thread().store(report.calls[0].thread, Ordering::SeqCst);
    assert_eq!(reader.calls_in_progress().blame().unwrap().resource, resource(1));
    drop(newer);
    drop(online);
    assert_eq!(reader.calls_in_progress().calls, []);
    // Other monitors' areas are others'.
    assert_eq!(CallReader::open(section.as_fd(), 3).unwrap().calls_in_progress().torn, 0);
    section.clear_area(2).unwrap();
    assert_eq!(reader.calls_in_progress(), CallReport::default());
}

#[test]
fn held_resources_are_counted_over_all_monitors() {
    let section = Section::create(me(1)).unwrap();
    let a = CallRecorder::open(section.as_fd(), 1).unwrap();
    let b = CallRecorder::open(section.as_fd(), MONITORS_MAX).unwrap();
    a.hold();
    b.hold();
    b.hold();
    assert_eq!(section.held(), 3);
    b.release();
    section.clear_area(1).unwrap();
    assert_eq!(section.held(), 1);
}

#[test]
fn a_torn_entry_is_counted_and_blames_nobody() {
    let section = Section::create(me(1)).unwrap();
    let recorder = CallRecorder::open(section.as_fd(), 1).unwrap();
    let reader = CallReader::open(section.as_fd(), 1).unwrap();
    let call = recorder.begin(EntryPoint::Online, resource(1), Instant(10));
    recorder.map.word(slot_at(0) + SEQUENCE).fetch_add(1, Ordering::SeqCst);
    let report = reader.calls_in_progress();
    assert_eq!((report.calls.len(), report.torn, report.blame()), (0, 1, None));
    recorder.map.word(slot_at(0) + SEQUENCE).fetch_add(1, Ordering::SeqCst);
    recorder.map.store(slot_at(0) + ENTRY_16, 99);
    assert_eq!(reader.calls_in_progress().torn, 1, "an unknown code is no call");
    drop(call);
}

#[test]
fn a_reader_beside_busy_writers_never_sees_a_mixture() {
    let section = Section::create(me(1)).unwrap();
    let recorder = CallRecorder::open(section.as_fd(), 1).unwrap();
    let reader = CallReader::open(section.as_fd(), 1).unwrap();
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        for n in 1..=2_u64 {
            let (recorder, stop) = (&recorder, &stop);
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let _call = recorder.begin(EntryPoint::IsAlive, resource(n.into()), Instant(n));
                }
            });
        }
        for _ in 0..20_000 {
            for call in reader.calls_in_progress().calls {
                assert_eq!(call.resource, resource(call.since.0.into()));
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
}

proptest! {
    #[test]
    fn any_contents_are_read_without_panic(words in proptest::collection::vec(any::<u64>(), 1..400)) {
        let section = Section::create(me(1)).unwrap();
        let recorder = CallRecorder::open(section.as_fd(), 1).unwrap();
        for (i, word) in words.iter().enumerate() {
            recorder.map.store(i * 8, *word);
        }
        let report = CallReader::open(section.as_fd(), 1).unwrap().calls_in_progress();
        let _ = report.blame();
        prop_assert!(report.calls.len() + report.torn <= CALL_SLOTS);
    }
}

/// Runs [`child`] in a process of its own with the section inherited.
fn spawn_child(section: &Section, what: &str) -> (Child, BufReader<std::process::ChildStdout>) {
    let inherited = section.fd.try_clone().unwrap();
    fcntl(&inherited, FcntlArg::F_SETFD(FdFlag::empty())).unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "section::tests::child", "--ignored", "--nocapture"])
        .env("SECTION_FD", format!("/proc/self/fd/{}", inherited.as_raw_fd()))
        .env("SECTION_DO", what)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    while !line.contains("ready") {
        line.clear();
        assert_ne!(out.read_line(&mut line).unwrap(), 0, "the child ended early");
    }
    (child, out)
}

#[test]
#[ignore = "not a test: the body of the process that the others start and kill"]
fn child() {
    let Some(path) = std::env::var_os("SECTION_FD") else { return };
    let file = File::options().read(true).write(true).open(path).unwrap();
    if std::env::var("SECTION_DO").as_deref() == Ok("lease") {
        let writer = LeaseWriter::open(file.as_fd(), me(1)).unwrap();
        writer.publish(Instant(77));
        println!("ready");
    } else {
        let recorder = CallRecorder::open(file.as_fd(), 1).unwrap();
        recorder.hold();
        drop(recorder.begin(EntryPoint::Open, resource(5), Instant(1)));
        let _call = recorder.begin(EntryPoint::Online, resource(6), Instant(2));
        println!("ready");
        io::stdout().flush().unwrap();
        std::thread::sleep(Duration::from_secs(600));
    }
}

#[test]
fn a_killed_process_leaves_the_call_it_was_in() {
    let section = Section::create(me(1)).unwrap();
    let (mut child, _out) = spawn_child(&section, "call");
    child.kill().unwrap();
    child.wait().unwrap();
    let report = CallReader::open(section.as_fd(), 1).unwrap().calls_in_progress();
    let want = Blame { resource: resource(6), entry_point: EntryPoint::Online };
    assert_eq!(report.blame(), Some(want));
    assert_eq!((report.calls.len(), report.torn), (1, 0));
    assert_eq!(section.held(), 1);
}

#[test]
fn a_lease_of_another_process_is_seen() {
    let section = Section::create(me(1)).unwrap();
    let (mut child, _out) = spawn_child(&section, "lease");
    child.wait().unwrap();
    assert_eq!(section.lease_end(), Instant(77));
}
