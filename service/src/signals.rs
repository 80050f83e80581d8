//! Signals, taken by one thread: SIGTERM and SIGINT ask for a clean leave, SIGHUP for reading the
//! cluster key again.

use std::io;
use std::thread;

use crossbeam_channel::{Receiver, bounded};
use nix::sys::signal::{SigSet, Signal};

use crate::error::StartError;

/// Signals that are blocked in all threads and wait to be taken.
#[derive(Debug)]
pub(crate) struct Blocked(SigSet);

/// Somebody asked the service to leave.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Leave;

/// Somebody asked the service to read the cluster key again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Reload;

/// What signals ask for.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) leave: Receiver<Leave>,
    pub(crate) reload: Receiver<Reload>,
}

fn failed(act: &'static str) -> impl FnOnce(nix::Error) -> StartError {
    move |e| StartError::System { act, source: io::Error::from(e) }
}

/// Blocks them; to be called before any thread is made.
pub(crate) fn block() -> Result<Blocked, StartError> {
    let mut set = SigSet::empty();
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        set.add(signal);
    }
    set.thread_block().map_err(failed("block signals"))?;
    Ok(Blocked(set))
}

/// Starts to take them.
pub(crate) fn start(blocked: Blocked) -> Result<Asked, StartError> {
    // A second request while the first is waiting says nothing new.
    let (leave, leaves) = bounded(1);
    let (reload, reloads) = bounded(1);
    thread::Builder::new()
        .name("wolfpack-signal".into())
        .stack_size(128 * 1024)
        .spawn(move || {
            loop {
                match blocked.0.wait() {
                    Ok(Signal::SIGHUP) => {
                        tracing::info!(
                            "SIGHUP: reading the cluster key again (the configuration is only read \
                             at the start)"
                        );
                        let _ = reload.try_send(Reload);
                    }
                    Ok(signal) => {
                        tracing::info!("{signal}: leaving the cluster");
                        let _ = leave.try_send(Leave);
                    }
                    Err(e) => tracing::warn!("cannot wait for signals: {e}"),
                }
            }
        })
        .map_err(|source| StartError::System { act: "start a thread", source })?;
    Ok(Asked { leave: leaves, reload: reloads })
}
