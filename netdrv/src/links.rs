//! The networks of the loop: their sockets, what happens to their interfaces, floods on them.

use std::collections::BTreeMap;
use std::net::IpAddr;

use socket2::SockAddr;
use wolfpack_types::heartbeat::{HeartbeatNotice, InterfaceChange};
use wolfpack_types::{Instant, NetworkId, NodeId};

use crate::engine::Engine;
use crate::errors::PathError;
use crate::filter::{self, Act, Flood};
use crate::interfaces::Look;
use crate::packet::ClusterTag;
use crate::socket::{BindError, NetworkSocket};
use crate::sys::errors;
use crate::sys::port::{Port, Token};
use crate::{DriverEvent, DriverNetwork};

/// One network and its socket, if it can be had.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) network: DriverNetwork,
    pub(crate) socket: Option<NetworkSocket>,
    /// Names the present socket.
    pub(crate) token: Token,
    /// Where the peers are, as the present socket reaches them.
    to: BTreeMap<NodeId, SockAddr>,
    /// When receiving was last ended by an error.
    failed: Instant,
    /// It was ended again at once: to be tried with the next look.
    deaf: bool,
    /// What was told of it: the error, while there is one.
    told: Option<String>,
    /// How the interface looked last.
    look: Option<Look>,
    flood: Flood,
}

impl Link {
    fn new(network: DriverNetwork, now: Instant) -> Self {
        Self {
            network,
            socket: None,
            token: Token::default(),
            to: BTreeMap::new(),
            failed: Instant::ZERO,
            deaf: false,
            told: None,
            look: None,
            flood: Flood::new(now),
        }
    }

    /// The longest datagram that the interface takes without fragments.
    fn room(&self) -> Option<usize> {
        self.look.map(|look| payload(look.mtu, self.network.address))
    }
}

/// What an IP packet has room for beside its headers and that of UDP.
fn payload(mtu: u32, address: IpAddr) -> usize {
    let headers = if address.is_ipv6() { 48 } else { 28 };
    usize::try_from(mtu).unwrap_or(usize::MAX).saturating_sub(headers)
}

/// All networks.
#[derive(Debug)]
pub(crate) struct Links {
    links: Vec<Link>,
    port: u16,
    tag: ClusterTag,
    /// Counts the sockets, so that each has its own token.
    sockets: u16,
}

impl Links {
    pub(crate) fn new(
        networks: &[DriverNetwork],
        port: u16,
        tag: ClusterTag,
        now: Instant,
    ) -> Self {
        let links = networks.iter().map(|network| Link::new(network.clone(), now)).collect();
        Self { links, port, tag, sockets: 0 }
    }

    pub(crate) fn numbers(&self) -> std::ops::Range<usize> {
        0..self.links.len()
    }

    pub(crate) fn name(&self, number: usize) -> &str {
        self.links.get(number).map_or("?", |link| &link.network.name)
    }

    /// The network of a present socket.
    pub(crate) fn network_of(&self, token: Token) -> Option<NetworkId> {
        let link = self.links.get(usize::from(token.link))?;
        (link.socket.is_some() && link.token == token).then_some(link.network.id)
    }

    fn of_token(&mut self, token: Token) -> Option<&mut Link> {
        let link = self.links.get_mut(usize::from(token.link))?;
        (link.socket.is_some() && link.token == token).then_some(link)
    }

    /// A datagram on this socket was refused.
    pub(crate) fn refused(&mut self, token: Token) {
        if let Some(link) = self.of_token(token) {
            link.flood.refused();
        }
    }

    /// Whether some network has no socket, or one that does not receive.
    pub(crate) fn incomplete(&self) -> bool {
        self.links.iter().any(|link| link.socket.is_none() || link.deaf)
    }

    /// Queues a datagram. Without a socket or address it is lost, like on any path that is down.
    pub(crate) fn send(
        &self,
        port: &mut Port,
        (network, to): (NetworkId, NodeId),
        bytes: &[u8],
    ) -> std::io::Result<bool> {
        let Some(link) = self.links.iter().find(|link| link.network.id == network) else {
            return Ok(false);
        };
        let (Some(socket), Some(address)) = (&link.socket, link.to.get(&to)) else {
            return Ok(false);
        };
        port.send(link.token, socket.fd(), (address, to.get()), bytes)?;
        Ok(true)
    }

