//! The shared section: a sealed memfd in which the service publishes its lease, the guard says
//! that everything was ended, and each resource monitor records which entry point it is about to
//! call, readable after any death of the writer.
//!
//! One section belongs to one life of the service. A new life gets a new section from the guard,
//! so a process of a former life that wakes late can only write where nobody looks any more.
//!
//! ```text
//!       0  magic          8  version
//!      16  node          24  incarnation           written once by the guard
//!      32  lease_end     CLOCK_BOOTTIME ns; 0: none        written by the service
//!      40  ended         CLOCK_BOOTTIME ns; 0: not ended   written by the guard, once
//!      48  guard_beat    CLOCK_BOOTTIME ns                 written by the guard
//!    4096  area of monitor 1    16384 bytes: head and 255 call slots (see `calls`)
//!   20480  area of monitor 2 ...
//! ```
//!
//! All fields are little-endian (native) 64-bit words, accessed as atomics. The guard maps all of
//! it, the service writes page 0 only, a monitor reads page 0 and writes its own area only: what
//! a wild write of a resource type can reach is its own crash record.

mod calls;
mod lease;
#[cfg(test)]
mod tests;

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::stat::fstat;
use nix::unistd::ftruncate;
use wolfpack_types::{Incarnation, Instant, NodeId, NodeInc};

pub use calls::{Call, CallReader, CallRecorder, CallReport, InProgress};
pub use lease::{LeaseReader, LeaseWriter};

use crate::sys::{Part, ReadMap, WriteMap};

/// Monitors are numbered 1 to this.
pub const MONITORS_MAX: u32 = 32;

/// Call slots of a monitor. A resource has at most two calls at once (one, and a terminate that
/// overtakes it), and a monitor at most 96 resources.
pub const CALL_SLOTS: usize = 255;

const MAGIC: u64 = u64::from_le_bytes(*b"WOLFSECT");
const VERSION: u64 = 1;

const HEAD: Part = Part { offset: 0, len: 4096 };
const AREA_BYTES: usize = 16_384;
const SECTION_BYTES: usize = HEAD.len + AREA_BYTES * MONITORS_MAX as usize;

const AT_MAGIC: usize = 0;
const AT_VERSION: usize = 8;
const AT_NODE: usize = 16;
const AT_INCARNATION: usize = 24;
const AT_LEASE_END: usize = 32;
const AT_ENDED: usize = 40;
const AT_GUARD_BEAT: usize = 48;

const _: () = assert!(calls::SLOTS_AT + CALL_SLOTS * calls::SLOT_BYTES <= AREA_BYTES);

/// A section that cannot be made or used.
#[derive(Debug, thiserror::Error)]
pub enum SectionError {
    #[error("cannot {act} the shared section")]
    Kernel { act: &'static str, source: io::Error },
    #[error("the descriptor is no shared section of this version ({why})")]
    Foreign { why: String },
    #[error("the shared section belongs to life {found} of node {node}, not to {wanted}")]
    OtherLife { node: u64, found: u64, wanted: NodeInc },
    #[error("monitor number {0} is outside 1 to {MONITORS_MAX}")]
    MonitorNumber(u32),
}

fn kernel(act: &'static str) -> impl Fn(nix::Error) -> SectionError {
    move |e| SectionError::Kernel { act, source: e.into() }
}

/// The section of one life, in the hands of the guard.
#[derive(Debug)]
pub struct Section {
    fd: OwnedFd,
    me: NodeInc,
    map: WriteMap,
}

impl Section {
    /// Makes the section of a life: no lease, nothing ended, all areas empty.
    ///
    /// # Errors
    /// The kernel gives no memory.
    pub fn create(me: NodeInc) -> Result<Self, SectionError> {
        let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
        let fd = memfd_create(c"wolfpack-section", flags).map_err(kernel("create"))?;
        let size = i64::try_from(SECTION_BYTES).expect("a constant below 2^63");
        ftruncate(&fd, size).map_err(kernel("size"))?;
        // Sealed, so that nobody who holds the descriptor can make the others fault.
        let seals = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL;
        fcntl(&fd, FcntlArg::F_ADD_SEALS(seals)).map_err(kernel("seal"))?;
        let map = WriteMap::new(fd.as_fd(), Part { offset: 0, len: SECTION_BYTES })
            .map_err(|source| SectionError::Kernel { act: "map", source })?;
        map.store(AT_VERSION, VERSION);
        map.store(AT_NODE, u64::from(me.node.get()));
        map.store(AT_INCARNATION, me.inc.0);
        map.store(AT_MAGIC, MAGIC);
        Ok(Self { fd, me, map })
    }

