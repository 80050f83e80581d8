//! One input at a time: hands each to the manager it concerns, then lets everything that follows
//! from it happen.

use std::collections::BTreeSet;

use wolfpack_types::api::{ErrorKind, ErrorReply, Reply, Request};
use wolfpack_types::event::{EventKind, Proof, Severity};
use wolfpack_types::heartbeat::{HeartbeatCommand, HeartbeatNotice, Reach};
use wolfpack_types::monitor::MonitorEvent;
use wolfpack_types::networks::NetworkRows;
use wolfpack_types::objects::Cluster;
use wolfpack_types::peer::PeerMessage;
use wolfpack_types::{Instant, NodeId, NodeInc, Rules, VersionRange};

use crate::communicate::Standing;
use crate::database::Change;
use crate::failover::{Situation, plan};
use crate::membership::Peer;
use crate::membership::choose::Purpose;
use crate::membership::coordinator::{Creation, Proposal};
use crate::resource::{Here, ResourceInput, ResourceOutput};
use crate::{Core, ExitReason, Input, Output};

impl Core {
    /// One input. See the contract of the crate.
    pub fn handle(&mut self, now: Instant, input: Input) {
        self.events.begin(now);
        // A core that comes late (a stopped service, a busy machine) acts on no lease that has ended
        // meanwhile; only a lease itself may be the news.
        if !matches!(input, Input::Heartbeat(HeartbeatNotice::Lease { .. })) {
            self.authority(now);
        }
        match input {
            Input::Deadline => {}
            Input::Report(event) => self.event(event.severity, event.kind, event.text),
            Input::Peer { from, message } => self.on_peer(now, from, message),
            Input::Heartbeat(notice) => self.on_notice(now, notice),
            Input::Persisted { id } => self.on_persisted(now, id),
            Input::StoreFailed { error } => self.store_failed(&error),
            Input::Register(event) => self.on_register(now, event),
            Input::Monitor(event) => self.on_monitor(now, &event),
            Input::Dead { who, proof } => self.on_dead(now, who, proof),
            Input::Create { id, cluster, .. } => {
                self.asked(&Request::ClusterCreate {
                    name: cluster.name.clone(),
                    overwrite: false,
                });
                self.on_create(now, id, cluster);
            }
            Input::Request { id, entropy, request } => {
                self.asked(&request);
                self.on_administrator(now, id, entropy, &request);
            }
            Input::Leave => self.begin_leave(now),
            Input::WallClock { ms } => self.wall = (ms, now),
            Input::Unwatch { id } => self.unwatch(id),
            Input::Backup { id } => self.back_up(now, id),
            Input::Restore { id, backup, dead, foreign } => {
                self.restore(now, id, *backup, &dead, foreign);
            }
        }
        self.settle(now);
    }

    /// Everything that follows from an input, until nothing is left to follow.
    fn settle(&mut self, now: Instant) {
        self.drain_loopback(now);
        if now >= self.next_tick {
            self.next_tick = now + self.tick_period();
            self.restart_excluded(now);
            self.update_tick(now);
            self.leave_tick(now);
            self.tell_evicted(now);
            self.networks_tick(now);
        }
        self.open_wanted_witness();
        self.witness_tick(now);
        self.consider_regroup(now);
        self.authority(now);
        if self.manager.next_deadline().is_some_and(|d| now >= d) {
            self.manage(now, ResourceInput::Deadline);
        }
        self.lead(now);
        self.drain_loopback(now);
        self.settle_events(now);
        self.check_invariants();
    }

    fn drain_loopback(&mut self, now: Instant) {
        let me = self.config.me;
        while let Some(message) = self.loopback.pop_front() {
            self.on_peer(now, me, message);
        }
    }

