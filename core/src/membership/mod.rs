//! The Membership Manager: views by ballots (protocol P2, P3), the witness' part in them (P4), and
//! the own standing towards leases (P6).
//!
//! ```text
//!           reason to regroup            own Prepare durable        all promised (and witness)
//!  installed ----------------> wanting ----------------> promising ----------------> levelling
//!      ^   \                      | a better coordinator      | Nack, budget over       | log there
//!      |    `--- Prepare of another, promised ---.            v                         v
//!      |                                         `------> back-off <--------------- accepting
//!      `-------------------------- Established <----------------- all accepted (and witness) --'
//! ```
//!
//! One idea per file: `trigger` decides when and with whom to regroup, `coordinator` runs an
//! attempt, `choose` is its pure decision, `voter` answers other coordinators, `witness` speaks
//! with the register, `standing` keeps masks and lease terms true, `pruning` is the graph maths.

pub(crate) mod choose;
pub(crate) mod coordinator;
mod force;
mod joining;
pub(crate) mod planned;
pub(crate) mod pruning;
mod standing;
mod trigger;
mod voter;
pub(crate) mod witness;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use wolfpack_types::event::Proof;
use wolfpack_types::heartbeat::{Reach, Standing};
use wolfpack_types::store::Record;
use wolfpack_types::{Ballot, Incarnation, Instant, Members, NodeId, NodeInc, View};

pub(crate) use coordinator::Attempt;
use force::Forced;
use joining::Exits;
pub(crate) use trigger::Want;

/// A node that was left out may come back after this.
const T_STABLE: Duration = Duration::from_secs(10);

/// What is known of a peer by its heartbeats.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    pub(crate) inc: Incarnation,
    pub(crate) reach: Reach,
    pub(crate) standing: Standing,
    pub(crate) row: BTreeSet<NodeId>,
    /// Whom it hears over each network.
    pub(crate) networks: wolfpack_types::networks::NetworkRows,
    /// Paths by network.
    pub(crate) paths: BTreeMap<wolfpack_types::NetworkId, bool>,
}

/// The state of membership (P2), durable and volatile.
#[derive(Debug)]
pub(crate) struct Membership {
    /// The record as it is durable.
    pub(crate) record: Record,
    /// The record as it will be when all steps handed to the store are durable.
    pub(crate) queued: Record,
    pub(crate) installed: Option<View>,
    /// When the view was installed.
    pub(crate) installed_at: Instant,
    /// When the newest promise became durable.
    pub(crate) promised_at: Instant,
    /// A Prepare in hand: its mask is being put in force.
    pub(crate) pending: Option<Pending>,
    pub(crate) attempt: Option<Attempt>,
    pub(crate) want: Option<Want>,
    pub(crate) back_off: Instant,
    /// Highest counter ever seen in a ballot.
    pub(crate) counter_seen: u64,
    pub(crate) peers: BTreeMap<NodeId, Peer>,
    /// Own times of the last acknowledgements that other voters reported (merged by Accept).
    pub(crate) carried_ack: BTreeMap<NodeId, Instant>,
    /// Own times up to which earlier views bound leases at the register.
    pub(crate) carried_bound: BTreeMap<NodeId, Instant>,
    /// Highest ballot of a view without witness that this life ever accepted.
    pub(crate) no_witness_since: Ballot,
    pub(crate) not_before: BTreeMap<NodeId, Instant>,
    pub(crate) lease_end: Instant,
    /// The next attempt takes the witness in, whatever the votes.
    pub(crate) need_witness: bool,
    /// The witness did not take part in the last attempt: where it is not needed, go without it.
    pub(crate) witness_failed: bool,
    /// Lives to be left out of the next views though they are heard, and until when.
    pub(crate) suspended: BTreeMap<NodeInc, Instant>,
    /// How many attempts in a row each life has left unanswered.
    pub(crate) silent: BTreeMap<NodeInc, u32>,
    /// Something else than a loss asks for a new view.
    pub(crate) asked: Option<Asked>,
    /// Lives of which nothing runs, proven.
    pub(crate) dead: BTreeMap<NodeInc, Proof>,
    /// Members that want to leave.
    pub(crate) leaving: BTreeSet<NodeId>,
    /// The newest view that others were found to have accepted.
    learnt: Option<View>,
    /// Nodes that were left out of views, and how it went since.
    exits: BTreeMap<NodeId, Exits>,
    /// A living view refused this node's ballot: while one lives, none again before this.
    refused: Option<(Instant, u32)>,
    /// A planned change of votes is not tried before this.
    next_table: Instant,
    /// A quorum that an administrator forces.
    forced: Option<Forced>,
    /// Peers whose views were forced apart from this node's.
    forks: BTreeSet<NodeId>,
    /// Members that were evicted, and since when this node knows.
    pub(crate) evicted: BTreeMap<NodeId, Instant>,
    next_mask: u64,
}

