//! All of the driver but the sockets: sessions, failure detector, streams, and what goes where.
//!
//! Pure. The loop gives what came in and what was commanded, then the deadline, and sends what
//! [`Engine::poll_output`] yields. A datagram is looked at in this order, and counted where it stops:
//! form, cluster, address, receiver, session, replay, body.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::time::Duration;

use wolfpack_heartbeat::{Detector, DetectorConfig, Input, Output as DetectorOutput};
use wolfpack_types::event::Proof;
use wolfpack_types::heartbeat::{Heartbeat, HeartbeatCommand, HeartbeatNotice};
use wolfpack_types::peer::Class;
use wolfpack_types::{Instant, NetworkId, NodeId, NodeInc, codec};

use crate::drops::Drops;
use crate::key::Key;
use crate::packet::{BODY_BYTES_MAX, Datagram, FormError, Header, Kind, MacKey, VERSION};
use crate::session::Sessions;
use crate::stream::{AckFrame, Fragment, Frame, Stream};
use crate::{DriverConfig, DriverEvent, DropReason, testament};

/// One thing for the loop to do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Output {
    /// Send it now. Give the buffer back by [`Engine::recycle`].
    Datagram {
        network: NetworkId,
        to: NodeId,
        bytes: Vec<u8>,
    },
    Event(DriverEvent),
    /// The own lease ends then.
    Lease(Instant),
    /// Bytes of messages to this peer wait no longer.
    Released {
        node: NodeId,
        bytes: usize,
    },
}

/// Buffers kept for later datagrams.
const SPARE_MAX: usize = 64;
/// Lives of one peer whose end was told already; more only if it dies more often while we live.
const TESTAMENTS_MAX: usize = 64;

/// The driver of one node, without its sockets.
#[derive(Debug)]
pub(crate) struct Engine {
    me: NodeInc,
    /// By network, the peer at each address.
    addresses: BTreeMap<NetworkId, BTreeMap<IpAddr, NodeId>>,
    paths: BTreeMap<NodeId, BTreeSet<NetworkId>>,
    /// The longest datagrams of paths that do not take the usual length.
    limits: BTreeMap<(NodeId, NetworkId), usize>,
    sessions: Sessions,
    guard: MacKey,
    detector: Detector,
    streams: BTreeMap<NodeId, Stream>,
    /// Paths that the failure detector takes for up.
    up: BTreeSet<(NodeId, NetworkId)>,
    /// Lives whose end was told.
    ended: BTreeMap<NodeId, BTreeSet<NodeInc>>,
    drops: Drops,
    hello_period: Duration,
    next_hello: Instant,
    /// The core hangs: no heartbeat leaves.
    mute: bool,
    /// The core does not take events: no message is taken from a peer.
    hold: bool,
    outputs: VecDeque<Output>,
    spare: Vec<Vec<u8>>,
    body: Vec<u8>,
}

impl Engine {
    /// A driver in a new life; `seed` is random and never used before.
    pub(crate) fn new(config: &DriverConfig, seed: Key, now: Instant) -> Self {
        let mut salt = [0; 16];
        salt.copy_from_slice(&seed[..16]);
        let mut paths: BTreeMap<NodeId, BTreeSet<NetworkId>> = BTreeMap::new();
        let mut addresses: BTreeMap<NetworkId, BTreeMap<IpAddr, NodeId>> = BTreeMap::new();
        for network in &config.networks {
            let peers = network.peers.iter().filter(|&(&node, _)| node != config.me.node);
            let at = addresses.entry(network.id).or_default();
            for (&node, &address) in peers {
                paths.entry(node).or_default().insert(network.id);
                at.insert(address, node);
            }
        }
        let detector = DetectorConfig {
            me: config.me,
            times: config.times,
            paths: paths.clone(),
            rules: config.rules.clone(),
        };
        Self {
            me: config.me,
            limits: BTreeMap::new(),
            sessions: Sessions::new(config.me, &config.key, salt, &paths, now),
            guard: testament::guard_key(&config.key),
            detector: Detector::new(detector, now),
            streams: BTreeMap::new(),
            up: BTreeSet::new(),
            ended: BTreeMap::new(),
            drops: Drops::default(),
            hello_period: config.times.heartbeat,
            next_hello: now,
            mute: false,
            hold: false,
            outputs: VecDeque::new(),
            spare: Vec::new(),
            body: Vec::with_capacity(BODY_BYTES_MAX),
            addresses,
            paths,
        }
    }

