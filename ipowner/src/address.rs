//! An address with its prefix and interface, as an administrator gives it. Pure: parsing and checks.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

/// The kernel's limit of an interface name, without its closing zero (IFNAMSIZ - 1).
const INTERFACE_NAME_MAX: usize = 15;

/// An IPv4 address that may move, with its prefix length and the interface that carries it.
///
/// Only values that can be used exist: see [`Address::new`].
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Address {
    ip: Ipv4Addr,
    prefix: u8,
    interface: String,
}

/// A text that is no usable address.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum AddressError {
    #[error("'{text}' is not an address with prefix length; write it like 10.0.0.5/24")]
    Syntax { text: String },
    #[error("prefix length {prefix} is out of range; an IPv4 prefix is 1 to 32")]
    Prefix { prefix: u32 },
    #[error("{ip} cannot be a cluster address: it is {what}")]
    Unusable { ip: Ipv4Addr, what: &'static str },
    #[error("{ip}: IPv6 addresses cannot be taken over yet; give an IPv4 address")]
    Ipv6 { ip: IpAddr },
    #[error("'{interface}' is not an interface name (1 to 15 characters, no '/' and no blanks)")]
    Interface { interface: String },
}

impl Address {
    /// Checks and joins the parts. `prefix` counts bits, 1 to 32.
    ///
    /// # Errors
    /// An address that no host can have (unspecified, loopback, multicast, broadcast, the network's
    /// own first or last address), a prefix out of range, or a name no interface can have.
    pub fn new(ip: Ipv4Addr, prefix: u8, interface: &str) -> Result<Self, AddressError> {
        if !(1..=32).contains(&prefix) {
            return Err(AddressError::Prefix { prefix: prefix.into() });
        }
        if let Some(what) = unusable(ip, prefix) {
            return Err(AddressError::Unusable { ip, what });
        }
        if !valid_interface(interface) {
            return Err(AddressError::Interface { interface: interface.into() });
        }
        Ok(Self { ip, prefix, interface: interface.into() })
    }

    /// Reads `10.0.0.5/24`.
    ///
    /// # Errors
    /// As [`Address::new`], and text that is no such thing.
    pub fn parse(text: &str, interface: &str) -> Result<Self, AddressError> {
        let syntax = || AddressError::Syntax { text: text.into() };
        let (ip, prefix) = text.split_once('/').ok_or_else(syntax)?;
        let ip: IpAddr = ip.parse().map_err(|_| syntax())?;
        let IpAddr::V4(ip) = ip else {
            return Err(AddressError::Ipv6 { ip });
        };
        // `u32::from_str` alone would take "+24".
        if prefix.is_empty() || !prefix.bytes().all(|b| b.is_ascii_digit()) {
            return Err(syntax());
        }
        let prefix: u32 = prefix.parse().map_err(|_| syntax())?;
        let narrow = u8::try_from(prefix).map_err(|_| AddressError::Prefix { prefix })?;
        Self::new(ip, narrow, interface)
    }

    /// The address itself.
    #[must_use]
    pub const fn ip(&self) -> Ipv4Addr {
        self.ip
    }

    /// Prefix length in bits.
    #[must_use]
    pub const fn prefix(&self) -> u8 {
        self.prefix
    }

    /// The interface that carries it.
    #[must_use]
    pub fn interface(&self) -> &str {
        &self.interface
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{} on {}", self.ip, self.prefix, self.interface)
    }
}

fn unusable(ip: Ipv4Addr, prefix: u8) -> Option<&'static str> {
    if ip.octets()[0] == 0 {
        return Some("in 0.0.0.0/8, which means 'this network'");
    }
    if ip.is_loopback() {
        return Some("a loopback address");
    }
    if ip.is_multicast() {
        return Some("a multicast address");
    }
    if ip.octets()[0] >= 240 {
        return Some("a reserved or broadcast address");
    }
    // RFC 3021: with 31 and 32 bits there is no network or broadcast address.
    if prefix < 31 {
        let host_mask = u32::MAX >> prefix;
        match u32::from(ip) & host_mask {
            0 => return Some("the network's own address"),
            host if host == host_mask => return Some("the network's broadcast address"),
            _ => {}
        }
    }
    None
}

/// What `dev_valid_name` of the kernel accepts, and printable ASCII only (it goes into messages).
fn valid_interface(name: &str) -> bool {
    (1..=INTERFACE_NAME_MAX).contains(&name.len())
        && name != "."
        && name != ".."
        && name.bytes().all(|b| b.is_ascii_graphic() && b != b'/' && b != b':')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn reads_what_it_prints() {
        let a = Address::parse("10.0.0.5/24", "eth0").unwrap();
        assert_eq!((a.ip(), a.prefix(), a.interface()), (Ipv4Addr::new(10, 0, 0, 5), 24, "eth0"));
        assert_eq!(a.to_string(), "10.0.0.5/24 on eth0");
        assert!(Address::parse("10.0.0.4/31", "eth0").is_ok());
        assert!(Address::parse("10.0.0.255/32", "eth0").is_ok());
    }

    #[test]
    fn refuses_with_the_reason() {
        for (text, part) in [
            ("10.0.0.5", "10.0.0.5/24"),
            ("10.0.0.5/", "10.0.0.5/24"),
            ("10.0.0.5/+24", "10.0.0.5/24"),
            ("10.0.0/24", "10.0.0.5/24"),
            ("10.0.0.5/0", "out of range"),
            ("10.0.0.5/33", "out of range"),
            ("10.0.0.5/4096", "out of range"),
            ("fe80::1/64", "IPv6"),
            ("0.0.0.1/24", "this network"),
            ("127.0.0.2/8", "loopback"),
            ("224.0.0.1/24", "multicast"),
            ("255.255.255.255/32", "broadcast"),
            ("10.0.0.0/24", "network's own"),
            ("10.0.0.255/24", "broadcast"),
        ] {
            let e = Address::parse(text, "eth0").unwrap_err().to_string();
            assert!(e.contains(part), "{text}: {e}");
        }
        for name in ["", ".", "..", "a/b", "a b", "sixteen-letters-", "eth0:1", "\u{e9}th0"] {
            assert!(
                matches!(Address::parse("10.0.0.5/24", name), Err(AddressError::Interface { .. })),
                "{name:?}"
            );
        }
    }

    proptest! {
        #[test]
        fn never_panics_and_keeps_its_word(text in ".{0,40}", interface in ".{0,20}") {
            if let Ok(a) = Address::parse(&text, &interface) {
                prop_assert!((1..=32).contains(&a.prefix()));
                prop_assert!(a.interface().len() <= 15);
            }
        }

        #[test]
        fn every_accepted_address_reads_back(ip in any::<u32>(), prefix in 0u8..40) {
            if let Ok(a) = Address::new(ip.into(), prefix, "eth0") {
                let text = format!("{}/{}", a.ip(), a.prefix());
                prop_assert_eq!(Address::parse(&text, "eth0"), Ok(a));
            }
        }
    }
}
