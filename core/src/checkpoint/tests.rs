//! The life of checkpoints against a real database, and files as a map.

use std::collections::BTreeMap;

use proptest::prelude::*;
use wolfpack_types::tree::{Bytes, Transaction, TreeOp, TreeValue};
use wolfpack_types::update::Update;

use super::*;
use crate::Database;
use crate::database::tests::{apply_at, cluster, rid};

const ID: CheckpointId = (rid(5), 1);

/// One node's monitor: its files, its manager.
struct Node {
    manager: CheckpointManager,
    files: BTreeMap<String, Vec<u8>>,
    now: Instant,
    said: Vec<CheckpointOutput>,
}

impl Node {
    fn new() -> Self {
        let (files, said) = (BTreeMap::new(), Vec::new());
        Self { manager: CheckpointManager::default(), files, now: Instant::ZERO, said }
    }

    /// Carries out everything that is asked for, on this database.
    fn run(&mut self, db: &mut Database) {
        while let Some(output) = self.manager.poll_output() {
            let answer = match output.clone() {
                CheckpointOutput::PutBack { id, path, content } => {
                    self.files.insert(path, content);
                    CheckpointInput::PutBack { id, result: Ok(()) }
                }
                CheckpointOutput::Read { id, path } => {
                    let content = Ok(self.files.get(&path).cloned());
                    CheckpointInput::Content { id, content }
                }
                CheckpointOutput::Save { id, transaction } => {
                    let outcome = apply_at(db, 0, Update::Tree(transaction)).outcome;
                    let result = outcome.map_err(|e| e.to_string());
                    CheckpointInput::Saved { id, result }
                }
                other => {
                    self.said.push(other);
                    continue;
                }
            };
            self.manager.handle(self.now, answer);
        }
    }

    fn input(&mut self, db: &mut Database, input: CheckpointInput) {
        self.manager.handle(self.now, input);
        self.run(db);
    }

    fn begin(&mut self, db: &mut Database) {
        let saved = read(db, ID).expect("whole");
        let files = vec![(ID.1, "/etc/app.conf".to_owned(), saved)];
        self.input(db, CheckpointInput::Begin { resource: ID.0, files });
    }

    fn write(&mut self, db: &mut Database, content: &[u8]) {
        self.files.insert("/etc/app.conf".into(), content.to_vec());
        self.input(db, CheckpointInput::Changed { id: ID });
    }

    fn wait(&mut self, db: &mut Database, span: Duration) {
        self.now += span;
        self.input(db, CheckpointInput::Deadline);
    }
}

#[test]
fn a_file_travels_with_its_resource() {
    let mut db = cluster(2);
    let (mut a, mut b) = (Node::new(), Node::new());
    a.begin(&mut db);
    assert!(matches!(a.said[..], [CheckpointOutput::Ready { .. }]));
    a.write(&mut db, b"one");
    assert_eq!(read(&db, ID), Ok(None), "not while it still changes");
    a.wait(&mut db, SETTLE);
    assert_eq!(read(&db, ID).unwrap().unwrap().content, b"one");
    // What changed last is saved before the resource is offline.
    a.write(&mut db, b"two");
    a.input(&mut db, CheckpointInput::End { resource: ID.0 });
    assert_eq!(a.said.last(), Some(&CheckpointOutput::Ended { resource: ID.0 }));
    b.begin(&mut db);
    assert_eq!(b.files["/etc/app.conf"], b"two");
    assert_eq!(registered(&db, ID.0), [(1, "/etc/app.conf".to_owned())]);
}

#[test]
fn a_busy_file_is_copied_at_last_and_the_same_content_not_again() {
    let mut db = cluster(1);
    let mut a = Node::new();
    a.begin(&mut db);
    let step = SETTLE / 2;
    let mut waited = Duration::ZERO;
    while read(&db, ID).unwrap().is_none() {
        a.write(&mut db, b"busy");
        a.wait(&mut db, step);
        waited += step;
        assert!(waited <= SETTLE_MAX + step, "never copied");
    }
    let seq = db.seq();
    a.write(&mut db, b"busy");
    a.wait(&mut db, SETTLE);
    assert_eq!(db.seq(), seq, "nothing new to save");
}

