//! Whether an update makes sense: for the locker with all limits, for every node (when it applies)
//! by structure alone. Structure is what all nodes must agree on at one position of the log, so it
//! never looks at volatile state; limits may differ between versions and bind only the locker.

use std::collections::BTreeSet;

use wolfpack_types::config::valid_name;
use wolfpack_types::objects::{Cluster, Group, Node, Policy, Resource, ResourceState, Wanted};
use wolfpack_types::tree::{
    Transaction, TreeOp, check_key, check_name as check_name_of_value, check_value,
};
use wolfpack_types::update::{LogEntry, Refusal, Update};
use wolfpack_types::{GroupId, NodeId, NodeInc, ResourceId};

use super::undo::Undo;
use super::{Database, OBJECTS_MAX, STRING_BYTES_MAX};

/// Parts of one batch: a group with all its resources fits.
const BATCH_MAX: usize = 2 * OBJECTS_MAX;
/// Dependencies, and properties, of one resource.
const ENTRIES_MAX: usize = 64;

pub(super) fn invalid(why: impl Into<String>) -> Refusal {
    Refusal::Invalid(why.into())
}

/// Refuses to name an object that is gone; there is no name left to guess at.
fn gone(what: &str, id: impl ToString) -> Refusal {
    Refusal::Unknown { what: what.into(), name: id.to_string(), hint: " (any more)".into() }
}

impl Database {
    /// The locker's evaluation of an update against this database.
    ///
    /// # Errors
    /// Why it must not be carried out, in words for the one who asked.
    pub fn check(&mut self, update: &Update) -> Result<(), Refusal> {
        let parts = match update {
            Update::Batch(parts) => parts.as_slice(),
            Update::Tree(_) => std::slice::from_ref(update),
            _ => return self.check_one(update),
        };
        if parts.len() > BATCH_MAX {
            return Err(invalid(format!("a batch of {} updates is too large", parts.len())));
        }
        // Each part on what the ones before it leave; then all is taken back.
        let mut undo = Undo::begin(self);
        let result = parts.iter().try_for_each(|part| {
            self.check_one(part)?;
            let entry = LogEntry {
                ballot: self.ballot,
                seq: self.seq.next(),
                wall_ms: 0,
                request: None,
                update: part.clone(),
                cause: None,
            };
            self.apply_on_trial(&entry, &mut undo)?;
            if matches!(part, Update::Tree(_)) { self.tree.check_room() } else { Ok(()) }
        });
        self.take_back(undo);
        result
    }

    fn check_one(&self, update: &Update) -> Result<(), Refusal> {
        if update.is_volatile() {
            return self.possible_volatile(update);
        }
        self.possible(update)?;
        match update {
            Update::CreateCluster { cluster, nodes } => check_cluster(cluster, nodes),
            Update::CreateGroup(group) => {
                check_name("group", &group.name)?;
                self.check_room()
            }
            Update::CreateResource(resource) => {
                self.check_room()?;
                check_resource(resource)
            }
            Update::DeleteResource(id) => self.check_stopped(*id),
            Update::SetQuorum(config) => self.check_quorum(config),
            Update::Tree(transaction) => transaction.check_bounds().map_err(invalid),
            Update::GroupFailed { why, .. } if why.len() > STRING_BYTES_MAX => {
                Err(invalid("the reason is too long"))
            }
            _ => Ok(()),
        }
    }

    fn check_room(&self) -> Result<(), Refusal> {
        if self.groups.len() + self.resources.len() < OBJECTS_MAX {
            Ok(())
        } else {
            Err(invalid(format!("the cluster holds {OBJECTS_MAX} objects, and no more fit")))
        }
    }

