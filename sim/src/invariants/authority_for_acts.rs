//! P10.17: a core starts something of a group only with authority for it.

use wolfpack_types::NodeInc;

use super::{Verdict, holds};
use crate::oracle::Oracle;

const NAME: &str = "P10.17 authority for acts";

/// A core looks: authority ends with the lease. (The core may hear a little later than the machine
/// that a lease has become shorter; monitors and guard go by the driver's word.)
pub fn lease(oracle: &Oracle, who: NodeInc) -> Verdict {
    let Some(facts) = oracle.lives.get(&who.node) else { return Ok(()) };
    holds(oracle.now < facts.lease_most, NAME, || {
        let late = (oracle.now - facts.lease_most) / 1000;
        format!("{who} has authority for {:?} {late} us after its lease", facts.sight.authority)
    })
}

/// A core tells its monitor to bring a resource of a group online.
pub fn online(oracle: &Oracle, who: NodeInc, group: &str) -> Verdict {
    let Some(facts) = oracle.lives.get(&who.node) else { return Ok(()) };
    let may = facts
        .sight
        .authority
        .iter()
        .any(|g| oracle.group_names.get(g).is_some_and(|name| name == group));
    holds(may, NAME, || {
        format!("{who} starts something of group '{group}' without authority for it")
    })
}
