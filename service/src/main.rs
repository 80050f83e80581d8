//! `wolfpackd`, the cluster service of a node: puts the driver, the core, the store, the register
//! and the local API together and carries bytes between them.
//!
//! It takes no decision of its own: decisions are the core's. It never forks. Everything that it
//! runs as applications belongs to the guard, which ends it when this process dies; so any panic
//! ends the whole process at once.
//!
//! ```text
//!   wolfpack-net  --DriverEvent-->  +--------+  --PeerMessage, HeartbeatCommand-->  driver
//!   wolfpack-store --StoreEvent-->  |  main: |  --Persist-->                        store
//!   wolfpack-reg --RegisterNotice-> |  core  |  --RegisterCommand-->                register
//!   guard, monitor --Supervised-->  |        |  --GuardCommand, MonitorCommand-->   guard, monitor
//!   api-N       --ApiCall-->        +--------+  --Reply-->                          api-N
//!   signals     --Leave-->               |
//!                                        +--Event--> journal (ring, file, log)
//! ```
//!
//! All channels are bounded, and none of the core's sends waits: what cannot be sent is dropped and
//! counted where the protocol repeats it, and ends the service where it does not.

#![forbid(unsafe_code)]

mod api;
mod args;
mod drive;
mod errands;
mod error;
mod guard;
mod journal;
mod life;
mod logging;
mod monitor;
mod outside;
mod pace;
mod recorder;
mod setup;
mod signals;
mod sink;
mod supervise;
mod systemd;
mod witness;

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;

use crate::args::Args;
use crate::recorder::Recorder;

/// A panic is held up so long for the recorder: the guard is not waiting for it.
const PANIC_PATIENCE: Duration = Duration::from_millis(250);

fn main() -> ExitCode {
    let args = Args::parse();
    // Before any thread: they all inherit the mask.
    let signals = match signals::block() {
        Ok(signals) => signals,
        Err(e) => return fail(&e),
    };
    logging::start(args.foreground);
    end_at_panic();
    let result = if args.check { setup::check(&args.config) } else { drive::run(&args, signals) };
    match result {
        Ok(code) => {
            logging::flush();
            ExitCode::from(code)
        }
        Err(e) => fail(&e),
    }
}

fn fail(error: &error::StartError) -> ExitCode {
    tracing::error!("{}", error.in_full());
    logging::flush();
    ExitCode::from(error.exit_code())
}

/// A broken invariant ends this life: a half-working service is worse than none, because the
/// others only take over from one that is silent.
fn end_at_panic() {
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        print(info);
        std::process::abort();
    }));
}

/// What led to a panic is to be on the recorder's tape before the process ends.
fn record_panics(recorder: Recorder) {
    let end = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        recorder.end(&format!("panic: {info}"), PANIC_PATIENCE);
        end(info);
    }));
}
