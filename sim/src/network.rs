//! The networks between the nodes: links that can be cut in one direction and on one network alone,
//! datagrams that are lost, late, reordered and doubled, and the reliable ordered streams on top.
//!
//! A stream belongs to two lives. What cannot pass is held until the link heals or a life ends;
//! what a dead life had already sent still arrives. It decides nothing about content, except where
//! a directed scene has set a [`Rigging`].

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use wolfpack_types::peer::PeerMessage;
use wolfpack_types::{NetworkId, NodeId, NodeInc};

use crate::clock::Time;
use crate::draw::{Delays, Dice, nanos};

/// The most networks there are; every node is on all that a run has.
pub const NETWORKS_MAX: u8 = 3;

/// The shortest and longest wait before a lost segment of a stream is sent again.
const RETRANSMIT: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(200));

/// Messages by name, for scenes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Heartbeat,
    Prepare,
    Promise,
    Accept,
    Accepted,
    Established,
    Append,
    Other,
}

impl Kind {
    /// The kind of a message of a core.
    #[must_use]
    pub const fn of(message: &PeerMessage) -> Self {
        match message {
            PeerMessage::Prepare { .. } => Self::Prepare,
            PeerMessage::Promise(_) => Self::Promise,
            PeerMessage::Accept(_) => Self::Accept,
            PeerMessage::Accepted { .. } => Self::Accepted,
            PeerMessage::Established { .. } => Self::Established,
            PeerMessage::Append { .. } => Self::Append,
            _ => Self::Other,
        }
    }
}

/// What a scene does to a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    Pass,
    Lose,
    Late(Duration),
}

/// A scene's choice for each message, by sender, receiver and kind.
pub type Rigging = fn(NodeId, NodeId, Kind) -> Fate;

/// Between two lives.
pub type Lane = (NodeInc, NodeInc);

/// A stream's messages, each with the time at which it may arrive.
#[derive(Debug, Default)]
struct Stream {
    waiting: VecDeque<(Time, Box<PeerMessage>)>,
    last_due: Time,
}

/// All links and streams.
#[derive(Debug)]
pub struct Network {
    cut: BTreeSet<(NetworkId, NodeId, NodeId)>,
    streams: BTreeMap<Lane, Stream>,
    rigging: Option<Rigging>,
    pub delays: Delays,
    pub loss: u32,
    pub twice: u32,
    /// Datagrams that arrive changed, in a thousand: the receiver's session drops them.
    pub corrupt: u32,
    /// How many networks there are.
    count: u8,
}

impl Network {
    /// Everything connected.
    #[must_use]
    pub fn new(delays: Delays, count: u8) -> Self {
        Self {
            cut: BTreeSet::new(),
            streams: BTreeMap::new(),
            rigging: None,
            delays,
            loss: 0,
            twice: 0,
            corrupt: 0,
            count: count.clamp(1, NETWORKS_MAX),
        }
    }

    /// Cuts one direction on one network.
    pub fn cut(&mut self, network: NetworkId, from: NodeId, to: NodeId) {
        self.cut.insert((network, from, to));
    }

    /// All networks.
    pub fn ids(&self) -> impl Iterator<Item = NetworkId> + use<> {
        (0..self.count).map(NetworkId)
    }

    /// Cuts one direction on every network.
    pub fn cut_all(&mut self, from: NodeId, to: NodeId) {
        for network in self.ids() {
            self.cut(network, from, to);
        }
    }

    /// Connects one direction on every network again. The answer: as of [`Network::heal`].
    pub fn mend(
        &mut self,
        now: Time,
        dice: &mut Dice,
        from: NodeId,
        to: NodeId,
    ) -> Vec<(Time, Lane)> {
        self.cut.retain(|&(_, a, b)| (a, b) != (from, to));
        self.wake_streams(now, dice, |lane| (lane.0.node, lane.1.node) == (from, to))
    }

    /// A directed scene takes over the fate of messages, or gives it back.
    pub const fn rig(&mut self, rigging: Option<Rigging>) {
        self.rigging = rigging;
    }

    /// Whether datagrams pass in this direction on this network.
    #[must_use]
    pub fn passes(&self, network: NetworkId, from: NodeId, to: NodeId) -> bool {
        !self.cut.contains(&(network, from, to))
    }

    fn passes_somewhere(&self, from: NodeId, to: NodeId) -> bool {
        self.cut.is_empty() || self.ids().any(|n| self.passes(n, from, to))
    }

    fn fate(&self, from: NodeId, to: NodeId, kind: Kind) -> Fate {
        self.rigging.map_or(Fate::Pass, |rigged| rigged(from, to, kind))
    }

    /// When a datagram arrives: none, one or two times.
    pub fn datagram(
        &self,
        now: Time,
        dice: &mut Dice,
        network: NetworkId,
        from: NodeId,
        to: NodeId,
    ) -> [Option<Time>; 2] {
        let mut extra = Duration::ZERO;
        match self.fate(from, to, Kind::Heartbeat) {
            Fate::Pass => {}
            Fate::Lose => return [None, None],
            Fate::Late(by) => extra = by,
        }
        if (!self.cut.is_empty() && !self.passes(network, from, to)) || dice.permille(self.loss) {
            return [None, None];
        }
        let mut arrival = || now + nanos(self.delays.draw(dice) + extra);
        let first = Some(arrival());
        let second = arrival();
        [first, dice.permille(self.twice).then_some(second)]
    }

