//! The replicated database: what the log of updates adds up to, on every node the same.
//!
//! Typed objects (groups, resources) and a tree of keys and values beside them. Pure data with three doors: [`Database::check`] (the locker's evaluation), [`Database::apply`]
//! (a committed update; total and deterministic) and [`Database::apply_volatile`] (resource states:
//! same order, not durable). It decides nothing about membership, ownership or time; the core
//! drives it. Invariant: every resource's group and dependencies exist, dependencies stay within
//! the group and form no cycle. Volatile state is in no row and in no digest.

mod apply;
mod check;
mod index;
mod key;
#[cfg(test)]
mod large_tests;
mod lookup;
mod object_log;
#[cfg(test)]
mod proptests;
mod quorum;
#[cfg(test)]
pub(crate) mod tests;
mod tree;
#[cfg(test)]
mod tree_proptests;
mod undo;
mod view;

pub(crate) use lookup::unknown;
pub(crate) use undo::Undo;

use std::collections::{BTreeMap, BTreeSet};

use wolfpack_types::codec::{DecodeError, decode, encode};
use wolfpack_types::objects::{Cluster, Group, GroupState, Node, Resource, ResourceState};
use wolfpack_types::store::Snapshot;
use wolfpack_types::tree::{TreeChange, check_value};
use wolfpack_types::update::Refusal;
use wolfpack_types::{
    Ballot, GroupId, Guid, Incarnation, NodeId, NodeInc, RequestId, ResourceId, Seq,
};

use index::Index;
use key::Key;
use object_log::Gone;
use tree::Tree;

/// Groups and resources together. Far above any real cluster; it bounds every walk below.
pub(crate) const OBJECTS_MAX: usize = 10_000;
/// Any one string of an object, in bytes.
pub(crate) const STRING_BYTES_MAX: usize = 4096;
/// Requests remembered per life of a node: more than any node can have in flight.
pub(crate) const REQUESTS_KEPT: usize = 128;
/// Moves because of failures are counted over this period, 6 h (the FailoverPeriod of MSCS).
pub(crate) const FAILOVER_PERIOD_MS: u64 = 6 * 60 * 60 * 1000;

/// The requests of one life of a node that have been carried out, by number.
type Carried = (Incarnation, BTreeMap<u64, Seq>);

/// The database of one node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Database {
    pub(crate) seq: Seq,
    pub(crate) ballot: Ballot,
    pub(crate) cluster: Option<Cluster>,
    pub(crate) nodes: BTreeMap<NodeId, Node>,
    pub(crate) groups: BTreeMap<GroupId, Group>,
    pub(crate) resources: BTreeMap<ResourceId, Resource>,
    pub(crate) requests: BTreeMap<NodeId, Carried>,
    /// Hash and size of each row; `digest` is their sum, so that an update costs only its own rows.
    hashes: BTreeMap<Key, (u64, usize)>,
    digest: u64,
    /// Bytes of all rows.
    row_bytes: usize,
    tree: Tree,
    /// Names of deleted objects, and the same by age.
    gone: BTreeMap<Guid, Gone>,
    gone_order: BTreeSet<(Seq, Guid)>,
    index: Index,
}

/// What applying an entry did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    /// Rows set (`Some`) or deleted (`None`), for the store.
    pub rows: Vec<(String, Option<Vec<u8>>)>,
    /// What observers need to know, in order.
    pub changes: Vec<Change>,
    /// Why nothing was changed, where the update made no sense (any more). The same on every node.
    pub outcome: Result<(), Refusal>,
}

/// One thing that is different now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    ClusterCreated,
    /// The quorum is to be another one.
    QuorumChanged,
    /// A node is paused, resumed, evicted or added.
    NodeChanged(NodeId),
    /// Made, deleted, or different in anything but its owner.
    GroupChanged(GroupId),
    /// Made, deleted, or different in anything, its volatile state included.
    ResourceChanged(ResourceId),
    /// A new ownership; `from` and `to` may be the same life.
    OwnerChanged {
        group: GroupId,
        from: Option<NodeInc>,
        to: NodeInc,
    },
    /// The owner is asked to hand the group over.
    MoveStarted {
        group: GroupId,
        to: NodeId,
    },
    /// An administrator wants it online (again): failures so far are forgiven.
    Retry(ResourceId),
    /// The owner is to treat it as failed.
    FailRequested(ResourceId),
    /// The tree of keys: nothing that concerns ownership or resources.
    Tree(TreeChange),
}

