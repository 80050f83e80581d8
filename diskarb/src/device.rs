//! One logical unit through one session, blocking: the trait behind which the transports stand,
//! and how a disk is named and opened.
//!
//! It translates and decides nothing: no retry, no reservation policy, no reconnect of its own. A
//! device is used by one thread at a time and has one command in flight at most.

use std::fmt;
use std::time::Duration;

use wolfpack_types::disk::{DiskOp, DiskOutcome};
use wolfpack_types::{ClusterId, NodeId};

/// After a session has been ended and a new one has been opened, a command of the old one is taken
/// for dead only after this long.
///
/// Why it is enough: the new iSCSI session has the same initiator name and ISID, so the target ends
/// the old session and its tasks *before* it answers the login (RFC 7143 section 6.3.5, session
/// reinstatement). What may outlive that is a transfer that the target had already handed to its
/// medium; a quarter of a second is hundreds of times the write time of a healthy one, and a target
/// whose medium is stuck does not answer the login's TEST UNIT READY either.
pub const NEXUS_QUARANTINE: Duration = Duration::from_millis(250);

/// The same for a witness in files, from its opening: a call of a process that has ended may have
/// left this machine, and the file server may have it in hand. The mount is a `hard` one (checked),
/// so the client repeats nothing after the process is gone, and a server that has received a call
/// carries it out at once or not at all; one that answers the reads that follow later than this is
/// no witness that keeps the times of the register.
pub const SHARE_QUARANTINE: Duration = Duration::from_secs(1);

/// Longest time to reach a target, log in and ask for the unit's size.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// Size of a unit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Capacity {
    pub blocks: u64,
    /// Bytes of a block: 512 or 4096.
    pub block_size: u32,
}

impl Capacity {
    /// Size in bytes.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        self.blocks.saturating_mul(self.block_size as u64)
    }
}

/// Who the unit says it is.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Identity {
    pub vendor: String,
    pub product: String,
    /// Unit serial number (VPD page 80h), empty if the unit has none.
    pub serial: String,
    /// Designator of the unit (VPD page 83h, association 0), as hexadecimal digits; empty if none.
    pub designator: String,
}

/// For what a session is opened: sessions of different purposes are different I_T nexuses, sessions
/// of the same purpose replace each other.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Purpose {
    /// The witness, by the cluster service.
    Witness,
    /// A data disk, by a resource monitor.
    Data,
    /// Administration: preparing and examining a disk.
    Admin,
    /// The second session with which it is proven that a reservation excludes.
    Proof,
}

/// How a node calls itself towards a target.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Naming {
    pub cluster: ClusterId,
    pub node: NodeId,
    pub purpose: Purpose,
}

impl Naming {
    /// The iSCSI initiator name: `iqn.2026-11.org.wolfpack:<8 hex digits of the cluster>:<node>`.
    #[must_use]
    pub fn initiator(&self) -> String {
        let cluster = self.cluster.to_string();
        let cluster = cluster.get(..8).unwrap_or_default();
        format!("iqn.2026-11.org.wolfpack:{cluster}:{}", self.node)
    }
}

/// A disk could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error(
        "'{text}' is not a disk: {why}; expected iscsi://host:port/target-iqn/lun, /dev/sdX or /dev/sgX (a witness also share:/directory or file:/path)"
    )]
    BadName { text: String, why: String },
    #[error("cannot reach iSCSI target {portal} ({why}): is the storage network up?")]
    Unreachable { portal: String, why: String },
    #[error(
        "iSCSI target {target} at {portal} refused the login ({why}): does it exist, and may '{initiator}' use it?"
    )]
    Login { portal: String, target: String, initiator: String, why: String },
    #[error("{disk} has no such logical unit ({why}): check the LUN at the end of the name")]
    NoUnit { disk: String, why: String },
    #[error("{disk} is not a disk but a SCSI device of type {kind:#04x}")]
    NotADisk { disk: String, kind: u8 },
    #[error("{disk} has blocks of {block_size} bytes; 512 and 4096 can be used")]
    BlockSize { disk: String, block_size: u32 },
    #[error("{disk}: {what} failed: {why}")]
    Command { disk: String, what: &'static str, why: String },
    #[error("cannot open {disk}")]
    Os {
        disk: String,
        #[source]
        source: std::io::Error,
    },
    #[error("cannot use {place} as a witness: {why}")]
    Files { place: String, why: String },
    #[error("'{0}': this build has no userspace iSCSI (cargo feature 'iscsi')")]
    NoIscsi(String),
}

/// What is known of a command that timed out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Late {
    /// Its end came: it will not be executed any more.
    Ended,
    /// Nothing yet: it may still be executed.
    Pending,
    /// The session is gone: dead after a reconnect and [`NEXUS_QUARANTINE`].
    SessionLost,
}

/// A logical unit.
pub trait ScsiDevice: fmt::Debug {
    /// Sends one command and waits for its end, at most `deadline`. After `Timeout` and until
    /// [`ScsiDevice::late`] has said `Ended` (or a reconnect and the quarantine have passed) the
    /// caller sends no other command; if it does, the answer is `Timeout` again, nothing is sent.
    fn execute(&mut self, op: &DiskOp, deadline: Duration) -> DiskOutcome;

    /// After a `Timeout`: waits at most `wait` for the late end of the command.
    fn late(&mut self, wait: Duration) -> Late;

    /// Whether there is a session. After `Transport` there is none.
    fn connected(&self) -> bool;

    /// Ends the session, if any, abortively, and opens a new one to the same unit. Commands of the
    /// old session are dead after [`NEXUS_QUARANTINE`] from its success.
    ///
    /// # Errors
    /// As for [`open`]; there is no session then.
    fn reconnect(&mut self) -> Result<(), OpenError>;

    /// Size, as of the last (re)connect.
    fn capacity(&self) -> Capacity;

    /// Who the unit says it is.
    fn identity(&self) -> &Identity;

    /// The disk's name as the user gave it.
    fn describe(&self) -> &str;

    /// Whether dropping the device ends a command that has not been answered. A call on a file of a
    /// share that hangs is ended by nothing: it must be waited for, however long it takes.
    fn ends_with_session(&self) -> bool {
        true
    }
}

/// A device that may be given to another thread.
pub type Device = Box<dyn ScsiDevice + Send>;

/// Opens a disk: `iscsi://host:port/target-iqn/lun`, or a SCSI disk of the kernel; or a witness in
/// files: `share:/directory`, `file:/path`. A share may hang, and this call with it.
///
/// # Errors
/// Says what could not be reached or is not as it should be, and what to check.
pub fn open(disk: &str, naming: &Naming) -> Result<Device, OpenError> {
    if disk.starts_with("iscsi://") {
        return open_iscsi(disk, naming);
    }
    if disk.starts_with("/dev/") {
        return Ok(Box::new(crate::sg::SgDevice::open(disk)?));
    }
    if let Some(opened) = crate::files::open(disk, naming.cluster) {
        return opened;
    }
    Err(OpenError::BadName { text: disk.to_owned(), why: "unknown kind of name".to_owned() })
}

#[cfg(feature = "iscsi")]
fn open_iscsi(disk: &str, naming: &Naming) -> Result<Device, OpenError> {
    Ok(Box::new(crate::iscsi::IscsiDevice::open(disk, naming)?))
}

#[cfg(not(feature = "iscsi"))]
fn open_iscsi(disk: &str, _naming: &Naming) -> Result<Device, OpenError> {
    Err(OpenError::NoIscsi(disk.to_owned()))
}
