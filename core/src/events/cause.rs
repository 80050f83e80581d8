//! What led to an event: the rules by which every event of this node names its cause.
//!
//! The managers say *what* happened; here it is known what came before: the last sign of each node,
//! the stages of the regroup under way, what drives each group, how each resource was last seen, and
//! what the input that is being handled follows from. So the rules are in one place, and a manager
//! that says something new need not know the story that it is part of. Causes are for people:
//! nothing is decided by them.

use std::collections::BTreeMap;

use wolfpack_types::api::NodeState;
use wolfpack_types::event::{Cause, EventId, EventKind, Severity};
use wolfpack_types::heartbeat::Reach;
use wolfpack_types::membership::Stage;
use wolfpack_types::objects::ResourceState;
use wolfpack_types::update::Update;
use wolfpack_types::{GroupId, NetworkId, NodeId, ResourceId};

/// An event that is remembered, and when: the own number that was next then.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Mark {
    at: u64,
    id: EventId,
}

/// What moves a group.
#[derive(Clone, Copy, Debug, Default)]
struct Story {
    /// Its last owner, move, wish or failure.
    drive: Option<Mark>,
    /// The last resource that reached its state.
    done: Option<Mark>,
}

impl Story {
    fn newest(&self) -> Option<EventId> {
        self.drive.max(self.done).map(|m| m.id)
    }
}

/// What came before.
#[derive(Debug, Default)]
pub(crate) struct Causes {
    /// What the input that is being handled follows from.
    ambient: Option<EventId>,
    started: Option<EventId>,
    /// This node's clean leave.
    leave: Option<EventId>,
    /// Why this life ends.
    end: Option<EventId>,
    paths: BTreeMap<NetworkId, EventId>,
    reach: BTreeMap<NodeId, (Mark, Reach)>,
    dead: BTreeMap<NodeId, Mark>,
    /// What an administrator last made of each node.
    nodes: BTreeMap<NodeId, Mark>,
    /// Members that want to leave: the event of theirs.
    leaving: BTreeMap<NodeId, EventId>,
    waits: BTreeMap<NodeId, EventId>,
    /// The last loss, and the last other reason for a new view, since the installed one.
    loss: Option<Mark>,
    trigger: Option<Mark>,
    /// Stages of the regroup under way: the first, the last before a ballot, the last.
    activate: Option<EventId>,
    base: Option<EventId>,
    regroup: Option<EventId>,
    view: Option<EventId>,
    witness: Option<EventId>,
    monitor: Option<EventId>,
    groups: BTreeMap<GroupId, Story>,
    resources: BTreeMap<ResourceId, (EventId, Option<ResourceState>)>,
}

impl Causes {
    /// A new input: what follows from it is not known yet.
    pub(crate) fn begin(&mut self) {
        self.ambient = None;
    }

    /// What is handled from here on follows from this event (of another node, most often).
    pub(crate) fn because(&mut self, cause: Option<EventId>) {
        self.ambient = cause;
    }

    /// The view that is being accepted follows from this event of its coordinator.
    pub(crate) fn regroup_because(&mut self, cause: Option<EventId>) {
        self.regroup = cause.or(self.regroup);
    }

    /// A member wants to leave, and this event of its log says why.
    pub(crate) fn leaves(&mut self, node: NodeId, cause: Option<EventId>) {
        if let Some(id) = cause {
            self.leaving.insert(node, id);
        }
    }

    /// A new view is wanted because of this event of another node.
    pub(crate) fn regroup_wanted(&mut self, at: u64, cause: Option<EventId>) {
        self.trigger = cause.map(|id| Mark { at, id }).or(self.trigger);
    }

    /// What happens to this group from now on follows from this event.
    pub(crate) fn drives(&mut self, at: u64, group: GroupId, cause: Option<EventId>) {
        if let Some(id) = cause {
            self.groups.entry(group).or_default().drive = Some(Mark { at, id });
        }
    }

