//! `wolfpack-sim`: replays one seed and tells its story, runs many and sums them up, plays the
//! directed scenes, with all rules of the protocol or without some.

use std::ops::Range;
use std::process::ExitCode;
use std::time::Instant;

use clap::{ArgGroup, Parser};
use wolfpack_sim::Rules;
use wolfpack_sim::many::{self, Summary};
use wolfpack_sim::run::{Outcome, run};
use wolfpack_sim::scenes::{self, Scene};
use wolfpack_types::Rule;

/// Runs the pure crates of a cluster (core, failure detector, register) under a seeded network,
/// disk and clock, and checks the protocol's invariants after every event.
///
/// The same seed gives the same run. Exit code 1: an invariant was broken.
#[derive(Parser, Debug)]
#[command(name = "wolfpack-sim", version)]
#[command(group(ArgGroup::new("what").required(true).args(["seed", "seeds", "scene", "scenes", "list_rules"])))]
struct Args {
    /// Replay one seed.
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// With --seed or --scene: tell everything that happens, in words.
    #[arg(long, conflicts_with_all = ["seeds", "scenes", "list_rules"])]
    story: bool,
    /// Play one directed scene.
    #[arg(long, value_name = "NAME", value_parser = parse_scene)]
    scene: Option<Scene>,
    /// Run the seeds from A to before B and sum them up.
    #[arg(long, value_name = "A..B", value_parser = parse_range)]
    seeds: Option<Range<u64>>,
    /// Runs at the same time.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=256))]
    jobs: u16,
    /// Play the directed scenes.
    #[arg(long)]
    scenes: bool,
    /// Take a rule of the protocol away (may be given more than once); see --list-rules.
    #[arg(long = "break", value_name = "RULE", value_parser = parse_rule)]
    broken: Vec<Rule>,
    /// List the rules that can be taken away.
    #[arg(long)]
    list_rules: bool,
}

fn parse_range(text: &str) -> Result<Range<u64>, String> {
    let (first, end) = text.split_once("..").ok_or("expected A..B, such as 0..500")?;
    let number = |t: &str| t.parse::<u64>().map_err(|e| format!("'{t}': {e}"));
    let range = number(first)?..number(end)?;
    if range.is_empty() { Err(format!("{text} holds no seed")) } else { Ok(range) }
}

fn parse_rule(text: &str) -> Result<Rule, String> {
    let wanted = text.replace(['-', '_'], "").to_lowercase();
    let found = Rule::EVERY.into_iter().find(|r| format!("{r:?}").to_lowercase() == wanted);
    found.ok_or_else(|| format!("there is no rule '{text}'; see --list-rules"))
}

fn parse_scene(text: &str) -> Result<Scene, String> {
    Scene::named(text).copied().ok_or_else(|| {
        let names: Vec<&str> = scenes::ALL.iter().map(|scene| scene.name).collect();
        format!("there is no scene '{text}'; there are: {}", names.join(", "))
    })
}

fn main() -> ExitCode {
    let args = Args::parse();
    let rules = Rules::without(args.broken.iter().copied());
    let good = if args.list_rules {
        for rule in Rule::EVERY {
            println!("{rule:?}");
        }
        true
    } else if let Some(seed) = args.seed {
        tell(&run(seed, &rules, args.story))
    } else if let Some(scene) = args.scene {
        tell(&scene.play(&rules, args.story))
    } else if let Some(seeds) = args.seeds {
        campaign(seeds, args.jobs, &rules)
    } else {
        play_all(&rules)
    };
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn tell(outcome: &Outcome) -> bool {
    println!("{}", outcome.params);
    for line in &outcome.lines {
        println!("{line}");
    }
    println!("{}", outcome.tally);
    println!("digest of the run: {:016x}", outcome.digest);
    match &outcome.violation {
        Some(violation) => println!("VIOLATION of {violation}"),
        None => println!("every invariant held"),
    }
    outcome.violation.is_none()
}

fn campaign(seeds: Range<u64>, jobs: u16, rules: &Rules) -> bool {
    let started = Instant::now();
    println!("seeds {} to {}, {jobs} at a time", seeds.start, seeds.end - 1);
    let Summary { runs, tally, violations } = many::run_all(seeds, usize::from(jobs), rules);
    for (seed, violation) in &violations {
        println!("seed {seed}: VIOLATION of {violation}");
        println!("    replay: cargo run --release -p wolfpack-sim -- --seed {seed} --story");
    }
    println!("{tally}");
    let seconds = started.elapsed().as_secs_f64();
    println!("{runs} seeds in {seconds:.1} s: {} violations", violations.len());
    violations.is_empty()
}

fn play_all(rules: &Rules) -> bool {
    let mut good = true;
    for scene in scenes::ALL {
        let outcome = scene.play(rules, false);
        match outcome.violation {
            None => println!("{:32} holds", scene.name),
            Some(violation) => {
                good = false;
                println!("{:32} VIOLATION of {violation}", scene.name);
            }
        }
    }
    good
}