    fn on_peer(&mut self, now: Instant, from: NodeInc, message: PeerMessage) {
        if self.exiting || self.versions.refuses(from) {
            return;
        }
        if let Err(why) = self.legal(now, from, &message) {
            return self.refuse(from, &message, why);
        }
        match message {
            PeerMessage::Prepare { ballot, members, forces: _, cause } => {
                self.events.because(cause);
                self.on_prepare(now, from, ballot, members);
            }
            PeerMessage::Promise(promise) => {
                if promise.who == from {
                    self.on_promise(now, *promise);
                }
            }
            PeerMessage::Nack { ballot, counter, refused } => {
                self.on_nack(now, from, ballot, counter, refused);
            }
            PeerMessage::FetchLog { ballot, after } => {
                self.on_fetch_log(now, from, ballot, after);
            }
            PeerMessage::LogData { ballot, snapshot, entries } => {
                self.on_log_data(now, from, ballot, snapshot, entries);
            }
            PeerMessage::Accept(accept) => {
                if accept.view.ballot.node() == Some(from.node) {
                    self.on_accept(now, from, *accept);
                }
            }
            PeerMessage::Accepted { ballot } => self.on_accepted(now, from, ballot),
            PeerMessage::Established { ballot, commit_seq } => {
                if ballot.node() == Some(from.node) {
                    self.on_established(now, ballot, commit_seq);
                }
            }
            PeerMessage::Restart { you, because, cause } => {
                self.events.because(cause);
                self.on_restart(you, because);
            }
            PeerMessage::Append { ballot, prev, entries } => {
                self.on_append(now, from, ballot, prev, entries);
            }
            PeerMessage::Appended { ballot, last } => self.on_appended(now, from, ballot, last),
            PeerMessage::Commit { ballot, seq } => self.on_commit(now, from, ballot, seq),
            PeerMessage::Applied { ballot, seq, digest } => {
                self.on_applied(now, from, ballot, seq, digest);
            }
            PeerMessage::Volatile { ballot, update, cause, .. } => {
                if ballot.node() == Some(from.node) && update.is_volatile() {
                    self.events.because(cause);
                    self.on_volatile(now, ballot, &update);
                }
            }
            PeerMessage::Request { id, update, cause } => {
                if id.from == from {
                    self.on_request(now, id, update, cause);
                }
            }
            PeerMessage::Differs { ballot, seq } => self.on_differs(from, ballot, seq),
            PeerMessage::Copy(copy) => self.on_copy(now, from, *copy),
            PeerMessage::RequestDone { id, result } => self.on_request_done(id, result),
            PeerMessage::Leaving { who, cause } => {
                if who == from {
                    self.events.causes.leaves(who.node, cause);
                    self.membership.leaving.insert(who.node);
                    self.plan_soon(now);
                }
            }
            PeerMessage::Resign { ballot, cause } => {
                self.events.regroup_wanted(cause);
                self.on_resign(now, from, ballot);
            }
            PeerMessage::Networks { ballot, verdicts } => self.on_networks(from, ballot, verdicts),
            PeerMessage::Evicted { you } => self.on_evicted(now, from, you),
            PeerMessage::EventBatch(_) | PeerMessage::EventFetch { .. } => {
                self.on_events(now, from, message);
            }
            PeerMessage::Exit { who, cause } => {
                if who == from {
                    self.events.because(cause);
                    self.output(Output::Heartbeat(HeartbeatCommand::DeclareDead(who)));
                    self.on_dead(now, who, Proof::Exit);
                }
            }
        }
    }

    fn on_notice(&mut self, now: Instant, notice: HeartbeatNotice) {
        match notice {
            HeartbeatNotice::Heard { from, standing, row, networks } => {
                self.on_heard(now, from, standing, (row, networks));
            }
            HeartbeatNotice::Reach { node, reach, silence } => {
                if let Some(peer) = self.membership.peers.get_mut(&node) {
                    peer.reach = reach;
                }
                self.events.look_at_nodes();
                let (severity, text) = match reach {
                    Reach::Up => (Severity::Info, "is heard".to_owned()),
                    Reach::Suspected => (
                        Severity::Warning,
                        format!(
                            "is suspected: silent on all networks for {} ms",
                            silence.as_millis()
                        ),
                    ),
                    Reach::Unreachable => (
                        Severity::Warning,
                        format!(
                            "is unreachable: silent on all networks for {} ms",
                            silence.as_millis()
                        ),
                    ),
                };
                let text = format!("node {} {text}", self.name(node));
                self.event(severity, EventKind::NodeReach { node, reach }, text);
            }
            HeartbeatNotice::Path { network, node, up, .. } => self.on_path(network, node, up),
            HeartbeatNotice::MaskInForce { id, last_ack } => {
                self.mask_in_force(now, id, last_ack);
            }
            HeartbeatNotice::Noted { id, newest } => self.on_noted(now, id, newest),
            HeartbeatNotice::Lease { end } => self.membership.lease_end = end,
            HeartbeatNotice::Paused { behind } => {
                let behind_ms = u64::try_from(behind.as_millis()).unwrap_or(u64::MAX);
                let text = format!("this node stood still for about {behind_ms} ms");
                self.event(Severity::Error, EventKind::Paused { behind_ms }, text.clone());
                if !self.manager.idle() {
                    self.exit(ExitReason::Fenced(text));
                }
            }
            HeartbeatNotice::Networks(rows) => self.networks.own = rows,
            HeartbeatNotice::Figures { id, figures } => self.on_figures(now, id, &figures),
            HeartbeatNotice::Delays { safe, delays } => self.on_delays(safe, delays),
            HeartbeatNotice::Stalled { late } => {
                let late_ms = u64::try_from(late.as_millis()).unwrap_or(u64::MAX);
                let text =
                    format!("the network driver was {late_ms} ms late; silence is discounted");
                self.event(Severity::Warning, EventKind::Stalled { late_ms }, text);
            }
            HeartbeatNotice::Interface { network, change } => {
                let name = self.network_name(network);
                let severity = if change.good() { Severity::Info } else { Severity::Warning };
                let text = format!("this node's interface on network '{name}' {change}");
                let kind = EventKind::InterfaceChanged { network, name, change };
                self.event(severity, kind, text);
            }
        }
    }

