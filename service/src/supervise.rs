//! Guard and monitor while the service lives: a dead monitor is blamed by its crash record and
//! started again, a lost or silent guard ends this life.

use std::os::fd::OwnedFd;
use std::time::Duration;

use crossbeam_channel::Sender;
use wolfpack_core::{ExitReason, Input};
use wolfpack_netdrv::clock::boottime;
use wolfpack_types::monitor::{GuardEvent, MONITOR_PROTOCOL, MonitorEvent};
use wolfpack_types::{Instant, NodeInc};

use crate::guard::{MONITOR, Supervised};
use crate::monitor::Monitor;
use crate::outside::Outside;

/// A monitor that closed its socket and does not die hangs.
const MONITOR_DEATH: Duration = Duration::from_secs(5);
/// A monitor that lived for less is restarted with growing delays.
const MONITOR_STABLE: Duration = Duration::from_secs(10);
const MONITOR_DELAY_MAX: Duration = Duration::from_secs(5);
/// A guard that says nothing for less is only late.
const GUARD_PATIENCE_MIN: Duration = Duration::from_secs(3);

/// What is known of guard and monitor.
#[derive(Debug)]
pub(crate) struct Supervision {
    me: NodeInc,
    notify: Sender<Supervised>,
    /// Monitors started again so far: tells their messages apart.
    monitors: u64,
    /// When the monitor was started.
    since: Instant,
    /// The monitor's socket is closed: when it must have died.
    death: Option<Instant>,
    /// The monitor is dead: when it is started again.
    start: Option<Instant>,
    delay: Duration,
    /// The guard has said that everything of this life is ended.
    pub(crate) ended: bool,
}

impl Supervision {
    /// For the life `me`, whose first monitor has just been started.
    pub(crate) const fn new(me: NodeInc, notify: Sender<Supervised>, now: Instant) -> Self {
        Self {
            me,
            notify,
            monitors: 0,
            since: now,
            death: None,
            start: None,
            delay: Duration::ZERO,
            ended: false,
        }
    }

    /// What is due by the clock.
    pub(crate) fn due(&mut self, outside: &Outside, now: Instant) -> Option<ExitReason> {
        if self.death.is_some_and(|at| now >= at) {
            let why = "the resource monitor hangs: it closed its socket and does not end";
            return Some(ExitReason::Fenced(why.into()));
        }
        if self.start.is_some_and(|at| now >= at) {
            self.start = None;
            if let Err(e) = outside.guard.start_monitor() {
                return Some(ExitReason::Fenced(format!("the guard takes no command: {e}")));
            }
        }
        None
    }

    /// When [`Supervision::due`] has something to do.
    pub(crate) fn deadline(&self) -> Instant {
        self.start.unwrap_or(Instant::FAR).min(self.death.unwrap_or(Instant::FAR))
    }

    /// Takes what guard and monitor say.
    pub(crate) fn hear(
        &mut self,
        outside: &mut Outside,
        said: Supervised,
    ) -> Result<Option<Input>, ExitReason> {
        match said {
            Supervised::GuardLost(why) => {
                Err(ExitReason::Fenced(format!("the guard is lost: {why}")))
            }
            Supervised::Guard(event, fds) => self.on_guard(outside, event, fds),
            Supervised::Monitor { generation, event } => {
                let current = outside.monitor.as_ref().map(|m| m.generation);
                if current != Some(generation) {
                    return Ok(None);
                }
                Ok(on_monitor(outside, event))
            }
            Supervised::MonitorLost { generation, why } => {
                if outside.monitor.as_ref().is_some_and(|m| m.generation == generation) {
                    tracing::error!("the resource monitor is lost: {why}");
                    outside.monitor = None;
                    self.death = Some(boottime() + MONITOR_DEATH);
                }
                Ok(None)
            }
        }
    }

    fn on_guard(
        &mut self,
        outside: &mut Outside,
        event: GuardEvent,
        fds: Vec<OwnedFd>,
    ) -> Result<Option<Input>, ExitReason> {
        match event {
            GuardEvent::MonitorEnded { number: MONITOR, how } => {
                tracing::error!("the resource monitor ended: {how}");
                outside.monitor = None;
                self.death = None;
                let now = boottime();
                if now.since(self.since) >= MONITOR_STABLE {
                    self.delay = Duration::ZERO;
                }
                self.start = Some(now + self.delay);
                self.delay = (self.delay * 2 + Duration::from_millis(100)).min(MONITOR_DELAY_MAX);
                // Before the next monitor clears it.
                let blame = outside.guard.blame();
                Ok(Some(Input::Monitor(MonitorEvent::Crashed { monitor: MONITOR, blame })))
            }
            GuardEvent::MonitorStarted { number: MONITOR, pid } => {
                self.monitors += 1;
                let socket = fds.into_iter().next().ok_or_else(|| {
                    ExitReason::Fenced("the guard started a monitor without a socket".into())
                })?;
                let monitor = Monitor::start(socket, self.me, self.monitors, self.notify.clone());
                let monitor = monitor.map_err(|e| {
                    ExitReason::Fenced(format!("the resource monitor cannot be used: {e}"))
                })?;
                tracing::info!("the resource monitor runs again (pid {pid})");
                outside.monitor = Some(monitor);
                self.since = boottime();
                Ok(Some(Input::Monitor(MonitorEvent::Restarted { monitor: MONITOR })))
            }
            GuardEvent::Terminated { me, why, left } if me == self.me => {
                self.ended = left.is_empty();
                Ok(Some(Input::Monitor(MonitorEvent::Terminated { why, left })))
            }
            other => {
                tracing::warn!("the guard said something unexpected: {other:?}");
                Ok(None)
            }
        }
    }
}

fn on_monitor(outside: &Outside, event: MonitorEvent) -> Option<Input> {
    match event {
        MonitorEvent::Hello { version: MONITOR_PROTOCOL } => None,
        MonitorEvent::Hello { version } => {
            tracing::error!(
                "the resource monitor speaks version {version}, not {MONITOR_PROTOCOL}: \
                 install wolfpackd and wolfpack-resmon of the same release"
            );
            if let Some(monitor) = &outside.monitor {
                monitor.give_up();
            }
            None
        }
        // These two are this service's own words.
        MonitorEvent::Crashed { .. } | MonitorEvent::Restarted { .. } => None,
        event => Some(Input::Monitor(event)),
    }
}

/// A guard that stands still would not end anything at lease end. Generous, because the kernel's
/// own hand (the timeout of the address) acts meanwhile and a busy machine is no dead guard.
pub(crate) fn guard_silent(outside: &Outside, now: Instant) -> Option<ExitReason> {
    let times = &outside.config.times;
    let beat = outside.guard.last_beat();
    let patience = ((times.lease + times.margin) * 2).max(GUARD_PATIENCE_MIN);
    let silent = beat != Instant::ZERO && now.since(beat) > patience;
    silent.then(|| {
        ExitReason::Fenced(format!(
            "the guard has been silent for {} ms",
            now.since(beat).as_millis()
        ))
    })
}