/// Bytes of a text or of bytes in the encoding: the length goes ahead, seven bits to a byte.
const fn framed(length: usize) -> usize {
    let bits = usize::BITS - length.leading_zeros();
    length + if bits == 0 { 1 } else { bits.div_ceil(7) as usize }
}

fn bad(why: String) -> DecodeError {
    DecodeError { what: "database snapshot", why }
}

impl Database {
    /// Rebuilds the database from the rows of a store, a peer or the witness disk.
    ///
    /// # Errors
    /// A row that cannot be decoded, whose content belongs to another row, or that refers to what
    /// does not exist.
    pub fn from_snapshot(snapshot: &Snapshot) -> Result<Self, DecodeError> {
        let mut database = Self { seq: snapshot.seq, ballot: snapshot.ballot, ..Self::default() };
        // In the order of the keys: a key of the tree comes before its values.
        let mut rows = Vec::with_capacity(snapshot.rows.len());
        for (text, bytes) in &snapshot.rows {
            let key = Key::parse(text).ok_or_else(|| bad(format!("unknown row '{text}'")))?;
            rows.push((key, bytes));
        }
        rows.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        for (key, bytes) in rows {
            if database.hashes.contains_key(&key) {
                return Err(bad(format!("row '{}' is there twice", key.text())));
            }
            database.load(&key, bytes)?;
            database.enter(key, bytes);
        }
        database.check_references().map_err(bad)?;
        Ok(database)
    }

    /// Takes one row of a copy.
    ///
    /// # Errors
    /// As [`Database::from_snapshot`]; rows come in the order of [`Database::snapshot`].
    pub(crate) fn take_row(&mut self, text: &str, bytes: &[u8]) -> Result<(), DecodeError> {
        let key = Key::parse(text).ok_or_else(|| bad(format!("unknown row '{text}'")))?;
        if self.hashes.contains_key(&key) {
            return Err(bad(format!("row '{text}' is there twice")));
        }
        self.load(&key, bytes)?;
        self.enter(key, bytes);
        Ok(())
    }

    /// The copy is whole, and of this position.
    ///
    /// # Errors
    /// Its rows do not fit together.
    pub(crate) fn taken(mut self, (ballot, seq): (Ballot, Seq)) -> Result<Self, DecodeError> {
        (self.ballot, self.seq) = (ballot, seq);
        self.check_references().map_err(bad)?;
        Ok(self)
    }

    /// Bytes of all rows as a snapshot has them, encoded; kept up to date row by row.
    pub(crate) const fn row_bytes(&self) -> usize {
        self.row_bytes
    }

    fn load(&mut self, key: &Key, bytes: &[u8]) -> Result<(), DecodeError> {
        let misplaced = || bad(format!("row '{}' holds another object", key.text()));
        match key {
            Key::Cluster => self.cluster = Some(decode("cluster row", bytes)?),
            Key::Node(id) => {
                let node: Node = decode("node row", bytes)?;
                if node.id != *id {
                    return Err(misplaced());
                }
                self.nodes.insert(*id, node);
            }
            Key::Group(id) => {
                let group: Group = decode("group row", bytes)?;
                if group.id != *id {
                    return Err(misplaced());
                }
                self.groups.insert(*id, group);
            }
            Key::Resource(id) => {
                let resource: Resource = decode("resource row", bytes)?;
                if resource.id != *id {
                    return Err(misplaced());
                }
                self.resources.insert(*id, forget_volatile(resource));
            }
            Key::Requests(id) => {
                self.requests.insert(*id, decode("requests row", bytes)?);
            }
            Key::Gone(id) => self.set_gone(*id, Some(decode("row of a deleted object", bytes)?)),
            Key::Path(path) => {
                self.tree.set_key(path, Some(decode("row of a key", bytes)?));
            }
            Key::Value(path, name) => {
                if self.tree.get(path).is_none() {
                    return Err(bad(format!("value '{name}' is in no key ('{path}')")));
                }
                let value: tree::Value = decode("row of a value", bytes)?;
                check_value(name, &value.value).map_err(bad)?;
                self.tree.set(path, name, Some(value));
            }
        }
        Ok(())
    }

