//! The guard (monitor 0): holds the lease in shared memory, is parent and subreaper of everything
//! that runs for a life of the service, ends all of it when the lease or the service ends, proves
//! that it has ended, and says so to the peers (protocol P6, P7). It decides nothing else.
//!
//! ```text
//!             Attach                    lease over, service lost, TerminateAll, SIGTERM
//!   Idle -----------------> Attached ---------------------------------------------------+
//!    ^                                                                                  v
//!    +------------------- nothing left: Terminated, AllTerminated <----------------- Ending
//! ```
//!
//! At its start it is Ending what a former guard left. One thread, one poll loop: whatever it waits
//! for is a descriptor or the one timer (CLOCK_BOOTTIME, absolute).

mod ending;
mod herald;
mod monitors;
mod rule;
mod service;

use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::prctl;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use wolfpack_ipowner::Claim;
use wolfpack_resource::boottime;
use wolfpack_resource::rpc::{Listener, RpcError};
use wolfpack_resource::section::{Section, SectionError};
use wolfpack_types::monitor::GuardEvent;
use wolfpack_types::{Instant, NodeInc};

use self::ending::{Ending, Hands};
use self::herald::Herald;
use self::monitors::{Ended, Monitors};
use self::rule::Verdict;
use self::service::{Caller, Service};
use crate::addresses::{self, Addresses};
use crate::cgroup::Base;
use crate::ledger::{Ledger, LedgerError};
use crate::node::{self, Node, NodeError};
use crate::sys;
use crate::watchdog::Pulse;

/// Name of the guard's socket in the run directory.
pub const SOCKET: &str = "guard.sock";

/// Above ordinary work, below the kernel's own threads and the service's driver thread.
const PRIORITY: i32 = 40;

/// The loop goes round at least so often.
const ROUND: Duration = Duration::from_secs(1);