    /// Puts a message on the stream of two lives; the answer says when to [`Network::arrive`].
    /// `resent`: its first transmission is known not to have arrived.
    pub fn post(
        &mut self,
        now: Time,
        dice: &mut Dice,
        lane: Lane,
        message: PeerMessage,
        resent: bool,
    ) -> Option<Time> {
        let mut delay = self.delays.draw(dice);
        if resent {
            delay += dice.between(RETRANSMIT.0, RETRANSMIT.1);
        }
        match self.fate(lane.0.node, lane.1.node, Kind::of(&message)) {
            Fate::Pass => {}
            Fate::Lose => return None,
            Fate::Late(by) => delay += by,
        }
        while dice.permille(self.loss) {
            delay += dice.between(RETRANSMIT.0, RETRANSMIT.1);
        }
        let stream = self.streams.entry(lane).or_default();
        let due = (now + nanos(delay)).max(stream.last_due);
        stream.last_due = due;
        stream.waiting.push_back((due, Box::new(message)));
        Some(due)
    }

    /// The next message of a stream, if its time has come and the link lets it pass.
    pub fn arrive(&mut self, now: Time, lane: Lane) -> Option<PeerMessage> {
        if !self.passes_somewhere(lane.0.node, lane.1.node) {
            return None;
        }
        let stream = self.streams.get_mut(&lane)?;
        if stream.waiting.front().is_none_or(|&(due, _)| due > now) {
            return None;
        }
        stream.waiting.pop_front().map(|(_, message)| *message)
    }

    /// Connects everything again. The answer: when which stream has something to deliver.
    pub fn heal(&mut self, now: Time, dice: &mut Dice) -> Vec<(Time, Lane)> {
        self.cut.clear();
        self.wake_streams(now, dice, |_| true)
    }

    fn wake_streams(
        &mut self,
        now: Time,
        dice: &mut Dice,
        which: impl Fn(&Lane) -> bool,
    ) -> Vec<(Time, Lane)> {
        let mut polls = Vec::new();
        for (&lane, stream) in self.streams.iter_mut().filter(|(lane, _)| which(lane)) {
            let mut last = now;
            for (due, _) in &mut stream.waiting {
                if *due <= now {
                    *due = now + nanos(self.delays.draw(dice));
                }
                *due = (*due).max(last);
                last = *due;
                polls.push((*due, lane));
            }
            stream.last_due = stream.last_due.max(last);
        }
        polls
    }

    /// A life is over: nothing reaches it any more, and of what it sent only the beginning of what
    /// was on its way arrives.
    pub fn life_over(&mut self, dice: &mut Dice, life: NodeInc) {
        self.streams.retain(|lane, _| lane.1 != life);
        for (lane, stream) in &mut self.streams {
            if lane.0 == life && !stream.waiting.is_empty() {
                let keep = dice.index(stream.waiting.len() + 1);
                stream.waiting.truncate(keep);
            }
        }
        self.streams.retain(|lane, stream| lane.0 != life || !stream.waiting.is_empty());
    }

    /// The receiver has met a newer life of the sender: the old stream is dropped.
    pub fn forget(&mut self, to: NodeInc, older_than: NodeInc) {
        self.streams.retain(|(from, dest), _| {
            *dest != to || from.node != older_than.node || from.inc >= older_than.inc
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wolfpack_types::{Ballot, Incarnation, Seq};

    fn life(node: u8, inc: u64) -> NodeInc {
        NodeInc::new(NodeId::new(node).unwrap(), Incarnation(inc))
    }

    fn message(seq: u64) -> PeerMessage {
        PeerMessage::Commit { ballot: Ballot::ZERO, seq: Seq(seq) }
    }

    fn delays() -> Delays {
        Delays { quick_us: 100, usual_us: 5_000, slow_us: 90_000 }
    }

    #[test]
    fn streams_keep_their_order_through_loss_cut_and_heal() {
        let mut net = Network::new(delays(), 2);
        net.loss = 300;
        let mut dice = Dice::new(1, 1);
        let lane = (life(1, 1), life(2, 1));
        let mut polls: Vec<Time> = (0..50)
            .filter_map(|k| net.post(k * 1000, &mut dice, lane, message(k), false))
            .collect();
        net.cut_all(lane.0.node, lane.1.node);
        let end = *polls.iter().max().unwrap();
        assert!(net.arrive(end, lane).is_none(), "a cut link lets nothing pass");
        polls = net.heal(end, &mut dice).into_iter().map(|(t, _)| t).collect();
        let mut got = Vec::new();
        for at in polls {
            while let Some(PeerMessage::Commit { seq, .. }) = net.arrive(at, lane) {
                got.push(seq.0);
            }
        }
        assert_eq!(got, (0..50).collect::<Vec<_>>());
    }

    #[test]
    fn a_dead_life_leaves_only_a_beginning_and_receives_nothing() {
        let mut net = Network::new(delays(), 2);
        let mut dice = Dice::new(2, 1);
        let (a, b) = (life(1, 1), life(2, 1));
        for k in 0..9 {
            net.post(0, &mut dice, (a, b), message(k), false);
            net.post(0, &mut dice, (b, a), message(k), false);
        }
        net.life_over(&mut dice, a);
        assert!(net.arrive(Time::MAX, (b, a)).is_none());
        let mut next = 0;
        while let Some(PeerMessage::Commit { seq, .. }) = net.arrive(Time::MAX, (a, b)) {
            assert_eq!(seq.0, next);
            next += 1;
        }
    }

    #[test]
    fn one_network_is_enough_for_a_stream() {
        let mut net = Network::new(delays(), 2);
        let mut dice = Dice::new(3, 1);
        let lane = (life(1, 1), life(2, 1));
        net.cut(NetworkId(0), lane.0.node, lane.1.node);
        net.post(0, &mut dice, lane, message(1), false);
        assert!(net.arrive(Time::MAX, lane).is_some());
        let [first, _] = net.datagram(0, &mut dice, NetworkId(0), lane.0.node, lane.1.node);
        assert!(first.is_none());
    }
}
