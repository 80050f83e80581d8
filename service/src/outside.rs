//! Everything around the core: carries its outputs out. No decision is taken here.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::PathBuf;
use std::sync::Weak;
use std::time::{Duration, Instant as StdInstant};

use crossbeam_channel::Sender;
use wolfpack_core::{ExitReason, Input, Output};
use wolfpack_netdrv::{Driver, SendError};
use wolfpack_store::StoreThread;
use wolfpack_types::api::{ErrorKind, ErrorReply, Reply, Request};
use wolfpack_types::config::Config;
use wolfpack_types::monitor::MonitorCommand;
use wolfpack_types::peer::PeerMessage;
use wolfpack_types::store::Persist;
use wolfpack_types::{ClusterId, NodeId, codec};

use crate::api::ApiCall;
use crate::errands::{Done, Waiting};
use crate::guard::Guard;
use crate::journal::Journal;
use crate::monitor::Monitor;
use crate::witness::Seat;

/// A request that the core has not answered for this long has been given up by its connection.
const FORGET: Duration = Duration::from_secs(180);

/// Who waits for an answer.
#[derive(Debug)]
struct Asked {
    since: StdInstant,
    reply: Sender<Reply>,
    /// It takes many answers, as long as its connection holds the other end of this.
    watch: Option<Weak<()>>,
}

/// What the core's outputs act upon.
#[derive(Debug)]
pub(crate) struct Outside {
    pub(crate) config: Config,
    pub(crate) cluster: ClusterId,
    pub(crate) driver: Driver,
    pub(crate) store: StoreThread,
    pub(crate) seat: Seat,
    pub(crate) guard: Guard,
    /// None between its death and its restart.
    pub(crate) monitor: Option<Monitor>,
    pub(crate) journal: Journal,
    /// Hears how errands ended.
    pub(crate) errands: Sender<Done>,
    /// What follows from carrying out, for the core.
    pub(crate) backlog: VecDeque<Input>,
    last_request: u64,
    asked: BTreeMap<u64, Asked>,
    /// A request that waits for its witness.
    pub(crate) waiting: Option<Waiting>,
    /// Backups that the core was asked for, and where they go.
    pub(crate) backups: BTreeMap<u64, PathBuf>,
    /// This node's store has accepted a view.
    pub(crate) in_cluster: bool,
    /// What a disk must keep for each node to be made the witness now.
    pub(crate) witness_bytes: u64,
    /// Peers that say that they have.
    pub(crate) peers_in_cluster: BTreeSet<NodeId>,
    undecodable: u64,
}

/// The parts that were started before.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) config: Config,
    pub(crate) cluster: ClusterId,
    pub(crate) driver: Driver,
    pub(crate) store: StoreThread,
    pub(crate) seat: Seat,
    pub(crate) guard: Guard,
    pub(crate) monitor: Monitor,
    pub(crate) journal: Journal,
    pub(crate) errands: Sender<Done>,
    pub(crate) in_cluster: bool,
}

pub(crate) fn refusal(kind: ErrorKind, what: impl Into<String>, advice: &str) -> ErrorReply {
    ErrorReply { kind, what: what.into(), advice: advice.into() }
}

pub(crate) fn entropy() -> u128 {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).expect("the kernel has had entropy since boot");
    u128::from_le_bytes(bytes)
}

impl Outside {
    pub(crate) fn new(parts: Parts) -> Self {
        Self {
            config: parts.config,
            cluster: parts.cluster,
            driver: parts.driver,
            store: parts.store,
            seat: parts.seat,
            guard: parts.guard,
            monitor: Some(parts.monitor),
            journal: parts.journal,
            errands: parts.errands,
            backlog: VecDeque::new(),
            last_request: 0,
            asked: BTreeMap::new(),
            waiting: None,
            backups: BTreeMap::new(),
            in_cluster: parts.in_cluster,
            witness_bytes: 0,
            peers_in_cluster: BTreeSet::new(),
            undecodable: 0,
        }
    }

    /// Carries out one output; says so if it ends this life.
    pub(crate) fn carry_out(&mut self, output: Output) -> Option<ExitReason> {
        match output {
            Output::Send { to, message } => self.send(to, &message),
            Output::Heartbeat(command) => self.driver.command(command),
            Output::Persist { id, step } => self.persist(id, step),
            Output::Register(command) => self.seat.command(command),
            Output::OpenWitness(witness) => self.seat.open(witness),
            Output::Monitor(command) => self.command_monitor(command),
            Output::Reply { id, reply } => self.reply(id, reply),
            Output::Event(event) => self.journal.record(*event),
            Output::Replicated(events) => self.journal.record_others(events),
            Output::Expel(who) => {
                let name = self.config.name_of(who.node);
                tracing::warn!("node {name} was evicted and does not go: its session is dropped");
                self.driver.expel_life(who);
            }
            Output::Exit(reason) => return Some(reason),
            Output::Backup { id, backup } => self.write_backup(id, backup),
        }
        None
    }

