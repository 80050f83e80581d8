//! What can go wrong with an address: what, where, and what to do.

use std::io;
use std::net::Ipv4Addr;

use crate::{AddressError, Mac};

/// A refusal or failure of an act on an address.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IpError {
    #[error(transparent)]
    Address(#[from] AddressError),
    #[error("there is no interface '{interface}' on this node; see 'ip link'")]
    NoSuchInterface { interface: String },
    #[error("interface '{interface}' speaks no Ethernet, so its addresses cannot be taken over")]
    NotEthernet { interface: String },
    #[error("interface '{interface}' is down; bring it up: ip link set {interface} up")]
    InterfaceDown { interface: String },
    #[error("{what} is not permitted; this needs root, or CAP_NET_ADMIN and CAP_NET_RAW")]
    Permission { what: &'static str },
    #[error("the program nft was not found; install the package nftables")]
    NftMissing,
    #[error("nft refused the address filter: {stderr}")]
    NftRefused { stderr: String },
    #[error("'{table}' cannot name an nftables table (1 to 31 of a-z, 0-9, '_', a letter first)")]
    TableName { table: String },
    #[error("the address filter (nftables table '{table}') is missing; was the ruleset flushed?")]
    NoFilter { table: String },
    #[error("{ip} is in use by {mac}; end its use there, or choose another address")]
    InUse { ip: Ipv4Addr, mac: Mac },
    #[error(
        "{ip} is configured on '{interface}' by somebody else; remove it from the system's network \
         configuration: the cluster alone may add it"
    )]
    AlreadyConfigured { ip: Ipv4Addr, interface: String },
    #[error("{ip} belongs to interface '{interface}' here already; remove it there first")]
    OtherInterface { ip: Ipv4Addr, interface: String },
    #[error("{ip} is not shut by the filter yet; it may be added only after 'own'")]
    NotOwned { ip: Ipv4Addr },
    #[error("{ip} has no lease on this node, so it may not be announced")]
    NotLeased { ip: Ipv4Addr },
    #[error("a lease of {given_ms} ms is too short to be given to the kernel")]
    LeaseTooShort { given_ms: u64 },
    #[error("the kernel did not answer: {what}")]
    Silent { what: &'static str },
    #[error("the kernel's answer cannot be understood: {what}")]
    Garbled { what: &'static str },
    #[error("{what}")]
    Kernel {
        what: &'static str,
        #[source]
        source: io::Error,
    },
}

impl IpError {
    /// Gives the errors of the kernel that have a meaning of their own their own variant.
    pub(crate) fn kernel(what: &'static str, source: io::Error) -> Self {
        match source.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => Self::Permission { what },
            Some(libc::EAGAIN) => Self::Silent { what },
            _ => Self::Kernel { what, source },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_refusals_get_words_of_their_own() {
        let of = |errno| IpError::kernel("x", io::Error::from_raw_os_error(errno));
        assert!(matches!(of(libc::EPERM), IpError::Permission { what: "x" }));
        assert!(of(libc::EPERM).to_string().contains("CAP_NET_ADMIN"));
        assert!(matches!(of(libc::EAGAIN), IpError::Silent { .. }));
        assert!(matches!(of(libc::EINVAL), IpError::Kernel { .. }));
    }
}
