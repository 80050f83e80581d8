//! P10.4: one ballot has one view ever.

use wolfpack_types::View;

use super::{Verdict, holds};
use crate::oracle::Oracle;

/// A view is sent, accepted or installed.
pub fn seen(oracle: &mut Oracle, view: &View) -> Verdict {
    let known = oracle.views.entry(view.ballot).or_insert_with(|| view.clone());
    holds(known == view, "P10.4 one view per ballot", || {
        format!("ballot {} has two values: {known:?} and {view:?}", view.ballot)
    })
}
