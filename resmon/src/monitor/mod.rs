//! A resource monitor: carries out what the service commands, one thread per resource, and says how
//! it ended.
//!
//! ```text
//!   service's socket --> reader --+--> supervisor --jobs--> worker (one per resource)
//!                                 |        ^ |                 |
//!                                 +--------+ +--> terminate    | notes
//!                                          ^     (overtakes)   |
//!                                          +-------------------+
//! ```
//!
//! It may be killed at any time: what it started is in the ledger, what it was calling in the
//! section. When its service is gone it ends without touching a resource: the guard ends those.

mod authority;
mod worker;

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use std::os::fd::AsFd;

use nix::sys::eventfd::{EfdFlags, EventFd};
use wolfpack_resource::boottime;
use wolfpack_resource::kind::{Fault, Terminator};
use wolfpack_resource::rpc::{Channel, RpcError};
use wolfpack_resource::section::{CallReader, CallRecorder, LeaseReader, SectionError};
use wolfpack_types::monitor::{
    EntryPoint, MONITOR_PROTOCOL, MonitorCommand, MonitorEvent, ResourceSpec,
};
use wolfpack_types::{Instant, ResourceId};

use self::authority::{CallAuthority, Cancel};
use self::worker::{Job, State, Worker};
use crate::kinds::{self, Context};
use crate::ledger::{Ledger, LedgerError};
use crate::node::{NodeError, Setup};
use crate::sys;

/// More resources than this are refused: each may have two calls in the section at once.
const RESOURCES_MAX: usize = 96;

/// Commands that may wait for a resource.
const JOBS_MAX: usize = 8;

/// How long a call that was told to end may take to return before the monitor gives itself up.
const HANG: Duration = Duration::from_secs(15);

/// A check that takes longer is a failed one.
const CHECK_HANG: Duration = Duration::from_secs(30);

/// How often checks that hang are looked for.
const LOOK: Duration = Duration::from_secs(1);

/// How long the service may take to read an event.
const PATIENCE: Duration = Duration::from_secs(60);

type ServiceChannel = Channel<MonitorEvent, MonitorCommand>;