    /// Whose it is.
    #[must_use]
    pub const fn life(&self) -> NodeInc {
        self.me
    }

    /// When the lease ends, as the service last said; zero if it never had one.
    #[must_use]
    pub fn lease_end(&self) -> Instant {
        Instant(self.map.load(AT_LEASE_END))
    }

    /// Says, for good, that everything of this life is being ended: no monitor starts anything
    /// more and no lease counts.
    pub fn mark_ended(&self, now: Instant) {
        self.map.store(AT_ENDED, now.0.max(1));
    }

    /// The guard lives.
    pub fn beat(&self, now: Instant) {
        self.map.store(AT_GUARD_BEAT, now.0);
    }

    /// Resources that a monitor holds or is about to start (see [`CallRecorder::hold`]).
    #[must_use]
    pub fn held(&self) -> u64 {
        (0..MONITORS_MAX as usize)
            .map(|i| self.map.load(HEAD.len + i * AREA_BYTES + calls::AT_HELD))
            .fold(0, u64::saturating_add)
    }

    /// Empties a monitor's area, before a new process of that number starts. Whoever wants to know
    /// what the old one was doing reads it before.
    ///
    /// # Errors
    /// A number out of range.
    pub fn clear_area(&self, monitor: u32) -> Result<(), SectionError> {
        let area = area(monitor)?;
        for at in (area.offset..area.offset + area.len).step_by(8) {
            self.map.store(at, 0);
        }
        Ok(())
    }
}

impl AsFd for Section {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn area(monitor: u32) -> Result<Part, SectionError> {
    if !(1..=MONITORS_MAX).contains(&monitor) {
        return Err(SectionError::MonitorNumber(monitor));
    }
    let index = monitor as usize - 1;
    Ok(Part { offset: HEAD.len + index * AREA_BYTES, len: AREA_BYTES })
}

/// Checks a descriptor that came from elsewhere before anything of it is mapped for use.
fn check(fd: BorrowedFd<'_>) -> Result<ReadMap, SectionError> {
    let foreign = |why: &str| SectionError::Foreign { why: why.into() };
    let size = fstat(fd).map_err(kernel("examine"))?.st_size;
    if usize::try_from(size).ok() != Some(SECTION_BYTES) {
        return Err(SectionError::Foreign { why: format!("{size} bytes, not {SECTION_BYTES}") });
    }
    let seals = fcntl(fd, FcntlArg::F_GET_SEALS).map_err(|_| foreign("not a memfd"))?;
    if !SealFlag::from_bits_truncate(seals).contains(SealFlag::F_SEAL_SHRINK) {
        return Err(foreign("its size is not sealed"));
    }
    let head =
        ReadMap::new(fd, HEAD).map_err(|source| SectionError::Kernel { act: "map", source })?;
    if head.load(AT_MAGIC) != MAGIC {
        return Err(foreign("wrong magic number"));
    }
    if head.load(AT_VERSION) != VERSION {
        let why = format!("version {}, not {VERSION}", head.load(AT_VERSION));
        return Err(SectionError::Foreign { why });
    }
    Ok(head)
}

fn life_of(head: &ReadMap) -> Result<NodeInc, SectionError> {
    let node = u8::try_from(head.load(AT_NODE)).ok().and_then(|n| NodeId::new(n).ok());
    let node = node.ok_or_else(|| SectionError::Foreign { why: "no node number".into() })?;
    Ok(NodeInc::new(node, Incarnation(head.load(AT_INCARNATION))))
}
