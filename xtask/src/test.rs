//! `cargo xtask test`: everything that is checked before a change is taken.
//!
//! All tests are one run at the end, so that cargo's or nextest's own closing line counts them all
//! and is the last thing printed.

use anyhow::Result;

use crate::setup;
use crate::sim;
use crate::step::{Steps, works};

pub(crate) fn run() -> Result<()> {
    let mut steps = Steps::new(6);
    steps.announce("set-up");
    setup::run()?;
    steps.run("format", "cargo", &["fmt", "--all", "--check"])?;
    let clippy = ["clippy", "--quiet", "--workspace", "--all-targets", "--", "-D", "warnings"];
    steps.run("lints", "cargo", &clippy)?;
    steps.run("build", "cargo", &["build", "--quiet", "--workspace", "--all-targets"])?;
    sim::campaign(&mut steps, &sim::Options::GATE)?;
    steps.announce("unit and property tests, then scenarios on real parts");
    // The lab's tests run alone: nextest is told in .config/nextest.toml; they themselves see to
    // it under cargo test.
    if works("cargo", &["nextest", "--version"]) {
        crate::step::run("cargo", &["nextest", "run", "--workspace", "--no-fail-fast"])
    } else {
        crate::step::run("cargo", &["test", "--workspace", "--no-fail-fast"])
    }
}
