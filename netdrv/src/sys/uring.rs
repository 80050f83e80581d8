//! io_uring for one thread: multishot receive on sockets into provided buffers, a watched eventfd,
//! a wait with a deadline.
//!
//! The kernel writes into memory that this module owns (the buffers, and the ring that hands them
//! out), and reads a message header that it owns. It is the only place that knows. The ring belongs
//! to the thread that made it.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use io_uring::types::{BufRingEntry, Fd, RecvMsgOut, SubmitArgs, Timespec};
use io_uring::{IoUring, cqueue, opcode, squeue};
use memmap2::MmapMut;

/// Requests that wait to be submitted: a few sockets' worth.
const SUBMISSIONS: u32 = 64;
/// Completions that wait to be read: all buffers, and all ends of requests.
const COMPLETIONS: u32 = 1024;
/// Receive buffers; a power of two, as the kernel wants it.
const BUFFERS: u16 = 256;
/// Room for the kernel's header, the sender's address, and more than the longest datagram, so that
/// a longer one is seen to be too long.
const BUFFER_BYTES: usize = 2048;
const GROUP: u16 = 1;
/// The address of a sender: sockaddr_in6, the longer one.
const NAME_BYTES: u32 = 28;

const WATCH: u64 = u64::MAX;
const CANCEL: u64 = u64::MAX - 1;

/// What has happened on the ring.
#[derive(Debug)]
pub(crate) enum Completion<'a> {
    /// A datagram on the socket armed under this token. Without a source it was neither IPv4 nor IPv6.
    Datagram { token: u64, source: Option<IpAddr>, bytes: &'a [u8] },
    /// The socket's request has ended and must be armed again if it is still wanted: by an error,
    /// or because the kernel ended it (0).
    Ended { token: u64, errno: i32 },
    /// The watched eventfd is readable.
    Wake,
}

/// One ring and its memory.
// Field order: the ring goes first, and with it all requests, before the memory they use.
pub(crate) struct Ring {
    ring: IoUring,
    buffers: Buffers,
    header: Box<libc::msghdr>,
    batch: Vec<cqueue::Entry>,
}

impl std::fmt::Debug for Ring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Ring(..)")
    }
}

/// A step of the set-up that failed.
#[derive(Debug)]
pub(crate) struct SetupError {
    pub(crate) step: &'static str,
    pub(crate) source: io::Error,
}

impl Ring {
    /// Makes a ring for the calling thread.
    ///
    /// # Errors
    /// No io_uring (forbidden, or an old kernel), or no memory for it.
    pub(crate) fn new() -> Result<Self, SetupError> {
        let failed = |step| move |source| SetupError { step, source };
        let ring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_cqsize(COMPLETIONS)
            .build(SUBMISSIONS)
            // Kernels before 6.1 do not know these two; they only save system calls.
            .or_else(|_| IoUring::builder().setup_cqsize(COMPLETIONS).build(SUBMISSIONS))
            .map_err(failed("io_uring_setup"))?;
        let mut buffers = Buffers::new().map_err(failed("memory for receive buffers"))?;
        // SAFETY: the memory is page-aligned, holds BUFFERS entries, and lives as long as the ring
        // by the order of the fields of Self.
        unsafe {
            ring.submitter().register_buf_ring_with_flags(buffers.address(), BUFFERS, GROUP, 0)
        }
        .map_err(failed("io_uring_register of a buffer ring"))?;
        for id in 0..BUFFERS {
            buffers.provide(id);
        }
        // SAFETY: all fields of msghdr are integers or pointers, for which zero is a valid value.
        let mut header: Box<libc::msghdr> = Box::new(unsafe { std::mem::zeroed() });
        header.msg_namelen = NAME_BYTES;
        Ok(Self { ring, buffers, header, batch: Vec::with_capacity(COMPLETIONS as usize) })
    }

    /// Receives on a socket until [`Completion::Ended`]. Tokens are below `u64::MAX - 1`.
    pub(crate) fn receive(&mut self, socket: BorrowedFd<'_>, token: u64) -> io::Result<()> {
        let fd = Fd(socket.as_raw_fd());
        let request = opcode::RecvMsgMulti::new(fd, &raw const *self.header, GROUP);
        self.push(&request.build().user_data(token))
    }

    /// Ends the request of a socket; it answers with [`Completion::Ended`].
    pub(crate) fn cancel(&mut self, token: u64) -> io::Result<()> {
        self.push(&opcode::AsyncCancel::new(token).build().user_data(CANCEL))
    }

    /// Says [`Completion::Wake`] whenever an eventfd becomes readable, once: to be called again
    /// after each.
    pub(crate) fn watch(&mut self, eventfd: BorrowedFd<'_>) -> io::Result<()> {
        let events = u32::from(libc::POLLIN.unsigned_abs());
        let request = opcode::PollAdd::new(Fd(eventfd.as_raw_fd()), events);
        self.push(&request.build().user_data(WATCH))
    }