    fn on_heard(
        &mut self,
        now: Instant,
        from: NodeInc,
        standing: wolfpack_types::heartbeat::Standing,
        (row, networks): (BTreeSet<NodeId>, NetworkRows),
    ) {
        if !self.config.nodes.contains_key(&from.node) || from.node == self.config.me.node {
            return;
        }
        // Its driver is ahead of its core, which has not yet said what it stands for: as a member
        // with an unknown store it would count for nothing.
        if standing.store == wolfpack_types::StoreId::default() {
            return;
        }
        if !self.understood(from, standing.versions) {
            return;
        }
        let peers = &mut self.membership.peers;
        let paths = peers.get(&from.node).map(|p| p.paths.clone()).unwrap_or_default();
        if peers.get(&from.node).is_some_and(|p| p.inc > from.inc) {
            return;
        }
        // A heartbeat is a sign of life: the detector says otherwise when there is silence.
        let peer = Peer { inc: from.inc, reach: Reach::Up, standing, row, networks, paths };
        let known = peers.insert(from.node, peer).is_some_and(|p| p.inc == from.inc);
        if !known {
            self.events.look_at_nodes();
        }
        // It has installed the view that I accepted: the Established that I missed.
        if standing.installed > wolfpack_types::Ballot::ZERO
            && standing.installed == self.membership.accepted_ballot()
        {
            self.on_established(now, standing.installed, standing.commit_seq);
        }
        self.restart_excluded(now);
        self.note_fork(from.node);
    }

    /// Whether this life of a peer speaks what is spoken here; one that does not is no peer: it is
    /// in no view of this node's making, and what it sends is not read.
    fn understood(&mut self, from: NodeInc, theirs: VersionRange) -> bool {
        let ours = VersionRange::OWN;
        let Standing::Refused { news } = self.versions.heard(from, theirs) else { return true };
        self.membership.peers.remove(&from.node);
        if news {
            let text = format!(
                "node {} speaks version {theirs} of the protocol and this node {ours}: it is not \
                 taken for a peer; install releases that have a version in common",
                self.name(from.node)
            );
            let kind = EventKind::VersionRefused { who: from, theirs, ours };
            self.event(Severity::Error, kind, text);
        }
        false
    }

    fn on_path(&mut self, network: wolfpack_types::NetworkId, node: NodeId, up: bool) {
        let was_up = self.network_up(network);
        if let Some(peer) = self.membership.peers.get_mut(&node) {
            peer.paths.insert(network, up);
        }
        let name = self.network_name(network);
        let state = if up { "works" } else { "is broken" };
        let severity = if up { Severity::Info } else { Severity::Warning };
        let text = format!("the path to node {} over network '{name}' {state}", self.name(node));
        self.event(severity, EventKind::PathChanged { network, node, up }, text);
        let is_up = self.network_up(network);
        if is_up != was_up {
            let state = if is_up { "works again" } else { "reaches no other node" };
            let text = format!("network '{name}' {state}");
            self.event(severity, EventKind::NetworkChanged { network, name, up: is_up }, text);
        }
    }

    fn network_up(&self, network: wolfpack_types::NetworkId) -> bool {
        self.membership.peers.values().any(|p| p.paths.get(&network).copied().unwrap_or(false))
    }

    pub(crate) fn network_name(&self, network: wolfpack_types::NetworkId) -> String {
        let name = self.config.networks.get(usize::from(network.0));
        name.cloned().unwrap_or_else(|| network.0.to_string())
    }

