//! The table of mutants: each rule of the protocol that can be taken away, and where the checks find
//! that it is missing. A check that cannot fail proves nothing.

use std::ops::Range;

use wolfpack_types::{Rule, Rules};

use crate::invariants::Violation;
use crate::many;
use crate::scenes;

/// Where a missing rule is found.
#[derive(Clone, Debug)]
pub enum Found {
    /// In random runs; within these seeds.
    Seeds(Range<u64>),
    /// In a directed scene.
    Scene(&'static str),
    /// Nowhere here, and why; another test looks at it.
    NotHere(&'static str),
}

impl std::fmt::Display for Found {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Seeds(seeds) => write!(f, "a seed from {} to {}", seeds.start, seeds.end - 1),
            Self::Scene(name) => write!(f, "scene `{name}`"),
            Self::NotHere(why) => write!(f, "not here: {why}"),
        }
    }
}

/// Every rule that can be taken away.
#[must_use]
pub fn table() -> Vec<(Rule, Found)> {
    vec![
        (Rule::NoMask, Found::Seeds(0..5)),
        (Rule::MaskAsync, Found::Seeds(0..40)),
        (Rule::NoDrift, Found::Seeds(0..80)),
        (Rule::PromiseFirst, Found::Seeds(0..5)),
        (Rule::DiscardDead, Found::Seeds(20..300)),
        (Rule::NoReadBack, Found::Seeds(0..200)),
        (Rule::RenewDone, Found::Seeds(0..400)),
        (Rule::NoCarrySlot, Found::Seeds(0..20)),
        (Rule::NoDrain, Found::Seeds(20..400)),
        (Rule::NoPreempt, Found::Seeds(0..300)),
        (Rule::NoOwnerWait, Found::Seeds(0..30)),
        (Rule::NoLease, Found::Seeds(0..20)),
        (Rule::NoRestartRule, Found::Scene("restarted-voter")),
        (Rule::ProxyDone, Found::Scene("proxy-at-completion")),
        (Rule::DefendAlways, Found::Scene("ineligible-defender")),
        (Rule::DefendForeign, Found::Scene("hand-over")),
        (Rule::KeepDead, Found::Scene("dead-view")),
        (Rule::PrevDrop, Found::Scene("former-votes")),
        (
            Rule::TableUnknown,
            Found::NotHere(
                "this core asks for other votes only when all members have installed the view, and \
                 so know it established",
            ),
        ),
        (
            Rule::NoPrev,
            Found::NotHere(
                "seeds 40 to 299 do not find it any more: who coordinates looks at the former votes \
                 before it asks",
            ),
        ),
        (Rule::RegisterText, Found::Scene("register-grant-revived")),
        (Rule::RegisterStale, Found::Scene("register-grant-stale")),
        (Rule::SkipAny, Found::Scene("unknown-view")),
        (
            Rule::ForceMerge,
            Found::NotHere(
                "in scene `forced-twice` the halves then ask each other for promises, and no view of \
                 both comes of it",
            ),
        ),
        (
            Rule::NoOutsideWait,
            Found::NotHere(
                "no scene: it takes a lease at the register that outlasts a change of votes and a \
                 restart of who changed them",
            ),
        ),
        (Rule::EvictedReturns, Found::Scene("evicted-node")),
        (Rule::ShareDecides, Found::Seeds(0..40)),
        (Rule::LearnerCounts, Found::Seeds(0..60)),
        (
            Rule::AnyWitness,
            Found::NotHere("no run replaces its witness; core/tests/quorum.rs does"),
        ),
        (
            Rule::ProxySelf,
            Found::NotHere(
                "this core does not renew while it prepares, so its own slot excludes a member only \
                 under a ballot whose bound comes later",
            ),
        ),
        (
            Rule::RefusalText,
            Found::NotHere(
                "the voter that refuses for ever coordinates a view itself when its turn comes",
            ),
        ),
    ]
}

/// The table, as it stands in `docs/internals/simulator.md`.
#[must_use]
pub fn markdown() -> String {
    let rows = table().into_iter().map(|(rule, found)| format!("| `{rule:?}` | {found} |\n"));
    "| rule taken away | missed by |\n|---|---|\n".to_owned() + &rows.collect::<String>()
}

/// Looks for the violation that a missing rule leads to.
#[must_use]
pub fn hunt(rule: Rule, found: &Found) -> Option<Violation> {
    let rules = Rules::without([rule]);
    match found {
        Found::Seeds(seeds) => many::first_violation(seeds.clone(), &rules).map(|(_, v)| v),
        Found::Scene(name) => scenes::Scene::named(name)?.play(&rules, false).violation,
        Found::NotHere(_) => None,
    }
}
