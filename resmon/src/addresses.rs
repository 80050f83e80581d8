//! The addresses of the node's resources, as the guard and the monitors handle them: a thin layer
//! over `ipowner` that speaks of ledger entries and opens its sockets when first needed, so that a
//! node without nftables can run everything but addresses.

use std::net::Ipv4Addr;
use std::time::Duration;

use wolfpack_ipowner::{Address, Claim, IpError, IpOwner};
use wolfpack_resource::kind::Fault;

use crate::ledger::{Entry, Held};

/// One name for all processes of a node; another node is another network namespace.
const TABLE: &str = "wolfpack";

/// The hand on the node's addresses.
#[derive(Debug, Default)]
pub(crate) struct Addresses {
    owner: Option<IpOwner>,
}

impl Addresses {
    /// With the filter written.
    ///
    /// # Errors
    /// nft is missing, or this is not permitted.
    pub(crate) fn owner(&mut self) -> Result<&mut IpOwner, IpError> {
        if self.owner.is_none() {
            let mut owner = IpOwner::new(TABLE)?;
            owner.prepare_filter()?;
            self.owner = Some(owner);
        }
        Ok(self.owner.as_mut().expect("it was put there above"))
    }

    /// Makes the leases of all addresses in `claims` as long as the node's own.
    ///
    /// # Errors
    /// The first failure; the others are renewed all the same.
    pub(crate) fn renew(&mut self, claims: &[Claim], remaining: Duration) -> Result<(), IpError> {
        let owner = self.owner()?;
        let mut first = Ok(());
        for claim in claims {
            let done = match owner.renew(claim, remaining) {
                Err(IpError::NoFilter { .. }) => {
                    owner.restore_filter(claims).and_then(|()| owner.renew(claim, remaining))
                }
                // The lease is over to within what can be told to the kernel: it is shut.
                Err(IpError::LeaseTooShort { .. }) => Ok(()),
                done => done,
            };
            first = first.and(done);
        }
        first
    }

    /// Shuts an address: nothing passes, whatever still runs.
    ///
    /// # Errors
    /// No permission.
    pub(crate) fn shut(&mut self, ip: Ipv4Addr) -> Result<(), IpError> {
        match self.owner()?.unlease(ip) {
            Err(IpError::NoFilter { .. }) => Ok(()),
            other => other,
        }
    }

    /// Removes an address and sees that nothing of it is ours any more. The same address given to
    /// the interface by somebody else stays: it is not the cluster's.
    ///
    /// # Errors
    /// It could not be removed, or the kernel does not say.
    pub(crate) fn remove(&mut self, address: &Address) -> Result<(), Fault> {
        let owner = self.owner().map_err(|e| Fault::of(&e))?;
        owner.remove(address).map_err(|e| Fault::of(&e))?;
        match owner.claimed() {
            Ok(claims) if claims.iter().any(|c| c.ip == address.ip()) => {
                Err(Fault(format!("{address} is still there")))
            }
            Ok(_) | Err(IpError::NoFilter { .. }) => Ok(()),
            Err(e) => Err(Fault::of(&e)),
        }
    }
}

/// The address of a ledger entry, if it is one's.
#[must_use]
pub(crate) fn address_of(entry: &Entry) -> Option<Result<Address, Fault>> {
    match &entry.what {
        Held::Address { ip, prefix, interface } => {
            Some(Address::new(*ip, *prefix, interface).map_err(|e| Fault::of(&e)))
        }
        Held::Application { .. } | Held::Disk { .. } => None,
    }
}

/// The claims among ledger entries.
#[must_use]
pub(crate) fn claims(entries: &[Entry]) -> Vec<Claim> {
    let claim = |e: &Entry| match &e.what {
        Held::Address { ip, interface, .. } => {
            Some(Claim { ip: *ip, interface: interface.clone() })
        }
        Held::Application { .. } | Held::Disk { .. } => None,
    };
    entries.iter().filter_map(claim).collect()
}
