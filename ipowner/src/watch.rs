//! What happens to addresses that are here: events from the kernel and the wire, not polls.
//!
//! Two sockets behind one pollable descriptor: route netlink (links and addresses) and AF_PACKET
//! (ARP of everybody). When the kernel drops netlink messages because nobody read them in time, the
//! whole state is read again and compared, so no loss of an address goes unnoticed.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, BorrowedFd};

use netlink_sys::{Socket, SocketAddr};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};

use crate::arp::{ARP_BYTES, Arp};
use crate::frame::Frames;
use crate::route::{Link, News, Route, news};
use crate::sys::ArpSocket;
use crate::{Address, IpError, Mac};

/// Groups of `linux/rtnetlink.h`.
const RTMGRP_LINK: u32 = 0x1;
const RTMGRP_IPV4_IFADDR: u32 = 0x10;

/// Messages taken from each socket in one call: a flood on the wire must not hold the caller.
const TAKE_MAX: usize = 256;

/// Something happened to a watched address or its interface.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum WatchEvent {
    /// Switched off, without carrier, or gone.
    LinkDown {
        interface: String,
    },
    LinkUp {
        interface: String,
    },
    /// Somebody took the address from its interface, or its coarse life time ran out.
    AddressRemoved {
        ip: Ipv4Addr,
    },
    /// Somebody else says on the wire that he has the address (RFC 5227 section 2.4).
    ForeignClaim {
        ip: Ipv4Addr,
        mac: Mac,
    },
}

/// Watches addresses. Poll its descriptor for readability, then take [`Watch::events`].
#[derive(Debug)]
pub struct Watch {
    epoll: Epoll,
    news: Socket,
    arp: ArpSocket,
    route: Route,
    watched: BTreeMap<Ipv4Addr, Watched>,
    /// By interface index.
    links: BTreeMap<u32, Link>,
    pending: BTreeSet<WatchEvent>,
}

#[derive(Debug)]
struct Watched {
    interface: String,
    index: u32,
    link_up: bool,
    present: bool,
}

impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.0.as_fd()
    }
}

impl Watch {
    /// Begins to listen, watching nothing yet.
    ///
    /// # Errors
    /// No permission (CAP_NET_RAW).
    pub fn new() -> Result<Self, IpError> {
        let open = || -> io::Result<(Epoll, Socket, ArpSocket)> {
            let mut news = Socket::new(netlink_sys::protocols::NETLINK_ROUTE)?;
            news.bind(&SocketAddr::new(0, RTMGRP_LINK | RTMGRP_IPV4_IFADDR))?;
            news.set_non_blocking(true)?;
            let arp = ArpSocket::listener(0)?;
            let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
            epoll.add(&news, EpollEvent::new(EpollFlags::EPOLLIN, 0))?;
            epoll.add(&arp, EpollEvent::new(EpollFlags::EPOLLIN, 1))?;
            Ok((epoll, news, arp))
        };
        let (epoll, news, arp) = open().map_err(|e| IpError::kernel("watching addresses", e))?;
        let mut watch = Self {
            epoll,
            news,
            arp,
            route: Route::open()?,
            watched: BTreeMap::new(),
            links: BTreeMap::new(),
            pending: BTreeSet::new(),
        };
        watch.read_links()?;
        Ok(watch)
    }

    /// Watches an address that has been added. If it or its link is already gone again, that is the
    /// first event.
    ///
    /// # Errors
    /// No such interface.
    pub fn watch(&mut self, address: &Address) -> Result<(), IpError> {
        let link = self.route.link(address.interface())?;
        self.watched.insert(
            address.ip(),
            Watched {
                interface: address.interface().into(),
                index: link.index,
                link_up: true,
                present: true,
            },
        );
        self.compare()
    }

    /// Watches an address no longer; call it before removing one on purpose.
    pub fn unwatch(&mut self, ip: Ipv4Addr) {
        let Some(gone) = self.watched.remove(&ip) else { return };
        let link_watched = self.watched.values().any(|w| w.interface == gone.interface);
        self.pending.retain(|event| match event {
            WatchEvent::AddressRemoved { ip: of } | WatchEvent::ForeignClaim { ip: of, .. } => {
                *of != ip
            }
            WatchEvent::LinkDown { interface } | WatchEvent::LinkUp { interface } => {
                link_watched || *interface != gone.interface
            }
        });
    }

