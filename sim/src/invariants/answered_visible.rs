//! P10.15: an answered update is visible at every member of the current view: the leader's, at the
//! moment at which it says that the update is done.

use wolfpack_types::{NodeInc, Seq};

use super::{Verdict, holds};
use crate::oracle::Oracle;

/// `who` says that an update is done. Only a leader knows it; others pass on what they were told.
pub fn answered(oracle: &Oracle, who: NodeInc, seq: Seq) -> Verdict {
    let Some(facts) = oracle.lives.get(&who.node) else { return Ok(()) };
    let Some(view) = facts.view.as_ref().filter(|v| v.leader() == who.node) else { return Ok(()) };
    for member in oracle.lives.values().filter(|f| view.has(f.who)) {
        holds(member.sight.applied >= seq, "P10.15 answered is visible", || {
            format!(
                "{who} answers that update {seq} is done; member {} has applied {} only",
                member.who, member.sight.applied
            )
        })?;
    }
    Ok(())
}
