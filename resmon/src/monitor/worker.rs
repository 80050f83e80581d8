//! The thread of one resource: calls its entry points one after another, each recorded in the
//! section before it is made, and watches it while it is online.
//!
//! ```text
//!            Online                 ok
//!   Off -------------> (call) ------------> On --+ looks_alive, is_alive by the clock,
//!    ^                   | failed           |    | by the watched descriptor; housekeeping
//!    |                   v                  |<---+
//!    +----- terminate ---+<-- Offline, -----+---> Failed (said once; waits for a command)
//!                             Terminate
//! ```

use std::any::Any;
use std::os::fd::AsFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, TryRecvError};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::EventFd;
use wolfpack_resource::boottime;
use wolfpack_resource::kind::{Authority, Fault, ResourceType, Terminator};
use wolfpack_resource::section::CallRecorder;
use wolfpack_types::Instant;
use wolfpack_types::monitor::{EntryPoint, OnlineMode, ResourceSpec};

use super::Note;
use super::authority::CallAuthority;
use crate::kinds::Context;

/// What a worker is told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Job {
    Online {
        call: u64,
        mode: OnlineMode,
    },
    Offline {
        call: u64,
    },
    /// After the call under way has been told to end.
    Terminate {
        call: u64,
    },
    Announce,
}

/// Everything of one worker thread.
pub(super) struct Worker {
    pub(super) spec: ResourceSpec,
    pub(super) kind: Box<dyn ResourceType>,
    pub(super) terminator: Arc<dyn Terminator>,
    pub(super) context: Arc<Context>,
    pub(super) recorder: Arc<CallRecorder>,
    pub(super) authority: Arc<CallAuthority>,
    pub(super) jobs: Receiver<Job>,
    pub(super) wake: Arc<EventFd>,
    pub(super) notes: Sender<Note>,
    pub(super) state: State,
    /// Counted in the section as held.
    pub(super) held: bool,
    /// The worker of the same resource with its former properties, which ends first.
    pub(super) predecessor: Option<JoinHandle<()>>,
}

/// What the resource is, as far as watching it goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum State {
    Off,
    On { looks_at: Instant, is_at: Instant, house_at: Instant },
    Failed,
}

impl Worker {
    /// Until the supervisor drops its end: the resource was given other properties.
    pub(super) fn run(mut self) {
        if let Some(predecessor) = self.predecessor.take() {
            // Its panic was its own; what it held is in the ledger.
            let _ = predecessor.join();
        }
        loop {
            match self.jobs.try_recv() {
                Ok(job) => self.handle(job),
                Err(TryRecvError::Disconnected) => return self.close(),
                Err(TryRecvError::Empty) => {
                    let stirred = self.wait();
                    self.watch(stirred);
                }
            }
        }
    }

    fn handle(&mut self, job: Job) {
        match job {
            Job::Online { call, mode } => {
                let outcome = self.online(mode);
                self.done(call, outcome);
            }
            Job::Offline { call } => {
                let authority = Arc::clone(&self.authority);
                let ended = self.call(EntryPoint::Offline, |kind| kind.offline(&*authority));
                // What does not end in order ends hard.
                let outcome = ended.or_else(|fault| {
                    tracing::warn!(resource = self.spec.name, "offline failed: {fault}");
                    self.terminate()
                });
                let outcome = outcome.and_then(|()| self.let_go());
                self.done(call, outcome);
            }
            Job::Terminate { call } => {
                let outcome = self.terminate().and_then(|()| self.let_go());
                self.authority.cancel.set(false);
                self.done(call, outcome);
            }
            Job::Announce => {
                if matches!(self.state, State::On { .. }) {
                    // Not an entry point that can fail; recorded as what it is near to.
                    let _ = self.call(EntryPoint::ResourceControl, |kind| {
                        kind.announce();
                        Ok(())
                    });
                }
            }
        }
    }

    fn close(mut self) {
        if self.held
            && let Err(fault) = self.terminate().and_then(|()| self.let_go())
        {
            tracing::error!(resource = self.spec.name, "could not be ended: {fault}");
        }
    }

    fn online(&mut self, mode: OnlineMode) -> Result<(), Fault> {
        if matches!(self.state, State::On { .. }) {
            return Ok(());
        }
        // Refused before anything is counted, so that the guard is not alarmed for nothing.
        self.authority.remaining()?;
        self.hold();
        let outcome = self.prepare(mode).and_then(|()| {
            let authority = Arc::clone(&self.authority);
            self.call(EntryPoint::Online, |kind| kind.online(mode, &*authority))
        });
        match outcome {
            Ok(()) => {
                let now = boottime();
                self.state = State::On {
                    looks_at: after(now, self.spec.policy.looks_alive_ms),
                    is_at: after(now, self.spec.policy.is_alive_ms),
                    house_at: now,
                };
                Ok(())
            }
            Err(fault) => match self.terminate().and_then(|()| self.let_go()) {
                Ok(()) => Err(fault),
                Err(also) => Err(Fault(format!("{fault}; and it could not be undone: {also}"))),
            },
        }
    }

