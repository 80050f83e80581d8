//! A small rig: cores with their failure detectors on an ideal network, an instant store and
//! monitors that always succeed. Faults are made by hand. The simulator is where chance rules.

mod paper;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use wolfpack_core::{Core, CoreConfig, ExitReason, Input, Observation, Output};
use wolfpack_heartbeat::{Detector, DetectorConfig, Input as Pulse, Output as Beat};
use wolfpack_types::api::{Reply, Request};
use wolfpack_types::backup::Backup;
use wolfpack_types::event::{Proof, StampedEvent};
use wolfpack_types::membership::{QuorumConfig, QuorumType, WitnessSpec};

use wolfpack_types::monitor::{MonitorCommand, MonitorEvent};
use wolfpack_types::objects::Cluster;
use wolfpack_types::peer::PeerMessage;
use wolfpack_types::register::Exclusion;
use wolfpack_types::store::{CopyStep, Loaded, Persist, Record, Snapshot};
use wolfpack_types::update::LogEntry;
use wolfpack_types::{
    ClusterId, Guid, Incarnation, Instant, NetworkId, NodeId, NodeInc, Rules, Seq, StoreId, Times,
    VoteTable,
};

const STEP: Duration = Duration::from_millis(1);
const NETWORK: NetworkId = NetworkId(0);

use paper::Paper;

pub(crate) fn n(i: u8) -> NodeId {
    NodeId::new(i).unwrap()
}

/// What a node keeps over its lives.
#[derive(Clone, Default)]
struct Disk {
    record: Record,
    rows: BTreeMap<String, Vec<u8>>,
    at: (wolfpack_types::Ballot, Seq),
    log: Vec<LogEntry>,
    /// The next life begins with a new store.
    retired: bool,
    copy: BTreeMap<String, Vec<u8>>,
}

impl Disk {
    fn carry_out(&mut self, step: Persist) {
        match step {
            Persist::Record(record) => self.record = record,
            Persist::Accept { record, after, snapshot, entries } => {
                self.record = record;
                match snapshot {
                    Some(s) => {
                        self.rows = s.rows.into_iter().collect();
                        self.at = (s.ballot, s.seq);
                        self.log.clear();
                    }
                    None => self.log.retain(|e| e.seq <= after),
                }
                self.log.extend(entries);
            }
            Persist::Append { entries } => self.log.extend(entries),
            Persist::Apply { seq, ballot, rows } => {
                for (key, row) in rows {
                    match row {
                        Some(row) => self.rows.insert(key, row),
                        None => self.rows.remove(&key),
                    };
                }
                self.at = (ballot, seq);
            }
            Persist::Retire => self.retired = true,
            Persist::Copy(CopyStep::Begin) => self.copy.clear(),
            Persist::Copy(CopyStep::Rows { rows }) => self.copy.extend(rows),
            Persist::Copy(CopyStep::End { ballot, seq }) => {
                self.rows = std::mem::take(&mut self.copy);
                self.at = (ballot, seq);
                self.log.clear();
            }
        }
    }

    fn load(&self) -> Loaded {
        let (ballot, seq) = self.at;
        let rows = self.rows.iter().map(|(k, v)| (k.clone(), v.clone())).collect();
        Loaded {
            record: self.record.clone(),
            database: Snapshot { seq, ballot, rows },
            log: self.log.iter().filter(|e| e.seq > seq).cloned().collect(),
            new_store: self.record.accepted.is_none(),
        }
    }
}

pub(crate) struct Node {
    pub(crate) me: NodeInc,
    pub(crate) core: Core,
    detector: Detector,
    /// Logged by this life.
    pub(crate) events: Vec<StampedEvent>,
    /// Of other nodes, as they came here.
    pub(crate) others: Vec<StampedEvent>,
    pub(crate) exit: Option<ExitReason>,
    /// Groups by name that run here, with their resources.
    pub(crate) running: BTreeSet<String>,
}

