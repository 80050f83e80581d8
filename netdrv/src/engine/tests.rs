//! Engines without sockets: what passes between two of them, and what must stop at the door.

use std::time::Duration;

use proptest::prelude::*;
use wolfpack_types::heartbeat::Reach;
use wolfpack_types::{Incarnation, Rules, Times};

use super::*;
use crate::{ClusterKey, DriverNetwork, EventLoop, Security};

const START: Instant = Instant(1_000_000_000_000);
const NETS: [NetworkId; 2] = [NetworkId(0), NetworkId(1)];

fn node(n: u8) -> NodeId {
    NodeId::new(n).unwrap()
}

fn life(n: u8, inc: u64) -> NodeInc {
    NodeInc::new(node(n), Incarnation(inc))
}

fn address(network: NetworkId, n: u8) -> IpAddr {
    std::net::Ipv4Addr::new(10, network.0, 0, n).into()
}

fn config(me: NodeInc) -> DriverConfig {
    DriverConfig {
        me,
        key: ClusterKey::from_bytes([5; 32]),
        times: Times::STANDARD,
        port: 3343,
        networks: NETS
            .map(|id| DriverNetwork {
                id,
                name: format!("net{}", id.0),
                interface: "none".into(),
                address: address(id, me.node.get()),
                peers: [1, 2].map(|n| (node(n), address(id, n))).into(),
                priority: id.0,
            })
            .into(),
        realtime: false,
        event_loop: EventLoop::Auto,
        rules: Rules::ALL,
        security: Security::default(),
    }
}

/// One datagram on its way.
#[derive(Clone)]
struct Flying {
    network: NetworkId,
    from: u8,
    bytes: Vec<u8>,
}

/// Two engines, a clock, and everything that ever flew.
struct Lab {
    now: Instant,
    engines: [Engine; 2],
    events: [Vec<DriverEvent>; 2],
    flown: Vec<Flying>,
    cut: bool,
    key_log: Vec<String>,
}

impl Lab {
    fn new() -> Self {
        let engine = |n, salt| Engine::new(&config(life(n, 3)), Key::new([salt; 32]), START);
        Self {
            now: START,
            engines: [engine(1, 1), engine(2, 2)],
            events: [Vec::new(), Vec::new()],
            flown: Vec::new(),
            cut: false,
            key_log: Vec::new(),
        }
    }

    /// A fresh pair that has talked for a while.
    fn talking() -> Self {
        let mut lab = Self::new();
        lab.pass(Duration::from_millis(500));
        lab
    }

    fn pass(&mut self, span: Duration) {
        let end = self.now + span;
        while self.now <= end {
            let mut air = Vec::new();
            for n in 0..2 {
                self.engines[n].tick(self.now);
                air.extend(self.drain(n));
            }
            while let Some(flying) = air.pop() {
                self.flown.push(flying.clone());
                if !self.cut {
                    let to = usize::from(2 - flying.from);
                    self.give(to, &flying);
                    self.engines[to].tick(self.now);
                    air.extend(self.drain(to));
                }
            }
            let next = self.engines.iter().filter_map(Engine::next_deadline).min().unwrap();
            self.now = next.max(self.now + Duration::from_micros(1));
        }
        self.now = end;
    }

    fn give(&mut self, to: usize, flying: &Flying) {
        let source = address(flying.network, flying.from);
        self.engines[to].receive(self.now, flying.network, source, &flying.bytes);
    }

    fn drain(&mut self, n: usize) -> Vec<Flying> {
        let from = u8::try_from(n + 1).unwrap();
        let mut air = Vec::new();
        while let Some(output) = self.engines[n].poll_output() {
            match output {
                Output::Datagram { network, bytes, .. } => {
                    air.push(Flying { network, from, bytes });
                }
                Output::Event(event) => self.events[n].push(event),
                Output::KeyLog(line) => self.key_log.push(line),
                Output::Lease(_) | Output::Released { .. } | Output::Ended(_) => {}
            }
        }
        air
    }

