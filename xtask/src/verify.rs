//! `verify` reads, `fix` writes, `tidy` checks the rules that no compiler checks.

use anyhow::{Result, bail};

use crate::step::{Steps, root, run, works};
use crate::tidy as rules;

pub(crate) fn verify() -> Result<()> {
    let mut steps = Steps::new(4);
    steps.run("format", "cargo", &["fmt", "--all", "--check"])?;
    let clippy = ["clippy", "--quiet", "--workspace", "--all-targets", "--", "-D", "warnings"];
    steps.run("lints", "cargo", &clippy)?;
    steps.announce("tidiness");
    tidy()?;
    steps.announce("dependencies");
    if works("cargo", &["deny", "--version"]) {
        return run("cargo", &["deny", "check"]);
    }
    eprintln!("    SKIPPED: cargo-deny is not installed (cargo install cargo-deny)");
    Ok(())
}

pub(crate) fn fix() -> Result<()> {
    let mut steps = Steps::new(2);
    let fix =
        ["clippy", "--fix", "--allow-dirty", "--allow-staged", "--workspace", "--all-targets"];
    steps.run("lints", "cargo", &fix)?;
    steps.run("format", "cargo", &["fmt", "--all"])
}

pub(crate) fn tidy() -> Result<()> {
    let problems = rules::problems(root())?;
    if problems.is_empty() {
        eprintln!("    tidy");
        return Ok(());
    }
    bail!("{} untidy places:\n  {}", problems.len(), problems.join("\n  "));
}
