//! Crashes at every byte of every write: what is read back is the state before the step or the
//! state after it, never anything else.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use wolfpack_types::store::{CopyStep, Loaded, Persist, Record, Snapshot};
use wolfpack_types::update::{LogEntry, Update};
use wolfpack_types::{Ballot, Force, GroupId, Guid, NodeId, Seq, View, VoteTable};

use crate::files::{DirFiles, Files};
use crate::{Store, StoreError, StoreEvent, StoreThread};

/// How the fatal write ends.
#[derive(Clone, Copy, Debug)]
enum Tear {
    /// Only the first bytes arrive.
    Head(usize),
    /// Only what follows the first bytes arrives: sectors in another order.
    Tail(usize),
}

/// Real files until operation number `fatal`, then a crash within it.
#[derive(Debug)]
struct Torn {
    inner: DirFiles,
    done: Arc<AtomicUsize>,
    fatal: usize,
    tear: Tear,
    crashed: bool,
}

impl Torn {
    fn crash(&mut self) -> StoreError {
        self.crashed = true;
        StoreError::Io {
            act: "survive",
            path: self.inner.path("a crash"),
            source: std::io::Error::other("crash"),
        }
    }

    fn is_fatal(&mut self) -> Result<bool, StoreError> {
        if self.crashed {
            return Err(self.crash());
        }
        Ok(self.done.fetch_add(1, Ordering::SeqCst) == self.fatal)
    }
}

impl Files for Torn {
    fn path(&self, name: &str) -> PathBuf {
        self.inner.path(name)
    }
    fn names(&self) -> Result<Vec<String>, StoreError> {
        self.inner.names()
    }
    fn read(&self, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
        self.inner.read(name)
    }
    fn replace(&mut self, name: &str, bytes: &[u8]) -> Result<(), StoreError> {
        if !self.is_fatal()? {
            return self.inner.replace(name, bytes);
        }
        match self.tear {
            // Renamed, but the caller never heard of it.
            Tear::Tail(_) => self.inner.replace(name, bytes)?,
            Tear::Head(n) => {
                let n = n.min(bytes.len());
                self.inner.replace(&format!("{name}.new"), &bytes[..n])?;
            }
        }
        Err(self.crash())
    }
    fn write_at(&mut self, name: &str, offset: u64, bytes: &[u8]) -> Result<(), StoreError> {
        if !self.is_fatal()? {
            return self.inner.write_at(name, offset, bytes);
        }
        match self.tear {
            Tear::Head(n) => self.inner.write_at(name, offset, &bytes[..n.min(bytes.len())])?,
            Tear::Tail(n) => {
                let n = n.min(bytes.len());
                self.inner.write_at(name, offset + n as u64, &bytes[n..])?;
            }
        }
        Err(self.crash())
    }
    fn remove(&mut self, name: &str) -> Result<(), StoreError> {
        if self.is_fatal()? { Err(self.crash()) } else { self.inner.remove(name) }
    }
    fn rename(&mut self, from: &str, to: &str) -> Result<(), StoreError> {
        if self.is_fatal()? { Err(self.crash()) } else { self.inner.rename(from, to) }
    }
}

fn node() -> NodeId {
    NodeId::new(1).unwrap()
}

fn ballot(counter: u64) -> Ballot {
    Ballot::new(Force::default(), counter, node())
}

fn entry(counter: u64, seq: u64) -> LogEntry {
    let update = Update::DeleteGroup(GroupId(Guid(u128::from(seq))));
    LogEntry {
        ballot: ballot(counter),
        seq: Seq(seq),
        wall_ms: seq,
        request: None,
        update,
        cause: None,
    }
}

fn entries(counter: u64, range: std::ops::RangeInclusive<u64>) -> Vec<LogEntry> {
    range.map(|s| entry(counter, s)).collect()
}

fn view(counter: u64) -> View {
    View {
        ballot: ballot(counter),
        members: Default::default(),
        former: Default::default(),
        witness_in: false,
        votes: VoteTable::default(),
        prev_votes: None,
        base_seq: Seq(0),
        witness: None,
        forces: Vec::new(),
    }
}