    /// Reasons for which the second engine refused something, with their numbers.
    fn refused(&mut self, step: impl FnOnce(&mut Self)) -> Vec<(DropReason, u64)> {
        // Late enough for every counter to be told.
        self.now += Duration::from_secs(20);
        self.engines[1].tick(self.now);
        self.drain(1);
        self.events[1].clear();
        step(self);
        self.engines[1].tick(self.now);
        self.drain(1);
        let events = self.events[1].iter();
        events
            .filter_map(|event| match event {
                DriverEvent::Dropped { reason, count, .. } => Some((*reason, *count)),
                _ => None,
            })
            .collect()
    }
}

#[test]
fn two_engines_find_each_other_within_two_periods() {
    let mut lab = Lab::new();
    lab.pass(Times::STANDARD.heartbeat * 2);
    for (n, events) in lab.events.iter().enumerate() {
        let peer = u8::try_from(2 - n).unwrap();
        assert_eq!(events[0], DriverEvent::Session(life(peer, 3)));
        let up = |event: &DriverEvent| {
            matches!(event, DriverEvent::Heartbeat(HeartbeatNotice::Reach { reach: Reach::Up, .. }))
        };
        assert_eq!(events.iter().filter(|event| up(event)).count(), 1);
    }
    let hellos = |lab: &Lab| lab.flown.iter().filter(|f| f.bytes[5] == 1).count();
    let before = hellos(&lab);
    lab.pass(Duration::from_secs(2));
    assert_eq!(hellos(&lab), before, "a confirmed session needs no hellos");
}

#[test]
fn messages_pass_and_are_held_back_while_the_core_is_behind() {
    let mut lab = Lab::talking();
    lab.engines[1].set_hold(true);
    lab.engines[0].send(life(2, 3), Class::Control, b"one".to_vec());
    lab.engines[0].send(life(2, 3), Class::Control, b"two".to_vec());
    lab.engines[0].send(life(2, 2), Class::Control, b"to a former life".to_vec());
    lab.pass(Duration::from_millis(300));
    let messages = |lab: &Lab| {
        let texts = lab.events[1].iter().filter_map(|event| match event {
            DriverEvent::Message { from, bytes } => Some((*from, bytes.clone())),
            _ => None,
        });
        texts.collect::<Vec<_>>()
    };
    assert_eq!(messages(&lab), []);
    lab.engines[1].set_hold(false);
    lab.pass(Duration::from_millis(300));
    let (one, two) = (b"one".to_vec(), b"two".to_vec());
    assert_eq!(messages(&lab), [(life(1, 3), one), (life(1, 3), two)]);
}

#[test]
fn a_mute_engine_says_no_heartbeat() {
    let mut lab = Lab::talking();
    lab.engines[0].set_mute(true);
    lab.flown.clear();
    lab.pass(Duration::from_secs(2));
    assert!(lab.flown.iter().all(|f| f.from == 2 || f.bytes[5] != 2));
}

#[test]
fn everything_that_was_said_is_refused_when_it_comes_again() {
    let mut lab = Lab::talking();
    lab.engines[0].send(life(2, 3), Class::Control, vec![7; 5000]);
    lab.pass(Duration::from_millis(500));
    let said: Vec<Flying> = lab.flown.iter().filter(|f| f.from == 1).cloned().collect();
    let data = said.iter().filter(|f| f.bytes[5] != 1).count();
    assert!(data > 20);
    let refused = lab.refused(|lab| {
        for flying in &said {
            lab.give(1, flying);
        }
    });
    let sum: u64 = refused.iter().map(|(_, count)| count).sum();
    assert_eq!(sum, u64::try_from(data).unwrap(), "{refused:?}");
    assert!(refused.iter().all(|(reason, _)| *reason == DropReason::Replayed(node(1))));
    let believed = lab.events[1].iter().filter(|event| {
        matches!(
            event,
            DriverEvent::Message { .. }
                | DriverEvent::Heartbeat(HeartbeatNotice::Reach { reach: Reach::Up, .. })
        )
    });
    assert_eq!(believed.count(), 0);
}

