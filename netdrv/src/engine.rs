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
use crate::key::{Generation, Key};
use crate::packet::{self, BODY_BYTES_MAX, Datagram, FormError, Header, Kind, VERSION};
use crate::seal::MacKey;
use crate::session::Sessions;
use crate::stream::Stream;
use crate::{ClusterKey, DriverConfig, DriverEvent, DropReason, testament};

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
        class: Class,
        bytes: usize,
    },
    /// There is no session with this peer any more.
    Ended(NodeId),
    /// A line for the key log.
    KeyLog(String),
}

/// Buffers kept for later datagrams.
const SPARE_MAX: usize = 320;
/// Lives of one peer whose end was told already; more only if it dies more often while we live.
const TESTAMENTS_MAX: usize = 64;

/// The streams to all peers, and when they are to be looked at: with 64 nodes of which nobody says
/// anything but heartbeats, not in every turn of the loop.
#[derive(Debug, Default)]
struct Streams {
    all: BTreeMap<NodeId, Stream>,
    /// Something was done to one of them since they were looked at.
    stirred: bool,
    /// When the first of them is due by the clock, as of then.
    due: Option<Instant>,
}

impl Streams {
    fn get_mut(&mut self, node: &NodeId) -> Option<&mut Stream> {
        self.stirred = true;
        self.all.get_mut(node)
    }

    fn insert(&mut self, node: NodeId, stream: Stream) {
        self.stirred = true;
        self.all.insert(node, stream);
    }

    fn remove(&mut self, node: &NodeId) -> Option<Stream> {
        self.stirred = true;
        self.all.remove(node)
    }

    fn are_due(&self, now: Instant) -> bool {
        self.next_deadline().is_some_and(|at| now >= at)
    }

    fn next_deadline(&self) -> Option<Instant> {
        if self.stirred { Some(Instant::ZERO) } else { self.due }
    }

    /// They were looked at.
    fn settle(&mut self, hold: bool) {
        self.stirred = false;
        // Messages that waited for the core need no clock any more.
        let waiting = !hold && self.all.values().any(Stream::waits);
        let due = self.all.values().filter_map(Stream::next_deadline);
        self.due = due.chain(waiting.then_some(Instant::ZERO)).min();
    }
}