    /// The invariant of the module, for rows that come from outside.
    fn check_references(&self) -> Result<(), String> {
        for resource in self.resources.values() {
            if !self.groups.contains_key(&resource.group) {
                return Err(format!("resource '{}' is in no known group", resource.name));
            }
            for id in &resource.depends_on {
                if self.resources.get(id).is_none_or(|d| d.group != resource.group) {
                    return Err(format!(
                        "resource '{}' depends on something outside its group",
                        resource.name
                    ));
                }
            }
        }
        if let Some(key) = self.tree.orphan() {
            return Err(format!("key '{key}' is in no key"));
        }
        if !self.index.names_are_unique(self.groups.len(), self.resources.len()) {
            return Err("two groups or two resources have one name".into());
        }
        let ordered = self.in_dependency_order(self.resources.keys().copied());
        if ordered.len() == self.resources.len() {
            Ok(())
        } else {
            Err("dependencies form a cycle".into())
        }
    }

    /// These resources, each after all that it depends on (among them); those on a cycle are left
    /// out. Deterministic: by identity where the dependencies leave it open.
    pub(crate) fn in_dependency_order(
        &self,
        ids: impl IntoIterator<Item = ResourceId>,
    ) -> Vec<ResourceId> {
        let mut missing: BTreeMap<ResourceId, usize> = ids.into_iter().map(|id| (id, 0)).collect();
        let mut dependents: BTreeMap<ResourceId, Vec<ResourceId>> = BTreeMap::new();
        let all: Vec<_> = missing.keys().copied().collect();
        for id in &all {
            for dependency in self.resources.get(id).map_or(&[][..], |r| &r.depends_on) {
                if missing.contains_key(dependency) {
                    dependents.entry(*dependency).or_default().push(*id);
                    *missing.entry(*id).or_default() += 1;
                }
            }
        }
        let mut ready: BTreeSet<_> =
            missing.iter().filter(|&(_, &n)| n == 0).map(|(&id, _)| id).collect();
        let mut ordered = Vec::with_capacity(all.len());
        while let Some(id) = ready.pop_first() {
            ordered.push(id);
            for dependent in dependents.remove(&id).unwrap_or_default() {
                if let Some(n) = missing.get_mut(&dependent) {
                    *n -= 1;
                    if *n == 0 {
                        ready.insert(dependent);
                    }
                }
            }
        }
        ordered
    }

