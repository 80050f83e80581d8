//! Duplicate detection before an address is taken (RFC 5227 section 2.1.1), with shorter waits:
//! two probes 100 ms apart and 150 ms of listening after the last. A failover must not take the
//! seconds of the RFC; a host on a cluster's network answers within milliseconds.

use std::io;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::os::fd::AsFd;

use crate::arp::{ARP_BYTES, Arp};
use crate::route::send_error;
use crate::sys::ArpSocket;
use crate::{Address, IpError, Mac};

/// When the probes are sent, and when listening ends.
const PROBES: [Duration; 2] = [Duration::ZERO, Duration::from_millis(100)];
const LISTEN: Duration = Duration::from_millis(250);

/// What probing has shown.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ProbeOutcome {
    /// Nobody answered.
    Free,
    /// Somebody has the address, or is probing for it at this moment too.
    InUse {
        /// Who.
        mac: Mac,
    },
}

/// Probes on an interface that has the hardware address `own`; answers of this machine itself,
/// through any of its interfaces (`own_all`), do not count.
pub(crate) fn probe(
    address: &Address,
    interface: u32,
    own: Mac,
    own_all: &[Mac],
) -> Result<ProbeOutcome, IpError> {
    let fail = |e: io::Error| send_error(address.interface(), "probing for an address", e);
    let socket = ArpSocket::listener(interface).map_err(fail)?;
    let packet = Arp::probe(own, address.ip()).to_bytes();
    let start = Instant::now();
    let mut unsent = PROBES.iter();
    let mut next = unsent.next();
    loop {
        let passed = start.elapsed();
        if let Some(_due) = next.filter(|&&at| at <= passed) {
            socket.send(interface, Mac::BROADCAST, &packet).map_err(fail)?;
            next = unsent.next();
            continue;
        }
        if let Some(mac) = hear(&socket, address, own_all).map_err(fail)? {
            return Ok(ProbeOutcome::InUse { mac });
        }
        // Listening ends a full interval after the last probe, even if that one was late.
        let until = next.copied().unwrap_or(LISTEN);
        if passed >= until {
            return Ok(ProbeOutcome::Free);
        }
        let wait = u16::try_from((until - passed).as_millis() + 1).unwrap_or(u16::MAX);
        let mut fds = [PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, PollTimeout::from(wait)) {
            Ok(_) | Err(nix::Error::EINTR) => {}
            Err(e) => return Err(fail(e.into())),
        }
    }
}

/// Reads what waits, until a conflict.
fn hear(socket: &ArpSocket, address: &Address, own: &[Mac]) -> io::Result<Option<Mac>> {
    let mut buffer = [0; ARP_BYTES];
    while let Some(received) = socket.receive(&mut buffer)? {
        let Some(arp) = Arp::parse(&buffer[..received.length]) else { continue };
        let conflict = arp.claims(address.ip()) || arp.probes_for(address.ip());
        if conflict && !received.outgoing && !own.contains(&arp.sender_mac) {
            return Ok(Some(arp.sender_mac));
        }
    }
    Ok(None)
}