    fn check_stopped(&self, id: ResourceId) -> Result<(), Refusal> {
        let resource = self.resource(id)?;
        let group = self.group(resource.group)?;
        let wanted = group.wanted == Wanted::Online && resource.wanted == Wanted::Online;
        if wanted || !matches!(resource.state, ResourceState::Offline | ResourceState::Failed) {
            return Err(Refusal::Busy(format!(
                "resource '{}' is {}; take it offline first",
                resource.name,
                if resource.state == ResourceState::Offline {
                    "wanted online".into()
                } else {
                    resource.state.to_string()
                }
            )));
        }
        Ok(())
    }

    fn group(&self, id: GroupId) -> Result<&Group, Refusal> {
        self.groups.get(&id).ok_or_else(|| gone("group", id))
    }

    fn resource(&self, id: ResourceId) -> Result<&Resource, Refusal> {
        self.resources.get(&id).ok_or_else(|| gone("resource", id))
    }

    fn known_nodes(&self, nodes: &[NodeId]) -> Result<(), Refusal> {
        let mut seen = BTreeSet::new();
        for node in nodes {
            if !self.nodes.contains_key(node) {
                return Err(gone("node", node));
            }
            if !seen.insert(node) {
                return Err(invalid(format!("node {node} is named twice")));
            }
        }
        Ok(())
    }

    /// Structure: whether a persistent update can be carried out at this position of the log.
    pub(super) fn possible(&self, update: &Update) -> Result<(), Refusal> {
        match update {
            Update::CreateCluster { cluster, .. } => match &self.cluster {
                None => Ok(()),
                Some(_) => {
                    Err(Refusal::Exists { what: "cluster".into(), name: cluster.name.clone() })
                }
            },
            _ if self.cluster.is_none() => {
                Err(invalid("there is no cluster yet; create it with 'cluster create NAME'"))
            }
            Update::CreateGroup(group) => self.possible_group(group),
            Update::DeleteGroup(id) => {
                let group = self.group(*id)?;
                match self.resources_in(*id).next() {
                    None => Ok(()),
                    Some(r) => Err(Refusal::Busy(format!(
                        "group '{}' is not empty; delete resource '{}' first",
                        group.name, r.name
                    ))),
                }
            }
            Update::CreateResource(resource) => self.possible_resource(resource),
            Update::DeleteResource(id) => {
                let resource = self.resource(*id)?;
                match self.index.dependent(*id).and_then(|id| self.resources.get(&id)) {
                    None => Ok(()),
                    Some(r) => Err(Refusal::Busy(format!(
                        "resource '{}' depends on '{}'; delete '{}' first",
                        r.name, resource.name, r.name
                    ))),
                }
            }
            Update::SetGroupWanted { group, .. } => self.group(*group).map(|_| ()),
            Update::SetResourceWanted { resource, .. } => self.resource(*resource).map(|_| ()),
            Update::SetPreferredOwners { group, nodes } => {
                self.group(*group)?;
                self.known_nodes(nodes)
            }
            Update::MoveGroup { group, to, .. } => self.possible_move(*group, *to),
            Update::GroupOffline { .. }
            | Update::AssignOwner { .. }
            | Update::GroupFailed { .. } => self.possible_ownership(update),
            Update::Batch(_) => Err(invalid("a batch cannot hold another batch")),
            Update::Tree(transaction) => self.possible_transaction(transaction),
            Update::SetQuorum(_)
            | Update::SetNodePaused { .. }
            | Update::EvictNode { .. }
            | Update::AddNode { .. } => self.possible_quorum(update),
            Update::ResourceState { .. } | Update::FailResource(_) | Update::MoveQuorum { .. } => {
                Err(invalid("a volatile update does not belong into the log"))
            }
        }
    }

    fn possible_group(&self, group: &Group) -> Result<(), Refusal> {
        if self.groups.contains_key(&group.id) || self.index.group(&group.name).is_some() {
            return Err(Refusal::Exists { what: "group".into(), name: group.name.clone() });
        }
        let blank = group.owner.is_none()
            && group.owned_since.0 == 0
            && group.moving.is_none()
            && !group.released
            && group.failed.is_none()
            && group.failovers_wall_ms.is_empty();
        if !blank {
            return Err(invalid("a new group has neither owner nor history"));
        }
        self.known_nodes(&group.preferred)
    }

