//! P10.21: what must come about when nothing goes wrong any more: one view with everybody in it,
//! every group online on exactly one node, and then quiet.

use std::collections::BTreeSet;
use std::time::Duration;

use wolfpack_types::NodeId;

use crate::cluster::Cluster;
use crate::invariants::{Verdict, Violation};

const NAME: &str = "P10.21 liveness";

/// The cluster and its groups must be there after this, starting from nothing.
pub const SETUP: Duration = Duration::from_secs(60);

/// Once everything is mended, one view and online groups must be there after this. It covers the
/// longest single wait there is, a pruned node's patience before it asks to join again (which
/// doubles), on top of leases, register leases and challenges.
pub const MENDED: Duration = Duration::from_secs(90);

/// One view, installed by everybody.
#[must_use]
pub fn in_one_view(cluster: &Cluster) -> bool {
    let mut ballots = BTreeSet::new();
    for id in cluster.ids() {
        let Some(facts) = cluster.oracle.lives.get(&id) else { return false };
        let Some(view) = &facts.view else { return false };
        if cluster.node(id).paused || view.members.len() != cluster.nodes.len() {
            return false;
        }
        ballots.insert(view.ballot);
    }
    ballots.len() == 1
}

/// These nodes are together in one view, which has nobody else in it.
#[must_use]
pub fn together(cluster: &Cluster, wanted: &[NodeId]) -> bool {
    let mut ballots = BTreeSet::new();
    for id in wanted {
        let view = cluster.oracle.lives.get(id).and_then(|facts| facts.view.as_ref());
        let Some(view) = view else { return false };
        if !view.members.keys().eq(wanted) {
            return false;
        }
        ballots.insert(view.ballot);
    }
    ballots.len() == 1
}

/// Every group runs, completely, on one node, which has authority for it.
#[must_use]
pub fn groups_online(cluster: &Cluster) -> bool {
    cluster.admin.groups().iter().all(|name| {
        let mut at = cluster.nodes.iter().filter(|n| n.machine.is_online(name));
        let (Some(owner), None) = (at.next(), at.next()) else { return false };
        cluster.oracle.lives.get(&owner.id).is_some_and(|facts| {
            facts.sight.authority.iter().any(|g| cluster.oracle.group_names.get(g) == Some(name))
        })
    })
}

/// Everything is as it should be.
#[must_use]
pub fn settled(cluster: &Cluster) -> bool {
    cluster.admin.is_done() && in_one_view(cluster) && groups_online(cluster)
}

/// Lets the cluster settle within `bound`.
pub fn settles(cluster: &mut Cluster, bound: Duration) -> Verdict {
    if cluster.run_while_not(bound, bound / 1000, settled) || cluster.violation().is_some() {
        return Ok(());
    }
    Err(Violation {
        invariant: NAME,
        what: format!("not settled after {bound:?}: {}", why(cluster)),
    })
}

/// Three leases without a new view or a move make a cluster quiet.
const QUIET: u32 = 3;

/// Periods of which one must be quiet: disk commands of the time of faults may still be on their
/// way, and end in renewals that fail.
const PERIODS_MAX: u32 = 15;

/// A settled cluster becomes quiet.
pub fn becomes_quiet(cluster: &mut Cluster) -> Verdict {
    for _ in 0..PERIODS_MAX {
        let before = (cluster.oracle.views.len(), cluster.tally.moves);
        cluster.run_for(cluster.params.times.lease * QUIET);
        if cluster.violation().is_some() {
            return Ok(());
        }
        if (cluster.oracle.views.len(), cluster.tally.moves) == before && settled(cluster) {
            return Ok(());
        }
    }
    let what = format!("a settled cluster does not become quiet: {}", why(cluster));
    Err(Violation { invariant: NAME, what })
}

fn why(cluster: &Cluster) -> String {
    let mut parts = Vec::new();
    for id in cluster.ids() {
        let state = cluster.oracle.lives.get(&id).map_or_else(
            || format!("node {id} is down"),
            |facts| {
                facts.view.as_ref().map_or_else(
                    || format!("{} has no view", facts.who),
                    |view| format!("{} is in {}", facts.who, crate::tell::view(view)),
                )
            },
        );
        parts.push(state);
    }
    for name in cluster.admin.groups() {
        let runs: Vec<String> = cluster
            .oracle
            .runs
            .get(name)
            .into_iter()
            .flatten()
            .map(|(life, _)| life.to_string())
            .collect();
        parts.push(format!("group {name} runs at {runs:?}"));
    }
    if !cluster.admin.is_done() {
        parts.push("an administrator's request is not done".into());
    }
    parts.join("; ")
}
