//! P9: a store goes from a view to another only along one lineage: the forces that the first descends
//! from are a beginning of those of the second. So two forced quorums never merge by themselves; whoever
//! is of the other lineage gives its copy up and comes back as a learner.

use wolfpack_types::{NodeInc, View};

use super::{Verdict, holds};

/// A store accepts a view after another.
pub fn accepted(before: Option<&View>, after: &View, who: NodeInc) -> Verdict {
    let Some(before) = before else { return Ok(()) };
    holds(after.forces.starts_with(&before.forces), "P9 forces never merge", || {
        format!(
            "{who} goes from view {} of forces {:?} to view {} of forces {:?}",
            before.ballot, before.forces, after.ballot, after.forces
        )
    })
}
