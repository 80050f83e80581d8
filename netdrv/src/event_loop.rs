//! The event loop: the thread that owns the sockets and the engine.
//!
//! ```text
//!   send what is queued, wait until the engine's deadline (absolute, so ticks do not drift)
//!     -> datagrams to the engine -> commands to the engine -> engine's tick -> queue, tell
//! ```
//! It decides nothing. What it knows of the protocol is that all which waited is given before the
//! tick, so that an own stall is not taken for the peers' silence. By what it waits for the kernel
//! (io_uring or epoll) is `sys::port`'s business; all else is the same for both.

use std::collections::VecDeque;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, TrySendError};
use wolfpack_types::heartbeat::HeartbeatNotice;
use wolfpack_types::{Instant, NetworkId, NodeId};
use zeroize::Zeroizing;

use crate::driver::{Command, Shared};
use crate::engine::{Engine, Output};
use crate::key_log::KeyLog;
use crate::links::Links;
use crate::netlink::Netlink;
use crate::packet::cluster_tag;
use crate::socket::BindError;
use crate::sys::port::{Happened, Port};
use crate::sys::realtime;
use crate::{DriverConfig, DriverError, DriverEvent, clock};

/// How often what went away is looked for, should the kernel not tell of it.
pub(crate) const LOOK_PERIOD: Duration = Duration::from_secs(1);
/// How soon the core is offered again what it could not take.
const OFFER_PERIOD: Duration = Duration::from_millis(2);
/// How long the end of a request may take.
const CLOSE_PATIENCE: Duration = Duration::from_secs(1);
/// A daemon that was killed may hold its port while the kernel still clears up after it.
const PORT_TRIES: u32 = 20;
const PORT_PAUSE: Duration = Duration::from_millis(50);
/// Looks at the sockets after a stall, at most: a flood must not keep the tick from coming.
const STALL_LOOKS: usize = 64;

/// Watched descriptors.
const WAKE: u8 = 0;
const NETLINK: u8 = 1;

/// The thread's state.
pub(crate) struct Loop {
    port: Port,
    engine: Engine,
    links: Links,
    netlink: Option<Netlink>,
    shared: Arc<Shared>,
    commands: Receiver<Command>,
    lease: Box<dyn FnMut(Instant) + Send>,
    notify: Sender<DriverEvent>,
    /// Events that the core could not take yet.
    outbox: VecDeque<DriverEvent>,
    /// Events of the links, on their way to the outbox.
    fresh: Vec<DriverEvent>,
    told_lease: ToldLease,
    heartbeat: Duration,
    hang_timeout: Duration,
    hung: bool,
    /// Some link must be looked for without word from the kernel.
    next_look: Option<Instant>,
    /// The core is gone.
    orphaned: bool,
    /// What was late before the loop began to turn (locking memory takes its time) is no delay.
    started: Instant,
    key_log: Option<KeyLog>,
}

impl Loop {
    /// Sets everything up, on the thread that will run it.
    pub(crate) fn new(
        config: &DriverConfig,
        shared: Arc<Shared>,
        commands: Receiver<Command>,
        lease: Box<dyn FnMut(Instant) + Send>,
        notify: Sender<DriverEvent>,
    ) -> Result<Self, DriverError> {
        let links = u8::try_from(config.networks.len()).unwrap_or(u8::MAX);
        let mut port = Port::new(config.event_loop, links)
            .map_err(|e| DriverError::NoUring { step: e.step, source: e.source })?;
        port.watch(WAKE, shared.wake.as_fd())
            .map_err(|source| DriverError::System { what: "cannot watch the eventfd", source })?;
        let netlink = netlink(&mut port);
        let mut seed = Zeroizing::new([0; 32]);
        getrandom::fill(seed.as_mut_slice()).map_err(|source| DriverError::System {
            what: "the kernel gives no random bytes",
            source: source.into(),
        })?;
        let key_log = config.security.key_log.as_deref().map(KeyLog::open).transpose()?;
        let now = clock::boottime();
        let tag = cluster_tag(config.key.cluster_id());
        let mut new = Self {
            port,
            engine: Engine::new(config, seed, now),
            links: Links::new(&config.networks, config.port, tag, now),
            netlink,
            shared,
            commands,
            lease,
            notify,
            outbox: VecDeque::new(),
            fresh: Vec::new(),
            told_lease: ToldLease::new(config.times.lease),
            heartbeat: config.times.heartbeat,
            hang_timeout: config.times.hang_timeout,
            hung: false,
            next_look: None,
            orphaned: false,
            started: now,
            key_log,
        };
        for number in new.links.numbers() {
            new.bind_first(number)?;
        }
        new.become_realtime(config.realtime);
        new.plan_look(now);
        new.tell_fresh();
        Ok(new)
    }

