//! What both event loops offer, in the same words: receive on sockets, queue datagrams, watch
//! descriptors, wait until something happens or a time has come.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::BorrowedFd;
use std::time::Duration;

use socket2::SockAddr;
use wolfpack_types::config::EventLoop;

use super::epoll::Poller;
use super::uring::Ring;

/// Names one socket of one link: what happens to an earlier socket of the link is not taken for
/// this one's.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub(crate) struct Token {
    pub(crate) link: u8,
    pub(crate) socket: u16,
}

impl Token {
    pub(super) fn to_bits(self) -> u64 {
        u64::from(self.link) | u64::from(self.socket) << 8
    }

    pub(super) fn from_bits(bits: u64) -> Self {
        let [link, low, high, ..] = bits.to_le_bytes();
        Self { link, socket: u16::from_le_bytes([low, high]) }
    }
}

/// What has happened.
#[derive(Debug)]
pub(crate) enum Happened<'a> {
    /// A datagram. Without a source it was neither IPv4 nor IPv6.
    Datagram { token: Token, source: Option<IpAddr>, bytes: &'a mut [u8] },
    /// Receiving on the socket was ended by an error, or an error waits in its queue. On
    /// `stopped` it must be opened again if it is still wanted.
    Interrupted { token: Token, errno: i32, stopped: bool },
    /// A datagram was not taken.
    SendFailed { token: Token, node: u8, errno: i32 },
    /// A watched descriptor has become readable, since it was last read to its end.
    Readable { watched: u8 },
}

/// One of the two.
#[derive(Debug)]
pub(crate) enum Port {
    Uring(Box<Ring>),
    Epoll(Box<Poller>),
}

/// A step of the set-up that failed.
#[derive(Debug)]
pub(crate) struct SetupError {
    pub(crate) step: &'static str,
    pub(crate) source: io::Error,
}

/// Calls the same method of whichever it is.
macro_rules! either {
    ($port:expr, $inner:ident => $call:expr) => {
        match $port {
            Self::Uring($inner) => $call,
            Self::Epoll($inner) => $call,
        }
    };
}

impl Port {
    /// For the calling thread and so many links. `Auto` takes io_uring where it has all that is
    /// needed.
    ///
    /// # Errors
    /// The wanted kind cannot be had.
    pub(crate) fn new(kind: EventLoop, links: u8) -> Result<Self, SetupError> {
        let uring = |links| Ring::new(links).map(|ring| Self::Uring(Box::new(ring)));
        let epoll = || {
            let failed = |source| SetupError { step: "epoll_create", source };
            Poller::new().map(|poller| Self::Epoll(Box::new(poller))).map_err(failed)
        };
        match kind {
            EventLoop::Uring => uring(links),
            EventLoop::Epoll => epoll(),
            EventLoop::Auto => uring(links).or_else(|error| {
                tracing::info!(
                    step = error.step,
                    error = %error.source,
                    "io_uring is not available here: the network driver uses epoll"
                );
                epoll()
            }),
        }
    }

