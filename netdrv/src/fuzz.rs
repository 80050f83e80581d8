//! For `fuzz/` alone: the decoders, and what stands behind them, fed as a peer would.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use wolfpack_types::peer::Class;
use wolfpack_types::{Incarnation, Instant, NetworkId, NodeId, NodeInc, Rules, Times};

use crate::engine::Engine;
use crate::handshake::Hello;
use crate::key::Key;
use crate::packet::{Datagram, Header, Kind, Protection, cluster_tag, sign};
use crate::session::Sessions;
use crate::stream::Stream;
use crate::{ClusterKey, DriverConfig, DriverNetwork, EventLoop, Security};

const NET: NetworkId = NetworkId(0);
const START: Instant = Instant(1_000_000_000_000);

fn node(n: u8) -> NodeId {
    NodeId::new(n).expect("1 to 64")
}

fn key() -> ClusterKey {
    ClusterKey::from_bytes([7; 32])
}

fn engine() -> Engine {
    let address = |n| IpAddr::from(Ipv4Addr::new(10, 0, 0, n));
    let network = DriverNetwork {
        id: NET,
        name: "net".into(),
        interface: "none".into(),
        address: address(1),
        peers: BTreeMap::from([(node(2), address(2))]),
        priority: 0,
    };
    let config = DriverConfig {
        me: NodeInc::new(node(1), Incarnation(3)),
        key: key(),
        times: Times::STANDARD,
        port: 3343,
        networks: vec![network],
        realtime: false,
        event_loop: EventLoop::Auto,
        rules: Rules::ALL,
        security: Security::default(),
    };
    Engine::new(&config, Key::new([9; 32]), START)
}

/// Datagrams as anybody may send them: the first byte of each gives its length.
pub fn packet(data: &[u8]) {
    let _ = Datagram::parse(data);
    let mut engine = engine();
    let mut rest = data;
    while let Some((&length, after)) = rest.split_first() {
        let (bytes, after) = after.split_at(usize::from(length).min(after.len()));
        engine.receive(START, NET, Ipv4Addr::new(10, 0, 0, 2).into(), bytes);
        rest = after;
    }
    engine.receive(START, NET, Ipv4Addr::new(10, 0, 0, 2).into(), data);
    engine.tick(START + Duration::from_millis(100));
    while engine.poll_output().is_some() {}
}

/// Hellos of a holder of the keys: bodies one after the other.
pub fn hello(data: &[u8]) {
    if let Ok(hello) = Hello::decode(data) {
        assert_eq!(hello.encode()[..], *data);
    }
    let paths = |n| BTreeMap::from([(node(n), BTreeSet::from([NET]))]);
    let life = |n| NodeInc::new(node(n), Incarnation(3));
    let sessions = |me: u8, peer, seed| {
        let security = Security::default();
        Sessions::new(life(me), &key(), &security, Key::new([seed; 32]), &paths(peer), START)
    };
    let (mut one, two) = (sessions(1, 2, 1), sessions(2, 1, 2));
    let mut out = Vec::new();
    one.seal_hello(&mut out, NET, node(2));
    for (n, body) in data.chunks(Hello::BYTES).enumerate() {
        let mut body = body.to_vec();
        // Every other one gives the offer back, as an adversary with the keys could.
        if n % 2 == 0 && body.len() == Hello::BYTES {
            body[56..88].copy_from_slice(&out[32 + 24..32 + 56]);
            body[88] = 1 | body[88] & 6;
            body[89] &= 1;
            body[90] &= 1;
        }
        let (generation, mac) = two.hello_key(node(1)).expect("a peer");
        let header = Header {
            kind: Kind::Hello,
            from: node(2),
            to: Some(node(1)),
            network: 0,
            protection: Protection::Mac,
            session: generation,
            tag: cluster_tag(key().cluster_id()),
            counter: 0,
        };
        let mut bytes = Vec::new();
        sign(&mut bytes, &header, &body, mac);
        let datagram = Datagram::parse(&bytes).expect("well-formed");
        let now = START + Duration::from_secs(2) * u32::try_from(n).unwrap_or(0);
        if let Ok(greeted) = one.greet(now, NET, &datagram)
            && let Some(answer) = greeted.answer
        {
            one.seal_answer(&mut out, NET, node(2), answer);
        }
        one.seal_hello(&mut out, NET, node(2));
    }
}

/// Bodies of stream datagrams of a peer: two bytes of length before each.
pub fn stream(data: &[u8]) {
    let mut stream = Stream::new(BTreeMap::from([(NET, 0)]));
    stream.send(Class::Control, vec![1; 5000]);
    stream.send(Class::Bulk, vec![2; 5000]);
    let (mut rest, mut now, mut out) = (data, START, Vec::new());
    while let Some((&[low, high], after)) = rest.split_first_chunk() {
        let length = usize::from(u16::from_le_bytes([low, high]));
        let (body, after) = after.split_at((length & 0x7ff).min(after.len()));
        let _ = stream.on_datagram(now, NET, body, high & 0x80 != 0);
        let _ = stream.resume(now);
        stream.tick(now);
        for _ in 0..100 {
            out.clear();
            if stream.poll_transmit(now, &mut out).is_none() {
                break;
            }
        }
        while stream.poll_message().is_some() {}
        now += Duration::from_millis(7);
        rest = after;
    }
}

/// The file of a cluster key.
pub fn key_file(data: &[u8]) {
    if let Some(key) = ClusterKey::parse(data) {
        let _ = key.cluster_id();
    }
}
