//! The network driver alone, as one node of a measurement: `cargo xtask bench net` starts one in each
//! network namespace. Arguments are `key=value`; it says `ready` when it hears all peers, and a line of
//! JSON at its end. Nothing of the cluster is in it but the driver.
//!
//! ```text
//! mode=idle     lives and counts what it suspects
//! mode=flood    sends messages to all peers as fast as they take them
//! mode=ring     sends a message to all peers, waits for all answers, again
//! mode=answer   the other end of both
//! mode=crowd    many nodes (id=FIRST last=LAST) in one process
//! mode=garbage  no node: datagrams that are none, to=ADDRESS rate=PER_SECOND
//! ```

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, UdpSocket};
use std::process::ExitCode;
use std::time::{Duration, Instant as StdInstant};

use crossbeam_channel::{Receiver, RecvTimeoutError, bounded};
use wolfpack_netdrv::{
    ClusterKey, Driver, DriverConfig, DriverEvent, DriverNetwork, EventLoop, Security, SendError,
    start,
};
use wolfpack_types::heartbeat::{HeartbeatNotice, Reach};
use wolfpack_types::peer::Class;
use wolfpack_types::times::Profile;
use wolfpack_types::{Incarnation, NetworkId, NodeId, NodeInc, Rules, Times};

type Failure = Box<dyn std::error::Error>;

const DATA: u8 = 0;
const END: u8 = 1;
const PING: u8 = 2;
const PONG: u8 = 3;
/// Events that may wait.
const QUEUE: usize = 8192;
/// Nothing that is measured takes so long.
const LIFE_MAX: Duration = Duration::from_secs(3600);
/// How long all peers may take to be heard.
const PATIENCE: Duration = Duration::from_secs(60);

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("wolfpack-net-bench: {e}");
            ExitCode::FAILURE
        }
    }
}

/// `key=value` arguments.
struct Options(BTreeMap<String, String>);

impl Options {
    fn parse() -> Result<Self, Failure> {
        let mut map = BTreeMap::new();
        for arg in std::env::args().skip(1) {
            let (key, value) =
                arg.split_once('=').ok_or_else(|| format!("'{arg}' is not key=value"))?;
            map.insert(key.to_owned(), value.to_owned());
        }
        Ok(Self(map))
    }

    fn text(&self, key: &str) -> Result<&str, Failure> {
        Ok(self.0.get(key).ok_or_else(|| format!("{key}= is missing"))?)
    }

    fn number(&self, key: &str, default: u64) -> Result<u64, Failure> {
        match self.0.get(key) {
            Some(text) => Ok(text.parse().map_err(|e| format!("{key}={text}: {e}"))?),
            None => Ok(default),
        }
    }

    fn seconds(&self) -> Result<Duration, Failure> {
        Ok(Duration::from_millis(self.number("ms", 10_000)?))
    }

    fn times(&self) -> Result<Times, Failure> {
        let name = self.0.get("profile").map_or("standard", String::as_str);
        let profile = Profile::ALL.into_iter().find(|p| p.name() == name);
        let mut times = Times::of(profile.ok_or_else(|| format!("no profile '{name}'"))?);
        let ms = |n| Duration::from_millis(n);
        if let Ok(heartbeat) = self.number("heartbeat_ms", 0).map(ms)
            && !heartbeat.is_zero()
        {
            times.heartbeat = heartbeat;
            times.misses = u32::try_from(self.number("misses", 10)?)?;
            times.probe = ms(self.number("probe_ms", 100)?);
            // Only that the lease may be longer than all of it: no lease is measured here.
            times.lease = times.detect() * 4;
            times.hang_timeout = ms(30_000);
        }
        Ok(times)
    }

