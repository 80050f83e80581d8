//! A logical unit over userspace iSCSI: no kernel initiator, no block device; the session ends with
//! the process, and with it the reservation of a well-behaved target.
//!
//! Deadlines below a second are kept by own polling. A command that timed out is not cancelled: it
//! stays in flight until its end comes or the session is dropped.

mod sys;
mod url;

use std::time::{Duration, Instant};

use wolfpack_types::disk::{DiskOp, DiskOutcome};

use crate::cdb::{Cdb, parse_capacity, parse_designator, text};
use crate::device::{CONNECT_TIMEOUT, Capacity, Identity, Late, Naming, OpenError, ScsiDevice};
use crate::sense;
use sys::{Session, Unmet};
use url::Url;

/// Unit attentions that a new session may have waiting (one each for login, resets, changes).
const ATTENTIONS_MAX: u32 = 16;

/// A unit of an iSCSI target.
#[derive(Debug)]
pub(crate) struct IscsiDevice {
    name: String,
    url: Url,
    initiator: String,
    isid: (u32, u16),
    session: Option<Session>,
    /// A command timed out and its end has not come.
    pending: bool,
    capacity: Capacity,
    identity: Identity,
}

impl IscsiDevice {
    /// Connects, logs in, and asks the unit who it is and how large.
    pub(crate) fn open(name: &str, naming: &Naming) -> Result<Self, OpenError> {
        let url =
            Url::parse(name).map_err(|why| OpenError::BadName { text: name.to_owned(), why })?;
        let mut device = Self {
            name: name.to_owned(),
            isid: isid(naming, &url),
            initiator: naming.initiator(),
            url,
            session: None,
            pending: false,
            capacity: Capacity { blocks: 0, block_size: 512 },
            identity: Identity::default(),
        };
        device.reconnect()?;
        Ok(device)
    }

    fn session(&self, until: Instant) -> Result<Session, OpenError> {
        let portal = &self.url.portal;
        let why = |unmet| match unmet {
            Unmet::Timeout => format!("timed out after {} s", CONNECT_TIMEOUT.as_secs()),
            Unmet::Lost(why) => why,
        };
        let unreachable =
            |unmet| OpenError::Unreachable { portal: portal.clone(), why: why(unmet) };
        let mut session = Session::new(&self.initiator, &self.url.target, self.isid)
            .map_err(|why| unreachable(Unmet::Lost(why)))?;
        session.connect(portal, until).map_err(unreachable)?;
        match session.login(until) {
            Ok(()) => Ok(session),
            Err(Unmet::Timeout) => Err(unreachable(Unmet::Timeout)),
            Err(Unmet::Lost(why)) => Err(OpenError::Login {
                portal: portal.clone(),
                target: self.url.target.clone(),
                initiator: self.initiator.clone(),
                why,
            }),
        }
    }

    /// Sends a command that is no [`DiskOp`] and expects GOOD.
    fn ask(&mut self, what: &'static str, cdb: &Cdb, until: Instant) -> Result<Vec<u8>, OpenError> {
        let disk = self.name.clone();
        let outcome = self.send(cdb, Vec::new(), until);
        match outcome {
            DiskOutcome::Good(data) => Ok(data),
            DiskOutcome::Sense { key: 5, asc: 0x25, ascq: 0 } => {
                Err(OpenError::NoUnit { disk, why: "LOGICAL UNIT NOT SUPPORTED".into() })
            }
            other => Err(OpenError::Command { disk, what, why: sense::words(&other) }),
        }
    }

    fn send(&mut self, cdb: &Cdb, out: Vec<u8>, until: Instant) -> DiskOutcome {
        let Some(session) = &mut self.session else {
            return DiskOutcome::Transport("there is no session".into());
        };
        match session.send(self.url.lun, cdb, out) {
            Ok(()) => self.end(until),
            Err(why) => self.lost(why),
        }
    }

    fn end(&mut self, until: Instant) -> DiskOutcome {
        let Some(session) = &mut self.session else {
            return DiskOutcome::Transport("there is no session".into());
        };
        match session.end(until) {
            Ok(outcome) => {
                self.pending = false;
                outcome
            }
            Err(Unmet::Timeout) => {
                self.pending = true;
                DiskOutcome::Timeout
            }
            Err(Unmet::Lost(why)) => self.lost(why),
        }
    }

    fn lost(&mut self, why: String) -> DiskOutcome {
        self.session = None;
        self.pending = false;
        DiskOutcome::Transport(why)
    }

