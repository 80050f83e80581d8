//! The few system calls of the lab that have no safe wrapper: entering a network namespace before
//! `exec`, unblocking signals there, and packet sockets. Nothing else is unsafe here.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::sched::{CloneFlags, setns};
use nix::sys::signal::SigSet;

/// Makes `command` start with no signal blocked: a blocked one would be inherited, and a program that
/// waits for its signals in a thread (as `xtask` does) blocks them.
pub(crate) fn unblock_signals(command: &mut Command) {
    let unblock = || SigSet::empty().thread_set_mask().map_err(io::Error::from);
    // SAFETY: between fork and exec only `pthread_sigmask` is called, which is async-signal-safe.
    unsafe {
        command.pre_exec(unblock);
    }
}

/// Makes `command` start in the network namespace `netns`.
pub(crate) fn spawn_in(command: &mut Command, netns: File) {
    let enter = move || {
        setns(netns.as_fd(), CloneFlags::CLONE_NEWNET).map_err(io::Error::from)?;
        Ok(())
    };
    // SAFETY: between fork and exec only `setns` is called, a plain system call that is
    // async-signal-safe and allocates nothing; the descriptor is owned by the closure.
    unsafe {
        command.pre_exec(enter);
    }
}

/// Makes `command` the leader of a new session, so that a Ctrl-C of the terminal does not reach it.
pub(crate) fn new_session(command: &mut Command) {
    let detach = || {
        nix::unistd::setsid().map_err(io::Error::from)?;
        Ok(())
    };
    // SAFETY: only `setsid` is called between fork and exec; it is async-signal-safe.
    unsafe {
        command.pre_exec(detach);
    }
}

/// A raw socket for whole Ethernet frames of one type.
#[derive(Debug)]
pub(crate) struct PacketSocket {
    fd: OwnedFd,
}

impl PacketSocket {
    /// Opens it on an interface of the calling thread's network namespace, for an Ethernet type.
    ///
    /// # Errors
    /// No such interface, or no right to open packet sockets (CAP_NET_RAW).
    pub(crate) fn open(interface: &str, ethertype: u16) -> io::Result<Self> {
        let ethertype = ethertype.to_be();
        let index = nix::net::if_::if_nametoindex(interface).map_err(io::Error::from)?;
        let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        // SAFETY: socket() takes no pointer; a failure is -1.
        let raw = unsafe { libc::socket(libc::AF_PACKET, kind, i32::from(ethertype)) };
        if raw < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: `raw` was just returned by socket() and is owned by nobody else.
        let fd = unsafe { OwnedFd::from_raw_fd(raw) };
        // SAFETY: sockaddr_ll is plain data, for which all zeroes is a valid value.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = u16::try_from(libc::AF_PACKET).unwrap_or(0);
        address.sll_protocol = ethertype;
        address.sll_ifindex = i32::try_from(index).unwrap_or(0);
        let len = u32::try_from(size_of::<libc::sockaddr_ll>()).unwrap_or(0);
        // SAFETY: the pointer is to a living sockaddr_ll of exactly `len` bytes.
        let done = unsafe { libc::bind(fd.as_raw_fd(), (&raw const address).cast(), len) };
        if done < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Self { fd })
    }

    /// Sends one whole frame.
    pub(crate) fn send(&self, frame: &[u8]) -> io::Result<()> {
        nix::unistd::write(&self.fd, frame).map_err(io::Error::from)?;
        Ok(())
    }

    /// Takes one frame, or `WouldBlock`.
    pub(crate) fn receive(&self, frame: &mut [u8]) -> io::Result<usize> {
        nix::unistd::read(&self.fd, frame).map_err(io::Error::from)
    }
}

impl AsFd for PacketSocket {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