    fn config(&self, id: u8, nodes: u8) -> Result<DriverConfig, Failure> {
        let mut networks = Vec::new();
        // "eth0:10.88.0.,eth1:10.77.0.": an interface and what addresses begin with.
        for (i, net) in self.text("nets")?.split(',').enumerate() {
            let (interface, prefix) = net.split_once(':').ok_or("nets=INTERFACE:PREFIX,...")?;
            let address =
                |n: u8| -> Result<IpAddr, Failure> { Ok(format!("{prefix}{n}").parse()?) };
            let mut peers = BTreeMap::new();
            for n in (1..=nodes).filter(|&n| n != id) {
                peers.insert(NodeId::new(n)?, address(n)?);
            }
            let number = u8::try_from(i)?;
            networks.push(DriverNetwork {
                id: NetworkId(number),
                name: interface.into(),
                interface: interface.into(),
                address: address(id)?,
                peers,
                priority: number,
            });
        }
        Ok(DriverConfig {
            me: NodeInc::new(NodeId::new(id)?, Incarnation(1)),
            key: ClusterKey::from_bytes([42; 32]),
            times: self.times()?,
            port: u16::try_from(self.number("port", 3343)?)?,
            networks,
            realtime: self.number("rt", 1)? == 1,
            event_loop: match self.0.get("loop").map(String::as_str) {
                Some("epoll") => EventLoop::Epoll,
                Some("uring") => EventLoop::Uring,
                _ => EventLoop::Auto,
            },
            rules: Rules::ALL,
            security: Security::default(),
        })
    }
}

/// What was noticed while it lived.
#[derive(Default)]
struct Notes {
    up: BTreeMap<NodeId, bool>,
    suspected: u64,
    unreachable: u64,
    stalls: u64,
    /// Milliseconds from the beginning of the measurement.
    unsafe_at: Option<u128>,
    unreachable_at: Option<u128>,
    not_realtime: bool,
}

/// One node.
struct Node {
    driver: Driver,
    events: Receiver<DriverEvent>,
    peers: Vec<NodeId>,
    notes: Notes,
    since: StdInstant,
    /// Came while something else was waited for.
    early: VecDeque<(NodeId, Vec<u8>)>,
}

impl Node {
    fn start(config: DriverConfig) -> Result<Self, Failure> {
        let peers: Vec<NodeId> =
            config.networks.first().map(|n| n.peers.keys().copied().collect()).unwrap_or_default();
        let (notify, events) = bounded(QUEUE);
        let driver = start(config, Box::new(|_| {}), notify)?;
        let (notes, since) = (Notes::default(), StdInstant::now());
        Ok(Self { driver, events, peers, notes, since, early: VecDeque::new() })
    }

    /// The next message, until a time.
    fn next(&mut self, until: StdInstant) -> Result<Option<(NodeId, Vec<u8>)>, Failure> {
        loop {
            self.driver.core_alive();
            if let Some(message) = self.early.pop_front() {
                return Ok(Some(message));
            }
            let left = until.saturating_duration_since(StdInstant::now());
            match self.events.recv_timeout(left.min(Duration::from_millis(500))) {
                Ok(event) => self.note(event),
                Err(RecvTimeoutError::Timeout) if left.is_zero() => return Ok(None),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Err("the driver has ended".into()),
            }
        }
    }

    /// What waits, without waiting.
    fn drain(&mut self) {
        while let Ok(event) = self.events.try_recv() {
            self.note(event);
        }
    }

    fn note(&mut self, event: DriverEvent) {
        let at = self.since.elapsed().as_millis();
        let notes = &mut self.notes;
        match event {
            DriverEvent::Message { from, bytes } => self.early.push_back((from.node, bytes)),
            DriverEvent::Heartbeat(HeartbeatNotice::Reach { node, reach, .. }) => {
                notes.up.insert(node, reach == Reach::Up);
                match reach {
                    Reach::Up => {}
                    Reach::Suspected => notes.suspected += 1,
                    Reach::Unreachable => {
                        notes.unreachable += 1;
                        notes.unreachable_at.get_or_insert(at);
                    }
                }
            }
            DriverEvent::Heartbeat(HeartbeatNotice::Stalled { .. }) => notes.stalls += 1,
            DriverEvent::Heartbeat(HeartbeatNotice::Delays { safe: false, .. }) => {
                notes.unsafe_at.get_or_insert(at);
            }
            DriverEvent::NotRealtime { .. } => notes.not_realtime = true,
            _ => {}
        }
    }

    /// Waits until all peers are heard, and says so.
    fn ready(&mut self) -> Result<(), Failure> {
        let end = StdInstant::now() + PATIENCE;
        while self.peers.iter().any(|peer| self.notes.up.get(peer) != Some(&true)) {
            self.driver.core_alive();
            if StdInstant::now() > end {
                return Err("not all peers were heard within a minute".into());
            }
            if let Ok(event) = self.events.recv_timeout(Duration::from_millis(100)) {
                self.note(event);
            }
        }
        println!("ready");
        self.since = StdInstant::now();
        let not_realtime = self.notes.not_realtime;
        let up = std::mem::take(&mut self.notes.up);
        self.notes = Notes { up, not_realtime, ..Notes::default() };
        Ok(())
    }

