//! P10.3: every established view starts with all updates committed by lower ballots, at the same
//! positions.

use wolfpack_types::{Ballot, NodeInc, Seq, View};

use super::{Verdict, holds};
use crate::oracle::Oracle;

const NAME: &str = "P10.3 nothing lost";

/// A view is established: `who`, the first to install it, has its base log.
pub fn established(oracle: &Oracle, who: NodeInc, view: &View) -> Verdict {
    let log = oracle.lives.get(&who.node).map(|facts| &facts.log);
    for (&seq, &(value, by)) in &oracle.committed {
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
pub fn committed(oracle: &Oracle, by: Ballot, seq: Seq) -> Verdict {
    if oracle.committed.get(&seq).is_some_and(|&(_, lowest)| lowest <= by) {
        return Ok(());
    }
    let lineage = oracle.views.get(&by).map(|view| &view.forces);
    for (ballot, later) in oracle.established.range(by..).filter(|(b, _)| **b > by) {
        if lineage.is_some_and(|forces| *forces != later.view.forces) {
            continue;
        }
        holds(seq <= later.view.base_seq, NAME, || {
            format!(
                "update {seq} is committed by {by}; view {ballot} was established with {} only",
                later.view.base_seq
            )
        })?;
    }
    Ok(())
}
