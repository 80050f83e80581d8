//! One node: its clock, store and machine, which outlive its service, and the service's current
//! life: core, failure detector and register machine, the code of the daemon.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use wolfpack_core::flight::Header;
use wolfpack_core::{Core, CoreConfig};
use wolfpack_diskarb::register::{Register, RegisterConfig};
use wolfpack_heartbeat::{Detector, DetectorConfig};
use wolfpack_types::membership::QuorumType;
use wolfpack_types::{
    ClusterId, Guid, Incarnation, Instant, NetworkId, NodeId, NodeInc, Rules, VoteTable,
};

use crate::clock::{Clock, Time};
use crate::device::Nexus;
use crate::draw::{Delays, Dice, Params, nanos};
use crate::freeze::Behind;
use crate::monitor::Machine;
use crate::replay::Recordings;
use crate::store::Store;

/// The one cluster of a run.
pub const CLUSTER: ClusterId = ClusterId(Guid(0x5749_4d00_0000_0000_0000_0000_0000_0001));

/// The queues between the threads of a service; each keeps its order. Heartbeat commands and
/// messages go to the driver through one queue: a message leaves after the commands before it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Queue {
    CoreToDriver,
    DriverToCore,
    CoreToRegister,
    RegisterToCore,
    CoreToMonitor,
    MonitorToCore,
    StoreToCore,
}

/// The machines of a life.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Part {
    Core,
    Detector,
    Register,
}

/// One life of a node's service.
#[derive(Debug)]
pub struct Life {
    pub me: NodeInc,
    pub core: Core,
    pub detector: Detector,
    pub register: Option<Register>,
    /// The deadline for which a wake-up is planned.
    pub wake_at: Option<Time>,
    /// When it was last woken, and how often in a row without time passing.
    pub woken_last: Time,
    pub woken_often: u32,
    queue_due: [Time; 7],
    /// Deadlines of the machines, as they were after their last input.
    due: [Instant; 3],
    /// The newest life met of each peer.
    pub sessions: BTreeMap<NodeId, Incarnation>,
    /// Heartbeats received of each life.
    pub heard: BTreeMap<NodeInc, u32>,
    /// Its clock is behind, and it has not noticed yet.
    pub behind: Option<Behind>,
    /// The acknowledgement mask as the driver has it.
    pub mask: BTreeSet<NodeInc>,
}

impl Life {
    /// When something put on a queue now comes out of it.
    pub fn through(&mut self, queue: Queue, now: Time, dice: &mut Dice, delays: Delays) -> Time {
        let due = &mut self.queue_due[queue as usize];
        *due = (*due).max(now) + nanos(delays.draw(dice));
        *due
    }

    /// A machine has taken an input: its deadline is another.
    pub fn note_deadline(&mut self, part: Part) {
        let due = match part {
            Part::Core => self.core.next_deadline(),
            Part::Detector => self.detector.next_deadline(),
            Part::Register => self.register.as_ref().and_then(Register::next_deadline),
        };
        self.due[part as usize] = due.unwrap_or(Instant::FAR);
    }

    /// The deadline of a machine; [`Instant::FAR`] for none.
    #[must_use]
    pub const fn deadline(&self, part: Part) -> Instant {
        self.due[part as usize]
    }

    /// The earliest deadline of the three machines; [`Instant::FAR`] for none.
    #[must_use]
    pub fn next_deadline(&self) -> Instant {
        self.due.into_iter().min().unwrap_or(Instant::FAR)
    }
}

/// How a machine stands still.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Freeze {
    /// Its clock when it stopped.
    pub shown: Instant,
    /// The clock runs on meanwhile, as after a suspend; else it stands still too, and is behind all
    /// others afterwards.
    pub clock_runs: bool,
}

/// One node.
#[derive(Debug)]
pub struct Node {
    pub id: NodeId,
    pub clock: Clock,
    pub store: Store,
    pub machine: Machine,
    pub life: Option<Life>,
    /// The service is stopped (SIGSTOP): its machine, guard and kernel go on.
    pub paused: bool,
    /// The machine stands still as a whole (a virtual machine that is paused).
    pub frozen: Option<Freeze>,
    /// Its next durable step fails: the file system is full.
    pub store_full: bool,
    /// It was evicted, and is down until it is added again.
    pub evicted: bool,
    /// Steps that its store has come to, over all its lives.
    pub steps: u64,
    pub nexus: Option<Nexus>,
    nexus_serial: u32,
    /// A start is planned.
    pub starting: bool,
}

