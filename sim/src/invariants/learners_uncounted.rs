//! P10.19: a learner, whose store has forgotten what it promised, counts in no majority.

use wolfpack_types::{View, VoteTable};

use super::{Verdict, holds};
use crate::oracle::Oracle;

/// A view is established: those of its members that are no learners are a majority of `table`.
pub fn established(oracle: &Oracle, view: &View, table: &VoteTable) -> Verdict {
    let counted =
        view.members.iter().filter(|(_, m)| !oracle.learners.contains(&m.store)).map(|(&n, _)| n);
    let enough = table.exceeds_half(counted, view.witness_in);
    holds(enough, "P10.19 learners do not count", || {
        format!("view {} is a majority with its learners only: {view:?}", view.ballot)
    })
}