    /// A node was paused, resumed, evicted or added because of this event.
    pub(crate) fn node_changed(&mut self, at: u64, node: NodeId, cause: Option<EventId>) {
        if let Some(id) = cause {
            self.nodes.insert(node, Mark { at, id });
        }
    }

    /// Groups and resources that are no more leave no trace.
    pub(crate) fn forget(
        &mut self,
        group: impl Fn(GroupId) -> bool,
        resource: impl Fn(ResourceId) -> bool,
    ) {
        self.groups.retain(|&id, _| group(id));
        self.resources.retain(|&id, _| resource(id));
    }

    /// The event that a ballot of this node follows from.
    pub(crate) fn regroup_cause(&self) -> Option<EventId> {
        self.regroup.or(self.base).or_else(|| self.wanted()).or_else(|| self.anyway())
    }

    /// The event that installed the view.
    pub(crate) fn view_cause(&self) -> Option<EventId> {
        self.view.or(self.started)
    }

    /// The event that began this node's clean leave.
    pub(crate) const fn leave_cause(&self) -> Option<EventId> {
        self.leave
    }

    /// The last word about the witness.
    pub(crate) fn witness_cause(&self) -> Option<EventId> {
        self.witness.or(self.started)
    }

    fn wanted(&self) -> Option<EventId> {
        self.loss.max(self.trigger).map(|m| m.id)
    }

    /// Where nothing better is known, everything follows from the view, and that from the start.
    fn anyway(&self) -> Option<EventId> {
        self.view.or(self.started)
    }

    fn newest_of(&self, group: Option<GroupId>) -> Option<EventId> {
        group.and_then(|g| self.groups.get(&g)).and_then(Story::newest)
    }

    /// The event that an update follows from which this node asks for.
    pub(crate) fn of_update(&self, update: &Update) -> Option<EventId> {
        let story = |group: &GroupId| self.newest_of(Some(*group));
        let known = match update {
            Update::AssignOwner { group, cause, .. } => match cause {
                Cause::OwnerLost { node, .. } => self.waits.get(node).copied().or(self.view),
                Cause::OwnerProvenDead { node, .. } => self.dead.get(node).map(|m| m.id),
                Cause::OwnerRestarted { .. } => self.view,
                Cause::OwnerLeft { node } => {
                    story(group).or_else(|| self.leaving.get(node).copied())
                }
                Cause::Created | Cause::Administrator | Cause::ResourceFailed { .. } => {
                    story(group)
                }
            },
            Update::MoveGroup { group, cause, .. } => match cause {
                Cause::OwnerLeft { node } => self.leaving.get(node).copied(),
                Cause::ResourceFailed { .. } => story(group),
                _ => None,
            },
            Update::GroupOffline { group, .. } | Update::GroupFailed { group, .. } => story(group),
            Update::ResourceState { resource, .. } => self.resources.get(resource).map(|r| r.0),
            Update::Batch(parts) => parts.first().and_then(|part| self.of_update(part)),
            _ => None,
        };
        known.or(self.ambient).or_else(|| self.anyway())
    }

