//! The socket of one network: bound to its interface, address and port, and to be had again when
//! they went away.

use std::io;
use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::os::fd::{AsFd, BorrowedFd};

use nix::net::if_::if_nametoindex;
use nix::sys::socket::{setsockopt, sockopt};
use socket2::{Domain, Protocol, SockAddr, SockFilter, Socket, Type};

use crate::sys::errors;

/// Holds what 64 peers may send while the thread is kept from running.
const RECEIVE_BUFFER_BYTES: usize = 4 << 20;

/// A socket that is bound.
#[derive(Debug)]
pub(crate) struct NetworkSocket {
    socket: Socket,
    port: u16,
    /// The interface at the time of binding; another one of the same name is not it.
    index: u32,
}

/// Why there is no socket.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BindError {
    #[error("interface '{interface}' does not exist")]
    NoInterface { interface: String },
    #[error("this node does not have the address {address}")]
    NoAddress { address: IpAddr },
    #[error("UDP port {port} of {address} is in use")]
    PortInUse { address: IpAddr, port: u16 },
    #[error("{step}: {source}")]
    System { step: &'static str, source: io::Error },
}

impl NetworkSocket {
    /// Binds, alone: not shared with another process.
    pub(crate) fn bind(interface: &str, address: IpAddr, port: u16) -> Result<Self, BindError> {
        let system = |step| move |source| BindError::System { step, source };
        let index = if_nametoindex(interface)
            .map_err(|_| BindError::NoInterface { interface: interface.into() })?;
        let socket = Socket::new(
            Domain::for_address(SocketAddr::new(address, port)),
            Type::DGRAM.nonblocking().cloexec(),
            Some(Protocol::UDP),
        )
        .map_err(system("cannot make a socket"))?;
        // Beyond the system's limit where allowed, else as far as it goes.
        if setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_BUFFER_BYTES).is_err() {
            let result = socket.set_recv_buffer_size(RECEIVE_BUFFER_BYTES);
            result.map_err(system("cannot size the receive buffer"))?;
        }
        if let Err(source) = socket.bind_device(Some(interface.as_bytes())) {
            // Without CAP_NET_RAW (before Linux 5.7) the routes decide which interface is used.
            if source.raw_os_error() != Some(libc::EPERM) {
                return Err(BindError::System { step: "cannot bind to the interface", source });
            }
            tracing::warn!(
                interface,
                "not allowed to bind the socket to its interface: datagrams take the interface \
                 that the routing table gives"
            );
        }
        if address.is_ipv6() {
            let result = socket.set_only_v6(true);
            result.map_err(system("cannot make an IPv6 socket"))?;
        }
        let fd = socket.as_fd();
        errors::queue_errors(fd, address.is_ipv6()).map_err(system("cannot ask for errors"))?;
        errors::whole_datagrams_only(fd, address.is_ipv6())
            .map_err(system("cannot forbid fragments"))?;
        let here = SockAddr::from(place(address, port, index));
        socket.bind(&here).map_err(|source| match source.raw_os_error() {
            Some(libc::EADDRINUSE) => BindError::PortInUse { address, port },
            Some(libc::EADDRNOTAVAIL) => BindError::NoAddress { address },
            _ => BindError::System { step: "cannot bind", source },
        })?;
        Ok(Self { socket, port, index })
    }

    /// Whether the interface it was bound to is still the one of this name.
    pub(crate) fn stands(&self, interface: &str) -> bool {
        if_nametoindex(interface).is_ok_and(|index| index == self.index)
    }

    /// A peer's address and the cluster port, as reached from here: a link-local address is one of
    /// this interface.
    pub(crate) fn place(&self, address: IpAddr) -> SockAddr {
        place(address, self.port, self.index).into()
    }

    /// The interface it was bound to.
    pub(crate) fn index(&self) -> u32 {
        self.index
    }

    /// Has the kernel refuse what a program refuses.
    pub(crate) fn attach(&self, program: &[SockFilter]) -> io::Result<()> {
        self.socket.attach_filter(program)
    }

    /// Ends that.
    pub(crate) fn detach(&self) -> io::Result<()> {
        self.socket.detach_filter()
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// An address and port; a link-local address is one of this interface.
fn place(address: IpAddr, port: u16, interface: u32) -> SocketAddr {
    match address {
        IpAddr::V6(v6) if v6.is_unicast_link_local() => {
            SocketAddrV6::new(v6, port, 0, interface).into()
        }
        _ => SocketAddr::new(address, port),
    }
}
