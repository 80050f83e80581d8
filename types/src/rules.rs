//! The rules of the protocol that can be switched off, one by one.
//!
//! The daemon always runs [`Rules::ALL`]. The simulator takes a rule away and must then find the
//! violation: a check that cannot fail proves nothing. Each name says what is *broken*.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

/// One rule, replaced by a wrong one. The names are those of the random model of the protocol.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub enum Rule {
    /// Acknowledge members of the accepted view whatever was promised (P6).
    NoMask,
    /// Promise before the driver has confirmed the mask (P3, invariant 10).
    MaskAsync,
    /// Leave the clocks' drift out of `not_before` (P6).
    NoDrift,
    /// Send the promise before it is durable (P2, invariant 12).
    PromiseFirst,
    /// Forget a dead view instead of taking its log and votes (P3).
    DiscardDead,
    /// A restarted voter reports that it never acknowledged anybody (P6).
    NoRestartRule,
    /// Commit at the disk without reading back (P4).
    NoReadBack,
    /// Take the completion of a renewal for its time instead of its send time (P4).
    RenewDone,
    /// A restarted node does not carry its slots over (P4).
    NoCarrySlot,
    /// A restarted node writes its slot while commands of its former life may live (P4).
    NoDrain,
    /// The register's grant counts in every accepted view with the witness (P4).
    RegisterText,
    /// The register's grant counts however old its view is (P4).
    RegisterStale,
    /// Drop the register term without knowing that V* was established (P6).
    SkipAny,
    /// Note the members' heartbeats when the renewal completes (P4).
    ProxyDone,
    /// Grant by proxy to members that the leader's own slot excludes (P4).
    ProxySelf,
    /// Drop the former votes of a view that is not known established (P5).
    PrevDrop,
    /// Take a new table on top of a view that is not known established (P5).
    TableUnknown,
    /// Ignore the former votes when choosing (P5).
    NoPrev,
    /// Refuse a stranger by a view that is accepted but not installed (P3).
    RefusalText,
    /// Never let in whom a dead view excluded (P3).
    KeepDead,
    /// Defend the reservation without a chance of forming (P4).
    DefendAlways,
    /// Defend the reservation against a coordinator one has promised (P4).
    DefendForeign,
    /// Assign groups of a lost owner without waiting for `not_before` (P7).
    NoOwnerWait,
    /// Keep authority when the lease has ended (P6).
    NoLease,
    /// Merge views of two different forces as if one descended from the other (P9).
    ForceMerge,
    /// Change votes while a lease outside the view may live (P5).
    NoOutsideWait,
    /// Let an evicted node in, and keep its votes, as if it had not been evicted (P5).
    EvictedReturns,
    /// Go on from a view that only a share names, with whatever log is there (P3, invariant 13).
    ShareDecides,
    /// Count learners in promise and accept sets (P2, invariant 19).
    LearnerCounts,
    /// Count the promise of any register for any view's witness (P5).
    AnyWitness,
    /// Open a data disk without preempting the keys of others (P7).
    NoPreempt,
}

impl Rule {
    /// All of them, for the simulator's table of mutants.
    pub const EVERY: [Self; 31] = [
        Self::NoMask,
        Self::MaskAsync,
        Self::NoDrift,
        Self::PromiseFirst,
        Self::DiscardDead,
        Self::NoRestartRule,
        Self::NoReadBack,
        Self::RenewDone,
        Self::NoCarrySlot,
        Self::NoDrain,
        Self::RegisterText,
        Self::RegisterStale,
        Self::SkipAny,
        Self::ProxyDone,
        Self::ProxySelf,
        Self::PrevDrop,
        Self::TableUnknown,
        Self::NoPrev,
        Self::RefusalText,
        Self::KeepDead,
        Self::DefendAlways,
        Self::DefendForeign,
        Self::NoOwnerWait,
        Self::NoLease,
        Self::ForceMerge,
        Self::NoOutsideWait,
        Self::EvictedReturns,
        Self::ShareDecides,
        Self::LearnerCounts,
        Self::AnyWitness,
        Self::NoPreempt,
    ];
}

/// The rules in force: all, but for those switched off.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rules {
    off: BTreeSet<Rule>,
}

impl Rules {
    /// Every rule holds.
    pub const ALL: Self = Self { off: BTreeSet::new() };

    /// All rules but these. For the simulator only.
    #[must_use]
    pub fn without(off: impl IntoIterator<Item = Rule>) -> Self {
        Self { off: off.into_iter().collect() }
    }

    /// Whether the rule is switched off.
    #[must_use]
    pub fn broken(&self, rule: Rule) -> bool {
        self.off.contains(&rule)
    }
}
