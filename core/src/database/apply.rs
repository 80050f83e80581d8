//! Applying updates: total and deterministic. What makes no sense (any more) changes nothing and
//! says why; it never panics, because the log may hold what two nodes asked at the same time.

use std::collections::BTreeSet;

use wolfpack_types::event::Cause;
use wolfpack_types::objects::{Group, Move, ResourceState, Wanted};
use wolfpack_types::tree::{TreeChange, TreeChangeKind};
use wolfpack_types::update::{LogEntry, Refusal, Update};
use wolfpack_types::{GroupId, NodeId, NodeInc, RequestId, ResourceId, Seq};

use super::key::Key;
use super::object_log::ObjectKind;
use super::undo::Undo;
use super::{Applied, Change, Database, FAILOVER_PERIOD_MS, REQUESTS_KEPT, forget_volatile};

/// Failures remembered per group; beyond any threshold, and it bounds the row.
const FAILOVERS_KEPT: usize = 64;

/// What an update being applied has touched so far.
#[derive(Default)]
pub(super) struct Touched {
    pub(super) keys: BTreeSet<Key>,
    pub(super) changes: Vec<Change>,
}

impl Touched {
    pub(super) fn group(&mut self, id: GroupId) {
        self.keys.insert(Key::Group(id));
        self.changes.push(Change::GroupChanged(id));
    }

    pub(super) fn resource(&mut self, id: ResourceId) {
        self.keys.insert(Key::Resource(id));
        self.changes.push(Change::ResourceChanged(id));
    }

    pub(super) fn tree(&mut self, seq: Seq, key: &str, what: TreeChangeKind) {
        self.keys.insert(Key::Path(key.to_owned()));
        if let TreeChangeKind::ValueSet { name, .. } | TreeChangeKind::ValueDeleted { name } = &what
        {
            self.keys.insert(Key::Value(key.to_owned(), name.clone()));
        }
        let change = TreeChange { seq: seq.0, key: key.to_owned(), what };
        self.changes.push(Change::Tree(change));
    }
}

impl Database {
    /// Applies a committed entry. Positions that were applied already change nothing.
    pub fn apply(&mut self, entry: &LogEntry) -> Applied {
        // One change that is possible cannot fail half-way: nothing need be kept.
        if matches!(entry.update, Update::Batch(_) | Update::Tree(_)) {
            let mut undo = Undo::begin(self);
            self.apply_kept(entry, Some(&mut undo))
        } else {
            self.apply_kept(entry, None)
        }
    }

    /// Applies an entry that may be taken back later, all into the same `undo`.
    pub(crate) fn apply_on_trial(
        &mut self,
        entry: &LogEntry,
        undo: &mut Undo,
    ) -> Result<(), Refusal> {
        self.apply_kept(entry, Some(undo)).outcome
    }

    fn apply_kept(&mut self, entry: &LogEntry, mut undo: Option<&mut Undo>) -> Applied {
        let mut applied = Applied { rows: Vec::new(), changes: Vec::new(), outcome: Ok(()) };
        if entry.seq <= self.seq {
            return applied;
        }
        self.seq = entry.seq;
        self.ballot = entry.ballot;
        // A request may be in the log twice: its sender asked two leaders, and both logged it.
        if entry.request.is_some_and(|id| self.seen(id).is_some()) {
            return applied;
        }
        let mut touched = Touched::default();
        applied.outcome = self.carry_out(entry, &mut touched, undo.as_deref_mut());
        if applied.outcome.is_err() {
            return applied;
        }
        if let Some(id) = entry.request {
            let key = Key::Requests(id.from.node);
            if let Some(undo) = undo.as_deref_mut() {
                undo.keep(self, key.clone());
            }
            self.remember(id, entry.seq);
            touched.keys.insert(key);
        }
        for key in touched.keys {
            // Else a change would outlive its being taken back: the footprint must name it.
            assert!(undo.as_ref().is_none_or(|u| u.kept(&key)), "{key:?} was changed unannounced");
            let row = self.rehash(&key);
            if row.is_none() {
                self.reindex(&key);
            }
            applied.rows.push((key.text(), row));
        }
        applied.changes = touched.changes;
        applied
    }

    /// All or nothing: what does not fit into a batch or transaction takes back what came before
    /// it in this very update.
    fn carry_out(
        &mut self,
        entry: &LogEntry,
        touched: &mut Touched,
        undo: Option<&mut Undo>,
    ) -> Result<(), Refusal> {
        let parts = match &entry.update {
            Update::Batch(parts) => parts.as_slice(),
            only => std::slice::from_ref(only),
        };
        let Some(outer) = undo else {
            for part in parts {
                self.possible(part)?;
                self.mutate(part, entry, touched);
            }
            return Ok(());
        };
        let mut inner = Undo::begin(self);
        let result = parts.iter().try_for_each(|part| {
            self.part(part, entry, touched, &mut inner)?;
            // The next part may be about what this one made.
            if parts.len() > 1 {
                touched.keys.iter().for_each(|key| self.reindex(key));
            }
            Ok(())
        });
        match result {
            Ok(()) => outer.absorb(inner),
            Err(_) => self.take_back(inner),
        }
        result
    }