    /// At the start a port in use is most likely a second daemon: that must not go on.
    fn bind_first(&mut self, number: usize) -> Result<(), DriverError> {
        for attempt in 1.. {
            match self.links.bind(number, &mut self.port, &mut self.fresh) {
                Err(BindError::PortInUse { .. }) if attempt < PORT_TRIES => {
                    std::thread::sleep(PORT_PAUSE);
                }
                Err(BindError::PortInUse { address, port }) => {
                    let network = self.links.name(number).to_owned();
                    return Err(DriverError::PortInUse { network, address, port });
                }
                Ok(()) | Err(_) => break,
            }
        }
        Ok(())
    }

    /// A refusal costs reaction time, not correctness.
    fn become_realtime(&mut self, wanted: bool) {
        let uring = matches!(self.port, Port::Uring(_));
        if !wanted {
            self.shared.stats.set_kind(uring, false, false);
            return;
        }
        let scheduling = realtime::round_robin().err().map(|error| error.to_string());
        let memory = realtime::lock_memory().err().map(|error| error.to_string());
        self.shared.stats.set_kind(uring, scheduling.is_none(), memory.is_none());
        if scheduling.is_some() || memory.is_some() {
            self.fresh.push(DriverEvent::NotRealtime { scheduling, memory });
        }
    }

    /// Runs until told to stop, or the core is gone, and leaves the port free.
    pub(crate) fn run(&mut self) {
        tracing::debug!(event_loop = self.port.name(), "the network driver runs");
        self.started = clock::boottime();
        self.serve();
        let closed = self.links.close(&mut self.port);
        if let Err(error) = closed.and_then(|()| self.port.settle(CLOSE_PATIENCE)) {
            tracing::debug!(%error, "cannot end receiving");
        }
    }

    fn serve(&mut self) {
        while !self.shared.stop.load(Ordering::Acquire) && !self.orphaned {
            if let Err(error) = self.turn() {
                // Without the loop nothing is heard or said: peers and guard see it by the silence.
                let event_loop = self.port.name();
                tracing::error!(%error, "{event_loop} failed: the network driver ends");
                return;
            }
        }
        if self.orphaned {
            tracing::error!("nobody takes the network driver's events: it ends");
        }
    }

    /// One turn of the loop.
    fn turn(&mut self) -> std::io::Result<()> {
        let due = self.engine.next_deadline();
        let deadline = self.next_deadline(due);
        self.port.wait(deadline.since(clock::boottime()))?;
        self.shared.stats.turn(clock::boottime(), deadline.max(self.started));
        self.receive(due)?;
        self.take_commands();
        let now = clock::boottime();
        self.look_at_core(now);
        self.links.guard(now, &mut self.fresh);
        if self.next_look.is_some_and(|at| now >= at) {
            self.links.look(&mut self.port, &mut self.fresh);
            self.plan_look(now);
        }
        self.tell_fresh();
        self.engine.tick(now);
        self.carry_out(now)?;
        if let Some(event) = self.told_lease.due(now) {
            self.tell(event);
        }
        self.offer();
        Ok(())
    }

    fn next_deadline(&self, engine: Option<Instant>) -> Instant {
        let offer = (!self.outbox.is_empty()).then(|| clock::boottime() + OFFER_PERIOD);
        let deadline = engine.into_iter().chain(offer).chain(self.next_look);
        deadline.fold(Instant::FAR, Instant::min)
    }

    /// Where the kernel tells of interfaces, only what else is amiss (a port in use by another, a
    /// socket that fails) is looked at from time to time.
    fn plan_look(&mut self, now: Instant) {
        let needed = self.netlink.is_none() || self.links.incomplete();
        self.next_look = needed.then(|| now + LOOK_PERIOD);
    }

    /// Gives the engine all that came in; after a stall, all that waited in the sockets.
    fn receive(&mut self, due: Option<Instant>) -> std::io::Result<()> {
        let late = due.is_some_and(|due| clock::boottime().since(due) > self.heartbeat);
        for _ in 0..STALL_LOOKS {
            let received = self.receive_batch()?;
            if received == 0 || !late {
                return Ok(());
            }
            self.port.wait(Duration::ZERO)?;
        }
        Ok(())
    }

