//! io_uring for one thread: multishot receive on sockets into provided buffers, sends that leave
//! with the wait, watched descriptors, a wait with a deadline.
//!
//! The kernel writes into memory that this module owns (the buffers, and the rings that hand them
//! out), and reads headers and datagrams that it owns. It is the only place that knows. The ring
//! belongs to the thread that made it. Each link has buffers of its own, so that a flood on one
//! network cannot take those of another.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use io_uring::types::{BufRingEntry, Fd, RecvMsgOut, SubmitArgs, Timespec};
use io_uring::{IoUring, Probe, cqueue, opcode, squeue};
use memmap2::MmapMut;
use socket2::SockAddr;

use super::outgoing::{Outgoing, SLOT_BYTES, SLOTS, TRIES, maybe_of_another};
use super::port::{Happened, SetupError, Token, source};

/// Requests that wait to be submitted: all datagrams of a tick and a few others.
const SUBMISSIONS: u32 = 256;
/// Completions that wait to be read: all buffers of many links, and all ends of requests.
const COMPLETIONS: u32 = 2048;
/// Receive buffers of a link; a power of two, as the kernel wants it.
const BUFFERS: u16 = 128;
/// The kernel's header and the sender's address (sockaddr_in6, the longer one) come before the
/// datagram.
const NAME_BYTES: u32 = 28;
const PREFIX_BYTES: usize = 16 + 28;
/// Room for that and for more than the longest datagram, so that a longer one is seen to be too
/// long.
const BUFFER_BYTES: usize = PREFIX_BYTES + SLOT_BYTES + 4;
/// Completions looked at in one go: a flood must not keep the deadlines.
const BATCH: usize = 256;

/// What a completion belongs to: the highest byte of its number.
const RECEIVE: u8 = 1;
const SEND: u8 = 2;
const WATCH: u8 = 3;
const CANCEL: u8 = 4;

/// One ring and its memory.
// Field order: the ring goes first, and with it all requests, before the memory they use.
pub(crate) struct Ring {
    ring: IoUring,
    buffers: Vec<Buffers>,
    header: Box<libc::msghdr>,
    outgoing: Outgoing,
    batch: Vec<cqueue::Entry>,
    /// Sockets with a receive request under way.
    receiving: usize,
    /// Descriptors watched, to be watched again when the kernel ends that.
    watched: Vec<(u8, i32)>,
}

impl std::fmt::Debug for Ring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Ring(..)")
    }
}

impl Ring {
    /// Makes a ring for the calling thread.
    ///
    /// # Errors
    /// No io_uring (forbidden, or an old kernel), or no memory for it.
    pub(crate) fn new(links: u8) -> Result<Self, SetupError> {
        let failed = |step| move |source| SetupError { step, source };
        let ring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_cqsize(COMPLETIONS)
            .build(SUBMISSIONS)
            // Kernels before 6.1 do not know these two; they only save system calls.
            .or_else(|_| IoUring::builder().setup_cqsize(COMPLETIONS).build(SUBMISSIONS))
            .map_err(failed("io_uring_setup"))?;
        let mut probe = Probe::new();
        ring.submitter().register_probe(&mut probe).map_err(failed("io_uring_register a probe"))?;
        // Multishot recvmsg cannot be asked for, but came with the kernel (6.0) that brought this.
        if !probe.is_supported(opcode::SendZc::CODE)
            || !ring.params().is_feature_skip_cqe_on_success()
        {
            let source = io::Error::from_raw_os_error(libc::EOPNOTSUPP);
            return Err(SetupError { step: "multishot recvmsg (Linux 6.0)", source });
        }
        let mut buffers = Vec::new();
        for group in 0..u16::from(links) {
            let mut new = Buffers::new().map_err(failed("memory for receive buffers"))?;
            // SAFETY: the memory is page-aligned, holds BUFFERS entries, and lives as long as the
            // ring by the order of the fields of Self (it is mapped, so moving it moves nothing).
            unsafe {
                ring.submitter().register_buf_ring_with_flags(new.address(), BUFFERS, group, 0)
            }
            .map_err(failed("io_uring_register of a buffer ring"))?;
            for id in 0..BUFFERS {
                new.provide(id);
            }
            buffers.push(new);
        }
        // SAFETY: all fields of msghdr are integers or pointers, for which zero is a valid value.
        let mut header: Box<libc::msghdr> = Box::new(unsafe { std::mem::zeroed() });
        header.msg_namelen = NAME_BYTES;
        let (outgoing, batch) = (Outgoing::new(), Vec::with_capacity(BATCH));
        Ok(Self { ring, buffers, header, outgoing, batch, receiving: 0, watched: Vec::new() })
    }

