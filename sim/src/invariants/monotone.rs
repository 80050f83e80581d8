//! P10.6: promised, accepted, established and sent ballots and the incarnation never decrease in a
//! store, nor do `mbal` and `bal` in a slot; what is accepted was promised.

use wolfpack_types::register::Slot;
use wolfpack_types::store::Record;
use wolfpack_types::{Ballot, NodeInc};

use super::{Verdict, holds};

const NAME: &str = "P10.6 never back";

/// A record becomes durable.
pub fn record(before: &Record, after: &Record, who: NodeInc) -> Verdict {
    let accepted = |r: &Record| r.accepted.as_ref().map_or(Ballot::ZERO, |v| v.ballot);
    let pairs = [
        ("promised", before.promised, after.promised),
        ("accepted", accepted(before), accepted(after)),
        ("established", before.established, after.established),
        ("max_ballot", before.max_ballot, after.max_ballot),
        ("accepted above promised:", accepted(after), after.promised),
    ];
    for (what, low, high) in pairs {
        holds(low <= high, NAME, || format!("{who}: {what} {low}, then {high}"))?;
    }
    let same = before.incarnation == after.incarnation && before.store == after.store;
    holds(same && after.incarnation == who.inc, NAME, || {
        format!(
            "{who} changes its own incarnation or store: {} of {}, then {} of {}",
            before.incarnation.0, before.store, after.incarnation.0, after.store
        )
    })
}

/// A slot is written over.
pub fn slot(before: &Slot, after: &Slot) -> Verdict {
    let who = NodeInc::new(after.node, after.inc);
    for (what, low, high) in [("mbal", before.mbal, after.mbal), ("bal", before.bal, after.bal)] {
        holds(low <= high, NAME, || format!("slot of {who}: {what} {low}, then {high}"))?;
    }
    Ok(())
}
