//! The recorder against real files.

use std::collections::BTreeMap;

use wolfpack_core::Core;
use wolfpack_core::flight::{Frame, Reader};
use wolfpack_types::membership::QuorumType;
use wolfpack_types::register::Exclusion;
use wolfpack_types::times::Profile;
use wolfpack_types::{ClusterId, Guid, Incarnation, NodeId, NodeInc, Rules, Times, VoteTable};

use super::*;

const PATIENCE: Duration = Duration::from_secs(60);

fn config(inc: u64) -> CoreConfig {
    let node = NodeId::new(1).unwrap();
    let mut loaded = Loaded::default();
    loaded.record.incarnation = Incarnation(inc);
    CoreConfig {
        me: NodeInc::new(node, Incarnation(inc)),
        cluster: ClusterId(Guid(7)),
        nodes: BTreeMap::from([(node, "a".to_owned())]),
        networks: vec!["private".into()],
        client_networks: std::collections::BTreeSet::new(),
        votes: VoteTable { nodes: BTreeMap::from([(node, 1)]), witness: 0 },
        quorum: QuorumType::Majority,
        witness: None,
        exclusion: Exclusion::None,
        times: Times::of(Profile::Standard),
        loaded,
        seed: 1,
        rules: Rules::ALL,
        events: wolfpack_core::EventStart::default(),
    }
}

fn header(inc: u64) -> Header {
    Header {
        version: String::new(),
        commit: String::new(),
        wall_ms: 0,
        started: Instant::ZERO,
        config: config(inc),
    }
}

/// Runs a life of a core for `steps` wall clock ticks under a recorder.
fn live(recorder: &Recorder, inc: u64, steps: u64) {
    let mut now = Instant::ZERO;
    recorder.input(now, None);
    let mut core = Core::new(config(inc), now);
    let drain = |core: &mut Core| {
        while let Some(output) = core.poll_output() {
            recorder.output(&output);
        }
        recorder.finish();
    };
    drain(&mut core);
    for n in 0..steps {
        now += Duration::from_millis(50);
        let input = Input::WallClock { ms: n };
        recorder.input(now, Some(&input));
        core.handle(now, input);
        drain(&mut core);
    }
}

