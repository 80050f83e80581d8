//! What administrators see: the database and the facts of this node as API types, and the
//! arithmetic of the quorum in plain words.
//!
//! Read only; it works without quorum, and then says what it cannot know.

mod explain;
mod quorum;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use wolfpack_types::api::{
    ClusterStatus, GroupStatus, NodeState, NodeStatus, PathStatus, Protection, ResourceStatus,
    ServiceState, ViewStatus,
};
use wolfpack_types::heartbeat::Reach;
use wolfpack_types::membership::{QuorumType, Stage};
use wolfpack_types::objects::{Group, GroupState, Node, Resource, ResourceState, ResourceType};
use wolfpack_types::register::Exclusion;
use wolfpack_types::update::Refusal;
use wolfpack_types::{
    ClusterId, Incarnation, Instant, NetworkId, NodeId, NodeInc, Seq, View, VoteTable,
};

use crate::database::Database;

/// What this node knows beside the database.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Facts<'a> {
    pub(crate) me: NodeInc,
    pub(crate) now: Instant,
    pub(crate) cluster: ClusterId,
    pub(crate) state: ServiceState,
    /// In words, when the node is no member.
    pub(crate) waiting_for: Option<&'a str>,
    /// Configured nodes.
    pub(crate) names: &'a BTreeMap<NodeId, String>,
    /// By position.
    pub(crate) networks: &'a [String],
    pub(crate) view: Option<&'a View>,
    pub(crate) stage: Option<Stage>,
    /// Own time at which the lease ends.
    pub(crate) lease_end: Instant,
    pub(crate) commit_seq: Seq,
    /// What all members speak.
    pub(crate) protocol: u16,
    /// Lives heard, by node.
    pub(crate) heard: &'a BTreeMap<NodeId, Incarnation>,
    pub(crate) reach: &'a BTreeMap<NodeId, Reach>,
    pub(crate) paths: &'a BTreeMap<(NodeId, NetworkId), bool>,
    /// Lost owners that are waited for (own time).
    pub(crate) waits: &'a BTreeMap<NodeId, Instant>,
    pub(crate) votes: &'a VoteTable,
    pub(crate) quorum: QuorumType,
    pub(crate) witness: Option<&'a str>,
    pub(crate) exclusion: Exclusion,
    /// The witness answers, as far as is known.
    pub(crate) witness_ok: bool,
    pub(crate) dynamic: bool,
    /// Nodes as the database has them: paused, evicted.
    pub(crate) marks: &'a BTreeMap<NodeId, Node>,
}

impl Facts<'_> {
    fn name(&self, node: NodeId) -> String {
        self.names.get(&node).cloned().unwrap_or_else(|| format!("node {node}"))
    }

    /// The members, empty without an installed view.
    fn members(&self) -> BTreeSet<NodeId> {
        self.view.map(|v| v.members.keys().copied().collect()).unwrap_or_default()
    }

    fn in_view(&self, who: NodeInc) -> bool {
        self.view.is_some_and(|v| v.has(who))
    }
}

/// Everything at a glance.
pub(crate) fn cluster(facts: &Facts<'_>, database: &Database) -> ClusterStatus {
    ClusterStatus {
        name: database.cluster.as_ref().map(|c| c.name.clone()),
        cluster: facts.cluster.to_string(),
        node: facts.name(facts.me.node),
        incarnation: facts.me.inc.0,
        state: facts.state,
        waiting_for: facts.waiting_for.map(Into::into),
        view: facts.view.map(|view| ViewStatus {
            ballot: view.ballot.to_string(),
            leader: view.ballot.node().map_or_else(String::new, |n| facts.name(n)),
            members: view.members.keys().map(|&n| facts.name(n)).collect(),
            witness_in: view.witness_in,
        }),
        stage: facts.stage,
        lease_ms: (facts.lease_end > Instant::ZERO).then(|| millis(facts.lease_end - facts.now)),
        commit_seq: facts.commit_seq.0,
        protocol: facts.protocol,
        stuck: Vec::new(),
        refused: BTreeMap::new(),
        nodes: nodes(facts),
        groups: groups_of(facts, database, database.groups.values()),
        resources: resources_of(facts, database, database.resources.values()),
        quorum: quorum::status(facts),
    }
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

pub(crate) use explain::lines as explain;
pub(crate) use quorum::status as quorum;

/// All configured nodes.
pub(crate) fn nodes(facts: &Facts<'_>) -> Vec<NodeStatus> {
    facts.names.keys().map(|&id| node(facts, id)).collect()
}

fn node(facts: &Facts<'_>, id: NodeId) -> NodeStatus {
    let member = facts.view.and_then(|v| v.members.get(&id)).map(|m| m.inc);
    let me = id == facts.me.node;
    let heard = if me { Some(facts.me.inc) } else { facts.heard.get(&id).copied() };
    let reach = facts.reach.get(&id).copied().filter(|_| !me);
    let alive = me || matches!(reach, Some(Reach::Up | Reach::Suspected));
    let state = marked(facts.marks.get(&id), state_of(member, heard, alive));
    let paths = facts.paths.range((id, NetworkId(0))..=(id, NetworkId(u8::MAX)));
    NodeStatus {
        id: id.get(),
        name: facts.name(id),
        state,
        reach,
        incarnation: heard.max(member).map(|inc| inc.0),
        paths: paths
            .map(|(&(_, network), &up)| PathStatus {
                network: facts
                    .networks
                    .get(usize::from(network.0))
                    .cloned()
                    .unwrap_or_else(|| format!("network {}", network.0)),
                up,
            })
            .collect(),
    }
}

/// The state of a node with what an administrator made of it.
pub(crate) fn marked(node: Option<&Node>, state: NodeState) -> NodeState {
    match node {
        Some(n) if n.evicted => NodeState::Evicted,
        Some(n) if n.paused && state == NodeState::Up => NodeState::Paused,
        _ => state,
    }
}

/// The state of a node: as a member of the view in this life, as heard in that one, alive or not.
pub(crate) fn state_of(
    member: Option<Incarnation>,
    heard: Option<Incarnation>,
    alive: bool,
) -> NodeState {
    match (member, heard) {
        // A newer life than the member's knocks at the door.
        (Some(inc), Some(now)) if now > inc && alive => NodeState::Joining,
        (Some(_), _) => NodeState::Up,
        (None, Some(_)) if alive => NodeState::Joining,
        (None, _) => NodeState::Down,
    }
}

/// One group, or all.
///
/// # Errors
/// A name that does not exist.
pub(crate) fn groups(
    facts: &Facts<'_>,
    database: &Database,
    name: Option<&str>,
) -> Result<Vec<GroupStatus>, Refusal> {
    Ok(match name {
        None => groups_of(facts, database, database.groups.values()),
        Some(name) => groups_of(facts, database, [database.group_by_name(name)?]),
    })
}

fn groups_of<'a>(
    facts: &Facts<'_>,
    database: &'a Database,
    groups: impl IntoIterator<Item = &'a Group>,
) -> Vec<GroupStatus> {
    let mut members: BTreeMap<_, Vec<&Resource>> = BTreeMap::new();
    for resource in database.resources.values() {
        members.entry(resource.group).or_default().push(resource);
    }
    let mut list: Vec<_> = groups
        .into_iter()
        .map(|g| group(facts, g, members.get(&g.id).map_or(&[][..], Vec::as_slice)))
        .collect();
    list.sort_by(|a, b| a.name.cmp(&b.name));
    list
}

