//! The acts on addresses: shut, add, lease, announce, remove. Driven by a resource monitor (take and
//! give up) and by the guard (renew, end everything); both may hold one at the same time, because
//! all state is the kernel's.

use std::net::Ipv4Addr;
use std::time::Duration;

use crate::arp::Arp;
use crate::filter::{Filter, LEASE_MAX, Renewal};
use crate::probe::{self, ProbeOutcome};
use crate::route::{Assigned, Route, seconds, send_error};
use crate::sys::ArpSocket;
use crate::{Address, IpError, Mac};

/// An address that this node's filter owns, as the kernel remembers it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Claim {
    pub ip: Ipv4Addr,
    pub interface: String,
}

/// One process's hand on the addresses of a node.
///
/// The order of a take-over is [`own`](Self::own) (the filter is shut), [`add`](Self::add),
/// [`lease`](Self::lease), [`announce`](Self::announce); [`take_over`](Self::take_over) does it all.
/// It belongs to the network namespace of the thread that made it, and is to be used there.
#[derive(Debug)]
pub struct IpOwner {
    filter: Filter,
    route: Route,
    arp: ArpSocket,
}

impl IpOwner {
    /// Opens the sockets. `table` names the nftables tables of this node; all processes of a node
    /// give the same.
    ///
    /// # Errors
    /// No permission, or a name no table can have.
    pub fn new(table: &str) -> Result<Self, IpError> {
        let filter = Filter::open(table)?;
        let arp = ArpSocket::sender().map_err(|e| IpError::kernel("opening an ARP socket", e))?;
        Ok(Self { filter, route: Route::open()?, arp })
    }

    /// Renews leases in this way instead of finding out what the kernel can, for kernels of which
    /// one knows better.
    #[must_use]
    pub fn with_renewal(mut self, renewal: Renewal) -> Self {
        self.filter.set_renewal(renewal);
        self
    }

    /// How leases are renewed on this kernel.
    ///
    /// # Errors
    /// As [`IpOwner::lease`].
    pub fn renewal(&mut self) -> Result<Renewal, IpError> {
        self.filter.renewal()
    }

    /// Writes the filter's tables and rules. Idempotent: what is owned and leased stays so. Needed
    /// once after the start, and after somebody has flushed the ruleset.
    ///
    /// # Errors
    /// nft is missing or refuses; no permission.
    pub fn prepare_filter(&mut self) -> Result<(), IpError> {
        self.filter.prepare()
    }

    /// Shuts an address: nothing of it passes until it has a lease. Idempotent.
    ///
    /// # Errors
    /// [`IpError::AlreadyConfigured`] if it is on this machine without being the cluster's;
    /// [`IpError::OtherInterface`]; no such interface; no filter.
    pub fn own(&mut self, address: &Address) -> Result<(), IpError> {
        let link = self.route.link(address.interface())?;
        let mine = self.claimed()?.into_iter().find(|c| c.ip == address.ip());
        match mine {
            Some(claim) if claim.interface != address.interface() => {
                return Err(IpError::OtherInterface {
                    ip: address.ip(),
                    interface: claim.interface,
                });
            }
            Some(_) => {}
            None => {
                if let Some(found) = self.assigned(address.ip())? {
                    return Err(self.foreign(address, &link.name, link.index, &found));
                }
            }
        }
        self.filter.own(address.ip(), address.interface())
    }

    /// Gives the claim up: [`IpOwner::claimed`] no longer names the address. It stays shut for 70
    /// seconds more, longer than the life time that an address can have which is still (or, by a
    /// renewal that was under way, again) on its interface. Idempotent.
    ///
    /// # Errors
    /// No filter, no permission.
    pub fn disown(&mut self, address: &Address) -> Result<(), IpError> {
        self.filter.disown(address.ip(), address.interface())
    }

    /// Opens an owned address for `remaining` from now, or makes its lease longer. The kernel ends
    /// it by itself. At most [`LEASE_MAX`](crate::LEASE_MAX) is given.
    ///
    /// # Errors
    /// [`IpError::LeaseTooShort`] below [`LEASE_MIN`](crate::LEASE_MIN): the address is then shut.
    /// [`IpError::NoFilter`]: the tables are gone; while the lease holds one may call
    /// [`IpOwner::restore_filter`].
    pub fn lease(&mut self, ip: Ipv4Addr, remaining: Duration) -> Result<(), IpError> {
        self.filter.lease(ip, remaining)
    }