fn files(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(dir.join("flight"))
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn frames(dir: &Path, name: &str) -> Vec<Frame> {
    let bytes = fs::read(dir.join("flight").join(name)).unwrap();
    let mut reader = Reader::new(&bytes).unwrap();
    std::iter::from_fn(|| reader.next_frame().unwrap()).collect()
}

fn start(dir: &Path, inc: u64, space: u64) -> Recorder {
    Recorder::start(dir, space, &config(inc), Instant::ZERO, 5)
}

#[test]
fn a_recorded_life_runs_again_step_by_step() {
    let dir = tempfile::tempdir().unwrap();
    let recorder = start(dir.path(), 3, 64 << 20);
    live(&recorder, 3, 100);
    recorder.end("left", PATIENCE);
    assert_eq!(files(dir.path()), ["00000003-00000.flight"]);
    let mut frames = frames(dir.path(), "00000003-00000.flight").into_iter();
    let Some(Frame::Header(header)) = frames.next() else { panic!("no header") };
    assert_eq!((header.wall_ms, header.started), (5, Instant::ZERO));
    let mut core = Core::new(header.config, header.started);
    for (steps, frame) in frames.enumerate() {
        let step = match frame {
            Frame::Step(step) => step,
            Frame::End(why) => {
                assert_eq!(why, "left");
                assert_eq!(steps, 101);
                return;
            }
            Frame::Header(_) => panic!("a second header"),
        };
        if let Some(input) = step.input {
            core.handle(step.now, input);
        }
        let outputs: Vec<u32> =
            std::iter::from_fn(|| core.poll_output()).map(|o| flight::digest(&o)).collect();
        assert_eq!(outputs, step.outputs, "step {steps}");
    }
    panic!("no end");
}

#[test]
fn the_files_are_bounded_and_keep_the_beginning_and_the_latest() {
    let dir = tempfile::tempdir().unwrap();
    let space = 256 << 10;
    for inc in 1..4 {
        let recorder = start(dir.path(), inc, space);
        live(&recorder, inc, 6_000);
        recorder.end("left", PATIENCE);
    }
    let names = files(dir.path());
    let sizes =
        names.iter().map(|n| fs::metadata(dir.path().join("flight").join(n)).unwrap().len());
    let total: u64 = sizes.sum();
    // However late the thread came: beyond its limit a part has a step and an end at most.
    assert!(total < space + 4096, "{total} bytes in {names:?}");
    assert!(names.contains(&"00000003-00000.flight".to_owned()), "{names:?}");
    assert!(names.len() > 2 && !names.iter().any(|n| n.starts_with("00000001")), "{names:?}");
    let last = frames(dir.path(), names.last().unwrap());
    // A later part says by its first step that it is none of a birth.
    assert!(matches!(&last[1], Frame::Step(step) if step.input.is_some()));
    assert!(matches!(last.last(), Some(Frame::End(why)) if why == "left"));
}

#[test]
fn a_late_thread_makes_no_larger_files() {
    let dir = tempfile::tempdir().unwrap();
    let (queue, inbox) = bounded(QUEUE);
    let steps = Steps { queue: Some(queue), missing: 0, draft: None };
    let waiting = Arc::<AtomicUsize>::default();
    let over = bounded(0).1;
    let shared = Shared { steps: Mutex::new(steps), waiting: Arc::clone(&waiting), over };
    let recorder = Recorder(Some(Arc::new(shared)));
    // All of it waits when the thread has its first turn.
    live(&recorder, 1, 6_000);
    recorder.0.as_ref().unwrap().steps().queue = None;
    let space = 256 << 10;
    let mut tape = Tape::new(dir.path().join("flight"), space, header(1));
    tape.run(&inbox, &waiting).unwrap();
    let names = files(dir.path());
    assert!(names.len() > 2, "{names:?}");
    for name in names {
        let size = fs::metadata(dir.path().join("flight").join(&name)).unwrap().len();
        let limit = if name.ends_with("-00000.flight") { space / 4 } else { space / 8 };
        assert!(size < limit + 4096, "{name} has {size} bytes");
    }
}

#[test]
fn what_does_not_fit_is_counted_where_it_is_missing() {
    let dir = tempfile::tempdir().unwrap();
    let (queue, inbox) = bounded(2);
    let steps = Steps { queue: Some(queue), missing: 0, draft: None };
    let over = bounded(0).1;
    let waiting = Arc::<AtomicUsize>::default();
    let shared = Shared { steps: Mutex::new(steps), waiting: Arc::clone(&waiting), over };
    let recorder = Recorder(Some(Arc::new(shared)));
    // Nobody takes from the queue: two fit, four are missing.
    live(&recorder, 1, 5);
    let mut tape = Tape::new(dir.path().join("flight"), 1 << 20, header(1));
    let taken: Vec<Item> = inbox.try_iter().collect();
    assert_eq!(taken.len(), 2);
    live(&recorder, 1, 0);
    recorder.0.as_ref().unwrap().steps().queue = None;
    let (again, all) = bounded(8);
    for item in taken.into_iter().chain(inbox.try_iter()) {
        again.send(item).unwrap();
    }
    drop(again);
    tape.run(&all, &waiting).unwrap();
    assert_eq!(waiting.load(Ordering::Relaxed), 0);
    let first = frames(dir.path(), "00000001-00000.flight");
    assert!(
        matches!(first.last(), Some(Frame::End(why)) if why.starts_with("4 steps are missing")),
        "{first:?}"
    );
    assert_eq!(frames(dir.path(), "00000001-00001.flight").len(), 2);
}

#[test]
fn a_panic_is_on_the_tape_with_the_input_that_led_to_it() {
    let dir = tempfile::tempdir().unwrap();
    let recorder = start(dir.path(), 1, 8 << 20);
    live(&recorder, 1, 1);
    recorder.input(Instant(9), Some(&Input::Leave));
    recorder.end("panic: here", PATIENCE);
    let frames = frames(dir.path(), "00000001-00000.flight");
    let [.., Frame::Step(step), Frame::End(why)] = &frames[..] else { panic!("{frames:?}") };
    assert_eq!(step.input, Some(Input::Leave));
    assert_eq!(why, "panic: here");
    // And the end of an ended recorder is none.
    recorder.end("again", PATIENCE);
}

#[test]
fn a_directory_that_cannot_be_written_ends_the_recorder_alone() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("flight"), "a file").unwrap();
    let recorder = start(dir.path(), 1, 8 << 20);
    live(&recorder, 1, 10);
    recorder.end("left", PATIENCE);
    let off = Recorder::start(dir.path(), 0, &config(1), Instant::ZERO, 0);
    live(&off, 1, 10);
    off.end("left", PATIENCE);
}
