//! What is measured of the simulator and by it: how fast time passes, and what a regroup costs in
//! messages and in simulated time as clusters grow. The clock that measures is the caller's.

use std::time::Duration;

use wolfpack_types::membership::QuorumType;
use wolfpack_types::register::Exclusion;
use wolfpack_types::times::Profile;
use wolfpack_types::{NodeId, Rules};

use crate::clock::Time;
use crate::cluster::{Cluster, End, Tally};
use crate::draw::Params;
use crate::event::Event;
use crate::invariants::Violation;
use crate::liveness;
use crate::run::run_with;

/// Runs seeds with three nodes, the default times and faults, one after the other, while `go_on`
/// says so. Answers what happened, and the first violation with its seed.
pub fn three_nodes(
    first: u64,
    mut go_on: impl FnMut() -> bool,
) -> (u64, Tally, Option<(u64, Violation)>) {
    let mut tally = Tally::default();
    let mut seed = first;
    while go_on() {
        let mut params = Params::draw_of(seed, 3);
        params.set_profile(Profile::Standard);
        let outcome = run_with(params, &Rules::ALL, false, true);
        tally = tally.plus(outcome.tally);
        if let Some(violation) = outcome.violation {
            return (seed - first + 1, tally, Some((seed, violation)));
        }
        seed += 1;
    }
    (seed - first, tally, None)
}

/// What one regroup took.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Regroup {
    pub nodes: u8,
    /// Messages between cores from the loss on until every survivor had installed the new view.
    pub messages: u64,
    /// From the loss of the node until the first survivor reports it unreachable.
    pub detection: Duration,
    /// From then until every survivor had installed the new view.
    pub regroup: Duration,
}

/// The leader of a quiet cluster of so many nodes, with the default times and a network of 300 us
/// one way, loses its power.
///
/// # Errors
/// A cluster that does not come up or does not regroup.
pub fn regroup(nodes: u8) -> Result<Regroup, Violation> {
    let quorum = if nodes == 2 { QuorumType::NodeAndDisk } else { QuorumType::Majority };
    let mut params = Params::quiet(nodes, quorum, Exclusion::None);
    params.set_profile(Profile::Standard);
    let mut cluster = Cluster::new(params, Rules::ALL, false);
    for id in cluster.ids() {
        cluster.soon(Event::Start(id));
    }
    cluster.soon(Event::Administer);
    liveness::settles(&mut cluster, liveness::SETUP)?;
    liveness::becomes_quiet(&mut cluster)?;
    let leader = cluster.oracle.established.values().next_back().map(|e| e.view.leader());
    let Some(leader) = leader else { return Err(not("a leader")) };
    let before = cluster.tally.messages;
    let lost_at = cluster.now;
    cluster.silence_reported = None;
    cluster.end(leader, End::PowerCut);
    let survivors: Vec<NodeId> = cluster.ids().into_iter().filter(|&id| id != leader).collect();
    let done = cluster.run_while_not(Duration::from_secs(60), Duration::from_micros(100), |c| {
        liveness::together(c, &survivors)
    });
    let Some(noticed) = cluster.silence_reported.filter(|_| done) else {
        return Err(cluster.violation().cloned().unwrap_or_else(|| not("a view of the survivors")));
    };
    Ok(Regroup {
        nodes,
        messages: cluster.tally.messages - before,
        detection: span(noticed - lost_at),
        regroup: span(cluster.now - noticed),
    })
}

const fn span(nanos: Time) -> Duration {
    Duration::from_nanos(nanos)
}

fn not(what: &str) -> Violation {
    Violation { invariant: "P10.21 liveness", what: format!("there is not {what}") }
}
