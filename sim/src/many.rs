//! Many seeds at the same time, summed up. Each run is alone with its seed; threads only share the
//! counter that hands out the seeds.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use wolfpack_types::Rules;

use crate::cluster::Tally;
use crate::invariants::Violation;

/// What many runs have come to.
#[derive(Debug, Default)]
pub struct Summary {
    pub runs: u64,
    pub tally: Tally,
    /// Runs by quorum type and exclusion.
    pub kinds: BTreeMap<String, u64>,
    /// By seed, ascending.
    pub violations: Vec<(u64, Violation)>,
}

/// Runs these seeds, `jobs` at a time, while `go_on` says so.
#[must_use]
pub fn run_all(
    seeds: Range<u64>,
    jobs: usize,
    rules: &Rules,
    go_on: &(dyn Fn() -> bool + Sync),
) -> Summary {
    let next = AtomicU64::new(seeds.start);
    let summary = Mutex::new(Summary::default());
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end || !go_on() {
                        return;
                    }
                    let outcome = crate::run::run(seed, rules, false);
                    let mut summary = summary.lock().unwrap_or_else(PoisonError::into_inner);
                    summary.runs += 1;
                    *summary.kinds.entry(outcome.params.kind()).or_default() += 1;
                    summary.tally = summary.tally.plus(outcome.tally);
                    summary.violations.extend(outcome.violation.map(|v| (seed, v)));
                }
            });
        }
    });
    let mut summary = summary.into_inner().unwrap_or_else(PoisonError::into_inner);
    summary.violations.sort_by_key(|&(seed, _)| seed);
    summary
}

/// The first of these seeds that breaks an invariant.
#[must_use]
pub fn first_violation(seeds: Range<u64>, rules: &Rules) -> Option<(u64, Violation)> {
    for seed in seeds {
        // Only safety counts for a mutant: the last phase would find it slow, not wrong.
        let outcome = crate::run::run_with(crate::draw::Params::draw(seed), rules, false, false);
        if let Some(violation) = outcome.violation {
            return Some((seed, violation));
        }
    }
    None
}
