//! The event loop on epoll, recvmmsg and sendmmsg, where io_uring is not to be had (old kernels,
//! `kernel.io_uring_disabled`, seccomp filters of containers).
//!
//! Level-triggered and in batches: what is left on a socket comes with the next turn, after the
//! other sockets had theirs. Not on mio: its waits are whole milliseconds, a tenth of a heartbeat of
//! the fastest profile.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::time::Duration;

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use socket2::SockAddr;

use super::outgoing::{Outgoing, SLOT_BYTES, SLOTS, TRIES, maybe_of_another};
use super::port::{Happened, Token, source};

/// Datagrams taken from one socket in one turn.
const BATCH: usize = 64;
/// Descriptors that can be ready at once: 16 networks, an eventfd, netlink.
const READY: usize = 32;
/// So that a longer datagram is seen to be too long.
const BUFFER_BYTES: usize = SLOT_BYTES + 4;

/// Above the bits of a token: a watched descriptor.
const WATCH: u64 = 1 << 32;

/// Where recvmmsg puts what it receives. Boxed once: addresses within stay valid.
struct Incoming {
    headers: [libc::mmsghdr; BATCH],
    parts: [libc::iovec; BATCH],
    names: [libc::sockaddr_storage; BATCH],
    bytes: [[u8; BUFFER_BYTES]; BATCH],
}

/// A datagram that the kernel would not take.
struct Failed {
    token: Token,
    node: u8,
    errno: i32,
    /// It was not tried again.
    lost: bool,
}

/// An epoll instance and its memory.
pub(crate) struct Poller {
    epoll: Epoll,
    ready: [libc::epoll_event; READY],
    happened: usize,
    sockets: Vec<(Token, RawFd)>,
    incoming: Box<Incoming>,
    outgoing: Outgoing,
    /// Slots in the order of sending, by socket.
    order: Vec<u8>,
    headers: Box<[libc::mmsghdr; SLOTS]>,
    /// What the kernel would not take since this was told last.
    failed: Vec<Failed>,
    /// epoll_pwait2 is not there (before Linux 5.11).
    coarse: bool,
}

impl std::fmt::Debug for Poller {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Poller(..)")
    }
}

impl Poller {
    pub(crate) fn new() -> io::Result<Self> {
        // SAFETY: all of these are integers, arrays of them, or raw pointers, for all of which zero
        // is a valid value.
        let (incoming, headers, ready) = unsafe {
            (
                Box::<Incoming>::new_zeroed().assume_init(),
                Box::<[libc::mmsghdr; SLOTS]>::new_zeroed().assume_init(),
                MaybeUninit::<[libc::epoll_event; READY]>::zeroed().assume_init(),
            )
        };
        Ok(Self {
            epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?,
            ready,
            happened: 0,
            sockets: Vec::new(),
            incoming,
            outgoing: Outgoing::new(),
            order: Vec::with_capacity(SLOTS),
            headers,
            failed: Vec::with_capacity(SLOTS),
            coarse: false,
        })
    }

    pub(crate) fn open(&mut self, token: Token, socket: BorrowedFd<'_>) -> io::Result<()> {
        self.epoll.add(socket, EpollEvent::new(EpollFlags::EPOLLIN, token.to_bits()))?;
        self.sockets.push((token, socket.as_raw_fd()));
        Ok(())
    }

    pub(crate) fn close(&mut self, token: Token, socket: BorrowedFd<'_>) -> io::Result<()> {
        self.sockets.retain(|(open, _)| *open != token);
        // What it has queued leaves while it is still open.
        self.flush();
        self.epoll.delete(socket)?;
        Ok(())
    }

    /// Edge-triggered: it need not be read to be told of the next time.
    pub(crate) fn watch(&mut self, watched: u8, fd: BorrowedFd<'_>) -> io::Result<()> {
        let flags = EpollFlags::EPOLLIN | EpollFlags::EPOLLET;
        self.epoll.add(fd, EpollEvent::new(flags, WATCH | u64::from(watched)))?;
        Ok(())
    }