/// A monitor that cannot start, or not go on.
#[derive(Debug, thiserror::Error)]
pub enum MonitorError {
    #[error("monitors are started by the guard only (descriptor {0} is missing)")]
    NotByGuard(i32, #[source] io::Error),
    #[error(transparent)]
    Node(#[from] NodeError),
    #[error("the guard gave no channel to the service")]
    Channel(#[source] RpcError),
    #[error(transparent)]
    Section(#[from] SectionError),
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    #[error("this is monitor {given}, but the guard has set up {handed}")]
    Number { given: u32, handed: u32 },
    #[error("cannot {act}")]
    Kernel { act: &'static str, source: io::Error },
    #[error("the service said what makes no sense here")]
    Nonsense(#[source] RpcError),
}

/// What reaches the supervisor.
#[derive(Debug)]
enum Note {
    Command(MonitorCommand),
    /// The service's end of the socket.
    Lost(RpcError),
    Done {
        call: u64,
        resource: ResourceId,
        outcome: Result<(), String>,
    },
    Failed {
        resource: ResourceId,
        why: String,
    },
}

/// Runs monitor `number` with what the guard has put at descriptors 3 to 6.
///
/// # Errors
/// It was not started by a guard, or the service said nonsense.
pub fn run(number: u32) -> Result<(), MonitorError> {
    let mut next = sys::INHERITED_FIRST;
    let mut take = || {
        let fd = next;
        next += 1;
        sys::inherited(fd).map_err(|e| MonitorError::NotByGuard(fd, e))
    };
    let (channel, section, poke, setup) = (take()?, take()?, take()?, take()?);
    let setup = Setup::receive(setup)?;
    if setup.number != number {
        return Err(MonitorError::Number { given: number, handed: setup.number });
    }
    let channel = Arc::new(ServiceChannel::from_fd(channel).map_err(MonitorError::Channel)?);
    let recorder: &'static Arc<CallRecorder> =
        Box::leak(Box::new(Arc::new(CallRecorder::open(section.as_fd(), number)?)));
    let kernel = |act| move |source| MonitorError::Kernel { act, source };
    sys::record_deadly_signals(recorder.crashed_thread())
        .map_err(kernel("catch deadly signals"))?;
    let calls = CallReader::open(section.as_fd(), number)?;
    let lease = LeaseReader::open(section.as_fd())?;
    let ledger = Ledger::open(&setup.config.run_dir)?;
    let context =
        Arc::new(Context { setup, ledger, lease, poke, disks: std::sync::Mutex::default() });
    let (notes, inbox) = mpsc::channel();
    read_commands(Arc::clone(&channel), notes.clone()).map_err(kernel("start a thread"))?;
    let recorder = Arc::clone(recorder);
    Supervisor { channel, context, recorder, calls, notes, workers: BTreeMap::new() }.run(&inbox)
}

fn read_commands(channel: Arc<ServiceChannel>, notes: Sender<Note>) -> io::Result<()> {
    let read = move || loop {
        let note = match channel.recv(None) {
            Ok(Some(received)) => Note::Command(received.message),
            Ok(None) => continue,
            Err(e) => Note::Lost(e),
        };
        let last = matches!(note, Note::Lost(_));
        if notes.send(note).is_err() || last {
            return;
        }
    };
    thread::Builder::new().name("commands".into()).spawn(read).map(drop)
}

struct Supervisor {
    channel: Arc<ServiceChannel>,
    context: Arc<Context>,
    recorder: Arc<CallRecorder>,
    calls: CallReader,
    notes: Sender<Note>,
    workers: BTreeMap<ResourceId, Hand>,
}

/// The supervisor's hand on a worker.
struct Hand {
    spec: ResourceSpec,
    jobs: Sender<Job>,
    wake: Arc<EventFd>,
    cancel: Arc<Cancel>,
    terminator: Arc<dyn Terminator>,
    /// Calls that the worker has not answered.
    open: BTreeMap<u64, Open>,
    /// The worker was told to end what it does, and must be back by then.
    hangs_at: Option<Instant>,
    /// Since when it has been in a check that was said to hang.
    hung_check: Option<Instant>,
    thread: JoinHandle<()>,
}

/// A call that the worker has not answered.
#[derive(Debug)]
struct Open {
    /// By when it must be.
    until: Instant,
    online: bool,
    lateness: Lateness,
}

/// After a timeout the worker gets a terminate under the same call's number; the service is
/// answered when that has ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Lateness {
    InTime,
    /// Both the call and the terminate are to be answered.
    Overtaken,
    /// The call has returned.
    Ending,
}

impl Hand {
    fn give(&self, job: Job) {
        // The worker lives as long as this sender, and a full counter has woken it.
        let _ = self.jobs.send(job);
        let _ = self.wake.write(1);
    }

    /// Lets the worker end what it holds and then itself.
    fn dismiss(self) -> JoinHandle<()> {
        drop(self.jobs);
        let _ = self.wake.write(1);
        self.thread
    }
}

impl Supervisor {
    fn run(mut self, inbox: &Receiver<Note>) -> Result<(), MonitorError> {
        loop {
            match inbox.recv_timeout(self.next_deadline().since(boottime())) {
                Ok(Note::Command(command)) => self.command(command),
                Ok(Note::Lost(RpcError::Closed)) => {
                    tracing::info!("the service is gone; the guard ends what runs");
                    return Ok(());
                }
                Ok(Note::Lost(e)) => return Err(MonitorError::Nonsense(e)),
                Ok(Note::Done { call, resource, outcome }) => self.done(call, resource, outcome),
                Ok(Note::Failed { resource, why }) => {
                    self.tell(&MonitorEvent::Failed { resource, why });
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => unreachable!("it holds a sender itself"),
            }
            self.look_at_deadlines();
        }
    }

    fn tell(&self, event: &MonitorEvent) {
        if let Err(e) = self.channel.send(event, PATIENCE) {
            // A closed channel is learnt by the reader; a full one for a minute is a dead service.
            tracing::warn!("the service was not told: {e}");
        }
    }

    fn answer(&self, call: u64, resource: ResourceId, outcome: Result<(), String>) {
        self.tell(&MonitorEvent::Done { call, resource, outcome });
    }

    fn command(&mut self, command: MonitorCommand) {
        match command {
            MonitorCommand::Hello { version, me } => {
                if version != MONITOR_PROTOCOL || me != self.context.setup.life {
                    let (own, life) = (MONITOR_PROTOCOL, self.context.setup.life);
                    tracing::error!("hello of {me}, version {version}; this is {life}, {own}");
                }
                self.tell(&MonitorEvent::Hello { version: MONITOR_PROTOCOL });
            }
            MonitorCommand::Online { call, resource, mode } => {
                let id = resource.id;
                match self.hand(resource) {
                    Ok(()) => self.give(id, call, Job::Online { call, mode }),
                    Err(fault) => self.answer(call, id, Err(fault.to_string())),
                }
            }
            MonitorCommand::Offline { call, resource } => {
                if self.workers.contains_key(&resource) {
                    self.give(resource, call, Job::Offline { call });
                } else {
                    self.end_unknown(call, resource);
                }
            }
            MonitorCommand::Terminate { call, resource } => {
                if self.workers.contains_key(&resource) {
                    self.overtake(resource);
                    self.give(resource, call, Job::Terminate { call });
                } else {
                    self.end_unknown(call, resource);
                }
            }
            MonitorCommand::Announce { resource } => {
                if let Some(hand) = self.workers.get(&resource) {
                    hand.give(Job::Announce);
                }
            }
        }
    }

    /// A worker for the resource, opened with these properties.
    fn hand(&mut self, spec: ResourceSpec) -> Result<(), Fault> {
        if let Some(hand) = self.workers.get(&spec.id)
            && (hand.spec == spec || !hand.open.is_empty())
        {
            return Ok(());
        }
        if self.workers.len() >= RESOURCES_MAX {
            return Err(Fault(format!("a monitor has at most {RESOURCES_MAX} resources")));
        }
        let opening = self.recorder.begin(EntryPoint::Open, spec.id, boottime());
        let kind = kinds::open(&spec, &self.context);
        drop(opening);
        let kind = kind?;
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let wake = EventFd::from_value_and_flags(0, flags).map_err(|e| Fault::of(&e))?;
        let (jobs, inbox) = mpsc::channel();
        let (wake, cancel) = (Arc::new(wake), Arc::new(Cancel::default()));
        let terminator = kind.terminator();
        let authority =
            CallAuthority { context: Arc::clone(&self.context), cancel: Arc::clone(&cancel) };
        // Other properties than before: the old worker ends, and the new one waits for that.
        let predecessor = self.workers.remove(&spec.id).map(Hand::dismiss);
        let worker = Worker {
            spec: spec.clone(),
            kind,
            terminator: Arc::clone(&terminator),
            context: Arc::clone(&self.context),
            recorder: Arc::clone(&self.recorder),
            authority: Arc::new(authority),
            jobs: inbox,
            wake: Arc::clone(&wake),
            notes: self.notes.clone(),
            state: State::Off,
            held: false,
            predecessor,
        };
        // Names of threads are cut at 15 bytes by the kernel.
        let name: String = spec.name.chars().take(15).collect();
        let thread = thread::Builder::new()
            .name(name)
            .spawn(|| worker.run())
            .map_err(|e| Fault::of(&e).while_doing("starting a thread"))?;
        let (id, open) = (spec.id, BTreeMap::new());
        let (hangs_at, hung_check) = (None, None);
        let hand =
            Hand { spec, jobs, wake, cancel, terminator, open, hangs_at, hung_check, thread };
        self.workers.insert(id, hand);
        Ok(())
    }

    fn give(&mut self, resource: ResourceId, call: u64, job: Job) {
        let Some(hand) = self.workers.get_mut(&resource) else { return };
        if hand.open.len() >= JOBS_MAX || hand.open.contains_key(&call) {
            let why = format!("'{}' is busy with {} calls", hand.spec.name, hand.open.len());
            return self.answer(call, resource, Err(why));
        }
        let pending = Duration::from_millis(hand.spec.policy.pending_timeout_ms.into());
        // Those before it have their time first. Zero means no limit, as with polls.
        let turns = u32::try_from(hand.open.len() + 1).unwrap_or(1);
        let until = if pending.is_zero() { Instant::FAR } else { boottime() + pending * turns };
        let online = matches!(job, Job::Online { .. });
        hand.open.insert(call, Open { until, online, lateness: Lateness::InTime });
        hand.give(job);
    }

    /// Tells the call under way to end, and ends what is there of the resource meanwhile.
    fn overtake(&mut self, resource: ResourceId) {
        let Some(hand) = self.workers.get_mut(&resource) else { return };
        let calls = self.calls.calls_in_progress().calls;
        if hand.open.is_empty() && calls.iter().all(|c| c.resource != resource) {
            return;
        }
        hand.cancel.set(true);
        hand.hangs_at = hand.hangs_at.or_else(|| Some(boottime() + HANG));
        let terminator = Arc::clone(&hand.terminator);
        let recorder = Arc::clone(&self.recorder);
        let act = move || {
            let call = recorder.begin(EntryPoint::Terminate, resource, boottime());
            // The worker does it again when its call has returned, and says how it ended.
            let _ = terminator.terminate();
            drop(call);
        };
        if let Err(e) = thread::Builder::new().name("terminate".into()).spawn(act) {
            tracing::warn!("no thread to overtake a call with: {e}");
        }
    }

    /// Ends what the ledger says of a resource that this monitor never opened.
    fn end_unknown(&self, call: u64, resource: ResourceId) {
        let entry = match self.context.ledger.get(resource) {
            Ok(None) => return self.answer(call, resource, Ok(())),
            Ok(Some(entry)) => entry,
            Err(e) => return self.answer(call, resource, Err(e.to_string())),
        };
        let (context, recorder) = (Arc::clone(&self.context), Arc::clone(&self.recorder));
        let notes = self.notes.clone();
        let act = move || {
            let recorded = recorder.begin(EntryPoint::Terminate, resource, boottime());
            let ended = kinds::terminator_of(&entry).terminate();
            drop(recorded);
            let remove = || context.ledger.remove(resource).map_err(|e| Fault::of(&e));
            let outcome = ended.and_then(|()| remove()).map_err(|f| f.to_string());
            let _ = notes.send(Note::Done { call, resource, outcome });
        };
        if let Err(e) = thread::Builder::new().name("terminate".into()).spawn(act) {
            self.answer(call, resource, Err(format!("no thread to end it with: {e}")));
        }
    }

    fn done(&mut self, call: u64, resource: ResourceId, outcome: Result<(), String>) {
        let mut outcome = outcome;
        if let Some(hand) = self.workers.get_mut(&resource) {
            let name = &hand.spec.name;
            match hand.open.get_mut(&call) {
                Some(open) if open.lateness == Lateness::Overtaken => {
                    tracing::warn!(resource = name, call, "too late: {outcome:?}");
                    open.lateness = Lateness::Ending;
                    return;
                }
                Some(open) if open.online && open.lateness == Lateness::Ending => {
                    let ms = hand.spec.policy.pending_timeout_ms;
                    let ended = outcome.err().map_or_else(String::new, |e| format!(": {e}"));
                    outcome = Err(format!("it was not online after {ms} ms and was ended{ended}"));
                }
                _ => {}
            }
            hand.open.remove(&call);
            if hand.open.is_empty() {
                hand.hangs_at = None;
            }
            match &outcome {
                Ok(()) => tracing::info!(resource = name, call, "done"),
                Err(why) => tracing::warn!(resource = name, call, "failed: {why}"),
            }
        }
        self.answer(call, resource, outcome);
    }

    fn next_deadline(&self) -> Instant {
        let of = |hand: &Hand| {
            let in_time = |o: &&Open| o.lateness == Lateness::InTime;
            let pending = hand.open.values().filter(in_time).map(|o| o.until);
            pending.chain(hand.hangs_at).min()
        };
        // Checks that hang are looked for all the time.
        let look = boottime() + LOOK;
        self.workers.values().filter_map(of).fold(look, Instant::min)
    }

    fn look_at_deadlines(&mut self) {
        let now = boottime();
        let mut late = Vec::new();
        for (&resource, hand) in &mut self.workers {
            for (&call, open) in &mut hand.open {
                if open.lateness == Lateness::InTime && open.until <= now {
                    open.lateness = Lateness::Overtaken;
                    late.push((resource, call));
                }
            }
            if hand.hangs_at.is_some_and(|at| at <= now) {
                give_up(&hand.spec, &self.calls, &self.recorder);
            }
        }
        for (resource, call) in late {
            self.overtake(resource);
            if let Some(hand) = self.workers.get(&resource) {
                hand.give(Job::Terminate { call });
            }
        }
        self.look_at_checks(now);
    }

    /// A check that does not return says as much as one that fails.
    fn look_at_checks(&mut self, now: Instant) {
        let mut hung = Vec::new();
        for call in self.calls.calls_in_progress().calls {
            let check = matches!(call.entry_point, EntryPoint::LooksAlive | EntryPoint::IsAlive);
            let Some(hand) = self.workers.get_mut(&call.resource).filter(|_| check) else {
                continue;
            };
            if now.since(call.since) >= CHECK_HANG && hand.hung_check != Some(call.since) {
                hand.hung_check = Some(call.since);
                hung.push((call.resource, call.entry_point));
            }
        }
        for (resource, entry_point) in hung {
            let seconds = CHECK_HANG.as_secs();
            let why = format!("its {entry_point:?} has not returned for {seconds} s");
            tracing::error!(%resource, "failed: {why}");
            self.tell(&MonitorEvent::Failed { resource, why });
        }
    }
}

/// An entry point that does not even return when its resource is terminated holds its thread for
/// ever. The monitor ends itself, with the thread's name in the crash record: the service then
/// knows whom to blame, and restores the others in a new monitor.
fn give_up(spec: &ResourceSpec, calls: &CallReader, recorder: &CallRecorder) -> ! {
    let hung = calls.calls_in_progress().calls.into_iter().find(|c| c.resource == spec.id);
    if let Some(call) = hung {
        tracing::error!(resource = spec.name, "hangs in {:?}: giving up", call.entry_point);
        recorder.crashed_thread().store(call.thread, Ordering::SeqCst);
    }
    crate::log::flush();
    std::process::abort()
}