fn group(facts: &Facts<'_>, group: &Group, members: &[&Resource]) -> GroupStatus {
    let known = group.owner.is_some_and(|owner| facts.in_view(owner));
    let state = match &group.failed {
        Some(_) => GroupState::Failed,
        // Of a group whose owner is not here nobody can say that it runs.
        None if !known => GroupState::Offline,
        None => crate::database::derive_state(members.iter().map(|r| r.state)),
    };
    let disks = members.iter().any(|r| r.kind == ResourceType::PhysicalDisk);
    GroupStatus {
        name: group.name.clone(),
        id: group.id.to_string(),
        state,
        wanted: group.wanted,
        owner: group.owner.map(|o| facts.name(o.node)),
        moving_to: group.moving.as_ref().map(|m| facts.name(m.to)),
        preferred: group.preferred.iter().map(|&n| facts.name(n)).collect(),
        because: because(facts, group),
        protection: if disks { Protection::Reserved } else { Protection::Lease },
    }
}

fn because(facts: &Facts<'_>, group: &Group) -> String {
    if let Some(why) = &group.failed {
        return why.clone();
    }
    let Some(owner) = group.owner else {
        return "no node was up to own it yet".into();
    };
    let name = facts.name(owner.node);
    if group.released {
        return format!("node '{name}' has released it; the next owner is being named");
    }
    if facts.view.is_none() {
        return format!(
            "node '{name}' owned it when this node last heard; without quorum nothing newer is known"
        );
    }
    if facts.in_view(owner) {
        return group.because.in_words(|n| facts.name(n));
    }
    match facts.waits.get(&owner.node).map(|&until| until - facts.now) {
        Some(left) if left > Duration::ZERO => {
            format!("node '{name}' is lost; its lease, with margin, is over in {} ms", millis(left))
        }
        _ => format!("node '{name}' is lost; the next owner is named when its lease is over"),
    }
}

/// One resource, or all.
///
/// # Errors
/// A name that does not exist.
pub(crate) fn resources(
    facts: &Facts<'_>,
    database: &Database,
    name: Option<&str>,
) -> Result<Vec<ResourceStatus>, Refusal> {
    Ok(match name {
        None => resources_of(facts, database, database.resources.values()),
        Some(name) => resources_of(facts, database, [database.resource_by_name(name)?]),
    })
}

fn resources_of<'a>(
    facts: &Facts<'_>,
    database: &'a Database,
    resources: impl IntoIterator<Item = &'a Resource>,
) -> Vec<ResourceStatus> {
    let mut list: Vec<_> = resources.into_iter().map(|r| resource(facts, database, r)).collect();
    list.sort_by(|a, b| (&a.group, &a.name).cmp(&(&b.group, &b.name)));
    list
}

fn resource(facts: &Facts<'_>, database: &Database, resource: &Resource) -> ResourceStatus {
    let group = database.groups.get(&resource.group);
    let owner = group.and_then(|g| g.owner);
    let (state, why) = match owner {
        Some(owner) if facts.in_view(owner) => (resource.state, resource.state_why.clone()),
        Some(_) if facts.view.is_none() => {
            (ResourceState::Offline, "not known: this node is in no view".into())
        }
        Some(owner) => {
            (ResourceState::Offline, format!("its owner '{}' is lost", facts.name(owner.node)))
        }
        None => (ResourceState::Offline, "its group has no owner yet".into()),
    };
    let names = resource.depends_on.iter().filter_map(|id| database.resources.get(id));
    ResourceStatus {
        name: resource.name.clone(),
        id: resource.id.to_string(),
        group: group.map_or_else(String::new, |g| g.name.clone()),
        kind: resource.kind.to_string(),
        state,
        node: owner.map(|o| facts.name(o.node)),
        why,
        depends_on: names.map(|r| r.name.clone()).collect(),
        properties: resource.properties.clone(),
    }
}