    fn push(&mut self, request: &squeue::Entry) -> io::Result<()> {
        loop {
            // SAFETY: what the request refers to is either owned by self (message header, buffers)
            // and outlives the ring, or a descriptor, which the kernel checks and holds.
            if unsafe { self.ring.submission().push(request) }.is_ok() {
                return Ok(());
            }
            self.ring.submit()?;
        }
    }

    /// Submits, and waits until something has happened or the time is over. Zero only looks.
    pub(crate) fn wait(&mut self, longest: Duration) -> io::Result<()> {
        let timeout = Timespec::from(longest);
        let args = SubmitArgs::new().timespec(&timeout);
        match self.ring.submitter().submit_with_args(1, &args) {
            Ok(_) => Ok(()),
            Err(e) => match e.raw_os_error() {
                // Over; a signal; completions to be read first.
                Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN) => Ok(()),
                _ => Err(e),
            },
        }
    }

    /// Takes what has happened off the ring. Everything taken happened before this returns.
    pub(crate) fn collect(&mut self) -> usize {
        self.batch.extend(self.ring.completion());
        self.batch.len()
    }

    /// Goes through what was collected.
    pub(crate) fn process(&mut self, mut each: impl FnMut(Completion<'_>)) {
        for entry in self.batch.drain(..) {
            match entry.user_data() {
                CANCEL => {}
                WATCH => each(Completion::Wake),
                token => {
                    if let Some(id) = cqueue::buffer_select(entry.flags()) {
                        let filled = usize::try_from(entry.result()).unwrap_or(0);
                        let bytes = self.buffers.get(id, filled);
                        if let Ok(message) = RecvMsgOut::parse(bytes, &self.header) {
                            let source = source(message.name_data());
                            let bytes = message.payload_data();
                            each(Completion::Datagram { token, source, bytes });
                        }
                        self.buffers.provide(id);
                    }
                    if !cqueue::more(entry.flags()) {
                        let errno = entry.result().min(0).saturating_neg();
                        each(Completion::Ended { token, errno });
                    }
                }
            }
        }
    }
}

/// The address in a sockaddr_in or sockaddr_in6.
pub(super) fn source(name: &[u8]) -> Option<IpAddr> {
    let (family, rest) = name.split_first_chunk::<2>()?;
    let (_port, rest) = rest.split_first_chunk::<2>()?;
    match libc::c_int::from(u16::from_ne_bytes(*family)) {
        libc::AF_INET => Some(Ipv4Addr::from(*rest.first_chunk::<4>()?).into()),
        libc::AF_INET6 => {
            let (_flow, rest) = rest.split_first_chunk::<4>()?;
            Some(Ipv6Addr::from(*rest.first_chunk::<16>()?).into())
        }
        _ => None,
    }
}

/// The receive buffers and the ring in which they are handed to the kernel.
struct Buffers {
    /// `BUFFERS` entries; the tail lies in a spare field of the first (io_uring_buf_ring).
    ring: MmapMut,
    memory: MmapMut,
    tail: u16,
}

impl Buffers {
    fn new() -> io::Result<Self> {
        let entries = usize::from(BUFFERS);
        let ring = MmapMut::map_anon(entries * size_of::<BufRingEntry>())?;
        let memory = MmapMut::map_anon(entries * BUFFER_BYTES)?;
        Ok(Self { ring, memory, tail: 0 })
    }

    fn address(&mut self) -> u64 {
        self.ring.as_mut_ptr().expose_provenance() as u64
    }

    /// Hands a buffer to the kernel.
    fn provide(&mut self, id: u16) {
        let start = usize::from(id) * BUFFER_BYTES;
        let address = self.memory[start..start + BUFFER_BYTES].as_mut_ptr();
        let entries = self.ring.as_mut_ptr().cast::<BufRingEntry>();
        let slot = usize::from(self.tail & (BUFFERS - 1));
        // SAFETY: `slot` is below BUFFERS, for which the mapping has room, and the mapping is
        // aligned to a page. The kernel does not touch the slot before the tail passes it.
        let entry = unsafe { &mut *entries.add(slot) };
        entry.set_addr(address.expose_provenance() as u64);
        entry.set_len(u32::try_from(BUFFER_BYTES).unwrap_or(0));
        entry.set_bid(id);
        self.tail = self.tail.wrapping_add(1);
        // SAFETY: `entries` is the first entry of the ring, initialised by mmap. The tail is
        // aligned, lives as long as the mapping, and is written by this thread alone; the kernel
        // reads it, therefore atomically and released, so that it sees the entry first.
        unsafe {
            let tail = BufRingEntry::tail(entries).cast_mut();
            AtomicU16::from_ptr(tail).store(self.tail, Ordering::Release);
        }
    }

    /// What the kernel has put into a buffer. It does not touch it again before it is provided.
    fn get(&self, id: u16, filled: usize) -> &[u8] {
        let start = usize::from(id) * BUFFER_BYTES;
        let end = start + filled.min(BUFFER_BYTES);
        self.memory.get(start..end).unwrap_or_default()
    }
}
