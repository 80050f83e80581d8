//! The rules hold, and each rule that is taken away is found.

use std::collections::BTreeSet;

use wolfpack_sim::mutants::{Found, hunt, markdown, table};
use wolfpack_sim::regressions::SEEDS;
use wolfpack_sim::run::run;
use wolfpack_sim::scenes;
use wolfpack_types::{Rule, Rules};

#[test]
fn the_rules_hold_in_random_runs() {
    for seed in 0..12 {
        let outcome = run(seed, &Rules::ALL, false);
        assert_eq!(outcome.violation, None, "seed {seed}");
        assert!(outcome.tally.views > 0 && outcome.tally.commits > 3, "seed {seed} did nothing");
    }
}

#[test]
fn seeds_that_once_failed_hold() {
    for &(seed, about) in SEEDS {
        assert_eq!(run(seed, &Rules::ALL, false).violation, None, "seed {seed}: {about}");
    }
}

#[test]
fn the_documented_table_of_mutants_is_the_one_played() {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/internals/simulator.md");
    let page = std::fs::read_to_string(page).unwrap();
    let table = markdown();
    assert!(page.contains(&table), "put this into docs/internals/simulator.md:\n{table}");
}

#[test]
fn the_rules_hold_in_every_scene() {
    for scene in scenes::ALL {
        assert_eq!(scene.play(&Rules::ALL, false).violation, None, "{}", scene.name);
    }
}

#[test]
fn the_table_of_mutants_has_every_rule_once() {
    let listed: Vec<Rule> = table().into_iter().map(|(rule, _)| rule).collect();
    let distinct: BTreeSet<Rule> = listed.iter().copied().collect();
    assert_eq!(listed.len(), distinct.len());
    assert_eq!(distinct, Rule::EVERY.into_iter().collect());
}

#[test]
fn every_missing_rule_is_found() {
    // Two at a time: each hunt is alone with its rule and its seeds.
    let (even, odd): (Vec<_>, Vec<_>) =
        table().into_iter().enumerate().partition(|(k, _)| k % 2 == 0);
    std::thread::scope(|scope| {
        for half in [even, odd] {
            scope.spawn(|| {
                for (_, (rule, found)) in half {
                    if matches!(found, Found::NotHere(_)) {
                        continue;
                    }
                    let violation = hunt(rule, &found);
                    assert!(violation.is_some(), "without {rule:?}: nothing found in {found:?}");
                }
            });
        }
    });
}

#[test]
fn the_same_seed_gives_the_same_run() {
    // P10.22. The story has every message and its time.
    for seed in [1, 2, 5] {
        let (first, second) = (run(seed, &Rules::ALL, true), run(seed, &Rules::ALL, true));
        assert_eq!(first.digest, second.digest, "seed {seed}");
        assert_eq!(first.lines, second.lines, "seed {seed}");
        assert!(first.lines.len() > 100, "seed {seed} has no story");
    }
    let digests: BTreeSet<u64> = (0..4).map(|s| run(s, &Rules::ALL, false).digest).collect();
    assert_eq!(digests.len(), 4, "different seeds are different runs");
}
