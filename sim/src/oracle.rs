//! What is true of the whole cluster, as nobody in it can know: views that are established, entries
//! that are committed, what is durable where, what runs, whose lease ends when.
//!
//! The wiring reports every durable step, message, act and change of state here, in the order of
//! true time, before it can have any effect; each report updates the facts and asks the invariants
//! (`invariants/`) that it can touch. So they are all checked after every event that could break
//! them, without looking at everything each time.

use std::collections::{BTreeMap, BTreeSet};

use wolfpack_types::heartbeat::Heartbeat;
use wolfpack_types::peer::PeerMessage;
use wolfpack_types::store::{CopyStep, Persist, Record};
use wolfpack_types::update::{LogEntry, Update};
use wolfpack_types::{
    Ballot, Force, GroupId, Instant, Members, NodeId, NodeInc, Seq, StoreId, View,
};

use crate::clock::Time;
use crate::invariants::{self, Verdict};
use crate::sight::{Look, Sight};
use crate::story::hash;

/// A view that is established: some node has installed it.
#[derive(Clone, Debug)]
pub struct Established {
    pub view: View,
    /// True time at which the leases of each node outside must have ended: `not_before - M`.
    pub lease_limits: BTreeMap<NodeId, Time>,
}

/// What is known of a life that is running (or is stopped, but may run on).
#[derive(Clone, Debug)]
pub struct LifeFacts {
    pub who: NodeInc,
    pub view: Option<View>,
    pub sight: Sight,
    /// True time at which the lease ends, as the driver last published it.
    pub lease_end: Time,
    /// The latest end that was ever published: what this life may believe at most.
    pub lease_most: Time,
    /// The entries of its log as it has issued them to its store.
    /// Its clock was set back by so much in all: it believes its lease that much too long.
    pub set_back: Time,
    pub log: BTreeMap<Seq, u64>,
    /// Highest position in `log` or under it.
    pub last: Seq,
    /// The highest promise that has left.
    pub promise_sent: Ballot,
    /// Promises asked of it, by ballot: their members.
    pub promised_to: BTreeMap<Ballot, Members>,
}

impl LifeFacts {
    /// The ballot of the installed view, zero without one.
    #[must_use]
    pub fn installed(&self) -> Ballot {
        self.view.as_ref().map_or(Ballot::ZERO, |v| v.ballot)
    }
}

/// A life whose service is gone, while its lease (and so what it runs) may go on.
#[derive(Clone, Debug)]
pub struct Orphan {
    pub who: NodeInc,
    pub installed: Ballot,
    pub lease_end: Time,
}

/// The history of views that descend from the same forces. Two forced quorums have two histories,
/// which begin alike.
#[derive(Clone, Debug, Default)]
pub struct Lineage {
    /// Value and lowest ballot of each committed entry.
    pub committed: BTreeMap<Seq, (u64, Ballot)>,
    /// Digest of the database at each position.
    pub digests: BTreeMap<Seq, u64>,
}

/// All that is true.
#[derive(Debug, Default)]
pub struct Oracle {
    pub now: Time,
    pub established: BTreeMap<Ballot, Established>,
    /// Every view ever accepted or sent for accepting, by ballot.
    pub views: BTreeMap<Ballot, View>,
    /// Lives that have durably accepted a view.
    pub accepted: BTreeMap<Ballot, BTreeSet<NodeInc>>,
    /// Stores that have durably accepted a view.
    pub accepted_in: BTreeMap<Ballot, BTreeSet<StoreId>>,
    /// Ballots that the witness has accepted.
    pub witness_accepted: BTreeSet<Ballot>,
    /// Lives at which an entry of a view became durable while they had promised nothing higher.
    pub appended: BTreeMap<(Ballot, Seq), BTreeSet<NodeInc>>,
    /// What each lineage of forces (P9) has come to, by its forces; empty: never forced.
    pub lineages: BTreeMap<Vec<Force>, Lineage>,
    /// The forces of the view that a life has accepted or installed last.
    pub forces: BTreeMap<NodeInc, Vec<Force>>,
    pub lives: BTreeMap<NodeId, LifeFacts>,
    pub orphans: Vec<Orphan>,
    /// Stores that came in place of lost ones and that no established view has included yet.
    pub learners: BTreeSet<StoreId>,
    /// What runs: by group's name, by life, how many of its resources.
    pub runs: BTreeMap<String, BTreeMap<NodeInc, u32>>,
    /// Events logged so far.
    pub happened: invariants::cause_chain::Happened,
    /// Machines that stand still, or have gone on and not looked at the time yet.
    pub frozen: BTreeSet<NodeId>,
    /// Names of the groups.
    pub group_names: BTreeMap<GroupId, String>,
}

