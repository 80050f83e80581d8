//! IP Address: an IPv4 address on the interface of a cluster network, which answers only while the
//! node's lease lives. The kernel enforces that (see `ipowner`); the guard renews it.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use wolfpack_ipowner::announce::{Input, Output, Schedule};
use wolfpack_ipowner::{Address, IpError, Mac, ProbeOutcome, Watch, WatchEvent};
use wolfpack_resource::boottime;
use wolfpack_resource::kind::{Authority, Fault, ResourceType, Terminator};
use wolfpack_types::Instant;
use wolfpack_types::monitor::{OnlineMode, ResourceSpec};
use wolfpack_types::properties::AddressProperties;

use super::{Context, lock};
use crate::addresses::{self, Addresses};
use crate::ledger::{Entry, Held};

/// How long to wait before an address that somebody uses is probed again.
const PROBE_AGAIN: Duration = Duration::from_millis(200);

/// A second foreign claim within this time is not defended against (RFC 5227 section 2.4, DEFEND_INTERVAL).
const DEFEND_INTERVAL: Duration = Duration::from_secs(10);

/// One address.
pub(super) struct IpAddress {
    spec: ResourceSpec,
    address: Address,
    context: Arc<Context>,
    end: Arc<End>,
    watch: Option<Watch>,
    schedule: Schedule,
    defended: Option<Instant>,
    trouble: Trouble,
}

/// What the kernel and the wire have said against the address.
#[derive(Default)]
struct Trouble {
    removed: bool,
    link_down: bool,
    disputed: Option<Fault>,
}

/// Removes the address.
pub(super) struct End {
    address: Result<Address, Fault>,
    addresses: Mutex<Addresses>,
}

impl End {
    /// Of a ledger entry.
    pub(super) fn of(entry: &Entry) -> Self {
        let address = addresses::address_of(entry)
            .unwrap_or_else(|| Err(Fault(format!("'{}' is no address", entry.name))));
        Self { address, addresses: Mutex::default() }
    }
}

impl Terminator for End {
    fn terminate(&self) -> Result<(), Fault> {
        let address = self.address.as_ref().map_err(Clone::clone)?;
        lock(&self.addresses).remove(address)
    }
}

impl IpAddress {
    pub(super) fn new(
        spec: ResourceSpec,
        properties: &AddressProperties,
        context: Arc<Context>,
    ) -> Result<Self, Fault> {
        let networks = &context.setup.config.networks;
        let Some(network) = networks.iter().find(|n| n.name == properties.network) else {
            let known: Vec<&str> = networks.iter().map(|n| n.name.as_str()).collect();
            return Err(Fault(format!(
                "this node has no network '{}'; it has: {}",
                properties.network,
                known.join(", ")
            )));
        };
        let address = Address::new(properties.ip, properties.prefix, &network.interface)
            .map_err(|e| Fault::of(&e))?;
        let end = Arc::new(End { address: Ok(address.clone()), addresses: Mutex::default() });
        let schedule = Schedule::new();
        Ok(Self {
            spec,
            address,
            context,
            end,
            watch: None,
            schedule,
            defended: None,
            trouble: Trouble::default(),
        })
    }

    /// Whoever uses the address may be its former owner, whose lease ends soon: asked again for a
    /// lease's length, and only then given up. Nothing is announced meanwhile, so there is no
    /// ping-pong.
    fn probe(&self, authority: &dyn Authority) -> Result<(), Fault> {
        let until = boottime() + self.context.setup.config.times.lease;
        loop {
            authority.remaining()?;
            let outcome = lock(&self.end.addresses).owner().and_then(|o| o.probe(&self.address));
            match outcome.map_err(|e| Fault::of(&e))? {
                ProbeOutcome::Free => return Ok(()),
                ProbeOutcome::InUse { mac } if boottime() >= until => {
                    return Err(Fault::of(&IpError::InUse { ip: self.address.ip(), mac }));
                }
                ProbeOutcome::InUse { mac } => {
                    tracing::warn!(address = %self.address, %mac, "in use; asking again");
                    authority.wait(PROBE_AGAIN)?;
                }
            }
        }
    }

