//! Packets between service, guard and monitors: one postcard message per SOCK_SEQPACKET packet,
//! bounded, with descriptors beside it where a message carries some.
//!
//! A packet is whole or not there, so there is no framing to lose. What a peer sends is not
//! trusted: a packet that is too long, malformed or of another type is an error, never a panic;
//! the caller then closes the channel. Nothing here waits longer than its caller allows.

mod socket;
#[cfg(test)]
mod tests;

use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use wolfpack_types::codec::{self, DecodeError};

pub use socket::{Listener, Peer};

/// The longest packet.
pub const PACKET_BYTES_MAX: usize = 64 * 1024;

/// A channel that failed. All but [`RpcError::TimedOut`] and [`RpcError::TooLong`] mean that it is
/// of no use any more.
#[derive(Debug, thiserror::Error)]
pub enum RpcError {
    #[error("the other side has closed the channel")]
    Closed,
    #[error("the other side did not take the message within {} ms", .0.as_millis())]
    TimedOut(Duration),
    #[error("a message of {0} bytes does not fit a packet of {PACKET_BYTES_MAX}")]
    TooLong(usize),
    #[error("the other side sent a packet that is longer than {PACKET_BYTES_MAX} bytes")]
    Oversized,
    #[error("the other side sent what is no message")]
    Malformed(#[source] DecodeError),
    #[error("nobody listens on {path}")]
    NobodyListens { path: String },
    #[error("{path} is no path for a Unix socket (at most 107 bytes)")]
    Path { path: String },
    #[error("cannot {act}")]
    Kernel { act: &'static str, source: io::Error },
}

/// A message and the descriptors that came with it.
#[derive(Debug)]
pub struct Received<T> {
    pub message: T,
    pub fds: Vec<OwnedFd>,
}

/// One end of a channel that sends `Tx` and receives `Rx`. Threads may share it: packets of
/// several senders do not mix.
#[derive(Debug)]
pub struct Channel<Tx, Rx> {
    fd: OwnedFd,
    types: PhantomData<fn(Tx) -> Rx>,
}

impl<Tx: Serialize, Rx: DeserializeOwned> Channel<Tx, Rx> {
    /// Two ends.
    ///
    /// # Errors
    /// The kernel gives no sockets.
    pub fn pair() -> Result<(Self, Channel<Rx, Tx>), RpcError> {
        let (a, b) = socket::pair()?;
        Ok((Self { fd: a, types: PhantomData }, Channel { fd: b, types: PhantomData }))
    }

    /// An end that came from elsewhere.
    ///
    /// # Errors
    /// Not a socket of this kind.
    pub fn from_fd(fd: OwnedFd) -> Result<Self, RpcError> {
        socket::check_seqpacket(fd.as_fd())?;
        Ok(Self { fd, types: PhantomData })
    }

    /// Connects to a listener.
    ///
    /// # Errors
    /// Nobody listens there.
    pub fn connect(path: &Path) -> Result<Self, RpcError> {
        Ok(Self { fd: socket::connect(path)?, types: PhantomData })
    }

    /// Sends, waiting at most `patience` for room.
    ///
    /// # Errors
    /// Too long, closed, or no room in time.
    pub fn send(&self, message: &Tx, patience: Duration) -> Result<(), RpcError> {
        self.send_fds(message, &[], patience)
    }

    /// Sends with descriptors; the other side gets copies of its own.
    ///
    /// # Errors
    /// As [`Channel::send`].
    pub fn send_fds(
        &self,
        message: &Tx,
        fds: &[BorrowedFd<'_>],
        patience: Duration,
    ) -> Result<(), RpcError> {
        let bytes = codec::encode(message);
        if bytes.len() > PACKET_BYTES_MAX {
            return Err(RpcError::TooLong(bytes.len()));
        }
        socket::send(self.fd.as_fd(), &bytes, fds, patience)
    }

    /// Receives; `None` when nothing came within `patience` (no patience given: waits for ever).
    ///
    /// # Errors
    /// Closed, or bytes that are no message.
    pub fn recv(&self, patience: Option<Duration>) -> Result<Option<Received<Rx>>, RpcError> {
        let Some((bytes, fds)) = socket::recv(self.fd.as_fd(), patience)? else {
            return Ok(None);
        };
        let message = codec::decode("packet", &bytes).map_err(RpcError::Malformed)?;
        Ok(Some(Received { message, fds }))
    }

    /// Ends the channel for both sides, and wakes whoever waits in [`Channel::recv`].
    pub fn shutdown(&self) {
        socket::shutdown(self.fd.as_fd());
    }

    /// The bare socket, to hand it on.
    #[must_use]
    pub fn into_fd(self) -> OwnedFd {
        self.fd
    }
}

impl<Tx, Rx> AsFd for Channel<Tx, Rx> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
