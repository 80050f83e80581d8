//! P10.8: the accepts of an established view and the promises of the next share a voter.

use wolfpack_types::View;

use super::{Verdict, holds};
use crate::oracle::Oracle;

/// A view is installed for the first time; its neighbours by ballot are looked at.
pub fn established(oracle: &Oracle, view: &View) -> Verdict {
    let below = oracle.established.range(..view.ballot).next_back();
    let above = oracle.established.range(view.ballot..).next();
    for other in below.into_iter().chain(above).map(|(_, e)| &e.view) {
        // A forced quorum owes its predecessor no voter: people vouch for it.
        if other.forces != view.forces {
            continue;
        }
        let (older, newer) = if other.ballot < view.ballot { (other, view) } else { (view, other) };
        let by_node = older.members.keys().any(|&n| newer.has_node(n) && older.votes.of(n) > 0);
        let by_witness = older.witness_in && newer.witness_in && older.votes.witness > 0;
        holds(by_node || by_witness, "P10.8 shared voter", || {
            format!("views {} and {} share no voter", older.ballot, newer.ballot)
        })?;
    }
    Ok(())
}