    /// A datagram came in on the socket of a network. Whether it was of any use.
    pub(crate) fn receive(
        &mut self,
        now: Instant,
        network: NetworkId,
        source: IpAddr,
        bytes: &[u8],
    ) -> bool {
        let admitted = self.admit(now, network, source, bytes);
        if let Err(reason) = admitted {
            self.drops.count(now, network, reason);
        }
        self.drain_detector();
        admitted.is_ok()
    }

    fn admit(
        &mut self,
        now: Instant,
        network: NetworkId,
        source: IpAddr,
        bytes: &[u8],
    ) -> Result<(), DropReason> {
        let datagram = Datagram::parse(bytes).map_err(|error| match error {
            FormError::Truncated => DropReason::Truncated,
            FormError::Foreign => DropReason::Foreign,
            FormError::Version { theirs } => DropReason::Version { ours: VERSION, theirs },
        })?;
        let Header { kind, from, to, tag, network: sent_on, .. } = datagram.header;
        let at_source = self.addresses.get(&network).and_then(|at| at.get(&source)).copied();
        if tag != self.sessions.tag() {
            return Err(at_source.map_or(DropReason::Foreign, DropReason::WrongKey));
        }
        if kind == Kind::AllTerminated {
            // From the guard, from whatever address it has left.
            return self.hear_testament(now, &datagram);
        }
        if at_source != Some(from) {
            return Err(DropReason::UnknownSender);
        }
        if to != Some(self.me.node) || sent_on != network.0 {
            return Err(DropReason::Misdirected);
        }
        if kind == Kind::Hello {
            return self.greet(now, network, &datagram);
        }
        let life = self.sessions.open(network, &datagram)?;
        let malformed = DropReason::Malformed(from);
        match kind {
            Kind::Heartbeat => self.hear(now, network, life, datagram.body)?,
            Kind::Fragment if self.hold => {}
            Kind::Fragment => {
                let fragment = Fragment::decode(datagram.body).map_err(|_| malformed)?;
                let Some(stream) = self.streams.get_mut(&from) else { return Ok(()) };
                stream.on_fragment(network, fragment).map_err(|_| malformed)?;
                while let Some(bytes) = stream.poll_message() {
                    let event = DriverEvent::Message { from: life, bytes };
                    self.outputs.push_back(Output::Event(event));
                }
            }
            Kind::MessageAck => {
                let ack = AckFrame::decode(datagram.body).map_err(|_| malformed)?;
                let Some(stream) = self.streams.get_mut(&from) else { return Ok(()) };
                stream.on_ack(now, network, &ack).map_err(|_| malformed)?;
                Self::release(&mut self.outputs, from, stream);
            }
            Kind::Hello | Kind::AllTerminated => {}
        }
        Ok(())
    }

    fn release(outputs: &mut VecDeque<Output>, node: NodeId, stream: &mut Stream) {
        let bytes = stream.take_released();
        if bytes > 0 {
            outputs.push_back(Output::Released { node, bytes });
        }
    }

    fn hear(
        &mut self,
        now: Instant,
        network: NetworkId,
        life: NodeInc,
        body: &[u8],
    ) -> Result<(), DropReason> {
        let malformed = DropReason::Malformed(life.node);
        let heartbeat: Heartbeat = codec::decode("heartbeat", body).map_err(|_| malformed)?;
        if heartbeat.inc != life.inc {
            return Err(malformed);
        }
        self.detector.handle(now, Input::Received { network, from: life.node, heartbeat });
        Ok(())
    }