    /// A start finds nothing of an earlier one.
    fn prepare(&mut self, mode: OnlineMode) -> Result<(), Fault> {
        if mode == OnlineMode::Restore {
            return Ok(());
        }
        let entry = self.context.ledger.get(self.spec.id).map_err(|e| Fault::of(&e))?;
        let Some(entry) = entry else { return Ok(()) };
        tracing::info!(resource = self.spec.name, "what an earlier start left is ended first");
        crate::kinds::terminator_of(&entry).terminate()
    }

    /// Counted before the lease is checked for the start; see `CallRecorder::hold`.
    fn hold(&mut self) {
        if !self.held {
            self.recorder.hold();
            self.held = true;
            self.context.poke();
        }
    }

    /// Nothing of it runs any more.
    fn let_go(&mut self) -> Result<(), Fault> {
        self.state = State::Off;
        self.context.ledger.remove(self.spec.id).map_err(|e| Fault::of(&e))?;
        if self.held {
            self.recorder.release();
            self.held = false;
        }
        self.context.poke();
        Ok(())
    }

    fn terminate(&mut self) -> Result<(), Fault> {
        let terminator = Arc::clone(&self.terminator);
        self.call(EntryPoint::Terminate, |_| terminator.terminate())
    }

    /// One recorded call. A panic is the type's failure, not the monitor's end.
    fn call(
        &mut self,
        entry_point: EntryPoint,
        act: impl FnOnce(&mut dyn ResourceType) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        let recorded = self.recorder.begin(entry_point, self.spec.id, boottime());
        let outcome = catch_unwind(AssertUnwindSafe(|| act(self.kind.as_mut())));
        drop(recorded);
        outcome.unwrap_or_else(|panic| {
            Err(Fault(format!("its {entry_point:?} panicked: {}", panic_text(&*panic))))
        })
    }

    fn done(&self, call: u64, outcome: Result<(), Fault>) {
        let outcome = outcome.map_err(|f| f.to_string());
        // The supervisor is gone only when the process ends.
        let _ = self.notes.send(Note::Done { call, resource: self.spec.id, outcome });
    }

    /// Sleeps until a job, the watched descriptor or the next due time; whether the watched
    /// descriptor was it.
    fn wait(&self) -> bool {
        let at = match self.state {
            State::On { looks_at, is_at, house_at } => looks_at.min(is_at).min(house_at),
            State::Off | State::Failed => Instant::FAR,
        };
        let timeout = if at == Instant::FAR {
            PollTimeout::NONE
        } else {
            // Rounded up: due times are no deadlines.
            let ms = at.since(boottime()).as_millis().saturating_add(1);
            PollTimeout::try_from(ms).unwrap_or(PollTimeout::MAX)
        };
        let mut fds = vec![PollFd::new(self.wake.as_fd(), PollFlags::POLLIN)];
        if matches!(self.state, State::On { .. }) {
            fds.extend(self.kind.watch().map(|fd| PollFd::new(fd, PollFlags::POLLIN)));
        }
        // An interrupted wait is a short one.
        let _ = poll(&mut fds, timeout);
        let woken = |fd: &PollFd<'_>| fd.any().unwrap_or(false);
        let stirred = fds.get(1).is_some_and(woken);
        if woken(&fds[0]) {
            // The jobs are in the queue; the count does not matter.
            let _ = self.wake.read();
        }
        stirred
    }

    fn watch(&mut self, stirred: bool) {
        let State::On { mut looks_at, mut is_at, mut house_at } = self.state else { return };
        let now = boottime();
        let policy = self.spec.policy;
        let mut health = Ok(());
        if stirred || now >= looks_at {
            looks_at = after(now, policy.looks_alive_ms);
            // A resource that does not look alive is asked thoroughly at once; that decides.
            if let Err(looks) = self.call(EntryPoint::LooksAlive, |kind| kind.looks_alive()) {
                tracing::warn!(resource = self.spec.name, "does not look alive: {looks}");
                let checked = self.call(EntryPoint::IsAlive, |kind| kind.is_alive());
                health = checked.map_err(|fault| match fault == looks {
                    true => fault,
                    false => Fault(format!("{looks}; {fault}")),
                });
                is_at = after(now, policy.is_alive_ms);
            }
        }
        if health.is_ok() && now >= is_at {
            is_at = after(now, policy.is_alive_ms);
            health = self.call(EntryPoint::IsAlive, |kind| kind.is_alive());
        }
        if now >= house_at {
            house_at = self.kind.housekeeping(now).unwrap_or(Instant::FAR);
        } else if stirred {
            house_at = now;
        }
        self.state = State::On { looks_at, is_at, house_at };
        if let Err(fault) = health {
            self.state = State::Failed;
            let (resource, why) = (self.spec.id, fault.to_string());
            tracing::error!(resource = self.spec.name, "failed: {why}");
            let _ = self.notes.send(Note::Failed { resource, why });
        }
    }
}

/// A poll period of zero means never.
fn after(now: Instant, ms: u32) -> Instant {
    if ms == 0 { Instant::FAR } else { now + Duration::from_millis(ms.into()) }
}

fn panic_text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}