    fn take(&mut self, authority: &dyn Authority) -> Result<(), Fault> {
        let what = Held::Address {
            ip: self.address.ip(),
            prefix: self.address.prefix(),
            interface: self.address.interface().into(),
        };
        let mut addresses = lock(&self.end.addresses);
        let owner = addresses.owner().map_err(|e| Fault::of(&e))?;
        // Shut first: from here on it answers only while its lease element lives. Refused for an
        // address that is somebody else's, before anything is recorded.
        owner.own(&self.address).map_err(|e| Fault::of(&e))?;
        self.context.record(&self.spec, what)?;
        let remaining = authority.remaining()?;
        owner.add(&self.address, remaining).map_err(|e| Fault::of(&e))?;
        let mut watch = Watch::new().map_err(|e| Fault::of(&e))?;
        watch.watch(&self.address).map_err(|e| Fault::of(&e))?;
        let remaining = authority.remaining()?;
        owner.lease(self.address.ip(), remaining).map_err(|e| Fault::of(&e))?;
        self.watch = Some(watch);
        authority.remaining().map(drop)
    }

    fn announce_due(&mut self, now: Instant, input: Input) -> Result<(), Fault> {
        self.schedule.handle(now, input);
        while let Some(Output::Announce) = self.schedule.poll_output() {
            lock(&self.end.addresses)
                .owner()
                .and_then(|o| o.announce(&self.address))
                .map_err(|e| Fault::of(&e).while_doing("announcing the address"))?;
        }
        Ok(())
    }

    fn listen(&mut self) -> Result<(), Fault> {
        let Some(watch) = &mut self.watch else { return Err("it is not watched".into()) };
        for event in watch.events().map_err(|e| Fault::of(&e))? {
            let (ip, interface) = (self.address.ip(), self.address.interface());
            match event {
                WatchEvent::AddressRemoved { ip: gone } if gone == ip => {
                    self.trouble.removed = true;
                }
                WatchEvent::LinkDown { interface: down } if down == interface => {
                    self.trouble.link_down = true;
                }
                WatchEvent::LinkUp { interface: up } if up == interface => {
                    self.trouble.link_down = false;
                }
                WatchEvent::ForeignClaim { ip: claimed, mac } if claimed == ip => {
                    self.trouble.disputed = self.defend(mac).err();
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// A first foreign claim may be a late word of the former owner: the address is defended once.
    fn defend(&mut self, mac: Mac) -> Result<(), Fault> {
        let now = boottime();
        if self.defended.is_some_and(|then| now.since(then) < DEFEND_INTERVAL) {
            return Err(Fault(format!(
                "{mac} claims the address again and again; end its use there, or choose another"
            )));
        }
        tracing::warn!(address = %self.address, %mac, "somebody else claims the address");
        self.defended = Some(now);
        self.announce_due(now, Input::Again)
    }
}

impl ResourceType for IpAddress {
    fn online(&mut self, mode: OnlineMode, authority: &dyn Authority) -> Result<(), Fault> {
        authority.remaining()?;
        if mode == (OnlineMode::Start { probe: true }) {
            self.probe(authority)?;
        }
        (self.defended, self.trouble) = (None, Trouble::default());
        self.take(authority)?;
        self.announce_due(boottime(), Input::Online)
    }

    fn offline(&mut self, _authority: &dyn Authority) -> Result<(), Fault> {
        self.schedule.handle(boottime(), Input::Offline);
        self.watch = None;
        self.end.terminate()
    }

    fn looks_alive(&mut self) -> Result<(), Fault> {
        self.listen()?;
        if self.trouble.removed {
            return Err(Fault(format!("somebody has removed {}", self.address)));
        }
        if self.trouble.link_down {
            return Err(Fault(format!("interface '{}' is down", self.address.interface())));
        }
        self.trouble.disputed.clone().map_or(Ok(()), Err)
    }

    fn is_alive(&mut self) -> Result<(), Fault> {
        self.listen()?;
        let present = lock(&self.end.addresses).owner().and_then(|o| o.present(&self.address));
        if !present.map_err(|e| Fault::of(&e))? {
            return Err(Fault(format!("{} is not there any more", self.address)));
        }
        self.trouble.removed = false;
        self.looks_alive()
    }

    fn terminator(&self) -> Arc<dyn Terminator> {
        Arc::clone(&self.end) as Arc<dyn Terminator>
    }

    fn watch(&self) -> Option<BorrowedFd<'_>> {
        self.watch.as_ref().map(AsFd::as_fd)
    }

    fn announce(&mut self) {
        if let Err(e) = self.announce_due(boottime(), Input::Again) {
            tracing::warn!("{e}");
        }
    }

    fn housekeeping(&mut self, now: Instant) -> Option<Instant> {
        if let Err(e) = self.announce_due(now, Input::Deadline) {
            tracing::warn!("{e}");
        }
        self.schedule.next_deadline()
    }
}
