//! One run of one seed, from nothing: create, trouble, mend, settle.

use std::collections::BTreeMap;
use std::time::Duration;

use wolfpack_types::{NodeInc, Rules};

use crate::cluster::{Cluster, Tally};
use crate::draw::Params;
use crate::event::Event;
use crate::invariants::Violation;
use crate::liveness;

/// How a run ended.
#[derive(Clone, Debug)]
pub struct Outcome {
    pub params: Params,
    pub tally: Tally,
    pub violation: Option<Violation>,
    /// Of everything that happened, in order.
    pub digest: u64,
    /// The story, where it was wanted.
    pub lines: Vec<String>,
}

/// Runs a seed under these rules.
#[must_use]
pub fn run(seed: u64, rules: &Rules, story: bool) -> Outcome {
    run_with(Params::draw(seed), rules, story, true)
}

/// Runs with given parameters. `mend`: with the last phase, in which everything must come right.
#[must_use]
pub fn run_with(params: Params, rules: &Rules, story: bool, mend: bool) -> Outcome {
    let mut cluster = Cluster::new(params, rules.clone(), story);
    live(&mut cluster, mend);
    finish(&cluster)
}

/// Runs a seed and records every life of every node as the service does.
#[must_use]
pub fn record(seed: u64, rules: &Rules) -> (Outcome, BTreeMap<NodeInc, Vec<u8>>) {
    let mut cluster = Cluster::new(Params::draw(seed), rules.clone(), false);
    cluster.recordings.wanted = true;
    live(&mut cluster, true);
    (finish(&cluster), cluster.recordings.take())
}

fn live(cluster: &mut Cluster, mend: bool) {
    for id in cluster.ids() {
        let wait = cluster.dice.span(Duration::from_millis(300));
        cluster.after(wait, Event::Start(id));
    }
    cluster.soon(Event::Administer);
    let verdict = liveness::settles(cluster, liveness::SETUP);
    cluster.judge(verdict);
    cluster.begin_chaos();
    cluster.run_for(cluster.params.chaos);
    if mend && cluster.violation().is_none() {
        cluster.end_chaos();
        if !cluster.majority_is_whole() {
            cluster.tally.blocked += 1;
            cluster.run_for(cluster.params.times.lease * 6);
            return;
        }
        let verdict = liveness::settles(cluster, liveness::MENDED);
        cluster.judge(verdict);
    }
    if mend && cluster.violation().is_none() {
        let verdict = liveness::becomes_quiet(cluster);
        cluster.judge(verdict);
    }
}

/// What a cluster has come to.
#[must_use]
pub fn finish(cluster: &Cluster) -> Outcome {
    let mut tally = cluster.tally;
    tally.views = cluster.oracle.established.len() as u64;
    tally.sim_ns = cluster.now;
    let commits = cluster.oracle.lineages.values().map(|lineage| lineage.committed.len()).max();
    tally.commits = commits.unwrap_or(0) as u64;
    Outcome {
        params: cluster.params.clone(),
        tally,
        violation: cluster.violation().cloned(),
        digest: cluster.story.digest(),
        lines: cluster.story.lines().to_vec(),
    }
}
