//! The detector of one node: when to say what to whom, and what to make of what is heard.
//!
//! It keeps two promises that the safety of the cluster rests on (P6). No acknowledgement of a life
//! outside the mask leaves after [`HeartbeatNotice::MaskInForce`]; and the `last_ack` reported there
//! is not before the send time of any heartbeat that was ever acknowledged. Both hold by the order
//! of the outputs: what was queued before the notice is in `last_ack` already.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use wolfpack_types::heartbeat::{
    Ack, Heartbeat, HeartbeatCommand, HeartbeatNotice, LeaseTerms, ProxyGrant, Standing,
};
use wolfpack_types::networks::{NetworkFigures, NetworkRows};
use wolfpack_types::{Instant, NetworkId, NodeId, NodeInc, NodeSet, Rule};

use crate::figures::DelayWatch;
use crate::lease::Lease;
use crate::peer::{Hint, Peer};
use crate::{DetectorConfig, Input, Output};

/// The failure detector of one node.
#[derive(Debug)]
pub struct Detector {
    config: DetectorConfig,
    /// Time of the last input; it never runs backwards.
    now: Instant,
    peers: BTreeMap<NodeId, Peer>,
    mask: BTreeSet<NodeInc>,
    standing: Standing,
    proxy_grants: BTreeMap<NodeId, ProxyGrant>,
    lease: Lease,
    /// Own receive time of the newest heartbeat that an acknowledgement sent to the node covers.
    last_ack: BTreeMap<NodeId, Instant>,
    /// The next heartbeats by schedule. Absolute: a late tick does not move the later ones.
    next_tick: Instant,
    /// Heartbeats out of turn, because something new is to be said.
    urgent: Option<Instant>,
    /// Last time that all peers were told everything.
    last_round: Option<Instant>,
    /// Whom this node hears over each network.
    networks: NetworkRows,
    /// The core knows it so.
    networks_told: NetworkRows,
    delays: DelayWatch,
    started: Instant,
    /// When something is due, as of the last input: asked for with every datagram, so not computed
    /// each time.
    next: Instant,
    /// Datagrams about to be made; kept for its room.
    due: Vec<(NodeId, NetworkId, bool)>,
    outputs: VecDeque<Output>,
}

impl Detector {
    /// A new life. It acknowledges nobody until told a mask.
    #[must_use]
    pub fn new(config: DetectorConfig, now: Instant) -> Self {
        let me = config.me.node;
        // A voter that restarted reports at least its own start (P6).
        let never = if config.rules.broken(Rule::NoRestartRule) { Instant::ZERO } else { now };
        let peers = config.paths.iter().filter(|&(&node, _)| node != me);
        let peers: BTreeMap<_, _> =
            peers.map(|(&node, nets)| (node, Peer::new(node, nets, now))).collect();
        Self {
            now,
            mask: BTreeSet::new(),
            standing: Standing::default(),
            proxy_grants: BTreeMap::new(),
            lease: Lease::new(me, &config.times, now),
            last_ack: peers.keys().copied().chain([me]).map(|node| (node, never)).collect(),
            peers,
            next_tick: now,
            urgent: None,
            last_round: None,
            networks: NetworkRows::default(),
            networks_told: NetworkRows::default(),
            delays: DelayWatch::new(&config.times, now),
            started: now,
            // The first heartbeats.
            next: now,
            due: Vec::new(),
            outputs: VecDeque::new(),
            config,
        }
    }

    /// One input. Drain [`Detector::poll_output`] before the next.
    ///
    /// A call that is late against [`Detector::next_deadline`] by more than a heartbeat period is
    /// an own stall: what happened meanwhile is not held against the peers. So when late, give what
    /// waits in the sockets first, [`Input::Deadline`] last.
    pub fn handle(&mut self, now: Instant, input: Input) {
        self.now = self.now.max(now);
        let heard = matches!(input, Input::Received { .. });
        let passed = self.now >= self.next;
        self.discount_stall();
        match input {
            Input::Deadline => {}
            Input::Received { network, from, heartbeat } => {
                self.receive(network, from, &heartbeat);
            }
            Input::Command(command) => self.command(command),
            Input::Introduced { node } if self.peers.contains_key(&node) => self.say_soon(),
            Input::Introduced { .. } => {}
            Input::PathHint { network, node } => self.hint(network, node),
            Input::Interface { network, works } => self.networks.set_broken(network, !works),
        }
        if heard && !passed {
            // Of the timers none is due, and what was heard only moves them later; all that it can
            // have caused is a round. So many peers cost no more for each of their heartbeats.
            if self.urgent.is_some_and(|at| self.now >= at) {
                self.round();
            }
            debug_assert!(self.soonest() > self.now, "a timer is due that was not run");
        } else {
            self.run_timers();
        }
        self.next = self.soonest();
        if self.networks != self.networks_told {
            self.networks_told = self.networks;
            self.notice(HeartbeatNotice::Networks(self.networks));
        }
        if self.lease.evaluate() {
            self.notice(HeartbeatNotice::Lease { end: self.lease.end() });
        }
        if cfg!(debug_assertions) {
            self.check_invariants();
        }
    }

