//! P10.9: a life that an established view excludes is in no later accepted view; and a node
//! installs a view only if its own life is a member.

use wolfpack_types::{NodeInc, View};

use super::{Verdict, holds};
use crate::oracle::Oracle;

const NAME: &str = "P10.9 the excluded stay out";

/// A view is durably accepted somewhere.
pub fn accepted(oracle: &Oracle, view: &View) -> Verdict {
    for member in view.lives() {
        let mut was_member = false;
        // A view of another forced quorum excludes nobody of this one (P9).
        let same = |forces: &[_]| view.forces.starts_with(forces);
        let earlier = oracle.established.range(..view.ballot);
        for (ballot, earlier) in earlier.filter(|(_, e)| same(&e.view.forces)) {
            let is_member = earlier.view.has(member);
            holds(is_member || !was_member, NAME, || {
                format!("view {} has {member}, whom view {ballot} has excluded", view.ballot)
            })?;
            was_member |= is_member;
        }
    }
    Ok(())
}

/// A view is established: later views that were accepted before this was known are looked at again.
pub fn established(oracle: &Oracle, view: &View) -> Verdict {
    for later in oracle.views.range(view.ballot..).map(|(_, v)| v) {
        if later.ballot > view.ballot && oracle.accepted.contains_key(&later.ballot) {
            accepted(oracle, later)?;
        }
    }
    Ok(())
}

/// A node installs a view.
pub fn installed(who: NodeInc, view: &View) -> Verdict {
    holds(view.has(who), NAME, || {
        format!("{who} installs view {}, in which it is no member", view.ballot)
    })
}
