//! Ctrl-C and its like: labs are cleaned up, the running command is told, and the exit code is
//! 128 + the signal's number, as shells expect.

use anyhow::{Context, Result};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::unistd::Pid;

use crate::step;

/// Blocks the signals that end a program, and starts the thread that waits for them.
///
/// # Errors
/// The kernel refuses, or no thread can be made.
pub(crate) fn catch() -> Result<()> {
    let mut set = SigSet::empty();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        set.add(signal);
    }
    set.thread_block().context("blocking signals")?;
    std::thread::Builder::new().name("signals".into()).spawn(move || {
        let Ok(signal) = set.wait() else { return };
        eprintln!("\n{}: cleaning up", signal.as_str());
        if let Some(child) = step::running() {
            // It may have had the signal from the terminal already.
            let _ = kill(Pid::from_raw(child), signal);
        }
        wolfpack_lab::reaper::clean_up_all();
        std::process::exit(128 + signal as i32);
    })?;
    Ok(())
}