    fn on_monitor(&mut self, now: Instant, event: &MonitorEvent) {
        self.manage(now, ResourceInput::Monitor(event));
        if let MonitorEvent::Terminated { why, left } = event {
            let text = if left.is_empty() {
                format!("the guard has ended all resources: {why}")
            } else {
                format!("the guard could not end everything ({}): {why}", left.join(", "))
            };
            self.event(
                Severity::Warning,
                EventKind::ResourcesTerminated { why: why.clone() },
                text.clone(),
            );
            self.exit(ExitReason::Fenced(text));
        }
    }

    pub(crate) fn on_dead(&mut self, now: Instant, who: NodeInc, proof: Proof) {
        if who == self.config.me || self.membership.dead.contains_key(&who) {
            return;
        }
        self.membership.dead.insert(who, proof);
        let name = self.name(who.node);
        let text = format!("nothing of node {name} (life {who}) runs any more: {proof}");
        self.event(Severity::Info, EventKind::ProofReceived { who, proof }, text);
        self.events.sync.ended(now, who);
        self.events.look_at_nodes();
        self.plan_soon(now);
    }

    fn on_create(&mut self, now: Instant, id: u64, mut cluster: Cluster) {
        if cluster.quorum.kind.has_witness() && cluster.quorum.witness.is_none() {
            cluster.quorum.witness = self.config.configured_witness();
        }
        let refuse = |kind, what: &str, advice: &str| Output::Reply {
            id,
            reply: Reply::Error(ErrorReply { kind, what: what.into(), advice: advice.into() }),
        };
        if self.membership.record.accepted.is_some() {
            let what = "this node belongs to a cluster already";
            let advice = "see 'wolfpack cluster status'";
            return self.output(refuse(ErrorKind::Exists, what, advice));
        }
        if self.membership.attempt.is_some() || self.membership.pending.is_some() {
            let what = "another attempt to form a cluster is under way";
            return self.output(refuse(ErrorKind::Busy, what, "try again in a moment"));
        }
        let set = self.pruned(now);
        let witness = self.config.votes.witness > 0;
        if !self.config.votes.exceeds_half(set.iter().copied(), witness) {
            let what = format!(
                "{} of {} votes are here; a cluster is created by a majority",
                self.config.votes.sum(set.iter().copied(), witness),
                self.config.votes.total()
            );
            let advice = "start wolfpackd on more nodes first";
            return self.output(refuse(ErrorKind::NoQuorum, &what, advice));
        }
        let members = self.members_of(&set);
        let proposal = Proposal {
            members,
            witness,
            purpose: Purpose::Create(self.config.votes.clone()),
            creating: Some(Creation { request: id, cluster }),
            force: None,
        };
        self.prepare(now, proposal);
    }

    pub(crate) fn creation_failed(&mut self, id: u64, why: &str) {
        let reply = Reply::Error(ErrorReply {
            kind: ErrorKind::Internal,
            what: format!("the cluster was not created: {why}"),
            advice:
                "see 'wolfpack events'; after a creation that broke off, repeat it with --overwrite"
                    .into(),
        });
        self.output(Output::Reply { id, reply });
    }

    /// A view is installed: everybody is told, the new leader is asked what the old one owed.
    pub(crate) fn view_installed(&mut self, now: Instant) {
        if self.leading.as_ref().is_some_and(|l| {
            self.membership.installed.as_ref().is_none_or(|v| v.ballot != l.ballot)
        }) {
            self.stop_leading();
        }
        if let Some(view) = &self.membership.installed {
            self.events.sync.view(now, view.leader(), view.lives());
        }
        self.events.look_at_nodes();
        self.manage(now, ResourceInput::View);
        self.ask_again();
        self.leave_again();
        self.plan_soon(now);
    }

    /// Updates were applied.
    pub(crate) fn database_changed(&mut self, now: Instant, changes: &[Change]) {
        if changes.is_empty() {
            return;
        }
        for change in changes {
            if let Change::NodeChanged(node) = change {
                self.node_changed(now, *node);
            }
        }
        self.manage(now, ResourceInput::Database(changes));
        self.plan_soon(now);
    }

    /// Said once, when it happens: what a new life only catches up with is history.
    pub(crate) fn ownership_event(&mut self, change: &Change) {
        match change {
            Change::OwnerChanged { group, to, .. } => {
                let Some(g) = self.database.groups.get(group) else { return };
                let name = g.name.clone();
                let because = g.because.in_words(|n| self.name(n).to_owned());
                let text = format!(
                    "group '{name}' is owned by node {} because {because}",
                    self.name(to.node)
                );
                let kind = EventKind::GroupOwner { group: *group, name, owner: *to };
                self.event(Severity::Info, kind, text);
            }
            Change::MoveStarted { group, to } => {
                let Some(g) = self.database.groups.get(group) else { return };
                let name = g.name.clone();
                let cause =
                    g.moving.as_ref().map(|m| m.cause.in_words(|n| self.name(n).to_owned()));
                let why = cause.unwrap_or_default();
                let text = format!("group '{name}' moves to node {}: {why}", self.name(*to));
                let kind = EventKind::GroupMoving { group: *group, name, to: *to };
                self.event(Severity::Info, kind, text);
            }
            _ => {}
        }
    }

