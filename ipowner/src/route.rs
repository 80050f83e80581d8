//! Interfaces and addresses by route netlink. The library's types stay inside: its releases break
//! them every month or two.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkMessage,
    NetlinkPayload,
};
use netlink_packet_route::address::{AddressAttribute, AddressMessage, CacheInfo};
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkLayerType, LinkMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use crate::channel::{Channel, Ends};
use crate::frame::Frame;
use crate::{IpError, Mac};

/// An interface as far as addresses care.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Link {
    pub(crate) index: u32,
    pub(crate) name: String,
    /// `None`: no Ethernet.
    pub(crate) mac: Option<Mac>,
    /// Switched on, and with a carrier.
    pub(crate) up: bool,
}

/// An address on an interface.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Assigned {
    pub(crate) ip: Ipv4Addr,
    pub(crate) prefix: u8,
    pub(crate) interface: u32,
    /// Seconds of its life that are left; `u32::MAX`: for ever.
    pub(crate) valid: u32,
}

/// What a message of the kernel says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum News {
    Link(Link),
    LinkGone(u32),
    Address(Assigned),
    AddressGone(Assigned),
}

/// Requests on route netlink.
#[derive(Debug)]
pub(crate) struct Route(Channel);

impl Route {
    pub(crate) fn open() -> Result<Self, IpError> {
        Channel::open(netlink_sys::protocols::NETLINK_ROUTE, "route netlink").map(Self)
    }

    /// Finds an interface by name.
    pub(crate) fn link(&mut self, name: &str) -> Result<Link, IpError> {
        let mut wanted = LinkMessage::default();
        wanted.attributes.push(LinkAttribute::IfName(name.into()));
        let mut found = None;
        let missing = || IpError::NoSuchInterface { interface: name.into() };
        self.0
            .ask(
                Ends::Acks(1),
                |seq| bytes(seq, NLM_F_ACK, RouteNetlinkMessage::GetLink(wanted.clone())),
                |frame| {
                    if let Some(News::Link(link)) = news(frame) {
                        found = Some(link);
                    }
                },
            )?
            .map_err(|e| match e.raw_os_error() {
                // ENODEV of every kernel; ERANGE and EINVAL of names that are too long.
                Some(libc::ENODEV | libc::ERANGE | libc::EINVAL) => missing(),
                _ => IpError::kernel("asking for an interface", e),
            })?;
        found.ok_or(IpError::Garbled { what: "an interface" })
    }

    /// Finds an Ethernet interface by name, with its hardware address.
    pub(crate) fn ethernet(&mut self, name: &str) -> Result<(Link, Mac), IpError> {
        let link = self.link(name)?;
        let mac = link.mac.ok_or_else(|| IpError::NotEthernet { interface: name.into() })?;
        Ok((link, mac))
    }

    /// All interfaces.
    pub(crate) fn links(&mut self) -> Result<Vec<Link>, IpError> {
        let get = LinkMessage::default();
        self.0
            .dump(
                |seq| bytes(seq, NLM_F_DUMP, RouteNetlinkMessage::GetLink(get.clone())),
                |frame, found| {
                    if let Some(News::Link(link)) = news(frame) {
                        found.push(link);
                    }
                },
            )?
            .map_err(|e| IpError::kernel("asking for the interfaces", e))
    }

    /// All IPv4 addresses.
    pub(crate) fn addresses(&mut self) -> Result<Vec<Assigned>, IpError> {
        let mut get = AddressMessage::default();
        get.header.family = AddressFamily::Inet;
        self.0
            .dump(
                |seq| bytes(seq, NLM_F_DUMP, RouteNetlinkMessage::GetAddress(get.clone())),
                |frame, found| {
                    if let Some(News::Address(assigned)) = news(frame) {
                        found.push(assigned);
                    }
                },
            )?
            .map_err(|e| IpError::kernel("asking for the addresses", e))
    }

    /// Adds an address, or gives one that is there a new life time.
    pub(crate) fn add(
        &mut self,
        ip: Ipv4Addr,
        prefix: u8,
        interface: u32,
        valid: Duration,
    ) -> Result<(), IpError> {
        let mut message = message(ip, prefix, interface);
        let mut life = CacheInfo::default();
        life.ifa_valid = seconds(valid);
        life.ifa_preferred = life.ifa_valid;
        message.attributes.push(AddressAttribute::CacheInfo(life));
        let flags = NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE;
        self.0
            .ask(
                Ends::Acks(1),
                |seq| bytes(seq, flags, RouteNetlinkMessage::NewAddress(message.clone())),
                |_| (),
            )?
            .map_err(|e| IpError::kernel("adding an address", e))
    }

    /// Removes an address; not an error if it is not there.
    pub(crate) fn remove(&mut self, assigned: &Assigned) -> Result<(), IpError> {
        let message = message(assigned.ip, assigned.prefix, assigned.interface);
        self.0
            .ask(
                Ends::Acks(1),
                |seq| bytes(seq, NLM_F_ACK, RouteNetlinkMessage::DelAddress(message.clone())),
                |_| (),
            )?
            .or_else(|e| match e.raw_os_error() {
                Some(libc::EADDRNOTAVAIL | libc::ENODEV) => Ok(()),
                _ => Err(IpError::kernel("removing an address", e)),
            })
    }
}