fn with_view(record: &Record, counter: u64) -> Record {
    Record {
        promised: ballot(counter),
        accepted: Some(view(counter)),
        max_ballot: ballot(counter),
        ..record.clone()
    }
}

fn apply(seq: u64) -> Persist {
    let rows = vec![(format!("row{seq}"), Some(vec![1; 40])), (format!("row{}", seq / 2), None)];
    Persist::Apply { seq: Seq(seq), ballot: ballot(1), rows }
}

fn snapshot(seq: u64) -> Snapshot {
    Snapshot { seq: Seq(seq), ballot: ballot(3), rows: vec![("only".into(), vec![7; 100])] }
}

fn open(dir: &Path) -> (Store, Loaded) {
    Store::open(dir).unwrap()
}

/// What a start finds, but for the incarnation, which grows.
fn state(loaded: &Loaded) -> (Record, Snapshot, Vec<LogEntry>) {
    let record = Record { incarnation: Default::default(), ..loaded.record.clone() };
    (record, loaded.database.clone(), loaded.log.clone())
}

/// A store with a history: checkpointed rows, a log beyond them, an accepted view.
fn prepare(dir: &Path) -> Record {
    let (mut store, loaded) = open(dir);
    assert!(loaded.new_store);
    let record = with_view(&loaded.record, 1);
    store
        .persist(vec![
            Persist::Accept {
                record: record.clone(),
                after: Seq(0),
                snapshot: None,
                entries: entries(1, 1..=3),
            },
            apply(1),
            apply(2),
        ])
        .unwrap();
    store.close().unwrap();
    let (mut store, _) = open(dir);
    store.persist(vec![Persist::Append { entries: entries(1, 4..=6) }]).unwrap();
    // As if by SIGKILL: no checkpoint.
    drop(store);
    record
}

fn copy(from: &Path, to: &Path) {
    for file in std::fs::read_dir(from).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), to.join(file.file_name())).unwrap();
    }
}

/// Opens the store with a crash at operation `fatal`, carries out the steps of `make`, and says
/// how many operations there were.
fn run_torn(dir: &Path, fatal: usize, tear: Tear, make: &dyn Fn(&Record) -> Vec<Persist>) -> usize {
    let done = Arc::new(AtomicUsize::new(0));
    let files =
        Torn { inner: DirFiles::new(dir), done: Arc::clone(&done), fatal, tear, crashed: false };
    if let Ok((mut store, loaded)) = Store::open_files(Box::new(files), None) {
        let result = store.persist(make(&loaded.record));
        if result.is_err() {
            let again = store.persist(Vec::new()).unwrap_err();
            assert!(matches!(again, StoreError::Stopped), "went on after {result:?}");
        }
    }
    done.load(Ordering::SeqCst)
}

/// Bytes at which whole stores are torn: around every border of the headers, and within the bodies.
/// Every single byte is the matter of the tests of each format.
const CUTS: [usize; 16] = [0, 1, 7, 8, 16, 23, 24, 25, 31, 32, 33, 50, 100, 300, 1000, 4095];

/// Tears `make` at every operation, at many bytes; every outcome must be the old or the new state,
/// and both must be met.
fn torture(make: &dyn Fn(&Record) -> Vec<Persist>) {
    let base = tempfile::tempdir().unwrap();
    prepare(base.path());
    let fresh = || {
        let dir = tempfile::tempdir().unwrap();
        copy(base.path(), dir.path());
        dir
    };
    let whole = fresh();
    let operations = run_torn(whole.path(), usize::MAX, Tear::Head(0), make);
    let new = state(&open(whole.path()).1);
    let old = state(&open(fresh().path()).1);
    assert_ne!(old, new, "the step changes nothing: the test could not fail");

    let (mut olds, mut news) = (0, 0);
    for fatal in 0..operations {
        for cut in CUTS {
            for tear in [Tear::Head(cut), Tear::Tail(cut)] {
                let dir = fresh();
                run_torn(dir.path(), fatal, tear, make);
                let (store, loaded) = Store::open(dir.path())
                    .unwrap_or_else(|e| panic!("operation {fatal}, {tear:?}: {}", e.in_full()));
                let found = state(&loaded);
                drop(store);
                if found == old {
                    olds += 1;
                } else {
                    assert_eq!(found, new, "operation {fatal}, {tear:?}");
                    news += 1;
                }
            }
        }
    }
    assert!(olds > 0 && news > 0, "{olds} old and {news} new states");
}