    #[expect(clippy::unnecessary_wraps, reason = "the other loop's sends can fail as a whole")]
    pub(crate) fn send(
        &mut self,
        token: Token,
        socket: BorrowedFd<'_>,
        (to, node): (&SockAddr, u8),
        bytes: &[u8],
    ) -> io::Result<()> {
        if self.outgoing.full() {
            self.flush();
        }
        self.outgoing.put(socket.as_raw_fd(), token, node, to, bytes);
        Ok(())
    }

    /// Sends all that is queued, with one call for each socket.
    fn flush(&mut self) {
        let waiting = std::mem::take(&mut self.outgoing.waiting);
        if waiting == 0 {
            return;
        }
        self.order.clear();
        self.order.extend((0..waiting).filter_map(|n| u8::try_from(n).ok()));
        // By socket, and on each in the order in which they came.
        let Self { order, outgoing, .. } = self;
        order.sort_unstable_by_key(|&n| (outgoing.fd(n), n));
        let mut start = 0;
        while start < waiting {
            let socket = self.outgoing.fd(self.order[start]);
            let mut end = start;
            while end < waiting && self.outgoing.fd(self.order[end]) == socket {
                end += 1;
            }
            self.flush_socket(socket, start, end);
            start = end;
        }
    }

    fn flush_socket(&mut self, fd: RawFd, start: usize, end: usize) {
        for at in start..end {
            if let Some(slot) = self.outgoing.get(usize::from(self.order[at])) {
                self.headers[at].msg_hdr = slot.header;
            }
        }
        let mut at = start;
        while at < end {
            let count = libc::c_uint::try_from(end - at).unwrap_or(0);
            let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
            // SAFETY: `at..end` lies within the headers, which point into slots that live as long
            // as self and are not touched meanwhile.
            let sent =
                unsafe { libc::sendmmsg(fd, self.headers[at..end].as_mut_ptr(), count, flags) };
            if let Ok(sent @ 1..) = usize::try_from(sent) {
                at += sent;
                continue;
            }
            let errno = io::Error::last_os_error().raw_os_error().unwrap_or(0);
            let Some(slot) = self.outgoing.get(usize::from(self.order[at])) else { return };
            slot.tries += 1;
            let lost = !maybe_of_another(errno) || slot.tries >= TRIES;
            self.failed.push(Failed { token: slot.token, node: slot.node, errno, lost });
            if lost {
                at += 1;
            }
        }
    }

    pub(crate) fn wait(&mut self, longest: Duration) -> io::Result<()> {
        self.flush();
        // What failed is to be told at once.
        let longest = if self.failed.is_empty() { longest } else { Duration::ZERO };
        self.happened = 0;
        match self.wait_precisely(longest) {
            Ok(happened) => {
                self.happened = happened;
                Ok(())
            }
            Err(e) if e.raw_os_error() == Some(libc::EINTR) => Ok(()),
            Err(e) => Err(e),
        }
    }

    fn wait_precisely(&mut self, longest: Duration) -> io::Result<usize> {
        let ready = libc::c_int::try_from(READY).unwrap_or(0);
        if !self.coarse {
            let timeout = libc::timespec {
                tv_sec: libc::time_t::try_from(longest.as_secs()).unwrap_or(libc::time_t::MAX),
                tv_nsec: longest.subsec_nanos().into(),
            };
            // SAFETY: `ready` holds READY events, the timespec outlives the call, and no signal
            // mask is given.
            let result = unsafe {
                libc::syscall(
                    libc::SYS_epoll_pwait2,
                    self.epoll.0.as_raw_fd(),
                    self.ready.as_mut_ptr(),
                    ready,
                    &raw const timeout,
                    std::ptr::null::<libc::sigset_t>(),
                    0usize,
                )
            };
            if let Ok(happened) = usize::try_from(result) {
                return Ok(happened);
            }
            let error = io::Error::last_os_error();
            if error.raw_os_error() != Some(libc::ENOSYS) {
                return Err(error);
            }
            self.coarse = true;
        }
        // Not before the time: rounded up.
        let ms = longest.as_nanos().div_ceil(1_000_000);
        let ms = libc::c_int::try_from(ms).unwrap_or(libc::c_int::MAX);
        // SAFETY: `ready` holds READY events.
        let result = unsafe {
            libc::epoll_wait(self.epoll.0.as_raw_fd(), self.ready.as_mut_ptr(), ready, ms)
        };
        usize::try_from(result).map_err(|_| io::Error::last_os_error())
    }

