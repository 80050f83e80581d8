//! P10.2: an index of the log is committed with one value only (in each lineage of forces, P9).

use wolfpack_types::{Seq, View};

use super::{Verdict, holds};
use crate::oracle::Oracle;

/// Some node takes an entry for committed, under its installed view.
pub fn committed(oracle: &mut Oracle, view: &View, seq: Seq, value: u64) -> Verdict {
    let by = view.ballot;
    let committed = &mut oracle.lineage(&view.forces).committed;
    let (old, lowest) = *committed.entry(seq).or_insert((value, by));
    holds(old == value, "P10.2 one value", || {
        format!("update {seq} was committed by ballot {lowest}; another value of it by {by}")
    })?;
    if by < lowest {
        committed.insert(seq, (value, by));
    }
    Ok(())
}
