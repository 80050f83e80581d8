//! Drivers over real sockets: each node has its own loopback addresses, the port is the same.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant as StdInstant};

use crossbeam_channel::{Receiver, bounded, unbounded};
use wolfpack_netdrv::{
    ClusterKey, Driver, DriverConfig, DriverError, DriverEvent, DriverNetwork, DropReason,
    EventLoop, MESSAGE_BYTES_MAX, Security, SendError, start, testament,
};
use wolfpack_types::event::Proof;
use wolfpack_types::heartbeat::{HeartbeatCommand, HeartbeatNotice, LeaseTerms, Reach};
use wolfpack_types::peer::Class;
use wolfpack_types::{Incarnation, Instant, NetworkId, NodeId, NodeInc, Rules, Times, VoteTable};

/// Far beyond anything that should happen: a test fails by it, never measures.
const PATIENCE: Duration = Duration::from_secs(60);
const NETS: [NetworkId; 2] = [NetworkId(0), NetworkId(1)];

fn node(n: u8) -> NodeId {
    NodeId::new(n).unwrap()
}

fn life(n: u8, inc: u64) -> NodeInc {
    NodeInc::new(node(n), Incarnation(inc))
}

fn key() -> ClusterKey {
    ClusterKey::from_bytes([42; 32])
}

/// A port for this test alone, and addresses in 127/8 for this process alone.
struct Place {
    port: u16,
    block: [u8; 2],
    event_loop: EventLoop,
}

impl Place {
    fn new(event_loop: EventLoop) -> Self {
        let any = UdpSocket::bind("127.0.0.1:0").unwrap();
        let port = any.local_addr().unwrap().port();
        let [high, low] = port.to_be_bytes();
        Self { port, block: [high, low.max(1)], event_loop }
    }

    fn address(&self, network: NetworkId, n: u8) -> IpAddr {
        let [a, b] = self.block;
        Ipv4Addr::new(127, a, b, network.0 * 64 + n).into()
    }

    fn config(&self, me: NodeInc, nodes: u8) -> DriverConfig {
        let networks = NETS.map(|id| DriverNetwork {
            id,
            name: format!("net{}", id.0),
            interface: "lo".into(),
            address: self.address(id, me.node.get()),
            peers: (1..=nodes)
                .filter(|&n| n != me.node.get())
                .map(|n| (node(n), self.address(id, n)))
                .collect(),
            priority: id.0,
        });
        DriverConfig {
            me,
            key: key(),
            times: Times::STANDARD,
            port: self.port,
            networks: networks.into(),
            realtime: false,
            event_loop: self.event_loop,
            rules: Rules::ALL,
            security: Security::default(),
        }
    }
}

/// A driver and what it said.
struct Node {
    driver: Driver,
    events: Receiver<DriverEvent>,
    lease: Arc<AtomicU64>,
}

impl Node {
    fn start(config: DriverConfig) -> Self {
        let (notify, events) = unbounded();
        let lease = Arc::new(AtomicU64::new(0));
        let published = Arc::clone(&lease);
        let publish = Box::new(move |end: Instant| published.store(end.0, Ordering::Release));
        Self { driver: start(config, publish, notify).unwrap(), events, lease }
    }

    /// Waits for an event; all before it are passed over.
    fn until<T>(&self, what: &str, mut wanted: impl FnMut(&DriverEvent) -> Option<T>) -> T {
        let end = StdInstant::now() + PATIENCE;
        let mut seen = Vec::new();
        while StdInstant::now() < end {
            // This core lives, whether there are events or not.
            self.driver.core_alive();
            let Ok(event) = self.events.recv_timeout(Duration::from_millis(100)) else { continue };
            if let Some(found) = wanted(&event) {
                return found;
            }
            seen.push(event);
        }
        panic!("never came: {what}; last events: {:#?}", &seen[seen.len().saturating_sub(20)..]);
    }

    fn until_reach(&self, n: u8, reach: Reach) {
        self.until(&format!("{reach:?} of {n}"), |event| match event {
            DriverEvent::Heartbeat(HeartbeatNotice::Reach { node: who, reach: now, .. }) => {
                (*who == node(n) && *now == reach).then_some(())
            }
            _ => None,
        });
    }