    /// Sends to all peers; waits for room, as the core would have to.
    fn send_all(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        for i in 0..self.peers.len() {
            self.send(self.peers[i], bytes)?;
        }
        Ok(())
    }

    fn send(&mut self, to: NodeId, bytes: &[u8]) -> Result<(), Failure> {
        loop {
            match self.driver.send(to, Class::Control, bytes.to_vec()) {
                Ok(()) => return Ok(()),
                Err(SendError::Full { .. }) => {
                    self.driver.core_alive();
                    self.drain();
                    std::thread::sleep(Duration::from_micros(200));
                }
                Err(e) => return Err(e.into()),
            }
        }
    }

    fn tell(&self) {
        let (n, stats) = (&self.notes, self.driver.stats());
        let ms = |at: Option<u128>| at.map_or_else(|| "null".to_owned(), |ms| ms.to_string());
        println!(
            "{{\"suspected\":{},\"unreachable\":{},\"stalls\":{},\"unsafe_at_ms\":{},\
             \"unreachable_at_ms\":{},\"worst_delay_us\":{},\"realtime\":{},\"event_loop\":\"{}\",\
             \"turns\":{},\"sent\":{},\"received\":{}}}",
            n.suspected,
            n.unreachable,
            n.stalls,
            ms(n.unsafe_at),
            ms(n.unreachable_at),
            stats.worst_delay.as_micros(),
            stats.realtime,
            stats.event_loop,
            stats.turns,
            stats.sent,
            stats.received
        );
    }
}

fn run() -> Result<(), Failure> {
    let options = Options::parse()?;
    let id = u8::try_from(options.number("id", 1)?)?;
    let nodes = u8::try_from(options.number("nodes", 2)?)?;
    match options.text("mode")? {
        "idle" => {
            let mut node = Node::start(options.config(id, nodes)?)?;
            node.ready()?;
            let end = StdInstant::now() + options.seconds()?;
            while node.next(end)?.is_some() {}
            node.tell();
            // The others' time may end later: to them this node must not look dead.
            let end = StdInstant::now() + PATIENCE;
            while node.next(end)?.is_some() {}
            Ok(())
        }
        "flood" => flood(&options, &mut Node::start(options.config(id, nodes)?)?),
        "ring" => ring(&options, &mut Node::start(options.config(id, nodes)?)?),
        "answer" => answer(&mut Node::start(options.config(id, nodes)?)?),
        "crowd" => crowd(&options, nodes),
        "garbage" => garbage(&options),
        other => Err(format!("no mode '{other}'").into()),
    }
}

/// A message of `size` bytes.
fn message(kind: u8, size: usize) -> Vec<u8> {
    let mut bytes = vec![0x5a; size.max(9)];
    bytes[0] = kind;
    bytes
}

/// Sends for a while; the time runs until every peer has said that it has everything.
fn flood(options: &Options, node: &mut Node) -> Result<(), Failure> {
    node.ready()?;
    let size = usize::try_from(options.number("size", 64)?)?;
    let (bytes, span) = (message(DATA, size), options.seconds()?);
    let begin = StdInstant::now();
    let mut sent = 0_u64;
    while begin.elapsed() < span {
        node.send_all(&bytes)?;
        sent += 1;
        if sent.is_multiple_of(64) {
            node.driver.core_alive();
            node.drain();
        }
    }
    let mut end = message(END, 9);
    end[1..9].copy_from_slice(&sent.to_le_bytes());
    node.send_all(&end)?;
    let mut answers = 0;
    while answers < node.peers.len() {
        let (from, bytes) = node.next(begin + span + PATIENCE)?.ok_or("no answer to the end")?;
        if bytes.first() == Some(&END) {
            let got = u64::from_le_bytes(bytes[1..9].try_into()?);
            if got != sent {
                return Err(format!("node {from} has {got} of {sent} messages").into());
            }
            answers += 1;
        }
    }
    let seconds = begin.elapsed().as_secs_f64();
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
    let rate = sent as f64 / seconds;
    println!("{{\"messages\":{sent},\"seconds\":{seconds:.3},\"rate\":{rate:.0}}}");
    Ok(())
}

