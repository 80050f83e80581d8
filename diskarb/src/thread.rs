//! The register's disk thread in the service: drives the pure [`Register`] with one real device,
//! reconnects, and never takes a late completion for a fresh one.
//!
//! ```text
//!  core ──command──▶ ┌────────────┐ ──execute──▶ device      connector (short-lived thread):
//!                    │ disk thread│ ◀──outcome──             opens the disk, up to 3 s, while the
//!  core ◀──notice─── └────────────┘ ◀──new device── ◀─────── disk thread answers "not reachable"
//! ```
//! **When former lives are dead.** At most one service runs on a node (it holds a lock), so the
//! process of a former life was reaped, or the machine was rebooted: it sends nothing any more. Its
//! session, if the target still has one, is ended by the first login of this life, which has the
//! same initiator name and ISID; after that login and [`NEXUS_QUARANTINE`] no command of a former
//! life can be executed. (A disk of the kernel: a process is reaped only when its SG_IO has
//! returned.) The same argument makes a timed-out command dead whose session was dropped.
//!
//! **A share** has no session that could be dropped: a call that does not return is waited for, and
//! no slot is written before it has. After the process that made it has ended, the server may still
//! have it in hand: [`SHARE_QUARANTINE`].

use std::thread::JoinHandle;
use std::time::{Duration, Instant as OsInstant};

use crossbeam_channel::{Receiver, Sender, never, select, unbounded};
use nix::time::{ClockId, clock_gettime};
use wolfpack_types::disk::{DiskOp, DiskOutcome};
use wolfpack_types::register::{RegisterCommand, RegisterEvent, RegisterFailure};
use wolfpack_types::{ClusterId, Instant};

use crate::device::{
    CONNECT_TIMEOUT, Device, Late, NEXUS_QUARANTINE, Naming, OpenError, Purpose, SHARE_QUARANTINE,
    open,
};
use crate::register::{Input, Output, Register, RegisterConfig};

/// First pause between two attempts to reach the disk; doubled up to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// Longest pause: a witness that is back should be noticed within a regroup.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// A wait for a late completion is cut into such slices, so that commands are still heard.
const LATE_SLICE: Duration = Duration::from_millis(10);
/// A session without commands is asked so often whether the unit is ready: a lost path is noticed
/// before it is needed, and the target's own pings (NOP-In), which only a served session answers,
/// are answered.
const KEEP_ALIVE: Duration = Duration::from_millis(500);
/// Longest wait without looking at anything.
const IDLE: Duration = Duration::from_secs(3600);

/// What the thread tells the service.
#[derive(Clone, PartialEq, Debug)]
pub enum RegisterNotice {
    /// For the core.
    Event(RegisterEvent),
    /// There is no session to the disk; the thread goes on trying.
    DiskLost { disk: String, why: String },
    /// There is one again (or for the first time).
    DiskBack { disk: String },
}

/// A witness to open.
#[derive(Clone, Debug)]
pub struct Place {
    /// The cluster, as targets and shares know it; the register itself may have another identity
    /// (`register.cluster`).
    pub cluster: ClusterId,
    pub register: RegisterConfig,
    /// The disk, share or file, as the configuration names it.
    pub disk: String,
}

/// What the thread is told.
enum Told {
    Command(RegisterCommand),
    /// From now on this witness, or none.
    Open(Option<Box<Place>>),
}

/// The running thread. Dropping it stops it.
#[derive(Debug)]
pub struct RegisterThread {
    commands: Option<Sender<Told>>,
    thread: Option<JoinHandle<()>>,
}

impl RegisterThread {
    /// Starts the thread, which opens `place` (so an unreachable disk is a notice, no error), if
    /// any, and tells `notify` what happens. The times of events are of CLOCK_BOOTTIME.
    ///
    /// # Errors
    /// Only if no thread can be made.
    pub fn start(place: Option<Place>, notify: Sender<RegisterNotice>) -> std::io::Result<Self> {
        // Unbounded, but the core has one command under way and the thread one event per command.
        let (commands, inbox) = unbounded();
        let thread = std::thread::Builder::new().name("register-disk".into()).spawn(move || {
            let mut next = place.map(Box::new);
            let mut hung = Vec::new();
            loop {
                let then = match next {
                    Some(place) => {
                        let driver = Driver::new(*place, notify.clone(), inbox.clone());
                        driver.beginning_with(&mut hung).run(&mut hung)
                    }
                    None => closed(&notify, &inbox),
                };
                match then {
                    Some(place) => next = place,
                    None => return,
                }
            }
        })?;
        Ok(Self { commands: Some(commands), thread: Some(thread) })
    }