/// A Prepare whose mask is not yet in force or whose promise is not yet durable.
#[derive(Clone, Debug)]
pub(crate) struct Pending {
    pub(crate) ballot: Ballot,
    pub(crate) members: Members,
    pub(crate) from: NodeId,
    /// Names the mask that must be in force first.
    pub(crate) mask: u64,
    /// Acknowledgements as read when the mask was in force.
    pub(crate) last_ack: Option<BTreeMap<NodeId, Instant>>,
}

/// A wish for a new view that no loss explains.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Asked {
    /// The reservation or an append at the witness was lost.
    WitnessLost,
    /// A member did not acknowledge an update in time, or left.
    MemberGone,
    /// The leader cannot reach the witness and asks this node to lead.
    TakeOver,
}

impl Membership {
    pub(crate) fn new(mut record: Record, new_store: bool, now: Instant) -> Self {
        record.learner |= new_store;
        let counter_seen = record
            .max_ballot
            .counter
            .max(record.promised.counter)
            .max(record.accepted.as_ref().map_or(0, |v| v.ballot.counter));
        Self {
            queued: record.clone(),
            record,
            installed: None,
            installed_at: now,
            promised_at: now,
            pending: None,
            attempt: None,
            want: None,
            back_off: now,
            counter_seen,
            peers: BTreeMap::new(),
            carried_ack: BTreeMap::new(),
            carried_bound: BTreeMap::new(),
            no_witness_since: Ballot::ZERO,
            not_before: BTreeMap::new(),
            lease_end: Instant::ZERO,
            need_witness: false,
            witness_failed: false,
            suspended: BTreeMap::new(),
            silent: BTreeMap::new(),
            asked: None,
            dead: BTreeMap::new(),
            leaving: BTreeSet::new(),
            learnt: None,
            exits: BTreeMap::new(),
            refused: None,
            next_table: now,
            forced: None,
            forks: BTreeSet::new(),
            evicted: BTreeMap::new(),
            next_mask: 0,
        }
    }

    /// The newest view known: the accepted one, or one that others reported to have accepted.
    /// Advisory: it says whom to ask, never what is decided.
    pub(crate) fn newest(&self) -> Option<&View> {
        let accepted = self.record.accepted.as_ref();
        let learnt = self.learnt.as_ref();
        learnt.filter(|l| accepted.is_none_or(|a| a.ballot < l.ballot)).or(accepted)
    }

    /// Notes a view that others have accepted.
    pub(crate) fn learn(&mut self, view: View) {
        if self.learnt.as_ref().is_none_or(|l| l.ballot < view.ballot) {
            self.learnt = Some(view);
        }
    }

    pub(crate) fn accepted_ballot(&self) -> Ballot {
        self.record.accepted.as_ref().map_or(Ballot::ZERO, |v| v.ballot)
    }

    /// Never accepted a view with this life in it.
    pub(crate) fn is_fresh(&self, me: NodeInc) -> bool {
        self.installed.is_none() && !self.record.accepted.as_ref().is_some_and(|v| v.has(me))
    }

    /// The installed view is the newest thing this node knows of: nothing is under way.
    pub(crate) fn settled(&self) -> bool {
        self.installed.as_ref().is_some_and(|v| {
            v.ballot == self.accepted_ballot()
                && v.ballot == self.queued.promised
                && self.pending.is_none()
        })
    }

    pub(crate) fn saw_counter(&mut self, counter: u64) {
        self.counter_seen = self.counter_seen.max(counter);
    }

    /// Moves a bound forward only.
    pub(crate) fn merge(map: &mut BTreeMap<NodeId, Instant>, node: NodeId, at: Instant) {
        let entry = map.entry(node).or_insert(at);
        *entry = (*entry).max(at);
    }

    /// Leaves this life out of the next views for T_stable.
    pub(crate) fn suspend(&mut self, who: NodeInc, now: Instant) {
        self.suspended.insert(who, now + T_STABLE);
    }

    pub(crate) fn back_off_until(&mut self, at: Instant) {
        self.back_off = self.back_off.max(at);
    }

    /// Age at `now`.
    pub(crate) fn age(now: Instant, at: Instant) -> Duration {
        now.since(at)
    }
}
