//! Where the programs under test are: beside the program that runs the lab, as cargo builds them.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// The programs.
#[derive(Clone, Debug)]
pub struct Binaries {
    pub service: PathBuf,
    pub resmon: PathBuf,
    pub cli: PathBuf,
    pub app: PathBuf,
}

/// Names the directory with the programs, where they are not beside the running one.
pub const DIRECTORY_VARIABLE: &str = "WOLFPACK_BIN_DIR";

impl Binaries {
    /// Finds them: in `$WOLFPACK_BIN_DIR`, else beside the running program, else (as for tests,
    /// which are in `deps/`) one directory up.
    ///
    /// # Errors
    /// One is missing: which, and how to build it.
    pub fn find() -> Result<Self> {
        if let Some(dir) = std::env::var_os(DIRECTORY_VARIABLE) {
            return Self::in_dir(Path::new(&dir));
        }
        let me = std::env::current_exe().context("the path of the running program")?;
        let beside = me.parent().context("the running program has no directory")?;
        match Self::in_dir(beside) {
            Ok(found) => Ok(found),
            Err(e) => match beside.parent().map(Self::in_dir) {
                Some(Ok(found)) => Ok(found),
                _ => Err(e),
            },
        }
    }

    /// Takes them from one directory.
    ///
    /// # Errors
    /// One is missing.
    pub fn in_dir(dir: &Path) -> Result<Self> {
        let program = |name: &str| {
            let path = dir.join(name);
            if !path.is_file() {
                bail!(
                    "the program '{}' is missing: build it with `cargo build --workspace`, \
                     or use `cargo xtask test`, which does",
                    path.display()
                );
            }
            Ok(path)
        };
        Ok(Self {
            service: program("wolfpackd")?,
            resmon: program("wolfpack-resmon")?,
            cli: program("wolfpack")?,
            app: program("wolfpack-demo-app")?,
        })
    }
}