    /// Hands over a command of the core; its answer comes as a notice.
    pub fn command(&self, command: RegisterCommand) {
        self.tell(Told::Command(command));
    }

    /// Commands go to this witness from now on, or to none (then they fail). What the former one is
    /// doing comes to its end first; nothing more is begun there.
    pub fn open(&self, place: Option<Place>) {
        self.tell(Told::Open(place.map(Box::new)));
    }

    fn tell(&self, told: Told) {
        if let Some(commands) = &self.commands {
            // The thread ends only after this handle's sender is gone.
            let _ = commands.send(told);
        }
    }

    /// Ends the thread and its session; waits for the command in flight (bounded by its deadline).
    pub fn stop(self) {
        drop(self);
    }
}

impl Drop for RegisterThread {
    fn drop(&mut self) {
        self.commands = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the register's disk thread panicked");
        }
    }
}

/// Without a witness: commands fail. Returns what is to be opened, or nothing at the end.
fn closed(notify: &Sender<RegisterNotice>, inbox: &Receiver<Told>) -> Option<Option<Box<Place>>> {
    loop {
        match inbox.recv() {
            Ok(Told::Command(command)) => {
                if let Some(id) = command.id() {
                    let why = RegisterFailure::Io("no witness is open here".into());
                    let event = RegisterEvent::Failed { id, why };
                    // A service that has dropped its end is stopping.
                    let _ = notify.send(RegisterNotice::Event(event));
                }
            }
            Ok(Told::Open(place)) => return Some(place),
            Err(_) => return None,
        }
    }
}

/// The node's time.
fn now() -> Instant {
    let time = clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(Duration::ZERO, Duration::from);
    Instant::ZERO + time
}

/// The path to the disk.
enum Path {
    /// To be opened when the pause is over.
    None {
        again: OsInstant,
    },
    Opening {
        result: Receiver<Result<Device, OpenError>>,
        /// Then it is said that it takes too long; the one who opens is waited for all the same.
        late: OsInstant,
    },
    /// A new session; commands of former ones may live until then.
    Quarantine {
        device: Device,
        until: OsInstant,
    },
    Open(Device),
    /// A command has timed out, its session is still there.
    /// `id` is the register's, none if it was a keep-alive.
    Stalled {
        device: Device,
        id: Option<u64>,
        give_up: OsInstant,
    },
}

struct Driver {
    register: Register,
    command_timeout: Duration,
    naming: Naming,
    disk: String,
    notify: Sender<RegisterNotice>,
    inbox: Receiver<Told>,
    path: Path,
    pause: Duration,
    /// The loss was said; why.
    lost: Option<String>,
    /// A timed-out command whose session is gone.
    undead: Option<u64>,
    /// When the last command ended.
    used: OsInstant,
}

impl Driver {
    fn new(place: Place, notify: Sender<RegisterNotice>, inbox: Receiver<Told>) -> Self {
        let Place { cluster, register: config, disk } = place;
        let naming = Naming { cluster, node: config.me.node, purpose: Purpose::Witness };
        Self {
            command_timeout: config.times.command_timeout,
            register: Register::new(config),
            naming,
            disk,
            notify,
            inbox,
            path: Path::None { again: OsInstant::now() },
            pause: FIRST_PAUSE,
            lost: None,
            undead: None,
            used: OsInstant::now(),
        }
    }

    /// A call that was left hanging at this place when another witness was opened: nothing is
    /// written before it has returned.
    fn beginning_with(mut self, hung: &mut Vec<Device>) -> Self {
        if let Some(at) = hung.iter().position(|device| device.describe() == self.disk) {
            self.say_lost("a call on it has not returned yet".into());
            let give_up = OsInstant::now();
            self.path = Path::Stalled { device: hung.swap_remove(at), id: None, give_up };
        }
        self
    }