impl Oracle {
    /// A life starts with what its store had.
    pub fn life_starts(&mut self, who: NodeInc, record: &Record, base: Seq, log: &[LogEntry]) {
        let forces = record.accepted.as_ref().map(|view| view.forces.clone()).unwrap_or_default();
        let mut facts = LifeFacts {
            who,
            view: None,
            sight: Sight::default(),
            lease_end: 0,
            lease_most: 0,
            set_back: 0,
            log: BTreeMap::new(),
            last: base,
            promise_sent: Ballot::ZERO,
            promised_to: BTreeMap::new(),
        };
        self.note_committed(&mut facts, &forces, base);
        self.forces.insert(who, forces);
        self.note_entries(&mut facts, log);
        self.lives.insert(who.node, facts);
    }

    /// A life's service is gone. `runs_on`: its guard or its processes may go on.
    pub fn life_ends(&mut self, who: NodeInc, runs_on: bool) {
        let Some(facts) = self.lives.remove(&who.node) else { return };
        if runs_on && facts.lease_end > self.now && facts.view.is_some() && facts.set_back == 0 {
            let (installed, lease_end) = (facts.installed(), facts.lease_end);
            self.orphans.push(Orphan { who, installed, lease_end });
        }
        let now = self.now;
        self.orphans.retain(|o| o.lease_end > now);
    }

    /// Everything of a life has been ended on its machine.
    pub fn life_cleared(&mut self, who: NodeInc) {
        self.orphans.retain(|o| o.who != who);
    }

    /// The clock of a life was set back: what it believes of its lease is wrong by this.
    pub fn set_back(&mut self, who: NodeInc, by: Time, lease_end: Time) {
        if let Some(facts) = self.lives.get_mut(&who.node) {
            facts.set_back += by;
            facts.lease_end = lease_end;
            facts.lease_most = facts.lease_most.max(lease_end);
        }
    }

    /// The log of a life begins with what its lineage has committed.
    fn note_committed(&self, facts: &mut LifeFacts, forces: &[Force], upto: Seq) {
        let Some(lineage) = self.lineages.get(forces) else { return };
        let known = lineage.committed.range(..=upto);
        facts.log.extend(known.map(|(&seq, &(value, _))| (seq, value)));
    }

    /// The history that a view, or who descends from it, goes on with.
    pub fn lineage(&mut self, forces: &[Force]) -> &mut Lineage {
        self.lineages.entry(forces.to_vec()).or_default()
    }

    /// Whether two lives descend from forces of which neither knows the other's: people have said of
    /// each that it is dead, and one of them was wrong.
    #[must_use]
    pub fn apart(&self, one: NodeInc, other: NodeInc) -> bool {
        let forces = |who| self.forces.get(&who).map_or(&[][..], Vec::as_slice);
        let (one, other) = (forces(one), forces(other));
        !one.starts_with(other) && !other.starts_with(one)
    }

    fn note_entries(&mut self, facts: &mut LifeFacts, entries: &[LogEntry]) {
        for entry in entries {
            facts.log.insert(entry.seq, hash(&wolfpack_types::codec::encode(entry)));
            facts.last = entry.seq;
            self.note_names(&entry.update);
        }
    }

    fn note_names(&mut self, update: &Update) {
        match update {
            Update::CreateGroup(group) => {
                self.group_names.insert(group.id, group.name.clone());
            }
            Update::Batch(updates) => updates.iter().for_each(|u| self.note_names(u)),
            _ => {}
        }
    }

    /// A life hands a step to its store.
    pub fn step_issued(&mut self, who: NodeInc, step: &Persist) {
        let Some(mut facts) = self.lives.remove(&who.node) else { return };
        match step {
            Persist::Append { entries } => self.note_entries(&mut facts, entries),
            Persist::Accept { record, after, snapshot, entries } => {
                let forces = record.accepted.as_ref().map(|v| v.forces.clone()).unwrap_or_default();
                let base = snapshot.as_ref().map_or(*after, |s| s.seq);
                facts.log.split_off(&base.next());
                facts.last = base;
                if snapshot.is_some() {
                    self.note_committed(&mut facts, &forces, base);
                }
                self.forces.insert(who, forces);
                self.note_entries(&mut facts, entries);
            }
            Persist::Copy(CopyStep::End { seq, .. }) => {
                // A copy is of committed updates alone; of which lineage is not seen from outside
                // where there is more than one.
                facts.log.clear();
                facts.last = *seq;
                if self.lineages.len() <= 1 {
                    self.note_committed(&mut facts, &[], *seq);
                }
            }
            Persist::Record(_)
            | Persist::Apply { .. }
            | Persist::Retire
            | Persist::Copy(CopyStep::Begin | CopyStep::Rows { .. }) => {}
        }
        self.lives.insert(who.node, facts);
    }

