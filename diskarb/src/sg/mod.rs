//! A SCSI disk of the kernel (`/dev/sdX`, `/dev/sgX`) by SG_IO.
//!
//! The ioctl returns only when the kernel is done with the command: a deadline that passes sets off
//! its error handler (abort, then reset), which may take many seconds. So a call may outlast its
//! deadline, but a command that has timed out is dead when the call returns. The sense data that
//! says so is given as it is; nothing is repeated here.

mod sys;

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::time::{Duration, Instant};

use wolfpack_types::disk::{DiskOp, DiskOutcome};

use crate::cdb::{Cdb, parse_capacity, parse_designator, text};
use crate::device::{CONNECT_TIMEOUT, Capacity, Identity, Late, OpenError, ScsiDevice};
use crate::sense::{self, Sense};
use sys::Reply;

/// Host bytes of the kernel's mid layer (`scsi/scsi_status.h`).
const DID_OK: u16 = 0;
const DID_TIME_OUT: u16 = 3;
const DID_ABORT: u16 = 5;
const DID_RESET: u16 = 8;

const ATTENTIONS_MAX: u32 = 16;

/// A disk of the kernel.
#[derive(Debug)]
pub(crate) struct SgDevice {
    name: String,
    file: Option<File>,
    capacity: Capacity,
    identity: Identity,
}

impl SgDevice {
    /// Opens it and asks who it is and how large.
    pub(crate) fn open(name: &str) -> Result<Self, OpenError> {
        let mut device = Self {
            name: name.to_owned(),
            file: None,
            capacity: Capacity { blocks: 0, block_size: 512 },
            identity: Identity::default(),
        };
        device.reconnect()?;
        Ok(device)
    }

    fn send(&mut self, cdb: &Cdb, out: &[u8], deadline: Duration) -> DiskOutcome {
        let Some(file) = &self.file else {
            return DiskOutcome::Transport("the device is not open".into());
        };
        let begun = Instant::now();
        match sys::execute(file, cdb, out, deadline) {
            Ok(reply) => outcome(reply),
            Err(e) => {
                tracing::debug!(disk = self.name, took = ?begun.elapsed(), error = %e, "SG_IO");
                if matches!(e.raw_os_error(), Some(libc::ENODEV | libc::ENXIO)) {
                    self.file = None;
                }
                DiskOutcome::Transport(e.to_string())
            }
        }
    }

    fn ask(&mut self, what: &'static str, cdb: &Cdb) -> Result<Vec<u8>, OpenError> {
        match self.send(cdb, &[], CONNECT_TIMEOUT) {
            DiskOutcome::Good(data) => Ok(data),
            other => {
                let why = sense::words(&other);
                Err(OpenError::Command { disk: self.name.clone(), what, why })
            }
        }
    }

    fn examine(&mut self) -> Result<(), OpenError> {
        let disk = self.name.clone();
        let inquiry = self.ask("INQUIRY", &Cdb::inquiry(None))?;
        match inquiry.first() {
            Some(0) => {}
            kind => {
                let kind = kind.map_or(0x1f, |k| k & 0x1f);
                return Err(OpenError::NotADisk { disk, kind });
            }
        }
        for _ in 0..ATTENTIONS_MAX {
            let ready = self.send(&Cdb::test_unit_ready(), &[], CONNECT_TIMEOUT);
            if !matches!(ready, DiskOutcome::UnitAttention { .. }) {
                break;
            }
        }
        let field = |from: usize, to: usize| text(inquiry.get(from..to).unwrap_or_default());
        // Both pages are for people: a unit without them is a disk too.
        let serial = self.ask("INQUIRY", &Cdb::inquiry(Some(0x80))).unwrap_or_default();
        let page = self.ask("INQUIRY", &Cdb::inquiry(Some(0x83))).unwrap_or_default();
        self.identity = Identity {
            vendor: field(8, 16),
            product: field(16, 32),
            serial: text(serial.get(4..).unwrap_or_default()),
            designator: parse_designator(&page),
        };
        let short = self.ask("READ CAPACITY(10)", &Cdb::read_capacity10())?;
        let answer = match parse_capacity(&short) {
            Err(true) => {
                let long = self.ask("READ CAPACITY(16)", &Cdb::read_capacity16())?;
                parse_capacity(&long)
            }
            other => other,
        };
        match answer {
            Ok((blocks, block_size @ (512 | 4096))) => {
                self.capacity = Capacity { blocks, block_size };
                Ok(())
            }
            Ok((_, block_size)) => Err(OpenError::BlockSize { disk, block_size }),
            Err(_) => {
                let why = "an answer that cannot be read".into();
                Err(OpenError::Command { disk, what: "READ CAPACITY", why })
            }
        }
    }
}

