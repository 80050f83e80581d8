//! The crash record: before a monitor calls an entry point of a resource it writes here which
//! one, and clears it afterwards. After SIGKILL, SIGSEGV or a hang the service reads what was
//! under way.
//!
//! ```text
//! head    0 resources held   8 thread that got a deadly signal   16.. zero
//! slot   64 + 64 i:   0 claimed by (thread id, 0: free)    8 sequence (odd: being written)
//!        16 entry point (code, 0: none)   24, 32 resource (high, low half)
//!        40 thread id   48 start (CLOCK_BOOTTIME ns)   56 zero
//! ```
//!
//! Lock-free: a slot is claimed by compare-and-swap and then belongs to one thread until the call
//! ends. A reader takes a slot only if its sequence is even and the same before and after. A
//! writer that died half way leaves an odd sequence: the entry point had not begun or was over,
//! so a torn slot blames nobody; it is counted.

use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::unistd::gettid;
use wolfpack_types::monitor::{Blame, EntryPoint};
use wolfpack_types::{Guid, Instant, ResourceId};

use super::{CALL_SLOTS, SectionError, area, check};
use crate::sys::{ReadMap, WriteMap};

pub(super) const AT_HELD: usize = 0;
pub(super) const AT_CRASHED_THREAD: usize = 8;
pub(super) const SLOTS_AT: usize = 64;
pub(super) const SLOT_BYTES: usize = 64;

const OWNER: usize = 0;
pub(super) const SEQUENCE: usize = 8;
const ENTRY_POINT: usize = 16;
const RESOURCE_HIGH: usize = 24;
const RESOURCE_LOW: usize = 32;
const THREAD: usize = 40;
const START: usize = 48;

/// How often a reader tries a slot that changes under its eyes before it calls it torn.
const READ_ATTEMPTS: u32 = 8;

pub(super) const fn slot_at(index: usize) -> usize {
    SLOTS_AT + index * SLOT_BYTES
}

/// A monitor's own area, for writing.
#[derive(Debug)]
pub struct CallRecorder {
    pub(super) map: WriteMap,
}

/// A recorded call; dropping it says that the call has returned.
#[derive(Debug)]
pub struct Call<'a> {
    map: &'a WriteMap,
    at: usize,
}

impl CallRecorder {
    /// Opens the area of monitor `number`.
    ///
    /// # Errors
    /// Not a section, or a number out of range.
    pub fn open(fd: BorrowedFd<'_>, number: u32) -> Result<Self, SectionError> {
        check(fd)?;
        let map = WriteMap::new(fd, area(number)?)
            .map_err(|source| SectionError::Kernel { act: "map", source })?;
        Ok(Self { map })
    }

    /// Records that this thread is about to call an entry point.
    ///
    /// # Panics
    /// More than [`CALL_SLOTS`] calls at once, which the limit on resources excludes.
    #[must_use]
    pub fn begin(&self, entry_point: EntryPoint, resource: ResourceId, now: Instant) -> Call<'_> {
        let thread = u64::from(gettid().as_raw().unsigned_abs()).max(1);
        let free = |&index: &usize| {
            let owner = self.map.word(slot_at(index) + OWNER);
            owner.compare_exchange(0, thread, Ordering::SeqCst, Ordering::SeqCst).is_ok()
        };
        let index = (0..CALL_SLOTS).find(free).expect("a call slot for each call of a monitor");
        let at = slot_at(index);
        self.write(at, |map| {
            let Guid(id) = resource.0;
            map.store(at + RESOURCE_HIGH, high(id));
            map.store(at + RESOURCE_LOW, low(id));
            map.store(at + THREAD, thread);
            map.store(at + START, now.0);
            map.store(at + ENTRY_POINT, u64::from(entry_point.code()));
        });
        Call { map: &self.map, at }
    }

    fn write(&self, at: usize, fields: impl Fn(&WriteMap)) {
        sequenced(&self.map, at, fields);
    }

    /// Counts a resource that will be started, *before* the lease is checked for the start: either
    /// the guard sees the count at lease end, or the check comes later and sees the lease over.
    pub fn hold(&self) {
        self.map.word(AT_HELD).fetch_add(1, Ordering::SeqCst);
    }

    /// Nothing of a held resource runs any more.
    pub fn release(&self) {
        let word = self.map.word(AT_HELD);
        let old = word.fetch_sub(1, Ordering::SeqCst);
        assert!(old > 0, "a release for each hold");
    }

    /// Where a handler of deadly signals stores the thread id.
    #[must_use]
    pub fn crashed_thread(&self) -> &AtomicU64 {
        self.map.word(AT_CRASHED_THREAD)
    }
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        sequenced(self.map, self.at, |map| map.store(self.at + ENTRY_POINT, 0));
        self.map.store(self.at + OWNER, 0);
    }
}

