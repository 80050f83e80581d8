//! `wolfpack-sim`: replays a seed and tells its story, or runs many seeds and sums them up.

use clap::Parser;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use wolfpack_sim::cluster::Tally;
use wolfpack_sim::{Outcome, Rules, run};

/// Runs the pure crates of a cluster under a seeded network, disk and clock.
#[derive(Parser, Debug)]
#[command(name = "wolfpack-sim", version, about)]
struct Args {
    /// Replay one seed.
    #[arg(long)]
    seed: Option<u64>,
    /// With --seed: tell what happens, in words.
    #[arg(long)]
    story: bool,
    /// Run the seeds from A to before B.
    #[arg(long, value_name = "A..B", value_parser = parse_range)]
    seeds: Option<Range<u64>>,
    /// Runs at the same time.
    #[arg(long, default_value_t = 2)]
    jobs: usize,
}

fn parse_range(text: &str) -> Result<Range<u64>, String> {
    let (a, b) = text.split_once("..").ok_or("expected A..B")?;
    let number = |t: &str| t.parse::<u64>().map_err(|e| format!("'{t}': {e}"));
    Ok(number(a)?..number(b)?)
}

fn main() {
    let args = Args::parse();
    let rules = Rules::ALL;
    if let Some(seed) = args.seed {
        let outcome = run(seed, &rules, args.story);
        println!("{}", outcome.params);
        for l in &outcome.lines { println!("{l}"); }
        println!("{:?}", outcome.violation);
        println!("{:?} digest {:016x}", outcome.tally, outcome.digest);
    }
    if let Some(seeds) = args.seeds {
        let next = AtomicU64::new(seeds.start);
        let all: Mutex<Vec<(u64, Outcome)>> = Mutex::new(Vec::new());
        std::thread::scope(|s| {
            for _ in 0..args.jobs {
                s.spawn(|| loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end { break; }
                    let o = run(seed, &rules, false);
                    all.lock().unwrap_or_else(PoisonError::into_inner).push((seed, o));
                });
            }
        });
        let mut all = all.into_inner().unwrap_or_else(PoisonError::into_inner);
        all.sort_by_key(|x| x.0);
        let mut t = Tally::default();
        for (seed, o) in &all {
            t = t.plus(o.tally);
            if let Some(v) = &o.violation { println!("seed {seed}: {v}"); }
        }
        println!("{t:?}");
    }
}
