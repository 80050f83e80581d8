//! The core's loop: one input, all its outputs, what follows from carrying them out, next input;
//! and the end of a life, resources first.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crossbeam_channel::{Receiver, select};
use wolfpack_core::{Core, ExitReason, Input};
use wolfpack_diskarb::thread::RegisterNotice;
use wolfpack_netdrv::DriverEvent;
use wolfpack_netdrv::clock::boottime;
use wolfpack_store::StoreEvent;
use wolfpack_types::event::{Event, EventKind, Severity};
use wolfpack_types::heartbeat::HeartbeatNotice;
use wolfpack_types::monitor::GuardEvent;
use wolfpack_types::store::Persist;
use wolfpack_types::{Ballot, Instant, NodeInc};

use crate::api::{Api, ApiCall};
use crate::args::exit;
use crate::errands::Done;
use crate::guard::Supervised;
use crate::outside::Outside;
use crate::recorder::Recorder;
use crate::signals::{Leave, Reload};
use crate::supervise::{Supervision, guard_silent};
use crate::systemd;

/// The loop goes round at least this often, for the wall clock and the signs of life.
const ROUND: Duration = Duration::from_millis(250);
/// A leave that takes longer is ended by the guard.
const LEAVE_PATIENCE: Duration = Duration::from_secs(30);
/// Beyond the margin, for the guard to say that everything is ended.
const END_PATIENCE: Duration = Duration::from_secs(5);
/// After the last message of a clean leave, for it to be sent and, if need be, sent again.
const LINGER: Duration = Duration::from_millis(100);
/// The number of the step after all those of the core.
const LAST_STEP: u64 = u64::MAX;
/// Everything that the core's loop listens to.
#[derive(Debug)]
pub(crate) struct Inbox {
    pub(crate) driver: Receiver<DriverEvent>,
    pub(crate) store: Receiver<StoreEvent>,
    pub(crate) register: Receiver<RegisterNotice>,
    pub(crate) supervised: Receiver<Supervised>,
    pub(crate) calls: Receiver<ApiCall>,
    pub(crate) errands: Receiver<Done>,
    pub(crate) leave: Receiver<Leave>,
    pub(crate) reload: Receiver<Reload>,
}

/// One thing that the loop received, or why it must end.
#[derive(Debug)]
enum Got {
    Driver(DriverEvent),
    Store(StoreEvent),
    Register(RegisterNotice),
    Supervised(Supervised),
    Call(ApiCall),
    Errand(Done),
    Leave,
    ReloadKey,
    Nothing,
    /// A part of the service is gone.
    Gone(&'static str),
}

impl Inbox {
    fn next(&self, patience: Duration) -> Got {
        fn got<T, E>(r: Result<T, E>, part: &'static str, make: impl FnOnce(T) -> Got) -> Got {
            r.map_or(Got::Gone(part), make)
        }
        select! {
            recv(self.driver) -> r => got(r, "network driver", Got::Driver),
            recv(self.store) -> r => got(r, "store", Got::Store),
            recv(self.register) -> r => got(r, "register", Got::Register),
            recv(self.supervised) -> r => got(r, "guard", Got::Supervised),
            recv(self.calls) -> r => got(r, "local API", Got::Call),
            recv(self.errands) -> r => got(r, "errands", Got::Errand),
            recv(self.leave) -> r => got(r, "signal", |Leave| Got::Leave),
            recv(self.reload) -> r => got(r, "signal", |Reload| Got::ReloadKey),
            default(patience) => Got::Nothing,
        }
    }
}

/// A running service.
#[derive(Debug)]
pub(crate) struct Service {
    core: Core,
    outside: Outside,
    inbox: Inbox,
    me: NodeInc,
    pulse: systemd::Pulse,
    next_second: Instant,
    /// A leave under way, and when it is given up.
    leave_until: Option<Instant>,
    supervision: Supervision,
    recorder: Recorder,
    _api: Api,
}

impl Service {
    pub(crate) fn new(
        core: Core,
        outside: Outside,
        inbox: Inbox,
        supervision: Supervision,
        me: NodeInc,
        recorder: Recorder,
        api: Api,
    ) -> Self {
        Self {
            core,
            outside,
            inbox,
            me,
            pulse: systemd::Pulse::default(),
            next_second: boottime(),
            leave_until: None,
            supervision,
            recorder,
            _api: api,
        }
    }

    /// What must turn for this service to be alive.
    pub(crate) fn chain(&self) -> systemd::Chain {
        systemd::Chain {
            core: self.pulse.clone(),
            driver: self.outside.driver.pulse(),
            store: self.outside.store.pulse(),
            patience: self.outside.config.times.hang_timeout,
        }
    }

    /// Runs until this life is over.
    pub(crate) fn live(&mut self) -> ExitReason {
        // What the core said at its birth.
        if let Some(reason) = self.drain() {
            return reason;
        }
        loop {
            self.outside.driver.core_alive();
            self.pulse.beat();
            let now = boottime();
            if let Some(reason) = self.timers(now) {
                return reason;
            }
            let deadline = self.core.next_deadline().unwrap_or(Instant::FAR).min(self.next_second);
            let deadline = deadline.min(self.supervision.deadline());
            let got = self.inbox.next(deadline.since(now).min(ROUND));
            let input = match self.translate(got) {
                Ok(Some(input)) => input,
                Ok(None) => continue,
                Err(reason) => return reason,
            };
            if let Some(reason) = self.step(input) {
                return reason;
            }
        }
    }

