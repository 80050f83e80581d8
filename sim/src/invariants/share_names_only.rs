//! P10.13: a share stores views, no log. A view that only the share knows says who must be waited for
//! and yields nothing: the store of some member of an established view had accepted the established
//! view before it, or one that came after that (forced quorum apart, which takes the log of whoever is
//! there).

use wolfpack_types::View;
use wolfpack_types::membership::WitnessKind;

use super::{Verdict, holds};
use crate::oracle::Oracle;

/// A view is installed for the first time.
pub fn established(oracle: &Oracle, view: &View) -> Verdict {
    let share = view.witness.as_ref().is_some_and(|w| w.kind == WitnessKind::Share);
    let Some((&below, older)) = oracle.established.range(..view.ballot).next_back() else {
        return Ok(());
    };
    if !share || older.view.forces != view.forces {
        return Ok(());
    }
    let knew = oracle
        .accepted_in
        .range(below..view.ballot)
        .any(|(_, stores)| view.members.values().any(|m| stores.contains(&m.store)));
    holds(knew, "P10.13 a share only names views", || {
        format!("no member of view {} knew view {below} or one after it", view.ballot)
    })
}