/// The driver of one node, without its sockets.
#[derive(Debug)]
pub(crate) struct Engine {
    me: NodeInc,
    /// By network, the peer at each address.
    addresses: BTreeMap<NetworkId, BTreeMap<IpAddr, NodeId>>,
    paths: BTreeMap<NodeId, BTreeSet<NetworkId>>,
    /// How messages prefer the networks: the lowest first.
    priorities: BTreeMap<NetworkId, u8>,
    /// The longest datagrams of paths that do not take the usual length.
    limits: BTreeMap<(NodeId, NetworkId), usize>,
    sessions: Sessions,
    guards: Vec<(Generation, MacKey)>,
    detector: Detector,
    streams: Streams,
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
            priorities: config.networks.iter().map(|n| (n.id, n.priority)).collect(),
            limits: BTreeMap::new(),
            sessions: Sessions::new(config.me, &config.key, &config.security, seed, &paths, now),
            guards: testament::guard_keys(&config.key),
            detector: Detector::new(detector, now),
            streams: Streams::default(),
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
        let mut space = std::mem::take(&mut self.body);
        let opened = self.sessions.open(now, network, &datagram, &mut space);
        let heard = opened.and_then(|(life, body)| self.listen(now, network, life, kind, body));
        self.body = space;
        heard
    }

    /// What a life of a peer says in a session.
    fn listen(
        &mut self,
        now: Instant,
        network: NetworkId,
        life: NodeInc,
        kind: Kind,
        body: &[u8],
    ) -> Result<(), DropReason> {
        let from = life.node;
        let malformed = DropReason::Malformed(from);
        match kind {
            Kind::Heartbeat => self.hear(now, network, life, body)?,
            Kind::Stream => {
                let Some(stream) = self.streams.get_mut(&from) else { return Ok(()) };
                stream.on_datagram(now, network, body, self.hold).map_err(|_| malformed)?;
                self.deliver(life);
            }
            Kind::Hello | Kind::AllTerminated => {}
        }
        Ok(())
    }

    /// Gives the core what a stream has for it.
    fn deliver(&mut self, from: NodeInc) {
        let Some(stream) = self.streams.get_mut(&from.node) else { return };
        while let Some(bytes) = stream.poll_message() {
            self.outputs.push_back(Output::Event(DriverEvent::Message { from, bytes }));
        }
        for class in Class::ALL {
            let bytes = stream.take_released(class);
            if bytes > 0 {
                self.outputs.push_back(Output::Released { node: from.node, class, bytes });
            }
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
        let who = testament::open(datagram, &self.guards).ok_or(forged)?;
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
            if self.sessions.seal_answer(&mut bytes, network, from, answer) {
                self.outputs.push_back(Output::Datagram { network, to: from, bytes });
            }
        }
        Ok(())
    }

    /// A session with a life begins: what waited for an earlier one is dropped.
    fn begin(&mut self, now: Instant, life: NodeInc) {
        let node = life.node;
        self.end_stream(node);
        let networks = self.paths.get(&node).into_iter().flatten();
        let first = |network| self.priorities.get(network).copied().unwrap_or(u8::MAX);
        let mut stream = Stream::new(networks.clone().map(|n| (*n, first(n))).collect());
        for &network in networks {
            if self.up.contains(&(node, network)) {
                stream.set_path(network, true);
            }
            if let Some(&limit) = self.limits.get(&(node, network)) {
                stream.set_limit(network, limit);
            }
        }
        self.streams.insert(node, stream);
        self.outputs.push_back(Output::Event(DriverEvent::Session(life)));
        self.detector.handle(now, Input::Introduced { node });
    }

    /// What waits for a peer waits for nothing any more.
    fn end_stream(&mut self, node: NodeId) {
        let Some(mut stream) = self.streams.remove(&node) else { return };
        for class in Class::ALL {
            let bytes = stream.take_released(class) + stream.queued(class);
            self.outputs.push_back(Output::Released { node, class, bytes });
        }
    }

    /// Other generations of the cluster key; sessions are replaced one by one.
    pub(crate) fn set_keys(&mut self, key: &ClusterKey) {
        self.sessions.set_keys(key);
        self.guards = testament::guard_keys(key);
    }

    /// Whether a peer is refused whatever it says: then its session ends, too.
    pub(crate) fn expel(&mut self, node: NodeId, expelled: bool) {
        self.sessions.expel(node, expelled);
        if expelled {
            self.end_stream(node);
            self.outputs.push_back(Output::Ended(node));
        }
    }

    /// This life of a peer is refused for good, and its session ends.
    pub(crate) fn expel_life(&mut self, who: NodeInc) {
        if self.sessions.expel_life(who) {
            self.end_stream(who.node);
            self.outputs.push_back(Output::Ended(who.node));
        }
    }

    /// The longest datagram (the payload of UDP) that passes on the way to a peer, or to all. Taken
    /// between 548 bytes and the usual length.
    pub(crate) fn set_mtu(&mut self, network: NetworkId, node: Option<NodeId>, bytes: usize) {
        let nodes = self.paths.iter().filter(|(_, networks)| networks.contains(&network));
        for (&peer, _) in nodes.filter(|&(&peer, _)| node.is_none_or(|node| node == peer)) {
            self.limits.insert((peer, network), bytes);
            if let Some(stream) = self.streams.get_mut(&peer) {
                stream.set_limit(network, bytes);
            }
        }
    }

    /// A command for the failure detector.
    pub(crate) fn command(&mut self, now: Instant, command: HeartbeatCommand) {
        self.detector.handle(now, Input::Command(command));
        self.drain_detector();
    }

    /// Queues a message for a life of a peer; dropped if that life is over.
    pub(crate) fn send(&mut self, to: NodeInc, class: Class, bytes: Vec<u8>) {
        let current = self.sessions.life(to.node) == Some(to);
        match self.streams.get_mut(&to.node).filter(|_| current) {
            Some(stream) => stream.send(class, bytes),
            None => {
                let bytes = crate::stream::cost(bytes.len());
                self.outputs.push_back(Output::Released { node: to.node, class, bytes });
            }
        }
    }

    /// The kernel would not send on a path.
    pub(crate) fn send_failed(&mut self, now: Instant, network: NetworkId, node: NodeId) {
        self.detector.handle(now, Input::PathHint { network, node });
        self.drain_detector();
    }

    /// Whether the own interface of a network can work, as the kernel says: for the states of
    /// networks, which the leader judges by what all nodes say.
    pub(crate) fn set_interface(&mut self, now: Instant, network: NetworkId, works: bool) {
        self.detector.handle(now, Input::Interface { network, works });
        self.drain_detector();
    }

    /// Whether the core hangs: then no heartbeat leaves.
    pub(crate) fn set_mute(&mut self, mute: bool) {
        self.mute = mute;
    }

    /// Whether the core is behind with its events: then peers must keep their messages.
    pub(crate) fn set_hold(&mut self, hold: bool) {
        self.streams.stirred |= self.hold && !hold;
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
            self.say_hello(now);
        }
        while let Some(line) = self.sessions.poll_key_log() {
            self.outputs.push_back(Output::KeyLog(line));
        }
        if self.streams.are_due(now) {
            self.drain_streams(now);
            self.streams.settle(self.hold);
        }
        while let Some((network, reason, count)) = self.drops.poll(now) {
            let event = DriverEvent::Dropped { network, reason, count };
            self.outputs.push_back(Output::Event(event));
        }
    }

    /// When to call [`Engine::tick`] at the latest.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        let greets = self.sessions.greets_from().map(|from| from.max(self.next_hello));
        let streams = self.streams.next_deadline().into_iter();
        streams
            .chain(self.detector.next_deadline())
            .chain(self.drops.next_deadline())
            .chain(greets)
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
    fn say_hello(&mut self, now: Instant) {
        for (&to, networks) in &self.paths {
            if !self.sessions.greets(now, to) {
                continue;
            }
            for &network in networks {
                let mut bytes = self.spare.pop().unwrap_or_default();
                if self.sessions.seal_hello(&mut bytes, network, to) {
                    self.outputs.push_back(Output::Datagram { network, to, bytes });
                }
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
        let waiting = |stream: &Stream| stream.waits();
        if !self.hold && self.streams.all.values().any(waiting) {
            self.resume(now);
        }
        for (&to, stream) in &mut self.streams.all {
            stream.tick(now);
            while stream.has_datagram(now) {
                let mut bytes = self.spare.pop().unwrap_or_default();
                packet::begin(&mut bytes);
                let network = stream.poll_transmit(now, &mut bytes);
                match network {
                    Some(network) if self.sessions.seal(&mut bytes, Kind::Stream, network, to) => {
                        self.outputs.push_back(Output::Datagram { network, to, bytes });
                    }
                    // No network, or the session has just ended.
                    _ => break,
                }
            }
        }
    }

    /// The core takes messages again: what waited goes on.
    fn resume(&mut self, now: Instant) {
        let nodes: Vec<NodeId> = self.streams.all.keys().copied().collect();
        for node in nodes {
            let resumed = self.streams.get_mut(&node).map(|stream| stream.resume(now));
            if resumed == Some(Err(crate::stream::Malformed)) {
                tracing::warn!(node = node.get(), "sent messages that make no sense");
            }
            if let Some(life) = self.sessions.life(node) {
                self.deliver(life);
            }
        }
    }

    fn transmit(&mut self, kind: Kind, network: NetworkId, to: NodeId, body: &[u8]) {
        let mut bytes = self.buffer();
        packet::begin(&mut bytes);
        bytes.extend_from_slice(body);
        if self.sessions.seal(&mut bytes, kind, network, to) {
            self.outputs.push_back(Output::Datagram { network, to, bytes });
        } else {
            self.recycle(bytes);
        }
    }
}

#[cfg(test)]
mod soak;
#[cfg(test)]
mod tests;
