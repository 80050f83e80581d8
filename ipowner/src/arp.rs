//! ARP packets of Ethernet and IPv4 (RFC 826), without the Ethernet header. Pure bytes: building,
//! reading, and what a packet says about an address (RFC 5227).
//!
//! ```text
//!  0        2        4    5    6        8              14            18              24            28
//!  +--------+--------+----+----+--------+---------------+-------------+---------------+-------------+
//!  | 1 Eth. | 0x0800 | 6  | 4  | op 1/2 | sender MAC    | sender IP   | target MAC    | target IP   |
//!  +--------+--------+----+----+--------+---------------+-------------+---------------+-------------+
//! ```

use std::fmt;
use std::net::Ipv4Addr;

/// Bytes of an ARP packet of Ethernet and IPv4.
pub(crate) const ARP_BYTES: usize = 28;

const HEADER: [u8; 6] = [0, 1, 0x08, 0, 6, 4];
const REQUEST: u16 = 1;
const REPLY: u16 = 2;

/// A hardware address of Ethernet.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// Everybody on the segment.
    pub const BROADCAST: Self = Self([0xff; 6]);
    pub(crate) const ZERO: Self = Self([0; 6]);
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// Question or answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Operation {
    Request,
    Reply,
}

/// A packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Arp {
    pub(crate) operation: Operation,
    pub(crate) sender_mac: Mac,
    pub(crate) sender_ip: Ipv4Addr,
    pub(crate) target_mac: Mac,
    pub(crate) target_ip: Ipv4Addr,
}

impl Arp {
    /// RFC 5227 section 2.1.1: asks without claiming (the sender address is 0.0.0.0).
    pub(crate) const fn probe(mac: Mac, ip: Ipv4Addr) -> Self {
        Self {
            operation: Operation::Request,
            sender_mac: mac,
            sender_ip: Ipv4Addr::UNSPECIFIED,
            target_mac: Mac::ZERO,
            target_ip: ip,
        }
    }

    /// RFC 5227 section 2.3: the request form, and the reply form for systems that learn from
    /// replies alone (its section 3 discusses both).
    pub(crate) const fn announcements(mac: Mac, ip: Ipv4Addr) -> [Self; 2] {
        let request = Self {
            operation: Operation::Request,
            sender_mac: mac,
            sender_ip: ip,
            target_mac: Mac::ZERO,
            target_ip: ip,
        };
        [request, Self { operation: Operation::Reply, target_mac: mac, ..request }]
    }

    pub(crate) fn to_bytes(self) -> [u8; ARP_BYTES] {
        let operation = match self.operation {
            Operation::Request => REQUEST,
            Operation::Reply => REPLY,
        };
        let mut bytes = [0; ARP_BYTES];
        bytes[0..6].copy_from_slice(&HEADER);
        bytes[6..8].copy_from_slice(&operation.to_be_bytes());
        bytes[8..14].copy_from_slice(&self.sender_mac.0);
        bytes[14..18].copy_from_slice(&self.sender_ip.octets());
        bytes[18..24].copy_from_slice(&self.target_mac.0);
        bytes[24..28].copy_from_slice(&self.target_ip.octets());
        bytes
    }

    /// Reads a packet; padding after it is ignored (Ethernet's least length is 46 bytes). `None`
    /// for anything else than a request or reply of Ethernet and IPv4.
    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; ARP_BYTES] = bytes.first_chunk()?;
        if bytes[0..6] != HEADER {
            return None;
        }
        let operation = match u16::from_be_bytes([bytes[6], bytes[7]]) {
            REQUEST => Operation::Request,
            REPLY => Operation::Reply,
            _ => return None,
        };
        Some(Self {
            operation,
            sender_mac: mac_at(bytes, 8),
            sender_ip: ip_at(bytes, 14),
            target_mac: mac_at(bytes, 18),
            target_ip: ip_at(bytes, 24),
        })
    }

    /// Whether the sender says that it has `ip` (RFC 5227 section 2.4).
    pub(crate) fn claims(&self, ip: Ipv4Addr) -> bool {
        self.sender_ip == ip
    }

    /// Whether the sender is probing for `ip` itself (RFC 5227 section 2.1.1: then neither may
    /// take it).
    pub(crate) fn probes_for(&self, ip: Ipv4Addr) -> bool {
        self.operation == Operation::Request
            && self.sender_ip.is_unspecified()
            && self.target_ip == ip
    }
}

fn mac_at(bytes: &[u8; ARP_BYTES], at: usize) -> Mac {
    let mut mac = [0; 6];
    mac.copy_from_slice(&bytes[at..at + 6]);
    Mac(mac)
}

fn ip_at(bytes: &[u8; ARP_BYTES], at: usize) -> Ipv4Addr {
    Ipv4Addr::new(bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MAC: Mac = Mac([2, 0, 0, 0, 0, 0xab]);
    const IP: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 5);

    #[test]
    fn a_probe_byte_for_byte() {
        assert_eq!(
            Arp::probe(MAC, IP).to_bytes(),
            [
                0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 0xab, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 10, 0,
                0, 5
            ]
        );
    }

    #[test]
    fn both_forms_of_an_announcement_byte_for_byte() {
        let [request, reply] = Arp::announcements(MAC, IP).map(Arp::to_bytes);
        assert_eq!(
            request,
            [
                0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 0xab, 10, 0, 0, 5, 0, 0, 0, 0, 0, 0, 10, 0,
                0, 5
            ]
        );
        assert_eq!(
            reply,
            [
                0, 1, 8, 0, 6, 4, 0, 2, 2, 0, 0, 0, 0, 0xab, 10, 0, 0, 5, 2, 0, 0, 0, 0, 0xab, 10,
                0, 0, 5
            ]
        );
    }

    #[test]
    fn tells_claims_from_probes() {
        let other = Ipv4Addr::new(10, 0, 0, 6);
        let announcements = Arp::announcements(MAC, IP);
        assert!(announcements.iter().all(|a| a.claims(IP) && !a.claims(other)));
        assert!(!Arp::probe(MAC, IP).claims(IP));
        assert!(Arp::probe(MAC, IP).probes_for(IP));
        assert!(!Arp::probe(MAC, other).probes_for(IP));
        assert!(announcements.iter().all(|a| !a.probes_for(IP)));
    }

    #[test]
    fn refuses_other_hardware_protocols_and_stumps() {
        let good = Arp::probe(MAC, IP).to_bytes();
        assert!(Arp::parse(&good[..27]).is_none());
        for at in 0..8 {
            let mut bad = good;
            bad[at] = 0x77;
            assert!(Arp::parse(&bad).is_none(), "byte {at}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            if let Some(arp) = Arp::parse(&bytes) {
                prop_assert_eq!(&arp.to_bytes()[..], &bytes[..ARP_BYTES]);
            }
        }
    }
}
