//! The compact failover core: membership, quorum, global update, database, failover, resources and
//! events behind one [`Core::handle`].
//!
//! Pure: no socket, file, thread, clock or OS randomness. The daemon and the simulator drive the
//! same code.
//!
//! # Contract
//!
//! One input by [`Core::handle`], drain [`Core::poll_output`] until it is empty, next input; call
//! with [`Input::Deadline`] when [`Core::next_deadline`] has come. Outputs are carried out in
//! order. What depends on a durable step is held back inside until [`Input::Persisted`] has come.
//! `now` never goes back.
#![forbid(unsafe_code)]

mod administration;
mod answer;
pub mod backup;
pub mod checkpoint;
mod communicate;
mod copy;
mod database;
mod drive;
mod durable;
mod events;
mod failover;
pub mod flight;
mod io;
mod leave;
mod legal;
mod log;
mod membership;
mod networks;
mod nodes;
mod observe;
mod random;
mod resource;
mod restore;
mod status;
mod update;
mod watch;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use wolfpack_types::event::{EventKind, Severity};
use wolfpack_types::heartbeat::{LeaseTerms, Standing};
use wolfpack_types::membership::{Illegal, Stage};
use wolfpack_types::peer::PeerMessage;
use wolfpack_types::store::Snapshot;
use wolfpack_types::{Ballot, Instant, NodeId, NodeInc, Rule, Seq, VersionRange};

pub use database::{Applied, Change, Database};
pub use io::{CoreConfig, EventStart, ExitReason, Input, Output};
pub use observe::{Glance, Observation};

use communicate::Versions;
use durable::Durable;
use events::Events;
use leave::Leave;
use log::Log;
use membership::Membership;
use membership::witness::Witness;
use random::Random;
use resource::ResourceManager;
use update::Leading;
use update::initiator::Outstanding;

/// The core of one node, for one life.
#[derive(Debug)]
pub struct Core {
    config: CoreConfig,
    started: Instant,
    random: Random,
    out: VecDeque<Output>,
    /// Messages of this core to itself, as if they had come over the network.
    loopback: VecDeque<PeerMessage>,
    durable: Durable,
    events: Events,
    versions: Versions,
    membership: Membership,
    witness: Witness,
    log: Log,
    database: Database,
    /// A snapshot accepted and not yet durable.
    incoming: Option<Snapshot>,
    /// A database that goes to a node at the door, or comes here.
    sending: Option<copy::Sending>,
    receiving: Option<copy::Receiving>,
    last_copy: u64,
    inline_bytes: usize,
    /// A backup that is to be the newest database when the quorum is forced.
    restoring: Option<Box<wolfpack_types::backup::Backup>>,
    manager: ResourceManager,
    leading: Option<Leading>,
    last_request: u64,
    /// The last request that the present locker was asked for.
    asked: u64,
    outstanding: BTreeMap<u64, Outstanding>,
    /// Clients that watch keys of the tree, by the number of their request.
    watches: BTreeMap<u64, watch::Watch>,
    /// What the driver was told last.
    told_standing: Standing,
    told_terms: LeaseTerms,
    networks: networks::Networks,
    told_authority: bool,
    restart_told: BTreeMap<NodeInc, Instant>,
    /// How often lives of evicted nodes were told what they are.
    evicted_told: BTreeMap<NodeInc, u8>,
    /// Lost owners that are waited for, for the event when the wait is over.
    waits: BTreeMap<NodeId, Instant>,
    quorum_noted: bool,
    /// Messages refused, by reason.
    illegal: BTreeMap<Illegal, u64>,
    /// Updates up to here were committed before this life's first view.
    history_end: Seq,
    /// Why the last attempt failed.
    last_failure: Option<String>,
    leave: Option<Leave>,
    exiting: bool,
    /// Wall clock, and when it was told.
    wall: (u64, Instant),
    next_tick: Instant,
    /// Views established by this node and updates committed by it, for the simulator.
    established: Vec<(Ballot, BTreeMap<NodeId, Instant>)>,
    committed: Vec<(Ballot, Seq)>,
}

