//! The own standing: whom the driver may acknowledge, what the heartbeats say, what counts for the
//! own lease (P6). Recomputed whenever something it follows from changes.

use std::collections::BTreeSet;

use wolfpack_types::heartbeat::{HeartbeatCommand, LeaseTerms, Standing};
use wolfpack_types::{Ballot, Instant, NodeInc, Rule};

use crate::{Core, Output};

impl Core {
    /// accepted.members and promised.M and the M of the Prepare in hand; empty if this life is not
    /// in both of the first two. Only an accept widens it.
    pub(crate) fn mask(&self) -> BTreeSet<NodeInc> {
        let me = self.config.me;
        let m = &self.membership;
        let Some(view) = &m.record.accepted else { return BTreeSet::new() };
        let mut mask: BTreeSet<NodeInc> = view
            .lives()
            .filter(|&who| wolfpack_types::same_members(&m.record.promised_members, who))
            // On its way to the store, perhaps superseded by a Prepare in hand: it counts as well.
            .filter(|&who| wolfpack_types::same_members(&m.queued.promised_members, who))
            .collect();
        if !mask.contains(&me) {
            return BTreeSet::new();
        }
        if let Some(pending) = &m.pending {
            mask.retain(|&who| wolfpack_types::same_members(&pending.members, who));
        }
        mask
    }

    /// Tells the driver the mask; returns the number under which it will be confirmed.
    pub(crate) fn set_mask(&mut self) -> u64 {
        self.membership.next_mask += 1;
        let id = self.membership.next_mask;
        let mask = self.mask();
        self.output(Output::Heartbeat(HeartbeatCommand::SetMask { id, mask }));
        id
    }

    /// Tells the driver what heartbeats say and what counts for the lease.
    pub(crate) fn publish_standing(&mut self) {
        let m = &self.membership;
        let standing = Standing {
            installed: m.installed.as_ref().map_or(Ballot::ZERO, |v| v.ballot),
            accepted: (!m.is_fresh(self.config.me)).then(|| m.accepted_ballot()),
            commit_seq: self.database.seq(),
            store: m.record.store,
            versions: wolfpack_types::VersionRange::OWN,
        };
        if standing != self.told_standing {
            self.told_standing = standing;
            self.output(Output::Heartbeat(HeartbeatCommand::SetStanding(standing)));
        }
        let terms = self.lease_terms();
        if terms != self.told_terms {
            self.told_terms = terms.clone();
            self.output(Output::Heartbeat(HeartbeatCommand::SetLeaseTerms(terms)));
        }
    }

    fn lease_terms(&self) -> LeaseTerms {
        let m = &self.membership;
        let rules = &self.config.rules;
        let (Some(view), Some(accepted)) = (&m.installed, &m.record.accepted) else {
            return LeaseTerms::default();
        };
        let mut tables = vec![accepted.votes.clone()];
        if let Some(prev) = &accepted.prev_votes
            && view.ballot != accepted.ballot
        {
            tables.push(prev.clone());
        }
        let register_counts = if rules.broken(Rule::RegisterText) {
            view.witness_in && accepted.witness_in
        } else if rules.broken(Rule::RegisterStale) {
            view.witness_in
        } else {
            view.witness_in && view.ballot > m.no_witness_since
        };
        let witness = accepted.witness.as_ref().map(|w| w.id);
        let register_counts = register_counts && view.same_witness(accepted.witness.as_ref());
        LeaseTerms { tables, accepted: accepted.ballot, register_counts, witness }
    }

    /// A view with this life in it is installed and the lease holds (P6, without the owner).
    pub(crate) fn has_lease(&self, now: Instant) -> bool {
        let me = self.config.me;
        self.membership.installed.as_ref().is_some_and(|v| v.has(me))
            && (now < self.membership.lease_end || self.config.rules.broken(Rule::NoLease))
    }
}
