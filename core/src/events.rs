//! The Event Processor: numbers, stamps and relates every event of this node, and keeps the newest
//! of all nodes for those that missed them.
//!
//! It is the one authority over the numbers of its node: what other parts of the service have to
//! say comes in as [`crate::Input::Report`]. It decides nothing, and nothing is decided by it.
//! `cause` knows what led to an event, `replicate` brings events to the other nodes.

pub(crate) mod cause;
mod replicate;

use std::collections::BTreeMap;

use wolfpack_types::api::{NodeState, Request};
use wolfpack_types::event::{About, Event, EventId, EventKind, Severity, StampedEvent};
use wolfpack_types::peer::PeerMessage;
use wolfpack_types::update::Update;
use wolfpack_types::{GroupId, Instant, NodeId, NodeInc};

use crate::Core;
use crate::database::{Change, Database};
use crate::io::{CoreConfig, Output};
use cause::Causes;
use replicate::{ReplicationOutput, Replicator};

/// The event log's head in the core.
#[derive(Debug)]
pub(crate) struct Events {
    me: NodeId,
    next: u64,
    /// Now, as the input that is being handled was given it.
    now: Instant,
    pub(crate) causes: Causes,
    pub(crate) sync: Replicator,
    /// States of the nodes as told last.
    nodes: BTreeMap<NodeId, NodeState>,
    /// Something happened that may change them.
    look: bool,
}

impl Events {
    pub(crate) fn new(config: &CoreConfig, now: Instant) -> Self {
        let me = config.me;
        Self {
            me: me.node,
            next: config.events.next.max(EventId::first_of_life(me.inc)),
            now,
            causes: Causes::default(),
            sync: Replicator::new(me, config.nodes.keys().copied(), &config.events.recent, now),
            nodes: BTreeMap::new(),
            look: false,
        }
    }

    /// Nodes may be in other states than before.
    pub(crate) const fn look_at_nodes(&mut self) {
        self.look = true;
    }

    /// A new input is handled.
    pub(crate) fn begin(&mut self, now: Instant) {
        self.now = now;
        self.causes.begin();
    }

    /// What is handled from here on follows from this event of another node.
    pub(crate) fn because(&mut self, cause: Option<EventId>) {
        self.causes.because(cause);
    }

    /// A new view is wanted because of this event of another node.
    pub(crate) fn regroup_wanted(&mut self, cause: Option<EventId>) {
        self.causes.regroup_wanted(self.next, cause);
    }

    /// An update was applied, which followed from this event.
    pub(crate) fn applied(&mut self, cause: Option<EventId>, changes: &[Change], db: &Database) {
        self.causes.because(cause);
        for change in changes {
            match change {
                Change::GroupChanged(group) => self.causes.drives(self.next, *group, cause),
                Change::NodeChanged(node) => {
                    self.look = true;
                    self.causes.node_changed(self.next, *node, cause);
                }
                Change::ResourceChanged(id) | Change::Retry(id) => {
                    if let Some(r) = db.resources.get(id) {
                        self.causes.drives(self.next, r.group, cause);
                    }
                }
                _ => {}
            }
        }
        let gone = |c: &Change| match c {
            Change::GroupChanged(id) => !db.groups.contains_key(id),
            Change::ResourceChanged(id) => !db.resources.contains_key(id),
            _ => false,
        };
        if changes.iter().any(gone) {
            self.causes
                .forget(|id| db.groups.contains_key(&id), |id| db.resources.contains_key(&id));
        }
    }

    /// The event that an update follows from which this node asks for.
    pub(crate) fn cause_of_update(&self, update: &Update) -> Option<EventId> {
        self.causes.of_update(update)
    }

    /// Numbers and stamps an event and finds what led to it.
    fn record(
        &mut self,
        wall: (u64, Instant),
        node: &str,
        about: About,
        group: Option<GroupId>,
        event: Event,
    ) -> StampedEvent {
        let id = EventId::new(self.me, self.next);
        self.next = self.next.saturating_add(1);
        // A peer may name anything; an own event that has not happened yet cannot be a cause, and
        // would close a circle.
        let possible = |c: &EventId| c.node != self.me || c.number < id.number;
        let cause = self.causes.of(&event.kind, event.severity, group).filter(possible);
        self.causes.note(id, &event.kind, event.severity, group);
        let micros =
            |span: std::time::Duration| u64::try_from(span.as_micros()).unwrap_or(u64::MAX);
        StampedEvent {
            id,
            cause,
            number: id.number,
            wall_us: wall.0.saturating_mul(1000).saturating_add(micros(self.now - wall.1)),
            boot_us: self.now.0 / 1000,
            node: node.to_owned(),
            about,
            event,
        }
    }
}

