//! The register machine (protocol P4): pure. Turns the core's [`RegisterCommand`]s into disk
//! commands, one at a time, and their outcomes into [`RegisterEvent`]s.
//!
//! It reads no clock and retries nothing but RESERVE after a unit attention; the disk thread (or
//! the simulator) drives it: one input, then all outputs, then the next input.
//!
//! ```text
//!  command ──▶ job = list of stages ──▶ stage ──▶ one disk command ──▶ its end ──▶ next stage
//!                                                     │ Timeout: the job has failed; nothing is
//!                                                     ▼ sent until the command is known dead
//!                                                  stalled ──Dead──▶ next command of the core
//! ```
//! Invariants: never two commands in flight; own `mbal` and `bal` never decrease; no slot is written
//! before the commands of former lives are dead and the own slots are carried over.

mod carry;
#[cfg(test)]
mod crash_tests;
mod jobs;
mod own;
#[cfg(test)]
mod proptests;
#[cfg(test)]
mod rig;
mod stages;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;

use wolfpack_types::disk::{DiskOp, DiskOutcome};
use wolfpack_types::register::{Exclusion, RegisterCommand, RegisterEvent, RegisterFailure};
use wolfpack_types::{ClusterId, Instant, NodeInc, Rules, Times};

use jobs::Job;
use own::Own;

/// Commands of the core that may wait: it has one under way at a time, so more are its mistake.
const QUEUE_MAX: usize = 8;

/// How the register is set up.
#[derive(Clone, Debug)]
pub struct RegisterConfig {
    pub me: NodeInc,
    pub cluster: ClusterId,
    pub exclusion: Exclusion,
    /// The witness is a share: it keeps views and no logs (P4).
    pub views_only: bool,
    pub times: Times,
    pub rules: Rules,
}

/// One thing that happened.
#[derive(Clone, Debug, PartialEq)]
pub enum Input {
    Deadline,
    Command(RegisterCommand),
    /// The outcome of the command in flight. After `Timeout` the machine sends no command until
    /// `Dead` for the same id.
    Done {
        id: u64,
        outcome: DiskOutcome,
    },
    /// The timed-out command is known never to be executed any more (or its late end has come).
    Dead {
        id: u64,
    },
    /// No command of a former life of this node can be executed any more.
    FormerLivesDead,
}

/// One thing to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Output {
    /// One command; the next only after its end.
    Disk {
        id: u64,
        op: DiskOp,
    },
    Event(RegisterEvent),
}

/// What is at the disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Flight {
    None,
    /// Sent, not ended. `slot`: a write of the own slot; `of_job`: the job that sent it still wants
    /// its end.
    Sent {
        id: u64,
        slot: bool,
        of_job: bool,
    },
    /// Timed out: may still be executed.
    Stalled {
        id: u64,
    },
}

/// The register machine of one node.
#[derive(Debug)]
pub struct Register {
    config: RegisterConfig,
    outputs: VecDeque<Output>,
    /// Commands not yet begun.
    queue: VecDeque<RegisterCommand>,
    job: Option<Job>,
    flight: Flight,
    /// Number of the last disk command.
    commands: u64,
    former_lives_dead: bool,
    own: Own,
}

impl Register {
    /// A new life: knows nothing of the disk yet.
    #[must_use]
    pub fn new(config: RegisterConfig) -> Self {
        let own = Own::new(config.me, config.cluster);
        Self {
            config,
            outputs: VecDeque::new(),
            queue: VecDeque::new(),
            job: None,
            flight: Flight::None,
            commands: 0,
            former_lives_dead: false,
            own,
        }
    }

    /// One input. Outcomes of commands that are not in flight (late, doubled) are ignored.
    pub fn handle(&mut self, now: Instant, input: Input) {
        match input {
            Input::Deadline => {}
            Input::Command(command) => self.command(command),
            Input::Done { id, outcome } => self.done(now, id, outcome),
            Input::Dead { id } => {
                if self.flight == (Flight::Stalled { id }) {
                    self.flight = Flight::None;
                }
            }
            Input::FormerLivesDead => self.former_lives_dead = true,
        }
        self.pump(now);
        self.check_invariants();
    }

    /// The next output.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When to call again at the latest.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        self.job.as_ref().and_then(Job::deadline)
    }

    /// Nothing under way, nothing waiting, nothing that may still be executed.
    #[must_use]
    pub fn idle(&self) -> bool {
        self.job.is_none() && self.queue.is_empty() && self.flight == Flight::None
    }

    /// Checks what must hold between any two inputs.
    ///
    /// # Panics
    /// If this machine is wrong; never for what a disk says.
    pub fn check_invariants(&self) {
        self.own.check();
        assert!(self.queue.len() <= QUEUE_MAX, "the queue is bounded");
        let stalled = matches!(self.flight, Flight::Stalled { .. });
        assert!(!(stalled && self.job.is_some()), "no job runs while a command may still execute");
        let wanted = matches!(self.flight, Flight::Sent { of_job: true, .. });
        assert!(!wanted || self.job.is_some(), "the end of a command is wanted by a job");
    }

    fn command(&mut self, command: RegisterCommand) {
        match command {
            RegisterCommand::Cancel => self.supersede(),
            RegisterCommand::Promise { .. } => {
                self.supersede();
                self.queue.push_back(command);
            }
            other if self.queue.len() < QUEUE_MAX => self.queue.push_back(other),
            other => {
                let why = RegisterFailure::Io("too many commands wait for the witness".into());
                if let Some(id) = other.id() {
                    self.event(RegisterEvent::Failed { id, why });
                }
            }
        }
    }

    /// Drops all work; a command in flight is awaited, for nobody.
    fn supersede(&mut self) {
        self.queue.clear();
        self.job = None;
        if let Flight::Sent { of_job, .. } = &mut self.flight {
            *of_job = false;
        }
    }

    fn done(&mut self, now: Instant, id: u64, outcome: DiskOutcome) {
        let Flight::Sent { id: sent, slot, of_job } = self.flight else { return };
        if sent != id {
            return;
        }
        if slot && matches!(outcome, DiskOutcome::Good(_)) {
            self.own.slot_is_certain();
        }
        if outcome == DiskOutcome::Timeout {
            self.flight = Flight::Stalled { id };
            if of_job {
                let limit = self.config.times.command_timeout.as_millis();
                self.fail(RegisterFailure::Io(format!(
                    "no answer from the disk within {limit} ms"
                )));
            }
            return;
        }
        self.flight = Flight::None;
        if of_job {
            self.stage_ended(now, outcome);
        }
    }

    /// Begins what can be begun.
    fn pump(&mut self, now: Instant) {
        while self.flight == Flight::None {
            if self.job.is_some() {
                if !self.advance(now) {
                    return;
                }
            } else if let Some(command) = self.queue.pop_front() {
                self.begin(now, command);
            } else {
                return;
            }
        }
    }

    fn send(&mut self, op: DiskOp, slot: bool) {
        assert!(self.flight == Flight::None, "never two commands in flight");
        self.commands += 1;
        let id = self.commands;
        self.flight = Flight::Sent { id, slot, of_job: true };
        self.outputs.push_back(Output::Disk { id, op });
    }

    fn event(&mut self, event: RegisterEvent) {
        self.outputs.push_back(Output::Event(event));
    }

    fn fail(&mut self, why: RegisterFailure) {
        if let Some(job) = self.job.take() {
            self.event(RegisterEvent::Failed { id: job.id, why });
        }
    }
}
