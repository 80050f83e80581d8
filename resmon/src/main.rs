//! `wolfpack-resmon`: the guard of a node, and the resource monitors that the guard starts.

use std::path::PathBuf;
use std::process::ExitCode;

use wolfpack_resmon::{guard, log, monitor};

const HELP: &str = "\
wolfpack-resmon - guard and resource monitors of the Wolfpack failover cluster

Usage: wolfpack-resmon --guard --config FILE
       wolfpack-resmon --help | --version

  --guard         Run as the guard of this node: holds the lease, starts resource
                  monitors for wolfpackd, ends everything at lease end or when
                  wolfpackd is lost, and tells the other nodes that nothing runs.
                  One per node; runs until SIGTERM.
  --config FILE   The node's configuration, the same as wolfpackd's.
  --monitor N     Used by the guard alone, to start resource monitor N.
  --help          This text.
  --version       The version.

Exit status: 0 ended in order; 1 failed while running; 2 wrong usage;
             78 the configuration or the cluster key cannot be used.
";

/// EX_CONFIG of sysexits.h.
const EXIT_CONFIG: u8 = 78;

#[derive(Debug)]
enum Mode {
    Guard { config: PathBuf },
    Monitor { number: u32 },
    Help,
    Version,
}

fn parse(args: impl Iterator<Item = String>) -> Result<Mode, String> {
    let (mut guard, mut config, mut monitor) = (false, None, None);
    let mut args = args;
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--help" | "-h" => return Ok(Mode::Help),
            "--version" | "-V" => return Ok(Mode::Version),
            "--guard" => guard = true,
            "--config" => {
                config = Some(PathBuf::from(args.next().ok_or("--config needs a file")?));
            }
            "--monitor" => {
                let number = args.next().ok_or("--monitor needs a number")?;
                let bad = |_| format!("--monitor: '{number}' is not a number");
                monitor = Some(number.parse().map_err(bad)?);
            }
            other => return Err(format!("unknown argument '{other}'")),
        }
    }
    match (guard, config, monitor) {
        (true, Some(config), None) => Ok(Mode::Guard { config }),
        (true, None, None) => Err("--guard needs --config FILE".into()),
        (false, None, Some(number)) => Ok(Mode::Monitor { number }),
        _ => Err("give either --guard --config FILE, or --monitor N".into()),
    }
}

fn main() -> ExitCode {
    let mode = match parse(std::env::args().skip(1)) {
        Ok(mode) => mode,
        Err(why) => {
            eprintln!("wolfpack-resmon: {why}; see wolfpack-resmon --help");
            return ExitCode::from(2);
        }
    };
    match mode {
        Mode::Help => {
            print!("{HELP}");
            ExitCode::SUCCESS
        }
        Mode::Version => {
            println!("wolfpack-resmon {}", env!("CARGO_PKG_VERSION"));
            ExitCode::SUCCESS
        }
        Mode::Guard { config } => {
            log::start();
            let code = match guard::run(&config) {
                Ok(()) => ExitCode::SUCCESS,
                Err(e) => {
                    say(&e);
                    let config = matches!(e, guard::GuardError::Node(_));
                    ExitCode::from(if config { EXIT_CONFIG } else { 1 })
                }
            };
            log::flush();
            code
        }
        Mode::Monitor { number } => {
            log::start();
            let code = match monitor::run(number) {
                Ok(()) => ExitCode::SUCCESS,
                Err(e) => {
                    say(&e);
                    ExitCode::FAILURE
                }
            };
            log::flush();
            code
        }
    }
}

fn say(error: &dyn std::error::Error) {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(c) = cause {
        text.push_str(": ");
        text.push_str(&c.to_string());
        cause = c.source();
    }
    tracing::error!("{text}");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(args: &[&str]) -> Result<Mode, String> {
        parse(args.iter().map(ToString::to_string))
    }

    #[test]
    fn arguments_are_taken_or_explained() {
        assert!(matches!(of(&["--guard", "--config", "/x"]), Ok(Mode::Guard { .. })));
        assert!(matches!(of(&["--monitor", "3"]), Ok(Mode::Monitor { number: 3 })));
        assert!(matches!(of(&["--guard", "--help"]), Ok(Mode::Help)));
        for bad in [
            &[][..],
            &["--guard"],
            &["--config"],
            &["--monitor", "x"],
            &["--guard", "--config", "/x", "--monitor", "1"],
            &["--what"],
        ] {
            assert!(of(bad).is_err(), "{bad:?}");
        }
    }
}
