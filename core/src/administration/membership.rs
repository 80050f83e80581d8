//! Requests about nodes and quorum as updates.

use std::collections::{BTreeMap, BTreeSet};

use wolfpack_types::api::Request;
use wolfpack_types::membership::{QuorumConfig, WitnessKind, WitnessSpec};
use wolfpack_types::objects::Cluster;
use wolfpack_types::update::{Refusal, Update};
use wolfpack_types::{Guid, NodeId};

use crate::database::Database;

/// Translates; none if the request is of another kind.
pub(super) fn translate(
    database: &Database,
    up: &BTreeSet<NodeId>,
    request: &Request,
    entropy: u128,
) -> Option<Result<Update, Refusal>> {
    let id = |name: &str| database.node_by_name(name).map(|n| n.id);
    let paused =
        |name, paused, drain| id(name).map(|node| Update::SetNodePaused { node, paused, drain });
    Some(match request {
        Request::QuorumSet { .. } => set_quorum(database, request, entropy),
        Request::QuorumMove { to } => move_quorum(database, up, to.as_deref()),
        Request::NodePause { node, drain } => paused(node, true, *drain),
        Request::NodeResume { node } => paused(node, false, false),
        Request::NodeEvict { node } => id(node).map(|node| Update::EvictNode { node }),
        Request::NodeAdd { node } => id(node).map(|node| Update::AddNode { node }),
        _ => return None,
    })
}

fn move_quorum(
    database: &Database,
    up: &BTreeSet<NodeId>,
    to: Option<&str>,
) -> Result<Update, Refusal> {
    let Some(name) = to else {
        return Err(Refusal::Invalid("say to which node the quorum resource is to move".into()));
    };
    let to = database.node_by_name(name)?.id;
    if !up.contains(&to) {
        return Err(Refusal::Invalid(format!(
            "node '{name}' is not an active member of the cluster, so it cannot lead"
        )));
    }
    Ok(Update::MoveQuorum { to })
}

fn set_quorum(database: &Database, request: &Request, entropy: u128) -> Result<Update, Refusal> {
    let Request::QuorumSet { kind, witness, exclusion, weights, dynamic, room, .. } = request
    else {
        return Err(Refusal::Invalid("not a request to set the quorum".into()));
    };
    let Some(Cluster { quorum: present, .. }) = &database.cluster else {
        return Err(Refusal::Invalid("there is no cluster yet".into()));
    };
    let kind = kind.unwrap_or(present.kind);
    let mut set: BTreeMap<NodeId, u8> = present.weights.clone();
    for (name, votes) in weights {
        set.insert(database.node_by_name(name)?.id, *votes);
    }
    set.retain(|_, votes| *votes != 1);
    let named = (witness.as_ref(), *room);
    let witness = wanted_witness(present, kind.witness_kind(), named, *exclusion, entropy);
    Ok(Update::SetQuorum(QuorumConfig {
        kind,
        witness,
        weights: set,
        dynamic: dynamic.unwrap_or(present.dynamic),
    }))
}

/// The register that is there stays the same one, unless another place, kind or exclusion is asked
/// for: then it is one that the service has prepared anew under the identity `entropy`.
fn wanted_witness(
    present: &QuorumConfig,
    kind: Option<WitnessKind>,
    (place, room): (Option<&String>, Option<u64>),
    exclusion: Option<wolfpack_types::register::Exclusion>,
    entropy: u128,
) -> Option<WitnessSpec> {
    let Some(kind) = kind else {
        // Named for a type that has none: the locker refuses it in words.
        return place.map(|place| WitnessSpec {
            place: place.clone(),
            kind: WitnessKind::Disk,
            exclusion: exclusion.unwrap_or_default(),
            id: Guid(entropy),
            checkpoint_bytes: 0,
        });
    };
    let old = present.witness.as_ref();
    let place = place.or_else(|| old.map(|w| &w.place))?;
    let same_place = old.filter(|w| w.place == *place && w.kind == kind);
    let exclusion = exclusion.or_else(|| same_place.map(|w| w.exclusion)).unwrap_or_default();
    if let Some(same) = same_place.filter(|w| w.exclusion == exclusion) {
        return Some(same.clone());
    }
    let id = Guid(entropy);
    let checkpoint_bytes = room.unwrap_or_default();
    Some(WitnessSpec { place: place.clone(), kind, exclusion, id, checkpoint_bytes })
}
