//! Administrators' requests as updates: names become identities, wishes become changes.
//!
//! Pure: it changes nothing and decides nothing that the locker does not evaluate again
//! ([`crate::database::Database::check`]). What cannot be understood is refused in words that say
//! what to do.

mod membership;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use wolfpack_types::api::{ErrorKind, ErrorReply, Request};
use wolfpack_types::event::Cause;
use wolfpack_types::objects::{Group, Policy, Resource, ResourceState, ResourceType, Wanted};
use wolfpack_types::update::{Refusal, Update};
use wolfpack_types::{GroupId, Guid, NodeId, ResourceId, Seq};

use crate::database::{Database, unknown};
use crate::failover::{best_possible, random_for};

/// Translates a request that changes something. None: it is no update (a question, or
/// `cluster create`, which first has to prepare the witness).
///
/// `up`: the members of the view that do not want to leave. `entropy` makes new identities and
/// random placement.
///
/// # Errors
/// Unknown names with a hint, and wishes that contradict what is.
pub(crate) fn translate(
    database: &Database,
    up: &BTreeSet<NodeId>,
    request: &Request,
    entropy: u128,
) -> Result<Option<Update>, ErrorReply> {
    let needs_cluster = request.changes() && !matches!(request, Request::ClusterCreate { .. });
    if needs_cluster && database.cluster.is_none() {
        return Err(ErrorReply {
            kind: ErrorKind::Unknown,
            what: "there is no cluster yet".into(),
            advice: "create it with 'wolfpack cluster create NAME'".into(),
        });
    }
    let update = match request {
        Request::GroupCreate { group, preferred } => {
            create_group(database, group, preferred, entropy)
        }
        Request::GroupDelete { group } => {
            database.group_by_name(group).map(|g| Update::DeleteGroup(g.id))
        }
        Request::GroupOnline { group } => {
            database.group_by_name(group).map(|g| group_online(database, g.id))
        }
        Request::GroupOffline { group } => database
            .group_by_name(group)
            .map(|g| Update::SetGroupWanted { group: g.id, wanted: Wanted::Offline }),
        Request::GroupMove { group, to } => move_group(database, up, group, to.as_deref(), entropy),
        Request::ResourceCreate { .. } => create_resource(database, request, entropy),
        Request::ResourceDelete { resource } => {
            database.resource_by_name(resource).map(|r| Update::DeleteResource(r.id))
        }
        Request::ResourceOnline { resource } => {
            database.resource_by_name(resource).map(|r| resource_online(database, r))
        }
        Request::ResourceOffline { resource } => database
            .resource_by_name(resource)
            .map(|r| Update::SetResourceWanted { resource: r.id, wanted: Wanted::Offline }),
        Request::ResourceFail { resource } => {
            database.resource_by_name(resource).map(|r| Update::FailResource(r.id))
        }
        Request::TreeApply { transaction } => Ok(Update::Tree(transaction.clone())),
        Request::QuorumSet { .. }
        | Request::QuorumMove { .. }
        | Request::NodePause { .. }
        | Request::NodeResume { .. }
        | Request::NodeEvict { .. }
        | Request::NodeAdd { .. } => match membership::translate(database, up, request, entropy) {
            Some(update) => update,
            None => return Ok(None),
        },
        Request::ClusterCreate { .. }
        | Request::TreeGet { .. }
        | Request::TreeList { .. }
        | Request::TreeWatch { .. }
        | Request::ObjectLog
        | Request::Backup { .. }
        | Request::Restore { .. }
        | Request::ClusterStatus
        | Request::NetworkStatus { .. }
        | Request::NetworkInterfaceStatus
        | Request::KeyReload
        | Request::NodeStatus
        | Request::GroupStatus { .. }
        | Request::ResourceStatus { .. }
        | Request::QuorumShow
        | Request::QuorumExplain
        | Request::QuorumForce { .. }
        | Request::NodeDiscard
        | Request::Events(_) => return Ok(None),
    };
    update.map(Some).map_err(|refusal| refused(&refusal))
}

/// A refusal as the administrator gets it: what, and what to do.
pub(crate) fn refused(refusal: &Refusal) -> ErrorReply {
    let (kind, advice) = match refusal {
        Refusal::Invalid(_) => (ErrorKind::Invalid, String::new()),
        // Only these three have a command that lists them; a good guess needs none.
        Refusal::Unknown { what, hint, .. }
            if ["node", "group", "resource"].contains(&&**what)
                && !hint.contains("did you mean") =>
        {
            (ErrorKind::Unknown, format!("'wolfpack {what} status' lists what there is"))
        }
        Refusal::Unknown { .. } => (ErrorKind::Unknown, String::new()),
        Refusal::Exists { what, .. } => {
            (ErrorKind::Exists, format!("choose another name, or delete that {what} first"))
        }
        Refusal::NoQuorum(_) => {
            (ErrorKind::NoQuorum, "'wolfpack quorum show' says what is missing".into())
        }
        Refusal::Regrouping | Refusal::Busy(_) => (ErrorKind::Busy, String::new()),
        Refusal::Precondition { .. } => {
            (ErrorKind::Busy, "read again, and try with what is there now".into())
        }
    };
    ErrorReply { kind, what: refusal.to_string(), advice }
}

