//! The event loop on io_uring: the thread that owns the sockets and the engine.
//!
//! ```text
//!   wait until the engine's deadline (absolute, so ticks do not drift)
//!     -> datagrams to the engine -> commands to the engine -> engine's tick -> send, tell
//! ```
//! It decides nothing. What it knows of the protocol is that all which waited is given before the
//! tick, so that an own stall is not taken for the peers' silence. A loop over another interface
//! (epoll) has the same [`Engine`] and [`NetworkSocket`] and replaces this file and `sys::uring`.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
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
use crate::socket::{BindError, NetworkSocket};
use crate::sys::realtime;
use crate::sys::uring::{Completion, Ring};
use crate::{DriverConfig, DriverError, DriverEvent, DriverNetwork, clock};

/// How often what went away is looked for again.
const LOOK_PERIOD: Duration = Duration::from_secs(1);
/// How soon the core is offered again what it could not take.
const OFFER_PERIOD: Duration = Duration::from_millis(2);
/// How long the end of a request may take.
const CLOSE_PATIENCE: Duration = Duration::from_secs(1);
/// A daemon that was killed may hold its port while the kernel still clears up after it.
const PORT_TRIES: u32 = 20;
const PORT_PAUSE: Duration = Duration::from_millis(50);
/// Looks at the sockets after a stall, at most: a flood must not keep the tick from coming.
const STALL_LOOKS: usize = 64;

/// One network and its socket, if it can be had.
#[derive(Debug)]
struct Link {
    network: DriverNetwork,
    socket: Option<NetworkSocket>,
    /// Names the present socket on the ring; 0 is none.
    token: u64,
    /// When receiving was last ended by an error.
    failed: Instant,
    /// It was ended again at once: to be tried with the next look.
    deaf: bool,
    /// What was told of it: the error, while there is one.
    told: Option<String>,
}

/// The thread's state.
pub(crate) struct Loop {
    ring: Ring,
    engine: Engine,
    links: BTreeMap<NetworkId, Link>,
    shared: Arc<Shared>,
    commands: Receiver<Command>,
    lease: Box<dyn FnMut(Instant) + Send>,
    notify: Sender<DriverEvent>,
    /// Events that the core could not take yet.
    outbox: VecDeque<DriverEvent>,
    port: u16,
    heartbeat: Duration,
    hang_timeout: Duration,
    hung: bool,
    next_look: Instant,
    last_token: u64,
    /// The core is gone.
    orphaned: bool,
}

impl Loop {
    /// Sets everything up, on the thread that will run it.
    pub(crate) fn new(
        config: DriverConfig,
        shared: Arc<Shared>,
        commands: Receiver<Command>,
        lease: Box<dyn FnMut(Instant) + Send>,
        notify: Sender<DriverEvent>,
    ) -> Result<Self, DriverError> {
        let mut ring =
            Ring::new().map_err(|e| DriverError::NoUring { step: e.step, source: e.source })?;
        ring.watch(shared.wake.as_fd())
            .map_err(|source| DriverError::System { what: "cannot watch the eventfd", source })?;
        if config.realtime {
            become_realtime();
        }
        let mut seed = Zeroizing::new([0; 32]);
        getrandom::fill(seed.as_mut_slice()).map_err(|source| DriverError::System {
            what: "the kernel gives no random bytes",
            source: source.into(),
        })?;
        let now = clock::boottime();
        let link = |network: &DriverNetwork| {
            let network = network.clone();
            let (socket, failed, deaf) = (None, Instant::ZERO, false);
            (network.id, Link { network, socket, token: 0, failed, deaf, told: None })
        };
        let mut new = Self {
            ring,
            engine: Engine::new(&config, seed, now),
            links: config.networks.iter().map(link).collect(),
            shared,
            commands,
            lease,
            notify,
            outbox: VecDeque::new(),
            port: config.port,
            heartbeat: config.times.heartbeat,
            hang_timeout: config.times.hang_timeout,
            hung: false,
            next_look: now + LOOK_PERIOD,
            last_token: 0,
            orphaned: false,
        };
        let networks: Vec<NetworkId> = new.links.keys().copied().collect();
        for network in networks {
            new.bind_first(network)?;
        }
        Ok(new)
    }

    /// At the start a port in use is most likely a second daemon: that must not go on.
    fn bind_first(&mut self, network: NetworkId) -> Result<(), DriverError> {
        for attempt in 1.. {
            match self.bind(network) {
                Err(BindError::PortInUse { .. }) if attempt < PORT_TRIES => {
                    std::thread::sleep(PORT_PAUSE);
                }
                Err(BindError::PortInUse { address, port }) => {
                    let network = self.links[&network].network.name.clone();
                    return Err(DriverError::PortInUse { network, address, port });
                }
                Ok(()) | Err(_) => break,
            }
        }
        Ok(())
    }