    /// The guard's heartbeat of an address: [`IpOwner::lease`], and the coarse life time of the
    /// address made longer when less of it is left than `remaining` (so about once a second). An
    /// address that is not on its interface (yet, or any more) is leased all the same.
    ///
    /// # Errors
    /// As [`IpOwner::lease`].
    pub fn renew(&mut self, claim: &Claim, remaining: Duration) -> Result<(), IpError> {
        self.filter.lease(claim.ip, remaining)?;
        let remaining = remaining.min(LEASE_MAX);
        let Some(found) = self.assigned(claim.ip)? else { return Ok(()) };
        if found.valid >= seconds(remaining) {
            return Ok(());
        }
        self.route.add(found.ip, found.prefix, found.interface, remaining)?;
        // Another process may have given the address up since it was read, and the kernel cannot
        // be asked to prolong without adding: then this has added an address without a filter.
        if self.claimed()?.contains(claim) { Ok(()) } else { self.route.remove(&found) }
    }

    /// Shuts an address now. Idempotent.
    ///
    /// # Errors
    /// No filter, no permission.
    pub fn unlease(&mut self, ip: Ipv4Addr) -> Result<(), IpError> {
        self.filter.unlease(ip)
    }

    /// What is left of an address's lease; `None` without one.
    ///
    /// # Errors
    /// No filter, no permission.
    pub fn lease_left(&mut self, ip: Ipv4Addr) -> Result<Option<Duration>, IpError> {
        self.filter.lease_left(ip)
    }

    /// Writes the filter again after somebody has flushed it (a reload of the system's firewall
    /// does), and shuts `addresses` in it. Between the flush and this the kernel did not enforce the
    /// leases; the other hands did.
    ///
    /// # Errors
    /// As [`IpOwner::prepare_filter`].
    pub fn restore_filter(&mut self, addresses: &[Claim]) -> Result<(), IpError> {
        tracing::warn!(table = self.filter.table(), "the address filter was gone: written again");
        self.filter.prepare()?;
        for claim in addresses {
            self.filter.own(claim.ip, &claim.interface)?;
        }
        Ok(())
    }

    /// All addresses that the filter owns: what a process that starts finds of former ones, and
    /// what the guard renews and ends.
    ///
    /// # Errors
    /// No filter, no permission.
    pub fn claimed(&mut self) -> Result<Vec<Claim>, IpError> {
        let homes = self.filter.homes()?;
        Ok(homes.into_iter().map(|(ip, interface)| Claim { ip, interface }).collect())
    }

    /// Asks the network whether somebody uses the address (RFC 5227); takes 250 ms if nobody does.
    ///
    /// # Errors
    /// No such interface, no Ethernet, interface down, no permission.
    pub fn probe(&mut self, address: &Address) -> Result<ProbeOutcome, IpError> {
        let (link, mac) = self.route.ethernet(address.interface())?;
        let own: Vec<Mac> = self.route.links()?.iter().filter_map(|l| l.mac).collect();
        probe::probe(address, link.index, mac, &own)
    }

    /// Puts the address on its interface for `valid`, rounded up to whole seconds plus one: the
    /// coarse twin of the lease, with the same bound. Idempotent; also makes the time longer.
    ///
    /// # Errors
    /// [`IpError::NotOwned`] before [`IpOwner::own`]; no such interface; no permission.
    pub fn add(&mut self, address: &Address, valid: Duration) -> Result<(), IpError> {
        let wanted = Claim { ip: address.ip(), interface: address.interface().into() };
        if !self.claimed()?.contains(&wanted) {
            return Err(IpError::NotOwned { ip: address.ip() });
        }
        let link = self.route.link(address.interface())?;
        self.route.add(address.ip(), address.prefix(), link.index, valid.min(LEASE_MAX))
    }

    /// Makes the coarse life time of an added address longer.
    ///
    /// # Errors
    /// As [`IpOwner::add`]; an address that somebody has removed is not added again
    /// ([`IpError::NotOwned`]).
    pub fn refresh_valid(&mut self, address: &Address, valid: Duration) -> Result<(), IpError> {
        if !self.present(address)? {
            return Err(IpError::NotOwned { ip: address.ip() });
        }
        self.add(address, valid)
    }

    /// Gives an address up: shuts the filter, removes the address, takes it out of the filter.
    /// Idempotent. An address that is not claimed is somebody else's, and left alone. When the
    /// filter is missing, an address with a limited life time is removed: the cluster's have one.
    ///
    /// # Errors
    /// The first thing that failed; an address that could not be removed stays shut.
    pub fn remove(&mut self, address: &Address) -> Result<(), IpError> {
        self.remove_claim(&Claim { ip: address.ip(), interface: address.interface().into() })
    }