fn sequenced(map: &WriteMap, at: usize, fields: impl Fn(&WriteMap)) {
    let sequence = map.word(at + SEQUENCE);
    sequence.fetch_add(1, Ordering::SeqCst);
    fields(map);
    sequence.fetch_add(1, Ordering::SeqCst);
}

const fn high(id: u128) -> u64 {
    (id >> 64) as u64
}

#[expect(clippy::cast_possible_truncation, reason = "the two halves of 128 bits")]
const fn low(id: u128) -> u64 {
    id as u64
}

/// A call that had not returned.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct InProgress {
    pub resource: ResourceId,
    pub entry_point: EntryPoint,
    /// Kernel thread id, for its stack and wait channel if it hangs.
    pub thread: u64,
    pub since: Instant,
}

/// What a monitor was doing.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct CallReport {
    /// Oldest first.
    pub calls: Vec<InProgress>,
    /// Slots whose writer died in the midst of writing.
    pub torn: usize,
    /// The thread that got a deadly signal, if the monitor could still write it down.
    pub crashed_thread: Option<u64>,
}

impl CallReport {
    /// The call to blame for a crash: that of the thread which got the signal; without one
    /// (SIGKILL) the newest, because calls that have run for long were survived for long.
    #[must_use]
    pub fn blame(&self) -> Option<Blame> {
        let call = match self.crashed_thread {
            Some(thread) => self.calls.iter().find(|c| c.thread == thread)?,
            None => self.calls.last()?,
        };
        Some(Blame { resource: call.resource, entry_point: call.entry_point })
    }
}

/// A monitor's area, for the service: valid until the guard starts a monitor of that number again.
#[derive(Debug)]
pub struct CallReader {
    map: ReadMap,
}

impl CallReader {
    /// Opens the area of monitor `number`.
    ///
    /// # Errors
    /// Not a section, or a number out of range.
    pub fn open(fd: BorrowedFd<'_>, number: u32) -> Result<Self, SectionError> {
        check(fd)?;
        let map = ReadMap::new(fd, area(number)?)
            .map_err(|source| SectionError::Kernel { act: "map", source })?;
        Ok(Self { map })
    }

    /// What the monitor is doing, or was doing when it died.
    #[must_use]
    pub fn calls_in_progress(&self) -> CallReport {
        let mut report = CallReport::default();
        for index in 0..CALL_SLOTS {
            match self.read(slot_at(index)) {
                Ok(call) => report.calls.extend(call),
                Err(Torn) => report.torn += 1,
            }
        }
        report.calls.sort_by_key(|c| (c.since, c.thread));
        report.crashed_thread = Some(self.map.load(AT_CRASHED_THREAD)).filter(|&t| t != 0);
        report
    }

    fn read(&self, at: usize) -> Result<Option<InProgress>, Torn> {
        for _ in 0..READ_ATTEMPTS {
            let before = self.map.load(at + SEQUENCE);
            let code = self.map.load(at + ENTRY_POINT);
            let id = u128::from(self.map.load(at + RESOURCE_HIGH)) << 64
                | u128::from(self.map.load(at + RESOURCE_LOW));
            let thread = self.map.load(at + THREAD);
            let since = Instant(self.map.load(at + START));
            if !before.is_multiple_of(2) || self.map.load(at + SEQUENCE) != before {
                std::hint::spin_loop();
                continue;
            }
            if code == 0 {
                return Ok(None);
            }
            // A code that no version knows was written by something wild: blame nobody by it.
            let entry_point = u8::try_from(code).ok().and_then(EntryPoint::of_code).ok_or(Torn)?;
            let resource = ResourceId(Guid(id));
            return Ok(Some(InProgress { resource, entry_point, thread, since }));
        }
        Err(Torn)
    }
}

struct Torn;