    fn hear_testament(&mut self, now: Instant, datagram: &Datagram<'_>) -> Result<(), DropReason> {
        let forged = DropReason::Forged(datagram.header.from);
        let who = testament::open(datagram, &self.guard).ok_or(forged)?;
        if !self.paths.contains_key(&who.node) {
            // Also the end of an earlier life of this node, coming back to it.
            return Err(DropReason::UnknownSender);
        }
        let told = self.ended.entry(who.node).or_default();
        if told.insert(who) {
            while told.len() > TESTAMENTS_MAX {
                told.pop_first();
            }
            self.detector.handle(now, Input::Command(HeartbeatCommand::DeclareDead(who)));
            let event = DriverEvent::Dead { who, proof: Proof::AllTerminated };
            self.outputs.push_back(Output::Event(event));
        }
        Ok(())
    }

    fn greet(
        &mut self,
        now: Instant,
        network: NetworkId,
        datagram: &Datagram<'_>,
    ) -> Result<(), DropReason> {
        let from = datagram.header.from;
        let greeted = self.sessions.greet(now, network, datagram)?;
        if let Some(life) = greeted.established {
            self.begin(now, life);
        }
        if let Some(answer) = greeted.answer {
            let mut bytes = self.buffer();
            self.sessions.seal_answer(&mut bytes, network, from, answer);
            self.outputs.push_back(Output::Datagram { network, to: from, bytes });
        }
        Ok(())
    }

    /// A session with a life begins: what waited for an earlier one is dropped.
    fn begin(&mut self, now: Instant, life: NodeInc) {
        let node = life.node;
        let networks = self.paths.get(&node).cloned().unwrap_or_default();
        let mut stream = Stream::new(networks.clone());
        for network in networks {
            if self.up.contains(&(node, network)) {
                stream.set_path(network, true);
            }
        }
        if let Some(mut old) = self.streams.insert(node, stream) {
            Self::release(&mut self.outputs, node, &mut old);
            let bytes = old.queued();
            self.outputs.push_back(Output::Released { node, bytes });
        }
        self.outputs.push_back(Output::Event(DriverEvent::Session(life)));
        self.detector.handle(now, Input::Introduced { node });
    }

    /// A command for the failure detector.
    pub(crate) fn command(&mut self, now: Instant, command: HeartbeatCommand) {
        self.detector.handle(now, Input::Command(command));
        self.drain_detector();
    }

    /// Queues a message for a life of a peer; dropped if that life is over.
    pub(crate) fn send(&mut self, to: NodeInc, _class: Class, bytes: Vec<u8>) {
        let current = self.sessions.life(to.node) == Some(to);
        match self.streams.get_mut(&to.node).filter(|_| current) {
            Some(stream) => stream.send(bytes),
            None => {
                let bytes = crate::stream::cost(bytes.len());
                self.outputs.push_back(Output::Released { node: to.node, bytes });
            }
        }
    }

    /// The longest datagram (the payload of UDP) that passes on the way to a peer, or to all.
    pub(crate) fn set_mtu(&mut self, network: NetworkId, node: Option<NodeId>, bytes: usize) {
        let nodes = self.paths.iter().filter(|(_, networks)| networks.contains(&network));
        for (&peer, _) in nodes.filter(|&(&peer, _)| node.is_none_or(|node| node == peer)) {
            self.limits.insert((peer, network), bytes);
        }
    }

    /// The kernel would not send on a path.
    pub(crate) fn send_failed(&mut self, now: Instant, network: NetworkId, node: NodeId) {
        self.detector.handle(now, Input::PathHint { network, node });
        self.drain_detector();
    }

    /// Whether the core hangs: then no heartbeat leaves.
    pub(crate) fn set_mute(&mut self, mute: bool) {
        self.mute = mute;
    }

    /// Whether the core is behind with its events: then peers must keep their messages.
    pub(crate) fn set_hold(&mut self, hold: bool) {
        self.hold = hold;
    }