/// Round trips to all peers, one after the other, with a pause of `pause_ms` before each.
fn ring(options: &Options, node: &mut Node) -> Result<(), Failure> {
    node.ready()?;
    let size = usize::try_from(options.number("size", 64)?)?;
    let (count, pause) = (options.number("count", 1000)?, options.number("pause_ms", 0)?);
    let mut spans = Vec::new();
    for n in 0..count {
        if pause > 0 {
            std::thread::sleep(Duration::from_millis(pause));
        }
        node.drain();
        node.driver.core_alive();
        let mut bytes = message(PING, size);
        bytes[1..9].copy_from_slice(&n.to_le_bytes());
        let begin = StdInstant::now();
        node.send_all(&bytes)?;
        let mut answers = 0;
        while answers < node.peers.len() {
            let (_, bytes) = node.next(begin + PATIENCE)?.ok_or("no answer")?;
            answers += usize::from(bytes[0] == PONG && bytes[1..9] == n.to_le_bytes());
        }
        spans.push(begin.elapsed());
    }
    spans.sort_unstable();
    let at = |per_cent: usize| spans[(spans.len() - 1) * per_cent / 100].as_micros();
    println!("{{\"p50_us\":{},\"p99_us\":{},\"n\":{}}}", at(50), at(99), spans.len());
    Ok(())
}

/// Counts what is flooded, answers what is asked.
fn answer(node: &mut Node) -> Result<(), Failure> {
    node.ready()?;
    // Until it is ended by whoever started it.
    let (end, mut got) = (StdInstant::now() + LIFE_MAX, 0_u64);
    while let Some((from, mut bytes)) = node.next(end)? {
        match bytes.first() {
            Some(&DATA) => got += 1,
            Some(&END) => {
                bytes[1..9].copy_from_slice(&got.to_le_bytes());
                node.send(from, &bytes)?;
                got = 0;
            }
            Some(&PING) => {
                bytes[0] = PONG;
                bytes.truncate(9);
                node.send(from, &bytes)?;
            }
            _ => {}
        }
    }
    Ok(())
}

/// Nodes `id` to `last` in this process.
fn crowd(options: &Options, nodes: u8) -> Result<(), Failure> {
    let (first, last) = (options.number("id", 2)?, options.number("last", 2)?);
    let mut all = Vec::new();
    for id in first..=last {
        all.push(Node::start(options.config(u8::try_from(id)?, nodes)?)?);
    }
    println!("ready");
    let end = StdInstant::now() + options.seconds()?;
    while StdInstant::now() < end {
        for node in &mut all {
            node.driver.core_alive();
            node.drain();
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

/// Datagrams that are none of the cluster's: half of them with its first bytes.
fn garbage(options: &Options) -> Result<(), Failure> {
    let to = (options.text("to")?, u16::try_from(options.number("port", 3343)?)?);
    let socket = UdpSocket::bind(options.0.get("from").map_or("0.0.0.0:0", String::as_str))?;
    socket.connect(to)?;
    let (rate, end) = (options.number("rate", 200_000)?, StdInstant::now() + options.seconds()?);
    println!("ready");
    let (begin, mut sent, mut refused, mut dice) =
        (StdInstant::now(), 0_u64, 0_u64, 0x9e37_79b9_7f4a_7c15_u64);
    while StdInstant::now() < end {
        let micros = u64::try_from(begin.elapsed().as_micros())?;
        let due = micros.saturating_mul(rate) / 1_000_000;
        if sent >= due {
            std::thread::sleep(Duration::from_micros(300));
            continue;
        }
        for _ in 0..(due - sent).min(500) {
            let mut bytes = [0; 128];
            for word in bytes.chunks_exact_mut(8) {
                dice ^= dice << 13;
                dice ^= dice >> 7;
                dice ^= dice << 17;
                word.copy_from_slice(&dice.to_le_bytes());
            }
            if sent.is_multiple_of(2) {
                bytes[..4].copy_from_slice(b"WPCK");
            }
            refused += u64::from(socket.send(&bytes).is_err());
            sent += 1;
        }
    }
    let seconds = begin.elapsed().as_secs_f64();
    println!("{{\"sent\":{sent},\"refused\":{refused},\"seconds\":{seconds:.3}}}");
    Ok(())
}