impl Core {
    /// Logs what happened.
    pub(crate) fn event(&mut self, severity: Severity, kind: EventKind, text: String) {
        let (about, group) = self.about(&kind);
        let node = self.name(self.config.me.node).to_owned();
        let event = Event { kind, severity, text };
        let stamped = self.events.record(self.wall, &node, about, group, event);
        self.events.sync.logged(self.events.now, &stamped);
        self.output(Output::Event(Box::new(stamped)));
    }

    /// An administrator asked this node for a change. (Data that programs keep in the cluster is
    /// no event: there may be thousands of changes a second.)
    pub(crate) fn asked(&mut self, request: &Request) {
        let words = request.in_words();
        if request.changes() && !words.starts_with("tree-") {
            let text = format!("an administrator asked for: {words}");
            self.event(Severity::Info, EventKind::AdministratorAsked { request: words }, text);
        }
    }

    /// Says which nodes are in another state than before.
    fn tell_nodes(&mut self) {
        // Without a view nobody can say who is up and who only joins.
        if self.membership.installed.is_none() || !std::mem::take(&mut self.events.look) {
            return;
        }
        let states = self.node_states();
        for (node, state) in states {
            let was = self.events.nodes.insert(node, state);
            // At the start nobody has been heard: that is no news.
            if was == Some(state) || (was.is_none() && state == NodeState::Down) {
                continue;
            }
            let word = format!("{state:?}").to_lowercase();
            let text = format!("node {} is {word}", self.name(node));
            let severity =
                if state == NodeState::Down { Severity::Warning } else { Severity::Info };
            self.event(severity, EventKind::NodeState { node, state, was }, text);
        }
    }

    /// What the input that was handled means for the event log.
    pub(crate) fn settle_events(&mut self, now: Instant) {
        self.tell_nodes();
        if self.exiting {
            return;
        }
        self.events.sync.tick(now);
        while let Some(output) = self.events.sync.poll_output() {
            match output {
                ReplicationOutput::Send { to, message } => self.send(to, message),
                ReplicationOutput::Log(events) => self.output(Output::Replicated(events)),
                ReplicationOutput::NumbersTaken { to } => {
                    self.events.next = self.events.next.max(to.saturating_add(1));
                }
                ReplicationOutput::NotSent { count } => {
                    let text = format!("{count} events of this node were not sent to the others");
                    let kind = EventKind::EventsNotSent { count };
                    self.event(Severity::Warning, kind, text);
                }
            }
        }
    }

    /// A message about events.
    pub(crate) fn on_events(&mut self, now: Instant, from: NodeInc, message: PeerMessage) {
        match message {
            PeerMessage::EventBatch(batch) => self.events.sync.received(now, from, *batch),
            PeerMessage::EventFetch { call, after } => {
                self.events.sync.asked(from, call, &after);
            }
            _ => {}
        }
    }

    /// The objects that an event is about, by name, and its group.
    fn about(&self, kind: &EventKind) -> (About, Option<GroupId>) {
        let node = |n: &NodeId| vec![self.name(*n).to_owned()];
        let mut about = About::default();
        let mut id = None;
        match kind {
            EventKind::ServiceStarted { me: who }
            | EventKind::ServiceStopping { me: who }
            | EventKind::ProofReceived { who, .. }
            | EventKind::VersionRefused { who, .. } => about.nodes = node(&who.node),
            EventKind::PathChanged { network, node: n, .. } => {
                about.nodes = node(n);
                about.network = Some(self.network_name(*network));
            }
            EventKind::NetworkChanged { network, .. }
            | EventKind::DatagramsDropped { network, .. } => {
                about.network = Some(self.network_name(*network));
            }
            EventKind::NodeReach { node: n, .. }
            | EventKind::DatabaseDiffers { node: n }
            | EventKind::MemberTooSlow { node: n }
            | EventKind::QuorumMoving { to: n }
            | EventKind::WaitOver { node: n }
            | EventKind::Refused { by: n, .. }
            | EventKind::NodeState { node: n, .. } => about.nodes = node(n),
            EventKind::ViewInstalled { members, .. } => {
                about.nodes = members.iter().flat_map(node).collect();
            }
            EventKind::GroupOwner { group, name, owner } => {
                (about.nodes, about.group, id) =
                    (node(&owner.node), Some(name.clone()), Some(*group));
            }
            EventKind::GroupMoving { group, name, to } => {
                (about.nodes, about.group, id) = (node(to), Some(name.clone()), Some(*group));
            }
            EventKind::GroupState { group, name, .. } => {
                (about.group, id) = (Some(name.clone()), Some(*group));
            }
            EventKind::ResourceState { resource, name, .. }
            | EventKind::ResourceRestart { resource, name, .. } => {
                about.resource = Some(name.clone());
                id = self.database.resources.get(resource).map(|r| r.group);
                let group = id.and_then(|id| self.database.groups.get(&id));
                about.group = group.map(|g| g.name.clone());
            }
            EventKind::MonitorCrashed { resource, .. } => about.resource.clone_from(resource),
            _ => {}
        }
        (about, id)
    }
}