    fn until_message(&self) -> (NodeInc, Vec<u8>) {
        self.until("a message", |event| match event {
            DriverEvent::Message { from, bytes } => Some((*from, bytes.clone())),
            _ => None,
        })
    }

    /// A change of reach on the way is a failure.
    fn until_message_undisturbed(&self) -> Vec<u8> {
        self.until("a message", |event| match event {
            DriverEvent::Message { bytes, .. } => Some(bytes.clone()),
            DriverEvent::Heartbeat(HeartbeatNotice::Reach { .. }) => panic!("{event:?}"),
            _ => None,
        })
    }

    fn until_dropped(&self, wanted: impl Fn(DropReason) -> bool) -> (DropReason, u64) {
        self.until("a refusal", |event| match event {
            DriverEvent::Dropped { reason, count, .. } if wanted(*reason) => {
                Some((*reason, *count))
            }
            _ => None,
        })
    }

    /// Sends as soon as there is a session.
    fn send(&self, to: u8, bytes: Vec<u8>) {
        let end = StdInstant::now() + PATIENCE;
        loop {
            match self.driver.send(node(to), Class::Control, bytes.clone()) {
                Ok(()) => return,
                Err(SendError::NoSession(_)) if StdInstant::now() < end => {
                    std::thread::sleep(Duration::from_millis(5));
                }
                Err(error) => panic!("{error}"),
            }
        }
    }
}

fn pair(place: &Place) -> (Node, Node) {
    // Real-time where it is allowed, and a warning where not, on one side.
    let one = Node::start(DriverConfig { realtime: true, ..place.config(life(1, 1), 2) });
    let two = Node::start(place.config(life(2, 1), 2));
    one.until_reach(2, Reach::Up);
    two.until_reach(1, Reach::Up);
    (one, two)
}

fn pattern(length: usize, seed: usize) -> Vec<u8> {
    (0..length).map(|n| u8::try_from((n * 31 + seed) % 251).unwrap()).collect()
}

fn messages_of_all_sizes_arrive_in_order_in_both_directions(event_loop: EventLoop) {
    let place = Place::new(event_loop);
    let (one, two) = pair(&place);
    let sizes = [1, 0, 7, 1335, 1336, 1337, 4096, 65_536, 1 << 20, 3];
    for (seed, &size) in sizes.iter().enumerate() {
        one.send(2, pattern(size, seed));
        two.send(1, pattern(size, seed + 100));
    }
    for (seed, &size) in sizes.iter().enumerate() {
        assert!(two.until_message() == (life(1, 1), pattern(size, seed)), "{size} bytes");
        assert!(one.until_message() == (life(2, 1), pattern(size, seed + 100)), "{size} bytes");
    }
}

fn a_stopped_node_becomes_unreachable_and_its_next_life_is_heard(event_loop: EventLoop) {
    let place = Place::new(event_loop);
    let (one, two) = pair(&place);
    two.driver.stop();
    one.until_reach(2, Reach::Suspected);
    one.until_reach(2, Reach::Unreachable);
    let two = Node::start(place.config(life(2, 2), 2));
    one.until("the next life", |event| (*event == DriverEvent::Session(life(2, 2))).then_some(()));
    one.until_reach(2, Reach::Up);
    one.send(2, b"welcome back".to_vec());
    assert_eq!(two.until_message(), (life(1, 1), b"welcome back".to_vec()));
}

fn acknowledgements_make_a_lease_and_its_end_is_published(event_loop: EventLoop) {
    let place = Place::new(event_loop);
    let (one, two) = pair(&place);
    let both = VoteTable { nodes: BTreeMap::from([(node(1), 1), (node(2), 1)]), witness: 0 };
    one.driver.command(HeartbeatCommand::SetLeaseTerms(LeaseTerms {
        tables: vec![both],
        ..LeaseTerms::default()
    }));
    two.driver.command(HeartbeatCommand::SetMask { id: 3, mask: [life(1, 1)].into() });
    two.until("the mask in force", |event| {
        let in_force = HeartbeatNotice::MaskInForce { id: 3, last_ack: BTreeMap::new() };
        match (event, in_force) {
            (DriverEvent::Heartbeat(HeartbeatNotice::MaskInForce { id: 3, last_ack }), _) => {
                assert!(last_ack.contains_key(&node(1)));
                Some(())
            }
            _ => None,
        }
    });
    let end = one.until("a lease", |event| match event {
        DriverEvent::Heartbeat(HeartbeatNotice::Lease { end }) if *end > Driver::now() => {
            Some(*end)
        }
        _ => None,
    });
    assert!(one.lease.load(Ordering::Acquire) >= end.0, "published before it is told");
    assert!(end <= Driver::now() + Times::STANDARD.lease);
}

