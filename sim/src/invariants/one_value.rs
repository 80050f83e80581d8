//! P10.2: an index of the log is committed with one value only.

use wolfpack_types::{Ballot, Seq};

use super::{Verdict, holds};
use crate::oracle::Oracle;

/// Some node takes an entry for committed, under its installed view.
pub fn committed(oracle: &mut Oracle, by: Ballot, seq: Seq, value: u64) -> Verdict {
    let (old, lowest) = *oracle.committed.entry(seq).or_insert((value, by));
    holds(old == value, "P10.2 one value", || {
        format!("update {seq} was committed by ballot {lowest}; another value of it by {by}")
    })?;
    if by < lowest {
        oracle.committed.insert(seq, (value, by));
    }
    Ok(())
}
