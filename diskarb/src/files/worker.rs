//! One thread that makes blocking calls, one at a time, for a caller with deadlines.

use std::fmt;
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use wolfpack_types::disk::{DiskOp, DiskOutcome};

use crate::device::{Capacity, Identity, Late, OpenError, ScsiDevice};

/// What a device does in its thread. It may block for ever.
pub(super) trait Files: Send {
    /// Carries out one command.
    fn carry_out(&mut self, op: &DiskOp) -> DiskOutcome;
}

/// A device whose commands are carried out by a thread of its own.
pub(super) struct FileDevice {
    name: String,
    capacity: Capacity,
    identity: Identity,
    jobs: Sender<DiskOp>,
    ends: Receiver<DiskOutcome>,
    /// A call has not returned.
    stalled: bool,
    connected: bool,
}

impl fmt::Debug for FileDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileDevice")
            .field("name", &self.name)
            .field("stalled", &self.stalled)
            .finish_non_exhaustive()
    }
}

impl FileDevice {
    /// Starts the thread. It ends when the device is dropped and its last call has returned.
    pub(super) fn start(
        name: &str,
        capacity: Capacity,
        product: &str,
        mut files: impl Files + 'static,
    ) -> Result<Self, OpenError> {
        let (jobs, inbox) = bounded::<DiskOp>(1);
        let (outbox, ends) = bounded(1);
        thread::Builder::new()
            .name("register-file".into())
            .stack_size(256 * 1024)
            .spawn(move || {
                for op in inbox {
                    if outbox.send(files.carry_out(&op)).is_err() {
                        return;
                    }
                }
            })
            .map_err(|source| OpenError::Os { disk: name.to_owned(), source })?;
        let identity = Identity { product: product.to_owned(), ..Identity::default() };
        let name = name.to_owned();
        Ok(Self { name, capacity, identity, jobs, ends, stalled: false, connected: true })
    }
}

impl ScsiDevice for FileDevice {
    fn execute(&mut self, op: &DiskOp, deadline: Duration) -> DiskOutcome {
        if self.stalled {
            return DiskOutcome::Timeout;
        }
        if self.jobs.try_send(op.clone()).is_err() {
            self.connected = false;
            return DiskOutcome::Transport("its thread has ended".into());
        }
        match self.ends.recv_timeout(deadline) {
            Ok(outcome) => {
                self.connected = !matches!(outcome, DiskOutcome::Transport(_));
                outcome
            }
            Err(RecvTimeoutError::Timeout) => {
                self.stalled = true;
                DiskOutcome::Timeout
            }
            Err(RecvTimeoutError::Disconnected) => {
                self.connected = false;
                DiskOutcome::Transport("its thread has ended".into())
            }
        }
    }

    fn late(&mut self, wait: Duration) -> Late {
        if !self.stalled {
            return Late::Ended;
        }
        match self.ends.recv_timeout(wait) {
            Ok(_) => {
                self.stalled = false;
                Late::Ended
            }
            Err(RecvTimeoutError::Timeout) => Late::Pending,
            Err(RecvTimeoutError::Disconnected) => Late::SessionLost,
        }
    }

    fn connected(&self) -> bool {
        self.connected
    }

    /// Nothing to open anew: a device that has failed is opened again by its name.
    fn reconnect(&mut self) -> Result<(), OpenError> {
        if self.stalled {
            let why = "a call on it has not returned".to_owned();
            return Err(OpenError::Files { place: self.name.clone(), why });
        }
        self.connected = true;
        Ok(())
    }

    fn capacity(&self) -> Capacity {
        self.capacity
    }

    fn identity(&self) -> &Identity {
        &self.identity
    }

    fn describe(&self) -> &str {
        &self.name
    }

    fn ends_with_session(&self) -> bool {
        false
    }
}

/// What a file is asked and cannot do: reservations, resets, blocks that it does not have.
pub(super) const ILLEGAL: DiskOutcome = DiskOutcome::Sense { key: 5, asc: 0x20, ascq: 0 };

#[cfg(test)]
mod tests {
    use super::*;

    /// Carries out a command when it is let.
    struct Gate(Receiver<()>);

    impl Files for Gate {
        fn carry_out(&mut self, _: &DiskOp) -> DiskOutcome {
            let _ = self.0.recv();
            DiskOutcome::Good(vec![])
        }
    }

    #[test]
    fn a_call_that_does_not_return_is_in_doubt_until_it_does() {
        let (let_go, gate) = bounded(4);
        let capacity = Capacity { blocks: 1, block_size: 4096 };
        let mut device = FileDevice::start("share:/x", capacity, "", Gate(gate)).unwrap();
        let tick = Duration::from_millis(5);
        assert_eq!(device.execute(&DiskOp::Test, tick), DiskOutcome::Timeout);
        // Nothing else is begun, however often it is asked.
        assert_eq!(device.execute(&DiskOp::Test, tick), DiskOutcome::Timeout);
        assert_eq!(device.late(tick), Late::Pending);
        assert!(device.reconnect().is_err());
        assert!(!device.ends_with_session());
        let_go.send(()).unwrap();
        assert_eq!(device.late(Duration::from_secs(60)), Late::Ended);
        let_go.send(()).unwrap();
        let long = Duration::from_secs(60);
        assert_eq!(device.execute(&DiskOp::Test, long), DiskOutcome::Good(vec![]));
        assert!(device.connected());
    }
}