    /// Binds a network's socket if it has none. What comes of it is in the events.
    pub(crate) fn bind(
        &mut self,
        number: usize,
        port: &mut Port,
        events: &mut Vec<DriverEvent>,
    ) -> Result<(), BindError> {
        let Some(link) = self.links.get_mut(number) else { return Ok(()) };
        if link.socket.is_some() {
            return Ok(());
        }
        self.sockets = self.sockets.wrapping_add(1);
        let link_number = u8::try_from(number).unwrap_or(u8::MAX);
        let token = Token { link: link_number, socket: self.sockets };
        let DriverNetwork { id, interface, address, peers, .. } = &link.network;
        let bound = NetworkSocket::bind(interface, *address, self.port).and_then(|socket| {
            let step = "cannot receive";
            let opened = port.open(token, socket.fd());
            opened.map_err(|source| BindError::System { step, source })?;
            Ok(socket)
        });
        match bound {
            Ok(socket) => {
                let to = peers.iter().map(|(&node, &at)| (node, socket.place(at)));
                link.to = to.collect();
                link.socket = Some(socket);
                link.token = token;
                link.deaf = false;
                link.told = None;
                link.flood.reset();
                events.push(DriverEvent::Bound { network: *id });
                Ok(())
            }
            Err(error) => {
                let text = error.to_string();
                if link.told.as_ref() != Some(&text) {
                    events.push(DriverEvent::BindFailed { network: *id, error: text.clone() });
                }
                link.told = Some(text);
                Err(error)
            }
        }
    }

    /// The socket is of no use any more.
    fn unbind(
        &mut self,
        number: usize,
        why: String,
        port: &mut Port,
        events: &mut Vec<DriverEvent>,
    ) {
        let Some(link) = self.links.get_mut(number) else { return };
        let Some(socket) = link.socket.take() else { return };
        if let Err(error) = port.close(link.token, socket.fd()) {
            tracing::debug!(%error, "cannot end receiving on a lost interface");
        }
        let network = link.network.id;
        link.told = Some(why.clone());
        events.push(DriverEvent::BindFailed { network, error: why });
    }

    /// Ends all receiving.
    pub(crate) fn close(&mut self, port: &mut Port) -> std::io::Result<()> {
        for link in &mut self.links {
            if let Some(socket) = link.socket.take() {
                port.close(link.token, socket.fd())?;
            }
        }
        Ok(())
    }

    /// Without word from the kernel: binds what can be bound, drops what is no longer there, and
    /// hears again.
    pub(crate) fn look(&mut self, port: &mut Port, events: &mut Vec<DriverEvent>) {
        for number in self.numbers() {
            let link = &mut self.links[number];
            match &link.socket {
                Some(socket) if socket.stands(&link.network.interface) => {
                    if link.deaf && port.reopen(link.token, socket.fd()).is_ok() {
                        link.deaf = false;
                    }
                }
                Some(_) => {
                    let why = format!("interface '{}' went away", link.network.interface);
                    self.unbind(number, why, port, events);
                }
                None => {
                    // Told by an event; tried again next time.
                    let _ = self.bind(number, port, events);
                }
            }
        }
    }

    /// The kernel has told of interfaces: what has changed is told, bound, dropped.
    pub(crate) fn follow(
        &mut self,
        look: impl Fn(&str, IpAddr) -> Option<Look>,
        port: &mut Port,
        engine: &mut Engine,
        now: Instant,
        events: &mut Vec<DriverEvent>,
    ) {
        for number in self.numbers() {
            let link = &mut self.links[number];
            let Some(new) = look(&link.network.interface, link.network.address) else { continue };
            let old = link.look.replace(new);
            if old == Some(new) {
                continue;
            }
            let (network, interface) = (link.network.id, link.network.interface.clone());
            let all = changes(old, new);
            let told = all.iter().map(|&change| HeartbeatNotice::Interface { network, change });
            events.extend(told.map(DriverEvent::Heartbeat));
            let works = new.index.is_some() && new.running && new.address;
            engine.set_interface(now, network, works);
            let address = link.network.address;
            let bound_to = link.socket.as_ref().map(NetworkSocket::index);
            if bound_to.is_some() && bound_to != new.index {
                self.unbind(number, format!("interface '{interface}' went away"), port, events);
            } else if bound_to.is_some() && !new.address {
                let why = format!("interface '{interface}' has lost the address {address}");
                self.unbind(number, why, port, events);
            }
            if new.index.is_some() && new.address {
                let _ = self.bind(number, port, events);
            }
            if all.contains(&InterfaceChange::LinkLost) {
                // Nothing gets out: ask over the other networks now.
                let peers: Vec<_> = self.links[number].to.keys().copied().collect();
                for node in peers {
                    engine.send_failed(now, network, node);
                }
            }
            self.tell_room(number, engine);
        }
    }

    fn tell_room(&self, number: usize, engine: &mut Engine) {
        let Some(link) = self.links.get(number) else { return };
        let Some(room) = link.room().filter(|&room| room > 0) else { return };
        engine.set_mtu(link.network.id, None, room);
    }