/// What the kernel's reply means. A command that the kernel gave up is dead: its error handler has
/// aborted it or reset the unit before the reply.
fn outcome(reply: Reply) -> DiskOutcome {
    match reply.host {
        DID_OK => {
            let sense = sense::parse(&reply.sense);
            // A driver byte without status: sense data alone (DRIVER_SENSE, 08h).
            let check =
                reply.status == 0 && reply.driver & 0x0f == 0x08 && sense != Sense::default();
            sense::outcome(if check { 0x02 } else { reply.status }, sense, reply.data)
        }
        DID_TIME_OUT => DiskOutcome::Timeout,
        DID_ABORT | DID_RESET => DiskOutcome::Aborted,
        other => DiskOutcome::Transport(format!(
            "the kernel could not carry it out (host byte {other:#04x})"
        )),
    }
}

impl ScsiDevice for SgDevice {
    fn execute(&mut self, op: &DiskOp, deadline: Duration) -> DiskOutcome {
        if *op == DiskOp::LunReset {
            let Some(file) = &self.file else {
                return DiskOutcome::Transport("the device is not open".into());
            };
            return match sys::reset(file) {
                Ok(()) => DiskOutcome::Good(Vec::new()),
                Err(e) => DiskOutcome::Transport(format!("LUN reset: {e}")),
            };
        }
        let Some(cdb) = Cdb::of(op, self.capacity.block_size) else {
            return DiskOutcome::Transport(format!("{} of a size that cannot be", op.name()));
        };
        let (out, wanted): (&[u8], usize) = match op {
            DiskOp::Write { data, .. } => (data, 0),
            DiskOp::Read { blocks, .. } => {
                (&[], *blocks as usize * self.capacity.block_size as usize)
            }
            _ => (&[], 0),
        };
        match self.send(&cdb, out, deadline) {
            DiskOutcome::Good(data) if data.len() < wanted => {
                DiskOutcome::Transport(format!("{} bytes instead of {wanted}", data.len()))
            }
            other => other,
        }
    }

    fn late(&mut self, _wait: Duration) -> Late {
        Late::Ended
    }

    fn connected(&self) -> bool {
        self.file.is_some()
    }

    fn reconnect(&mut self) -> Result<(), OpenError> {
        self.file = None;
        // Non-blocking: an open must not wait for a unit that is not ready.
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
            .open(&self.name)
            .map_err(|source| OpenError::Os { disk: self.name.clone(), source })?;
        self.file = Some(file);
        let examined = self.examine();
        if examined.is_err() {
            self.file = None;
        }
        examined
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
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(host: u16, status: u8, sense: &[u8]) -> Reply {
        Reply { status, host, driver: 0, sense: sense.to_vec(), data: vec![7] }
    }

    #[test]
    fn replies_of_the_kernel_are_outcomes() {
        assert_eq!(outcome(reply(0, 0, &[])), DiskOutcome::Good(vec![7]));
        assert_eq!(outcome(reply(0, 0x18, &[])), DiskOutcome::Conflict);
        let attention = outcome(reply(0, 2, &[0x72, 6, 0x29, 1]));
        assert_eq!(attention, DiskOutcome::UnitAttention { asc: 0x29, ascq: 1 });
        let driver = Reply { driver: 8, ..reply(0, 0, &[0x72, 6, 0x29, 1]) };
        assert_eq!(outcome(driver), DiskOutcome::UnitAttention { asc: 0x29, ascq: 1 });
        assert_eq!(outcome(reply(3, 0, &[])), DiskOutcome::Timeout);
        assert_eq!(outcome(reply(5, 0, &[])), DiskOutcome::Aborted);
        assert_eq!(outcome(reply(8, 0, &[])), DiskOutcome::Aborted);
        assert!(matches!(outcome(reply(0x0e, 0, &[])), DiskOutcome::Transport(_)));
    }

    #[test]
    fn what_is_no_disk_is_refused_with_its_name() {
        let missing = SgDevice::open("/dev/wolfpack-no-such-disk").unwrap_err();
        assert!(matches!(&missing, OpenError::Os { .. }), "{missing}");
        assert_eq!(missing.to_string(), "cannot open /dev/wolfpack-no-such-disk");
        let null = SgDevice::open("/dev/null").unwrap_err();
        assert!(matches!(&null, OpenError::Command { what: "INQUIRY", .. }), "{null}");
    }
}