    /// As [`IpOwner::remove`], for who knows the address from [`IpOwner::claimed`].
    ///
    /// # Errors
    /// As [`IpOwner::remove`].
    pub fn remove_claim(&mut self, claim: &Claim) -> Result<(), IpError> {
        match self.claimed() {
            Ok(claims) if !claims.contains(claim) => return Ok(()),
            Ok(_) => self.filter.unlease(claim.ip)?,
            Err(IpError::NoFilter { .. }) => return self.remove_from_interface(claim, true),
            Err(e) => return Err(e),
        }
        self.remove_from_interface(claim, false)?;
        self.filter.disown(claim.ip, &claim.interface)?;
        // A renewal in another process may have added it again before the claim was gone; one that
        // adds it later finds no claim and takes it away itself.
        self.remove_from_interface(claim, false)
    }

    fn remove_from_interface(&mut self, claim: &Claim, only_mortal: bool) -> Result<(), IpError> {
        let index = match self.route.link(&claim.interface) {
            Ok(link) => link.index,
            Err(IpError::NoSuchInterface { .. }) => return Ok(()),
            Err(e) => return Err(e),
        };
        for found in self.route.addresses()? {
            let mortal = found.valid != u32::MAX;
            if found.ip == claim.ip && found.interface == index && (mortal || !only_mortal) {
                self.route.remove(&found)?;
            }
        }
        Ok(())
    }

    /// Whether the address is on its interface.
    ///
    /// # Errors
    /// The kernel's refusal. An interface that does not exist has no address.
    pub fn present(&mut self, address: &Address) -> Result<bool, IpError> {
        let link = match self.route.link(address.interface()) {
            Ok(link) => link,
            Err(IpError::NoSuchInterface { .. }) => return Ok(false),
            Err(e) => return Err(e),
        };
        let found = self.route.addresses()?;
        Ok(found.iter().any(|a| {
            a.ip == address.ip() && a.prefix == address.prefix() && a.interface == link.index
        }))
    }

    /// Says on the wire that the address is here: gratuitous ARP, request and reply form. When, is
    /// [`crate::announce::Schedule`]'s.
    ///
    /// # Errors
    /// [`IpError::NotLeased`]: packet sockets pass by the filter, and an announcement without lease
    /// would draw clients away from the rightful owner. No such interface, interface down.
    pub fn announce(&mut self, address: &Address) -> Result<(), IpError> {
        if self.lease_left(address.ip())?.is_none() {
            return Err(IpError::NotLeased { ip: address.ip() });
        }
        let (link, mac) = self.route.ethernet(address.interface())?;
        for arp in Arp::announcements(mac, address.ip()) {
            self.arp
                .send(link.index, Mac::BROADCAST, &arp.to_bytes())
                .map_err(|e| send_error(address.interface(), "announcing an address", e))?;
        }
        Ok(())
    }

    /// A whole take-over: probe if asked to, shut, add, lease for `remaining`, announce once. What
    /// was done is undone on failure.
    ///
    /// # Errors
    /// [`IpError::InUse`] with the other's hardware address, and those of the single steps.
    pub fn take_over(
        &mut self,
        address: &Address,
        probe: bool,
        remaining: Duration,
    ) -> Result<(), IpError> {
        // Refused before anything is touched: what cannot be announced cannot be taken over.
        self.route.ethernet(address.interface())?;
        if probe && let ProbeOutcome::InUse { mac } = self.probe(address)? {
            return Err(IpError::InUse { ip: address.ip(), mac });
        }
        self.own(address)?;
        let done = self
            .add(address, remaining)
            .and_then(|()| self.lease(address.ip(), remaining))
            .and_then(|()| self.announce(address));
        if done.is_err()
            && let Err(e) = self.remove(address)
        {
            tracing::warn!(%address, "an address that was half taken over stays shut: {e}");
        }
        done
    }

    fn assigned(&mut self, ip: Ipv4Addr) -> Result<Option<Assigned>, IpError> {
        Ok(self.route.addresses()?.into_iter().find(|a| a.ip == ip))
    }

    /// Names the interface that has the address; the wanted one's name is known already.
    fn foreign(&mut self, address: &Address, name: &str, index: u32, found: &Assigned) -> IpError {
        let interface = if found.interface == index {
            name.into()
        } else {
            let links = self.route.links().unwrap_or_default();
            let link = links.into_iter().find(|l| l.index == found.interface);
            link.map_or_else(|| format!("interface {}", found.interface), |l| l.name)
        };
        IpError::AlreadyConfigured { ip: address.ip(), interface }
    }
}