    fn part(
        &mut self,
        part: &Update,
        entry: &LogEntry,
        touched: &mut Touched,
        undo: &mut Undo,
    ) -> Result<(), Refusal> {
        self.possible(part)?;
        let Update::Tree(transaction) = part else {
            for key in self.footprint(part) {
                undo.keep(self, key);
            }
            self.mutate(part, entry, touched);
            return Ok(());
        };
        let mut rows = Vec::new();
        for op in &transaction.ops {
            self.refuse_object_value(op)?;
            self.tree.footprint(op, &mut rows);
            for key in rows.drain(..) {
                undo.keep(self, key.clone());
                touched.keys.insert(key);
            }
            let seq = entry.seq;
            self.tree.carry_out(op, seq, &mut |key, what| touched.tree(seq, key, what))?;
        }
        Ok(())
    }

    fn remember(&mut self, id: RequestId, seq: Seq) {
        let (inc, carried) = self.requests.entry(id.from.node).or_default();
        if *inc < id.from.inc {
            *inc = id.from.inc;
            carried.clear();
        }
        if *inc == id.from.inc {
            carried.insert(id.number, seq);
            while carried.len() > REQUESTS_KEPT {
                carried.pop_first();
            }
        }
    }

    /// Carries out one update that [`Database::possible`] has let pass.
    fn mutate(&mut self, update: &Update, entry: &LogEntry, touched: &mut Touched) {
        match update {
            Update::CreateCluster { cluster, nodes } => {
                self.cluster = Some(cluster.clone());
                touched.keys.insert(Key::Cluster);
                for node in nodes {
                    self.nodes.insert(node.id, node.clone());
                    touched.keys.insert(Key::Node(node.id));
                }
                touched.changes.push(Change::ClusterCreated);
            }
            Update::CreateGroup(group) => {
                self.groups.insert(group.id, group.clone());
                touched.group(group.id);
            }
            Update::DeleteGroup(id) => {
                let group = self.groups.remove(id);
                touched.group(*id);
                if let Some(group) = group {
                    self.object_gone(id.0, ObjectKind::Group, group.name, entry, touched);
                }
            }
            Update::CreateResource(resource) => {
                self.resources.insert(resource.id, forget_volatile(resource.clone()));
                touched.resource(resource.id);
            }
            Update::DeleteResource(id) => {
                let resource = self.resources.remove(id);
                touched.resource(*id);
                if let Some(resource) = resource {
                    self.object_gone(id.0, ObjectKind::Resource, resource.name, entry, touched);
                }
            }
            Update::SetGroupWanted { group, wanted } => self.set_wanted(*group, *wanted, touched),
            Update::SetResourceWanted { resource, wanted } => {
                self.set_resource_wanted(*resource, *wanted, touched);
            }
            Update::SetPreferredOwners { group, nodes } => {
                if let Some(g) = self.groups.get_mut(group) {
                    g.preferred.clone_from(nodes);
                    touched.group(*group);
                }
            }
            Update::MoveGroup { group, to, cause } => {
                self.start_move(*group, *to, cause, entry.wall_ms, touched);
            }
            Update::GroupOffline { group, .. } => {
                if let Some(g) = self.groups.get_mut(group) {
                    g.released = true;
                    touched.group(*group);
                }
            }
            Update::AssignOwner { group, owner, cause, .. } => {
                self.assign(*group, *owner, cause, entry.seq, touched);
            }
            Update::GroupFailed { group, why, .. } => {
                if let Some(g) = self.groups.get_mut(group) {
                    g.failed = Some(why.clone());
                    touched.group(*group);
                }
            }
            Update::SetQuorum(_)
            | Update::SetNodePaused { .. }
            | Update::EvictNode { .. }
            | Update::AddNode { .. } => {
                for (key, change) in self.mutate_quorum(update) {
                    touched.keys.insert(key);
                    touched.changes.push(change);
                }
            }
            // Not let pass: volatile ones have their own door, batches are not nested.
            // A transaction on the tree is carried out operation by operation.
            Update::ResourceState { .. }
            | Update::FailResource(_)
            | Update::MoveQuorum { .. }
            | Update::Batch(_)
            | Update::Tree(_) => {}
        }
    }