pub(crate) struct Rig {
    kind: QuorumType,
    /// Registers by identity.
    pub(crate) papers: BTreeMap<Guid, Paper>,
    /// Which register each node has open.
    open: BTreeMap<NodeId, Option<WitnessSpec>>,
    pub(crate) now: Instant,
    count: u8,
    disks: BTreeMap<NodeId, Disk>,
    pub(crate) nodes: BTreeMap<NodeId, Node>,
    /// Every event of every life, in the order in which they happened.
    pub(crate) history: Vec<StampedEvent>,
    wire: VecDeque<(NodeInc, NodeId, Parcel)>,
    cut: BTreeSet<(NodeId, NodeId)>,
    replies: BTreeMap<u64, Reply>,
    last_request: u64,
    inbox: VecDeque<(NodeId, Input)>,
    busy: bool,
    /// Nodes whose disk has stopped, with what it has not done.
    held: BTreeMap<NodeId, Vec<(u64, Persist)>>,
    /// The backup that was asked for last.
    pub(crate) backup: Option<Backup>,
    /// Bytes of the largest message so far.
    pub(crate) largest_message: usize,
}

enum Parcel {
    Message(PeerMessage),
    Heartbeat(Box<wolfpack_types::heartbeat::Heartbeat>),
}

impl Rig {
    pub(crate) fn new(count: u8) -> Self {
        Self::with(count, QuorumType::Majority)
    }

    /// With this quorum type; its witness, if it has one, is register 1.
    pub(crate) fn with(count: u8, kind: QuorumType) -> Self {
        let mut rig = Self {
            kind,
            papers: BTreeMap::new(),
            open: BTreeMap::new(),
            now: Instant(1_000_000_000),
            count,
            disks: BTreeMap::new(),
            nodes: BTreeMap::new(),
            history: Vec::new(),
            wire: VecDeque::new(),
            cut: BTreeSet::new(),
            replies: BTreeMap::new(),
            last_request: 0,
            inbox: VecDeque::new(),
            busy: false,
            held: BTreeMap::new(),
            backup: None,
            largest_message: 0,
        };
        for i in 1..=count {
            rig.start(i);
        }
        rig
    }

    /// Starts a new life of a node.
    pub(crate) fn start(&mut self, i: u8) {
        let disk = self.disks.entry(n(i)).or_default();
        if disk.retired {
            let incarnation = Incarnation(disk.record.incarnation.0 + 1000);
            let store = StoreId(Guid(disk.record.store.0.0 + 1000));
            *disk = Disk::default();
            disk.record = Record { incarnation, store, ..Record::default() };
        }
        if disk.record.store == StoreId::default() {
            disk.record.store = StoreId(Guid(u128::from(i)));
        }
        disk.record.incarnation = Incarnation(disk.record.incarnation.0 + 1);
        let me = NodeInc::new(n(i), disk.record.incarnation);
        let all = 1..=self.count;
        let vote = u8::from(self.kind != QuorumType::Disk);
        let witness = u8::from(self.kind.has_witness());
        let config = CoreConfig {
            me,
            cluster: ClusterId(Guid(1)),
            nodes: all.clone().map(|i| (n(i), format!("node{i}"))).collect(),
            networks: vec!["private".into()],
            client_networks: BTreeSet::new(),
            votes: VoteTable { nodes: all.clone().map(|i| (n(i), vote)).collect(), witness },
            quorum: self.kind,
            witness: self.kind.has_witness().then(|| "w1".into()),
            exclusion: Exclusion::None,
            times: Times::STANDARD,
            loaded: disk.load(),
            seed: u64::from(i),
            rules: Rules::ALL,
            events: wolfpack_core::EventStart::default(),
        };
        let paths = all.filter(|&j| j != i).map(|j| (n(j), BTreeSet::from([NETWORK]))).collect();
        let detector = Detector::new(
            DetectorConfig { me, times: Times::STANDARD, paths, rules: Rules::ALL },
            self.now,
        );
        self.open.insert(n(i), config.configured_witness());
        let core = Core::new(config, self.now);
        let node = Node {
            me,
            core,
            detector,
            events: vec![],
            others: vec![],
            exit: None,
            running: BTreeSet::new(),
        };
        self.nodes.insert(n(i), node);
    }

    /// The store is removed; the incarnation goes on.
    pub(crate) fn wipe(&mut self, i: u8) {
        self.disks.entry(n(i)).or_default().retired = true;
    }

    /// Power cut: nothing of the node goes on.
    pub(crate) fn power_cut(&mut self, i: u8) {
        self.nodes.remove(&n(i));
    }

    /// The disk of a node stops, or does all that it has not done.
    pub(crate) fn hold_disk(&mut self, i: u8, held: bool) {
        if held {
            self.held.insert(n(i), Vec::new());
            return;
        }
        for (id, step) in self.held.remove(&n(i)).unwrap_or_default() {
            self.disks.get_mut(&n(i)).unwrap().carry_out(step);
            self.input(n(i), Input::Persisted { id });
        }
    }

