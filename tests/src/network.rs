//! The lab's wires: one namespace is the switch, with a bridge for each network; every machine is
//! a namespace with one cable (veth) to each bridge it is on. Faults of wires are made here, on the
//! switch's side, where a machine cannot notice who made them.

use anyhow::Result;

use crate::netns::Netns;
use crate::node::NODE_NAMES;

/// The networks of the lab. Addresses are `10.PREFIX.0.host/24`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Wire {
    /// Between the nodes alone.
    Private,
    /// Where the clients are.
    Public,
    /// Where the disks are.
    Storage,
}

impl Wire {
    /// All of them, in the order of a node's cables.
    pub const ALL: [Self; 3] = [Self::Private, Self::Public, Self::Storage];

    /// Name of the bridge, and of the interface in every machine.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Private => "private",
            Self::Public => "public",
            Self::Storage => "storage",
        }
    }

    /// Second byte of its addresses.
    const fn prefix(self) -> u8 {
        match self {
            Self::Private => 88,
            Self::Public => 77,
            Self::Storage => 99,
        }
    }

    /// A machine's address.
    #[must_use]
    pub fn address(self, host: u8) -> std::net::Ipv4Addr {
        std::net::Ipv4Addr::new(10, self.prefix(), 0, host)
    }

    /// A machine's IPv6 address, which every machine has beside the other: `fdPREFIX::host/64`.
    #[must_use]
    pub fn address_v6(self, host: u8) -> std::net::Ipv6Addr {
        let first = 0xfd00 + u16::from(self.prefix());
        std::net::Ipv6Addr::new(first, 0, 0, 0, 0, 0, 0, host.into())
    }
}

/// The MAC address of a machine on a wire: fixed, as a real card's is, over power cycles.
#[must_use]
pub fn mac(wire: Wire, host: u8) -> [u8; 6] {
    [0x02, 0x57, 0x50, wire.prefix(), 0, host]
}

/// A MAC address as people write it.
#[must_use]
pub fn mac_text(mac: [u8; 6]) -> String {
    mac.map(|b| format!("{b:02x}")).join(":")
}

/// The switch.
#[derive(Debug)]
pub struct Switch {
    ns: Netns,
}

impl Switch {
    /// Makes it, without cables.
    ///
    /// # Errors
    /// What `ip` says.
    pub fn create(prefix: &str) -> Result<Self> {
        let ns = Netns::create(&format!("{prefix}-switch"))?;
        for wire in Wire::ALL {
            let (name, mac) = (wire.name(), mac_text(mac(wire, 254)));
            ns.ip(&format!(
                "link add {name} address {mac} type bridge stp_state 0\nlink set {name} up"
            ))?;
        }
        ns.nft("add table bridge faults\nadd chain bridge faults forward { type filter hook forward priority 0; }")?;
        Ok(Self { ns })
    }

    /// Its namespace, to look around.
    #[must_use]
    pub const fn netns(&self) -> &Netns {
        &self.ns
    }

    /// Plugs a machine into a wire.
    ///
    /// # Errors
    /// What `ip` says.
    pub fn plug(&self, machine: &Netns, label: &str, wire: Wire, host: u8) -> Result<()> {
        let (name, port) = (wire.name(), format!("{label}-{}", wire.name()));
        let (mac, address) = (mac_text(mac(wire, host)), wire.address(host));
        let inside = machine.name();
        self.ns.ip(&format!(
            "link add {port} type veth peer name {name} address {mac} netns {inside}\n\
             link set {port} master {name} up"
        ))?;
        let v6 = wire.address_v6(host);
        machine.ip(&format!(
            "addr add {address}/24 dev {name}\naddr add {v6}/64 dev {name} nodad\n\
             link set {name} up"
        ))
    }

    /// Pulls or plugs the cable of a machine.
    ///
    /// # Errors
    /// What `ip` says.
    pub fn cable(&self, label: &str, wire: Wire, up: bool) -> Result<()> {
        let state = if up { "up" } else { "down" };
        self.ns.ip(&format!("link set {label}-{} {state}", wire.name()))
    }

    /// Pulls all cables of a machine at once.
    ///
    /// # Errors
    /// What `ip` says.
    pub fn unplug_all(&self, label: &str) -> Result<()> {
        let lines: Vec<String> =
            Wire::ALL.iter().map(|w| format!("link set {label}-{} down", w.name())).collect();
        self.ns.ip(&lines.join("\n"))
    }

    /// Takes the cables of a machine away, for good: it is gone.
    ///
    /// # Errors
    /// What `ip` says.
    pub fn remove(&self, label: &str) -> Result<()> {
        let lines: Vec<String> =
            Wire::ALL.iter().map(|w| format!("link del {label}-{}", w.name())).collect();
        self.ns.ip(&lines.join("\n"))
    }

    /// The whole network fails or works: the machines keep their carriers and hear nothing.
    ///
    /// # Errors
    /// What `ip` says.
    pub fn fail(&self, wire: Wire, failed: bool) -> Result<()> {
        let state = if failed { "down" } else { "up" };
        self.ns.ip(&format!("link set {} {state}", wire.name()))
    }

    /// Frames between two machines on one wire are lost, in both directions; all others pass.
    ///
    /// # Errors
    /// What `nft` says.
    pub fn part(&self, one: &str, other: &str, wire: Wire) -> Result<()> {
        let wire = wire.name();
        self.ns.nft(&format!(
            "add rule bridge faults forward iifname {one}-{wire} oifname {other}-{wire} drop\n\
             add rule bridge faults forward iifname {other}-{wire} oifname {one}-{wire} drop"
        ))
    }

    /// Frames from one machine to another on one wire are lost, in this direction alone.
    ///
    /// # Errors
    /// What `nft` says.
    pub fn mute(&self, from: &str, to: &str, wire: Wire) -> Result<()> {
        let wire = wire.name();
        self.ns.nft(&format!(
            "add rule bridge faults forward iifname {from}-{wire} oifname {to}-{wire} drop"
        ))
    }

    /// So many per cent of the datagrams to a UDP port are lost on a wire, by chance.
    ///
    /// # Errors
    /// What `nft` says.
    pub fn lose(&self, wire: Wire, port: u16, percent: u8) -> Result<()> {
        self.ns.nft(&format!(
            "add rule bridge faults forward iifname {{ {} }} ether type ip ip protocol udp \
             udp dport {port} numgen random mod 100 < {percent} drop",
            NODE_NAMES.map(|node| format!("{node}-{}", wire.name())).join(", ")
        ))
    }

    /// Takes back all that [`Self::part`], [`Self::mute`], [`Self::lose`] and bad wires did.
    ///
    /// # Errors
    /// What `nft` says.
    pub fn heal(&self) -> Result<()> {
        self.ns.nft("flush chain bridge faults forward")
    }
}
