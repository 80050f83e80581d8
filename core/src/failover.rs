//! Which node is to own a group: the leader's plan, as a pure function of what it knows.
//!
//! It proposes; the locker commits; the resource managers act. It never takes a group from a life
//! that may still run it (protocol P7): a lost owner is replaced only when it has released the
//! group, is proven dead, has come back as a newer life, or its `not_before` has passed.
//! Placement follows the preferred node list of the Windows cluster (KB299631 and its FAQ table).

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use wolfpack_types::event::{Cause, Proof};
use wolfpack_types::objects::Group;
use wolfpack_types::update::Update;
use wolfpack_types::{GroupId, Instant, NodeId, NodeInc, Rule, Rules, View};

use crate::database::{Database, FAILOVER_PERIOD_MS};

/// All that the leader's plan depends on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Situation<'a> {
    pub(crate) now: Instant,
    pub(crate) database: &'a Database,
    /// The installed view, which I lead.
    pub(crate) view: &'a View,
    /// Own time at which the last lease of a node outside the view, with margin, is over (P6).
    pub(crate) not_before: &'a BTreeMap<NodeId, Instant>,
    /// Lives of which nothing runs any more, and who proved it.
    pub(crate) dead: &'a BTreeMap<NodeInc, Proof>,
    /// Members that want to leave: their groups go, none comes.
    pub(crate) leaving: &'a BTreeSet<NodeId>,
    /// For random placement.
    pub(crate) random: u64,
    pub(crate) rules: &'a Rules,
}

/// What is to be done now, and when to look again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) updates: Vec<Update>,
    pub(crate) next: Option<Instant>,
    /// Lost owners of groups that are still waited for, and until when.
    pub(crate) waits: BTreeMap<NodeId, Instant>,
}

/// The plan for all groups. The same situation gives the same plan.
pub(crate) fn plan(s: &Situation<'_>) -> Plan {
    let mut plan = Plan::default();
    if s.database.cluster.is_none() {
        return plan;
    }
    let up: BTreeSet<NodeId> = s
        .view
        .members
        .keys()
        .filter(|n| !s.leaving.contains(n) && s.database.takes(**n))
        .copied()
        .collect();
    for group in s.database.groups.values() {
        plan_group(s, group, &up, &mut plan);
    }
    plan
}

fn plan_group(s: &Situation<'_>, group: &Group, up: &BTreeSet<NodeId>, plan: &mut Plan) {
    let random = random_for(s.random, group.id);
    let Some(owner) = group.owner else {
        let to = best_possible(group, None, up, random);
        plan.updates.extend(to.and_then(|to| assign(s, group, to, Cause::Created)));
        return;
    };
    if group.released {
        let cause = match &group.moving {
            Some(moving) => moving.cause.clone(),
            None => Cause::OwnerLeft { node: owner.node },
        };
        let wished = group.moving.as_ref().map(|m| m.to).filter(|to| up.contains(to));
        let to = wished.or_else(|| after_loss(s.database, group, owner.node, up, random));
        plan.updates.extend(to.and_then(|to| assign(s, group, to, cause)));
        return;
    }
    if s.view.has(owner) {
        let goes = s.leaving.contains(&owner.node) || s.database.drains(owner.node);
        // Nowhere to go: it stays where it is until there is.
        let stays = s.database.drains(owner.node) && up.is_empty();
        if goes && !stays && group.moving.is_none() {
            let to = after_loss(s.database, group, owner.node, up, random);
            plan.updates.extend(to.map(|to| Update::MoveGroup {
                group: group.id,
                to,
                cause: Cause::OwnerLeft { node: owner.node },
            }));
        }
        return;
    }
    match may_replace(s, owner) {
        Ok(cause) => {
            let to = if matches!(cause, Cause::OwnerRestarted { .. }) {
                best_possible(group, Some(owner.node), up, random)
            } else {
                after_loss(s.database, group, owner.node, up, random)
            };
            plan.updates.extend(to.and_then(|to| assign(s, group, to, cause)));
        }
        Err(Some(at)) => {
            plan.waits.insert(owner.node, at);
            plan.next = Some(plan.next.map_or(at, |next| next.min(at)));
        }
        Err(None) => {}
    }
}