    #[expect(clippy::unnecessary_wraps, reason = "the other loop's can fail")]
    pub(crate) fn process(&mut self, each: &mut dyn FnMut(Happened<'_>)) -> io::Result<usize> {
        let mut datagrams = 0;
        for Failed { token, node, errno, lost } in self.failed.drain(..) {
            if maybe_of_another(errno) {
                each(Happened::Interrupted { token, errno, stopped: false });
            }
            if lost {
                each(Happened::SendFailed { token, node, errno });
            }
        }
        for at in 0..std::mem::take(&mut self.happened) {
            let event = self.ready[at];
            let (events, data) = (event.events, event.u64);
            if data & WATCH != 0 {
                let [watched, ..] = data.to_le_bytes();
                each(Happened::Readable { watched });
                continue;
            }
            let token = Token::from_bits(data);
            let found = self.sockets.iter().find(|(open, _)| *open == token);
            let Some(&(_, fd)) = found else { continue };
            if events & (libc::EPOLLERR | libc::EPOLLHUP).unsigned_abs() != 0 {
                each(Happened::Interrupted { token, errno: 0, stopped: false });
            }
            datagrams += self.receive(token, fd, each);
        }
        Ok(datagrams)
    }

    fn receive(&mut self, token: Token, fd: RawFd, each: &mut dyn FnMut(Happened<'_>)) -> usize {
        let Incoming { headers, parts, names, bytes } = &mut *self.incoming;
        for at in 0..BATCH {
            parts[at].iov_base = bytes[at].as_mut_ptr().cast();
            parts[at].iov_len = BUFFER_BYTES;
            let header = &mut headers[at].msg_hdr;
            header.msg_name = (&raw mut names[at]).cast();
            header.msg_namelen =
                libc::socklen_t::try_from(size_of::<libc::sockaddr_storage>()).unwrap_or(0);
            header.msg_iov = &raw mut parts[at];
            header.msg_iovlen = 1;
        }
        let batch = libc::c_uint::try_from(BATCH).unwrap_or(0);
        // SAFETY: BATCH headers, each of which points to a name, a part and a buffer of this box,
        // of the sizes given; nothing else touches them during the call.
        let count = unsafe {
            libc::recvmmsg(
                fd,
                headers.as_mut_ptr(),
                batch,
                libc::MSG_DONTWAIT,
                std::ptr::null_mut(),
            )
        };
        let Ok(count) = usize::try_from(count) else {
            let errno = io::Error::last_os_error().raw_os_error().unwrap_or(0);
            if !matches!(errno, libc::EAGAIN | libc::EINTR) {
                each(Happened::Interrupted { token, errno, stopped: false });
            }
            return 0;
        };
        for at in 0..count.min(BATCH) {
            let length = usize::try_from(headers[at].msg_len).unwrap_or(0).min(BUFFER_BYTES);
            let name = usize::try_from(headers[at].msg_hdr.msg_namelen).unwrap_or(0);
            let source = source(storage_bytes(&names[at], name));
            each(Happened::Datagram { token, source, bytes: &mut bytes[at][..length] });
        }
        count
    }
}

/// The first bytes of an address that the kernel has written.
fn storage_bytes(name: &libc::sockaddr_storage, length: usize) -> &[u8] {
    let length = length.min(size_of::<libc::sockaddr_storage>());
    // SAFETY: the storage was zeroed and then written by the kernel: every byte is initialised; the
    // length is within it; the borrow lives as long as the storage's.
    unsafe { std::slice::from_raw_parts((&raw const *name).cast::<u8>(), length) }
}