#[test]
fn a_record_is_whole_or_not_at_all() {
    torture(&|r| vec![Persist::Record(with_view(r, 2))]);
}

#[test]
fn an_append_is_whole_or_not_at_all() {
    torture(&|_| vec![Persist::Append { entries: entries(1, 7..=9) }]);
}

#[test]
fn an_accept_that_cuts_the_log_is_whole_or_not_at_all() {
    torture(&|r| {
        vec![Persist::Accept {
            record: with_view(r, 2),
            after: Seq(4),
            snapshot: None,
            entries: entries(2, 5..=8),
        }]
    });
}

#[test]
fn an_accept_with_a_snapshot_is_whole_or_not_at_all() {
    torture(&|r| {
        vec![Persist::Accept {
            record: with_view(r, 3),
            after: Seq(0),
            snapshot: Some(snapshot(50)),
            entries: entries(3, 51..=52),
        }]
    });
}

#[test]
fn a_copy_in_pieces_is_whole_or_not_at_all() {
    torture(&|_| {
        let rows = |n: u8| vec![(format!("copied{n}"), vec![n; 200])];
        vec![
            Persist::Copy(CopyStep::Begin),
            Persist::Copy(CopyStep::Rows { rows: rows(9) }),
            // Begun again: what came before is forgotten.
            Persist::Copy(CopyStep::Begin),
            Persist::Copy(CopyStep::Rows { rows: rows(1) }),
            Persist::Copy(CopyStep::Rows { rows: rows(2) }),
            Persist::Copy(CopyStep::End { ballot: ballot(3), seq: Seq(50) }),
        ]
    });
}

#[test]
fn after_a_copy_the_log_goes_on_from_it() {
    let dir = tempfile::tempdir().unwrap();
    let record = prepare(dir.path());
    let (mut store, _) = open(dir.path());
    let rows = vec![("copied".to_owned(), vec![1; 10])];
    let end = CopyStep::End { ballot: ballot(3), seq: Seq(50) };
    let steps = [CopyStep::Begin, CopyStep::Rows { rows: rows.clone() }, end];
    store.persist(steps.map(Persist::Copy).to_vec()).unwrap();
    store.persist(vec![Persist::Append { entries: entries(3, 51..=51) }]).unwrap();
    drop(store);
    let (mut store, loaded) = open(dir.path());
    assert_eq!(loaded.database, Snapshot { seq: Seq(50), ballot: ballot(3), rows });
    assert_eq!(loaded.log, entries(3, 51..=51));
    assert_eq!(loaded.record.accepted, record.accepted, "the record stays");
    // One that does not reach as far as the log could lose what is committed.
    let short = CopyStep::End { ballot: ballot(3), seq: Seq(50) };
    let steps = [CopyStep::Begin, short].map(Persist::Copy).to_vec();
    assert!(matches!(store.persist(steps), Err(StoreError::Misfit(_))));
}

#[test]
fn the_first_start_can_crash_anywhere() {
    for fatal in 0..8 {
        for tear in [Tear::Head(0), Tear::Head(33), Tear::Tail(0), Tear::Tail(40)] {
            let dir = tempfile::tempdir().unwrap();
            run_torn(dir.path(), fatal, tear, &|_| Vec::new());
            let (_, loaded) = open(dir.path());
            assert!(loaded.new_store, "operation {fatal}, {tear:?}");
        }
    }
}

#[test]
fn a_checkpoint_keeps_everything_and_shortens_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let (mut store, _) = open(dir.path());
    for seq in 1..=1100 {
        store
            .persist(vec![Persist::Append { entries: entries(1, seq..=seq) }, apply(seq)])
            .unwrap();
    }
    drop(store);
    let (_, loaded) = open(dir.path());
    assert_eq!(loaded.database.seq, Seq(1000), "one checkpoint by count");
    assert_eq!(loaded.log, entries(1, 1001..=1100));
    // apply(n) sets row n and deletes row n/2.
    let keys: Vec<_> = loaded.database.rows.iter().map(|(k, _)| k.as_str()).collect();
    assert_eq!(keys.len(), 500);
    assert!(keys.contains(&"row501") && keys.contains(&"row1000") && !keys.contains(&"row500"));
    let logs = std::fs::read_dir(dir.path()).unwrap();
    let logs =
        logs.filter(|f| f.as_ref().unwrap().file_name().to_string_lossy().starts_with("log-"));
    assert_eq!(logs.count(), 1, "old logs are removed");
}

