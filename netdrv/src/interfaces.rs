//! Interfaces and addresses of this machine, as rtnetlink(7) tells of them. Pure: messages in, a
//! picture out; `netlink` reads the socket.
//!
//! Only what a cluster network needs is read: name, flags, MTU, and usable addresses. A whole parser
//! crate would be read by nobody and change every month; these are five attributes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// One interface.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Interface {
    name: String,
    /// Switched on, and with a carrier.
    running: bool,
    mtu: u32,
}

/// What is known of the machine.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Interfaces {
    interfaces: BTreeMap<u32, Interface>,
    addresses: BTreeSet<(u32, IpAddr)>,
}

/// What one interface and address look like.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Look {
    /// The interface's number; None: there is none of this name.
    pub(crate) index: Option<u32>,
    pub(crate) running: bool,
    /// The address is on it and can be used.
    pub(crate) address: bool,
    pub(crate) mtu: u32,
}

/// What a buffer of messages was.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Taken {
    /// The end of the answer to a request.
    pub(crate) done: bool,
    /// The answer is not whole: changes disturbed it, or the kernel refused it.
    pub(crate) spoilt: bool,
}

impl Interfaces {
    /// Takes a buffer of messages in.
    pub(crate) fn take(&mut self, bytes: &[u8]) -> Taken {
        let mut taken = Taken::default();
        for message in Messages(bytes) {
            taken.spoilt |= message.flags & NLM_F_DUMP_INTR != 0;
            match message.kind {
                NLMSG_DONE => taken.done = true,
                NLMSG_ERROR => taken.spoilt = true,
                RTM_NEWLINK | RTM_DELLINK => {
                    self.take_link(message.kind == RTM_NEWLINK, message.body);
                }
                RTM_NEWADDR | RTM_DELADDR => {
                    self.take_address(message.kind == RTM_NEWADDR, message.body);
                }
                _ => {}
            }
        }
        taken
    }

    fn take_link(&mut self, new: bool, body: &[u8]) -> Option<()> {
        // struct ifinfomsg: family, pad, type (2), index (4), flags (4), change (4).
        let (header, attributes) = body.split_at_checked(16)?;
        let index = u32::from_ne_bytes(header.get(4..8)?.try_into().ok()?);
        let flags = u32::from_ne_bytes(header.get(8..12)?.try_into().ok()?);
        // Of another family are messages of bridges about their ports.
        if header.first() != Some(&0) {
            return None;
        }
        if !new {
            self.interfaces.remove(&index);
            self.addresses.retain(|&(of, _)| of != index);
            return Some(());
        }
        let (mut name, mut mtu) = (None, None);
        for (kind, value) in Attributes(attributes) {
            match kind {
                IFLA_IFNAME => {
                    let text = value.split(|&b| b == 0).next().unwrap_or_default();
                    name = String::from_utf8(text.to_vec()).ok();
                }
                IFLA_MTU => mtu = value.try_into().ok().map(u32::from_ne_bytes),
                _ => {}
            }
        }
        let running = flags & (IFF_UP | IFF_RUNNING) == IFF_UP | IFF_RUNNING;
        let (name, mtu) = (name?, mtu.unwrap_or_default());
        self.interfaces.insert(index, Interface { name, running, mtu });
        Some(())
    }

    fn take_address(&mut self, new: bool, body: &[u8]) -> Option<()> {
        // struct ifaddrmsg: family, prefix length, flags, scope, index (4).
        let (header, attributes) = body.split_at_checked(8)?;
        let &[_, _, flags, _, ..] = header else { return None };
        let index = u32::from_ne_bytes(header.get(4..8)?.try_into().ok()?);
        let (mut local, mut address, mut flags) = (None, None, u32::from(flags));
        for (kind, value) in Attributes(attributes) {
            match kind {
                IFA_LOCAL => local = ip(value),
                IFA_ADDRESS => address = ip(value),
                IFA_FLAGS => flags = value.try_into().ok().map_or(flags, u32::from_ne_bytes),
                _ => {}
            }
        }
        // On a point-to-point link the plain one is the peer's.
        let entry = (index, local.or(address)?);
        let waits = flags & IFA_F_TENTATIVE != 0 && flags & IFA_F_OPTIMISTIC == 0;
        if new && !waits && flags & IFA_F_DADFAILED == 0 {
            self.addresses.insert(entry);
        } else {
            self.addresses.remove(&entry);
        }
        Some(())
    }