    /// Changes rows on the disk of a node that is off; says how many were changed.
    pub(crate) fn tamper(
        &mut self,
        i: u8,
        mut change: impl FnMut(&str, &mut Vec<u8>) -> bool,
    ) -> usize {
        let disk = self.disks.get_mut(&n(i)).unwrap();
        disk.rows.iter_mut().filter_map(|(k, row)| change(k, row).then_some(())).count()
    }

    pub(crate) fn has_reply(&self, id: u64) -> bool {
        self.replies.contains_key(&id)
    }

    /// The newest reply to a request, if there is one.
    pub(crate) fn reply_to(&mut self, id: u64) -> Option<Reply> {
        self.replies.remove(&id)
    }

    pub(crate) fn cut(&mut self, a: u8, b: u8) {
        self.cut.insert((n(a), n(b)));
        self.cut.insert((n(b), n(a)));
    }

    pub(crate) fn heal(&mut self) {
        self.cut.clear();
    }

    pub(crate) fn see(&self, i: u8) -> Observation {
        self.nodes[&n(i)].core.observe(self.now)
    }

    pub(crate) fn run(&mut self, span: Duration) {
        let end = self.now + span;
        while self.now < end {
            self.now += STEP;
            self.step();
        }
    }

    /// Runs until the condition holds; fails after `limit`.
    pub(crate) fn until(&mut self, limit: Duration, what: &str, done: impl Fn(&Self) -> bool) {
        let end = self.now + limit;
        while !done(self) {
            assert!(self.now < end, "not within {limit:?}: {what}\n{}", self.tell());
            self.now += STEP;
            self.step();
        }
    }

    pub(crate) fn tell(&self) -> String {
        let mut out = String::new();
        for node in self.nodes.values() {
            let last: Vec<_> = node.events.iter().map(|e| e.event.text.as_str()).collect();
            out += &format!("node {}: {:#?}\nexit {:?}\n", node.me, last, node.exit);
        }
        out
    }

    fn step(&mut self) {
        for _ in 0..self.wire.len() {
            if let Some((from, to, parcel)) = self.wire.pop_front() {
                self.deliver(from, to, parcel);
            }
        }
        let ids: Vec<NodeId> = self.nodes.keys().copied().collect();
        for id in ids {
            self.pulse(id, Pulse::Deadline);
            self.input(id, Input::Deadline);
        }
    }

    fn deliver(&mut self, from: NodeInc, to: NodeId, parcel: Parcel) {
        let gone = self.nodes.get(&from.node).is_none_or(|n| n.me != from);
        if self.cut.contains(&(from.node, to)) || gone {
            return;
        }
        match parcel {
            Parcel::Message(message) => self.input(to, Input::Peer { from, message }),
            Parcel::Heartbeat(heartbeat) => {
                let input =
                    Pulse::Received { network: NETWORK, from: from.node, heartbeat: *heartbeat };
                self.pulse(to, input);
            }
        }
    }

    pub(crate) fn request(&mut self, i: u8, request: Request) -> u64 {
        self.last_request += 1;
        let id = self.last_request;
        let entropy = u128::from(id) << 64 | 0x1234_5678;
        self.input(n(i), Input::Request { id, entropy, request });
        id
    }

    /// Asks and waits for the answer.
    pub(crate) fn ask(&mut self, i: u8, request: Request) -> Reply {
        let id = self.request(i, request);
        self.until(Duration::from_secs(20), "an answer", |r| r.replies.contains_key(&id));
        self.replies.remove(&id).unwrap()
    }

    pub(crate) fn create(&mut self, i: u8) -> Reply {
        self.last_request += 1;
        let id = self.last_request;
        let cluster = Cluster {
            id: ClusterId(Guid(1)),
            name: "pack".into(),
            quorum: QuorumConfig::of(self.kind, None),
        };
        self.input(n(i), Input::Create { id, cluster, entropy: 1 });
        self.until(Duration::from_secs(20), "creation", |r| r.replies.contains_key(&id));
        self.replies.remove(&id).unwrap()
    }

