//! Hours of sessions and streams in seconds: three nodes over two networks that lose, repeat, delay,
//! reorder and fall silent; nodes that restart; clocks that jump; keys that change. Every message
//! arrives once and in the order of its class for each pair of lives, and memory stays bounded.
//!
//! `WOLFPACK_SOAK_HOURS` says how long (default: a minute), `WOLFPACK_SOAK_SEED` which
//! run. The driver here is deterministic: a failure names its seed and can be looked at again.

use std::collections::BTreeMap;
use std::time::Duration;

use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore, SeedableRng};
use wolfpack_types::{Incarnation, Rules, Times};

use super::*;
use crate::{ClusterKey, DriverNetwork, EventLoop, Security};

const NETS: [NetworkId; 2] = [NetworkId(0), NetworkId(1)];
const NODES: u8 = 3;
/// Bytes that wait for one peer at most: what the driver's handle enforces, smaller here.
const QUEUE_MAX: usize = 4 << 20;

fn node(n: u8) -> NodeId {
    NodeId::new(n).unwrap()
}

fn address(network: NetworkId, n: u8) -> IpAddr {
    std::net::Ipv4Addr::new(10, network.0, 0, n).into()
}

fn first_key() -> ClusterKey {
    ClusterKey::from_bytes([5; 32])
}

/// One life of a node, as its core sees it.
struct Life {
    engine: Engine,
    me: NodeInc,
    /// Lives that it has sessions with.
    peers: BTreeMap<NodeId, NodeInc>,
    /// Numbers of the messages sent to a life, and received from one, by class.
    sent: BTreeMap<(NodeInc, Class), u64>,
    received: BTreeMap<(NodeInc, Class), u64>,
    queued: BTreeMap<NodeId, usize>,
    /// How far its clock is ahead of the common one.
    ahead: Duration,
    hold: bool,
}

/// What a network is like for a while, in percent and milliseconds.
#[derive(Clone, Copy, Debug, Default)]
struct Weather {
    loss: u32,
    doubled: u32,
    delay_max: u32,
    dead: bool,
}

type Flying = (u8, u8, NetworkId, Vec<u8>);

