//! The handle of the driver thread, for the core thread and the service.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Sender, bounded, unbounded};
use nix::sys::eventfd::{EfdFlags, EventFd};
use wolfpack_types::heartbeat::HeartbeatCommand;
use wolfpack_types::peer::Class;
use wolfpack_types::{Incarnation, Instant, NodeId, NodeInc};

use crate::event_loop::Loop;
use crate::stats::Stats;
use crate::stream::cost;
use crate::{
    ClusterKey, DriverConfig, DriverError, DriverEvent, DriverStats, MESSAGE_BYTES_MAX, NodeKey,
    QUEUE_BYTES_MAX, SendError, clock,
};

/// To the driver thread.
#[derive(Debug)]
pub(crate) enum Command {
    Heartbeat(HeartbeatCommand),
    Send { to: NodeInc, class: Class, bytes: Vec<u8> },
    Keys(ClusterKey),
    Expel { node: NodeId, expelled: bool },
    ExpelLife(NodeInc),
}

/// What both sides see at once.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) peers: BTreeMap<NodeId, SharedPeer>,
    /// When the core was alive last.
    pub(crate) core_alive: AtomicU64,
    pub(crate) stop: AtomicBool,
    pub(crate) wake: EventFd,
    /// The thread was woken and has not taken notice yet: no need to do it again.
    pub(crate) woken: AtomicBool,
    /// When the loop turned last.
    pub(crate) alive: AtomicU64,
    pub(crate) stats: Stats,
}

/// One peer as both sides see it.
#[derive(Debug, Default)]
pub(crate) struct SharedPeer {
    /// Bytes that wait for it, of each class.
    queued: [AtomicUsize; 2],
    /// Its incarnation plus one; 0 without a session.
    life: AtomicU64,
}

impl SharedPeer {
    pub(crate) fn set_life(&self, inc: Incarnation) {
        self.life.store(inc.0.saturating_add(1), Ordering::Release);
    }

    fn life(&self) -> Option<Incarnation> {
        self.life.load(Ordering::Acquire).checked_sub(1).map(Incarnation)
    }

    pub(crate) fn end_life(&self) {
        self.life.store(0, Ordering::Release);
    }

    pub(crate) fn release(&self, class: Class, bytes: usize) {
        self.queued(class).fetch_sub(bytes, Ordering::AcqRel);
    }

    const fn queued(&self, class: Class) -> &AtomicUsize {
        match class {
            Class::Control => &self.queued[0],
            Class::Bulk => &self.queued[1],
        }
    }
}

/// The running driver. Dropping it stops it too.
#[derive(Debug)]
pub struct Driver {
    shared: Arc<Shared>,
    commands: Sender<Command>,
    thread: Option<JoinHandle<()>>,
}

/// Whether the driver's thread hangs; to be asked from any thread.
#[derive(Clone, Debug)]
pub struct DriverPulse(Arc<Shared>);

impl DriverPulse {
    /// For how long it has not turned. It turns at least once in a heartbeat period.
    #[must_use]
    pub fn silent_for(&self) -> Duration {
        clock::boottime().since(Instant(self.0.alive.load(Ordering::Acquire)))
    }
}

/// Starts the driver thread, `wolfpack-net`.
///
/// `lease` is called on that thread whenever the own lease changes, before the notice of it goes to
/// `notify`; it must not block. A missing address or interface is no error: its path is down until
/// it is there.
///
/// # Errors
/// A port in use, no io_uring, a contradictory configuration, or no thread to be had.
pub fn start(
    config: DriverConfig,
    lease: Box<dyn FnMut(Instant) + Send>,
    notify: Sender<DriverEvent>,
) -> Result<Driver, DriverError> {
    check(&config)?;
    let flags = EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC;
    let wake = EventFd::from_flags(flags)
        .map_err(|e| DriverError::System { what: "cannot make an eventfd", source: e.into() })?;
    let nodes = config.networks.iter().flat_map(|network| network.peers.keys());
    let nodes = nodes.filter(|&&node| node != config.me.node);
    let shared = Arc::new(Shared {
        peers: nodes.map(|&node| (node, SharedPeer::default())).collect(),
        core_alive: AtomicU64::new(clock::boottime().0),
        stop: AtomicBool::new(false),
        wake,
        woken: AtomicBool::new(false),
        alive: AtomicU64::new(clock::boottime().0),
        stats: Stats::default(),
    });
    let (commands, inbox) = unbounded();
    // The thread makes its own ring, as the kernel demands, and says whether it could.
    let (ready, outcome) = bounded(1);
    let theirs = Arc::clone(&shared);
    let thread = std::thread::Builder::new()
        .name("wolfpack-net".into())
        .spawn(move || match Loop::new(&config, theirs, inbox, lease, notify) {
            Ok(mut looped) => {
                let _ = ready.send(Ok(()));
                looped.run();
            }
            Err(error) => {
                let _ = ready.send(Err(error));
            }
        })
        .map_err(|source| DriverError::System { what: "cannot start a thread", source })?;
    let died = || {
        let source = io::Error::other("the thread ended before it was ready");
        Err(DriverError::System { what: "the network driver did not start", source })
    };
    outcome.recv().unwrap_or_else(|_| died())?;
    Ok(Driver { shared, commands, thread: Some(thread) })
}