#[test]
fn a_retired_store_is_put_aside_and_the_next_is_new() {
    let dir = tempfile::tempdir().unwrap();
    prepare(dir.path());
    let (mut store, loaded) = open(dir.path());
    store.persist(vec![Persist::Retire]).unwrap();
    drop(store);
    let (store, new) = open(dir.path());
    assert!(new.new_store && new.record.store != loaded.record.store);
    assert!(new.record.incarnation > loaded.record.incarnation);
    assert_eq!((new.database.seq, new.log.len()), (Seq(0), 0));
    assert!(dir.path().join("retired-database.redb").exists());
    assert!(dir.path().join("retired-record").exists());
    drop(store);
    // Once: the new store is not put aside again.
    assert_eq!(open(dir.path()).1.record.store, new.record.store);
}

#[test]
fn a_crash_while_a_store_is_put_aside_ends_in_the_old_retired_or_the_new_one() {
    for fatal in 0..12 {
        let dir = tempfile::tempdir().unwrap();
        prepare(dir.path());
        let (mut store, loaded) = open(dir.path());
        store.persist(vec![Persist::Retire]).unwrap();
        drop(store);
        run_torn(dir.path(), fatal, Tear::Head(40), &|_| Vec::new());
        let (_, new) = open(dir.path());
        assert!(new.new_store && new.record.store != loaded.record.store, "operation {fatal}");
        assert!(new.record.incarnation > loaded.record.incarnation);
    }
}

#[test]
fn every_start_raises_the_incarnation() {
    let dir = tempfile::tempdir().unwrap();
    let lives: Vec<_> = (0..3).map(|_| open(dir.path()).1.record.incarnation.0).collect();
    assert_eq!(lives, [lives[0], lives[0] + 1, lives[0] + 2]);
    // A lost store: the next one takes no number that the first has used.
    std::thread::sleep(std::time::Duration::from_secs(3));
    let next = tempfile::tempdir().unwrap();
    assert!(open(next.path()).1.record.incarnation.0 > lives[2]);
}

#[test]
fn a_new_store_is_new_until_it_has_accepted_a_view() {
    let dir = tempfile::tempdir().unwrap();
    let store_id = open(dir.path()).1.record.store;
    let (mut store, loaded) = open(dir.path());
    assert!(loaded.new_store);
    assert_eq!(loaded.record.store, store_id);
    store.persist(vec![Persist::Record(with_view(&loaded.record, 1))]).unwrap();
    drop(store);
    assert!(!open(dir.path()).1.new_store);
}

#[test]
fn a_second_service_is_told_who_runs() {
    let dir = tempfile::tempdir().unwrap();
    let _first = open(dir.path());
    let err = Store::open(dir.path()).unwrap_err().to_string();
    let pid = format!("another wolfpackd (pid {})", std::process::id());
    assert!(err.contains(&pid), "{err}");
}

fn refusal(dir: &Path) -> String {
    let err = Store::open(dir).unwrap_err();
    assert!(matches!(err, StoreError::Damaged { .. }), "{err:?}");
    err.in_full()
}

