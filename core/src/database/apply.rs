//! Applying updates: total and deterministic. What makes no sense (any more) changes nothing and
//! says why; it never panics, because the log may hold what two nodes asked at the same time.

use std::collections::BTreeSet;

use wolfpack_types::event::Cause;
use wolfpack_types::objects::{Group, Move, ResourceState, Wanted};
use wolfpack_types::update::{LogEntry, Refusal, Update};
use wolfpack_types::{GroupId, NodeId, NodeInc, RequestId, ResourceId, Seq};

use super::{Applied, Change, Database, FAILOVER_PERIOD_MS, Key, REQUESTS_KEPT, forget_volatile};

/// Failures remembered per group; beyond any threshold, and it bounds the row.
const FAILOVERS_KEPT: usize = 64;

/// What an update being applied has touched so far.
#[derive(Default)]
struct Touched {
    keys: BTreeSet<Key>,
    changes: Vec<Change>,
}

impl Touched {
    fn group(&mut self, id: GroupId) {
        self.keys.insert(Key::Group(id));
        self.changes.push(Change::GroupChanged(id));
    }

    fn resource(&mut self, id: ResourceId) {
        self.keys.insert(Key::Resource(id));
        self.changes.push(Change::ResourceChanged(id));
    }
}

impl Database {
    /// Applies a committed entry. Positions that were applied already change nothing.
    pub fn apply(&mut self, entry: &LogEntry) -> Applied {
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
        applied.outcome = self.carry_out(entry, &mut touched);
        if applied.outcome.is_err() {
            return applied;
        }
        if let Some(id) = entry.request {
            self.remember(id, entry.seq);
            touched.keys.insert(Key::Requests(id.from.node));
        }
        for key in touched.keys {
            let row = self.rehash(key);
            applied.rows.push((key.text(), row));
        }
        applied.changes = touched.changes;
        applied
    }

    fn carry_out(&mut self, entry: &LogEntry, touched: &mut Touched) -> Result<(), Refusal> {
        let Update::Batch(parts) = &entry.update else {
            self.possible(&entry.update)?;
            self.mutate(&entry.update, entry, touched);
            return Ok(());
        };
        // All or nothing: a copy takes the parts, and replaces this one if all of them fit.
        let mut copy = self.clone();
        let mut in_copy = Touched::default();
        for part in parts {
            copy.possible(part)?;
            copy.mutate(part, entry, &mut in_copy);
        }
        *self = copy;
        *touched = in_copy;
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
                self.groups.remove(id);
                touched.group(*id);
            }
            Update::CreateResource(resource) => {
                self.resources.insert(resource.id, forget_volatile(resource.clone()));
                touched.resource(resource.id);
            }
            Update::DeleteResource(id) => {
                self.resources.remove(id);
                touched.resource(*id);
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
            Update::ResourceState { .. }
            | Update::FailResource(_)
            | Update::MoveQuorum { .. }
            | Update::Batch(_)
            | Update::Tree(_) => {}
        }
    }

    fn set_wanted(&mut self, id: GroupId, wanted: Wanted, touched: &mut Touched) {
        let Some(group) = self.groups.get_mut(&id) else { return };
        group.wanted = wanted;
        touched.group(id);
        if wanted == Wanted::Online {
            group.failed = None;
            group.failovers_wall_ms.clear();
            let members = self.resources.values().filter(|r| r.group == id);
            touched.changes.extend(members.map(|r| Change::Retry(r.id)));
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
        for resource in self.resources.values_mut().filter(|r| r.group == id) {
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
