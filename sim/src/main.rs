//! `wolfpack-sim`: replays one seed and tells its story, runs many and sums them up, plays the
//! directed scenes, with all rules of the protocol or without some.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{ArgGroup, Parser, Subcommand};
use wolfpack_sim::many::{self, Summary};
use wolfpack_sim::replay::replay;
use wolfpack_sim::run::{Outcome, record, run};
use wolfpack_sim::scenes::{self, Scene};
use wolfpack_sim::{Rules, bench, points, tales};
use wolfpack_types::Rule;

/// Runs the pure crates of a cluster (core, failure detector, register) under a seeded network,
/// disk and clock, and checks the protocol's invariants after every event.
///
/// The same seed gives the same run. Exit code 1: an invariant was broken.
#[derive(Parser, Debug)]
#[command(name = "wolfpack-sim", version)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
#[command(group(ArgGroup::new("what").required(true).args([
    "seed", "seeds", "scene", "scenes", "list_rules", "bench", "bench_regroup",
    "crash_points", "stories",
])))]
struct Args {
    #[command(subcommand)]
    command: Option<Command>,
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
    /// With --seeds: begin no further run after so many minutes.
    #[arg(long, value_name = "N", requires = "seeds")]
    minutes: Option<u64>,
    /// Play the directed scenes.
    #[arg(long)]
    scenes: bool,
    /// Cut the power at every persistence point of a small history, one after the other.
    #[arg(long)]
    crash_points: bool,
    /// Take a rule of the protocol away (may be given more than once); see --list-rules.
    #[arg(long = "break", value_name = "RULE", value_parser = parse_rule)]
    broken: Vec<Rule>,
    /// Write the stories (`sim/stories/`) into this directory.
    #[arg(long, value_name = "DIR")]
    stories: Option<PathBuf>,
    /// List the rules that can be taken away.
    #[arg(long)]
    list_rules: bool,
    /// With --list-rules: as a table, with where each rule is missed.
    #[arg(long, requires = "list_rules")]
    markdown: bool,
    /// With --seed: write a flight recording of every life into this directory.
    #[arg(long, value_name = "DIR", requires = "seed", conflicts_with = "story")]
    record: Option<PathBuf>,
    /// Measure for so many seconds how fast three nodes with faults are simulated on one core; JSON.
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=3600))]
    bench: Option<u64>,
    /// Measure what a regroup costs in messages and simulated time at 2 to 64 nodes; JSON.
    #[arg(long)]
    bench_regroup: bool,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Run the life in a flight recording again and tell where it takes another turn. Exit code 1:
    /// it does, or the file is damaged.
    Replay {
        file: PathBuf,
        /// Tell everything that happens, in words.
        #[arg(long)]
        story: bool,
    },
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
    if let Some(Command::Replay { file, story }) = args.command {
        return replayed(&file, story);
    }
    let rules = Rules::without(args.broken.iter().copied());
    let good = if args.list_rules {
        list_rules(args.markdown);
        true
    } else if let Some(seconds) = args.bench {
        measure_speed(Duration::from_secs(seconds))
    } else if let Some(dir) = &args.stories {
        write_stories(dir)
    } else if args.crash_points {
        play_points()
    } else if args.bench_regroup {
        measure_regroups()
    } else if let Some((seed, dir)) = args.seed.zip(args.record.as_ref()) {
        return recorded(seed, &rules, dir);
    } else if let Some(seed) = args.seed {
        tell(&run(seed, &rules, args.story))
    } else if let Some(scene) = args.scene {
        tell(&scene.play(&rules, args.story))
    } else if let Some(seeds) = args.seeds {
        campaign(seeds, args.jobs, &rules, args.minutes)
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

fn campaign(seeds: Range<u64>, jobs: u16, rules: &Rules, minutes: Option<u64>) -> bool {
    let started = Instant::now();
    let most = minutes.map_or(Duration::MAX, |m| Duration::from_secs(m.saturating_mul(60)));
    let go_on = || started.elapsed() < most;
    println!("seeds {} to {}, {jobs} at a time", seeds.start, seeds.end - 1);
    let Summary { runs, tally, kinds, violations } =
        many::run_all(seeds, usize::from(jobs), rules, &go_on);
    for (seed, violation) in &violations {
        println!("seed {seed}: VIOLATION of {violation}");
        println!("    replay: cargo run --release -p wolfpack-sim -- --seed {seed} --story");
    }
    println!("{tally}");
    let kinds: Vec<String> = kinds.iter().map(|(kind, n)| format!("{kind}: {n}")).collect();
    println!("runs by quorum: {}", kinds.join(", "));
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

fn list_rules(markdown: bool) {
    if !markdown {
        return Rule::EVERY.iter().for_each(|rule| println!("{rule:?}"));
    }
    print!("{}", wolfpack_sim::mutants::markdown());
}

fn write_stories(dir: &Path) -> bool {
    let mut good = true;
    for tale in tales::ALL {
        let file = dir.join(format!("{}.txt", tale.name));
        let told = tale.tell().and_then(|told| {
            std::fs::write(&file, told).map_err(|e| format!("{}: {e}", file.display()))
        });
        match told {
            Ok(()) => println!("{}", file.display()),
            Err(why) => {
                good = false;
                eprintln!("{}: {why}", tale.name);
            }
        }
    }
    good
}

fn replayed(file: &Path, story: bool) -> ExitCode {
    let report = std::fs::read(file).map_err(|e| e.to_string());
    let report = report.and_then(|bytes| replay(&bytes, story).map_err(|e| e.to_string()));
    match report {
        Ok(report) => {
            for line in &report.lines {
                println!("{line}");
            }
            println!("{report}");
            let good = report.difference.is_none() && report.damage.is_none();
            if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(why) => {
            eprintln!("{}: {why}", file.display());
            ExitCode::FAILURE
        }
    }
}

fn recorded(seed: u64, rules: &Rules, dir: &Path) -> ExitCode {
    let (outcome, files) = record(seed, rules);
    for (life, bytes) in files {
        let file = dir.join(format!("{}-{}.flight", life.node, life.inc.0));
        if let Err(e) = std::fs::write(&file, bytes) {
            eprintln!("{}: {e}", file.display());
            return ExitCode::FAILURE;
        }
        println!("{}", file.display());
    }
    if tell(&outcome) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Time that this thread has had on a processor: other programs do not count.
fn cpu_time() -> Option<Duration> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    text.split(' ').next()?.parse().ok().map(Duration::from_nanos)
}

fn measure_speed(wanted: Duration) -> bool {
    let started = Instant::now();
    let (before, clock) = cpu_time().map_or((Duration::ZERO, "wall"), |spent| (spent, "cpu"));
    let (runs, tally, violation) = bench::three_nodes(0, || started.elapsed() < wanted);
    let spent = cpu_time().map_or_else(|| started.elapsed(), |spent| spent - before);
    let seconds = spent.as_secs_f64();
    let hours = tally.sim_ns as f64 / 3.6e12;
    println!(
        "{{\"nodes\": 3, \"profile\": \"standard\", \"runs\": {runs}, \"clock\": \"{clock}\", \
         \"seconds\": {seconds:.3}, \
         \"cluster_hours\": {hours:.3}, \"cluster_hours_per_minute\": {:.1}, \
         \"events\": {}, \"events_per_second\": {:.0}, \"crashes\": {}, \"views\": {}, \
         \"violations\": {}}}",
        hours * 60.0 / seconds,
        tally.events,
        tally.events as f64 / seconds,
        tally.crashes,
        tally.views,
        u8::from(violation.is_some()),
    );
    if let Some((seed, violation)) = &violation {
        eprintln!("seed {seed}: VIOLATION of {violation}");
    }
    violation.is_none()
}

fn play_points() -> bool {
    let mut good = true;
    for params in points::histories() {
        let (played, violation) = points::every_point(&params);
        println!("{} nodes, {}: {played} crashes played", params.nodes, params.kind());
        if let Some((point, violation)) = violation {
            println!("{point:?}: VIOLATION of {violation}");
            good = false;
        }
    }
    good
}

fn measure_regroups() -> bool {
    let mut good = true;
    let mut lines = Vec::new();
    for nodes in [2, 8, 16, 64] {
        match bench::regroup(nodes) {
            Ok(r) => lines.push(format!(
                "{{\"nodes\": {nodes}, \"messages\": {}, \"detection_ms\": {:.3}, \
                 \"regroup_ms\": {:.3}}}",
                r.messages,
                r.detection.as_secs_f64() * 1e3,
                r.regroup.as_secs_f64() * 1e3
            )),
            Err(violation) => {
                good = false;
                eprintln!("{nodes} nodes: VIOLATION of {violation}");
            }
        }
    }
    println!("[{}]", lines.join(",\n "));
    good
}
