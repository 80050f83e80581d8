//! AF_PACKET sockets for ARP: the one place of this crate with `unsafe`, because no kept library
//! makes a `sockaddr_ll`.
//!
//! Such a socket is outside the packet filter: what is sent here is not dropped by the address
//! filter, so callers check the lease first.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};

use socket2::{Domain, Protocol, SockAddr, SockAddrStorage, Socket, Type};

use crate::Mac;

const ETH_P_ARP: u16 = 0x0806;

/// A received packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Received {
    pub(crate) interface: u32,
    /// Sent by this machine through that interface.
    pub(crate) outgoing: bool,
    /// Bytes written to the buffer.
    pub(crate) length: usize,
}

/// Sends and receives ARP packets without their Ethernet header.
#[derive(Debug)]
pub(crate) struct ArpSocket(Socket);

impl ArpSocket {
    /// Only sends: the kernel gives it nothing.
    pub(crate) fn sender() -> io::Result<Self> {
        Socket::new(Domain::PACKET, Type::DGRAM, Some(Protocol::from(0))).map(Self)
    }

    /// Receives from one interface, or from all with index 0; never blocks.
    pub(crate) fn listener(interface: u32) -> io::Result<Self> {
        // Protocol 0 first, so that nothing of other interfaces comes before the bind.
        let socket = Self::sender()?;
        socket.0.bind(&address(interface, Mac::ZERO)?)?;
        socket.0.set_nonblocking(true)?;
        Ok(socket)
    }

    /// Sends one packet to a neighbour or to all.
    pub(crate) fn send(&self, interface: u32, to: Mac, packet: &[u8]) -> io::Result<()> {
        self.0.send_to(packet, &address(interface, to)?).map(drop)
    }

    /// Receives one packet, `None` if none waits; longer ones are cut.
    pub(crate) fn receive(&self, buffer: &mut [u8]) -> io::Result<Option<Received>> {
        let mut room = [MaybeUninit::uninit(); 128];
        let take = buffer.len().min(room.len());
        let (length, from) = match self.0.recv_from(&mut room[..take]) {
            Ok(received) => received,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            Err(e) => return Err(e),
        };
        let length = length.min(take);
        for (to, from) in buffer.iter_mut().zip(&room[..length]) {
            // SAFETY: `recv_from` has initialised the first `length` bytes of `room`, and only
            // these are visited.
            *to = unsafe { from.assume_init() };
        }
        if from.len() < size_of_ll() || from.family() != AF_PACKET {
            return Err(io::Error::other("a packet socket gave an address of another family"));
        }
        // SAFETY: the storage behind `as_ptr` is a whole `sockaddr_storage`, larger and at least as
        // strictly aligned as `sockaddr_ll`; the kernel filled it as AF_PACKET, checked above.
        let ll = unsafe { &*from.as_ptr().cast::<libc::sockaddr_ll>() };
        let interface = u32::try_from(ll.sll_ifindex)
            .map_err(|_| io::Error::other("a negative interface index"))?;
        Ok(Some(Received { interface, outgoing: ll.sll_pkttype == libc::PACKET_OUTGOING, length }))
    }
}

impl AsFd for ArpSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[expect(clippy::cast_possible_truncation, reason = "the constant 17 fits")]
const AF_PACKET: libc::sa_family_t = libc::AF_PACKET as libc::sa_family_t;

#[expect(clippy::cast_possible_truncation, reason = "20 bytes")]
const fn size_of_ll() -> libc::socklen_t {
    size_of::<libc::sockaddr_ll>() as libc::socklen_t
}

const _: () = assert!(size_of::<libc::sockaddr_ll>() <= size_of::<SockAddrStorage>());

fn address(interface: u32, mac: Mac) -> io::Result<SockAddr> {
    let index = i32::try_from(interface)
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "interface index too large"))?;
    let mut storage = SockAddrStorage::zeroed();
    // SAFETY: `sockaddr_ll` fits into the storage (asserted above), is valid for every bit pattern,
    // and starts with the family as every socket address does.
    let ll = unsafe { storage.view_as::<libc::sockaddr_ll>() };
    ll.sll_family = AF_PACKET;
    ll.sll_protocol = ETH_P_ARP.to_be();
    ll.sll_ifindex = index;
    ll.sll_halen = 6;
    ll.sll_addr[..6].copy_from_slice(&mac.0);
    // SAFETY: the storage holds a `sockaddr_ll` of that length, written just above.
    Ok(unsafe { SockAddr::new(storage, size_of_ll()) })
}
