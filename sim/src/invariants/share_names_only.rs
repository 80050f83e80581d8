//! P10.13: a share stores views, no log. A view that only the share knows says who must be waited for
//! and yields nothing: of two established views, one after the other, some store is in both (forced
//! quorum apart, which takes the log of whoever is there).

use wolfpack_types::View;
use wolfpack_types::membership::WitnessKind;

use super::{Verdict, holds};
use crate::oracle::Oracle;

/// A view is installed for the first time; its neighbours by ballot are looked at.
pub fn established(oracle: &Oracle, view: &View) -> Verdict {
    if view.witness.as_ref().is_none_or(|witness| witness.kind != WitnessKind::Share) {
        return Ok(());
    }
    let below = oracle.established.range(..view.ballot).next_back();
    let above = oracle.established.range(view.ballot..).next();
    for other in below.into_iter().chain(above).map(|(_, e)| &e.view) {
        if other.forces != view.forces {
            continue;
        }
        let stores = |v: &View| v.members.values().map(|m| m.store).collect::<Vec<_>>();
        let (these, those) = (stores(view), stores(other));
        holds(these.iter().any(|s| those.contains(s)), "P10.13 a share only names views", || {
            format!("views {} and {} have no store in common", other.ballot, view.ballot)
        })?;
    }
    Ok(())
}