    /// How an interface and an address on it look.
    pub(crate) fn look(&self, name: &str, address: IpAddr) -> Look {
        let found = self.interfaces.iter().find(|(_, interface)| interface.name == name);
        let Some((&index, interface)) = found else { return Look::default() };
        Look {
            index: Some(index),
            running: interface.running,
            // All of 127/8 is on the loopback interface.
            address: self.addresses.contains(&(index, address))
                || address.is_loopback() && name == "lo",
            mtu: interface.mtu,
        }
    }
}

fn ip(value: &[u8]) -> Option<IpAddr> {
    match value.len() {
        4 => Some(Ipv4Addr::from(*value.first_chunk::<4>()?).into()),
        16 => Some(Ipv6Addr::from(*value.first_chunk::<16>()?).into()),
        _ => None,
    }
}

// linux/netlink.h, linux/rtnetlink.h, linux/if_link.h, linux/if_addr.h, linux/if.h
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_DUMP_INTR: u16 = 0x10;
pub(crate) const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
pub(crate) const RTM_GETLINK: u16 = 18;
pub(crate) const RTM_NEWADDR: u16 = 20;
const RTM_DELADDR: u16 = 21;
pub(crate) const RTM_GETADDR: u16 = 22;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_FLAGS: u16 = 8;
const IFA_F_OPTIMISTIC: u32 = 0x04;
const IFA_F_DADFAILED: u32 = 0x08;
const IFA_F_TENTATIVE: u32 = 0x40;
const IFF_UP: u32 = 0x1;
const IFF_RUNNING: u32 = 0x40;
const ALIGNMENT: usize = 4;
const MESSAGE_HEADER: usize = 16;

/// A request for everything of a kind.
pub(crate) fn dump_request(kind: u16, sequence: u32) -> [u8; 36] {
    const NLM_F_REQUEST: u16 = 0x1;
    const NLM_F_DUMP: u16 = 0x300;
    // A header, then a struct ifinfomsg (or the shorter ifaddrmsg) of zeros: of any family.
    let mut bytes = [0; 36];
    let length = if kind == RTM_GETLINK { 32_u32 } else { 24 };
    bytes[..4].copy_from_slice(&length.to_ne_bytes());
    bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
    bytes[6..8].copy_from_slice(&(NLM_F_REQUEST | NLM_F_DUMP).to_ne_bytes());
    bytes[8..12].copy_from_slice(&sequence.to_ne_bytes());
    bytes
}

/// One netlink message.
struct Message<'a> {
    kind: u16,
    flags: u16,
    body: &'a [u8],
}

/// The messages in a buffer; ends at the first that is not whole.
struct Messages<'a>(&'a [u8]);

impl<'a> Iterator for Messages<'a> {
    type Item = Message<'a>;

    fn next(&mut self) -> Option<Self::Item> {
        let header = self.0.get(..MESSAGE_HEADER)?;
        let length = u32::from_ne_bytes(header.get(..4)?.try_into().ok()?);
        let length = usize::try_from(length).ok()?;
        let body = self.0.get(MESSAGE_HEADER..length)?;
        let kind = u16::from_ne_bytes(header.get(4..6)?.try_into().ok()?);
        let flags = u16::from_ne_bytes(header.get(6..8)?.try_into().ok()?);
        self.0 = self.0.get(length.next_multiple_of(ALIGNMENT)..).unwrap_or_default();
        Some(Message { kind, flags, body })
    }
}