    /// Runs until told to stop, or the core is gone, and leaves the port free.
    pub(crate) fn run(&mut self) {
        self.serve();
        if let Err(error) = self.close() {
            tracing::debug!(%error, "cannot end receiving");
        }
    }

    fn serve(&mut self) {
        while !self.shared.stop.load(Ordering::Acquire) && !self.orphaned {
            if let Err(error) = self.turn() {
                // Without the ring nothing is heard or said: peers and guard see it by the silence.
                tracing::error!(%error, "io_uring failed: the network driver ends");
                return;
            }
        }
        if self.orphaned {
            tracing::error!("nobody takes the network driver's events: it ends");
        }
    }

    /// Ends all requests and waits for that: they hold the sockets, and a ring that is merely
    /// closed ends them some time later.
    fn close(&mut self) -> std::io::Result<()> {
        let mut open = BTreeSet::new();
        for link in self.links.values_mut() {
            link.socket = None;
            if link.token != 0 {
                open.insert(link.token);
                self.ring.cancel(link.token)?;
            }
        }
        let end = clock::boottime() + CLOSE_PATIENCE;
        while !open.is_empty() && clock::boottime() < end {
            self.ring.wait(end.since(clock::boottime()))?;
            self.ring.collect();
            self.ring.process(|completion| {
                if let Completion::Ended { token, .. } = completion {
                    open.remove(&token);
                }
            });
        }
        Ok(())
    }

    /// One turn of the loop.
    fn turn(&mut self) -> std::io::Result<()> {
        self.ring.wait(self.next_deadline().since(clock::boottime()))?;
        self.receive()?;
        self.take_commands();
        let now = clock::boottime();
        self.look_at_core(now);
        if now >= self.next_look {
            self.next_look = now + LOOK_PERIOD;
            self.look_at_links();
        }
        self.engine.tick(now);
        self.carry_out(now);
        self.offer();
        Ok(())
    }

    fn next_deadline(&self) -> Instant {
        let offer = (!self.outbox.is_empty()).then(|| clock::boottime() + OFFER_PERIOD);
        let deadline = self.engine.next_deadline().into_iter().chain(offer);
        deadline.fold(self.next_look, Instant::min)
    }

    /// Gives the engine all that came in; after a stall, all that waited in the sockets.
    fn receive(&mut self) -> std::io::Result<()> {
        let due = self.engine.next_deadline();
        let late = due.is_some_and(|due| clock::boottime().since(due) > self.heartbeat);
        for _ in 0..STALL_LOOKS {
            let collected = self.ring.collect();
            // Read after collecting: nothing collected was sent after it.
            let now = clock::boottime();
            let mut ended = Vec::new();
            let (engine, links) = (&mut self.engine, &self.links);
            let mut woken = false;
            self.ring.process(|completion| match completion {
                Completion::Datagram { token, source, bytes } => {
                    let link = links.values().find(|link| link.token == token);
                    if let (Some(link), Some(source)) = (link, source) {
                        engine.receive(now, link.network.id, source, bytes);
                    }
                }
                Completion::Ended { token, errno } => ended.push((token, errno)),
                Completion::Wake => woken = true,
            });
            if woken {
                // Nothing to read (EAGAIN) is as good.
                let _ = self.shared.wake.read();
                self.ring.watch(self.shared.wake.as_fd())?;
            }
            for (token, errno) in ended {
                self.receive_again(now, token, errno)?;
            }
            if collected == 0 || !late {
                return Ok(());
            }
            self.ring.wait(Duration::ZERO)?;
        }
        Ok(())
    }

    /// A multishot request ended: for want of buffers, because the kernel thought so, or by an error
    /// of the network, after which the socket is as good as before. But errors in a row are left to
    /// the next look at the links, not to turn the loop without end.
    fn receive_again(&mut self, now: Instant, token: u64, errno: i32) -> std::io::Result<()> {
        let Some(link) = self.links.values_mut().find(|link| link.token == token) else {
            return Ok(());
        };
        let Some(socket) = &link.socket else { return Ok(()) };
        if !matches!(errno, 0 | libc::ENOBUFS | libc::EINTR | libc::EAGAIN) {
            let network = &link.network.name;
            let error = std::io::Error::from_raw_os_error(errno);
            tracing::debug!(network, %error, "receiving was interrupted");
            let before = std::mem::replace(&mut link.failed, now);
            if now.since(before) < LOOK_PERIOD / 2 {
                link.deaf = true;
                return Ok(());
            }
        }
        self.ring.receive(socket.fd(), token)
    }

