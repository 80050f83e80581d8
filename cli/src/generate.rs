//! Manual pages and shell completions, made from the command line's own definition.

use std::fs;
use std::path::Path;

use clap::{CommandFactory, ValueEnum};
use clap_complete::Shell;
use serde_json::json;

use crate::args::Args;
use crate::exit::{Exit, Failure};
use crate::output::Output;

/// Writes them into a directory, which is made if need be.
pub(crate) fn generate(directory: &Path, output: &mut Output) -> Result<(), Failure> {
    let failed = |e: std::io::Error| {
        let what = format!("cannot write into {}: {e}", directory.display());
        Failure::new(Exit::Internal, what, "")
    };
    fs::create_dir_all(directory).map_err(failed)?;
    clap_mangen::generate_to(Args::command(), directory).map_err(failed)?;
    for &shell in Shell::value_variants() {
        clap_complete::generate_to(shell, &mut Args::command(), "wolfpack", directory)
            .map_err(failed)?;
    }
    output.local(
        &json!({ "reply": "generated", "directory": directory }),
        &format!("manual pages and completions are in {}", directory.display()),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_and_completions_are_made() {
        let dir = tempfile::tempdir().unwrap();
        generate(dir.path(), &mut Output::new(true)).unwrap();
        let page = fs::read_to_string(dir.path().join("wolfpack.1")).unwrap();
        assert!(page.contains("Exit codes"), "{page}");
        assert!(dir.path().join("wolfpack-group-move.1").exists());
        assert!(dir.path().join("wolfpack.bash").exists());
    }
}