    /// A step has become durable.
    ///
    /// # Errors
    /// The invariant that it breaks.
    pub fn step_durable(&mut self, who: NodeInc, before: &Record, step: &Persist) -> Verdict {
        match step {
            Persist::Record(record) => invariants::monotone::record(before, record, who),
            Persist::Accept { record, entries, .. } => {
                invariants::monotone::record(before, record, who)?;
                let Some(view) = &record.accepted else { return Ok(()) };
                invariants::forces_never_merge::accepted(before.accepted.as_ref(), view, who)?;
                invariants::one_view::seen(self, view)?;
                invariants::excluded_stay_out::accepted(self, view)?;
                self.accepted.entry(view.ballot).or_default().insert(who);
                self.accepted_in.entry(view.ballot).or_default().insert(record.store);
                for entry in entries {
                    self.appended.entry((view.ballot, entry.seq)).or_default().insert(who);
                }
                Ok(())
            }
            Persist::Append { entries } => {
                let accepted = before.accepted.as_ref().map_or(Ballot::ZERO, |v| v.ballot);
                if before.promised <= accepted {
                    for entry in entries {
                        self.appended.entry((accepted, entry.seq)).or_default().insert(who);
                    }
                }
                Ok(())
            }
            Persist::Apply { .. } | Persist::Retire | Persist::Copy(_) => Ok(()),
        }
    }

    /// A core sends a message; `record` and `last` are what is durable at that moment, `mask` what
    /// its driver has in force.
    ///
    /// # Errors
    /// The invariant that it breaks.
    pub fn message_sent(
        &mut self,
        who: NodeInc,
        message: &PeerMessage,
        record: &Record,
        last: Seq,
        mask: &BTreeSet<NodeInc>,
    ) -> Verdict {
        invariants::durable_first::message(who, message, record, last)?;
        match message {
            PeerMessage::Promise(promise) => {
                if let Some(facts) = self.lives.get_mut(&who.node) {
                    facts.promise_sent = facts.promise_sent.max(promise.ballot);
                }
                let facts = self.lives.get(&who.node);
                let members = facts.and_then(|f| f.promised_to.get(&promise.ballot));
                invariants::mask::promise(who, promise.ballot, members, mask)
            }
            PeerMessage::Accept(accept) => invariants::one_view::seen(self, &accept.view),
            PeerMessage::RequestDone { result: Ok(seq), .. } => {
                invariants::answered_visible::answered(self, who, *seq)
            }
            PeerMessage::Exit { who: gone, .. } => invariants::nothing_runs::exit(self, *gone),
            _ => Ok(()),
        }
    }

    /// A core receives a request for a promise.
    pub fn prepare_received(&mut self, who: NodeInc, ballot: Ballot, members: &Members) {
        if let Some(facts) = self.lives.get_mut(&who.node) {
            facts.promised_to.insert(ballot, members.clone());
            while facts.promised_to.len() > 1_000 {
                facts.promised_to.pop_first();
            }
        }
    }

    /// A driver sends a heartbeat.
    ///
    /// # Errors
    /// The invariant that it breaks.
    pub fn heartbeat_sent(&self, who: NodeInc, beat: &Heartbeat, record: &Record) -> Verdict {
        invariants::durable_first::standing(who, beat, record)?;
        // Superseded by a higher request on its way to the store: nobody will ever be told it.
        let unsent = self.lives.get(&who.node).is_some_and(|facts| {
            facts.promise_sent < record.promised
                && facts.promised_to.range(record.promised..).nth(1).is_some()
        });
        invariants::mask::acks(who, beat, record, unsent)
    }

    /// A driver has published a new lease.
    ///
    /// # Errors
    /// The invariant that it breaks.
    pub fn lease_published(&mut self, who: NodeInc, end: Time) -> Verdict {
        let Some(facts) = self.lives.get_mut(&who.node) else { return Ok(()) };
        facts.lease_end = end;
        facts.lease_most = facts.lease_most.max(end);
        let Some(facts) = self.lives.get(&who.node) else { return Ok(()) };
        if facts.view.is_none() || facts.set_back > 0 {
            return Ok(());
        }
        invariants::lease_bound::life(self, who, facts.installed(), end)
    }