    /// One input, all its outputs, and what follows from carrying them out.
    fn step(&mut self, input: Input) -> Option<ExitReason> {
        let mut next = Some(input);
        while let Some(input) = next {
            let now = boottime();
            self.recorder.input(now, Some(&input));
            self.core.handle(now, input);
            if let Some(reason) = self.drain() {
                return Some(reason);
            }
            next = self.outside.backlog.pop_front();
        }
        None
    }

    fn drain(&mut self) -> Option<ExitReason> {
        let mut end = None;
        while let Some(output) = self.core.poll_output() {
            self.recorder.output(&output);
            // An end may have words after it; all are carried out.
            end = self.outside.carry_out(output).or(end);
        }
        self.recorder.finish();
        end
    }

    /// What is due by the clock.
    fn timers(&mut self, now: Instant) -> Option<ExitReason> {
        if let Some(reason) = self.supervision.due(&self.outside, now) {
            return Some(reason);
        }
        if self.leave_until.is_some_and(|at| now >= at) {
            tracing::warn!("the leave took too long: everything is ended by the guard");
            return Some(ExitReason::Left);
        }
        if now < self.next_second {
            return None;
        }
        self.next_second = now + Duration::from_secs(1);
        self.outside.forget_the_gone();
        if let Some(reason) = guard_silent(&self.outside, now) {
            return Some(reason);
        }
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let ms = u64::try_from(wall.as_millis()).unwrap_or(u64::MAX);
        self.step(Input::WallClock { ms })
    }

    /// From what was received to an input of the core.
    fn translate(&mut self, got: Got) -> Result<Option<Input>, ExitReason> {
        Ok(match got {
            Got::Nothing => Some(Input::Deadline),
            Got::Driver(event) => self.on_driver(event),
            Got::Store(StoreEvent::Persisted { id }) => Some(Input::Persisted { id }),
            Got::Store(StoreEvent::Failed { error }) => Some(Input::StoreFailed { error }),
            Got::Register(notice) => self.on_register(notice),
            Got::Supervised(said) => return self.supervision.hear(&mut self.outside, said),
            Got::Call(call) => {
                self.outside.witness_bytes = self.core.witness_bytes_needed();
                self.outside.request(call)
            }
            Got::Errand(done) => self.outside.errand_done(done),
            Got::Leave => {
                systemd::stopping();
                if self.leave_until.is_none() {
                    self.leave_until = Some(boottime() + LEAVE_PATIENCE);
                }
                Some(Input::Leave)
            }
            Got::ReloadKey => {
                if let Err(e) = self.outside.reload_key(None) {
                    tracing::error!("the cluster key was not read again: {e}");
                }
                None
            }
            Got::Gone(part) => {
                return Err(ExitReason::Fenced(format!("the {part} has ended")));
            }
        })
    }

    fn on_driver(&mut self, event: DriverEvent) -> Option<Input> {
        match event {
            DriverEvent::Heartbeat(notice) => {
                if let HeartbeatNotice::Heard { from, standing, .. } = &notice {
                    let in_cluster = standing.installed != Ballot::ZERO
                        || standing.accepted.is_some_and(|b| b != Ballot::ZERO);
                    self.outside.note_peer(from.node, in_cluster);
                }
                Some(Input::Heartbeat(notice))
            }
            DriverEvent::Message { from, bytes } => self.outside.decode(from, &bytes),
            DriverEvent::Dead { who, proof } => Some(Input::Dead { who, proof }),
            DriverEvent::Session(who) => {
                tracing::info!("session with node {who}");
                None
            }
            DriverEvent::Dropped { network, reason, count } => {
                let text = format!(
                    "{count} datagrams refused on network '{}': {reason}",
                    self.network_name(network)
                );
                let kind = EventKind::DatagramsDropped { network, count };
                Some(Input::Report(Event { kind, severity: Severity::Warning, text }))
            }
            DriverEvent::BindFailed { network, error } => {
                let name = self.network_name(network);
                tracing::warn!("network '{name}' cannot be used at present: {error}");
                None
            }
            DriverEvent::Bound { network } => {
                tracing::info!("network '{}' is in use", self.network_name(network));
                None
            }
            DriverEvent::NotRealtime { scheduling, memory } => {
                let text = not_realtime(scheduling.as_deref(), memory.as_deref());
                let kind = EventKind::NotRealtime { scheduling, memory };
                Some(Input::Report(Event { kind, severity: Severity::Warning, text }))
            }
            DriverEvent::Flood { network, per_second } => {
                let name = self.network_name(network).to_owned();
                let text = format!(
                    "network '{name}' brings {per_second} datagrams a second that are not of this \
                     cluster's nodes: the kernel refuses them from now on, and heartbeats go on; \
                     find who sends them (tcpdump udp port {})",
                    self.outside.config.port
                );
                let kind = EventKind::Flood { network, name, per_second };
                Some(Input::Report(Event { kind, severity: Severity::Warning, text }))
            }
        }
    }