fn another_key_is_refused_and_said(event_loop: EventLoop) {
    let place = Place::new(event_loop);
    let one = Node::start(place.config(life(1, 1), 2));
    let other = ClusterKey::from_bytes([43; 32]);
    let two = Node::start(DriverConfig { key: other, ..place.config(life(2, 1), 2) });
    let (reason, count) = one.until_dropped(|_| true);
    assert_eq!(reason, DropReason::WrongKey(node(2)));
    assert!(count >= 1);
    assert!(reason.to_string().contains("another cluster key"), "{reason}");
    let (reason, _) = two.until_dropped(|_| true);
    assert_eq!(reason, DropReason::WrongKey(node(1)));
    assert_eq!(
        one.driver.send(node(2), Class::Control, vec![1]),
        Err(SendError::NoSession(node(2)))
    );
}

/// Stands where a node should be and keeps what is sent to it.
fn eavesdrop(place: &Place, n: u8) -> UdpSocket {
    let at = SocketAddr::new(place.address(NETS[0], n), place.port);
    let socket = UdpSocket::bind(at).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

fn captured_datagrams_are_refused_when_they_come_again(event_loop: EventLoop) {
    let place = Place::new(event_loop);
    // A man in the middle: node 2's traffic to node 1 passes through him on network 0.
    let config = place.config(life(2, 1), 2);
    let mut diverted = config.clone();
    let middle = place.address(NETS[0], 33);
    diverted.networks.truncate(1);
    diverted.networks[0].peers.insert(node(1), middle);
    let ear = eavesdrop(&place, 33);
    let one = Node::start(place.config(life(1, 1), 2));
    let two = Node::start(diverted);
    let target = SocketAddr::new(place.address(NETS[0], 1), place.port);
    let mut captured = Vec::new();
    let mut buffer = [0; 2000];
    // From an address that is not node 2's nothing is taken at all.
    let length = ear.recv(&mut buffer).unwrap();
    ear.send_to(&buffer[..length], target).unwrap();
    let (reason, _) = one.until_dropped(|_| true);
    assert_eq!(reason, DropReason::UnknownSender);
    two.driver.stop();
    // With node 2's own address, which only a spoofer on the wire has: hellos, but no session.
    let spoof = UdpSocket::bind((place.address(NETS[0], 2), 0)).unwrap();
    ear.set_nonblocking(true).unwrap();
    captured.push(buffer[..length].to_vec());
    while let Ok(length) = ear.recv(&mut buffer) {
        captured.push(buffer[..length].to_vec());
    }
    for datagram in &captured {
        spoof.send_to(datagram, target).unwrap();
    }
    // Rubbish, truncation, a flipped bit, another version.
    let mut flipped = captured[0].clone();
    flipped[40] ^= 1;
    spoof.send_to(&flipped, target).unwrap();
    assert_eq!(one.until_dropped(|_| true).0, DropReason::Forged(node(2)));
    spoof.send_to(&captured[0][..50], target).unwrap();
    assert_eq!(one.until_dropped(|_| true).0, DropReason::Truncated);
    spoof.send_to(b"a datagram of something else altogether", target).unwrap();
    assert_eq!(one.until_dropped(|_| true).0, DropReason::Foreign);
    let mut version = captured[0].clone();
    version[4] = 7;
    spoof.send_to(&version, target).unwrap();
    let (reason, _) = one.until_dropped(|_| true);
    assert_eq!(reason, DropReason::Version { ours: 2, theirs: 7 });
    assert_eq!(
        one.driver.send(node(2), Class::Control, vec![1]),
        Err(SendError::NoSession(node(2)))
    );
}

fn the_guards_word_makes_a_peer_unreachable_at_once(event_loop: EventLoop) {
    let place = Place::new(event_loop);
    let (one, _two) = pair(&place);
    let target = SocketAddr::new(place.address(NETS[1], 1), place.port);
    let guard = UdpSocket::bind((place.address(NETS[1], 2), 0)).unwrap();
    let forged = testament::seal(&ClusterKey::from_bytes([9; 32]), life(2, 1));
    guard.send_to(&forged, target).unwrap();
    assert_eq!(one.until_dropped(|_| true).0, DropReason::WrongKey(node(2)));
    let word = testament::seal(&key(), life(2, 1));
    for _ in 0..3 {
        guard.send_to(&word, target).unwrap();
    }
    let dead = DriverEvent::Dead { who: life(2, 1), proof: Proof::AllTerminated };
    one.until("the proof", |event| (*event == dead).then_some(()));
    one.until_reach(2, Reach::Unreachable);
}

fn a_second_driver_on_the_same_port_is_refused_in_words(event_loop: EventLoop) {
    let place = Place::new(event_loop);
    let _one = Node::start(place.config(life(1, 1), 2));
    let (notify, _events) = bounded(1);
    let error = start(place.config(life(1, 2), 2), Box::new(|_| {}), notify).unwrap_err();
    assert!(matches!(error, DriverError::PortInUse { .. }), "{error}");
    assert!(error.to_string().contains("another wolfpackd"), "{error}");
}

fn a_missing_interface_is_one_path_down_and_said(event_loop: EventLoop) {
    let place = Place::new(event_loop);
    let mut config = place.config(life(1, 1), 2);
    config.networks[0].interface = "wp-not-there".into();
    let one = Node::start(config);
    let two = Node::start(place.config(life(2, 1), 2));
    one.until("the failure", |event| match event {
        DriverEvent::BindFailed { network: NetworkId(0), error } => {
            assert!(error.contains("wp-not-there"), "{error}");
            Some(())
        }
        _ => None,
    });
    two.until_reach(1, Reach::Up);
    one.send(2, b"over the other".to_vec());
    assert_eq!(two.until_message().1, b"over the other");
}

fn what_cannot_be_sent_is_refused(event_loop: EventLoop) {
    let place = Place::new(event_loop);
    let one = Node::start(place.config(life(1, 1), 2));
    assert_eq!(
        one.driver.send(node(9), Class::Control, vec![]),
        Err(SendError::UnknownNode(node(9)))
    );
    let long = vec![0; MESSAGE_BYTES_MAX + 1];
    assert!(matches!(
        one.driver.send(node(2), Class::Control, long),
        Err(SendError::TooLong { .. })
    ));
}

fn a_peer_that_takes_nothing_fills_a_bounded_queue(event_loop: EventLoop) {
    let place = Place::new(event_loop);
    let (one, two) = pair(&place);
    two.driver.stop();
    let mut taken = 0;
    let full = loop {
        match one.driver.send(node(2), Class::Control, vec![0; 1 << 20]) {
            Ok(()) => taken += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(full, SendError::Full { .. }), "{full}");
    assert_eq!(taken, 31);
    // The next life starts with an empty queue.
    let two = Node::start(place.config(life(2, 2), 2));
    one.until("the next life", |event| (*event == DriverEvent::Session(life(2, 2))).then_some(()));
    one.send(2, b"first".to_vec());
    assert_eq!(two.until_message(), (life(1, 1), b"first".to_vec()));
    for _ in 0..20 {
        one.send(2, vec![0; 1 << 20]);
    }
}

fn a_slow_core_loses_no_message(event_loop: EventLoop) {
    let place = Place::new(event_loop);
    let (notify, events) = bounded(2);
    let two = start(place.config(life(2, 1), 2), Box::new(|_| {}), notify).unwrap();
    let one = Node::start(place.config(life(1, 1), 2));
    for n in 0..500usize {
        one.send(2, pattern(n, n));
    }
    let mut next = 0;
    let end = StdInstant::now() + PATIENCE;
    while next < 500 {
        let event = events.recv_deadline(end).expect("all messages arrive");
        two.core_alive();
        if let DriverEvent::Message { bytes, .. } = event {
            assert!(bytes == pattern(next, next), "message {next}");
            next += 1;
        }
        if next % 100 == 50 {
            std::thread::sleep(Duration::from_millis(30));
        }
    }
}

fn a_core_that_hangs_silences_the_heartbeats(event_loop: EventLoop) {
    let place = Place::new(event_loop);
    let times = Times { hang_timeout: Duration::from_millis(300), ..Times::STANDARD };
    let one = Node::start(place.config(life(1, 1), 2));
    let two = Node::start(DriverConfig { times, ..place.config(life(2, 1), 2) });
    one.until_reach(2, Reach::Up);
    one.until_reach(2, Reach::Unreachable);
    two.driver.core_alive();
    one.until_reach(2, Reach::Up);
}

fn a_flood_of_garbage_makes_nobody_suspected(event_loop: EventLoop) {
    let place = Place::new(event_loop);
    let (one, two) = pair(&place);
    let target = SocketAddr::new(place.address(NETS[0], 1), place.port);
    // Of another cluster; of this one, but from an address that no peer has; of nobody.
    let other = testament::seal(&ClusterKey::from_bytes([9; 32]), life(2, 1));
    let mut stranger = testament::seal(&key(), life(2, 1));
    stranger[5] = 2;
    let kinds = [other, stranger, b"nothing that has a meaning, and longer than a header".to_vec()];
    let stop = AtomicU64::new(0);
    std::thread::scope(|scope| {
        let sent = scope.spawn(|| {
            let from = UdpSocket::bind((place.address(NETS[0], 40), 0)).unwrap();
            let mut sent = 0_u64;
            while stop.load(Ordering::Relaxed) == 0 {
                for kind in &kinds {
                    // A full socket takes no more for the moment: it is flooded all the same.
                    sent += u64::from(from.send_to(kind, target).is_ok());
                }
            }
            sent
        });
        let started = one.until("the flood", |event| match event {
            DriverEvent::Flood { network, per_second } => {
                assert!(*network == NETS[0] && *per_second > 1000, "{event:?}");
                Some(one.driver.stats())
            }
            DriverEvent::Heartbeat(HeartbeatNotice::Reach { .. }) => panic!("{event:?}"),
            _ => None,
        });
        // While it goes on, for longer than a detection takes, messages pass both ways ...
        let begun = StdInstant::now();
        let mut round = 0;
        while begun.elapsed() < Times::STANDARD.detect() * 2 {
            round += 1;
            one.send(2, pattern(3000, round));
            assert!(two.until_message_undisturbed() == pattern(3000, round));
            two.send(1, pattern(3000, round));
            assert!(one.until_message_undisturbed() == pattern(3000, round));
            std::thread::sleep(Duration::from_millis(50));
        }
        let (started, now) = (started.received, one.driver.stats().received);
        stop.store(1, Ordering::Relaxed);
        let sent = sent.join().unwrap();
        // ... and little of it comes up.
        assert!(now - started < sent / 4, "{} of {sent} came up", now - started);
    });
    for node in [&one, &two] {
        let lost = node
            .events
            .try_iter()
            .find(|event| matches!(event, DriverEvent::Heartbeat(HeartbeatNotice::Reach { .. })));
        assert_eq!(lost, None, "nobody is suspected");
    }
}

/// The same tests under both event loops.
macro_rules! under_both_loops {
    ($($name:ident),* $(,)?) => {
        mod uring {
            $(#[test] fn $name() { super::$name(super::EventLoop::Uring); })*
        }
        mod epoll {
            $(#[test] fn $name() { super::$name(super::EventLoop::Epoll); })*
        }
    };
}

under_both_loops!(
    messages_of_all_sizes_arrive_in_order_in_both_directions,
    a_stopped_node_becomes_unreachable_and_its_next_life_is_heard,
    acknowledgements_make_a_lease_and_its_end_is_published,
    another_key_is_refused_and_said,
    captured_datagrams_are_refused_when_they_come_again,
    the_guards_word_makes_a_peer_unreachable_at_once,
    a_second_driver_on_the_same_port_is_refused_in_words,
    a_missing_interface_is_one_path_down_and_said,
    what_cannot_be_sent_is_refused,
    a_peer_that_takes_nothing_fills_a_bounded_queue,
    a_slow_core_loses_no_message,
    a_core_that_hangs_silences_the_heartbeats,
    a_flood_of_garbage_makes_nobody_suspected,
);
