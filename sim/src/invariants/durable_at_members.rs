//! P10.5: after a promise of a higher ballot by any member nothing new commits in a view. Checked
//! as: when the leader takes an entry for committed, every member had made it durable before it
//! promised anything higher.

use wolfpack_types::{Seq, View};

use super::{Verdict, holds};
use crate::oracle::Oracle;

/// The leader of `view` takes an entry beyond the view's base for committed.
pub fn committed(oracle: &Oracle, view: &View, seq: Seq) -> Verdict {
    let durable_at = oracle.appended.get(&(view.ballot, seq));
    for member in view.lives() {
        let durable = durable_at.is_some_and(|lives| lives.contains(&member));
        holds(durable, "P10.5 a promise ends the older view", || {
            format!(
                "update {seq} is committed in view {}; {member} had not made it durable before \
                 promising a higher ballot",
                view.ballot
            )
        })?;
    }
    Ok(())
}