    /// One input, then all that follows from it on this node, in order.
    pub(crate) fn input(&mut self, id: NodeId, input: Input) {
        self.inbox.push_back((id, input));
        if self.busy {
            return;
        }
        self.busy = true;
        while let Some((id, input)) = self.inbox.pop_front() {
            self.feed(id, input);
        }
        self.busy = false;
    }

    fn feed(&mut self, id: NodeId, input: Input) {
        let Some(node) = self.nodes.get_mut(&id) else { return };
        if node.exit.is_some() {
            return;
        }
        node.core.handle(self.now, input);
        let me = node.me;
        let mut outputs = Vec::new();
        while let Some(output) = node.core.poll_output() {
            outputs.push(output);
        }
        for output in outputs {
            self.carry_out(me, output);
        }
    }

    fn carry_out(&mut self, me: NodeInc, output: Output) {
        let id = me.node;
        match output {
            Output::Send { to, message } => {
                let bytes = wolfpack_types::codec::encoded_bytes(&message);
                self.largest_message = self.largest_message.max(bytes);
                self.wire.push_back((me, to, Parcel::Message(message)));
            }
            Output::Heartbeat(command) => self.pulse(id, Pulse::Command(command)),
            Output::Persist { id: step_id, step } => {
                if let Some(held) = self.held.get_mut(&id) {
                    return held.push((step_id, step));
                }
                self.disks.get_mut(&id).unwrap().carry_out(step);
                self.input(id, Input::Persisted { id: step_id });
            }
            Output::Register(command) => {
                let spec = self.open[&id].clone().expect("a witness is open");
                let paper = self.papers.entry(spec.id).or_insert_with(|| Paper::new(&spec));
                if let Some(event) = paper.answer(self.now, me, command) {
                    self.input(id, Input::Register(event));
                }
            }
            Output::OpenWitness(spec) => {
                self.open.insert(id, spec);
            }
            Output::Backup { backup, .. } => self.backup = Some(*backup),
            Output::Monitor(command) => self.monitor(id, command),
            Output::Reply { id, reply } => {
                self.replies.insert(id, reply);
            }
            Output::Event(event) => {
                self.history.push(event.as_ref().clone());
                if let Some(node) = self.nodes.get_mut(&id) {
                    node.events.push(*event);
                }
            }
            // There are no sessions here.
            Output::Expel(_) => {}
            Output::Replicated(events) => {
                if let Some(node) = self.nodes.get_mut(&id) {
                    node.others.extend(events);
                }
            }
            Output::Exit(reason) => {
                if let Some(node) = self.nodes.get_mut(&id) {
                    node.exit = Some(reason);
                    node.running.clear();
                }
            }
        }
    }

    fn monitor(&mut self, id: NodeId, command: MonitorCommand) {
        let node = self.nodes.get_mut(&id).unwrap();
        let (call, resource) = match command {
            MonitorCommand::Online { call, resource, .. } => {
                node.running.insert(resource.id.to_string());
                (call, resource.id)
            }
            MonitorCommand::Offline { call, resource }
            | MonitorCommand::Terminate { call, resource } => {
                node.running.remove(&resource.to_string());
                (call, resource)
            }
            MonitorCommand::Hello { .. } | MonitorCommand::Announce { .. } => return,
        };
        self.input(id, Input::Monitor(MonitorEvent::Done { call, resource, outcome: Ok(()) }));
    }

    fn pulse(&mut self, id: NodeId, input: Pulse) {
        let Some(node) = self.nodes.get_mut(&id) else { return };
        if node.exit.is_some() {
            return;
        }
        node.detector.handle(self.now, input);
        let me = node.me;
        let mut outputs = Vec::new();
        while let Some(output) = node.detector.poll_output() {
            outputs.push(output);
        }
        for output in outputs {
            match output {
                Beat::Transmit { to, heartbeat, .. } => {
                    self.wire.push_back((me, to, Parcel::Heartbeat(Box::new(heartbeat))));
                }
                Beat::Notice(notice) => self.input(id, Input::Heartbeat(notice)),
            }
        }
    }

    /// The guard of a dead service has ended everything.
    pub(crate) fn prove_dead(&mut self, who: NodeInc) {
        let ids: Vec<NodeId> = self.nodes.keys().copied().collect();
        for id in ids {
            let command = wolfpack_types::heartbeat::HeartbeatCommand::DeclareDead(who);
            self.pulse(id, Pulse::Command(command));
            self.input(id, Input::Dead { who, proof: Proof::AllTerminated });
        }
    }
}
