//! Taking back: what a change of the database is about to touch is kept, so that a change that
//! turns out to be impossible half-way, or was only a trial, leaves nothing behind. The cost is
//! that of what is touched; no copy of the database is made.

use std::collections::BTreeMap;

use wolfpack_types::objects::{Cluster, Group, Node, Resource};
use wolfpack_types::{Ballot, Guid, Seq};

use super::key::Key;
use super::tree::Value;
use super::{Carried, Database, Gone};

/// An object as it was; none: it was not there.
#[derive(Clone, Debug)]
enum Was {
    Cluster(Option<Cluster>),
    Node(Option<Node>),
    Group(Option<Box<Group>>),
    Resource(Option<Box<Resource>>),
    Requests(Option<Carried>),
    Gone(Option<Gone>),
    TreeKey(Option<Seq>),
    TreeValue(Option<Value>),
}

/// What was there before.
#[derive(Debug)]
pub(crate) struct Undo {
    seq: Seq,
    ballot: Ballot,
    digest: u64,
    row_bytes: usize,
    was: BTreeMap<Key, (Was, Option<(u64, usize)>)>,
}

impl Undo {
    /// Begins at what is there now.
    pub(crate) fn begin(database: &Database) -> Self {
        Self {
            seq: database.seq,
            ballot: database.ballot,
            digest: database.digest,
            row_bytes: database.row_bytes,
            was: BTreeMap::new(),
        }
    }

    /// Keeps what is there under this key, if it is not kept yet.
    pub(super) fn keep(&mut self, database: &Database, key: Key) {
        if let std::collections::btree_map::Entry::Vacant(free) = self.was.entry(key) {
            let was = (database.was(free.key()), database.hashes.get(free.key()).copied());
            free.insert(was);
        }
    }

    /// Takes what another, begun later, has kept; what is kept here already is older and stays.
    pub(crate) fn absorb(&mut self, later: Self) {
        for (key, was) in later.was {
            self.was.entry(key).or_insert(was);
        }
    }

    pub(super) fn kept(&self, key: &Key) -> bool {
        self.was.contains_key(key)
    }
}

impl Database {
    fn was(&self, key: &Key) -> Was {
        match key {
            Key::Cluster => Was::Cluster(self.cluster.clone()),
            Key::Node(id) => Was::Node(self.nodes.get(id).cloned()),
            Key::Group(id) => Was::Group(self.groups.get(id).cloned().map(Box::new)),
            Key::Resource(id) => Was::Resource(self.resources.get(id).cloned().map(Box::new)),
            Key::Requests(id) => Was::Requests(self.requests.get(id).cloned()),
            Key::Gone(id) => Was::Gone(self.gone.get(id).cloned()),
            Key::Path(key) => Was::TreeKey(self.tree.get(key).map(|n| n.changed)),
            Key::Value(key, name) => Was::TreeValue(self.tree.value(key, name).cloned()),
        }
    }

    /// Puts everything back as it was when `undo` began.
    pub(crate) fn take_back(&mut self, undo: Undo) {
        self.seq = undo.seq;
        self.ballot = undo.ballot;
        self.digest = undo.digest;
        self.row_bytes = undo.row_bytes;
        // Keys of the tree sort before its values: a value finds its key again.
        for (key, (was, hash)) in undo.was {
            match hash {
                Some(hash) => self.hashes.insert(key.clone(), hash),
                None => self.hashes.remove(&key),
            };
            self.put_back(&key, was);
            self.reindex(&key);
        }
    }

    fn put_back(&mut self, key: &Key, was: Was) {
        fn put<K: Ord, V>(map: &mut BTreeMap<K, V>, key: K, was: Option<V>) {
            match was {
                Some(value) => map.insert(key, value),
                None => map.remove(&key),
            };
        }
        match (key, was) {
            (Key::Cluster, Was::Cluster(was)) => self.cluster = was,
            (Key::Node(id), Was::Node(was)) => put(&mut self.nodes, *id, was),
            (Key::Group(id), Was::Group(was)) => put(&mut self.groups, *id, was.map(|g| *g)),
            (Key::Resource(id), Was::Resource(was)) => {
                put(&mut self.resources, *id, was.map(|r| *r));
            }
            (Key::Requests(id), Was::Requests(was)) => put(&mut self.requests, *id, was),
            (Key::Gone(id), Was::Gone(was)) => self.set_gone(*id, was),
            (Key::Path(path), Was::TreeKey(was)) => self.tree.set_key(path, was),
            (Key::Value(path, name), Was::TreeValue(was)) => self.tree.set(path, name, was),
            (key, was) => unreachable!("{key:?} was kept as {was:?}"),
        }
    }

    /// Notes that an object is gone (or not).
    pub(super) fn set_gone(&mut self, id: Guid, gone: Option<Gone>) {
        if let Some(old) = self.gone.remove(&id) {
            self.gone_order.remove(&(old.seq, id));
        }
        if let Some(gone) = gone {
            self.gone_order.insert((gone.seq, id));
            self.gone.insert(id, gone);
        }
    }
}
