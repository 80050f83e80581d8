//! The own lease (P6): grants of voters and of the register, and the majority over them.
//!
//! The lease lasts while more than half of the votes of every table in force stand behind it. Every
//! grant counts from a time *before* it was given (the send time of what was acknowledged), so that
//! the lease never outlasts what the granters remember.

use std::collections::BTreeMap;
use std::time::Duration;

use wolfpack_types::heartbeat::LeaseTerms;
use wolfpack_types::{Instant, NodeId, Times, VoteTable};

/// Who stands behind a lease until when.
#[derive(Debug)]
pub(crate) struct Lease {
    me: NodeId,
    lease: Duration,
    register_lease: Duration,
    terms: LeaseTerms,
    /// The last time at which this detector was seen to run: the own vote counts from then, so a
    /// stalled detector stops granting to itself.
    own: Instant,
    /// By voter: own clock in the newest of the own heartbeats that it acknowledged.
    granted: BTreeMap<NodeId, Instant>,
    /// Send time of the newest good renewal at the register.
    register: Option<Instant>,
    /// Grants from before this do not count: the own clock stood still since.
    floor: Instant,
    end: Instant,
    /// Something that the end follows from has changed.
    stale: bool,
    /// Grants being sorted; kept for its room.
    grants: Vec<(Instant, u32)>,
}

impl Lease {
    pub(crate) fn new(me: NodeId, times: &Times, now: Instant) -> Self {
        Self {
            me,
            lease: times.lease,
            register_lease: times.register_lease,
            terms: LeaseTerms::default(),
            own: now,
            granted: BTreeMap::new(),
            register: None,
            floor: Instant::ZERO,
            end: Instant::ZERO,
            stale: false,
            grants: Vec::new(),
        }
    }

    pub(crate) fn terms(&self) -> &LeaseTerms {
        &self.terms
    }

    pub(crate) fn end(&self) -> Instant {
        self.end
    }

    /// The detector runs at this time.
    pub(crate) fn tick(&mut self, now: Instant) {
        self.own = self.own.max(now);
        self.stale = true;
    }

    pub(crate) fn set_terms(&mut self, terms: LeaseTerms) {
        // What one register granted is nothing that another one stands behind (P5).
        if self.terms.witness != terms.witness {
            self.register = None;
        }
        self.terms = terms;
        self.stale = true;
    }

    /// A voter acknowledged the own heartbeat of this time.
    pub(crate) fn grant(&mut self, voter: NodeId, clock: Instant) {
        if clock < self.floor {
            return;
        }
        let newest = self.granted.entry(voter).or_insert(clock);
        *newest = clock.max(*newest);
        self.stale = true;
    }

    /// The register granted a renewal that was sent at this time.
    pub(crate) fn grant_register(&mut self, sent: Instant) {
        if sent < self.floor {
            return;
        }
        self.register = self.register.max(Some(sent));
        self.stale = true;
    }

    /// The own clock has stood still: what was granted before ends sooner than it says. Nobody can
    /// tell how much sooner, so it ends now, and so does what will still be granted for that time.
    pub(crate) fn forget(&mut self, now: Instant) {
        self.floor = now;
        self.granted.clear();
        self.register = None;
        self.stale = true;
    }

    /// Computes the end anew; says whether it changed.
    pub(crate) fn evaluate(&mut self) -> bool {
        if !std::mem::take(&mut self.stale) {
            return false;
        }
        let mut room = std::mem::take(&mut self.grants);
        let ends = self.terms.tables.iter().map(|table| self.end_under(table, &mut room));
        let end = ends.min().unwrap_or_default();
        self.grants = room;
        std::mem::replace(&mut self.end, end) != end
    }

    /// The grant at which the votes of a table first exceed half, newest grants first.
    fn end_under(&self, table: &VoteTable, grants: &mut Vec<(Instant, u32)>) -> Instant {
        let own = (self.own + self.lease, table.of(self.me));
        let voters = self
            .granted
            .iter()
            .filter(|&(&voter, _)| voter != self.me)
            .map(|(&voter, &clock)| (clock + self.lease, table.of(voter)));
        let register = self
            .register
            .filter(|_| self.terms.register_counts)
            .map(|sent| (sent + self.register_lease, u32::from(table.witness)));
        grants.clear();
        grants.extend(std::iter::once(own).chain(voters).chain(register));
        grants.sort_unstable_by(|a, b| b.cmp(a));
        let mut votes = 0;
        for &mut (until, weight) in grants {
            votes += weight;
            if 2 * votes > table.total() {
                return until;
            }
        }
        Instant::ZERO
    }

    /// Nobody grants from the future; the end is that of the grants.
    pub(crate) fn check_invariants(&self, now: Instant) {
        assert!(self.own <= now, "own vote of the future");
        assert!(self.granted.values().all(|&clock| clock <= now), "grant of the future");
        let longest = self.lease.max(self.register_lease);
        assert!(self.granted.values().all(|&c| c >= self.floor), "grant from before a pause");
        assert!(self.end <= now + longest, "lease beyond its longest term");
    }
}
