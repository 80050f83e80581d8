//! The register's disk thread in the service: drives the pure [`crate::register::Register`] with
//! one real device, reconnects, and never takes a late completion for a fresh one.

use crossbeam_channel::Sender;
use wolfpack_types::register::{RegisterCommand, RegisterEvent};

use crate::register::RegisterConfig;

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

/// The running thread. Dropping it stops it.
#[derive(Debug)]
pub struct RegisterThread {
    commands: Sender<RegisterCommand>,
}

impl RegisterThread {
    /// Starts the thread. `disk` is opened by it (so an unreachable disk is a notice, no error).
    /// `clock` gives the node's time (CLOCK_BOOTTIME).
    ///
    /// # Errors
    /// Only if no thread can be made.
    pub fn start(
        config: RegisterConfig,
        disk: String,
        notify: Sender<RegisterNotice>,
    ) -> std::io::Result<Self> {
        let _ = (config, disk, notify);
        Err(std::io::Error::from(std::io::ErrorKind::Unsupported))
    }

    /// Hands over a command of the core; its answer comes as a notice.
    pub fn command(&self, command: RegisterCommand) {
        // The thread ends only when this handle does, so it is there.
        let _ = self.commands.send(command);
    }

    /// Ends the thread; waits for the command in flight (bounded by its deadline).
    pub fn stop(self) {}
}
