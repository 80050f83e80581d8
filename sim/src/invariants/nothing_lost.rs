//! P10.3: every established view starts with all updates committed by lower ballots, at the same
//! positions.

use wolfpack_types::{NodeInc, Seq, View};

use super::{Verdict, holds};
use crate::oracle::Oracle;

const NAME: &str = "P10.3 nothing lost";

/// A view is established: `who`, the first to install it, has its base log.
pub fn established(oracle: &Oracle, who: NodeInc, view: &View) -> Verdict {
    let log = oracle.lives.get(&who.node).map(|facts| &facts.log);
    let lineage = oracle.lineages.get(&view.forces);
    for (&seq, &(value, by)) in lineage.iter().flat_map(|lineage| &lineage.committed) {
        if by >= view.ballot {
            continue;
        }
        holds(seq <= view.base_seq, NAME, || {
            format!(
                "view {} starts with update {}; {seq} was committed by {by}",
                view.ballot, view.base_seq
            )
        })?;
        let here = log.and_then(|log| log.get(&seq));
        holds(here.is_none_or(|&h| h == value), NAME, || {
            format!("view {} starts with another update {seq} than {by} committed", view.ballot)
        })?;
    }
    Ok(())
}

/// An entry is committed by a ballot: views of higher ballots that are established must have it.
pub fn committed(oracle: &Oracle, by: &View, seq: Seq) -> Verdict {
    let known = oracle.lineages.get(&by.forces).and_then(|lineage| lineage.committed.get(&seq));
    if known.is_some_and(|&(_, lowest)| lowest <= by.ballot) {
        return Ok(());
    }
    for (ballot, later) in oracle.established.range(by.ballot..).filter(|(b, _)| **b > by.ballot) {
        if by.forces != later.view.forces {
            continue;
        }
        holds(seq <= later.view.base_seq, NAME, || {
            format!(
                "update {seq} is committed by {}; view {ballot} was established with {} only",
                by.ballot, later.view.base_seq
            )
        })?;
    }
    Ok(())
}
