//! The service's side of the guard: attaching, and hearing what it says.
//!
//! The guard holds the lease section and is the parent of all monitors. If it is lost, nobody ends
//! the resources at lease end, so the service ends its life at once.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use wolfpack_resource::rpc::{Channel, RpcError};
use wolfpack_resource::section::{CallReader, LeaseWriter};
use wolfpack_types::monitor::{Blame, GuardCommand, GuardEvent, MONITOR_PROTOCOL, MonitorEvent};
use wolfpack_types::{Instant, NodeInc};

use crate::error::StartError;
use crate::signals::Leave;
use crate::systemd;

/// The monitor that runs all resources.
pub(crate) const MONITOR: u32 = 1;
/// Between two attempts to attach.
const RETRY: Duration = Duration::from_millis(100);
/// A guard that does not answer for this long is not there.
const ANSWER: Duration = Duration::from_secs(10);
/// A command to the guard waits at most this long for room, which there always is unless it hangs.
const SEND: Duration = Duration::from_millis(100);

/// What guard and monitors say.
#[derive(Debug)]
pub(crate) enum Supervised {
    Guard(GuardEvent, Vec<OwnedFd>),
    GuardLost(String),
    /// `generation` tells the monitors of one number apart.
    Monitor {
        generation: u64,
        event: MonitorEvent,
    },
    MonitorLost {
        generation: u64,
        why: String,
    },
}

/// The attached guard.
#[derive(Debug)]
pub(crate) struct Guard {
    channel: Arc<Channel<GuardCommand, GuardEvent>>,
    section: OwnedFd,
    lease: LeaseWriter,
}

/// The guard, and the socket of the first monitor.
type Attached = (Guard, OwnedFd);

/// Waits for the guard, attaches, and has it start the monitor. None: asked to leave meanwhile.
pub(crate) fn attach(
    run_dir: &Path,
    me: NodeInc,
    margin: Duration,
    leave: &Receiver<Leave>,
) -> Result<Option<Attached>, StartError> {
    let path = run_dir.join("guard.sock");
    let mut said = String::new();
    loop {
        let why = match try_attach(&path, me, margin)? {
            Ok(attached) => return Ok(Some(attached)),
            Err(why) => why,
        };
        if why != said {
            tracing::warn!("waiting for the guard: {why}");
            systemd::status(&format!("waiting for the guard: {why}"));
            said = why;
        }
        match leave.recv_timeout(RETRY) {
            Ok(Leave) => return Ok(None),
            Err(RecvTimeoutError::Timeout) => {}
            // The signal thread never ends; without it there is only waiting.
            Err(RecvTimeoutError::Disconnected) => thread::sleep(RETRY),
        }
    }
}

/// One attempt; the inner error says what to wait for.
fn try_attach(
    path: &Path,
    me: NodeInc,
    margin: Duration,
) -> Result<Result<Attached, String>, StartError> {
    let failed = |source| StartError::Guard { path: path.to_owned(), source };
    let speech = |why: String| StartError::GuardSpeech { path: path.to_owned(), why };
    let channel = match Channel::<GuardCommand, GuardEvent>::connect(path) {
        Ok(channel) => channel,
        Err(e @ RpcError::NobodyListens { .. }) => {
            return Ok(Err(format!("{e}; start it with 'systemctl start wolfpack-guard'")));
        }
        Err(e) => return Err(failed(e)),
    };
    let margin_ms = u64::try_from(margin.as_millis()).unwrap_or(u64::MAX);
    let attach = GuardCommand::Attach { version: MONITOR_PROTOCOL, me, margin_ms };
    let answer = channel.send(&attach, ANSWER).and_then(|()| channel.recv(Some(ANSWER)));
    let received = match answer {
        Ok(Some(received)) => received,
        Ok(None) => return Ok(Err("it does not answer".into())),
        // As when it is just ending.
        Err(RpcError::Closed) => return Ok(Err("it closed the connection".into())),
        Err(e) => return Err(failed(e)),
    };
    let section = match received.message {
        GuardEvent::Attached { version: MONITOR_PROTOCOL } => received.fds.into_iter().next(),
        GuardEvent::Attached { version } => {
            return Err(speech(format!("version {version}, not {MONITOR_PROTOCOL}")));
        }
        GuardEvent::Refused { why } => return Ok(Err(why)),
        other => return Err(speech(format!("it answered {other:?}"))),
    };
    let section = section.ok_or_else(|| speech("no section came with the answer".into()))?;
    let lease = LeaseWriter::open(section.as_fd(), me)?;
    channel.send(&GuardCommand::StartMonitor { number: MONITOR }, ANSWER).map_err(failed)?;
    let started = channel.recv(Some(ANSWER)).map_err(failed)?;
    let Some(started) = started else {
        return Err(speech("it did not start a monitor in time".into()));
    };
    let GuardEvent::MonitorStarted { number: MONITOR, .. } = started.message else {
        return Err(speech(format!("asked to start a monitor, it said {:?}", started.message)));
    };
    let monitor = started.fds.into_iter().next();
    let monitor = monitor.ok_or_else(|| speech("no socket came with the monitor".into()))?;
    Ok(Ok((Guard { channel: Arc::new(channel), section, lease }, monitor)))
}

impl Guard {
    /// Starts to hear what the guard says.
    pub(crate) fn listen(&self, notify: Sender<Supervised>) -> Result<(), StartError> {
        let channel = Arc::clone(&self.channel);
        thread::Builder::new()
            .name("wolfpack-guard".into())
            .stack_size(256 * 1024)
            .spawn(move || {
                loop {
                    let said = match channel.recv(None) {
                        Ok(Some(r)) => Supervised::Guard(r.message, r.fds),
                        Ok(None) => continue,
                        Err(e) => Supervised::GuardLost(e.to_string()),
                    };
                    let lost = matches!(said, Supervised::GuardLost(_));
                    if notify.send(said).is_err() || lost {
                        return;
                    }
                }
            })
            .map_err(|source| StartError::System { act: "start a thread", source })?;
        Ok(())
    }

    /// The shared section.
    pub(crate) fn section(&self) -> BorrowedFd<'_> {
        self.section.as_fd()
    }

    /// When the guard last said in the section that it lives.
    pub(crate) fn last_beat(&self) -> Instant {
        self.lease.guard_beat()
    }

    /// Asks for a monitor; its socket comes with an event.
    pub(crate) fn start_monitor(&self) -> Result<(), RpcError> {
        self.channel.send(&GuardCommand::StartMonitor { number: MONITOR }, SEND)
    }

    /// Everything of this life is to be ended now.
    pub(crate) fn terminate_all(&self, why: &str) -> Result<(), RpcError> {
        self.channel.send(&GuardCommand::TerminateAll { why: why.to_owned() }, SEND)
    }

    /// The cluster key file has changed.
    pub(crate) fn reload_key(&self) -> Result<(), RpcError> {
        self.channel.send(&GuardCommand::ReloadKey, SEND)
    }

    /// What the dead monitor was doing. To be read before it is started again.
    pub(crate) fn blame(&self) -> Option<Blame> {
        match CallReader::open(self.section.as_fd(), MONITOR) {
            Ok(reader) => reader.calls_in_progress().blame(),
            Err(e) => {
                tracing::error!("the crash record of monitor {MONITOR} cannot be read: {e}");
                None
            }
        }
    }
}

/// The path of the guard's socket, for messages.
pub(crate) fn socket(run_dir: &Path) -> PathBuf {
    run_dir.join("guard.sock")
}
