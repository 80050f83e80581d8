//! What the simulator, and tests, may see of a core. Read only; the daemon does not need it.

use std::collections::{BTreeMap, BTreeSet};

use wolfpack_types::membership::{Illegal, WitnessSpec};
use wolfpack_types::{Ballot, GroupId, Instant, NodeId, NodeInc, Seq, View};

use crate::Core;

/// A look into a core.
#[derive(Clone, Debug)]
pub struct Observation {
    pub installed: Option<View>,
    /// As durable.
    pub accepted: Option<View>,
    pub promised: Ballot,
    pub max_ballot: Ballot,
    pub established_record: Ballot,
    pub learner: bool,
    pub lease_end: Instant,
    pub commit_seq: Seq,
    pub digest: u64,
    pub log_last: (Ballot, Seq),
    pub not_before: BTreeMap<NodeId, Instant>,
    /// Leads its installed view, and nothing newer is under way.
    pub leader: bool,
    /// The committed owners.
    pub owners: BTreeMap<GroupId, Option<NodeInc>>,
    /// Groups that this life may run now (P6: authority).
    pub authority: BTreeSet<GroupId>,
    pub exiting: bool,
    /// Messages of peers that were refused, by reason.
    pub illegal: BTreeMap<Illegal, u64>,
    /// The register that is open.
    pub witness: Option<WitnessSpec>,
}

/// The part of an [`Observation`] that is worth a look after every single input.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Glance {
    pub installed: Option<Ballot>,
    pub commit_seq: Seq,
    pub digest: u64,
    /// Groups that this life may run now (P6: authority).
    pub authority: BTreeSet<GroupId>,
}

impl Core {
    /// Looks in passing: no view is copied.
    #[must_use]
    pub fn glance(&self, now: Instant) -> Glance {
        Glance {
            installed: self.membership.installed.as_ref().map(|v| v.ballot),
            commit_seq: self.database.seq(),
            digest: self.database.digest(),
            authority: self.authorised(now),
        }
    }

    fn authorised(&self, now: Instant) -> BTreeSet<GroupId> {
        if !self.has_lease(now) {
            return BTreeSet::new();
        }
        let me = self.config.me;
        // A group that is released, or offered for it, is its owner's by name only.
        self.database
            .groups
            .iter()
            .filter(|(_, g)| g.owner == Some(me) && !g.released)
            .map(|(&id, _)| id)
            .filter(|&id| !self.manager.offered(id))
            .collect()
    }

    /// Looks; changes nothing.
    #[must_use]
    pub fn observe(&self, now: Instant) -> Observation {
        let m = &self.membership;
        Observation {
            installed: m.installed.clone(),
            accepted: m.record.accepted.clone(),
            promised: m.record.promised,
            max_ballot: m.record.max_ballot,
            established_record: m.record.established,
            learner: m.record.learner,
            lease_end: m.lease_end,
            commit_seq: self.database.seq(),
            digest: self.database.digest(),
            log_last: self.log.last(),
            not_before: m.not_before.clone(),
            leader: self.can_lead(),
            owners: self.database.groups.iter().map(|(&id, g)| (id, g.owner)).collect(),
            authority: self.authorised(now),
            exiting: self.exiting,
            illegal: self.illegal.clone(),
            witness: self.witness_spec().cloned(),
        }
    }

    /// Views that this node has established since the last call, each with its bound: own time up
    /// to which a node outside it may hold a lease (`not_before` less the margin).
    pub fn take_established(&mut self) -> Vec<(Ballot, BTreeMap<NodeId, Instant>)> {
        std::mem::take(&mut self.established)
    }

    /// What this node has committed as a leader since the last call.
    pub fn take_committed(&mut self) -> Vec<(Ballot, Seq)> {
        std::mem::take(&mut self.committed)
    }

    /// The entry of the log at `seq`, while it is held.
    #[must_use]
    pub fn log_entry(&self, seq: Seq) -> Option<&wolfpack_types::update::LogEntry> {
        self.log.get(seq)
    }

    /// The replicated database, as applied here.
    #[must_use]
    pub fn database(&self) -> &crate::Database {
        &self.database
    }
}
