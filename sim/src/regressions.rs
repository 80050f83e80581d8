//! Seeds that once broke an invariant. They are played in every test run: drawn parameters may change
//! what a seed plays, so an entry says what it was about, and a scene is better where there is one.

/// A seed and what it found.
pub const SEEDS: &[(u64, &str)] = &[
    (
        15,
        "P10.13: the check took a view that a member had accepted for one that only the share knew",
    ),
    (60, "P10.13: the same"),
    (412, "P10.13: the same"),
    (495, "P10.13: the same"),
    (248, "P10.21: the one store with the log that a share names was lost; such a run is blocked"),
    (438, "P10.21: the only member evicted itself, and nobody was left who knew"),
    (493, "P10.21: as 248"),
    (20_165, "P10.21: as 248"),
    (20_331, "P10.10: the check counted a promise that was superseded before it could leave"),
    (
        22_391,
        "P10.21: a second node was evicted while the first still counted, and the rest had no majority",
    ),
];