impl Node {
    /// A node that was never started.
    #[must_use]
    pub fn new(id: NodeId, clock: Clock, seed: u64) -> Self {
        let identity = u128::from(seed) << 64 | u128::from(id.get()) << 8 | 1;
        Self {
            id,
            clock,
            store: Store::new(identity),
            machine: Machine::default(),
            life: None,
            paused: false,
            frozen: None,
            store_full: false,
            evicted: false,
            steps: 0,
            nexus: None,
            nexus_serial: 0,
            starting: false,
        }
    }

    /// A session at the witness disk that did not exist before.
    pub fn new_nexus(&mut self) -> Nexus {
        self.nexus_serial += 1;
        let nexus = (self.id, self.nexus_serial);
        self.nexus = Some(nexus);
        nexus
    }

    /// The life, if it is this one.
    pub fn life_of(&mut self, who: NodeInc) -> Option<&mut Life> {
        self.life.as_mut().filter(|life| life.me == who)
    }

    /// Starts a new life from what the store has.
    pub fn start(
        &mut self,
        now: Time,
        dice: &mut Dice,
        params: &Params,
        rules: &Rules,
        recordings: &mut Recordings,
    ) -> NodeInc {
        let loaded = self.store.load(now, dice);
        let me = NodeInc::new(self.id, loaded.record.incarnation);
        let local = self.clock.local(now);
        let ids = || (1..=params.nodes).filter_map(|n| NodeId::new(n).ok());
        let detector = DetectorConfig {
            me,
            times: params.times,
            paths: ids()
                .filter(|&n| n != self.id)
                .map(|n| (n, (0..params.networks).map(NetworkId).collect()))
                .collect(),
            rules: rules.clone(),
        };
        let register = params.has_witness().then(|| {
            Register::new(RegisterConfig {
                me,
                cluster: CLUSTER,
                exclusion: params.exclusion,
                views_only: params.quorum == QuorumType::NodeAndShare,
                times: params.times,
                rules: rules.clone(),
            })
        });
        let core = CoreConfig {
            me,
            cluster: CLUSTER,
            nodes: ids().map(|n| (n, name_of(n))).collect(),
            client_networks: BTreeSet::new(),
            networks: (0..params.networks).map(|n| format!("net{n}")).collect(),
            votes: votes(params),
            quorum: params.quorum,
            witness: params.has_witness().then(|| "the witness disk".into()),
            exclusion: params.exclusion,
            times: params.times,
            loaded,
            seed: dice.number(),
            rules: rules.clone(),
            events: wolfpack_core::EventStart::default(),
        };
        let header = Header {
            version: env!("CARGO_PKG_VERSION").into(),
            commit: String::new(),
            wall_ms: 0,
            started: local,
            config: core,
        };
        recordings.begin(&header);
        let core = header.config;
        self.machine.attach(me);
        self.life = Some(Life {
            me,
            core: Core::new(core, local),
            detector: Detector::new(detector, local),
            register,
            wake_at: None,
            woken_last: 0,
            woken_often: 0,
            queue_due: [now; 7],
            due: [Instant::ZERO; 3],
            sessions: BTreeMap::new(),
            heard: BTreeMap::new(),
            behind: None,
            mask: BTreeSet::new(),
        });
        me
    }

    /// How long a span of this node's clock takes in true time, at least.
    #[must_use]
    pub fn true_span(&self, now: Time, span: Duration) -> Time {
        self.clock.when(self.clock.local(now) + span).saturating_sub(now)
    }
}

/// The name of a node.
#[must_use]
pub fn name_of(node: NodeId) -> String {
    format!("n{node}")
}

fn votes(params: &Params) -> VoteTable {
    let each = u8::from(params.quorum != QuorumType::Disk);
    VoteTable {
        nodes: (1..=params.nodes).filter_map(|n| NodeId::new(n).ok()).map(|n| (n, each)).collect(),
        witness: u8::from(params.has_witness()),
    }
}