    /// All rows, in a fixed order.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        let rows = self
            .hashes
            .keys()
            .filter_map(|key| self.row(key).map(|bytes| (key.text(), bytes)))
            .collect();
        Snapshot { seq: self.seq, ballot: self.ballot, rows }
    }

    /// The bytes of a row as stored; none where the object does not exist.
    fn row(&self, key: &Key) -> Option<Vec<u8>> {
        match key {
            Key::Cluster => self.cluster.as_ref().map(encode),
            Key::Node(id) => self.nodes.get(id).map(encode),
            Key::Group(id) => self.groups.get(id).map(encode),
            Key::Resource(id) => {
                self.resources.get(id).map(|r| encode(&forget_volatile(r.clone())))
            }
            Key::Requests(id) => self.requests.get(id).map(encode),
            Key::Gone(id) => self.gone.get(id).map(encode),
            Key::Path(path) => self.tree.get(path).map(|n| encode(&n.changed)),
            Key::Value(path, name) => self.tree.value(path, name).map(encode),
        }
    }

    /// Brings hash and digest in line with a row that may have changed; returns the row.
    fn rehash(&mut self, key: &Key) -> Option<Vec<u8>> {
        let row = self.row(key);
        if let Some((old, bytes)) = self.hashes.remove(key) {
            self.digest = self.digest.wrapping_sub(old);
            self.row_bytes -= bytes;
        }
        if let Some(bytes) = &row {
            self.enter(key.clone(), bytes);
        }
        row
    }

    /// Enters a row that is not yet in hash, digest and index.
    fn enter(&mut self, key: Key, row: &[u8]) {
        self.reindex(&key);
        let text = key.text();
        let (hash, bytes) = (row_hash(&text, row), framed(text.len()) + framed(row.len()));
        self.hashes.insert(key, (hash, bytes));
        self.digest = self.digest.wrapping_add(hash);
        self.row_bytes += bytes;
    }

    /// Equal databases have equal digests (P8, invariant 14); volatile state is not in it.
    #[must_use]
    pub const fn digest(&self) -> u64 {
        self.digest
    }

    /// The position at which this request was carried out, if it was (P8: a retry is not carried
    /// out twice).
    #[must_use]
    pub fn seen(&self, id: RequestId) -> Option<Seq> {
        let (inc, carried) = self.requests.get(&id.from.node)?;
        (*inc == id.from.inc).then(|| carried.get(&id.number).copied()).flatten()
    }

    /// The state of a group, by precedence: any failed, any pending, some online, all online.
    #[must_use]
    pub fn group_state(&self, group: GroupId) -> GroupState {
        if self.groups.get(&group).is_some_and(|g| g.failed.is_some()) {
            return GroupState::Failed;
        }
        derive_state(self.resources_in(group).map(|r| r.state))
    }

    /// The resources of a group.
    pub(crate) fn resources_in(&self, group: GroupId) -> impl Iterator<Item = &Resource> {
        self.index.members(group).filter_map(|id| self.resources.get(&id))
    }

    /// Position of the last applied update.
    #[must_use]
    pub const fn seq(&self) -> Seq {
        self.seq
    }

    /// The groups by identity.
    #[must_use]
    pub const fn groups(&self) -> &BTreeMap<GroupId, Group> {
        &self.groups
    }

    /// The resources by identity.
    #[must_use]
    pub const fn resources(&self) -> &BTreeMap<ResourceId, Resource> {
        &self.resources
    }

    /// The name of a node, or its number where it has none here.
    #[must_use]
    pub fn node_name(&self, node: NodeId) -> String {
        self.nodes.get(&node).map_or_else(|| format!("node {node}"), |n| n.name.clone())
    }
}

/// A group's state from the states of its resources (CMRP 3.1.4.1.46): any failed is failed, any
/// pending is pending, then all, some or none online.
pub(crate) fn derive_state(states: impl IntoIterator<Item = ResourceState>) -> GroupState {
    let (mut all, mut online, mut pending, mut failed) = (0_usize, 0_usize, false, false);
    for state in states {
        all += 1;
        match state {
            ResourceState::Online => online += 1,
            ResourceState::OnlinePending | ResourceState::OfflinePending => pending = true,
            ResourceState::Failed => failed = true,
            ResourceState::Offline => {}
        }
    }
    match () {
        () if failed => GroupState::Failed,
        () if pending => GroupState::Pending,
        () if online == 0 => GroupState::Offline,
        () if online == all => GroupState::Online,
        () => GroupState::PartialOnline,
    }
}

/// A resource as it is stored: nobody knows its state after a restart of everything.
fn forget_volatile(resource: Resource) -> Resource {
    Resource { state: ResourceState::Offline, state_by: None, state_why: String::new(), ..resource }
}

/// Multiply and rotate, eight bytes at a time (a value may have 256 KiB), over lengths, key and
/// value; finished by a mixer because the hashes are added up. It finds databases that drifted
/// apart, not forgers: whoever can send updates is a member.
fn row_hash(key: &str, value: &[u8]) -> u64 {
    let mut hash = (key.len() as u64) << 32 ^ value.len() as u64 ^ 0xcbf2_9ce4_8422_2325;
    let mut take = |word: u64| {
        hash = (hash ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
    };
    for bytes in [key.as_bytes(), value] {
        let (words, rest) = bytes.as_chunks::<8>();
        words.iter().for_each(|w| take(u64::from_le_bytes(*w)));
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        take(u64::from_le_bytes(last));
    }
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash ^ (hash >> 31)
}