    /// Serves until the end (nothing is returned), or until another witness is to be opened.
    fn run(mut self, hung: &mut Vec<Device>) -> Option<Option<Box<Place>>> {
        loop {
            self.drain();
            self.see_to_path();
            let opening = match &self.path {
                Path::Opening { result, .. } => result.clone(),
                _ => never(),
            };
            select! {
                recv(self.inbox) -> command => match command {
                    Ok(Told::Command(command)) => {
                        self.register.handle(now(), Input::Command(command));
                    }
                    Ok(Told::Open(place)) => {
                        if let Path::Stalled { device, .. } = self.path
                            && !device.ends_with_session()
                        {
                            hung.push(device);
                        }
                        return Some(place);
                    }
                    Err(_) => return None,
                },
                recv(opening) -> opened => self.opened(opened.unwrap_or_else(|_| Err(OpenError::Command {
                    disk: self.disk.clone(),
                    what: "opening",
                    why: "the connector ended".into(),
                }))),
                default(self.wait()) => self.register.handle(now(), Input::Deadline),
            }
        }
    }

    /// How long nothing needs to be looked at.
    fn wait(&self) -> Duration {
        let register = self.register.next_deadline().map_or(IDLE, |at| at.since(now()));
        let left = |at: &OsInstant| at.saturating_duration_since(OsInstant::now());
        let path = match &self.path {
            Path::None { again } => left(again),
            Path::Quarantine { until, .. } => left(until),
            Path::Stalled { .. } => Duration::ZERO,
            Path::Open(_) => left(&(self.used + KEEP_ALIVE)),
            Path::Opening { late, .. } if self.lost.is_none() => left(late),
            Path::Opening { .. } => IDLE,
        };
        register.min(path)
    }

    /// Carries out what the register wants.
    fn drain(&mut self) {
        while let Some(output) = self.register.poll_output() {
            match output {
                Output::Event(event) => self.tell(RegisterNotice::Event(event)),
                Output::Disk { id, op } => {
                    self.await_first_session();
                    let outcome = self.execute(id, &op);
                    self.register.handle(now(), Input::Done { id, outcome });
                }
            }
        }
    }

    /// A command that comes while the very first session is being made waits for it, no longer than
    /// for an answer of the disk: a service that has just started has a slow witness, not a lost one.
    fn await_first_session(&mut self) {
        let end = OsInstant::now() + self.command_timeout;
        while self.lost.is_none() && OsInstant::now() < end {
            match &self.path {
                Path::Opening { result, .. } => {
                    if let Ok(opened) = result.clone().recv_deadline(end) {
                        self.opened(opened);
                    }
                }
                Path::Quarantine { until, .. } => {
                    std::thread::sleep(until.saturating_duration_since(OsInstant::now()));
                    self.settle();
                }
                Path::None { again } if *again <= OsInstant::now() => {
                    self.path = self.start_opening();
                }
                Path::None { .. } | Path::Open(_) | Path::Stalled { .. } => return,
            }
        }
    }

    fn execute(&mut self, id: u64, op: &DiskOp) -> DiskOutcome {
        let path = std::mem::replace(&mut self.path, Path::None { again: OsInstant::now() });
        let Path::Open(mut device) = path else {
            self.path = path;
            let why = self.lost.as_deref().unwrap_or("not opened yet");
            return DiskOutcome::Transport(format!("{} is not reachable: {why}", self.disk));
        };
        let outcome = device.execute(op, self.command_timeout);
        self.path = self.after(device, Some(id), op, &outcome);
        outcome
    }

    /// The path after a command of the register (`id`), or after a keep-alive.
    fn after(
        &mut self,
        device: Device,
        id: Option<u64>,
        op: &DiskOp,
        outcome: &DiskOutcome,
    ) -> Path {
        self.used = OsInstant::now();
        match outcome {
            // As long again for its late end; then the session is dropped.
            DiskOutcome::Timeout => {
                Path::Stalled { device, id, give_up: self.used + self.command_timeout }
            }
            DiskOutcome::Transport(why) if !device.connected() => {
                drop(device);
                self.say_lost(format!("{}: {why}", op.name()));
                Path::None { again: self.used }
            }
            _ => Path::Open(device),
        }
    }

