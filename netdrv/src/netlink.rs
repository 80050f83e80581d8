//! The netlink socket on which the kernel tells of links and addresses. Non-blocking, in the event
//! loop; after a loss of messages everything is asked for again.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recvfrom, sendto,
    socket,
};

use crate::interfaces::{Interfaces, Look, RTM_GETADDR, RTM_GETLINK, dump_request};

/// RTMGRP_LINK, RTMGRP_IPV4_IFADDR, RTMGRP_IPV6_IFADDR of linux/rtnetlink.h.
const GROUPS: u32 = 0x1 | 0x10 | 0x100;
/// Buffers read in one go.
const READS_MAX: usize = 64;
/// The kernel fills up to this in one message of a dump.
const BUFFER_BYTES: usize = 32 << 10;

/// How far the picture is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    /// Links are being told, then addresses; what is known is of before.
    Links,
    Addresses,
    /// The picture is whole, and kept so.
    Whole,
}

/// Follows the machine's interfaces.
#[derive(Debug)]
pub(crate) struct Netlink {
    socket: OwnedFd,
    phase: Phase,
    /// Grows while everything is told anew.
    next: Interfaces,
    /// The last whole picture.
    whole: Option<Interfaces>,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Netlink {
    /// In the network namespace of the calling thread; asks for everything.
    ///
    /// # Errors
    /// No netlink (a seccomp filter): then interfaces are looked for from time to time.
    pub(crate) fn new() -> io::Result<Self> {
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        let kind = SockType::Raw;
        let socket = socket(AddressFamily::Netlink, kind, flags, SockProtocol::NetlinkRoute)?;
        bind(socket.as_raw_fd(), &NetlinkAddr::new(0, GROUPS))?;
        let mut new = Self {
            socket,
            phase: Phase::Links,
            next: Interfaces::default(),
            whole: None,
            sequence: 0,
            buffer: vec![0; BUFFER_BYTES],
        };
        new.ask(Phase::Links)?;
        Ok(new)
    }

    fn ask(&mut self, phase: Phase) -> io::Result<()> {
        let kind = if phase == Phase::Links { RTM_GETLINK } else { RTM_GETADDR };
        self.phase = phase;
        self.sequence = self.sequence.wrapping_add(1);
        let request = dump_request(kind, self.sequence);
        let length = usize::from(request[0]);
        let kernel = NetlinkAddr::new(0, 0);
        sendto(self.socket.as_raw_fd(), &request[..length], &kernel, MsgFlags::empty())?;
        Ok(())
    }

    /// From the beginning: messages were lost.
    fn again(&mut self) -> io::Result<()> {
        self.next = Interfaces::default();
        self.ask(Phase::Links)
    }

    /// Reads what the kernel has told. Whether everything was read.
    ///
    /// # Errors
    /// The socket failed.
    pub(crate) fn read(&mut self) -> io::Result<bool> {
        for _ in 0..READS_MAX {
            match recvfrom::<NetlinkAddr>(self.socket.as_raw_fd(), &mut self.buffer) {
                Ok((length, from)) => {
                    // Any process may write to a netlink socket; only the kernel has number 0.
                    if from.is_some_and(|from| from.pid() == 0) {
                        self.take(length)?;
                    }
                }
                Err(Errno::EAGAIN) => return Ok(true),
                Err(Errno::EINTR) => {}
                Err(Errno::ENOBUFS) => self.again()?,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(false)
    }

    fn take(&mut self, length: usize) -> io::Result<()> {
        let bytes = self.buffer.get(..length).unwrap_or_default();
        if let (Phase::Whole, Some(whole)) = (self.phase, &mut self.whole) {
            whole.take(bytes);
            return Ok(());
        }
        let taken = self.next.take(bytes);
        if taken.spoilt {
            return self.again();
        }
        match (taken.done, self.phase) {
            (true, Phase::Links) => self.ask(Phase::Addresses),
            (true, _) => {
                self.whole = Some(std::mem::take(&mut self.next));
                self.phase = Phase::Whole;
                Ok(())
            }
            (false, _) => Ok(()),
        }
    }

    /// How an interface and an address on it look; None before the kernel has told everything once.
    pub(crate) fn look(&self, name: &str, address: std::net::IpAddr) -> Option<Look> {
        self.whole.as_ref().map(|whole| whole.look(name, address))
    }
}

impl AsFd for Netlink {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