    fn receive_batch(&mut self) -> std::io::Result<usize> {
        let (engine, links, shared) = (&mut self.engine, &mut self.links, &self.shared);
        let mut interrupted = Interrupted::default();
        let mut told = false;
        let received = self.port.process(&mut |happened| match happened {
            Happened::Datagram { token, source, bytes } => {
                if let (Some(network), Some(source)) = (links.network_of(token), source) {
                    // Read after it was taken from the kernel: it was not sent after this.
                    let now = clock::boottime();
                    if !engine.receive(now, network, source, bytes) {
                        links.refused(token);
                    }
                }
            }
            Happened::Interrupted { token, errno, stopped } => {
                interrupted.note((token, errno, stopped));
            }
            Happened::SendFailed { token, node, errno } => {
                let node = NodeId::new(node).ok();
                if let (Some(network), Some(node)) = (links.network_of(token), node) {
                    tracing::trace!(network = network.0, node = node.get(), errno, "cannot send");
                    // EAGAIN: the network is behind; lost, like in any router.
                    if errno != libc::EAGAIN {
                        engine.send_failed(clock::boottime(), network, node);
                    }
                }
            }
            Happened::Readable { watched: WAKE } => shared.woken.store(false, Ordering::SeqCst),
            Happened::Readable { .. } => told = true,
        })?;
        self.shared.stats.received(received);
        let now = clock::boottime();
        for (token, errno, stopped) in interrupted.0.drain(..) {
            let why = (errno, stopped);
            self.links.interrupted(token, why, &mut self.port, &mut self.engine, now)?;
        }
        if told {
            self.follow(now);
        }
        if self.links.incomplete() && self.next_look.is_none() {
            self.plan_look(now);
        }
        Ok(received)
    }

    /// The kernel tells of interfaces.
    fn follow(&mut self, now: Instant) {
        let Some(netlink) = &mut self.netlink else { return };
        let read = loop {
            match netlink.read() {
                Ok(true) => break Ok(()),
                Ok(false) => {}
                Err(error) => break Err(error),
            }
        };
        if let Err(error) = read {
            tracing::warn!(%error, "netlink failed: interfaces are looked for every second");
            self.netlink = None;
        }
        if let Some(netlink) = &self.netlink {
            let look = |name: &str, address| netlink.look(name, address);
            let (port, engine) = (&mut self.port, &mut self.engine);
            self.links.follow(look, port, engine, now, &mut self.fresh);
        }
        self.plan_look(now);
    }

    fn take_commands(&mut self) {
        while let Ok(command) = self.commands.try_recv() {
            match command {
                Command::Heartbeat(command) => self.engine.command(clock::boottime(), command),
                Command::Send { to, class, bytes } => self.engine.send(to, class, bytes),
                Command::Keys(key) => self.engine.set_keys(&key),
                Command::ExpelLife(who) => self.engine.expel_life(who),
                Command::Expel { node, expelled } => self.engine.expel(node, expelled),
            }
        }
    }

    /// A service whose core hangs must not look alive.
    fn look_at_core(&mut self, now: Instant) {
        let alive = Instant(self.shared.core_alive.load(Ordering::Acquire));
        let silence = now.since(alive);
        let hung = silence > self.hang_timeout;
        if hung != self.hung {
            self.hung = hung;
            self.engine.set_mute(hung);
            if hung {
                tracing::error!(
                    silence_ms = silence.as_millis(),
                    "the core does not answer: no heartbeats any more, the other nodes take over"
                );
            } else {
                tracing::warn!("the core answers again: heartbeats go on");
            }
        }
        self.shared.alive.store(now.0, Ordering::Release);
    }

    /// Does what the engine wants done.
    fn carry_out(&mut self, now: Instant) -> std::io::Result<()> {
        while let Some(output) = self.engine.poll_output() {
            match output {
                Output::Datagram { network, to, bytes } => {
                    self.send(network, to, &bytes)?;
                    self.engine.recycle(bytes);
                }
                Output::Event(event) => {
                    if let DriverEvent::Session(life) = &event
                        && let Some(peer) = self.shared.peers.get(&life.node)
                    {
                        peer.set_life(life.inc);
                    }
                    if let DriverEvent::Heartbeat(HeartbeatNotice::Lease { end }) = event {
                        if let Some(event) = self.told_lease.news(now, end) {
                            self.tell(event);
                        }
                    } else {
                        self.tell(event);
                    }
                }
                Output::Lease(end) => (self.lease)(end),
                Output::Released { node, class, bytes } => {
                    if let Some(peer) = self.shared.peers.get(&node) {
                        peer.release(class, bytes);
                    }
                }
                Output::Ended(node) => {
                    if let Some(peer) = self.shared.peers.get(&node) {
                        peer.end_life();
                    }
                }
                Output::KeyLog(line) => {
                    if let Some(log) = &mut self.key_log {
                        log.write(&line);
                    }
                }
            }
        }
        Ok(())
    }

