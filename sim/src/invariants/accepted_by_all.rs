//! P10.7: an established view is durably accepted by all its members, the witness where it takes
//! part, and so by more than half under its votes, and under the former votes where they count.

use wolfpack_types::View;

use super::{Verdict, holds, learners_uncounted};
use crate::oracle::Oracle;

const NAME: &str = "P10.7 accepted by all";

/// A view is installed for the first time.
pub fn established(oracle: &Oracle, view: &View) -> Verdict {
    let accepted = oracle.accepted.get(&view.ballot);
    for member in view.lives() {
        let durable = accepted.is_some_and(|lives| lives.contains(&member));
        holds(durable, NAME, || {
            format!("view {} is established; {member} has not durably accepted it", view.ballot)
        })?;
    }
    let witness = oracle.witness_accepted.contains(&view.ballot);
    holds(!view.witness_in || witness, NAME, || {
        format!("view {} is established; the witness has not accepted it", view.ballot)
    })?;
    for table in std::iter::once(&view.votes).chain(&view.prev_votes) {
        let enough = table.exceeds_half(view.members.keys().copied(), view.witness_in);
        holds(enough, NAME, || format!("view {} is no majority: {view:?}", view.ballot))?;
        learners_uncounted::established(oracle, view, table)?;
    }
    Ok(())
}
