//! The only unsafe code of this crate: words of shared memory.
//!
//! A mapping is of a memfd whose size is sealed, so an access within its length cannot fault, and
//! is only ever read and written as whole aligned 64-bit atomics, so other processes may do the
//! same at any time.

use std::io;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicU64, Ordering};

use memmap2::{MmapOptions, MmapRaw};

/// Part of a section, for reading only: a stray write faults here and harms nobody else.
#[derive(Debug)]
pub(crate) struct ReadMap(MmapRaw);

/// Part of a section, for reading and writing.
#[derive(Debug)]
pub(crate) struct WriteMap(MmapRaw);

/// Offset and length in bytes; the offset is a multiple of the page size.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Part {
    pub(crate) offset: usize,
    pub(crate) len: usize,
}

fn options(part: Part) -> MmapOptions {
    let mut options = MmapOptions::new();
    options.offset(part.offset as u64).len(part.len);
    options
}

impl ReadMap {
    pub(crate) fn new(fd: BorrowedFd<'_>, part: Part) -> io::Result<Self> {
        options(part).map_raw_read_only(&fd).map(Self)
    }

    /// The word at a byte offset.
    pub(crate) fn load(&self, at: usize) -> u64 {
        assert!(at.is_multiple_of(8) && at + 8 <= self.0.len());
        // SAFETY: within the mapping (asserted), aligned (asserted; mappings start at a page), and
        // shared memory is only accessed as atomics. The reference does not outlive `self`, and
        // only `load` is called through it, which a read-only page allows.
        let word = unsafe { &*self.0.as_ptr().add(at).cast::<AtomicU64>() };
        word.load(Ordering::SeqCst)
    }
}

impl WriteMap {
    pub(crate) fn new(fd: BorrowedFd<'_>, part: Part) -> io::Result<Self> {
        options(part).map_raw(&fd).map(Self)
    }

    /// The word at a byte offset.
    pub(crate) fn word(&self, at: usize) -> &AtomicU64 {
        assert!(at.is_multiple_of(8) && at + 8 <= self.0.len());
        // SAFETY: within the mapping (asserted), aligned (asserted; mappings start at a page), and
        // shared memory is only accessed as atomics. The reference borrows `self`, which unmaps
        // only when dropped.
        unsafe { &*self.0.as_mut_ptr().add(at).cast::<AtomicU64>() }
    }

    pub(crate) fn load(&self, at: usize) -> u64 {
        self.word(at).load(Ordering::SeqCst)
    }

    pub(crate) fn store(&self, at: usize, value: u64) {
        self.word(at).store(value, Ordering::SeqCst);
    }
}

/// Takes over a descriptor that the kernel has just made for this process (accepted, or received
/// with a packet).
pub(crate) fn own(raw: RawFd) -> OwnedFd {
    // SAFETY: the callers pass descriptors fresh from the kernel, which nobody else knows.
    unsafe { OwnedFd::from_raw_fd(raw) }
}
