//! Steps of a command: each is announced, run with its output shown, and timed.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use wolfpack_lab::process::with_signals;

static RUNNING: AtomicI32 = AtomicI32::new(0);

/// The process of the step that runs now.
pub(crate) fn running() -> Option<i32> {
    Some(RUNNING.load(Ordering::Relaxed)).filter(|&pid| pid > 0)
}

/// The repository's root.
pub(crate) fn root() -> &'static Path {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here)
}

/// Where cargo has put this program, and so puts the others of the same profile.
///
/// # Errors
/// The running program has no path.
pub(crate) fn target_dir() -> Result<PathBuf> {
    let me = std::env::current_exe().context("the path of the running program")?;
    Ok(me.parent().context("the running program has no directory")?.to_owned())
}

/// A run of steps, which are counted.
#[derive(Debug)]
pub(crate) struct Steps {
    number: u32,
    of: u32,
}

impl Steps {
    /// For so many steps.
    pub(crate) const fn new(of: u32) -> Self {
        Self { number: 0, of }
    }

    /// Runs a program as the next step.
    ///
    /// # Errors
    /// It cannot be started, or it fails.
    pub(crate) fn run(&mut self, what: &str, program: &str, args: &[&str]) -> Result<()> {
        self.announce(what);
        let began = Instant::now();
        run(program, args)?;
        eprintln!("    {what}: {:.1} s", began.elapsed().as_secs_f32());
        Ok(())
    }

    /// Announces the next step.
    pub(crate) fn announce(&mut self, what: &str) {
        self.number += 1;
        eprintln!("==> [{}/{}] {what}", self.number, self.of);
    }
}

/// Runs a program in the repository's root, with its output shown.
///
/// # Errors
/// It cannot be started, or it fails.
pub(crate) fn run(program: &str, args: &[&str]) -> Result<()> {
    let mut command = Command::new(program);
    command.args(args).current_dir(root());
    let mut child =
        with_signals(&mut command).spawn().with_context(|| format!("starting '{program}'"))?;
    RUNNING.store(i32::try_from(child.id()).unwrap_or(0), Ordering::Relaxed);
    let status = child.wait();
    RUNNING.store(0, Ordering::Relaxed);
    let status = status?;
    if !status.success() {
        bail!("`{program} {}` failed: {status}", args.join(" "));
    }
    Ok(())
}

/// Whether a program can be started and ends well with these arguments; its output is not shown.
pub(crate) fn works(program: &str, args: &[&str]) -> bool {
    let mut command = Command::new(program);
    command.args(args).stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
    with_signals(command.current_dir(root())).status().is_ok_and(|s| s.success())
}
