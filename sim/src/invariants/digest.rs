//! P10.14: equal positions have equal digests on all nodes. (That only committed entries are applied
//! is one with P10.2 and P10.3: what a node applies, the oracle takes for committed.)

use wolfpack_types::NodeInc;

use super::{Verdict, holds};
use crate::oracle::Oracle;
use crate::sight::Sight;

const NAME: &str = "P10.14 same database";

/// A core has handled an input.
pub fn applied(oracle: &mut Oracle, who: NodeInc, before: &Sight, sight: &Sight) -> Verdict {
    if sight.applied == before.applied && sight.digest == before.digest {
        return Ok(());
    }
    // Of which lineage a copy is, is not seen before a view of it is installed.
    if sight.installed.is_none() && oracle.lineages.len() > 1 {
        return Ok(());
    }
    let forces = oracle.forces.get(&who).cloned().unwrap_or_default();
    let digests = &mut oracle.lineage(&forces).digests;
    let known = *digests.entry(sight.applied).or_insert(sight.digest);
    holds(known == sight.digest, NAME, || {
        format!("the database of {who} at update {} differs from another node's", sight.applied)
    })
}
