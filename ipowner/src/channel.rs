//! A netlink socket on which one asks the kernel and waits for its answer. Not for subscriptions:
//! see `watch`.

use std::io;
use std::time::Duration;

use netlink_sys::{Socket, SocketAddr};
use socket2::SockRef;

use crate::IpError;
use crate::frame::{Frame, Frames, Kind, NLM_F_DUMP_INTR};

/// The kernel answers within microseconds unless it is out of memory; longer means "broken".
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// How often a dump is asked for again when changes disturb it.
const DUMP_TRIES: usize = 5;

/// What ends the answer to a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Ends {
    /// So many acknowledgements, one for each of the sequence numbers after the first (a
    /// transaction, whose first number belongs to its beginning) or for the only one.
    Acks(u32),
    /// The end of a dump.
    Dump,
}

/// A socket of one netlink protocol, in the network namespace of the thread that made it.
#[derive(Debug)]
pub(crate) struct Channel {
    socket: Socket,
    kernel: SocketAddr,
    what: &'static str,
    seq: u32,
}

impl Channel {
    /// Opens a socket; `what` names it in errors.
    pub(crate) fn open(protocol: isize, what: &'static str) -> Result<Self, IpError> {
        let open = || -> io::Result<Socket> {
            let mut socket = Socket::new(protocol)?;
            socket.bind_auto()?;
            SockRef::from(&socket).set_read_timeout(Some(ANSWER_WITHIN))?;
            Ok(socket)
        };
        let socket = open().map_err(|e| IpError::kernel(what, e))?;
        Ok(Self { socket, kernel: SocketAddr::new(0, 0), what, seq: 0 })
    }

    /// Asks, and gives each data message of the answer to `read`. `request` gets the first sequence
    /// number. The error of the kernel comes as the `Err` of the inner result.
    ///
    /// # Errors
    /// Outer: the socket failed or the kernel stayed silent.
    pub(crate) fn ask(
        &mut self,
        ends: Ends,
        request: impl Fn(u32) -> Vec<u8>,
        mut read: impl FnMut(&Frame<'_>),
    ) -> Result<Result<(), io::Error>, IpError> {
        let first = self.seq.wrapping_add(1);
        let span = if let Ends::Acks(acks) = ends { acks } else { 0 };
        self.seq = first.wrapping_add(span.saturating_add(1));
        self.socket
            .send_to(&request(first), &self.kernel, 0)
            .map_err(|e| IpError::kernel(self.what, e))?;
        let mut acks = 0;
        let mut refused: Option<i32> = None;
        let mut disturbed = false;
        loop {
            let (bytes, from) = self.receive()?;
            if from.port_number() != 0 {
                continue; // Only the kernel is believed.
            }
            for frame in Frames(&bytes) {
                // What is left of an earlier request that failed half way.
                if frame.seq.wrapping_sub(first) > span {
                    continue;
                }
                disturbed |= frame.flags & NLM_F_DUMP_INTR != 0;
                match frame.kind {
                    Kind::Data(_) => read(&frame),
                    Kind::Ack(0) => acks += 1,
                    Kind::Ack(errno) => {
                        acks += 1;
                        refused.get_or_insert(errno);
                        // A dump, or a transaction that was refused as a whole.
                        if ends == Ends::Dump || (span > 1 && frame.seq == first) {
                            return Ok(Err(io::Error::from_raw_os_error(errno)));
                        }
                    }
                    Kind::Done if disturbed => {
                        return Ok(Err(io::Error::from_raw_os_error(libc::EINTR)));
                    }
                    Kind::Done => return Ok(Ok(())),
                }
                if matches!(ends, Ends::Acks(wanted) if acks >= wanted) {
                    return Ok(refused.map_or(Ok(()), |e| Err(io::Error::from_raw_os_error(e))));
                }
            }
        }
    }

    /// Asks for a dump and collects what `read` makes of it, again when changes disturb it.
    pub(crate) fn dump<T>(
        &mut self,
        request: impl Fn(u32) -> Vec<u8>,
        read: impl Fn(&Frame<'_>, &mut Vec<T>),
    ) -> Result<Result<Vec<T>, io::Error>, IpError> {
        let mut tries = 0;
        loop {
            tries += 1;
            let mut found = Vec::new();
            match self.ask(Ends::Dump, &request, |frame| read(frame, &mut found))? {
                Ok(()) => return Ok(Ok(found)),
                Err(e) if e.raw_os_error() == Some(libc::EINTR) && tries < DUMP_TRIES => {}
                Err(e) => return Ok(Err(e)),
            }
        }
    }

    fn receive(&self) -> Result<(Vec<u8>, SocketAddr), IpError> {
        loop {
            match self.socket.recv_from_full() {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(IpError::kernel(self.what, e)),
                Ok(received) => return Ok(received),
            }
        }
    }
}
