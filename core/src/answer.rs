//! Answers to questions: gathers the facts of this node for `status`.

mod tree;

use std::collections::BTreeMap;

use wolfpack_types::api::{NodeState, QuorumExplanation, Reply, Request, ServiceState};
use wolfpack_types::backup::{Backup, BackupHeader};
use wolfpack_types::heartbeat::Reach;
use wolfpack_types::membership::Stage;
use wolfpack_types::update::Refusal;
use wolfpack_types::{Instant, NodeId};

use crate::administration::refused;
use crate::membership::coordinator::Phase;
use crate::status::{self, Facts};
use crate::update::room::Room;
use crate::{Core, Output};

impl Core {
    /// The stage of a regroup under way.
    fn regroup_stage(&self) -> Option<Stage> {
        let m = &self.membership;
        match m.attempt.as_ref().map(|a| a.phase) {
            Some(Phase::Ballot | Phase::Promise) => Some(Stage::Cleanup1),
            Some(Phase::Level | Phase::Accept) => Some(Stage::Cleanup2),
            None if m.want.is_some() => Some(Stage::Activate),
            None => None,
        }
    }

    fn service_state(&self) -> ServiceState {
        let m = &self.membership;
        if self.leave.is_some() {
            ServiceState::Leaving
        } else if m.record.accepted.is_none() {
            ServiceState::Empty
        } else if m.installed.is_none() {
            ServiceState::Waiting
        } else if m.settled() {
            ServiceState::Member
        } else {
            ServiceState::Regrouping
        }
    }

    /// What this node waits for, when it has no view.
    pub(crate) fn waiting_for(&self, now: Instant) -> Option<String> {
        let m = &self.membership;
        if m.installed.is_some() && !self.quorum_noted {
            return None;
        }
        if m.record.accepted.is_none() {
            return Some(
                "a cluster: 'wolfpack cluster create NAME' on one node, or the invitation of \
                 a running one"
                    .into(),
            );
        }
        let set = self.pruned(now);
        let missing: Vec<&str> = self
            .config
            .nodes
            .iter()
            .filter(|&(n, _)| !set.contains(n))
            .map(|(_, name)| name.as_str())
            .collect();
        let tried = match self.last_failure.as_deref() {
            Some(why) => format!("the last attempt failed: {why}"),
            None => "none was tried yet".to_owned(),
        };
        if self.eligible(&set) {
            return Some(format!("a view of the nodes that are heard; {tried}"));
        }
        Some(format!("votes for a view: not heard are {}; {tried}", missing.join(", ")))
    }

    /// The state of every configured node, as `status` says it.
    pub(crate) fn node_states(&self) -> Vec<(NodeId, NodeState)> {
        let m = &self.membership;
        let state = |node: NodeId| {
            let member = m.installed.as_ref().and_then(|v| v.members.get(&node)).map(|m| m.inc);
            if node == self.config.me.node {
                return status::state_of(member, Some(self.config.me.inc), true);
            }
            let peer = m.peers.get(&node);
            let alive = peer.is_some_and(|p| matches!(p.reach, Reach::Up | Reach::Suspected));
            status::state_of(member, peer.map(|p| p.inc), alive)
        };
        let marks = &self.database.nodes;
        let marked = |node: NodeId| status::marked(marks.get(&node), state(node));
        self.config.nodes.keys().map(|&node| (node, marked(node))).collect()
    }

    pub(crate) fn status_reply(&self, now: Instant, request: &Request) -> Reply {
        let m = &self.membership;
        let waiting = self.waiting_for(now);
        let heard = m.peers.iter().map(|(&n, p)| (n, p.inc)).collect();
        let reach = m.peers.iter().map(|(&n, p)| (n, p.reach)).collect();
        let paths: BTreeMap<_, _> = m
            .peers
            .iter()
            .flat_map(|(&n, p)| p.paths.iter().map(move |(&net, &up)| ((n, net), up)))
            .collect();
        let accepted = m.record.accepted.as_ref();
        let members = m.installed.iter().flat_map(|v| v.members.keys().copied());
        let facts = Facts {
            me: self.config.me,
            now,
            cluster: self.config.cluster,
            state: self.service_state(),
            waiting_for: waiting.as_deref(),
            names: &self.config.nodes,
            networks: &self.config.networks,
            view: m.installed.as_ref(),
            stage: self.regroup_stage(),
            lease_end: m.lease_end,
            commit_seq: self.database.seq(),
            protocol: self.versions.level(members),
            heard: &heard,
            reach: &reach,
            paths: &paths,
            waits: &self.waits,
            votes: accepted.map_or(&self.config.votes, |v| &v.votes),
            quorum: self.quorum_type(),
            witness: self.witness_spec().map(|w| w.place.as_str()),
            exclusion: self.witness_exclusion().unwrap_or_default(),
            witness_ok: self.witness_spec().is_some() && self.witness.failing_for(now).is_none(),
            dynamic: self.database.cluster.as_ref().is_some_and(|c| c.quorum.dynamic),
            marks: &self.database.nodes,
        };
        let database = &self.database;
        let listed = match request {
            Request::GroupStatus { group } => status::groups(&facts, database, group.as_deref())
                .map(|groups| Reply::Groups { groups }),
            Request::ResourceStatus { resource } => {
                status::resources(&facts, database, resource.as_deref())
                    .map(|resources| Reply::Resources { resources })
            }
            Request::NodeStatus => Ok(Reply::Nodes { nodes: status::nodes(&facts) }),
            Request::QuorumShow => {
                let mut quorum = status::quorum(&facts);
                if let Some(room) = Room::of(database, facts.view) {
                    quorum.explanation += &room.words(database.row_bytes());
                }
                Ok(Reply::Quorum(quorum))
            }
            Request::QuorumExplain => Ok(Reply::Explanation(QuorumExplanation {
                quorum: status::quorum(&facts),
                lines: status::explain(&facts),
            })),
            Request::TreeGet { key, name: None } => tree::key(database, key),
            Request::TreeGet { key, name: Some(name) } => tree::value(database, key, name),
            Request::TreeList { key, recursive, after } => {
                tree::list(database, key, *recursive, after.as_deref())
            }
            Request::ObjectLog => Ok(Reply::Objects { objects: database.object_log() }),
            _ => {
                let mut status = status::cluster(&facts, database);
                status.stuck = self.stuck(now);
                status.refused.clone_from(&self.illegal);
                Ok(Reply::Cluster(Box::new(status)))
            }
        };
        listed.unwrap_or_else(|refusal| Reply::Error(refused(&refusal)))
    }
}

impl Core {
    /// A consistent copy of the database, as it is applied here.
    pub(crate) fn back_up(&mut self, now: Instant, id: u64) {
        let Some(cluster) = &self.database.cluster else {
            let why = "there is no cluster yet, so there is nothing to back up";
            return self.reply_refusal(id, &Refusal::Invalid(why.into()));
        };
        let header = BackupHeader {
            cluster: cluster.id,
            cluster_name: cluster.name.clone(),
            by: self.config.me,
            wall_ms: self.wall_ms(now),
            program: env!("CARGO_PKG_VERSION").into(),
            digest: self.database.digest(),
        };
        let backup = Backup { header, snapshot: self.database.snapshot() };
        self.output(Output::Backup { id, backup: Box::new(backup) });
    }
}