    /// Lets time pass. To be called when all that came in has been given, at
    /// [`Engine::next_deadline`] at the latest.
    pub(crate) fn tick(&mut self, now: Instant) {
        if self.detector.next_deadline().is_some_and(|at| now >= at) {
            self.detector.handle(now, Input::Deadline);
            self.drain_detector();
        }
        if now >= self.next_hello {
            self.next_hello = now + self.hello_period;
            self.say_hello();
        }
        self.drain_streams(now);
        while let Some((network, reason, count)) = self.drops.poll(now) {
            let event = DriverEvent::Dropped { network, reason, count };
            self.outputs.push_back(Output::Event(event));
        }
    }

    /// When to call [`Engine::tick`] at the latest.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        let greets = self.paths.keys().any(|&node| self.sessions.unconfirmed(node));
        let streams = self.streams.values().filter_map(Stream::next_deadline);
        streams
            .chain(self.detector.next_deadline())
            .chain(self.drops.next_deadline())
            .chain(greets.then_some(self.next_hello))
            .min()
    }

    /// The next thing to do.
    pub(crate) fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// Takes back the buffer of a datagram.
    pub(crate) fn recycle(&mut self, bytes: Vec<u8>) {
        if self.spare.len() < SPARE_MAX {
            self.spare.push(bytes);
        }
    }

    fn buffer(&mut self) -> Vec<u8> {
        self.spare.pop().unwrap_or_default()
    }

    /// To everyone who may not know this life yet.
    fn say_hello(&mut self) {
        for (&to, networks) in &self.paths {
            if !self.sessions.unconfirmed(to) {
                continue;
            }
            for &network in networks {
                let mut bytes = self.spare.pop().unwrap_or_default();
                self.sessions.seal_hello(&mut bytes, network, to);
                self.outputs.push_back(Output::Datagram { network, to, bytes });
            }
        }
    }

    fn drain_detector(&mut self) {
        while let Some(output) = self.detector.poll_output() {
            match output {
                DetectorOutput::Transmit { network, to, heartbeat } => {
                    if !self.mute {
                        let mut body = std::mem::take(&mut self.body);
                        body.clear();
                        codec::encode_into(&heartbeat, &mut body);
                        self.transmit(Kind::Heartbeat, network, to, &body);
                        self.body = body;
                    }
                }
                DetectorOutput::Notice(notice) => self.notice(notice),
            }
        }
    }

    fn notice(&mut self, notice: HeartbeatNotice) {
        match notice {
            HeartbeatNotice::Lease { end } => self.outputs.push_back(Output::Lease(end)),
            HeartbeatNotice::Path { network, node, up, .. } => {
                if up {
                    self.up.insert((node, network));
                } else {
                    self.up.remove(&(node, network));
                }
                if let Some(stream) = self.streams.get_mut(&node) {
                    stream.set_path(network, up);
                }
            }
            _ => {}
        }
        self.outputs.push_back(Output::Event(DriverEvent::Heartbeat(notice)));
    }

    fn drain_streams(&mut self, now: Instant) {
        let mut streams = std::mem::take(&mut self.streams);
        let mut body = std::mem::take(&mut self.body);
        for (&to, stream) in &mut streams {
            while let Some((network, frame)) = stream.poll_transmit(now) {
                let kind = match frame {
                    Frame::Fragment(fragment) => {
                        fragment.encode(&mut body);
                        Kind::Fragment
                    }
                    Frame::Ack(ack) => {
                        ack.encode(&mut body);
                        Kind::MessageAck
                    }
                };
                self.transmit(kind, network, to, &body);
            }
        }
        self.body = body;
        self.streams = streams;
    }

    fn transmit(&mut self, kind: Kind, network: NetworkId, to: NodeId, body: &[u8]) {
        let mut bytes = self.buffer();
        if self.sessions.seal(&mut bytes, kind, network, to, body) {
            self.outputs.push_back(Output::Datagram { network, to, bytes });
        } else {
            self.recycle(bytes);
        }
    }
}

#[cfg(test)]
mod tests;
