//! The sockets under the channels: sending, receiving and listening, with deadlines.

use std::fs;
use std::io::{self, ErrorKind, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::sockopt::{PeerCredentials, SockType as SockTypeOption};
use nix::sys::socket::{
    AddressFamily, Backlog, ControlMessage, ControlMessageOwned, MsgFlags, Shutdown, SockFlag,
    SockType, UnixAddr, bind, connect as nix_connect, getsockopt, listen, recvmsg, sendmsg, socket,
    socketpair,
};
use wolfpack_types::Instant;

use super::{PACKET_BYTES_MAX, RpcError};
use crate::{boottime, sys};

/// The kernel passes at most this many descriptors with one packet (SCM_MAX_FD): with room for
/// all of them none can be cut off and leak.
const FDS_MAX: usize = 253;

fn kernel(act: &'static str) -> impl Fn(Errno) -> RpcError {
    move |e| RpcError::Kernel { act, source: e.into() }
}

fn seqpacket() -> Result<OwnedFd, RpcError> {
    socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None)
        .map_err(kernel("create a Unix socket"))
}

fn address(path: &Path) -> Result<UnixAddr, RpcError> {
    UnixAddr::new(path).map_err(|_| RpcError::Path { path: path.display().to_string() })
}

pub(super) fn pair() -> Result<(OwnedFd, OwnedFd), RpcError> {
    socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)
        .map_err(kernel("create a pair of Unix sockets"))
}

pub(super) fn check_seqpacket(fd: BorrowedFd<'_>) -> Result<(), RpcError> {
    match getsockopt(&fd, SockTypeOption) {
        Ok(SockType::SeqPacket) => Ok(()),
        Ok(_) => Err(RpcError::Kernel {
            act: "use the descriptor as a channel",
            source: io::Error::from(ErrorKind::InvalidInput),
        }),
        Err(e) => Err(kernel("use the descriptor as a channel")(e)),
    }
}

pub(super) fn connect(path: &Path) -> Result<OwnedFd, RpcError> {
    let fd = seqpacket()?;
    nix_connect(fd.as_raw_fd(), &address(path)?).map_err(|e| match e {
        Errno::ENOENT | Errno::ECONNREFUSED => {
            RpcError::NobodyListens { path: path.display().to_string() }
        }
        e => kernel("connect a Unix socket")(e),
    })?;
    Ok(fd)
}

pub(super) fn shutdown(fd: BorrowedFd<'_>) {
    // An error says that the other side is gone already, which is what is wanted.
    let _ = nix::sys::socket::shutdown(fd.as_raw_fd(), Shutdown::Both);
}

/// Waits until `deadline` (none: for ever); false when it has passed.
fn wait(fd: BorrowedFd<'_>, flags: PollFlags, deadline: Option<Instant>) -> Result<bool, RpcError> {
    loop {
        let left = deadline.map(|d| d.since(boottime()));
        let timeout = match left {
            None => PollTimeout::NONE,
            // Rounded up: a wait that ends early would spin.
            Some(left) => PollTimeout::try_from(left.as_millis().saturating_add(1))
                .unwrap_or(PollTimeout::MAX),
        };
        match poll(&mut [PollFd::new(fd, flags)], timeout) {
            Ok(0) if deadline.is_none_or(|d| boottime() < d) => {}
            Ok(0) => return Ok(false),
            Ok(_) => return Ok(true),
            Err(Errno::EINTR) => {}
            Err(e) => return Err(kernel("wait for a Unix socket")(e)),
        }
    }
}

pub(super) fn send(
    fd: BorrowedFd<'_>,
    bytes: &[u8],
    fds: &[BorrowedFd<'_>],
    patience: Duration,
) -> Result<(), RpcError> {
    let raw: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&raw)];
    let control: &[ControlMessage<'_>] = if raw.is_empty() { &[] } else { &rights };
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
    let deadline = boottime() + patience;
    loop {
        match sendmsg::<()>(fd.as_raw_fd(), &[IoSlice::new(bytes)], control, flags, None) {
            Ok(_) => return Ok(()),
            Err(Errno::EINTR) => {}
            Err(Errno::EAGAIN) => {
                if patience.is_zero() || !wait(fd, PollFlags::POLLOUT, Some(deadline))? {
                    return Err(RpcError::TimedOut(patience));
                }
            }
            Err(Errno::EPIPE | Errno::ECONNRESET | Errno::ENOTCONN) => {
                return Err(RpcError::Closed);
            }
            Err(e) => return Err(kernel("send to a Unix socket")(e)),
        }
    }
}