    fn network_name(&self, network: wolfpack_types::NetworkId) -> &str {
        let found = self.outside.config.networks.iter().find(|n| n.id == network);
        found.map_or("?", |n| n.name.as_str())
    }

    fn on_register(&mut self, notice: RegisterNotice) -> Option<Input> {
        match notice {
            RegisterNotice::Event(event) => Some(Input::Register(event)),
            RegisterNotice::DiskLost { disk, why } => {
                let text = format!("the witness disk {disk} is not reachable: {why}");
                let kind = EventKind::DiskLost { disk };
                Some(Input::Report(Event { kind, severity: Severity::Warning, text }))
            }
            RegisterNotice::DiskBack { disk } => {
                tracing::info!("the witness disk {disk} is reachable");
                None
            }
        }
    }

    /// Ends this life: resources first, then the parts. Returns the exit code.
    pub(crate) fn end(mut self, reason: &ExitReason) -> u8 {
        systemd::stopping();
        let (code, why) = match reason {
            ExitReason::Left => (0, "this node left the cluster".to_owned()),
            ExitReason::Excluded => {
                (exit::AGAIN, "an established view excluded this life of the node".to_owned())
            }
            ExitReason::StoreFailed(error) => (exit::STORE, format!("no durability: {error}")),
            ExitReason::Evicted => {
                (exit::EVICTED, "this node was evicted from the cluster".to_owned())
            }
            ExitReason::Discarded => {
                (exit::AGAIN, "this node's copy of the cluster is given up".to_owned())
            }
            ExitReason::Fenced(why) => (exit::AGAIN, why.clone()),
        };
        if code == 0 {
            tracing::info!("{why}");
        } else {
            let text = format!("this life of the service ends, and all resources here: {why}");
            let kind = EventKind::ResourcesTerminated { why: why.clone() };
            let event = Event { kind, severity: Severity::Error, text };
            // Whatever else the core has to say, this life is over.
            let _ = self.step(Input::Report(event));
        }
        self.end_resources(&why);
        // Its session holds the reservation: gone before the others come for it, they need not
        // challenge.
        self.outside.seat.stop();
        if *reason == ExitReason::Left {
            std::thread::sleep(LINGER);
        }
        self.outside.driver.stop();
        if *reason == ExitReason::Discarded
            && let Err(e) = self.outside.store.persist(LAST_STEP, Persist::Retire)
        {
            tracing::error!("the copy of the cluster is not given up: {}", e.in_full());
        }
        if let Err(e) = self.outside.store.stop() {
            tracing::error!("the last checkpoint was not written: {}", e.in_full());
        }
        self.recorder.end(&why, Duration::from_secs(1));
        self.outside.journal.flush(Duration::from_secs(1));
        code
    }

    /// Has the guard end everything and waits until it says that it has.
    fn end_resources(&mut self, why: &str) {
        if self.supervision.ended {
            return;
        }
        if let Err(e) = self.outside.guard.terminate_all(why) {
            // It ends everything when this process is gone, or is gone itself.
            tracing::error!("the guard takes no command: {e}");
            return;
        }
        let until = boottime() + self.outside.config.times.margin + END_PATIENCE;
        loop {
            let now = boottime();
            if now >= until {
                tracing::error!("the guard does not say that everything is ended");
                return;
            }
            self.outside.driver.core_alive();
            self.pulse.beat();
            // Everybody else is heard and ignored, so that nobody waits for room.
            match self.inbox.next(until.since(now).min(ROUND)) {
                Got::Supervised(Supervised::Guard(GuardEvent::Terminated { me, left, .. }, _))
                    if me == self.me =>
                {
                    if !left.is_empty() {
                        tracing::error!("could not be ended: {}", left.join(", "));
                    }
                    return;
                }
                Got::Supervised(Supervised::GuardLost(e)) => {
                    tracing::error!("the guard is lost: {e}");
                    return;
                }
                // A part that is gone says so at every round: not to spin.
                Got::Gone(_) => std::thread::sleep(Duration::from_millis(1)),
                _ => {}
            }
        }
    }
}

/// What it means that the driver's thread is an ordinary one.
fn not_realtime(scheduling: Option<&str>, memory: Option<&str>) -> String {
    let mut text = String::from("this node may look dead to the others when it is merely busy: ");
    if let Some(why) = scheduling {
        text += &format!(
            "no real-time scheduling ({why}; CAP_SYS_NICE and a control group with a real-time share are needed)"
        );
    }
    if let Some(why) = memory {
        if scheduling.is_some() {
            text += ", ";
        }
        text +=
            &format!("no locked memory ({why}; CAP_IPC_LOCK or LimitMEMLOCK=infinity are needed)");
    }
    text + ". Profile 'standard' is safe as long as the delays shown by 'wolfpack network status' \
            stay below 300 ms; do not use 'fast' or 'turbo' here"
}