/// Reads a message; `None` for what does not concern addresses.
pub(crate) fn news(frame: &Frame<'_>) -> Option<News> {
    let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(frame.whole).ok()?;
    let NetlinkPayload::InnerMessage(message) = message.payload else { return None };
    match message {
        RouteNetlinkMessage::NewLink(link) => Some(News::Link(read_link(link))),
        RouteNetlinkMessage::DelLink(link) => Some(News::LinkGone(link.header.index)),
        RouteNetlinkMessage::NewAddress(a) => read_address(&a).map(News::Address),
        RouteNetlinkMessage::DelAddress(a) => read_address(&a).map(News::AddressGone),
        _ => None,
    }
}

fn read_link(message: LinkMessage) -> Link {
    let ethernet = message.header.link_layer_type == LinkLayerType::Ether;
    let mut link = Link {
        index: message.header.index,
        name: String::new(),
        mac: None,
        up: message.header.flags.contains(LinkFlags::Up | LinkFlags::LowerUp),
    };
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name = name,
            LinkAttribute::Address(bytes) if ethernet => {
                link.mac = <[u8; 6]>::try_from(bytes).ok().map(Mac);
            }
            _ => {}
        }
    }
    link
}

fn read_address(message: &AddressMessage) -> Option<Assigned> {
    if message.header.family != AddressFamily::Inet {
        return None;
    }
    let find = |local: bool| {
        message.attributes.iter().find_map(|a| match a {
            AddressAttribute::Local(IpAddr::V4(ip)) if local => Some(*ip),
            AddressAttribute::Address(IpAddr::V4(ip)) if !local => Some(*ip),
            _ => None,
        })
    };
    // IFA_ADDRESS is the peer's on point-to-point links; IFA_LOCAL is always this machine's.
    let ip = find(true).or_else(|| find(false))?;
    let valid = message.attributes.iter().find_map(|a| match a {
        AddressAttribute::CacheInfo(life) => Some(life.ifa_valid),
        _ => None,
    });
    Some(Assigned {
        ip,
        prefix: message.header.prefix_len,
        interface: message.header.index,
        valid: valid.unwrap_or(u32::MAX),
    })
}

fn message(ip: Ipv4Addr, prefix: u8, interface: u32) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = AddressFamily::Inet;
    message.header.prefix_len = prefix;
    message.header.index = interface;
    message.attributes.push(AddressAttribute::Local(ip.into()));
    message.attributes.push(AddressAttribute::Address(ip.into()));
    if prefix < 31 {
        let broadcast = u32::from(ip) | (u32::MAX >> prefix);
        message.attributes.push(AddressAttribute::Broadcast(broadcast.into()));
    }
    message
}

/// The kernel counts whole seconds, and its last may be cut short: one more, never less.
pub(crate) fn seconds(valid: Duration) -> u32 {
    let whole = valid.as_secs().saturating_add(u64::from(valid.subsec_nanos() > 0));
    // All ones would mean "for ever".
    u32::try_from(whole.saturating_add(1)).unwrap_or(u32::MAX - 1).min(u32::MAX - 1)
}

fn bytes(seq: u32, flags: u16, message: RouteNetlinkMessage) -> Vec<u8> {
    let mut message = NetlinkMessage::from(message);
    message.header.flags = NLM_F_REQUEST | flags;
    message.header.sequence_number = seq;
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    bytes
}

/// An error of sending on an interface, in words.
pub(crate) fn send_error(interface: &str, what: &'static str, e: io::Error) -> IpError {
    match e.raw_os_error() {
        Some(libc::ENETDOWN) => IpError::InterfaceDown { interface: interface.into() },
        Some(libc::ENXIO | libc::ENODEV) => {
            IpError::NoSuchInterface { interface: interface.into() }
        }
        _ => IpError::kernel(what, e),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::Frames;

    #[test]
    fn life_times_round_up_and_are_never_for_ever() {
        assert_eq!(seconds(Duration::ZERO), 1);
        assert_eq!(seconds(Duration::from_millis(1)), 2);
        assert_eq!(seconds(Duration::from_millis(1000)), 2);
        assert_eq!(seconds(Duration::from_millis(1001)), 3);
        assert_eq!(seconds(Duration::MAX), u32::MAX - 1);
    }

    #[test]
    fn an_added_address_reads_back_from_its_message() {
        let ip = Ipv4Addr::new(10, 0, 0, 5);
        let sent = bytes(7, NLM_F_ACK, RouteNetlinkMessage::NewAddress(message(ip, 24, 3)));
        let frame = Frames(&sent).next().unwrap();
        assert_eq!(frame.seq, 7);
        assert_eq!(
            news(&frame),
            Some(News::Address(Assigned { ip, prefix: 24, interface: 3, valid: u32::MAX }))
        );
    }

    #[test]
    fn stumps_are_no_news() {
        let ip = Ipv4Addr::new(10, 0, 0, 5);
        let sent = bytes(7, 0, RouteNetlinkMessage::NewAddress(message(ip, 24, 3)));
        for cut in 16..sent.len() {
            let mut stump = sent[..cut].to_vec();
            stump[0..4].copy_from_slice(&u32::try_from(cut).unwrap().to_ne_bytes());
            if let Some(frame) = Frames(&stump).next() {
                let _ = news(&frame);
            }
        }
    }
}