struct World {
    now: Instant,
    dice: ChaCha8Rng,
    lives: BTreeMap<u8, Life>,
    incarnations: [u64; NODES as usize],
    weather: [Weather; 2],
    flying: BTreeMap<(Instant, u64), Flying>,
    /// Old datagrams, fed back at times.
    recorded: Vec<Flying>,
    flown: u64,
    key: ClusterKey,
    generation: u8,
    delivered: u64,
    restarts: u64,
    names: BTreeSet<u32>,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut world = Self {
            now: Instant(1_000_000_000_000),
            dice: ChaCha8Rng::seed_from_u64(seed),
            lives: BTreeMap::new(),
            incarnations: [0; NODES as usize],
            weather: [Weather::default(); 2],
            flying: BTreeMap::new(),
            recorded: Vec::new(),
            flown: 0,
            key: first_key(),
            generation: 5,
            delivered: 0,
            restarts: 0,
            names: BTreeSet::new(),
        };
        for n in 1..=NODES {
            world.start(n);
        }
        world
    }

    fn roll(&mut self, below: u32) -> u32 {
        self.dice.next_u32() % below
    }

    fn start(&mut self, n: u8) {
        self.incarnations[usize::from(n - 1)] += 1;
        let me = NodeInc::new(node(n), Incarnation(self.incarnations[usize::from(n - 1)]));
        let networks = NETS.map(|id| DriverNetwork {
            id,
            name: format!("net{}", id.0),
            interface: "none".into(),
            address: address(id, n),
            peers: (1..=NODES).map(|n| (node(n), address(id, n))).collect(),
            priority: id.0,
        });
        let config = DriverConfig {
            me,
            key: self.key.clone(),
            times: Times::STANDARD,
            port: 3343,
            networks: networks.into(),
            realtime: false,
            event_loop: EventLoop::Auto,
            rules: Rules::ALL,
            security: Security::default(),
        };
        let mut seed = Key::new([0; 32]);
        self.dice.fill_bytes(seed.as_mut_slice());
        let ahead = Duration::from_secs(u64::from(self.roll(1000)));
        let life = Life {
            engine: Engine::new(&config, seed, self.now + ahead),
            me,
            peers: BTreeMap::new(),
            sent: BTreeMap::new(),
            received: BTreeMap::new(),
            queued: BTreeMap::new(),
            ahead,
            hold: false,
        };
        self.lives.insert(n, life);
    }

    /// Something happens: about once a second.
    fn mischief(&mut self) {
        let n = u8::try_from(self.roll(u32::from(NODES))).unwrap() + 1;
        match self.roll(200) {
            0..40 => {
                let calm = self.roll(2) == 0;
                let weather = Weather {
                    loss: if calm { 0 } else { self.roll(40) },
                    doubled: if calm { 0 } else { self.roll(20) },
                    delay_max: self.roll(if calm { 2 } else { 60 }),
                    dead: self.roll(8) == 0,
                };
                let at = usize::try_from(self.roll(2)).unwrap();
                self.weather[at] = weather;
            }
            // A life ends without a word, and the next one begins.
            40..46 => {
                self.restarts += 1;
                self.start(n);
            }
            63..66 => {
                let jump = Duration::from_millis(u64::from(self.roll(5000)));
                let life = self.lives.get_mut(&n).unwrap();
                life.ahead += jump;
            }
            46..63 => {
                let life = self.lives.get_mut(&n).unwrap();
                life.hold = !life.hold;
                life.engine.set_hold(life.hold);
            }
            // The cluster key is changed, step by step, on all nodes one after the other.
            66 => {
                let (old, new) = (self.generation, self.generation + 1);
                self.generation = if new == 250 { 6 } else { new };
                let step = |key: u8, also| first_key().changed([key; 32], also);
                let steps =
                    [step(old, Some([new; 32])), step(new, Some([old; 32])), step(new, None)];
                for key in steps {
                    for life in self.lives.values_mut() {
                        life.engine.set_keys(&key);
                    }
                    self.key = key;
                    for _ in 0..40 {
                        self.pass(Duration::from_millis(100));
                    }
                }
            }
            67..70 => {
                let network = NETS[usize::try_from(self.roll(2)).unwrap()];
                let bytes = 548 + usize::try_from(self.roll(900)).unwrap();
                self.lives.get_mut(&n).unwrap().engine.set_mtu(network, None, bytes);
            }
            // A recording comes back.
            70..80 => {
                for _ in 0..20 {
                    let many = u32::try_from(self.recorded.len()).unwrap();
                    if many == 0 {
                        break;
                    }
                    let pick = usize::try_from(self.roll(many)).unwrap();
                    let (from, to, network, bytes) = self.recorded[pick].clone();
                    self.arrive(from, to, network, &bytes);
                }
            }
            _ => {}
        }
    }

    /// Each core sends something now and then.
    fn talk(&mut self) {
        for n in 1..=NODES {
            if self.roll(4) != 0 {
                continue;
            }
            let peers: Vec<NodeInc> = self.lives[&n].peers.values().copied().collect();
            for to in peers {
                let class = Class::ALL[usize::try_from(self.roll(2)).unwrap()];
                let many = 1 + self.roll(4);
                for _ in 0..many {
                    let extra = match self.roll(400) {
                        0 => self.roll(300_000),
                        1..50 => self.roll(8000),
                        _ => self.roll(200),
                    };
                    let extra = usize::try_from(extra).unwrap();
                    let life = self.lives.get_mut(&n).unwrap();
                    let queued = life.queued.entry(to.node).or_default();
                    if *queued + extra > QUEUE_MAX {
                        continue;
                    }
                    let number = life.sent.entry((to, class)).or_default();
                    *number += 1;
                    let mut bytes = number.to_le_bytes().to_vec();
                    bytes.push(if class == Class::Control { 0 } else { 1 });
                    bytes.resize(9 + extra, u8::try_from(*number % 251).unwrap());
                    *queued += crate::stream::cost(bytes.len());
                    life.engine.send(to, class, bytes);
                }
            }
        }
    }

    fn arrive(&mut self, from: u8, to: u8, network: NetworkId, bytes: &[u8]) {
        let now = self.now;
        let life = self.lives.get_mut(&to).unwrap();
        life.engine.receive(now + life.ahead, network, address(network, from), bytes);
    }

    fn drain(&mut self, n: u8) {
        while let Some(output) = self.lives.get_mut(&n).unwrap().engine.poll_output() {
            match output {
                Output::Datagram { network, to, bytes } => self.fly(n, to.get(), network, bytes),
                Output::Event(event) => self.hear(n, event),
                Output::Released { node, bytes, .. } => {
                    let queued = self.lives.get_mut(&n).unwrap().queued.entry(node).or_default();
                    *queued = queued.checked_sub(bytes).expect("released once");
                }
                Output::Lease(_) | Output::Ended(_) | Output::KeyLog(_) => {}
            }
        }
    }

    fn fly(&mut self, from: u8, to: u8, network: NetworkId, bytes: Vec<u8>) {
        let weather = self.weather[usize::from(network.0)];
        self.flown += 1;
        if bytes[5] != 1 {
            self.names.insert(u32::from_le_bytes(bytes[12..16].try_into().unwrap()));
        }
        if self.flown.is_multiple_of(97) {
            let at = usize::try_from(self.flown / 97 % 4096).unwrap();
            let record = (from, to, network, bytes.clone());
            if at < self.recorded.len() {
                self.recorded[at] = record;
            } else {
                self.recorded.push(record);
            }
        }
        let copies =
            u32::from(self.roll(100) >= weather.loss) + u32::from(self.roll(100) < weather.doubled);
        for copy in 0..if weather.dead { 0 } else { copies } {
            let micros = 100 + self.roll(weather.delay_max * 1000 + 1);
            let at = self.now + Duration::from_micros(micros.into());
            let key = (at, self.flown * 2 + u64::from(copy));
            self.flying.insert(key, (from, to, network, bytes.clone()));
        }
    }

    fn hear(&mut self, n: u8, event: DriverEvent) {
        let life = self.lives.get_mut(&n).unwrap();
        match event {
            DriverEvent::Session(peer) => {
                let before = life.peers.insert(peer.node, peer);
                assert!(before.is_none_or(|before| before.inc < peer.inc), "lives only go on");
            }
            DriverEvent::Message { from, bytes } => {
                assert_eq!(life.peers.get(&from.node), Some(&from), "of a life that is known");
                let (number, rest) = bytes.split_first_chunk().unwrap();
                let number = u64::from_le_bytes(*number);
                let class = Class::ALL[usize::from(rest[0])];
                let filled = u8::try_from(number % 251).unwrap();
                assert!(rest[1..].iter().all(|&byte| byte == filled), "as it was sent");
                let next = life.received.entry((from, class)).or_default();
                *next += 1;
                assert_eq!(number, *next, "once and in order, from {from} to {}", life.me);
                self.delivered += 1;
                // Nothing that was never sent.
                if let Some(sender) = self.lives.get(&from.node.get()).filter(|l| l.me == from) {
                    let sent = sender.sent.get(&(self.lives[&n].me, class)).copied();
                    assert!(sent >= Some(number), "{number} of {sent:?}");
                }
            }
            DriverEvent::Dropped { reason, .. } => {
                let fine = matches!(
                    reason,
                    DropReason::NoSession
                        | DropReason::OtherSession(_)
                        | DropReason::Replayed(_)
                        | DropReason::OldLife(_)
                        | DropReason::WrongKey(_)
                );
                assert!(fine, "{reason:?}");
            }
            _ => {}
        }
    }

    fn pass(&mut self, span: Duration) {
        let end = self.now + span;
        while self.now < end {
            for n in 1..=NODES {
                let life = self.lives.get_mut(&n).unwrap();
                let own = self.now + life.ahead;
                if life.engine.next_deadline().is_some_and(|at| at <= own) {
                    life.engine.tick(own);
                }
                self.drain(n);
            }
            let due = self.lives.values().filter_map(|life| {
                let at = life.engine.next_deadline()?;
                Some(Instant(at.0.saturating_sub(u64::try_from(life.ahead.as_nanos()).unwrap())))
            });
            let arrival = self.flying.keys().next().map(|key| key.0);
            let next = due.chain(arrival).chain([end]).min().unwrap();
            self.now = next.max(self.now + Duration::from_micros(20));
            while let Some(entry) = self.flying.first_entry().filter(|e| e.key().0 <= self.now) {
                let (from, to, network, bytes) = entry.remove();
                self.arrive(from, to, network, &bytes);
            }
        }
    }

    fn look_at_memory(&self) {
        assert!(self.flying.len() < 100_000, "{} datagrams in the air", self.flying.len());
        for life in self.lives.values() {
            assert!(life.engine.spare.len() <= SPARE_MAX);
            for stream in life.engine.streams.all.values() {
                assert!(stream.bytes_early() <= 2 * crate::stream::WINDOW_BYTES);
            }
        }
    }

    /// Fair weather, nothing new: what was sent between lives that are still there arrives.
    fn settle(&mut self) {
        self.weather = [Weather::default(); 2];
        for life in self.lives.values_mut() {
            life.hold = false;
            life.engine.set_hold(false);
        }
        self.pass(Duration::from_secs(30));
        let lives: BTreeMap<NodeId, &Life> =
            self.lives.values().map(|life| (life.me.node, life)).collect();
        for life in lives.values() {
            for (to, peer) in lives.iter().filter(|(to, _)| **to != life.me.node) {
                assert_eq!(life.peers.get(to), Some(&peer.me), "a session with the present life");
                for class in Class::ALL {
                    let sent = life.sent.get(&(peer.me, class));
                    let received = peer.received.get(&(life.me, class));
                    assert_eq!(sent, received, "{} to {}, {class:?}", life.me, peer.me);
                }
                assert_eq!(life.queued.get(to).copied().unwrap_or(0), 0, "all is acknowledged");
            }
        }
    }
}

fn number(name: &str) -> Option<f64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn sessions_and_streams_bear_everything_for_hours() {
    let hours = number("WOLFPACK_SOAK_HOURS").unwrap_or(1.0 / 60.0);
    let seed = std::env::var("WOLFPACK_SOAK_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or(20_261_120);
    println!("soak of {hours} hours, seed {seed}");
    let mut world = World::new(seed);
    let span = Duration::from_secs_f64(hours * 3600.0);
    let end = world.now + span;
    let mut turns = 0u32;
    while world.now < end {
        world.mischief();
        for _ in 0..5 {
            world.talk();
            world.pass(Duration::from_millis(200));
        }
        world.look_at_memory();
        turns += 1;
        if turns.is_multiple_of(50) {
            world.settle();
        }
    }
    world.settle();
    let (delivered, flown) = (world.delivered, world.flown);
    let (restarts, sessions) = (world.restarts, world.names.len());
    println!("{delivered} messages, {flown} datagrams, {restarts} restarts, {sessions} sessions");
    // Three pairs of nodes have a session each at the beginning.
    assert!(delivered > 100 && restarts > 0 && sessions > 3, "it did test something");
}