    fn send(&mut self, network: NetworkId, to: NodeId, bytes: &[u8]) -> std::io::Result<()> {
        if self.links.send(&mut self.port, (network, to), bytes)? {
            self.shared.stats.sent();
        }
        Ok(())
    }

    fn tell_fresh(&mut self) {
        for event in std::mem::take(&mut self.fresh) {
            self.tell(event);
        }
    }

    /// Tells the core, in order; what it cannot take waits, and meanwhile no message is taken from
    /// the peers, so that little waits.
    fn tell(&mut self, event: DriverEvent) {
        let lease = |event: &DriverEvent| {
            matches!(event, DriverEvent::Heartbeat(HeartbeatNotice::Lease { .. }))
        };
        if let Some(last) = self.outbox.back_mut().filter(|last| lease(last) && lease(&event)) {
            // Only the newest lease is of interest.
            *last = event;
            return;
        }
        self.outbox.push_back(event);
        self.offer();
    }

    fn offer(&mut self) {
        while let Some(event) = self.outbox.pop_front() {
            match self.notify.try_send(event) {
                Ok(()) => {}
                Err(TrySendError::Full(event)) => {
                    self.outbox.push_front(event);
                    break;
                }
                Err(TrySendError::Disconnected(_)) => {
                    self.orphaned = true;
                    break;
                }
            }
        }
        self.engine.set_hold(!self.outbox.is_empty());
    }
}

/// Without netlink (a seccomp filter may forbid it) interfaces are looked for every second.
fn netlink(port: &mut Port) -> Option<Netlink> {
    let mut open = || {
        let netlink = Netlink::new()?;
        port.watch(NETLINK, netlink.as_fd())?;
        Ok::<_, std::io::Error>(netlink)
    };
    open()
        .inspect_err(|error| {
            tracing::warn!(
                %error,
                "the kernel does not tell of interfaces: they are looked for every second"
            );
        })
        .ok()
}

/// Sockets that were interrupted in a batch, each once for each way of it.
#[derive(Default)]
struct Interrupted(Vec<(crate::sys::port::Token, i32, bool)>);

impl Interrupted {
    fn note(&mut self, what: (crate::sys::port::Token, i32, bool)) {
        if !self.0.contains(&what) {
            self.0.push(what);
        }
    }
}

/// Which lease the core knows of. Each acknowledgement makes the lease a little longer, many times
/// a second; the core need not be woken for that while the lease that it knows of is still long. A
/// shorter lease, and the first, are told at once; a longer one before the known one is half over.
/// So the core never takes a lease for ended that has not.
#[derive(Debug)]
struct ToldLease {
    told: Instant,
    newest: Instant,
    half: Duration,
}

impl ToldLease {
    fn new(lease: Duration) -> Self {
        Self { told: Instant::ZERO, newest: Instant::ZERO, half: lease / 2 }
    }

    /// The lease has changed; whether that is to be told now.
    fn news(&mut self, now: Instant, end: Instant) -> Option<DriverEvent> {
        self.newest = end;
        if end < self.told {
            return Some(self.tell());
        }
        self.due(now)
    }

    /// What is to be told by now.
    fn due(&mut self, now: Instant) -> Option<DriverEvent> {
        (self.newest != self.told && self.told < now + self.half).then(|| self.tell())
    }

    fn tell(&mut self) -> DriverEvent {
        self.told = self.newest;
        DriverEvent::Heartbeat(HeartbeatNotice::Lease { end: self.newest })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_core_knows_of_a_lease_before_the_one_it_knows_is_half_over() {
        let ms = Duration::from_millis;
        let start = Instant(1_000_000_000_000);
        let mut told = ToldLease::new(ms(2000));
        let mut known = Instant::ZERO;
        let mut count = 0;
        let mut hear = |event: Option<DriverEvent>, known: &mut Instant| {
            if let Some(DriverEvent::Heartbeat(HeartbeatNotice::Lease { end })) = event {
                *known = end;
                count += 1;
            }
        };
        let mut end = Instant::ZERO;
        for turn in 0..100 {
            let now = start + ms(100) * turn;
            // Acknowledgements for five seconds, then silence.
            if turn < 50 {
                end = now + ms(2000);
                hear(told.news(now, end), &mut known);
            } else {
                hear(told.due(now), &mut known);
            }
            assert!(known.since(now) >= end.since(now).min(ms(900)), "turn {turn}");
            assert!(known <= end);
        }
        assert_eq!(known, end, "the last one was told");
        assert!(count <= 7, "told {count} times");
        // What ends a lease is told at once.
        assert!(told.news(start + ms(10_000), Instant::ZERO).is_some());
    }
}