#[test]
fn what_was_said_to_a_former_life_is_refused_by_the_next() {
    let mut lab = Lab::talking();
    let said: Vec<Flying> = lab.flown.iter().filter(|f| f.from == 1).cloned().collect();
    lab.engines[1] = Engine::new(&config(life(2, 4)), Key::new([9; 32]), lab.now);
    for flying in &said {
        lab.give(1, flying);
    }
    lab.engines[1].tick(lab.now);
    lab.drain(1);
    let session = |event: &DriverEvent| matches!(event, DriverEvent::Session(_));
    let earlier = lab.events[1].iter().filter(|event| session(event)).count();
    assert_eq!(earlier, 1, "that of the former life alone");
    // And then the real node 1 is heard.
    lab.pass(Duration::from_millis(500));
    assert_eq!(lab.events[1].iter().filter(|event| session(event)).count(), 2);
    let old = lab.refused(|lab| {
        for flying in said.iter().filter(|f| f.bytes[5] == 2) {
            lab.give(1, flying);
        }
    });
    assert!(old.iter().all(|(reason, _)| *reason == DropReason::OtherSession(node(1))), "{old:?}");
    assert!(!old.is_empty());
}

#[test]
fn each_wrong_datagram_has_its_reason() {
    let mut lab = Lab::talking();
    let beat = |lab: &mut Lab| -> Flying {
        lab.cut = true;
        lab.flown.clear();
        lab.pass(Times::STANDARD.heartbeat * 2);
        lab.cut = false;
        let own = |f: &&Flying| f.from == 1 && f.bytes[5] == 2 && f.network == NETS[0];
        lab.flown.iter().rev().find(own).unwrap().clone()
    };
    let good = beat(&mut lab);
    let with = |change: &dyn Fn(&mut Flying)| {
        let mut flying = good.clone();
        change(&mut flying);
        flying
    };
    let cases = [
        (with(&|f| f.bytes[0] = 0), DropReason::Foreign),
        (with(&|f| f.bytes[4] = 1), DropReason::Version { ours: 2, theirs: 1 }),
        (with(&|f| f.bytes[16] ^= 1), DropReason::WrongKey(node(1))),
        (with(&|f| f.bytes.truncate(31)), DropReason::Truncated),
        (with(&|f| f.bytes[6] = 2), DropReason::UnknownSender),
        (with(&|f| f.bytes[7] = 9), DropReason::Misdirected),
        (with(&|f| f.network = NETS[1]), DropReason::Misdirected),
        (with(&|f| f.bytes[12] ^= 1), DropReason::OtherSession(node(1))),
        (with(&|f| f.bytes[40] ^= 1), DropReason::Forged(node(1))),
        (with(&|f| f.bytes[5..10].copy_from_slice(&[5, 1, 2, 0, 0])), DropReason::Forged(node(1))),
        (with(&|f| f.bytes[5] = 1), DropReason::Foreign),
        (with(&|f| f.bytes[9] = 1), DropReason::Forged(node(1))),
    ];
    for (flying, reason) in cases {
        assert_eq!(lab.refused(|lab| lab.give(1, &flying)), [(reason, 1)]);
    }
    assert_eq!(lab.refused(|lab| lab.give(1, &good)), [], "and the right one passes");
}

/// What was captured can be read with the key log, and only with it.
#[test]
fn a_capture_is_told_in_words() {
    let mut lab = Lab::new();
    let logged = Security { key_log: Some("/unused".into()), ..Security::default() };
    let config = DriverConfig { security: logged, ..config(life(1, 3)) };
    lab.engines[0] = Engine::new(&config, Key::new([1; 32]), START);
    lab.pass(Duration::from_millis(500));
    lab.engines[0].send(life(2, 3), Class::Control, vec![1; 3000]);
    lab.pass(Duration::from_millis(500));
    let tell = |log: Option<&str>, lab: &Lab| {
        let mut dissector = crate::dissect::Dissector::new();
        dissector.set_cluster_key(ClusterKey::from_bytes([5; 32]));
        dissector.add_key_log(log.unwrap_or_default()).unwrap();
        lab.flown.iter().map(|f| dissector.describe(&f.bytes)).collect::<Vec<_>>().join("\n")
    };
    let without = tell(None, &lab);
    assert!(without.contains("hello from node 1 to node 2"), "{without}");
    assert!(without.contains("key generation") && without.contains("; authentic"), "{without}");
    assert!(without.contains("encrypted; its session is not in the key log"), "{without}");
    assert!(!without.contains("Heartbeat"), "{without}");
    let log = lab.key_log.join("\n");
    let with = tell(Some(&log), &lab);
    assert!(with.contains("Heartbeat {"), "{with}");
    assert!(with.contains("Control: bytes 0 to ") && with.contains("3000 bytes: "), "{with}");
    assert!(!with.contains("encrypted; its") && !with.contains("no sense"), "{with}");
}