    /// Its name for people.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Uring(_) => "io_uring",
            Self::Epoll(_) => "epoll",
        }
    }

    /// Receives on a socket until [`Port::close`].
    pub(crate) fn open(&mut self, token: Token, socket: BorrowedFd<'_>) -> io::Result<()> {
        either!(self, port => port.open(token, socket))
    }

    /// Receives again after [`Happened::Interrupted`] with `stopped`.
    pub(crate) fn reopen(&mut self, token: Token, socket: BorrowedFd<'_>) -> io::Result<()> {
        match self {
            Self::Uring(ring) => ring.open(token, socket),
            // It never stops.
            Self::Epoll(_) => Ok(()),
        }
    }

    /// Ends receiving.
    pub(crate) fn close(&mut self, token: Token, socket: BorrowedFd<'_>) -> io::Result<()> {
        match self {
            Self::Uring(ring) => ring.close(token),
            Self::Epoll(poller) => poller.close(token, socket),
        }
    }

    /// Waits until nothing of any socket is under way in the kernel any more, for so long at most.
    pub(crate) fn settle(&mut self, longest: Duration) -> io::Result<()> {
        match self {
            Self::Uring(ring) => ring.settle(longest),
            Self::Epoll(_) => Ok(()),
        }
    }

    /// Says [`Happened::Readable`] whenever the descriptor becomes readable.
    pub(crate) fn watch(&mut self, watched: u8, fd: BorrowedFd<'_>) -> io::Result<()> {
        either!(self, port => port.watch(watched, fd))
    }

    /// Queues a datagram; it leaves with the next [`Port::wait`], or now if the queue is full.
    pub(crate) fn send(
        &mut self,
        token: Token,
        socket: BorrowedFd<'_>,
        (to, node): (&SockAddr, u8),
        bytes: &[u8],
    ) -> io::Result<()> {
        either!(self, port => port.send(token, socket, (to, node), bytes))
    }

    /// Sends what is queued, then waits until something has happened or the time is over. Zero
    /// only looks.
    pub(crate) fn wait(&mut self, longest: Duration) -> io::Result<()> {
        either!(self, port => port.wait(longest))
    }

    /// Goes through what has happened, up to a number of datagrams; how many there were. The rest
    /// comes with the next call.
    pub(crate) fn process(&mut self, each: &mut dyn FnMut(Happened<'_>)) -> io::Result<usize> {
        either!(self, port => port.process(each))
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

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::os::fd::AsFd;

    use super::*;
    use crate::sys::errors;

    const PATIENCE: Duration = Duration::from_secs(30);

    fn both(test: impl Fn(Port)) {
        for kind in [EventLoop::Uring, EventLoop::Epoll] {
            test(Port::new(kind, 2).unwrap());
        }
    }

    fn socket() -> (UdpSocket, SockAddr) {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_nonblocking(true).unwrap();
        let address = SockAddr::from(socket.local_addr().unwrap());
        (socket, address)
    }

    /// Turns until the closure is satisfied with what has happened.
    fn turn_until(port: &mut Port, mut satisfied: impl FnMut(Happened<'_>) -> bool) {
        let end = std::time::Instant::now() + PATIENCE;
        let mut done = false;
        while !done {
            assert!(std::time::Instant::now() < end, "{} never said it", port.name());
            port.wait(Duration::from_millis(10)).unwrap();
            port.process(&mut |happened| done |= satisfied(happened)).unwrap();
        }
    }

    #[test]
    fn datagrams_pass_with_their_sender_and_their_length() {
        both(|mut port| {
            let ((one, _), (two, to)) = (socket(), socket());
            let (a, b) = (Token { link: 0, socket: 1 }, Token { link: 1, socket: 7 });
            port.open(a, one.as_fd()).unwrap();
            port.open(b, two.as_fd()).unwrap();
            // More at once than there are slots and buffers, but no more than a socket holds.
            let long = |n: usize| if n.is_multiple_of(50) { 1400 } else { n * 7 % 300 };
            let sizes: Vec<usize> = (0..700).map(long).collect();
            let (mut seen, mut again) = (Vec::new(), false);
            for batch in sizes.chunks(140) {
                for &size in batch {
                    let bytes = vec![u8::try_from(size % 251).unwrap(); size];
                    port.send(a, one.as_fd(), (&to, 2), &bytes).unwrap();
                }
                let wanted = seen.len() + batch.len();
                // The kernel may end receiving at any time.
                while seen.len() < wanted {
                    turn_until(&mut port, |happened| match happened {
                        Happened::Datagram { token, source, bytes } => {
                            assert_eq!((token, source), (b, Some([127, 0, 0, 1].into())));
                            let size = bytes.len();
                            assert!(bytes.iter().all(|&byte| usize::from(byte) == size % 251));
                            seen.push(size);
                            seen.len() == wanted
                        }
                        Happened::Interrupted { token, stopped, .. } => {
                            assert!(stopped && token == b);
                            again = true;
                            true
                        }
                        other => panic!("{other:?}"),
                    });
                    if std::mem::take(&mut again) {
                        port.reopen(b, two.as_fd()).unwrap();
                    }
                }
            }
            assert_eq!(seen, sizes);
        });
    }

    #[test]
    fn a_datagram_is_not_lost_for_an_error_that_another_met() {
        both(|mut port| {
            let ((one, _), (two, to), (gone, nowhere)) = (socket(), socket(), socket());
            drop(gone);
            errors::queue_errors(one.as_fd(), false).unwrap();
            let (a, b) = (Token { link: 0, socket: 1 }, Token { link: 1, socket: 2 });
            port.open(b, two.as_fd()).unwrap();
            for round in 0..50_u8 {
                // Nobody is there, which is told by an ICMP error to whatever is sent next.
                port.send(a, one.as_fd(), (&nowhere, 3), b"to nobody").unwrap();
                port.wait(Duration::ZERO).unwrap();
                port.send(a, one.as_fd(), (&to, 2), &[round]).unwrap();
                turn_until(&mut port, |happened| match happened {
                    Happened::Datagram { bytes, .. } => bytes == [round],
                    Happened::SendFailed { node, errno, .. } => {
                        panic!("to node {node}: errno {errno}")
                    }
                    _ => false,
                });
                let mut told = 0;
                errors::take(one.as_fd(), |error| {
                    assert_eq!(error.errno, libc::ECONNREFUSED);
                    told += 1;
                });
                assert!(told >= 1, "the error of the first is still told of it");
            }
        });
    }

    #[test]
    fn a_watched_descriptor_is_told_each_time_without_being_read() {
        use nix::sys::eventfd::{EfdFlags, EventFd};
        both(|mut port| {
            let event = EventFd::from_flags(EfdFlags::EFD_NONBLOCK).unwrap();
            port.watch(5, event.as_fd()).unwrap();
            for _ in 0..3 {
                event.write(1).unwrap();
                turn_until(&mut port, |happened| {
                    matches!(happened, Happened::Readable { watched: 5 })
                });
            }
        });
    }

    #[test]
    fn a_closed_socket_is_free_once_all_has_settled() {
        both(|mut port| {
            let (one, _) = socket();
            let at = one.local_addr().unwrap();
            let token = Token { link: 0, socket: 1 };
            port.open(token, one.as_fd()).unwrap();
            port.wait(Duration::ZERO).unwrap();
            port.close(token, one.as_fd()).unwrap();
            drop(one);
            port.settle(PATIENCE).unwrap();
            UdpSocket::bind(at).expect("the address is free");
        });
    }
}