    pub(crate) fn open(&mut self, token: Token, socket: BorrowedFd<'_>) -> io::Result<()> {
        let fd = Fd(socket.as_raw_fd());
        let request = opcode::RecvMsgMulti::new(fd, &raw const *self.header, u16::from(token.link));
        self.push(&request.build().user_data(number(RECEIVE, token.to_bits())))?;
        self.receiving += 1;
        Ok(())
    }

    pub(crate) fn close(&mut self, token: Token) -> io::Result<()> {
        let request = opcode::AsyncCancel::new(number(RECEIVE, token.to_bits()));
        self.push(&request.build().user_data(number(CANCEL, 0)))
    }

    /// Until all requests have ended: they hold the sockets, and a ring that is merely closed ends
    /// them some time later.
    pub(crate) fn settle(&mut self, longest: Duration) -> io::Result<()> {
        let end = Instant::now() + longest;
        while self.receiving > 0 && Instant::now() < end {
            self.wait(end.saturating_duration_since(Instant::now()))?;
            self.process(&mut |_| {})?;
        }
        Ok(())
    }

    pub(crate) fn watch(&mut self, watched: u8, fd: BorrowedFd<'_>) -> io::Result<()> {
        self.watched.push((watched, fd.as_raw_fd()));
        self.watch_again(watched)
    }

    fn watch_again(&mut self, watched: u8) -> io::Result<()> {
        let found = self.watched.iter().find(|(id, _)| *id == watched);
        let Some(&(_, fd)) = found else { return Ok(()) };
        let events = u32::from(libc::POLLIN.unsigned_abs());
        let request = opcode::PollAdd::new(Fd(fd), events).multi(true);
        self.push(&request.build().user_data(number(WATCH, u64::from(watched))))
    }

    fn push(&mut self, request: &squeue::Entry) -> io::Result<()> {
        loop {
            // SAFETY: what the request refers to is either owned by self (headers, datagrams,
            // buffers) and outlives the ring, or a descriptor, which the kernel checks and holds.
            if unsafe { self.ring.submission().push(request) }.is_ok() {
                return Ok(());
            }
            self.submit()?;
        }
    }

    fn submit(&mut self) -> io::Result<()> {
        match self.ring.submit() {
            Ok(_) => Ok(()),
            Err(e) => match e.raw_os_error() {
                Some(libc::EINTR | libc::EBUSY | libc::EAGAIN) => Ok(()),
                _ => Err(e),
            },
        }
    }

    pub(crate) fn send(
        &mut self,
        token: Token,
        socket: BorrowedFd<'_>,
        (to, node): (&SockAddr, u8),
        bytes: &[u8],
    ) -> io::Result<()> {
        if self.outgoing.full() {
            self.submit()?;
            self.outgoing.waiting = 0;
        }
        let slot = self.outgoing.put(socket.as_raw_fd(), token, node, to, bytes);
        self.push_slot(slot)
    }

    /// MSG_DONTWAIT: the kernel carries it out within the submission, so the slot is free after it;
    /// and if that were not so, it would read a later datagram from memory that is still ours.
    fn push_slot(&mut self, slot_number: usize) -> io::Result<()> {
        let Some(slot) = self.outgoing.get(slot_number) else { return Ok(()) };
        slot.tries += 1;
        let id = u64::from(slot.generation)
            | (slot_number as u64) << 16
            | u64::from(slot.node) << 24
            | slot.token.to_bits() << 32;
        let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
        let request = opcode::SendMsg::new(Fd(slot.fd), &raw const slot.header);
        let request = request.flags(flags.unsigned_abs()).build();
        self.push(&request.flags(squeue::Flags::SKIP_SUCCESS).user_data(number(SEND, id)))
    }