/// A guard that cannot start, or cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum GuardError {
    #[error(transparent)]
    Node(#[from] NodeError),
    #[error("cannot make the run directory {}", path.display())]
    RunDir { path: PathBuf, source: io::Error },
    #[error("another guard runs on this node (it holds {})", path.display())]
    Second { path: PathBuf },
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    #[error("cannot listen for the service")]
    Listen(#[from] RpcError),
    #[error(transparent)]
    Section(#[from] SectionError),
    #[error("cannot {act}")]
    Kernel { act: &'static str, source: io::Error },
}

fn kernel(act: &'static str) -> impl Fn(Errno) -> GuardError {
    move |e| GuardError::Kernel { act, source: e.into() }
}

/// Runs the guard of the node that a configuration file describes, until SIGTERM or SIGINT.
///
/// # Errors
/// It cannot start; the words say what and where.
pub fn run(config: &Path) -> Result<(), GuardError> {
    Guard::new(Node::load(config)?)?.run()
}

#[derive(Debug)]
enum State {
    Idle,
    Attached(Section),
    Ending(Ending),
}

struct Guard {
    node: Node,
    state: State,
    service: Option<Service>,
    /// Connections that have not attached (yet).
    callers: Vec<Caller>,
    /// The life that was attached last; only a later one may attach.
    last: Option<NodeInc>,
    monitors: Monitors,
    childless: bool,
    ledger: Ledger,
    addresses: Addresses,
    claims: Vec<Claim>,
    next_renewal: Instant,
    herald: Herald,
    cgroups: Option<Base>,
    stopping: bool,
    listener: Listener,
    signals: SignalFd,
    poke: EventFd,
    timer: TimerFd,
    _lock: Flock<OwnedFd>,
}

impl Guard {
    fn new(node: Node) -> Result<Self, GuardError> {
        let run_dir = node.config.run_dir.clone();
        node::make_run_dir(&run_dir)
            .map_err(|source| GuardError::RunDir { path: run_dir.clone(), source })?;
        let lock = lock(&run_dir.join("guard.lock"))?;
        prctl::set_child_subreaper(true).map_err(kernel("become the parent of orphans"))?;
        let mut mask = SigSet::empty();
        for signal in [Signal::SIGCHLD, Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
            mask.add(signal);
        }
        mask.thread_block().map_err(kernel("block signals"))?;
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        let signals =
            SignalFd::with_flags(&mask, flags).map_err(kernel("receive signals as data"))?;
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let poke = EventFd::from_value_and_flags(0, flags).map_err(kernel("make an eventfd"))?;
        let flags = TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK;
        let timer = TimerFd::new(ClockId::CLOCK_BOOTTIME, flags).map_err(kernel("make a timer"))?;
        let cgroups = Base::create(&node.config.name, &run_dir)
            .inspect_err(|why| {
                tracing::warn!("no cgroups ({why}): applications are ended by the process tree");
            })
            .ok();
        let ledger = Ledger::open(&run_dir)?;
        let listener = Listener::bind(&run_dir.join(SOCKET))?;
        be_quick();
        let now = boottime();
        Ok(Self {
            herald: Herald::new(&node.config),
            state: State::Ending(Ending::begin(
                None,
                "what a former guard left is ended",
                now,
                node.config.times.margin,
            )),
            node,
            service: None,
            callers: Vec::new(),
            last: None,
            monitors: Monitors::default(),
            childless: true,
            ledger,
            addresses: Addresses::default(),
            claims: Vec::new(),
            next_renewal: now,
            cgroups,
            stopping: false,
            listener,
            signals,
            poke,
            timer,
            _lock: lock,
        })
    }

    fn run(mut self) -> Result<(), GuardError> {
        tracing::info!(node = self.node.config.name, "the guard runs");
        if let Err(e) = self.addresses.owner() {
            tracing::warn!("IP addresses cannot be taken over on this node: {e}");
        }
        let pulse = Pulse::start();
        loop {
            self.work();
            pulse.beat();
            let done = matches!(self.state, State::Idle) && self.herald.next_deadline().is_none();
            if self.stopping && done {
                if let Some(base) = &self.cgroups {
                    base.whole().remove();
                }
                tracing::info!("the guard ends; nothing runs");
                return Ok(());
            }
            self.wait()?;
            self.take_signals()?;
            // A count that nobody needs: that it changed was the message.
            let _ = self.poke.read();
            // Before the service is heard: it may ask for a monitor in the place of one that ended.
            self.reap();
            self.take_callers();
            self.take_service();
        }
    }

    /// Waits for the first descriptor or deadline.
    fn wait(&mut self) -> Result<(), GuardError> {
        let at = self.next_deadline();
        let timespec = TimeSpec::from_duration(Duration::from_nanos(at.0.max(1)));
        self.timer
            .set(Expiration::OneShot(timespec), TimerSetTimeFlags::TFD_TIMER_ABSTIME)
            .map_err(kernel("set the timer"))?;
        let input = PollFlags::POLLIN;
        let mut fds = vec![
            PollFd::new(self.signals.as_fd(), input),
            PollFd::new(self.poke.as_fd(), input),
            PollFd::new(self.timer.as_fd(), input),
            PollFd::new(self.listener.as_fd(), input),
        ];
        fds.extend(self.service.iter().map(|s| PollFd::new(s.channel.as_fd(), input)));
        // One that has asked and waits is not read again.
        let speaking = self.callers.iter().filter(|c| c.asked.is_none());
        fds.extend(speaking.map(|c| PollFd::new(c.channel.as_fd(), input)));
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(e) => Err(kernel("wait")(e)),
        }
    }

    fn next_deadline(&self) -> Instant {
        let now = boottime();
        // At least so often, so that systemd sees the loop go round.
        let mut at = now + ROUND;
        if let State::Attached(section) = &self.state {
            at = at.min(self.next_renewal);
            if let Verdict::Fine { look } = self.judge(section, now) {
                at = at.min(look);
            }
        }
        if let State::Ending(ending) = &self.state {
            at = at.min(ending.next_deadline());
        }
        at = at.min(self.herald.next_deadline().unwrap_or(Instant::FAR));
        self.callers.iter().map(|c| c.until).fold(at, Instant::min)
    }

    fn judge(&self, section: &Section, now: Instant) -> Verdict {
        let held = section.held() > 0 || self.monitors_left_something();
        rule::judge(now, section.lease_end(), held, rule::tick(self.node.config.times.lease))
    }

    /// A monitor that died left its count behind until a new one of its number starts, and its
    /// resources in the ledger for longer.
    fn monitors_left_something(&self) -> bool {
        !self.ledger.is_empty()
    }

    fn take_signals(&mut self) -> Result<(), GuardError> {
        while let Some(info) = self.signals.read_signal().map_err(kernel("receive signals"))? {
            let signal = i32::try_from(info.ssi_signo).unwrap_or(0);
            if signal == libc::SIGTERM || signal == libc::SIGINT {
                tracing::info!("told to stop");
                self.stopping = true;
            }
        }
        Ok(())
    }

    /// All that is due, after anything has happened.
    fn work(&mut self) {
        self.reap();
        let now = boottime();
        if let State::Attached(section) = &self.state {
            section.beat(now);
            let why = if self.stopping {
                Some("the guard was told to stop")
            } else if self.service.is_none() {
                Some("the cluster service is gone")
            } else if self.judge(section, now) == Verdict::Over {
                Some("the lease is over")
            } else {
                None
            };
            match why {
                Some(why) => self.end(why, now),
                None => self.renew(now),
            }
        }
        self.step_ending();
        self.herald.work(boottime());
        self.answer_callers();
    }

    fn reap(&mut self) {
        let (ended, childless) = self.monitors.reap();
        self.childless = childless;
        for Ended { number, how } in ended {
            tracing::warn!(monitor = number, "a resource monitor has ended: {how}");
            self.tell(&GuardEvent::MonitorEnded { number, how });
        }
    }

    fn end(&mut self, why: &str, now: Instant) {
        if let State::Attached(section) = &self.state {
            tracing::warn!(life = %section.life(), "everything is ended: {why}");
            let margin = self.margin();
            let ending = Ending::begin(Some(section), why, now, margin);
            self.state = State::Ending(ending);
        }
    }

    fn margin(&self) -> Duration {
        self.service.as_ref().map_or(self.node.config.times.margin, |s| s.margin)
    }

    fn step_ending(&mut self) {
        let State::Ending(ending) = &mut self.state else { return };
        let now = boottime();
        let mut hands = Hands {
            monitors: &self.monitors,
            addresses: &mut self.addresses,
            cgroups: self.cgroups.as_ref(),
            ledger: &self.ledger,
            childless: self.childless,
        };
        let left = ending.step(now, &mut hands);
        ending.left.clone_from(&left);
        let (life, why) = (ending.life, ending.why.clone());
        if left.is_empty() {
            let took = boottime().since(ending.since);
            tracing::info!(took_us = took.as_micros(), "nothing is left: {why}");
            self.state = State::Idle;
            self.claims.clear();
            if let Some(me) = life {
                self.herald.proclaim(boottime(), &self.node.key, me);
                self.tell(&GuardEvent::Terminated { me, why, left });
            }
        } else if now >= ending.until && !ending.reported {
            ending.reported = true;
            tracing::error!(left = left.join(", "), "not all could be ended in time: {why}");
            if let Some(me) = life {
                self.tell(&GuardEvent::Terminated { me, why, left });
            }
        }
    }

    /// Makes the kernel's leases of the addresses as long as the node's own.
    fn renew(&mut self, now: Instant) {
        let State::Attached(section) = &self.state else { return };
        // A poke may be about a new address; its monitor has leased it already.
        if now < self.next_renewal {
            return;
        }
        self.next_renewal = now + rule::tick(self.node.config.times.lease);
        let remaining = section.lease_end().since(now);
        match self.ledger.all() {
            Ok((entries, _)) => self.claims = addresses::claims(&entries),
            Err(e) => tracing::error!("the ledger cannot be read, so no new address is seen: {e}"),
        }
        if self.claims.is_empty() || remaining.is_zero() {
            return;
        }
        if let Err(e) = self.addresses.renew(&self.claims, remaining) {
            tracing::error!("an address could not be renewed: {e}");
        }
    }

    /// To the service, if it is there and takes it. It is not waited for: a service that hangs must
    /// not hold the guard.
    fn tell(&self, event: &GuardEvent) {
        if let Some(service) = &self.service
            && let Err(e) = service.channel.send(event, Duration::ZERO)
            && !matches!(e, RpcError::Closed)
        {
            tracing::warn!("the service was not told: {e}");
        }
    }
}

/// One guard for a run directory, whatever the configuration files are called.
fn lock(path: &Path) -> Result<Flock<OwnedFd>, GuardError> {
    let fail = |source| GuardError::Kernel { act: "open the guard's lock file", source };
    let mut options = std::fs::OpenOptions::new();
    let file = options.write(true).create(true).truncate(false).open(path).map_err(fail)?;
    Flock::lock(OwnedFd::from(file), FlockArg::LockExclusiveNonblock).map_err(|(_, e)| {
        if io::Error::from(e).kind() == ErrorKind::WouldBlock {
            GuardError::Second { path: path.into() }
        } else {
            kernel("lock the guard's lock file")(e)
        }
    })
}

/// The guard must run when its time has come, however busy the machine is.
fn be_quick() {
    if let Err(e) = sys::make_realtime(0, PRIORITY) {
        tracing::warn!("no real-time priority ({e}): on a busy machine the end may come late");
    }
    let flags = nix::sys::mman::MlockAllFlags::all();
    if let Err(e) = nix::sys::mman::mlockall(flags) {
        tracing::warn!("memory is not locked ({e}): under memory pressure the end may come late");
    }
}