/// P7 for a lost owner: the cause that lets it be replaced, or when that will be, if that is known.
fn may_replace(s: &Situation<'_>, owner: NodeInc) -> Result<Cause, Option<Instant>> {
    let node = owner.node;
    if let Some(&proof) = s.dead.get(&owner) {
        return Ok(Cause::OwnerProvenDead { node, proof });
    }
    // A member promises only after the leftovers of its former life are gone (P3).
    if s.view.members.get(&node).is_some_and(|m| m.inc > owner.inc) {
        return Ok(Cause::OwnerRestarted { node });
    }
    let lost = || Cause::OwnerLost { node, view: s.view.ballot.to_string() };
    if s.rules.broken(Rule::NoOwnerWait) {
        return Ok(lost());
    }
    match s.not_before.get(&node) {
        Some(&at) if s.now >= at => Ok(lost()),
        Some(&at) => Err(Some(at)),
        None => Err(None),
    }
}

fn assign(s: &Situation<'_>, group: &Group, to: NodeId, cause: Cause) -> Option<Update> {
    let member = s.view.members.get(&to)?;
    let owner = NodeInc::new(to, member.inc);
    Some(Update::AssignOwner { group: group.id, owner, cause, after: group.owned_since })
}

/// Another draw for each group, so that the groups of a lost node spread out.
pub(crate) fn random_for(random: u64, group: GroupId) -> u64 {
    #[expect(clippy::cast_possible_truncation, reason = "both halves are mixed in")]
    let id = group.0.0 as u64 ^ (group.0.0 >> 64) as u64;
    crate::random::Random::new(random ^ id).next()
}

fn pick(from: &BTreeSet<NodeId>, random: u64) -> Option<NodeId> {
    let count = u64::try_from(from.len()).ok().filter(|&n| n > 0)?;
    from.iter().nth(usize::try_from(random % count).unwrap_or(0)).copied()
}

/// "Move to best possible": the highest on the preferred list that is up; where the list does not
/// help, where it was last (`home`, if that is up), else at random.
pub(crate) fn best_possible(
    group: &Group,
    home: Option<NodeId>,
    up: &BTreeSet<NodeId>,
    random: u64,
) -> Option<NodeId> {
    let preferred = group.preferred.iter().find(|n| up.contains(n)).copied();
    preferred.or_else(|| home.filter(|n| up.contains(n))).or_else(|| pick(up, random))
}

/// The owner is gone or goes: the next below it on the preferred list; the list wraps only where
/// it names all nodes; where it does not help, at random. The former owner itself only if nobody
/// else is up.
pub(crate) fn after_loss(
    database: &Database,
    group: &Group,
    from: NodeId,
    up: &BTreeSet<NodeId>,
    random: u64,
) -> Option<NodeId> {
    let mut others = up.clone();
    let itself_up = others.remove(&from);
    next_on_list(database, group, from, &others)
        .or_else(|| pick(&others, random))
        .or_else(|| itself_up.then_some(from))
}

fn next_on_list(
    database: &Database,
    group: &Group,
    from: NodeId,
    others: &BTreeSet<NodeId>,
) -> Option<NodeId> {
    let list = &group.preferred;
    let position = list.iter().position(|&n| n == from)?;
    let below = list.get(position + 1..).unwrap_or_default();
    let complete = database.nodes.keys().all(|n| list.contains(n));
    let above = if complete { list.get(..position).unwrap_or_default() } else { &[] };
    below.iter().chain(above).find(|n| others.contains(n)).copied()
}

/// What becomes of a group of which a resource has failed beyond its restarts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum AfterFailure {
    Move(NodeId),
    /// It stays, failed; why, in words.
    Stay(String),
}

/// Decides it, by the failover threshold (nodes - 1 within 6 h, at least one) and by who is up.
/// Without a preferred list a resource failure walks the node numbers in a circle (KB299631).
pub(crate) fn after_failure(
    database: &Database,
    group: &Group,
    from: NodeId,
    up: &BTreeSet<NodeId>,
    wall_ms: u64,
    random: u64,
) -> AfterFailure {
    let threshold = database.nodes.len().saturating_sub(1).max(1);
    let moves = group
        .failovers_wall_ms
        .iter()
        .filter(|&&at| wall_ms.saturating_sub(at) < FAILOVER_PERIOD_MS)
        .count();
    if moves >= threshold {
        return AfterFailure::Stay(format!(
            "the group has moved {moves} times because of failures within 6 hours, \
             and {threshold} is its threshold"
        ));
    }
    let others: BTreeSet<NodeId> = up.iter().copied().filter(|&n| n != from).collect();
    let to = if group.preferred.is_empty() {
        others.range(from..).next().or_else(|| others.first()).copied()
    } else {
        next_on_list(database, group, from, &others).or_else(|| pick(&others, random))
    };
    to.map_or_else(
        || AfterFailure::Stay("no other node is up to take the group".into()),
        AfterFailure::Move,
    )
}