/// What a datagram costs that is refused: told, and no memory. (The bound of the time is generous,
/// because tests are not optimised and machines are busy; the figure is what is printed by
/// `cargo test --release`.)
#[test]
fn refused_datagrams_leave_nothing_behind() {
    let mut lab = Lab::talking();
    let heartbeat = lab.flown.iter().rev().find(|f| f.from == 1 && f.bytes[5] == 2);
    let replayed = heartbeat.unwrap().clone();
    let mut forged = replayed.clone();
    forged.bytes[24..32].copy_from_slice(&u64::MAX.to_le_bytes());
    forged.bytes[33] ^= 1;
    let mut unknown = replayed.clone();
    unknown.from = 77;
    let mut hello = lab.flown.iter().find(|f| f.from == 1 && f.bytes[5] == 1).unwrap().clone();
    let recorded = hello.clone();
    hello.bytes[40] ^= 1;
    lab.drain(1);
    for (what, flying) in [
        ("replayed", &replayed),
        ("forged", &forged),
        ("of an unknown sender", &unknown),
        ("a forged hello", &hello),
        ("a recorded hello", &recorded),
    ] {
        let begin = std::time::Instant::now();
        for _ in 0..20_000 {
            lab.give(1, flying);
        }
        println!("{what}: {} ns", begin.elapsed().as_nanos() / 20_000);
        assert!(lab.engines[1].outputs.len() <= 10, "{what}: {}", lab.engines[1].outputs.len());
        lab.drain(1);
    }
}

#[test]
fn the_guards_word_counts_once_for_each_life_and_only_for_peers() {
    let key = ClusterKey::from_bytes([5; 32]);
    let mut lab = Lab::talking();
    let word = |who| Flying { network: NETS[0], from: 1, bytes: testament::seal(&key, who) };
    for _ in 0..3 {
        lab.give(1, &word(life(1, 2)));
        lab.give(1, &word(life(1, 3)));
    }
    lab.drain(1);
    let dead: Vec<_> = lab.events[1]
        .iter()
        .filter_map(|event| match event {
            DriverEvent::Dead { who, proof: Proof::AllTerminated } => Some(*who),
            _ => None,
        })
        .collect();
    assert_eq!(dead, [life(1, 2), life(1, 3)]);
    let own = lab.refused(|lab| lab.give(1, &word(life(2, 2))));
    assert_eq!(own, [(DropReason::UnknownSender, 1)]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    /// Real datagrams with a bit flipped, cut, extended, or from elsewhere: refused, counted, and
    /// nothing of them is believed.
    #[test]
    fn damaged_datagrams_are_refused_and_counted(
        pick in any::<prop::sample::Index>(), bit in any::<prop::sample::Index>(),
        cut in any::<prop::sample::Index>(), how in 0..3u8,
    ) {
        let mut lab = Lab::talking();
        lab.cut = true;
        lab.engines[0].send(life(2, 3), Class::Control, vec![7; 3000]);
        lab.pass(Duration::from_millis(250));
        let unseen: Vec<_> = lab.flown.iter().rev().take(20).filter(|f| f.from == 1).collect();
        let mut flying = (*pick.get(&unseen)).clone();
        match how {
            0 => {
                let bit = bit.index(flying.bytes.len() * 8);
                flying.bytes[bit / 8] ^= 1 << (bit % 8);
            }
            1 => flying.bytes.truncate(cut.index(flying.bytes.len())),
            _ => flying.bytes.push(0),
        }
        let refused = lab.refused(|lab| lab.give(1, &flying));
        prop_assert_eq!(refused.len(), 1);
    }

    #[test]
    fn rubbish_is_refused_and_counted(bytes in proptest::collection::vec(any::<u8>(), 0..1500), mark in any::<bool>()) {
        let mut bytes = bytes;
        if mark && bytes.len() > 5 {
            bytes[..5].copy_from_slice(b"WPCK\x02");
        }
        let mut lab = Lab::new();
        let flying = Flying { network: NETS[0], from: 1, bytes };
        let refused = lab.refused(|lab| lab.give(1, &flying));
        prop_assert_eq!(refused.len(), 1);
    }
}
