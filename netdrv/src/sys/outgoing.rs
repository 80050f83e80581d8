//! The datagrams that wait to be taken by the kernel: in memory that never moves, with the headers
//! that sendmsg reads. Shared by both event loops; knows nothing of either.

use std::os::fd::RawFd;

use socket2::SockAddr;

use super::port::Token;

/// Datagrams that wait at most: a tick of 64 nodes on two networks, in one system call.
pub(crate) const SLOTS: usize = 128;
/// The longest datagram of any kind of link that is given here.
pub(crate) const SLOT_BYTES: usize = 2048;
/// An error of another datagram's destination (ICMP) is told by whatever send comes next, which is
/// then not carried out: so a send is tried again.
pub(crate) const TRIES: u8 = 3;

/// One datagram.
pub(crate) struct Slot {
    pub(crate) header: libc::msghdr,
    part: libc::iovec,
    name: libc::sockaddr_storage,
    pub(crate) fd: RawFd,
    pub(crate) token: Token,
    /// The number of the node that it goes to.
    pub(crate) node: u8,
    pub(crate) tries: u8,
    /// Counts the uses of the slot.
    pub(crate) generation: u16,
    bytes: [u8; SLOT_BYTES],
}

/// All of them. The box is made once: addresses within stay valid as long as it lives.
pub(crate) struct Outgoing {
    slots: Box<[Slot]>,
    /// Slots from the first on that wait.
    pub(crate) waiting: usize,
}

impl Outgoing {
    pub(crate) fn new() -> Self {
        let empty = || Slot {
            // SAFETY: all fields of these three are integers, arrays of them, or raw pointers, for
            // all of which zero is a valid value.
            header: unsafe { std::mem::zeroed() },
            part: libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 },
            // SAFETY: as above.
            name: unsafe { std::mem::zeroed() },
            fd: -1,
            token: Token::default(),
            node: 0,
            tries: 0,
            generation: 0,
            bytes: [0; SLOT_BYTES],
        };
        Self { slots: (0..SLOTS).map(|_| empty()).collect(), waiting: 0 }
    }

    pub(crate) fn full(&self) -> bool {
        self.waiting == SLOTS
    }

    /// Puts a datagram into the next slot; its number. The caller has seen that there is room.
    ///
    /// # Panics
    /// If there is none.
    pub(crate) fn put(
        &mut self,
        fd: RawFd,
        token: Token,
        node: u8,
        to: &SockAddr,
        bytes: &[u8],
    ) -> usize {
        let number = self.waiting;
        let slot = &mut self.slots[number];
        self.waiting += 1;
        let length = bytes.len().min(SLOT_BYTES);
        slot.bytes[..length].copy_from_slice(&bytes[..length]);
        // SAFETY: a SockAddr begins with `len` initialised bytes of an address, and the storage is as
        // large as any.
        unsafe {
            std::ptr::copy_nonoverlapping(
                to.as_ptr().cast::<u8>(),
                (&raw mut slot.name).cast::<u8>(),
                usize::try_from(to.len()).unwrap_or(0).min(size_of::<libc::sockaddr_storage>()),
            );
        }
        slot.part.iov_base = slot.bytes.as_mut_ptr().cast();
        slot.part.iov_len = length;
        slot.header.msg_name = (&raw mut slot.name).cast();
        slot.header.msg_namelen = to.len();
        slot.header.msg_iov = &raw mut slot.part;
        slot.header.msg_iovlen = 1;
        slot.fd = fd;
        slot.token = token;
        slot.node = node;
        slot.tries = 0;
        slot.generation = slot.generation.wrapping_add(1);
        number
    }

    /// The socket of a slot.
    pub(crate) fn fd(&self, number: u8) -> RawFd {
        self.slots.get(usize::from(number)).map_or(-1, |slot| slot.fd)
    }

    pub(crate) fn get(&mut self, number: usize) -> Option<&mut Slot> {
        self.slots.get_mut(number)
    }
}

/// Whether a send that failed so may have failed for what another datagram met.
pub(crate) fn maybe_of_another(errno: i32) -> bool {
    matches!(
        errno,
        libc::ECONNREFUSED
            | libc::EHOSTUNREACH
            | libc::ENETUNREACH
            | libc::EHOSTDOWN
            | libc::EPROTO
            | libc::ENOPROTOOPT
            | libc::EOPNOTSUPP
            | libc::EACCES
            | libc::EMSGSIZE
    )
}
