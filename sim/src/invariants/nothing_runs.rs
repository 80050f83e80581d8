//! P10.18: who says `Exit` or proves its end runs nothing.

use wolfpack_types::NodeInc;

use super::{Verdict, holds};
use crate::oracle::Oracle;

/// A life says that it has ended everything.
pub fn exit(oracle: &Oracle, who: NodeInc) -> Verdict {
    let running = oracle.runs.iter().find(|(_, lives)| lives.contains_key(&who));
    holds(running.is_none(), "P10.18 proofs are true", || {
        format!("{who} says that nothing of it runs; it runs group {:?}", running.map(|(g, _)| g))
    })
}