#[test]
fn damage_is_refused_in_words_and_never_taken_for_newness() {
    let base = tempfile::tempdir().unwrap();
    prepare(base.path());
    let damaged = |damage: &dyn Fn(&Path)| {
        let dir = tempfile::tempdir().unwrap();
        copy(base.path(), dir.path());
        damage(dir.path());
        refusal(dir.path())
    };
    let log = |dir: &Path| {
        let files = std::fs::read_dir(dir).unwrap().map(|f| f.unwrap().path());
        files.into_iter().find(|p| p.to_string_lossy().contains("/log-")).unwrap()
    };

    let err = damaged(&|d| std::fs::remove_file(d.join("record")).unwrap());
    assert!(err.contains("record: it is missing, though"), "{err}");
    let err = damaged(&|d| std::fs::write(d.join("record"), vec![0; 131_072]).unwrap());
    assert!(err.contains("no whole record is left"), "{err}");
    let err = damaged(&|d| std::fs::write(d.join("record"), b"").unwrap());
    assert!(err.contains("it has 0 bytes"), "{err}");
    let err = damaged(&|d| std::fs::remove_file(log(d)).unwrap());
    assert!(err.contains("it is missing"), "{err}");
    let err = damaged(&|d| {
        let mut bytes = std::fs::read(log(d)).unwrap();
        bytes[60] ^= 1;
        std::fs::write(log(d), bytes).unwrap();
    });
    assert!(err.contains("its first frame is broken"), "{err}");
    let err = damaged(&|d| std::fs::remove_file(d.join("database.redb")).unwrap());
    assert!(err.contains("database.redb: it is missing"), "{err}");
    let err = damaged(&|d| std::fs::write(d.join("database.redb"), b"hello").unwrap());
    assert!(err.contains("database.redb"), "{err}");

    // Files of two stores mixed up.
    let other = tempfile::tempdir().unwrap();
    prepare(other.path());
    let err = damaged(&|d| {
        std::fs::copy(other.path().join("database.redb"), d.join("database.redb")).unwrap();
    });
    assert!(err.contains("belongs to another store"), "{err}");
}

#[test]
fn steps_that_do_not_fit_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let record = prepare(dir.path());
    let refused = |step: Persist| {
        let (mut store, _) = open(dir.path());
        let err = store.persist(vec![step]).unwrap_err();
        assert!(matches!(err, StoreError::Misfit(_)), "{err:?}");
        err.to_string()
    };
    let gap = refused(Persist::Append { entries: entries(1, 8..=8) });
    assert!(gap.contains("update 8 for the log, which goes on with 7"), "{gap}");
    refused(apply(7));
    refused(apply(2));
    let old_life = refused(Persist::Record(record.clone()));
    let said = format!("incarnation {}", record.incarnation.0);
    assert!(old_life.contains(&said), "{old_life}");
    let (mut store, loaded) = open(dir.path());
    let cut = Persist::Accept {
        record: with_view(&loaded.record, 2),
        after: Seq(1),
        snapshot: None,
        entries: Vec::new(),
    };
    assert!(store.persist(vec![cut]).unwrap_err().to_string().contains("cannot be cut after 1"));
}

#[test]
fn the_thread_answers_in_order_and_says_failure_once() {
    let dir = tempfile::tempdir().unwrap();
    let (store, loaded) = open(dir.path());
    let (notify, events) = crossbeam_channel::unbounded();
    let thread = StoreThread::start(store, notify).unwrap();
    thread.persist(1, Persist::Record(with_view(&loaded.record, 1))).unwrap();
    for n in 1..=50 {
        thread.persist(2 * n, Persist::Append { entries: entries(1, n..=n) }).unwrap();
        thread.persist(2 * n + 1, apply(n)).unwrap();
    }
    // Steps written together are told of once, by the last: growing numbers up to the last Append.
    let mut told = vec![0];
    while *told.last().unwrap() < 100 {
        let StoreEvent::Persisted { id } = events.recv().unwrap() else { panic!("failed") };
        assert!(id > *told.last().unwrap() && (id == 1 || id % 2 == 0), "{id} after {told:?}");
        told.push(id);
    }
    thread.stop().unwrap();

    let (store, loaded) = open(dir.path());
    assert_eq!((loaded.database.seq, loaded.log.len()), (Seq(50), 0), "checkpoint at the end");
    let (notify, events) = crossbeam_channel::unbounded();
    let thread = StoreThread::start(store, notify).unwrap();
    thread.persist(1, apply(99)).unwrap();
    let StoreEvent::Failed { error } = events.recv().unwrap() else { panic!("not failed") };
    assert!(error.contains("cannot move to 99"), "{error}");
    assert!(events.recv().is_err(), "said once");
    assert!(thread.persist(2, apply(51)).is_err());
    assert!(thread.stop().is_err());
}