    /// A core has handled an input: how it looks now, and what it has done. `true_time` turns its
    /// clock into true time.
    ///
    /// # Errors
    /// The invariant that is broken.
    pub fn looked(
        &mut self,
        who: NodeInc,
        look: Look,
        true_time: impl Fn(Instant) -> Time,
    ) -> Verdict {
        let Some(facts) = self.lives.get_mut(&who.node) else { return Ok(()) };
        let before = std::mem::replace(&mut facts.sight, look.sight.clone());
        if look.sight.installed != before.installed {
            facts.view.clone_from(&look.view);
            if let Some(view) = &look.view {
                self.forces.insert(who, view.forces.clone());
            }
        }
        for (ballot, bounds) in look.established {
            let limits = bounds.into_iter().map(|(node, at)| (node, true_time(at))).collect();
            let Some(view) = self.views.get(&ballot).cloned() else { continue };
            self.establish(who, &view, limits)?;
        }
        if let Some(view) = &look.view {
            invariants::one_view::seen(self, view)?;
            invariants::excluded_stay_out::installed(who, view)?;
            self.establish(who, view, BTreeMap::new())?;
        }
        for (ballot, seq) in look.committed {
            if let Some(view) = self.views.get(&ballot).filter(|v| seq > v.base_seq) {
                invariants::durable_at_members::committed(self, view, seq)?;
            }
        }
        if look.sight.applied > before.applied {
            self.committed_upto(who, before.applied, look.sight.applied)?;
        }
        invariants::digest::applied(self, who, &before, &look.sight)?;
        if !look.sight.authority.is_empty() {
            invariants::authority_for_acts::lease(self, who)?;
            invariants::one_owner::authority(self, who, &look.sight)?;
        }
        Ok(())
    }

    /// A core has handled an input and looks as before: authority ends with time, too.
    ///
    /// # Errors
    /// The invariant that is broken.
    pub fn looked_again(&self, who: NodeInc) -> Verdict {
        let Some(facts) = self.lives.get(&who.node) else { return Ok(()) };
        if facts.sight.authority.is_empty() {
            return Ok(());
        }
        invariants::authority_for_acts::lease(self, who)?;
        invariants::one_owner::authority(self, who, &facts.sight)
    }

    /// The first that is known of a view's establishment. The coordinator comes first, and brings
    /// the bounds of the leases outside.
    fn establish(
        &mut self,
        who: NodeInc,
        view: &View,
        lease_limits: BTreeMap<NodeId, Time>,
    ) -> Verdict {
        if self.established.contains_key(&view.ballot) {
            return Ok(());
        }
        self.new_lineage(view);
        invariants::accepted_by_all::established(self, view)?;
        invariants::shared_voter::established(self, view)?;
        invariants::share_names_only::established(self, view)?;
        invariants::nothing_lost::established(self, who, view)?;
        for member in view.members.values() {
            self.learners.remove(&member.store);
        }
        self.established.insert(view.ballot, Established { view: view.clone(), lease_limits });
        invariants::excluded_stay_out::established(self, view)?;
        invariants::lease_bound::established(self, view.ballot)
    }

    /// The first view of a forced quorum goes on with the log of who is there: what only the dead
    /// knew is given up, which is what the administrator was told (P9). What it was forced from goes
    /// on by itself, where the administrator was wrong.
    fn new_lineage(&mut self, view: &View) {
        if view.forces.is_empty() || self.lineages.contains_key(&view.forces) {
            return;
        }
        let begins = |forces: &&Vec<Force>| view.forces.starts_with(forces);
        let from = self.lineages.keys().filter(begins).max_by_key(|forces| forces.len());
        let mut lineage =
            from.and_then(|forces| self.lineages.get(forces)).cloned().unwrap_or_default();
        lineage.committed.split_off(&view.base_seq.next());
        lineage.digests.split_off(&view.base_seq.next());
        self.lineages.insert(view.forces.clone(), lineage);
    }

    fn committed_upto(&mut self, who: NodeInc, from: Seq, to: Seq) -> Verdict {
        let Some(facts) = self.lives.get(&who.node) else { return Ok(()) };
        let Some(view) = facts.view.clone() else { return Ok(()) };
        let values: Vec<(Seq, u64)> =
            facts.log.range(from.next()..=to).map(|(&s, &v)| (s, v)).collect();
        for (seq, value) in values {
            invariants::nothing_lost::committed(self, &view, seq)?;
            invariants::one_value::committed(self, &view, seq, value)?;
        }
        Ok(())
    }

    /// A monitor begins to start a resource.
    ///
    /// # Errors
    /// The invariant that it breaks.
    pub fn run_starts(&mut self, who: NodeInc, group: &str) -> Verdict {
        *self.runs.entry(group.to_owned()).or_default().entry(who).or_default() += 1;
        invariants::one_owner::run(self, who, group)
    }

    /// A resource is known not to run any more.
    pub fn run_ends(&mut self, who: NodeInc, group: &str) {
        if let Some(lives) = self.runs.get_mut(group) {
            if let Some(count) = lives.get_mut(&who) {
                *count = count.saturating_sub(1);
            }
            lives.retain(|_, count| *count > 0);
        }
    }
}
