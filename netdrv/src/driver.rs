//! The handle of the driver thread, for the core thread and the service.

use crossbeam_channel::Sender;
use wolfpack_types::heartbeat::HeartbeatCommand;
use wolfpack_types::{Instant, NodeId};

use crate::{DriverConfig, DriverError, DriverEvent, SendError, clock};

/// The running driver.
#[derive(Debug)]
pub struct Driver {}

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
    drop((config, lease, notify));
    Err(DriverError::NoNetworks)
}

impl Driver {
    /// Tells the failure detector something; in order with other commands.
    pub fn command(&self, command: HeartbeatCommand) {
        drop(command);
    }

    /// Queues a message for the life of the peer that there is a session with. It arrives once and
    /// in order, or that life ends.
    ///
    /// # Errors
    /// No such peer, no session, a message too long, or too much waiting already.
    pub fn send(&self, to: NodeId, bytes: Vec<u8>) -> Result<(), SendError> {
        drop(bytes);
        Err(SendError::UnknownNode(to))
    }

    /// The core is alive: to be called at least once a second. Without it for `hang_timeout` the
    /// heartbeats stop.
    pub fn core_alive(&self) {}

    /// Now, on the clock of all instants (CLOCK_BOOTTIME).
    #[must_use]
    pub fn now() -> Instant {
        clock::boottime()
    }

    /// Ends the thread and closes the sockets.
    pub fn stop(self) {}
}
