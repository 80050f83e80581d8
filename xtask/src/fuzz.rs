//! `cargo xtask fuzz`: every decoder of bytes from outside, fed with nonsense, one after the other.
//!
//! The targets are in `fuzz/` (a workspace of its own, nightly compiler). What they find is kept in
//! `fuzz/artifacts/`, what they learn in `fuzz/corpus/`; neither is checked in. A finding becomes a
//! test of the crate that it belongs to.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

/// What to fuzz, and for how long.
#[derive(clap::Args, Debug)]
pub(crate) struct Options {
    /// Minutes for each target.
    #[arg(long, default_value_t = 1.0)]
    minutes: f64,
    /// Only these targets (default: all).
    targets: Vec<String>,
}

/// Runs the fuzzers at the lowest priority; the first finding ends the run.
pub(crate) fn run(options: &Options) -> Result<()> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz");
    let known = targets(&folder)?;
    if let Some(other) = options.targets.iter().find(|target| !known.contains(target)) {
        bail!("there is no target '{other}': there are {}", known.join(", "));
    }
    if !options.minutes.is_finite() || options.minutes < 0.0 || options.minutes > 100_000.0 {
        bail!("--minutes {} is no time", options.minutes);
    }
    let seconds = Duration::from_secs_f64(options.minutes * 60.0).as_secs().max(1);
    let tool = Command::new("cargo").args(["fuzz", "--version"]).output();
    if !tool.is_ok_and(|output| output.status.success()) {
        bail!("cargo-fuzz is missing: cargo install cargo-fuzz --locked");
    }
    for target in known {
        if !options.targets.is_empty() && !options.targets.contains(&target) {
            continue;
        }
        println!("fuzzing {target} for {seconds} s");
        let seeds: PathBuf = folder.join("seeds").join(&target);
        let mut command = Command::new("nice");
        command.args(["-n", "19", "cargo", "+nightly", "fuzz", "run", &target]);
        let corpus = folder.join("corpus").join(&target);
        std::fs::create_dir_all(&corpus).with_context(|| format!("cannot make {corpus:?}"))?;
        command.arg(&corpus);
        if seeds.is_dir() {
            command.arg(&seeds);
        }
        command.args(["--", "-max_len=4096", "-rss_limit_mb=2048", "-print_final_stats=1"]);
        command.arg(format!("-max_total_time={seconds}"));
        let status = command.current_dir(&folder).status().context("cannot run cargo fuzz")?;
        if !status.success() {
            bail!("{target}: a finding, see above and fuzz/artifacts/{target}/");
        }
    }
    Ok(())
}

fn targets(folder: &Path) -> Result<Vec<String>> {
    let files = folder.join("targets");
    let entries = std::fs::read_dir(&files).with_context(|| format!("cannot read {files:?}"))?;
    let mut names = Vec::new();
    for entry in entries {
        if let Some(name) = entry?.path().file_stem().and_then(|name| name.to_str()) {
            names.push(name.to_owned());
        }
    }
    names.sort();
    Ok(names)
}
