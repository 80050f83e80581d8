//! `wolfpack`, the command line of an administrator: turns commands into requests to the service of
//! this node and answers into readable tables or JSON.
//!
//! It decides nothing about the cluster and holds no state. Exit codes are those of
//! [`exit::Exit`], which `--help` lists.

#![forbid(unsafe_code)]

mod args;
mod capture;
mod database;
mod exit;
mod generate;
mod local;
mod membership;
mod network;
mod output;
mod render;
mod rotate;
mod run;
mod table;
mod tree;
mod wait;

use std::process::ExitCode;

use clap::Parser;

use crate::args::Args;
use crate::output::Output;

fn main() -> ExitCode {
    // Wrong usage ends here with clap's own words and code 2; --help and --version with 0.
    let args = Args::parse();
    let mut output = Output::new(args.json);
    match run::run(&args, &mut output) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            output.failure(&failure);
            failure.exit.into()
        }
    }
}