/// What the configuration file's parser cannot know to be wrong.
fn check(config: &DriverConfig) -> Result<(), DriverError> {
    if config.networks.is_empty() {
        return Err(DriverError::NoNetworks);
    }
    let probe = NodeKey::from_bytes([1; 32]);
    let worthless = config.security.peer_keys.iter().find(|(_, key)| probe.agree(key).is_none());
    if let Some((node, key)) = worthless {
        return Err(DriverError::Config(format!(
            "the public_key {key} of node {node} is none: 'wolfpack key node' prints it there"
        )));
    }
    let mut seen = BTreeMap::new();
    for network in &config.networks {
        if let Some(other) = seen.insert(network.id, &network.name) {
            let (name, id) = (&network.name, network.id.0);
            let what = format!("networks '{other}' and '{name}' have the same number {id}");
            return Err(DriverError::Config(what));
        }
        let mut addresses = BTreeMap::from([(network.address, config.me.node)]);
        for (&node, &address) in network.peers.iter().filter(|&(&n, _)| n != config.me.node) {
            if let Some(other) = addresses.insert(address, node) {
                let name = &network.name;
                return Err(DriverError::Config(format!(
                    "network '{name}': nodes {other} and {node} have the same address {address}"
                )));
            }
        }
    }
    Ok(())
}

impl Driver {
    /// Tells the failure detector something; in order with other commands.
    pub fn command(&self, command: HeartbeatCommand) {
        self.give(Command::Heartbeat(command));
    }

    /// Queues a message for the life of the peer that there is a session with. It arrives once, in
    /// order with the others of its class, or that life ends.
    ///
    /// # Errors
    /// No such peer, no session, a message too long, or too much waiting already.
    pub fn send(&self, to: NodeId, class: Class, bytes: Vec<u8>) -> Result<(), SendError> {
        let peer = self.shared.peers.get(&to).ok_or(SendError::UnknownNode(to))?;
        if bytes.len() > MESSAGE_BYTES_MAX {
            return Err(SendError::TooLong { size: bytes.len(), max: MESSAGE_BYTES_MAX });
        }
        let life = peer.life().ok_or(SendError::NoSession(to))?;
        let cost = cost(bytes.len());
        let queued = peer.queued(class).fetch_add(cost, Ordering::AcqRel);
        if queued + cost > QUEUE_BYTES_MAX {
            peer.release(class, cost);
            return Err(SendError::Full { node: to, queued });
        }
        if self.give(Command::Send { to: NodeInc::new(to, life), class, bytes }) {
            Ok(())
        } else {
            peer.release(class, cost);
            Err(SendError::Stopped)
        }
    }

    /// Bytes of messages of a class that the peer has not acknowledged yet: what a sender of bulk
    /// looks at before it reads more from its source.
    #[must_use]
    pub fn queued(&self, to: NodeId, class: Class) -> usize {
        self.shared.peers.get(&to).map_or(0, |peer| peer.queued(class).load(Ordering::Acquire))
    }

    /// Other generations of the cluster key, of the same cluster: sessions are replaced by such of
    /// the one in use, while traffic goes on.
    pub fn set_keys(&self, key: ClusterKey) {
        self.give(Command::Keys(key));
    }

    /// Whether everything that comes from this node is to be refused (it was evicted). Lives of it
    /// that were known are refused for good, also when it is a node again.
    pub fn expel(&self, node: NodeId, expelled: bool) {
        self.give(Command::Expel { node, expelled });
    }

    /// This life of an evicted node, and those before it, are to be refused for good: the session
    /// ends. A later life gets one, so that it can be told what it is, or join when it was added.
    pub fn expel_life(&self, who: NodeInc) {
        self.give(Command::ExpelLife(who));
    }

    fn give(&self, command: Command) -> bool {
        let given = self.commands.send(command).is_ok();
        self.wake();
        given
    }

    fn wake(&self) {
        // After what it is woken for was put where it looks; it clears the mark before it looks.
        if !self.shared.woken.swap(true, Ordering::SeqCst) {
            // Full (EAGAIN) means that it is awake already.
            let _ = self.shared.wake.write(1);
        }
    }

    /// The core is alive: to be called at least once a second. Without it for `hang_timeout` the
    /// heartbeats stop.
    pub fn core_alive(&self) {
        self.shared.core_alive.store(clock::boottime().0, Ordering::Release);
    }

    /// For whoever must know whether the driver's thread hangs.
    #[must_use]
    pub fn pulse(&self) -> DriverPulse {
        DriverPulse(Arc::clone(&self.shared))
    }

    /// How it fares; cheap, from any thread.
    #[must_use]
    pub fn stats(&self) -> DriverStats {
        self.shared.stats.read()
    }

    /// Now, on the clock of all instants (CLOCK_BOOTTIME).
    #[must_use]
    pub fn now() -> Instant {
        clock::boottime()
    }

    /// Ends the thread and closes the sockets.
    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        self.wake();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the network driver's thread had panicked");
        }
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.end();
    }
}