    fn take_commands(&mut self) {
        while let Ok(command) = self.commands.try_recv() {
            match command {
                Command::Heartbeat(command) => self.engine.command(clock::boottime(), command),
                Command::Send { to, class, bytes } => self.engine.send(to, class, bytes),
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
    }

    /// Interfaces come and go: binds what can be bound, and drops what is no longer there.
    fn look_at_links(&mut self) {
        let networks: Vec<NetworkId> = self.links.keys().copied().collect();
        for network in networks {
            let link = &self.links[&network];
            match &link.socket {
                Some(socket) if socket.stands(&link.network.interface) => {
                    if link.deaf && self.ring.receive(socket.fd(), link.token).is_ok() {
                        self.links.entry(network).and_modify(|link| link.deaf = false);
                    }
                }
                Some(_) => self.unbind(network),
                None => {
                    // Told by an event; tried again next time.
                    let _ = self.bind(network);
                }
            }
        }
    }

    fn bind(&mut self, network: NetworkId) -> Result<(), BindError> {
        let Some(link) = self.links.get_mut(&network) else { return Ok(()) };
        let DriverNetwork { interface, address, .. } = &link.network;
        let bound = NetworkSocket::bind(interface, *address, self.port).and_then(|socket| {
            self.last_token += 1;
            let step = "cannot receive";
            let armed = self.ring.receive(socket.fd(), self.last_token);
            armed.map_err(|source| BindError::System { step, source })?;
            Ok(socket)
        });
        let event = match &bound {
            Ok(_) => {
                link.told = None;
                Some(DriverEvent::Bound { network })
            }
            Err(error) => {
                let error = error.to_string();
                let new = link.told.as_ref() != Some(&error);
                link.told = Some(error.clone());
                new.then_some(DriverEvent::BindFailed { network, error })
            }
        };
        let result = bound.map(|socket| {
            link.socket = Some(socket);
            link.token = self.last_token;
            link.deaf = false;
        });
        if let Some(event) = event {
            self.tell(event);
        }
        result
    }

    /// The interface is gone: the socket is of no use, even if one of the same name comes back.
    fn unbind(&mut self, network: NetworkId) {
        let Some(link) = self.links.get_mut(&network) else { return };
        let token = std::mem::take(&mut link.token);
        let error = format!("interface '{}' went away", link.network.interface);
        link.socket = None;
        link.told = Some(error.clone());
        if let Err(error) = self.ring.cancel(token) {
            tracing::debug!(%error, "cannot end receiving on a lost interface");
        }
        self.tell(DriverEvent::BindFailed { network, error });
    }

    /// Does what the engine wants done.
    fn carry_out(&mut self, now: Instant) {
        while let Some(output) = self.engine.poll_output() {
            match output {
                Output::Datagram { network, to, bytes } => {
                    if !self.send(network, to, &bytes) {
                        self.engine.send_failed(now, network, to);
                    }
                    self.engine.recycle(bytes);
                }
                Output::Event(event) => {
                    if let DriverEvent::Session(life) = &event
                        && let Some(peer) = self.shared.peers.get(&life.node)
                    {
                        peer.set_life(life.inc);
                    }
                    self.tell(event);
                }
                Output::Lease(end) => (self.lease)(end),
                Output::Released { node, bytes } => {
                    if let Some(peer) = self.shared.peers.get(&node) {
                        peer.release(bytes);
                    }
                }
            }
        }
    }

    /// Whether the kernel took it; what has no socket is lost like on any path that is down.
    fn send(&self, network: NetworkId, to: NodeId, bytes: &[u8]) -> bool {
        let Some(link) = self.links.get(&network) else { return true };
        let (Some(socket), Some(&address)) = (&link.socket, link.network.peers.get(&to)) else {
            return true;
        };
        let address: IpAddr = address;
        match socket.send(address, bytes) {
            Ok(()) => true,
            // The network is behind: lost, like in any router.
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => true,
            Err(error) => {
                let network = &link.network.name;
                tracing::trace!(network, node = to.get(), %error, "cannot send");
                false
            }
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

/// A refusal costs reaction time, not correctness.
fn become_realtime() {
    if let Err(error) = realtime::round_robin() {
        tracing::warn!(
            %error,
            "cannot run at SCHED_RR (CAP_SYS_NICE, or a control group with real-time share): on a \
             busy machine this node may be taken for dead"
        );
    }
    if let Err(error) = realtime::lock_memory() {
        tracing::warn!(
            %error,
            "cannot lock memory (CAP_IPC_LOCK or LimitMEMLOCK=infinity): under memory pressure \
             this node may be taken for dead"
        );
    }
}