    /// The rows that a part may change, before it is carried out: what is kept in case that it is
    /// taken back. (The operations of a transaction on the tree name their own.)
    fn footprint(&self, update: &Update) -> Vec<Key> {
        let mut keys = Vec::new();
        match update {
            Update::CreateCluster { nodes, .. } => {
                keys.push(Key::Cluster);
                keys.extend(nodes.iter().map(|n| Key::Node(n.id)));
            }
            Update::CreateGroup(group) => keys.push(Key::Group(group.id)),
            Update::DeleteGroup(id) => {
                keys.push(Key::Group(*id));
                let name = self.groups.get(id).map(|g| g.name.as_str());
                self.gone_footprint(id.0, ObjectKind::Group, name, &mut keys);
            }
            Update::CreateResource(resource) => keys.push(Key::Resource(resource.id)),
            Update::DeleteResource(id) => {
                keys.push(Key::Resource(*id));
                let name = self.resources.get(id).map(|r| r.name.as_str());
                self.gone_footprint(id.0, ObjectKind::Resource, name, &mut keys);
            }
            Update::SetResourceWanted { resource, .. } => {
                keys.push(Key::Resource(*resource));
                keys.extend(self.resources.get(resource).map(|r| Key::Group(r.group)));
            }
            // An assignment forgets the states of the resources too.
            Update::AssignOwner { group, .. } => {
                keys.push(Key::Group(*group));
                keys.extend(self.index.members(*group).map(Key::Resource));
            }
            Update::SetGroupWanted { group, .. }
            | Update::SetPreferredOwners { group, .. }
            | Update::MoveGroup { group, .. }
            | Update::GroupOffline { group, .. }
            | Update::GroupFailed { group, .. } => keys.push(Key::Group(*group)),
            Update::SetQuorum(_) => keys.push(Key::Cluster),
            Update::SetNodePaused { node, .. } => keys.push(Key::Node(*node)),
            Update::EvictNode { node } | Update::AddNode { node } => {
                keys.extend([Key::Cluster, Key::Node(*node)]);
            }
            Update::ResourceState { .. }
            | Update::FailResource(_)
            | Update::MoveQuorum { .. }
            | Update::Batch(_)
            | Update::Tree(_) => {}
        }
        keys
    }

    fn set_wanted(&mut self, id: GroupId, wanted: Wanted, touched: &mut Touched) {
        let Some(group) = self.groups.get_mut(&id) else { return };
        group.wanted = wanted;
        touched.group(id);
        if wanted == Wanted::Online {
            group.failed = None;
            group.failovers_wall_ms.clear();
            touched.changes.extend(self.index.members(id).map(Change::Retry));
        }
    }

    fn set_resource_wanted(&mut self, id: ResourceId, wanted: Wanted, touched: &mut Touched) {
        let Some(resource) = self.resources.get_mut(&id) else { return };
        resource.wanted = wanted;
        touched.resource(id);
        if wanted == Wanted::Online {
            touched.changes.push(Change::Retry(id));
            if let Some(group) = self.groups.get_mut(&resource.group)
                && group.failed.take().is_some()
            {
                touched.group(group.id);
            }
        }
    }

    fn start_move(
        &mut self,
        id: GroupId,
        to: NodeId,
        cause: &Cause,
        wall_ms: u64,
        touched: &mut Touched,
    ) {
        let Some(group) = self.groups.get_mut(&id) else { return };
        // Proposed twice (the first one was slow), it is still one failure.
        if matches!(cause, Cause::ResourceFailed { .. }) && group.moving.is_none() {
            count_failover(group, wall_ms);
        }
        group.moving = Some(Move { to, cause: cause.clone() });
        touched.group(id);
        touched.changes.push(Change::MoveStarted { group: id, to });
    }

    fn assign(
        &mut self,
        id: GroupId,
        owner: NodeInc,
        cause: &Cause,
        seq: Seq,
        touched: &mut Touched,
    ) {
        let Some(group) = self.groups.get_mut(&id) else { return };
        let from = group.owner.replace(owner);
        group.owned_since = seq;
        group.released = false;
        group.moving = None;
        // A new owner is a new chance, whatever failed on the old one.
        group.failed = None;
        group.because = cause.clone();
        touched.keys.insert(Key::Group(id));
        touched.changes.push(Change::OwnerChanged { group: id, from, to: owner });
        for member in self.index.members(id) {
            let Some(resource) = self.resources.get_mut(&member) else { continue };
            if resource.state != ResourceState::Offline || resource.state_by.is_some() {
                *resource = forget_volatile(resource.clone());
                touched.changes.push(Change::ResourceChanged(resource.id));
            }
        }
    }

    /// Applies an update of the volatile class: not durable, in no row, in no digest.
    pub fn apply_volatile(&mut self, update: &Update) -> Vec<Change> {
        if self.possible_volatile(update).is_err() {
            return Vec::new();
        }
        match update {
            Update::ResourceState { resource, by, state, why } => {
                let Some(r) = self.resources.get_mut(resource) else { return Vec::new() };
                r.state = *state;
                r.state_by = Some(*by);
                r.state_why.clone_from(why);
                vec![Change::ResourceChanged(*resource)]
            }
            Update::FailResource(resource) => vec![Change::FailRequested(*resource)],
            _ => Vec::new(),
        }
    }
}

/// Notes a failure that moves the group; forgets those that are out of the period.
fn count_failover(group: &mut Group, wall_ms: u64) {
    let marks = &mut group.failovers_wall_ms;
    marks.push(wall_ms);
    marks.retain(|&at| wall_ms.saturating_sub(at) < FAILOVER_PERIOD_MS);
    let surplus = marks.len().saturating_sub(FAILOVERS_KEPT);
    marks.drain(..surplus);
}
