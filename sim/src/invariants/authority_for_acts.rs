//! P10.17: a core starts something of a group only with authority for it.

use wolfpack_types::NodeInc;

use super::{Verdict, holds};
use crate::oracle::Oracle;

/// A core tells its monitor to bring a resource of a group online.
pub fn online(oracle: &Oracle, who: NodeInc, group: &str) -> Verdict {
    let Some(facts) = oracle.lives.get(&who.node) else { return Ok(()) };
    let may = facts
        .sight
        .authority
        .iter()
        .any(|g| oracle.group_names.get(g).is_some_and(|name| name == group));
    holds(may, "P10.17 authority for acts", || {
        format!("{who} starts something of group '{group}' without authority for it")
    })
}