    /// Reads away the unit attentions of the new session, and finds whether there is a disk at all.
    fn examine(&mut self, until: Instant) -> Result<(), OpenError> {
        let disk = self.name.clone();
        let inquiry = self.ask("INQUIRY", &Cdb::inquiry(None), until)?;
        match inquiry.first() {
            Some(kind) if kind >> 5 != 0 => {
                let why = "INQUIRY says that nothing is there".into();
                return Err(OpenError::NoUnit { disk, why });
            }
            Some(0) => {}
            kind => {
                let kind = kind.map_or(0x1f, |k| k & 0x1f);
                return Err(OpenError::NotADisk { disk, kind });
            }
        }
        for _ in 0..ATTENTIONS_MAX {
            match self.send(&Cdb::test_unit_ready(), Vec::new(), until) {
                DiskOutcome::UnitAttention { .. } => {}
                // Whatever else it says (a reservation of another, say), it is no matter here.
                _ => break,
            }
        }
        let field = |from: usize, to: usize| text(inquiry.get(from..to).unwrap_or_default());
        let serial = self.page(0x80, until);
        self.identity = Identity {
            vendor: field(8, 16),
            product: field(16, 32),
            serial: text(serial.get(4..).unwrap_or_default()),
            designator: parse_designator(&self.page(0x83, until)),
        };
        self.capacity = self.ask_capacity(until)?;
        Ok(())
    }

    /// A page of vital product data; empty if the unit has none (both pages are for people).
    fn page(&mut self, page: u8, until: Instant) -> Vec<u8> {
        self.ask("INQUIRY", &Cdb::inquiry(Some(page)), until).unwrap_or_default()
    }

    fn ask_capacity(&mut self, until: Instant) -> Result<Capacity, OpenError> {
        let short = self.ask("READ CAPACITY(10)", &Cdb::read_capacity10(), until)?;
        let answer = match parse_capacity(&short) {
            Err(true) => {
                let long = self.ask("READ CAPACITY(16)", &Cdb::read_capacity16(), until)?;
                parse_capacity(&long)
            }
            other => other,
        };
        let disk = self.name.clone();
        match answer {
            Ok((blocks, block_size @ (512 | 4096))) => Ok(Capacity { blocks, block_size }),
            Ok((_, block_size)) => Err(OpenError::BlockSize { disk, block_size }),
            Err(_) => {
                let why = "an answer that cannot be read".into();
                Err(OpenError::Command { disk, what: "READ CAPACITY", why })
            }
        }
    }
}

impl ScsiDevice for IscsiDevice {
    fn execute(&mut self, op: &DiskOp, deadline: Duration) -> DiskOutcome {
        if self.pending {
            return DiskOutcome::Timeout;
        }
        let until = Instant::now() + deadline;
        if *op == DiskOp::LunReset {
            let Some(session) = &mut self.session else {
                return DiskOutcome::Transport("there is no session".into());
            };
            return match session.send_reset(self.url.lun) {
                Ok(()) => self.end(until),
                Err(why) => self.lost(why),
            };
        }
        let Some(cdb) = Cdb::of(op, self.capacity.block_size) else {
            return DiskOutcome::Transport(format!("{} of a size that cannot be", op.name()));
        };
        let out = if let DiskOp::Write { data, .. } = op { data.clone() } else { Vec::new() };
        match self.send(&cdb, out, until) {
            DiskOutcome::Good(data) => check_length(op, data, self.capacity.block_size),
            other => other,
        }
    }

    fn late(&mut self, wait: Duration) -> Late {
        if !self.pending {
            return if self.session.is_some() { Late::Ended } else { Late::SessionLost };
        }
        match self.end(Instant::now() + wait) {
            DiskOutcome::Timeout => Late::Pending,
            _ if self.session.is_none() => Late::SessionLost,
            _ => Late::Ended,
        }
    }

    fn connected(&self) -> bool {
        self.session.is_some()
    }

    fn reconnect(&mut self) -> Result<(), OpenError> {
        self.session = None;
        self.pending = false;
        let until = Instant::now() + CONNECT_TIMEOUT;
        self.session = Some(self.session(until)?);
        let examined = self.examine(until);
        if examined.is_err() {
            self.session = None;
            self.pending = false;
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

/// GOOD with fewer bytes than were asked for is no good read.
fn check_length(op: &DiskOp, data: Vec<u8>, block_size: u32) -> DiskOutcome {
    let wanted = match op {
        DiskOp::Read { blocks, .. } => *blocks as usize * block_size as usize,
        _ => 0,
    };
    if data.len() < wanted {
        return DiskOutcome::Transport(format!("{} bytes instead of {wanted}", data.len()));
    }
    DiskOutcome::Good(data)
}

/// The session's identifier: the same in every life of the node, so that a new session replaces the
/// former one (RFC 7143 section 6.3.5) instead of meeting its reservation; another for each purpose
/// and unit, so that sessions side by side do not replace each other.
fn isid(naming: &Naming, url: &Url) -> (u32, u16) {
    let key = format!(
        "{} {} {:?} {} {}",
        naming.cluster, naming.node, naming.purpose, url.target, url.lun
    );
    let random = crc32c::crc32c(key.as_bytes());
    let [a, b, ..] = crc32c::crc32c(format!("{key} qualifier").as_bytes()).to_be_bytes();
    (random & 0x00ff_ffff, u16::from_be_bytes([a, b]))
}