    /// The event that this one follows from; none if it begins a story. `group`: the one that it is
    /// about, or of the resource that it is about.
    pub(crate) fn of(
        &self,
        kind: &EventKind,
        severity: Severity,
        group: Option<GroupId>,
    ) -> Option<EventId> {
        let reached = |node: &NodeId| self.reach.get(node).map(|r| r.0);
        let id = |mark: Option<Mark>| mark.map(|m| m.id);
        match kind {
            EventKind::ServiceStarted { .. }
            | EventKind::ServiceStopping { .. }
            | EventKind::AdministratorAsked { .. }
            | EventKind::PathChanged { .. }
            | EventKind::WitnessFailing
            | EventKind::DatabaseDiffers { .. }
            | EventKind::MemberTooSlow { .. }
            | EventKind::Paused { .. }
            | EventKind::Stalled { .. }
            | EventKind::MonitorCrashed { .. }
            | EventKind::StoreFailed { .. }
            | EventKind::DatagramsDropped { .. }
            | EventKind::DiskLost { .. }
            | EventKind::VersionRefused { .. }
            | EventKind::EventsNotSent { .. } => None,
            EventKind::NetworkChanged { network, .. } => self.paths.get(network).copied(),
            EventKind::NodeReach { node, reach: Reach::Unreachable } => {
                let suspected = self.reach.get(node).filter(|r| r.1 == Reach::Suspected);
                id(suspected.map(|r| r.0).max(self.dead.get(node).copied()))
            }
            EventKind::NodeReach { .. } => None,
            EventKind::RegroupStage { stage, .. } => self.of_stage(*stage),
            EventKind::WitnessWon { .. }
            | EventKind::WitnessLost { .. }
            | EventKind::WitnessChallenge { .. } => self.regroup_cause(),
            EventKind::WitnessBack | EventKind::QuorumMoving { .. } => self.witness,
            EventKind::ViewInstalled { .. } => self.regroup_cause(),
            EventKind::QuorumLost => self.wanted().or(self.started),
            EventKind::WaitOver { .. } => self.anyway(),
            EventKind::ProofReceived { who, .. } => self.ambient.or_else(|| id(reached(&who.node))),
            EventKind::LeaseEnded => self.ambient.or_else(|| self.wanted()),
            EventKind::ResourcesTerminated { .. } => self.end.or(self.ambient),
            EventKind::GroupOwner { .. } | EventKind::GroupMoving { .. } => {
                self.ambient.or_else(|| self.newest_of(group)).or_else(|| self.anyway())
            }
            EventKind::GroupState { .. } => self.newest_of(group).or_else(|| self.anyway()),
            EventKind::ResourceState { resource, state, .. } => {
                self.of_resource(*resource, *state, severity, group)
            }
            EventKind::ResourceRestart { resource, .. } => {
                let last = self.resources.get(resource).map(|r| r.0);
                last.or_else(|| self.newest_of(group)).or_else(|| self.anyway())
            }
            EventKind::MonitorRestarted { .. } => self.monitor,
            EventKind::NodeState { node, state, .. } => match state {
                NodeState::Joining => id(reached(node)),
                NodeState::Down => {
                    id(reached(node).max(self.dead.get(node).copied())).or(self.view)
                }
                // What an administrator made of it, unless the view is newer.
                _ => {
                    let changed = self.nodes.get(node).copied();
                    let newer = |m: &Mark| self.view.is_none_or(|view| m.at > view.number);
                    id(changed.filter(newer)).or_else(|| self.anyway())
                }
            },
            _ => self.ambient,
        }
    }

    fn of_stage(&self, stage: Stage) -> Option<EventId> {
        let found = match stage {
            Stage::Activate => self.loss.map(|m| m.id),
            Stage::Closing => self.activate,
            Stage::Pruning => self.base.or(self.activate),
            // A ballot that came to nothing is not what the next one follows from.
            Stage::Cleanup1 => self.base,
            Stage::Cleanup2 | Stage::Stabilized => self.regroup,
        };
        found.or_else(|| self.wanted()).or_else(|| self.anyway())
    }

    fn of_resource(
        &self,
        resource: ResourceId,
        state: ResourceState,
        severity: Severity,
        group: Option<GroupId>,
    ) -> Option<EventId> {
        let last = self.resources.get(&resource);
        let pending = last.filter(|r| {
            matches!(r.1, Some(ResourceState::OnlinePending | ResourceState::OfflinePending))
        });
        if severity > Severity::Info && last.is_some_and(|r| r.1 == Some(ResourceState::Online)) {
            // It ran and failed: that begins a story, unless something made it fail.
            return self.ambient;
        }
        let found = match state {
            ResourceState::Online | ResourceState::Offline | ResourceState::Failed => {
                pending.map(|r| r.0).or(self.ambient)
            }
            ResourceState::OnlinePending | ResourceState::OfflinePending => {
                let restart = last.filter(|r| r.1.is_none()).map(|r| r.0);
                self.ambient.or(restart)
            }
        };
        found.or_else(|| self.newest_of(group)).or_else(|| self.anyway())
    }