type Packet = (Vec<u8>, Vec<OwnedFd>);

pub(super) fn recv(
    fd: BorrowedFd<'_>,
    patience: Option<Duration>,
) -> Result<Option<Packet>, RpcError> {
    let deadline = patience.map(|p| boottime() + p);
    loop {
        match recv_now(fd) {
            Ok(packet) => return Ok(Some(packet)),
            Err(None) => {
                if !wait(fd, PollFlags::POLLIN, deadline)? {
                    return Ok(None);
                }
            }
            Err(Some(e)) => return Err(e),
        }
    }
}

/// What is there now; `Err(None)`: nothing.
fn recv_now(fd: BorrowedFd<'_>) -> Result<Packet, Option<RpcError>> {
    let mut bytes = vec![0; PACKET_BYTES_MAX];
    let mut control = nix::cmsg_space!([RawFd; FDS_MAX]);
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC;
    let mut iov = [IoSliceMut::new(&mut bytes)];
    let (len, truncated, fds) =
        match recvmsg::<()>(fd.as_raw_fd(), &mut iov, Some(&mut control), flags) {
            Ok(message) => {
                let mut fds = Vec::new();
                for c in message.cmsgs().map_err(|e| Some(kernel("read a descriptor")(e)))? {
                    if let ControlMessageOwned::ScmRights(raw) = c {
                        fds.extend(raw.into_iter().map(sys::own));
                    }
                }
                (message.bytes, message.flags.contains(MsgFlags::MSG_TRUNC), fds)
            }
            Err(Errno::EAGAIN | Errno::EINTR) => return Err(None),
            Err(Errno::ECONNRESET) => return Err(Some(RpcError::Closed)),
            Err(e) => return Err(Some(kernel("receive from a Unix socket")(e))),
        };
    if truncated {
        return Err(Some(RpcError::Oversized));
    }
    // An empty packet looks the same as the end; no message is empty.
    if len == 0 {
        return Err(Some(RpcError::Closed));
    }
    bytes.truncate(len);
    Ok((bytes, fds))
}

/// Who is at the other end of an accepted socket.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Peer {
    pub pid: i32,
    pub uid: u32,
}

/// Listens for channels; removes its socket file when dropped.
#[derive(Debug)]
pub struct Listener {
    fd: OwnedFd,
    path: PathBuf,
}

impl Listener {
    /// Listens on `path`, for the owner only. A socket file of a dead process is replaced; the
    /// caller has made sure (by a lock) that no living one uses it.
    ///
    /// # Errors
    /// A path that is too long or cannot be used.
    pub fn bind(path: &Path) -> Result<Self, RpcError> {
        let fail = |act| move |source| RpcError::Kernel { act, source };
        match fs::remove_file(path) {
            Err(e) if e.kind() != ErrorKind::NotFound => {
                return Err(fail("remove an old Unix socket")(e));
            }
            _ => {}
        }
        let fd = seqpacket()?;
        bind(fd.as_raw_fd(), &address(path)?).map_err(kernel("bind a Unix socket"))?;
        let owner_only = fs::Permissions::from_mode(0o600);
        fs::set_permissions(path, owner_only).map_err(fail("restrict a Unix socket"))?;
        let backlog = Backlog::new(16).map_err(kernel("listen"))?;
        listen(&fd, backlog).map_err(kernel("listen on a Unix socket"))?;
        Ok(Self { fd, path: path.into() })
    }

    /// Accepts one connection; call when readable.
    ///
    /// # Errors
    /// The kernel refuses, or the connection is gone again.
    pub fn accept(&self) -> Result<(OwnedFd, Peer), RpcError> {
        let raw = nix::sys::socket::accept4(self.fd.as_raw_fd(), SockFlag::SOCK_CLOEXEC)
            .map_err(kernel("accept a connection"))?;
        let fd = sys::own(raw);
        let credentials =
            getsockopt(&fd, PeerCredentials).map_err(kernel("ask who has connected"))?;
        Ok((fd, Peer { pid: credentials.pid(), uid: credentials.uid() }))
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // At the end of the process; a file that stays is replaced at the next start.
        let _ = fs::remove_file(&self.path);
    }
}