    /// Receiving was interrupted: by an error of the network, after which the socket is as good as
    /// before, for want of buffers, or because the kernel thought so. But real errors in a row are
    /// left to the next look, not to turn the loop without end.
    pub(crate) fn interrupted(
        &mut self,
        token: Token,
        (errno, stopped): (i32, bool),
        port: &mut Port,
        engine: &mut Engine,
        now: Instant,
    ) -> std::io::Result<()> {
        let Some(link) = self.of_token(token) else { return Ok(()) };
        let Some(socket) = &link.socket else { return Ok(()) };
        let (network, v6) = (link.network.id, link.network.address);
        let mut queued = false;
        errors::take(socket.fd(), |error| {
            queued = true;
            let PathError { to, errno, mtu } = error;
            let node = link.network.peers.iter().find(|&(_, at)| *at == to).map(|(&node, _)| node);
            let Some(node) = node else { return };
            tracing::trace!(network = network.0, node = node.get(), errno, ?mtu, "path error");
            match mtu {
                Some(mtu) => engine.set_mtu(network, Some(node), payload(mtu, v6)),
                None => engine.send_failed(now, network, node),
            }
        });
        if !stopped {
            return Ok(());
        }
        let harmless = matches!(errno, 0 | libc::ENOBUFS | libc::EINTR | libc::EAGAIN);
        if !harmless && !queued {
            let error = std::io::Error::from_raw_os_error(errno);
            tracing::debug!(network = link.network.name, %error, "receiving was interrupted");
            let before = std::mem::replace(&mut link.failed, now);
            if now.since(before) < super::event_loop::LOOK_PERIOD / 2 {
                link.deaf = true;
                return Ok(());
            }
        }
        port.reopen(token, socket.fd())
    }

    /// Has the kernel refuse what floods a network, and ends that.
    pub(crate) fn guard(&mut self, now: Instant, events: &mut Vec<DriverEvent>) {
        for link in &mut self.links {
            let Some(socket) = &link.socket else { continue };
            let network = link.network.id;
            match link.flood.judge(now) {
                Some(Act::Attach { per_second }) => {
                    let peers = link.network.peers.values();
                    match socket.attach(&filter::program(self.tag, peers)) {
                        Ok(()) => events.push(DriverEvent::Flood { network, per_second }),
                        Err(error) => {
                            tracing::warn!(%error, "cannot have the kernel refuse a flood");
                            link.flood.reset();
                        }
                    }
                }
                Some(Act::Detach) => {
                    if let Err(error) = socket.detach() {
                        tracing::warn!(%error, "cannot end the filter of a flood");
                    } else {
                        tracing::info!(network = link.network.name, "the flood is over");
                    }
                }
                None => {}
            }
        }
    }
}

/// What has changed between two looks, in words. At the first look only what is wrong is told.
fn changes(old: Option<Look>, new: Look) -> Vec<InterfaceChange> {
    use InterfaceChange::{AddressBack, AddressLost, Appeared, Gone, LinkBack, LinkLost};
    let first = old.is_none();
    let good = Look { index: new.index, running: true, address: true, mtu: new.mtu };
    let mut before = old.unwrap_or(good);
    let mut all = Vec::new();
    if before.index != new.index || first && new.index.is_none() {
        if before.index.is_some() || first {
            all.push(Gone);
        }
        if new.index.is_none() {
            return all;
        }
        all.push(Appeared);
        before = good;
    }
    if new.index.is_none() {
        return all;
    }
    match (before.running, new.running) {
        (true, false) => all.push(LinkLost),
        (false, true) => all.push(LinkBack),
        _ => {}
    }
    match (before.address, new.address) {
        (true, false) => all.push(AddressLost),
        (false, true) => all.push(AddressBack),
        _ => {}
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_told_in_words_and_good_beginnings_are_not() {
        use InterfaceChange::{AddressBack, AddressLost, Appeared, Gone, LinkBack, LinkLost};
        let good = Look { index: Some(3), running: true, address: true, mtu: 1500 };
        let (none, other) = (Look::default(), Look { index: Some(4), ..good });
        let dark = Look { running: false, ..good };
        let bare = Look { address: false, ..good };
        let cases = [
            (None, good, vec![]),
            (None, none, vec![Gone]),
            (None, dark, vec![LinkLost]),
            (Some(good), dark, vec![LinkLost]),
            (Some(dark), good, vec![LinkBack]),
            (Some(good), bare, vec![AddressLost]),
            (Some(bare), good, vec![AddressBack]),
            (Some(good), none, vec![Gone]),
            (Some(none), good, vec![Appeared]),
            (Some(none), Look { address: false, ..dark }, vec![Appeared, LinkLost, AddressLost]),
            (Some(good), other, vec![Gone, Appeared]),
            (Some(none), none, vec![]),
            (Some(good), Look { mtu: 1280, ..good }, vec![]),
        ];
        for (old, new, expected) in cases {
            assert_eq!(changes(old, new), expected, "{old:?} -> {new:?}");
        }
    }

    #[test]
    fn room_is_what_the_headers_leave() {
        assert_eq!(payload(1280, "fe80::1".parse().unwrap()), 1232);
        assert_eq!(payload(1500, "10.0.0.1".parse().unwrap()), 1472);
        assert_eq!(payload(0, "10.0.0.1".parse().unwrap()), 0);
    }
}