fn create_group(
    database: &Database,
    name: &str,
    preferred: &[String],
    entropy: u128,
) -> Result<Update, Refusal> {
    let preferred =
        preferred.iter().map(|n| Ok(database.node_by_name(n)?.id)).collect::<Result<_, _>>()?;
    Ok(Update::CreateGroup(Group {
        id: GroupId(Guid(entropy)),
        name: name.into(),
        wanted: Wanted::Offline,
        owner: None,
        owned_since: Seq::default(),
        preferred,
        moving: None,
        released: false,
        failovers_wall_ms: Vec::new(),
        failed: None,
        because: Cause::Created,
    }))
}

/// The group and all that is in it.
fn group_online(database: &Database, group: GroupId) -> Update {
    let mut parts = vec![Update::SetGroupWanted { group, wanted: Wanted::Online }];
    let offline = database
        .resources
        .values()
        .filter(|r| r.group == group && r.wanted == Wanted::Offline)
        .map(|r| Update::SetResourceWanted { resource: r.id, wanted: Wanted::Online });
    parts.extend(offline);
    one_or_batch(parts)
}

/// The resource and all that it depends on. In a group that is offline, the others stay offline.
fn resource_online(database: &Database, resource: &Resource) -> Update {
    let mut wanted = BTreeSet::new();
    let mut open = vec![resource.id];
    while let Some(id) = open.pop() {
        if wanted.insert(id) {
            open.extend(database.resources.get(&id).into_iter().flat_map(|r| &r.depends_on));
        }
    }
    let mut parts = Vec::new();
    let group_is_offline =
        database.groups.get(&resource.group).is_some_and(|g| g.wanted == Wanted::Offline);
    if group_is_offline {
        let others = database.resources.values().filter(|r| {
            r.group == resource.group && r.wanted == Wanted::Online && !wanted.contains(&r.id)
        });
        parts.extend(
            others.map(|r| Update::SetResourceWanted { resource: r.id, wanted: Wanted::Offline }),
        );
        parts.push(Update::SetGroupWanted { group: resource.group, wanted: Wanted::Online });
    }
    parts.extend(
        wanted
            .into_iter()
            .map(|id| Update::SetResourceWanted { resource: id, wanted: Wanted::Online }),
    );
    one_or_batch(parts)
}

fn one_or_batch(mut parts: Vec<Update>) -> Update {
    match parts.pop() {
        Some(only) if parts.is_empty() => only,
        last => {
            parts.extend(last);
            Update::Batch(parts)
        }
    }
}

fn move_group(
    database: &Database,
    up: &BTreeSet<NodeId>,
    name: &str,
    to: Option<&str>,
    entropy: u128,
) -> Result<Update, Refusal> {
    let group = database.group_by_name(name)?;
    let owner = group
        .owner
        .ok_or_else(|| Refusal::Busy(format!("group '{name}' has no owner yet; try again")))?;
    let to = match to {
        Some(to) => {
            let node = database.node_by_name(to)?.id;
            if !up.contains(&node) {
                return Err(Refusal::Invalid(format!(
                    "node '{to}' is not an active member of the cluster, so it can take no group"
                )));
            }
            node
        }
        None => {
            let others = up.iter().copied().filter(|&n| n != owner.node).collect();
            #[expect(clippy::cast_possible_truncation, reason = "any 64 bits of entropy will do")]
            let random = random_for(entropy as u64, group.id);
            best_possible(group, None, &others, random).ok_or_else(|| {
                Refusal::Invalid(format!("no other node is up to take group '{name}'"))
            })?
        }
    };
    Ok(Update::MoveGroup { group: group.id, to, cause: Cause::Administrator })
}

fn create_resource(
    database: &Database,
    request: &Request,
    entropy: u128,
) -> Result<Update, Refusal> {
    let Request::ResourceCreate { resource, group, kind, properties, depends_on } = request else {
        return Err(Refusal::Invalid("not a request to create a resource".into()));
    };
    let group = database.group_by_name(group)?.id;
    let kind = ResourceType::parse(kind).ok_or_else(|| {
        unknown("resource type", kind, ResourceType::ALL.iter().map(|t| t.name()))
    })?;
    let depends_on = depends_on
        .iter()
        .map(|name| {
            if name == resource {
                return Err(Refusal::Invalid(format!(
                    "resource '{name}' cannot depend on itself: that is a cycle"
                )));
            }
            Ok(database.resource_by_name(name)?.id)
        })
        .collect::<Result<_, _>>()?;
    Ok(Update::CreateResource(new_resource(
        ResourceId(Guid(entropy)),
        resource,
        group,
        kind,
        depends_on,
        properties.clone(),
    )))
}

/// A resource as it begins: offline until it is brought online, with the default policy.
pub(crate) fn new_resource(
    id: ResourceId,
    name: &str,
    group: GroupId,
    kind: ResourceType,
    depends_on: Vec<ResourceId>,
    properties: BTreeMap<String, String>,
) -> Resource {
    Resource {
        id,
        name: name.into(),
        group,
        kind,
        wanted: Wanted::Offline,
        depends_on,
        properties,
        policy: Policy::default(),
        state: ResourceState::Offline,
        state_by: None,
        state_why: String::new(),
    }
}