#[test]
fn a_former_owner_that_comes_late_changes_nothing() {
    let mut db = cluster(2);
    let (mut a, mut b) = (Node::new(), Node::new());
    a.begin(&mut db);
    a.write(&mut db, b"first");
    a.wait(&mut db, SETTLE);
    b.begin(&mut db);
    b.write(&mut db, b"from b");
    b.wait(&mut db, SETTLE);
    // a has not heard that the resource is b's.
    a.write(&mut db, b"late");
    a.wait(&mut db, SETTLE);
    assert!(matches!(a.said.last(), Some(CheckpointOutput::Trouble { .. })));
    assert_eq!(read(&db, ID).unwrap().unwrap().content, b"from b");
    a.input(&mut db, CheckpointInput::Lost { resource: ID.0 });
    a.wait(&mut db, AGAIN * 2);
    assert_eq!(a.manager.next_deadline(), None);
}

#[test]
fn what_cannot_be_put_back_keeps_the_resource_offline() {
    let mut manager = CheckpointManager::default();
    let saved = Some(Saved { generation: 1, content: b"x".to_vec() });
    let files = vec![(1, "/f".to_owned(), saved)];
    manager.handle(Instant::ZERO, CheckpointInput::Begin { resource: ID.0, files });
    let Some(CheckpointOutput::PutBack { id, .. }) = manager.poll_output() else { panic!("no") };
    let result = Err("no space".to_owned());
    manager.handle(Instant::ZERO, CheckpointInput::PutBack { id, result });
    let Some(CheckpointOutput::Failed { why, .. }) = manager.poll_output() else { panic!("no") };
    assert_eq!(why, "'/f' could not be put back: no space");
    assert_eq!(manager.poll_output(), None);
}

#[test]
fn a_file_that_is_too_large_is_refused_in_words_and_damage_is_seen() {
    let mut db = cluster(1);
    let mut a = Node::new();
    a.begin(&mut db);
    a.write(&mut db, &vec![1; BYTES_MAX + 1]);
    a.wait(&mut db, SETTLE);
    let Some(CheckpointOutput::Trouble { why, .. }) = a.said.last() else { panic!("taken") };
    assert!(why.contains("put it on a disk of the group"), "{why}");
    a.wait(&mut db, AGAIN);
    a.write(&mut db, &vec![2; 300_000]);
    a.wait(&mut db, AGAIN * 2);
    assert_eq!(read(&db, ID).unwrap().unwrap().content, vec![2; 300_000]);
    let op = TreeOp::SetValue {
        key: format!("{}/1", key(ID)),
        name: "0001".into(),
        value: TreeValue::Binary(Bytes(vec![3; 131_072])),
    };
    apply_at(&mut db, 0, Update::Tree(Transaction { preconditions: vec![], ops: vec![op] }));
    assert!(matches!(read(&db, ID), Err(CheckpointError::Damaged { .. })));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn whatever_size_it_has_the_next_owner_reads_what_the_last_one_wrote(
        sizes in proptest::collection::vec(0..1_000_000_usize, 1..4)
    ) {
        let mut db = cluster(2);
        let mut last = None;
        for (n, size) in sizes.into_iter().enumerate() {
            let mut node = Node::new();
            node.begin(&mut db);
            prop_assert_eq!(node.files.get("/etc/app.conf").cloned(), last);
            let content = vec![u8::try_from(n).unwrap(); size];
            node.write(&mut db, &content);
            node.input(&mut db, CheckpointInput::End { resource: ID.0 });
            last = Some(content);
        }
        prop_assert_eq!(read(&db, ID).unwrap().map(|s| s.content), last);
        // One generation is left.
        prop_assert_eq!(db.tree_key(&key(ID)).unwrap().subkeys.len(), 1);
    }
}