    pub(crate) fn wait(&mut self, longest: Duration) -> io::Result<()> {
        let timeout = Timespec::from(longest);
        let args = SubmitArgs::new().timespec(&timeout);
        let result = self.ring.submitter().submit_with_args(1, &args);
        self.outgoing.waiting = 0;
        match result {
            Ok(_) => Ok(()),
            Err(e) => match e.raw_os_error() {
                // Over; a signal; completions to be read first.
                Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN) => Ok(()),
                _ => Err(e),
            },
        }
    }

    pub(crate) fn process(&mut self, each: &mut dyn FnMut(Happened<'_>)) -> io::Result<usize> {
        let mut batch = std::mem::take(&mut self.batch);
        batch.extend(self.ring.completion().take(BATCH));
        let mut datagrams = 0;
        let mut result = Ok(());
        for entry in batch.drain(..) {
            let [low @ .., kind] = entry.user_data().to_le_bytes();
            let mut bits = [0; 8];
            bits[..7].copy_from_slice(&low);
            let bits = u64::from_le_bytes(bits);
            match kind {
                RECEIVE => datagrams += self.received(Token::from_bits(bits), &entry, each),
                SEND => {
                    let done = self.send_failed(bits, entry.result(), each);
                    result = result.and(done);
                }
                WATCH => {
                    let [watched, ..] = bits.to_le_bytes();
                    if !cqueue::more(entry.flags()) {
                        let done = self.watch_again(watched);
                        result = result.and(done);
                    }
                    each(Happened::Readable { watched });
                }
                _ => {}
            }
        }
        self.batch = batch;
        result.map(|()| datagrams)
    }

    fn received(
        &mut self,
        token: Token,
        entry: &cqueue::Entry,
        each: &mut dyn FnMut(Happened<'_>),
    ) -> usize {
        let mut datagrams = 0;
        if let Some(id) = cqueue::buffer_select(entry.flags())
            && let Some(buffers) = self.buffers.get_mut(usize::from(token.link))
        {
            let filled = usize::try_from(entry.result()).unwrap_or(0);
            let bytes = buffers.get(id, filled);
            if let Ok(message) = RecvMsgOut::parse(bytes, &self.header) {
                let source = source(message.name_data());
                let end = (PREFIX_BYTES + message.payload_data().len()).min(bytes.len());
                let bytes = bytes.get_mut(PREFIX_BYTES..end).unwrap_or_default();
                datagrams = 1;
                each(Happened::Datagram { token, source, bytes });
            }
            buffers.provide(id);
        }
        if !cqueue::more(entry.flags()) {
            self.receiving = self.receiving.saturating_sub(1);
            let errno = entry.result().min(0).saturating_neg();
            each(Happened::Interrupted { token, errno, stopped: true });
        }
        datagrams
    }

    fn send_failed(
        &mut self,
        bits: u64,
        result: i32,
        each: &mut dyn FnMut(Happened<'_>),
    ) -> io::Result<()> {
        let [g0, g1, slot, node, ..] = bits.to_le_bytes();
        let (generation, slot) = (u16::from_le_bytes([g0, g1]), usize::from(slot));
        let (token, errno) = (Token::from_bits(bits >> 32), result.min(0).saturating_neg());
        if errno == 0 {
            return Ok(());
        }
        if maybe_of_another(errno) {
            each(Happened::Interrupted { token, errno, stopped: false });
            // The slot is not used again before everything that has happened is processed, except
            // where that is more than a batch: then the generation differs.
            let again = self
                .outgoing
                .get(slot)
                .is_some_and(|slot| slot.generation == generation && slot.tries < TRIES);
            if again {
                self.outgoing.waiting = self.outgoing.waiting.max(slot + 1);
                return self.push_slot(slot);
            }
        }
        each(Happened::SendFailed { token, node, errno });
        Ok(())
    }
}

const _: () = assert!(SLOTS <= 256, "a slot's number has 8 bits in the number of a request");

/// The number of a request.
fn number(kind: u8, bits: u64) -> u64 {
    bits | u64::from(kind) << 56
}

/// The receive buffers of a link and the ring in which they are handed to the kernel.
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
    fn get(&mut self, id: u16, filled: usize) -> &mut [u8] {
        let start = usize::from(id) * BUFFER_BYTES;
        let end = start + filled.min(BUFFER_BYTES);
        self.memory.get_mut(start..end).unwrap_or_default()
    }
}
