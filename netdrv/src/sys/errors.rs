//! Options and the error queue of a UDP socket: what nix and socket2 have no words for.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use super::port::source;
use crate::errors::{self, PathError};

/// Errors of one socket that are read in one go.
const ERRORS_MAX: usize = 64;

/// Asks for no fragments: what is longer than the path is refused, and said (IP_PMTUDISC_DO).
pub(crate) fn whole_datagrams_only(socket: BorrowedFd<'_>, v6: bool) -> io::Result<()> {
    let (level, name, value) = if v6 {
        (libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_DO)
    } else {
        (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_DO)
    };
    set(socket, level, name, value)
}

/// Asks for the error queue.
pub(crate) fn queue_errors(socket: BorrowedFd<'_>, v6: bool) -> io::Result<()> {
    let (level, name) = if v6 {
        (libc::IPPROTO_IPV6, libc::IPV6_RECVERR)
    } else {
        (libc::IPPROTO_IP, libc::IP_RECVERR)
    };
    set(socket, level, name, 1)
}

fn set(
    socket: BorrowedFd<'_>,
    level: libc::c_int,
    name: libc::c_int,
    value: libc::c_int,
) -> io::Result<()> {
    let length = libc::socklen_t::try_from(size_of::<libc::c_int>()).unwrap_or(0);
    // SAFETY: the value is an int that outlives the call, of the length given.
    let result = unsafe {
        libc::setsockopt(socket.as_raw_fd(), level, name, (&raw const value).cast(), length)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Takes what waits in the error queue of a socket, up to a bound.
pub(crate) fn take(socket: BorrowedFd<'_>, mut each: impl FnMut(PathError)) {
    for _ in 0..ERRORS_MAX {
        let mut name = [0_u8; size_of::<libc::sockaddr_in6>()];
        // Aligned as control messages are.
        let mut control = [0_u64; 32];
        // Of the datagram itself nothing is wanted.
        let mut part = libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };
        // SAFETY: all fields are integers or pointers, for which zero is a valid value.
        let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
        header.msg_name = name.as_mut_ptr().cast();
        header.msg_namelen = libc::socklen_t::try_from(name.len()).unwrap_or(0);
        header.msg_iov = &raw mut part;
        header.msg_iovlen = 0;
        header.msg_control = control.as_mut_ptr().cast();
        header.msg_controllen = size_of_val(&control);
        let flags = libc::MSG_ERRQUEUE | libc::MSG_DONTWAIT;
        // SAFETY: name and control are writable for the lengths given, no part is given, and all
        // outlive the call.
        let result = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut header, flags) };
        if result < 0 {
            return;
        }
        let named = usize::try_from(header.msg_namelen).unwrap_or(0).min(name.len());
        let length = header.msg_controllen.min(size_of_val(&control));
        let mut bytes = [0_u8; 256];
        for (bytes, word) in bytes.chunks_exact_mut(8).zip(control) {
            bytes.copy_from_slice(&word.to_ne_bytes());
        }
        if let Some(error) = errors::parse(source(&name[..named]), &bytes[..length]) {
            each(error);
        }
    }
}