    fn send(&self, to: NodeId, message: &PeerMessage) {
        match self.driver.send(to, message.class(), codec::encode(message)) {
            // The protocol repeats what matters when the peer is there again.
            Ok(()) | Err(SendError::NoSession(_)) => {}
            Err(e) => tracing::warn!("a message to node {} is lost: {e}", self.config.name_of(to)),
        }
    }

    fn persist(&mut self, id: u64, step: Persist) {
        if let Persist::Record(record) | Persist::Accept { record, .. } = &step {
            self.in_cluster |= record.accepted.is_some();
        }
        if let Err(e) = self.store.persist(id, step) {
            self.backlog.push_back(Input::StoreFailed { error: e.in_full() });
        }
    }

    fn command_monitor(&self, command: MonitorCommand) {
        // Without a monitor nothing is lost: the core asks anew when it runs again.
        if let Some(monitor) = &self.monitor {
            monitor.send(command);
        }
    }

    pub(crate) fn reply(&mut self, id: u64, reply: Reply) {
        if matches!(reply, Reply::Error(_)) {
            // A backup that the core refused is not written.
            self.backups.remove(&id);
        }
        let watches = self.asked.get(&id).is_some_and(|asked| asked.watch.is_some());
        if watches && !matches!(reply, Reply::Error(_)) {
            if self.asked.get(&id).is_some_and(|asked| asked.reply.try_send(reply).is_err()) {
                // Gone, or so slow that changes would be missing: its connection says which.
                self.asked.remove(&id);
                self.backlog.push_back(Input::Unwatch { id });
            }
        } else if let Some(asked) = self.asked.remove(&id) {
            // The client may have hung up.
            let _ = asked.reply.try_send(reply);
        }
    }

    /// Ends the watches whose clients have hung up, once a second.
    pub(crate) fn forget_the_gone(&mut self) {
        let gone = |asked: &Asked| asked.watch.as_ref().is_some_and(|w| w.strong_count() == 0);
        let ids: Vec<u64> = self.asked.iter().filter(|(_, a)| gone(a)).map(|(&id, _)| id).collect();
        for id in ids {
            self.asked.remove(&id);
            self.backlog.push_back(Input::Unwatch { id });
        }
    }

    /// A message of a peer's core as an input; one that makes no sense is counted and dropped.
    pub(crate) fn decode(&mut self, from: wolfpack_types::NodeInc, bytes: &[u8]) -> Option<Input> {
        match codec::decode("message", bytes) {
            Ok(message) => Some(Input::Peer { from, message }),
            Err(e) => {
                self.undecodable += 1;
                // Authenticated, so no stranger can flood the log; still only powers of two.
                if self.undecodable.is_power_of_two() {
                    tracing::error!(
                        "node {} sent a message that this release does not understand ({e}; {} so \
                         far): install the same release on all nodes",
                        self.config.name_of(from.node),
                        self.undecodable
                    );
                }
                None
            }
        }
    }

    /// A peer says whether it belongs to a cluster.
    pub(crate) fn note_peer(&mut self, node: NodeId, in_cluster: bool) {
        if in_cluster {
            self.peers_in_cluster.insert(node);
        } else {
            self.peers_in_cluster.remove(&node);
        }
    }

    /// Takes a request of the local API.
    pub(crate) fn request(&mut self, call: ApiCall) -> Option<Input> {
        self.last_request += 1;
        let id = self.last_request;
        let now = StdInstant::now();
        self.asked.retain(|_, asked| asked.watch.is_some() || now - asked.since < FORGET);
        self.asked.insert(id, Asked { since: now, reply: call.reply, watch: call.watch });
        match call.request {
            Request::ClusterCreate { name, overwrite } => {
                let created = self.create(id, name, overwrite);
                self.or_refuse(id, created)
            }
            request @ Request::QuorumSet { .. } => {
                let set = self.set_quorum(id, request);
                self.or_refuse(id, set)
            }
            Request::Backup { file } => {
                let asked = self.backup(id, &file);
                self.or_refuse(id, asked)
            }
            Request::Restore { file, dead, foreign } => {
                let asked = self.restore(id, &file, &dead, foreign);
                self.or_refuse(id, asked)
            }
            Request::KeyReload => {
                let asked = self.reload_key(Some(id));
                self.or_refuse(id, asked)
            }
            request => Some(Input::Request { id, entropy: entropy(), request }),
        }
    }

    fn or_refuse(&mut self, id: u64, what: Result<Option<Input>, ErrorReply>) -> Option<Input> {
        what.unwrap_or_else(|e| {
            self.reply(id, Reply::Error(e));
            None
        })
    }
}