impl Core {
    /// A new life, with what the store holds.
    #[must_use]
    pub fn new(config: CoreConfig, now: Instant) -> Self {
        let loaded = config.loaded.clone();
        let membership = Membership::new(loaded.record.clone(), loaded.new_store, now);
        let witness = config.configured_witness();
        let base = (loaded.database.ballot, loaded.database.seq);
        let mut random = Random::new(config.seed);
        let manager = ResourceManager::new(config.me, random.next());
        let mut core = Self {
            started: now,
            random,
            out: VecDeque::new(),
            loopback: VecDeque::new(),
            durable: Durable::default(),
            events: Events::new(&config, now),
            versions: Versions::new(VersionRange::OWN),
            membership,
            witness: Witness::new(witness),
            log: Log::new(base, loaded.log),
            database: Database::default(),
            incoming: None,
            sending: None,
            receiving: None,
            last_copy: 0,
            inline_bytes: copy::INLINE_BYTES,
            restoring: None,
            manager,
            leading: None,
            last_request: 0,
            asked: 0,
            outstanding: BTreeMap::new(),
            watches: BTreeMap::new(),
            told_standing: Standing::default(),
            told_terms: LeaseTerms::default(),
            networks: networks::Networks::default(),
            told_authority: false,
            restart_told: BTreeMap::new(),
            evicted_told: BTreeMap::new(),
            waits: BTreeMap::new(),
            quorum_noted: false,
            illegal: BTreeMap::new(),
            history_end: Seq::default(),
            last_failure: None,
            leave: None,
            exiting: false,
            wall: (config.events.wall_ms, now),
            next_tick: now,
            established: Vec::new(),
            committed: Vec::new(),
            config,
        };
        core.load_database(now, &loaded.database);
        core.event(
            Severity::Info,
            EventKind::ServiceStarted { me: core.config.me },
            format!("cluster service of node {} started", core.config.me),
        );
        core.publish_standing();
        core
    }

    /// Replaces the database by a snapshot. One that cannot be read ends this life: going on
    /// without its own database would be going on without durability.
    fn load_database(&mut self, now: Instant, snapshot: &Snapshot) {
        match Database::from_snapshot(snapshot) {
            Ok(database) => {
                self.database = database;
                self.tell_watchers_of_replacement();
                self.manager_changed(now);
            }
            Err(e) => self.store_failed(&e.to_string()),
        }
    }

    fn store_failed(&mut self, error: &str) {
        self.event(
            Severity::Error,
            EventKind::StoreFailed { error: error.to_owned() },
            format!("no durability any more, this node leaves: {error}"),
        );
        self.exit(ExitReason::StoreFailed(error.to_owned()));
    }

    /// This life is over: nothing more is started.
    fn exit(&mut self, reason: ExitReason) {
        if !self.exiting {
            self.exiting = true;
            self.output(Output::Exit(reason));
        }
    }

    fn output(&mut self, output: Output) {
        self.out.push_back(output);
    }

    /// The next output.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.out.pop_front()
    }

    fn stage(&mut self, stage: Stage, ballot: Ballot) {
        let kind = EventKind::RegroupStage { stage, ballot: ballot.to_string() };
        self.event(Severity::Info, kind, format!("regroup: {stage}, ballot {ballot}"));
    }

    fn send(&mut self, to: NodeId, message: PeerMessage) {
        if to == self.config.me.node {
            self.loopback.push_back(message);
        } else {
            self.output(Output::Send { to, message });
        }
    }

    fn name(&self, node: NodeId) -> &str {
        self.config.nodes.get(&node).map_or("?", String::as_str)
    }

    fn wall_ms(&self, now: Instant) -> u64 {
        let passed = u64::try_from((now - self.wall.1).as_millis()).unwrap_or(u64::MAX);
        self.wall.0.saturating_add(passed)
    }

    /// Looks for a new view and renews at the witness this often at least.
    fn tick_period(&self) -> Duration {
        self.config.times.tick()
    }

    /// When to call with [`Input::Deadline`] at the latest.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        let ends = !self.manager.idle() && !self.config.rules.broken(Rule::NoLease);
        let lease = ends.then_some(self.membership.lease_end);
        [
            Some(self.next_tick),
            self.membership_deadline(),
            self.witness_deadline(),
            self.manager.next_deadline(),
            self.events.sync.next_deadline(),
            // While an update is in flight the plan waits for its end, not for a time.
            self.leading.as_ref().filter(|_| self.locker_idle()).and_then(|l| l.plan_due),
            lease,
        ]
        .into_iter()
        .flatten()
        .min()
    }
}