    /// What happened since the last call, each once; never waits.
    ///
    /// # Errors
    /// The sockets failed.
    pub fn events(&mut self) -> Result<Vec<WatchEvent>, IpError> {
        self.take_news()?;
        self.take_claims().map_err(|e| IpError::kernel("listening for ARP", e))?;
        Ok(std::mem::take(&mut self.pending).into_iter().collect())
    }

    fn take_news(&mut self) -> Result<(), IpError> {
        for _ in 0..TAKE_MAX {
            match self.news.recv_from_full() {
                Ok((bytes, from)) if from.port_number() == 0 => {
                    for news in Frames(&bytes).filter_map(|frame| news(&frame)) {
                        self.note(news);
                    }
                }
                Ok(_) => {} // Not from the kernel.
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                // Messages were lost.
                Err(e) if e.raw_os_error() == Some(libc::ENOBUFS) => self.compare()?,
                Err(e) => return Err(IpError::kernel("watching addresses", e)),
            }
        }
        Ok(())
    }

    fn note(&mut self, news: News) {
        match news {
            News::Link(link) => {
                self.note_link(link.index, link.up);
                self.links.insert(link.index, link);
            }
            News::LinkGone(index) => {
                self.note_link(index, false);
                self.links.remove(&index);
            }
            News::Address(assigned) => {
                if let Some(watched) = self.watched.get_mut(&assigned.ip)
                    && watched.index == assigned.interface
                {
                    watched.present = true;
                }
            }
            News::AddressGone(assigned) => {
                if let Some(watched) = self.watched.get_mut(&assigned.ip)
                    && watched.index == assigned.interface
                    && watched.present
                {
                    watched.present = false;
                    self.pending.insert(WatchEvent::AddressRemoved { ip: assigned.ip });
                }
            }
        }
    }

    fn note_link(&mut self, index: u32, up: bool) {
        for watched in self.watched.values_mut().filter(|w| w.index == index && w.link_up != up) {
            watched.link_up = up;
            let interface = watched.interface.clone();
            let (now, before) = if up {
                (
                    WatchEvent::LinkUp { interface: interface.clone() },
                    WatchEvent::LinkDown { interface },
                )
            } else {
                (
                    WatchEvent::LinkDown { interface: interface.clone() },
                    WatchEvent::LinkUp { interface },
                )
            };
            // Only the last state counts; a link that flapped is reported as what it is now.
            self.pending.remove(&before);
            self.pending.insert(now);
        }
    }

    /// Reads the whole state and notes what differs from what was known.
    fn compare(&mut self) -> Result<(), IpError> {
        self.read_links()?;
        let assigned = self.route.addresses()?;
        let indices: BTreeSet<u32> = self.watched.values().map(|w| w.index).collect();
        for index in indices {
            let up = self.links.get(&index).is_some_and(|l| l.up);
            self.note_link(index, up);
        }
        for (&ip, watched) in &mut self.watched {
            let present = assigned.iter().any(|a| a.ip == ip && a.interface == watched.index);
            if watched.present && !present {
                self.pending.insert(WatchEvent::AddressRemoved { ip });
            }
            watched.present = present;
        }
        Ok(())
    }

    fn read_links(&mut self) -> Result<(), IpError> {
        self.links = self.route.links()?.into_iter().map(|l| (l.index, l)).collect();
        Ok(())
    }

    fn take_claims(&mut self) -> io::Result<()> {
        let mut buffer = [0; ARP_BYTES];
        for _ in 0..TAKE_MAX {
            let received = match self.arp.receive(&mut buffer) {
                Ok(Some(received)) => received,
                Ok(None) => break,
                // An interface that goes down leaves this error once on every packet socket.
                Err(e) if e.raw_os_error() == Some(libc::ENETDOWN) => continue,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(e),
            };
            let Some(arp) = Arp::parse(&buffer[..received.length]) else { continue };
            let own = self.links.values().any(|l| l.mac == Some(arp.sender_mac));
            let watched = self.watched.get(&arp.sender_ip);
            if !received.outgoing && !own && watched.is_some_and(|w| w.index == received.interface)
            {
                self.pending
                    .insert(WatchEvent::ForeignClaim { ip: arp.sender_ip, mac: arp.sender_mac });
            }
        }
        Ok(())
    }
}
