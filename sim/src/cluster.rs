//! The simulated cluster: everything that is, the loop over what is to come, and how lives begin and
//! end. Where outputs go is in `wiring` and `disk`, the guards are in `guard`, what goes wrong in
//! `chaos`, what people want in `admin`.

use std::collections::BTreeMap;
use std::time::Duration;

use wolfpack_core::ExitReason;
use wolfpack_types::register::Exclusion;
use wolfpack_types::{NodeId, NodeInc, Rules};

use crate::admin::Admin;
use crate::chaos::Weather;
use crate::clock::{Clock, Time};
use crate::data_disk::DataDisks;
use crate::device::Device;
use crate::draw::{Delays, Dice, Params, nanos};
use crate::event::{Agenda, Event};
use crate::invariants::{Verdict, Violation};
use crate::network::Network;
use crate::node::Node;
use crate::oracle::Oracle;
use crate::points::CrashPoint;
use crate::replay::Recordings;
use crate::story::Story;

/// How a service ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// SIGKILL of the service: its guard ends the resources and proves it.
    Killed,
    /// Everything at once.
    PowerCut,
    /// SIGKILL of service and guard: what runs goes on until the kernel's leases are over.
    KilledWithGuard,
    /// The guard dies; the service sees its closed socket and ends too. What runs goes on as above.
    GuardDied,
    /// By its own decision; the guard ends what is left.
    Exited,
}

/// What happened in a run, in numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    pub events: u64,
    pub views: u64,
    pub commits: u64,
    pub moves: u64,
    pub crashes: u64,
    pub restarts: u64,
    pub pauses: u64,
    pub partitions: u64,
    pub resets: u64,
    pub alarms: u64,
    pub leaves: u64,
    pub excluded: u64,
    pub proofs: u64,
    pub requests: u64,
    pub lease_ends: u64,
    pub lost_stores: u64,
    /// Machines that stood still.
    pub freezes: u64,
    /// Runs that ended, rightly, with a cluster that waits for ever.
    pub blocked: u64,
    /// Messages between cores of different nodes.
    pub messages: u64,
    /// Simulated time, in nanoseconds.
    pub sim_ns: u64,
}

impl Tally {
    /// Both together.
    #[must_use]
    pub const fn plus(self, o: Self) -> Self {
        Self {
            events: self.events + o.events,
            views: self.views + o.views,
            commits: self.commits + o.commits,
            moves: self.moves + o.moves,
            crashes: self.crashes + o.crashes,
            restarts: self.restarts + o.restarts,
            pauses: self.pauses + o.pauses,
            partitions: self.partitions + o.partitions,
            resets: self.resets + o.resets,
            alarms: self.alarms + o.alarms,
            leaves: self.leaves + o.leaves,
            excluded: self.excluded + o.excluded,
            proofs: self.proofs + o.proofs,
            requests: self.requests + o.requests,
            lease_ends: self.lease_ends + o.lease_ends,
            lost_stores: self.lost_stores + o.lost_stores,
            freezes: self.freezes + o.freezes,
            blocked: self.blocked + o.blocked,
            messages: self.messages + o.messages,
            sim_ns: self.sim_ns + o.sim_ns,
        }
    }
}

impl std::fmt::Display for Tally {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{:.2} cluster-hours; {} events; {} views, {} updates, {} moves; {} crashes, {} starts, {} excluded, \
             {} left; {} stopped services, {} partitions, {} disk resets, {} false alarms; \
             {} machines stood still; {} lost stores, {} blocked; {} leases over, {} proofs of death; {} requests",
            self.sim_ns as f64 / 3.6e12,
            self.events,
            self.views,
            self.commits,
            self.moves,
            self.crashes,
            self.restarts,
            self.excluded,
            self.leaves,
            self.pauses,
            self.partitions,
            self.resets,
            self.alarms,
            self.freezes,
            self.lost_stores,
            self.blocked,
            self.lease_ends,
            self.proofs,
            self.requests
        )
    }
}