    /// The next output.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When to call again at the latest.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        Some(self.next)
    }

    fn soonest(&self) -> Instant {
        let times = &self.config.times;
        let mut earliest = self.urgent.map_or(self.next_tick, |at| at.min(self.next_tick));
        for peer in self.peers.values() {
            for at in [peer.next_deadline(times), peer.next_probe, peer.next_hint()] {
                earliest = at.map_or(earliest, |at| at.min(earliest));
            }
        }
        earliest
    }

    /// End of the own lease, as last noticed.
    #[must_use]
    pub fn lease_end(&self) -> Instant {
        self.lease.end()
    }

    /// What must always be so; called after every input in builds with debug assertions.
    ///
    /// # Panics
    /// If it is not so: a defect of this crate.
    pub fn check_invariants(&self) {
        self.lease.check_invariants(self.now);
        assert!(self.next_tick > self.now, "the schedule lies in the future");
        assert!(self.last_ack.values().all(|&at| at <= self.now), "acknowledged in the future");
        for peer in self.peers.values() {
            peer.check_invariants(self.now);
        }
    }

    fn notice(&mut self, notice: HeartbeatNotice) {
        if let HeartbeatNotice::Path { network, node, up, .. } = notice {
            self.networks.set(network, node, up);
        }
        self.outputs.push_back(Output::Notice(notice));
    }

    fn notices(&mut self, notices: Vec<HeartbeatNotice>) {
        for notice in notices {
            self.notice(notice);
        }
    }

    /// An own stall excuses the peers' silence; it never extends the own lease.
    fn discount_stall(&mut self) {
        let late = self.now.since(self.next);
        if late > self.config.times.heartbeat {
            for peer in self.peers.values_mut() {
                peer.excuse(late);
            }
            self.notice(HeartbeatNotice::Stalled { late });
        }
        if let Some(safe) = self.delays.observe(self.now, late) {
            self.notice(HeartbeatNotice::Delays { safe, delays: self.delays.delays() });
        }
    }

    fn receive(&mut self, network: NetworkId, from: NodeId, heartbeat: &Heartbeat) {
        let Some(peer) = self.peers.get_mut(&from) else { return };
        if !peer.paths.contains_key(&network) || !peer.admits(heartbeat.inc) {
            return;
        }
        let row = peer.in_row();
        let heard = peer.hear(self.now, network, heartbeat, &self.config.times);
        let row_changed = row != peer.in_row();
        if let Some(echo) = heartbeat.echo
            && let Some(path) = peer.paths.get_mut(&network)
        {
            path.figures.round_trip(self.now, self.started, echo);
        }
        let life = NodeInc::new(from, heartbeat.inc);
        if row_changed || heard.new_life && self.acknowledges(life) {
            self.say_soon();
        }
        if heard.paused {
            self.lease.forget(self.now);
        }
        self.notices(heard.notices);
        self.take_grants(from, heartbeat);
        if heartbeat.probe {
            self.answer(network, from);
        }
    }

    /// What a heartbeat grants to this life.
    fn take_grants(&mut self, from: NodeId, heartbeat: &Heartbeat) {
        let me = self.config.me;
        // A clock that this node has not reached yet was never sent by it.
        let mine = |inc, clock| inc == me.inc && clock <= self.now;
        if let Some(ack) = heartbeat.acks.get(&me.node).filter(|ack| mine(ack.inc, ack.clock)) {
            self.lease.grant(from, ack.clock);
        }
        let accepted = self.lease.terms().accepted;
        let leader = accepted.node() == Some(from);
        if let Some(grant) = heartbeat.grants.get(&me.node)
            && leader
            && grant.ballot == accepted
            && mine(grant.inc, grant.clock)
        {
            self.lease.grant_register(grant.clock);
        }
    }

    /// A probe is answered at once, but not faster than anybody has reason to ask.
    fn answer(&mut self, network: NetworkId, to: NodeId) {
        let pause = self.probe_period() / 2;
        let path = self.peers.get_mut(&to).and_then(|peer| peer.paths.get_mut(&network));
        let Some(path) = path else { return };
        if path.answered.is_none_or(|at| self.now.since(at) >= pause) {
            path.answered = Some(self.now);
            self.transmit(network, to, false);
        }
    }

    fn command(&mut self, command: HeartbeatCommand) {
        match command {
            HeartbeatCommand::SetMask { id, mask } => self.set_mask(id, mask),
            HeartbeatCommand::SetStanding(standing) => {
                if std::mem::replace(&mut self.standing, standing) != standing {
                    self.say_soon();
                }
            }
            HeartbeatCommand::SetLeaseTerms(terms) => self.set_terms(terms),
            HeartbeatCommand::RegisterGrant { sent } => {
                // A renewal that will be sent only later cannot have been good.
                self.lease.grant_register(sent.min(self.now));
            }
            HeartbeatCommand::Note { id } => {
                let living = self.peers.values().filter_map(Peer::living);
                let newest = living.map(|(who, life)| (who, life.newest)).collect();
                self.notice(HeartbeatNotice::Noted { id, newest });
            }
            HeartbeatCommand::SetProxyGrants(grants) => {
                let ballots = |grants: &BTreeMap<NodeId, ProxyGrant>| -> BTreeMap<_, _> {
                    grants.iter().map(|(&node, grant)| (node, (grant.ballot, grant.inc))).collect()
                };
                // The first grant under a ballot is waited for; a newer one is not.
                let first = ballots(&grants) != ballots(&self.proxy_grants);
                self.proxy_grants = grants;
                if first {
                    self.say_soon();
                }
            }
            HeartbeatCommand::Report { id } => {
                let paths = self.peers.values().flat_map(|peer| peer.figures(self.now));
                let figures =
                    NetworkFigures { paths: paths.collect(), delays: self.delays.delays() };
                self.notice(HeartbeatNotice::Figures { id, figures: Box::new(figures) });
            }
            HeartbeatCommand::DeclareDead(who) => {
                let mut notices = Vec::new();
                if let Some(peer) = self.peers.get_mut(&who.node) {
                    peer.declare_dead(self.now, who.inc, &mut notices);
                }
                if !notices.is_empty() {
                    self.say_soon();
                }
                self.notices(notices);
            }
        }
    }

    fn set_mask(&mut self, id: u64, mask: BTreeSet<NodeInc>) {
        let old = std::mem::replace(&mut self.mask, mask);
        // Whoever is heard and newly acknowledged may be waiting for its lease.
        let newly = self.peers.values().filter_map(Peer::living);
        let newly = newly.map(|(who, _)| who);
        if newly.into_iter().any(|who| self.mask.contains(&who) && !old.contains(&who)) {
            self.say_soon();
        }
        let last_ack = self.last_ack.clone();
        self.notice(HeartbeatNotice::MaskInForce { id, last_ack });
    }

    fn set_terms(&mut self, terms: LeaseTerms) {
        self.lease.tick(self.now);
        self.lease.set_terms(terms);
    }

    fn acknowledges(&self, who: NodeInc) -> bool {
        self.mask.contains(&who) || self.config.rules.broken(Rule::NoMask)
    }

    /// Plans heartbeats out of turn: at once, but in a storm of changes not more often than ten
    /// times per period.
    fn say_soon(&mut self) {
        let pause = self.config.times.heartbeat / 10;
        let at = self.last_round.map_or(self.now, |last| self.now.max(last + pause));
        self.urgent = Some(self.urgent.map_or(at, |planned| planned.min(at)));
    }

    fn probe_period(&self) -> Duration {
        self.config.times.heartbeat.min(self.config.times.probe) / 2
    }

    /// A burst of probes on one path, which may be broken.
    fn hint(&mut self, network: NetworkId, node: NodeId) {
        let hint = Hint { next: self.now, until: self.now + self.config.times.probe };
        let path = self.peers.get_mut(&node).and_then(|peer| peer.paths.get_mut(&network));
        if let Some(path) = path.filter(|path| path.up == Some(true) && path.hint.is_none()) {
            path.hint = Some(hint);
        }
    }

    fn run_timers(&mut self) {
        let mut notices = Vec::new();
        let rows = |peers: &BTreeMap<NodeId, Peer>| peers.values().filter(|p| p.in_row()).count();
        let heard_before = rows(&self.peers);
        for peer in self.peers.values_mut() {
            peer.pass_time(self.now, &self.config.times, &mut notices);
        }
        if rows(&self.peers) != heard_before {
            self.say_soon();
        }
        self.notices(notices);
        if self.now >= self.next_tick {
            self.tick();
        } else if self.urgent.is_some_and(|at| self.now >= at) {
            self.round();
        }
        self.probe_suspects();
    }

    fn tick(&mut self) {
        self.lease.tick(self.now);
        self.round();
        let period = self.config.times.heartbeat.max(Duration::from_nanos(1));
        let missed = self.now.since(self.next_tick).as_nanos() / period.as_nanos();
        let missed = u32::try_from(missed).unwrap_or(u32::MAX);
        self.next_tick += period * missed + period;
    }

    /// A heartbeat to every peer on every path.
    fn round(&mut self) {
        self.urgent = None;
        self.last_round = Some(self.now);
        let next_probe = self.now + self.probe_period();
        let mut due = std::mem::take(&mut self.due);
        for peer in self.peers.values_mut() {
            let probe = peer.next_probe.is_some();
            peer.next_probe = peer.next_probe.map(|_| next_probe);
            let paths = peer.paths.iter();
            due.extend(paths.map(|(&net, path)| (peer.node, net, probe || path.hint.is_some())));
        }
        self.transmit_due(due);
    }

    fn transmit_due(&mut self, mut due: Vec<(NodeId, NetworkId, bool)>) {
        for (to, network, probe) in due.drain(..) {
            self.transmit(network, to, probe);
        }
        self.due = due;
    }

    /// The bursts of direct probes: of a suspected peer on all paths until the verdict, of a path
    /// that was hinted at on that path.
    fn probe_suspects(&mut self) {
        let (now, period) = (self.now, self.probe_period());
        let mut due = std::mem::take(&mut self.due);
        for peer in self.peers.values_mut() {
            if peer.next_probe.is_some_and(|at| now >= at) {
                peer.next_probe = Some(now + period);
                due.extend(peer.paths.keys().map(|&network| (peer.node, network, true)));
            }
            for (&network, path) in &mut peer.paths {
                if let Some(hint) = path.hint.as_mut().filter(|hint| now >= hint.next) {
                    hint.next = now + period;
                    due.push((peer.node, network, true));
                }
            }
        }
        self.transmit_due(due);
    }

    fn transmit(&mut self, network: NetworkId, to: NodeId, probe: bool) {
        let heard = self.peers.values().filter(|peer| peer.in_row());
        let row: NodeSet = heard.map(|peer| peer.node).collect();
        let Some(peer) = self.peers.get(&to) else { return };
        let acknowledged = peer.living().filter(|(who, _)| self.acknowledges(*who));
        let ack = acknowledged
            .map(|(_, life)| (Ack { inc: life.inc, clock: life.newest }, life.received));
        if let Some((_, received)) = ack
            && let Some(last) = self.last_ack.get_mut(&to)
        {
            *last = received.max(*last);
        }
        let grant = self.proxy_grants.get(&to).map(|&grant| (to, grant));
        let Some(path) = self.peers.get_mut(&to).and_then(|p| p.paths.get_mut(&network)) else {
            return;
        };
        path.seq += 1;
        let heartbeat = Heartbeat {
            inc: self.config.me.inc,
            seq: path.seq,
            clock: self.now,
            probe,
            standing: self.standing,
            acks: ack.map(|(ack, _)| (to, ack)).into_iter().collect(),
            row,
            networks: self.networks,
            echo: path.figures.echo(self.now),
            grants: grant.into_iter().collect(),
        };
        self.outputs.push_back(Output::Transmit { network, to, heartbeat });
    }
}