    fn possible_resource(&self, resource: &Resource) -> Result<(), Refusal> {
        let taken = self.resources.contains_key(&resource.id)
            || self.index.resource(&resource.name).is_some();
        if taken {
            return Err(Refusal::Exists { what: "resource".into(), name: resource.name.clone() });
        }
        self.group(resource.group)?;
        let mut seen = BTreeSet::new();
        for id in &resource.depends_on {
            // Only what exists already can be named, so that no cycle can ever come about.
            if *id == resource.id {
                return Err(invalid(format!(
                    "resource '{}' cannot depend on itself: that is a cycle",
                    resource.name
                )));
            }
            let dependency = self.resource(*id)?;
            if dependency.group != resource.group {
                return Err(invalid(format!(
                    "resource '{}' cannot depend on '{}': that is in another group",
                    resource.name, dependency.name
                )));
            }
            if !seen.insert(id) {
                return Err(invalid(format!("dependency '{}' is named twice", dependency.name)));
            }
        }
        Ok(())
    }

    /// Structure again (rows come from other versions too), and the preconditions.
    fn possible_transaction(&self, transaction: &Transaction) -> Result<(), Refusal> {
        for op in &transaction.ops {
            check_key(op.key()).map_err(invalid)?;
            match op {
                TreeOp::SetValue { name, value, .. } => {
                    check_value(name, value).map_err(invalid)?;
                }
                TreeOp::DeleteValue { name, .. } => check_name_of_value(name).map_err(invalid)?,
                TreeOp::CreateKey { .. } | TreeOp::DeleteKey { .. } => {}
            }
        }
        transaction.preconditions.iter().try_for_each(|p| self.tree.holds(p))
    }

    fn possible_move(&self, id: GroupId, to: NodeId) -> Result<(), Refusal> {
        let group = self.group(id)?;
        self.known_nodes(&[to])?;
        match group.owner {
            None => Err(Refusal::Busy(format!("group '{}' has no owner yet", group.name))),
            Some(owner) if owner.node == to => Err(invalid(format!(
                "group '{}' is on node '{}' already",
                group.name,
                self.node_name(to)
            ))),
            Some(_) if group.released => Err(Refusal::Busy(format!(
                "group '{}' is being given to another node; try again",
                group.name
            ))),
            Some(_) => Ok(()),
        }
    }