/// Everything.
#[derive(Debug)]
pub struct Cluster {
    pub params: Params,
    pub rules: Rules,
    pub dice: Dice,
    pub now: Time,
    pub agenda: Agenda,
    pub nodes: Vec<Node>,
    pub network: Network,
    pub device: Device,
    pub data_disks: DataDisks,
    pub oracle: Oracle,
    pub story: Story,
    pub tally: Tally,
    pub admin: Admin,
    /// Faults happen.
    pub chaotic: bool,
    pub recordings: Recordings,
    /// Where power is to be cut, once.
    pub crash_point: Option<CrashPoint>,
    /// When a node was first reported unreachable; measurements clear it.
    pub silence_reported: Option<Time>,
    /// Hand-over between threads, and the stores, as they are now.
    pub thread_delays: Delays,
    pub store_delays: Delays,
    /// What stopped services have not yet taken notice of.
    pub(crate) held: BTreeMap<NodeId, Vec<Event>>,
    /// Room for a detector's outputs, kept from one input to the next.
    pub(crate) scratch: Vec<wolfpack_heartbeat::Output>,
    violation: Option<Violation>,
}

impl Cluster {
    /// A cluster of nodes that were never started, and a disk that is prepared.
    #[must_use]
    pub fn new(params: Params, rules: Rules, story: bool) -> Self {
        let mut dice = Dice::new(params.seed, 2);
        let nodes = (1..=params.nodes)
            .filter_map(|n| NodeId::new(n).ok())
            .map(|id| {
                let clock = Clock::draw(&mut dice, params.extreme_clocks);
                Node::new(id, clock, params.seed)
            })
            .collect();
        let mut device = Device::new(&params);
        crate::sight::prepare(&mut device);
        let mut cluster = Self {
            network: Network::new(params.wire, params.networks),
            admin: Admin::new(&params),
            device,
            data_disks: DataDisks::new(),
            dice,
            now: 0,
            agenda: Agenda::default(),
            nodes,
            oracle: Oracle::default(),
            story: Story::new(story),
            tally: Tally::default(),
            chaotic: false,
            recordings: Recordings::default(),
            crash_point: None,
            silence_reported: None,
            thread_delays: params.thread,
            store_delays: params.store,
            held: BTreeMap::new(),
            scratch: Vec::new(),
            violation: None,
            params,
            rules,
        };
        cluster.set_weather(Weather::Calm);
        cluster
    }

