//! The project's commands: `cargo xtask demo`, `test`, `sim`, `bench`, `verify`, `fix`, `tidy`, `setup`.
//!
//! Each does its own set-up on a fresh Debian 12 and shows what it does. Nothing of the product is
//! here: tests and scenarios are in `tests/`, the simulator in `sim/`.

#![forbid(unsafe_code)]

mod bench;
mod demo;
mod fuzz;
mod idle;
mod net;
mod setup;
mod signals;
mod sim;
mod step;
mod test;
mod tidy;
mod updates;
mod verify;

use std::process::ExitCode;

use clap::{Parser, Subcommand, ValueEnum};
use wolfpack_types::times::Profile;

/// Builds, shows and checks Wolfpack.
#[derive(Parser, Debug)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// A cluster of two nodes in network namespaces, a fault, and what a client sees of it.
    Demo(demo::Options),
    /// Everything that is checked: format, lints, simulator, unit and property tests, scenarios.
    Test,
    /// Random histories in the simulator, with fresh seeds from the commit.
    Sim(sim::Options),
    /// Measures.
    Bench {
        #[command(subcommand)]
        what: Bench,
    },
    /// Feeds every decoder of bytes from outside with nonsense (needs nightly and cargo-fuzz).
    Fuzz(fuzz::Options),
    /// Format, lints, tidiness and (where cargo-deny is installed) dependencies; changes nothing.
    Verify,
    /// Formats, and applies what clippy proposes.
    Fix,
    /// The house rules that no compiler checks.
    Tidy,
    /// Installs the Debian packages that are missing (as root), or says which.
    Setup,
}

#[derive(Subcommand, Debug)]
enum Bench {
    /// Client outage at power cut, daemon kill and planned move; an idle node's needs.
    Failover(bench::Options),
    /// Global updates beside etcd and Pacemaker in the same run; the simulator's speed.
    Core(updates::Options),
    /// The network driver beside Corosync and keepalived, in the same namespaces and run.
    Net(net::Options),
}

/// The cluster's times.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum ProfileName {
    Standard,
    Fast,
    Turbo,
    Wan,
}

impl From<ProfileName> for Profile {
    fn from(name: ProfileName) -> Self {
        match name {
            ProfileName::Standard => Self::Standard,
            ProfileName::Fast => Self::Fast,
            ProfileName::Turbo => Self::Turbo,
            ProfileName::Wan => Self::Wan,
        }
    }
}

fn main() -> ExitCode {
    // Before any thread, so that all threads leave these signals to the one that waits for them.
    if let Err(e) = signals::catch() {
        eprintln!("error: {e:#}");
        return ExitCode::FAILURE;
    }
    let done = match Arguments::parse().command {
        Command::Demo(options) => demo::run(&options),
        Command::Test => test::run(),
        Command::Sim(options) => sim::run(&options),
        Command::Bench { what: Bench::Failover(options) } => bench::run(&options),
        Command::Bench { what: Bench::Core(options) } => updates::run(&options),
        Command::Bench { what: Bench::Net(options) } => net::run(&options),
        Command::Fuzz(options) => fuzz::run(&options),
        Command::Verify => verify::verify(),
        Command::Fix => verify::fix(),
        Command::Tidy => verify::tidy(),
        Command::Setup => setup::run(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("error: {e:?}");
            ExitCode::FAILURE
        }
    }
}
