//! P10.15: an answered update is visible at every member of the current view.

use wolfpack_types::{NodeInc, Seq};

use super::{Verdict, holds};
use crate::oracle::Oracle;

/// A core tells an administrator that an update is done.
pub fn answered(oracle: &Oracle, who: NodeInc, seq: Seq) -> Verdict {
    let Some(facts) = oracle.lives.get(&who.node) else { return Ok(()) };
    let Some(view) = &facts.view else { return Ok(()) };
    let members = oracle.lives.values().filter(|f| view.has(f.who));
    for member in members.filter(|f| f.installed() == view.ballot) {
        holds(member.sight.applied >= seq, "P10.15 answered is visible", || {
            format!(
                "{who} answers that update {seq} is done; member {} has applied {} only",
                member.who, member.sight.applied
            )
        })?;
    }
    Ok(())
}
