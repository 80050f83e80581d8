//! The invariants of the protocol (P10), one per file, each named and checked where it can break.
//!
//! They judge only; the facts are the oracle's. A violation names the invariant, so that a mutant's
//! discovery can be told from an accident.

pub mod accepted_by_all;
pub mod answered_visible;
pub mod authority_for_acts;
pub mod cause_chain;
pub mod digest;
pub mod durable_at_members;
pub mod durable_first;
pub mod excluded_stay_out;
pub mod forces_never_merge;
pub mod learners_uncounted;
pub mod lease_bound;
pub mod mask;
pub mod monotone;
pub mod nothing_lost;
pub mod nothing_runs;
pub mod one_owner;
pub mod one_value;
pub mod one_view;
pub mod own_key_only;
pub mod share_names_only;
pub mod shared_voter;
pub mod slot_writer;

/// A broken invariant.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Violation {
    /// Which one: its number in P10 and its name.
    pub invariant: &'static str,
    pub what: String,
}

impl std::fmt::Display for Violation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.invariant, self.what)
    }
}

/// Holds, or how it is broken.
pub type Verdict = Result<(), Violation>;

/// The verdict of a condition.
pub(crate) fn holds(
    condition: bool,
    invariant: &'static str,
    what: impl FnOnce() -> String,
) -> Verdict {
    if condition { Ok(()) } else { Err(Violation { invariant, what: what() }) }
}