    /// An event was logged: what comes after it may follow from it.
    pub(crate) fn note(
        &mut self,
        id: EventId,
        kind: &EventKind,
        severity: Severity,
        group: Option<GroupId>,
    ) {
        let mark = Mark { at: id.number, id };
        match kind {
            EventKind::ServiceStarted { .. } => self.started = Some(id),
            EventKind::ServiceStopping { .. } => {
                self.leave = Some(id);
                self.ambient = Some(id);
            }
            EventKind::AdministratorAsked { request } => {
                self.ambient = Some(id);
                // What changes nodes or quorum makes a new view.
                if ["node-", "quorum-", "cluster-"].iter().any(|verb| request.starts_with(verb)) {
                    self.trigger = Some(mark);
                }
            }
            EventKind::PathChanged { network, .. } => {
                self.paths.insert(*network, id);
            }
            EventKind::NodeReach { node, reach } => {
                self.reach.insert(*node, (mark, *reach));
                match reach {
                    Reach::Unreachable => self.loss = Some(mark),
                    Reach::Up => self.trigger = Some(mark),
                    Reach::Suspected => {}
                }
            }
            EventKind::NodeState { state: NodeState::Joining, .. }
            | EventKind::MemberTooSlow { .. }
            | EventKind::DatabaseDiffers { .. } => self.trigger = Some(mark),
            EventKind::RegroupStage { stage, .. } => self.note_stage(*stage, id),
            EventKind::WitnessWon { .. } => self.regroup = Some(id),
            EventKind::WitnessFailing
            | EventKind::WitnessBack
            | EventKind::WitnessLost { .. }
            | EventKind::QuorumMoving { .. } => {
                self.witness = Some(id);
                self.trigger = Some(mark);
            }
            EventKind::ViewInstalled { .. } => {
                self.view = Some(id);
                (self.loss, self.trigger) = (None, None);
                (self.activate, self.base, self.regroup) = (None, None, None);
                self.waits.clear();
                self.ambient = Some(id);
            }
            EventKind::WaitOver { node } => {
                self.waits.insert(*node, id);
            }
            EventKind::ProofReceived { who, .. } => {
                self.dead.insert(who.node, mark);
                self.loss = Some(mark);
                self.ambient = Some(id);
            }
            EventKind::LeaseEnded
            | EventKind::Excluded { .. }
            | EventKind::Paused { .. }
            | EventKind::StoreFailed { .. }
            | EventKind::ResourcesTerminated { .. } => self.end = Some(id),
            EventKind::GroupOwner { .. } | EventKind::GroupMoving { .. } => {
                self.drives(id.number, group.unwrap_or_default(), Some(id));
            }
            EventKind::ResourceState { resource, state, .. } => {
                self.note_resource(mark, *resource, *state, severity, group);
            }
            EventKind::ResourceRestart { resource, .. } => {
                self.resources.insert(*resource, (id, None));
            }
            EventKind::MonitorCrashed { .. } => {
                self.monitor = Some(id);
                self.ambient = Some(id);
            }
            EventKind::MonitorRestarted { .. } => self.ambient = Some(id),
            _ => {}
        }
    }

    fn note_stage(&mut self, stage: Stage, id: EventId) {
        self.regroup = Some(id);
        match stage {
            Stage::Activate => (self.activate, self.base) = (Some(id), None),
            Stage::Closing | Stage::Pruning => self.base = Some(id),
            _ => {}
        }
    }

    fn note_resource(
        &mut self,
        mark: Mark,
        resource: ResourceId,
        state: ResourceState,
        severity: Severity,
        group: Option<GroupId>,
    ) {
        self.resources.insert(resource, (mark.id, Some(state)));
        let Some(group) = group else { return };
        let story = self.groups.entry(group).or_default();
        if severity > Severity::Info {
            story.drive = Some(mark);
        } else if matches!(state, ResourceState::Online | ResourceState::Offline) {
            story.done = Some(mark);
        }
    }
}