    /// The node.
    #[must_use]
    pub fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id.index()]
    }

    /// The node.
    pub fn node_mut(&mut self, id: NodeId) -> &mut Node {
        &mut self.nodes[id.index()]
    }

    /// All node numbers.
    #[must_use]
    pub fn ids(&self) -> Vec<NodeId> {
        self.nodes.iter().map(|n| n.id).collect()
    }

    /// The current life of a node.
    #[must_use]
    pub fn life(&self, id: NodeId) -> Option<NodeInc> {
        self.node(id).life.as_ref().map(|life| life.me)
    }

    /// The first broken invariant.
    #[must_use]
    pub const fn violation(&self) -> Option<&Violation> {
        self.violation.as_ref()
    }

    /// Takes note of a verdict; the first violation ends the run.
    pub fn judge(&mut self, verdict: Verdict) {
        if let Err(violation) = verdict {
            self.story.say(self.now, || format!("VIOLATION of {violation}"));
            self.violation.get_or_insert(violation);
        }
    }

    /// Says something about a node.
    pub fn say(&mut self, who: impl std::fmt::Display, text: impl FnOnce() -> String) {
        self.story.say(self.now, || format!("[{who}] {}", text()));
    }

    /// Plans something after a span.
    pub fn after(&mut self, span: Duration, event: Event) {
        self.agenda.plan(self.now + nanos(span), event);
    }

    /// Plans something now, after all that is planned for now.
    pub fn soon(&mut self, event: Event) {
        self.agenda.plan(self.now, event);
    }

    /// Lets time pass. Ends early at a violation.
    pub fn run_until(&mut self, until: Time) {
        while self.violation.is_none() {
            let Some((at, event)) = self.agenda.next(until) else {
                self.now = self.now.max(until);
                self.oracle.now = self.now;
                return;
            };
            self.now = at;
            self.oracle.now = at;
            self.tally.events += 1;
            self.story.mix(at);
            self.story.mix(event.code());
            self.dispatch(event);
        }
    }

    /// Lets a span pass.
    pub fn run_for(&mut self, span: Duration) {
        self.run_until(self.now + nanos(span));
    }

    /// Lets time pass, `step` by `step`, until something holds, `most` at the longest; whether it
    /// holds.
    pub fn run_while_not(
        &mut self,
        most: Duration,
        step: Duration,
        holds: impl Fn(&Self) -> bool,
    ) -> bool {
        let end = self.now + nanos(most);
        while !holds(self) {
            if self.now >= end || self.violation.is_some() {
                return false;
            }
            self.run_for(step);
        }
        true
    }

    fn dispatch(&mut self, event: Event) {
        let held = |node: NodeId| {
            let node = self.node(node);
            node.frozen.is_some() || node.paused && event.service().is_some()
        };
        if let Some(node) = event.machine().filter(|&node| held(node)) {
            self.held.entry(node).or_default().push(event);
            return;
        }
        match event {
            Event::Wake(who) => self.wake(who),
            Event::ToCore(who, input) => self.feed_core(who, *input),
            Event::ToDetector(who, input) => self.feed_detector(who, *input),
            Event::ToRegister(who, input) => self.feed_register(who, *input),
            Event::ToMonitor(who, command) => self.monitor_takes(who, *command),
            Event::Leaves(lane, message) => self.leaves(lane, *message),
            Event::Stream(lane) => self.stream(lane),
            Event::Heartbeat { network, from, to, beat } => {
                self.heartbeat_arrives(network, from, to, *beat);
            }
            Event::Testament { to, who } => self.testament_arrives(to, who),
            Event::Disk { command, step } => self.disk_step(command, step),
            Event::Told { who, id, told } => self.disk_tells(who, id, told),
            Event::Durable(who) => self.step_durable(who),
            Event::FormerLives(who) => self.former_lives(who),
            Event::CallEnds(node, end) => self.call_ends(node, end),
            Event::GuardWake(who) => self.guard_wakes(who),
            Event::GuardEnds { who, proof } => self.guard_ends(who, proof),
            Event::Start(node) => self.start(node),
            Event::Resume(node) => self.resume(node),
            Event::PathBack(node) => {
                self.say(node, || "the path to the witness disk works again".into());
                self.device.set_path(node, true);
            }
            Event::AlarmOver { who, about } => self.alarm_over(who, about),
            Event::Thaw(node) => self.thaw(node),
            Event::Flap { from, to, left } => self.flap(from, to, left),
            Event::Stranger { left } => self.stranger(left),
            Event::DiskRecovers => self.device.slow_by = 1,
            Event::DataDisk { who, group } => self.data_disk_taken(who, &group),
            Event::WallClock(node) => self.set_wall_clock(node),
            Event::Fault => self.fault(),
            Event::Hit(node) => self.hit(node),
            Event::Administer => self.administer(),
        }
    }

    // ---- lives

    /// Starts the service of a node, as soon as nothing of its former life is left.
    pub fn start(&mut self, id: NodeId) {
        if self.node(id).life.is_some() {
            return;
        }
        if !self.node(id).machine.is_clear() {
            self.node_mut(id).starting = true;
            self.after(Duration::from_millis(10), Event::Start(id));
            return;
        }
        self.log_in(id);
        let (now, params, rules) = (self.now, self.params.clone(), self.rules.clone());
        let node = &mut self.nodes[id.index()];
        node.starting = false;
        let (base, last) = (node.store.base(), node.store.last().1);
        let recordings = &mut self.recordings;
        let who = node.start(now, &mut self.dice, &params, &rules, recordings);
        self.tally.restarts += 1;
        self.say(who, || format!("starts; its log ends at {last}"));
        let store = &self.nodes[id.index()].store;
        self.oracle.life_starts(who, store.record(), base, &store.entries());
        self.drain_register(who);
        self.drain_detector(who);
        let draft = self.recordings.draft(self.node(id).clock.local(now), None);
        self.drain_core(who, draft);
        self.soon(Event::FormerLives(who));
    }

    /// The session at the disk: kept over a mere restart, else new.
    fn log_in(&mut self, id: NodeId) {
        let keep = self.dice.permille(400) && self.params.exclusion == Exclusion::Reserve;
        let noticed = self.dice.permille(500);
        let node = &mut self.nodes[id.index()];
        match node.nexus {
            Some(_) if keep => {}
            old => {
                if let Some(old) = old {
                    self.device.log_out(old, noticed);
                }
                let nexus = node.new_nexus();
                self.device.log_in(nexus);
            }
        }
    }

    /// Ends the service of a node.
    pub fn end(&mut self, id: NodeId, how: End) {
        let Some(life) = self.nodes[id.index()].life.take() else { return };
        let who = life.me;
        self.say(who, || format!("is over: {how:?}"));
        self.nodes[id.index()].paused = false;
        self.nodes[id.index()].store_full = false;
        self.held.remove(&id);
        self.network.life_over(&mut self.dice, who);
        self.store_crashes(who);
        self.oracle.life_ends(who, how != End::PowerCut);
        self.end_resources(who, how);
    }

    fn store_crashes(&mut self, who: NodeInc) {
        loop {
            let before = self.node(who.node).store.record().clone();
            let verdict = match self.nodes[who.node.index()].store.crash(&mut self.dice) {
                Ok(Some(step)) => self.oracle.step_durable(who, &before, &step),
                Ok(None) => return,
                Err(gap) => gap_in_log(&gap),
            };
            self.judge(verdict);
        }
    }

    fn end_resources(&mut self, who: NodeInc, how: End) {
        let (now, margin) = (self.now, self.params.times.margin);
        let at_lease_end = self.dice.permille(350);
        let quick = self.dice.between(Duration::from_millis(1), Duration::from_millis(30));
        let late = self.dice.span(margin * 9 / 10);
        let node = &mut self.nodes[who.node.index()];
        node.machine.guard.ended = true;
        if how == End::PowerCut {
            node.frozen = None;
            self.oracle.frozen.remove(&who.node);
            if let Some(nexus) = node.nexus.take() {
                self.device.log_out(nexus, self.dice.permille(300));
            }
            self.everything_ended(who);
            return;
        }
        node.machine.guard.ending = true;
        // A starved guard is late, but never later than the margin after lease end.
        let latest = node.clock.when(node.machine.guard.lease_end + late).max(now);
        let with_guard = matches!(how, End::KilledWithGuard | End::GuardDied);
        let at = match how {
            End::KilledWithGuard | End::GuardDied => latest,
            End::Killed if at_lease_end => latest,
            _ => (now + nanos(quick)).min(latest.max(now + nanos(quick / 10))),
        };
        self.agenda.plan(at, Event::GuardEnds { who, proof: !with_guard });
    }

    /// Everything of a life has ended on its machine.
    pub fn everything_ended(&mut self, who: NodeInc) {
        self.write_data(who.node);
        for run in self.node_mut(who.node).machine.end_all() {
            self.oracle.run_ends(run.life, &run.group);
            self.leave_data_disk(run.life, &run.group);
        }
        self.oracle.life_cleared(who);
        if self.node(who.node).frozen.is_none() {
            self.oracle.frozen.remove(&who.node);
        }
    }

    /// A core has said that its life is over.
    pub fn exits(&mut self, who: NodeInc, reason: &ExitReason) {
        let wait = match reason {
            ExitReason::Left => {
                self.tally.leaves += 1;
                self.dice.between(self.params.times.lease, self.params.times.lease * 6)
            }
            _ => self.dice.between(Duration::from_millis(50), Duration::from_millis(400)),
        };
        if *reason == ExitReason::Excluded {
            self.tally.excluded += 1;
        }
        self.say(who, || format!("exits: {reason:?}"));
        self.end(who.node, End::Exited);
        if *reason == ExitReason::Discarded {
            self.discard_store(who.node);
        }
        if *reason == ExitReason::Evicted {
            return self.stays_down(who.node);
        }
        self.restart_after(who.node, wait);
    }

    /// Plans a start.
    pub fn restart_after(&mut self, id: NodeId, wait: Duration) {
        self.node_mut(id).starting = true;
        self.after(wait, Event::Start(id));
    }

    /// The service is stopped (SIGSTOP).
    pub fn pause(&mut self, id: NodeId, span: Duration) {
        if self.node(id).life.is_none() || self.node(id).paused {
            return;
        }
        self.tally.pauses += 1;
        self.say(id, || format!("service stopped for {span:?}"));
        self.node_mut(id).paused = true;
        self.after(span, Event::Resume(id));
    }

    fn resume(&mut self, id: NodeId) {
        if !self.node(id).paused {
            return;
        }
        self.say(id, || "service goes on".into());
        self.node_mut(id).paused = false;
        for event in self.held.remove(&id).unwrap_or_default() {
            self.soon(event);
        }
        if let Some(life) = &mut self.node_mut(id).life {
            life.wake_at = None;
        }
        self.rewake(id);
    }
}

/// The verdict on a step that cannot follow what is durable.
///
/// # Errors
/// Always: it is one.
pub fn gap_in_log(gap: &str) -> Verdict {
    Err(Violation { invariant: "P2 the store's steps fit", what: gap.to_owned() })
}