    /// P7: offline counts only from the owner's life and for its present ownership; an assignment
    /// replaces only the ownership that its proposer saw.
    fn possible_ownership(&self, update: &Update) -> Result<(), Refusal> {
        let late = |what: &str| Err(Refusal::Busy(format!("too late: {what}")));
        match update {
            Update::GroupOffline { group, by, since } => {
                let g = self.group(*group)?;
                match g.owner {
                    Some(owner) if owner == *by && g.owned_since == *since && !g.released => Ok(()),
                    _ => late("this ownership is over"),
                }
            }
            Update::AssignOwner { group, owner, after, .. } => {
                self.known_nodes(&[owner.node])?;
                if self.group(*group)?.owned_since == *after {
                    Ok(())
                } else {
                    late("another owner was named meanwhile")
                }
            }
            Update::GroupFailed { group, since, resource, .. } => {
                let g = self.group(*group)?;
                if self.resource(*resource)?.group != *group {
                    return Err(invalid("the resource is in another group"));
                }
                if g.failed.is_some() || g.owner.is_none() || g.owned_since != *since {
                    return late("the group is not running");
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Whether an update of the volatile class counts: a state only from the owner's life.
    pub(super) fn possible_volatile(&self, update: &Update) -> Result<(), Refusal> {
        match update {
            Update::ResourceState { resource, by, why, .. } => {
                let r = self.resource(*resource)?;
                if self.group(r.group)?.owner != Some(*by) {
                    return Err(Refusal::Busy(format!("'{}' has another owner", r.name)));
                }
                if why.len() > STRING_BYTES_MAX {
                    return Err(invalid("the reason is too long"));
                }
                Ok(())
            }
            Update::FailResource(id) => {
                let r = self.resource(*id)?;
                if r.state == ResourceState::Online {
                    Ok(())
                } else {
                    Err(invalid(format!(
                        "resource '{}' is {}: only one that is online can fail",
                        r.name, r.state
                    )))
                }
            }
            Update::MoveQuorum { to } => match self.nodes.get(to).filter(|n| !n.evicted) {
                Some(_) => Ok(()),
                None => Err(invalid(format!("there is no node {to}"))),
            },
            _ => Err(invalid("a persistent update belongs into the log")),
        }
    }

    /// Whether this life owns the group at this position of the log.
    pub(crate) fn owns(&self, me: NodeInc, group: GroupId) -> bool {
        self.groups.get(&group).is_some_and(|g| g.owner == Some(me))
    }
}

fn check_name(what: &str, name: &str) -> Result<(), Refusal> {
    if valid_name(name) {
        return Ok(());
    }
    // Shown shortened: a hostile name may be a megabyte of anything.
    let shown: String = name.chars().take(80).flat_map(char::escape_default).collect();
    Err(invalid(format!(
        "'{shown}' cannot name a {what}: 1 to 63 letters, digits, '-', '_', '.', \
         beginning with a letter or digit"
    )))
}

fn check_cluster(cluster: &Cluster, nodes: &[Node]) -> Result<(), Refusal> {
    check_name("cluster", &cluster.name)?;
    if nodes.is_empty() {
        return Err(invalid("a cluster has at least one node"));
    }
    let (mut ids, mut names) = (BTreeSet::new(), BTreeSet::new());
    for node in nodes {
        check_name("node", &node.name)?;
        if !ids.insert(node.id) || !names.insert(&node.name) {
            return Err(invalid(format!("node '{}' ({}) is there twice", node.name, node.id)));
        }
    }
    Ok(())
}

fn check_resource(resource: &Resource) -> Result<(), Refusal> {
    check_name("resource", &resource.name)?;
    if resource.depends_on.len() > ENTRIES_MAX || resource.properties.len() > ENTRIES_MAX {
        return Err(invalid(format!(
            "resource '{}' has more than {ENTRIES_MAX} dependencies or properties",
            resource.name
        )));
    }
    let long = resource
        .properties
        .iter()
        .find(|(key, value)| key.len() > STRING_BYTES_MAX || value.len() > STRING_BYTES_MAX);
    if let Some((key, _)) = long {
        let key: String = key.chars().take(80).collect();
        return Err(invalid(format!("property '{key}' is longer than {STRING_BYTES_MAX} bytes")));
    }
    wolfpack_types::properties::validate(resource.kind, &resource.properties)
        .map_err(|why| invalid(format!("resource '{}': {why}", resource.name)))?;
    check_policy(&resource.policy)
}

/// Bounds that keep a policy meaningful: polls no denser than 100 ms, nothing beyond a day.
fn check_policy(policy: &Policy) -> Result<(), Refusal> {
    const DAY_MS: u32 = 86_400_000;
    let bounds = [
        ("looks_alive_ms", policy.looks_alive_ms, 100),
        ("is_alive_ms", policy.is_alive_ms, 100),
        ("pending_timeout_ms", policy.pending_timeout_ms, 100),
        ("restart_period_ms", policy.restart_period_ms, 0),
        ("restart_delay_ms", policy.restart_delay_ms, 0),
    ];
    for (name, value, least) in bounds {
        if !(least..=DAY_MS).contains(&value) {
            return Err(invalid(format!("{name} is {value}, outside {least} to {DAY_MS}")));
        }
    }
    Ok(())
}