/// The attributes of a message, by kind; ends at the first that is not whole.
struct Attributes<'a>(&'a [u8]);

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        /// The highest two bits say how it is nested and in which order its bytes are.
        const KIND: u16 = 0x3fff;
        let length = usize::from(u16::from_ne_bytes(*self.0.first_chunk::<2>()?));
        let kind = u16::from_ne_bytes(self.0.get(2..4)?.try_into().ok()?) & KIND;
        let value = self.0.get(4..length)?;
        self.0 = self.0.get(length.next_multiple_of(ALIGNMENT)..).unwrap_or_default();
        Some((kind, value))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const V4: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
    const V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1));

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let length = 4 + value.len();
        let mut bytes = u16::try_from(length).unwrap().to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(value);
        bytes.resize(length.next_multiple_of(ALIGNMENT), 0);
        bytes
    }

    fn message(kind: u16, body: &[u8]) -> Vec<u8> {
        let length = MESSAGE_HEADER + body.len();
        let mut bytes = u32::try_from(length).unwrap().to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend([0; 10]);
        bytes.extend(body);
        bytes.resize(length.next_multiple_of(ALIGNMENT), 0);
        bytes
    }

    fn link(kind: u16, index: u32, name: &str, flags: u32) -> Vec<u8> {
        let mut body = vec![0; 4];
        body.extend(index.to_ne_bytes());
        body.extend(flags.to_ne_bytes());
        body.extend([0; 4]);
        body.extend(attribute(IFLA_MTU, &1280_u32.to_ne_bytes()));
        body.extend(attribute(IFLA_IFNAME, format!("{name}\0").as_bytes()));
        message(kind, &body)
    }

    fn address(kind: u16, index: u32, address: IpAddr, flags: u32) -> Vec<u8> {
        let mut body = vec![2, 24, 0, 0];
        body.extend(index.to_ne_bytes());
        match address {
            IpAddr::V4(v4) => body.extend(attribute(IFA_LOCAL, &v4.octets())),
            IpAddr::V6(v6) => body.extend(attribute(IFA_ADDRESS, &v6.octets())),
        }
        body.extend(attribute(IFA_FLAGS, &flags.to_ne_bytes()));
        message(kind, &body)
    }

    const RUNS: u32 = IFF_UP | IFF_RUNNING;

    #[test]
    fn an_interface_and_its_addresses_come_and_go() {
        let mut all = Interfaces::default();
        assert_eq!(all.look("eth1", V4), Look::default());
        all.take(&link(RTM_NEWLINK, 7, "eth1", RUNS));
        let there = Look { index: Some(7), running: true, address: false, mtu: 1280 };
        assert_eq!(all.look("eth1", V4), there);
        all.take(&[address(RTM_NEWADDR, 7, V4, 0), address(RTM_NEWADDR, 7, V6, 0)].concat());
        assert_eq!(all.look("eth1", V4), Look { address: true, ..there });
        assert_eq!(all.look("eth1", V6), Look { address: true, ..there });
        all.take(&link(RTM_NEWLINK, 7, "eth1", IFF_UP));
        assert_eq!(all.look("eth1", V4), Look { address: true, running: false, ..there });
        all.take(&address(RTM_DELADDR, 7, V4, 0));
        assert!(!all.look("eth1", V4).address && all.look("eth1", V6).address);
        all.take(&link(RTM_DELLINK, 7, "eth1", 0));
        // Another of the same name has none of its addresses.
        all.take(&link(RTM_NEWLINK, 8, "eth1", RUNS));
        assert_eq!(all.look("eth1", V6), Look { index: Some(8), ..there });
    }

    #[test]
    fn an_address_that_is_still_proved_or_another_has_is_not_usable() {
        let mut all = Interfaces::default();
        all.take(&link(RTM_NEWLINK, 7, "eth1", RUNS));
        all.take(&address(RTM_NEWADDR, 7, V6, IFA_F_TENTATIVE));
        assert!(!all.look("eth1", V6).address);
        all.take(&address(RTM_NEWADDR, 7, V6, 0));
        assert!(all.look("eth1", V6).address);
        all.take(&address(RTM_NEWADDR, 7, V6, IFA_F_DADFAILED | IFA_F_TENTATIVE));
        assert!(!all.look("eth1", V6).address);
    }

    #[test]
    fn the_end_of_an_answer_and_a_disturbed_one_are_seen() {
        let mut all = Interfaces::default();
        let done = Taken { done: true, spoilt: false };
        assert_eq!(all.take(&message(NLMSG_DONE, &[0; 4])), done);
        let mut disturbed = link(RTM_NEWLINK, 7, "eth1", RUNS);
        disturbed[6] = 0x10;
        assert!(all.take(&disturbed).spoilt);
        assert!(all.take(&message(NLMSG_ERROR, &[0xff; 20])).spoilt);
    }

    proptest! {
        #[test]
        fn any_bytes_are_borne(bytes in prop::collection::vec(any::<u8>(), 0..512)) {
            Interfaces::default().take(&bytes);
        }

        /// Real messages, damaged: no panic, no loop, and nothing believed of what was cut off.
        #[test]
        fn damaged_messages_are_borne(
            at in any::<prop::sample::Index>(), to in any::<u8>(), cut in 0..128usize,
        ) {
            let mut bytes = link(RTM_NEWLINK, 7, "eth1", RUNS);
            bytes.extend(address(RTM_NEWADDR, 7, V4, 0));
            bytes.extend(address(RTM_NEWADDR, 7, V6, 0));
            let at = at.index(bytes.len());
            bytes[at] = to;
            bytes.truncate(bytes.len().saturating_sub(cut));
            let mut all = Interfaces::default();
            all.take(&bytes);
            prop_assert!(all.interfaces.len() <= 1 && all.addresses.len() <= 2);
        }
    }
}