    /// Moves the path on, if it is time, and carries out what follows from it.
    fn see_to_path(&mut self) {
        self.settle();
        self.drain();
    }

    fn settle(&mut self) {
        let path = std::mem::replace(&mut self.path, Path::None { again: OsInstant::now() });
        self.path = match path {
            Path::None { again } if again <= OsInstant::now() => self.start_opening(),
            Path::Quarantine { device, until } if until <= OsInstant::now() => {
                self.back();
                Path::Open(device)
            }
            Path::Open(mut device) if self.used + KEEP_ALIVE <= OsInstant::now() => {
                let outcome = device.execute(&DiskOp::Test, self.command_timeout);
                self.after(device, None, &DiskOp::Test, &outcome)
            }
            Path::Stalled { mut device, id, give_up } => match device.late(LATE_SLICE) {
                Late::Ended => {
                    if self.lost.is_some() {
                        self.back();
                    }
                    if let Some(id) = id {
                        self.register.handle(now(), Input::Dead { id });
                    }
                    Path::Open(device)
                }
                Late::Pending if OsInstant::now() < give_up => {
                    Path::Stalled { device, id, give_up }
                }
                Late::Pending if !device.ends_with_session() => {
                    self.say_lost("a call on it does not return: is its server gone?".into());
                    Path::Stalled { device, id, give_up }
                }
                Late::Pending | Late::SessionLost => {
                    drop(device);
                    self.undead = self.undead.or(id);
                    self.say_lost("a command was not answered; its session was dropped".into());
                    self.start_opening()
                }
            },
            Path::Opening { result, late } => {
                if self.lost.is_none() && late <= OsInstant::now() {
                    self.say_lost("opening it does not come to an end".into());
                }
                Path::Opening { result, late }
            }
            other => other,
        };
    }

    /// Opens the disk beside this thread, so that commands are answered meanwhile.
    fn start_opening(&self) -> Path {
        let (result, opening) = crossbeam_channel::bounded(1);
        let (disk, naming) = (self.disk.clone(), self.naming);
        let connector = std::thread::Builder::new().name("register-open".into());
        // It ends by itself within the connect timeout, but for a share that hangs: then there is one
        // such thread, not more. A result that nobody takes is dropped.
        match connector.spawn(move || drop(result.send(open(&disk, &naming)))) {
            Ok(_) => {
                Path::Opening { result: opening, late: OsInstant::now() + 2 * CONNECT_TIMEOUT }
            }
            Err(_) => Path::None { again: OsInstant::now() + LONGEST_PAUSE },
        }
    }

    fn opened(&mut self, result: Result<Device, OpenError>) {
        match result {
            Ok(device) => {
                self.pause = FIRST_PAUSE;
                let session = device.ends_with_session();
                let wait = if session { NEXUS_QUARANTINE } else { SHARE_QUARANTINE };
                let until = OsInstant::now() + wait;
                self.path = Path::Quarantine { device, until };
            }
            Err(e) => {
                self.say_lost(e.to_string());
                self.path = Path::None { again: OsInstant::now() + self.pause };
                self.pause = (self.pause * 2).min(LONGEST_PAUSE);
            }
        }
    }

    fn back(&mut self) {
        self.lost = None;
        self.tell(RegisterNotice::DiskBack { disk: self.disk.clone() });
        self.register.handle(now(), Input::FormerLivesDead);
        if let Some(id) = self.undead.take() {
            self.register.handle(now(), Input::Dead { id });
        }
    }

    fn say_lost(&mut self, why: String) {
        if self.lost.is_none() {
            self.tell(RegisterNotice::DiskLost { disk: self.disk.clone(), why: why.clone() });
        }
        self.lost = Some(why);
    }

    fn tell(&self, notice: RegisterNotice) {
        // A service that has dropped its end is stopping.
        let _ = self.notify.send(notice);
    }
}
