//! P10.11: the lease of every life outside an established view ends by `not_before - M` of that
//! view, in true time, crashed lives included until everything of them is ended.

use wolfpack_types::{Ballot, NodeInc};

use super::{Verdict, holds};
use crate::clock::Time;
use crate::oracle::Oracle;

/// Nanoseconds that conversions between clocks may lose.
const ROUNDING: Time = 1_000;

/// A view is established: all leases there are.
pub fn established(oracle: &Oracle, ballot: Ballot) -> Verdict {
    let lives = oracle
        .lives
        .values()
        // A clock that was set back is not true time: the pause detector's matter (`freeze`).
        .filter(|f| f.view.is_some() && f.installed() < ballot && f.set_back == 0)
        .map(|f| (f.who, f.installed(), f.lease_end));
    let orphans = oracle.orphans.iter().map(|o| (o.who, o.installed, o.lease_end));
    for (who, installed, end) in lives.chain(orphans) {
        life(oracle, who, installed, end)?;
    }
    Ok(())
}

/// A life with `installed` has a lease to `end`: the bounds of all later established views.
pub fn life(oracle: &Oracle, who: NodeInc, installed: Ballot, end: Time) -> Verdict {
    if end <= oracle.now {
        return Ok(());
    }
    // What it has accepted counts, installed or not: its lease is of that lineage already.
    let forces = oracle.forces.get(&who);
    for (ballot, later) in oracle.established.range(installed..).rev() {
        if *ballot <= installed || later.view.has(who) {
            continue;
        }
        // Of another forced quorum: that nobody of this one runs, people have vouched for (P9).
        if forces.is_some_and(|forces| !later.view.forces.starts_with(forces.as_slice())) {
            continue;
        }
        let Some(&limit) = later.lease_limits.get(&who.node) else { continue };
        holds(end <= limit.saturating_add(ROUNDING), "P10.11 lease within its bound", || {
            format!(
                "the lease of {who} (view {installed}) ends {} us after not_before - M of view \
                 {ballot}, which excludes it",
                (end - limit) / 1000
            )
        })?;
    }
    Ok(())
}