    /// The database was replaced as a whole.
    pub(crate) fn manager_changed(&mut self, now: Instant) {
        self.evicted_anew(now);
        self.manage(now, ResourceInput::Database(&[]));
    }

    /// One input to the resource manager, and what it wants done.
    pub(crate) fn manage(&mut self, now: Instant, input: ResourceInput<'_>) {
        let up: BTreeSet<NodeId> = self
            .membership
            .installed
            .as_ref()
            .map(|v| v.members.keys().copied().collect())
            .unwrap_or_default();
        let leaving = &self.membership.leaving;
        let up =
            up.into_iter().filter(|n| !leaving.contains(n) && self.database.takes(*n)).collect();
        let here = Here { database: &self.database, up: &up, wall_ms: self.wall_ms(now) };
        self.manager.handle(now, &here, input);
        while let Some(output) = self.manager.poll_output() {
            match output {
                ResourceOutput::Monitor(command) => {
                    if !self.exiting {
                        self.output(Output::Monitor(command));
                    }
                }
                ResourceOutput::Propose(update) => self.submit(now, update, None),
                ResourceOutput::Event(e) => self.event(e.severity, e.kind, e.text),
            }
        }
    }

    /// Authority gained or lost; a lease that has ended while something runs ends this life.
    fn authority(&mut self, now: Instant) {
        let authority = self.has_lease(now) && !self.exiting;
        if !authority && !self.manager.idle() && !self.exiting {
            self.event(
                Severity::Error,
                EventKind::LeaseEnded,
                "the lease of this node has ended: its resources are ended at once".to_owned(),
            );
            self.exit(ExitReason::Fenced("the lease has ended".into()));
        }
        if authority != self.told_authority {
            self.told_authority = authority;
            self.manage(now, ResourceInput::Authority(authority));
        }
    }

    /// The leader looks again at who is to own what.
    pub(crate) fn plan_soon(&mut self, now: Instant) {
        if let Some(l) = &mut self.leading {
            l.plan_due = Some(l.plan_due.map_or(now, |due| due.min(now)));
        }
    }

    fn lead(&mut self, now: Instant) {
        self.pump_updates(now);
        let due = self.leading.as_ref().and_then(|l| l.plan_due).is_some_and(|due| now >= due);
        if !due || !self.locker_idle() || self.exiting {
            return;
        }
        let Some(view) = self.membership.installed.clone() else { return };
        let random = self.random.next();
        let plan = plan(&Situation {
            now,
            database: &self.database,
            view: &view,
            not_before: &self.membership.not_before,
            dead: &self.membership.dead,
            leaving: &self.membership.leaving,
            random,
            rules: &self.config.rules,
        });
        self.note_waits(now, &plan.waits);
        if let Some(l) = &mut self.leading {
            l.plan_due = plan.next;
        }
        for update in plan.updates {
            self.submit(now, update, None);
        }
    }

    /// Says when the wait for a lost owner is over.
    fn note_waits(&mut self, now: Instant, waits: &std::collections::BTreeMap<NodeId, Instant>) {
        let over: Vec<NodeId> = self
            .waits
            .iter()
            .filter(|&(n, &at)| now >= at && !waits.contains_key(n))
            .map(|(&n, _)| n)
            .collect();
        self.waits.clone_from(waits);
        for node in over {
            let text = format!(
                "the lease of node {} with its margin is over: its groups may start elsewhere",
                self.name(node)
            );
            self.event(Severity::Info, EventKind::WaitOver { node }, text);
        }
    }

    /// What must hold after every input.
    fn check_invariants(&self) {
        let m = &self.membership;
        assert!(m.record.promised >= m.accepted_ballot(), "invariant 6: accepted <= promised");
        assert!(m.queued.promised >= m.record.promised, "a durable promise was queued");
        assert!(self.database.seq() <= self.log.last().1, "invariant 14: applied <= logged");
        let in_log = self.log.ballot_at(self.database.seq()).is_some();
        assert!(
            in_log || self.incoming.is_some() || self.config.rules != Rules::ALL,
            "the log reaches back to the database"
        );
    }
}
