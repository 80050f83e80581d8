//! Planned changes of votes and witness (P5): the database says what should be, the leader brings
//! the view there. Here is what the next table is to be; `choose` decides whether it may be taken.
//!
//! One witness at a time: a witness is replaced in two steps, by way of a view in which no witness
//! has a vote and only members have one (docs/internals/quorum.md).

use std::time::Duration;

use wolfpack_types::membership::{QuorumType, WitnessKind, WitnessSpec};
use wolfpack_types::{Instant, NodeId, Rule, View, VoteTable};

use super::T_STABLE;
use super::choose::Table;
use crate::Core;
use crate::database::Database;

/// After a change of votes was tried, the next one waits this long.
pub(crate) const TABLE_PERIOD: Duration = Duration::from_secs(2);

/// What the leader knows of the open witness.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Health {
    /// The last renewal at it was good.
    Good,
    /// Nothing is known, or it has failed for a short time.
    Doubtful,
    /// It has failed for T_stable.
    Failed,
}

/// The table that the database asks for, given who is in the view.
///
/// A node that never was a member has no vote yet: nobody waits for a machine that was never there.
pub(crate) fn target(database: &Database, view: &View, health: Health) -> Option<Table> {
    let config = &database.cluster.as_ref()?.quorum;
    let counts_nodes = !matches!(config.kind, QuorumType::Disk | QuorumType::Local);
    let dynamic = config.dynamic && counts_nodes;
    let mut votes = VoteTable::default();
    for node in database.active_nodes() {
        let member = view.has_node(node.id);
        if !member && !view.votes.nodes.contains_key(&node.id) {
            continue;
        }
        let present = member || !dynamic;
        votes.nodes.insert(node.id, if present { config.weight(node.id) } else { 0 });
    }
    let usable = match health {
        Health::Good => true,
        // A vote that it has, it keeps; a new one it gets when it has answered.
        Health::Doubtful => view.votes.witness > 0,
        Health::Failed => view.votes.witness > 0 && !dynamic,
    };
    if config.kind.has_witness() {
        votes.witness = u8::from(usable);
        if dynamic {
            let sum: u32 = votes.nodes.values().map(|&v| u32::from(v)).sum();
            votes.witness = u8::from(usable && sum.is_multiple_of(2));
        }
    }
    if dynamic {
        make_odd(&mut votes, view);
    }
    let witness = config.witness.clone().filter(|_| config.kind.has_witness());
    Some(Table { votes, witness })
}

/// With an even number of votes one member loses its own, so that of two halves one is more: the one
/// that has none already, else the highest that does not lead.
fn make_odd(votes: &mut VoteTable, view: &View) {
    if votes.total() % 2 == 1 {
        return;
    }
    let leader = view.leader();
    let odd = votes.nodes.iter().filter(|&(&n, &v)| v % 2 == 1 && view.has_node(n));
    let rank = |n: NodeId| (view.votes.of(n) == 0, n != leader, n);
    let chosen = odd.map(|(&n, _)| n).max_by_key(|&n| rank(n));
    if let Some(node) = chosen.filter(|_| votes.total() > 1) {
        votes.nodes.insert(node, 0);
    }
}

/// The next table on the way to the target; none when the view is there.
pub(crate) fn step(view: &View, target: Table) -> Option<Table> {
    let same = view.same_witness(target.witness.as_ref());
    if view.votes.witness > 0 && target.votes.witness > 0 && !same {
        return Some(retired(view));
    }
    let done = view.votes == target.votes && (same || target.witness.is_none());
    (!done && target.votes.total() > 0).then_some(target)
}

/// The witness has no vote any more, and the members have it all: what the former witness still
/// remembers is never needed again.
fn retired(view: &View) -> Table {
    let vote = |n: NodeId| u8::try_from(view.votes.of(n)).unwrap_or(u8::MAX).max(1);
    let outside = view.votes.nodes.keys().filter(|n| !view.has_node(**n)).map(|&n| (n, 0));
    let members = view.members.keys().map(|&n| (n, vote(n)));
    let mut votes = VoteTable { nodes: outside.chain(members).collect(), witness: 0 };
    make_odd(&mut votes, view);
    Table { votes, witness: view.witness.clone() }
}

impl Core {
    /// The change of votes or witness that is due, and whether the open witness is to be asked for
    /// it. For the leader of an established view that all its members have installed.
    pub(crate) fn wanted_table(&self, now: Instant) -> Option<(Table, bool)> {
        let m = &self.membership;
        let view = m.installed.as_ref()?;
        if now < m.next_table || !self.past_outside(now, view) {
            return None;
        }
        let target = self.kept(target(&self.database, view, self.witness_health(now))?);
        let table = step(view, target)?;
        let voted = view.votes.witness > 0;
        let named = if voted { &view.witness } else { &table.witness };
        let open = self.witness_spec().map(|w| w.id);
        let right = open.is_some() && named.as_ref().map(|w| w.id) == open;
        let votes = voted || table.votes.witness > 0;
        let asks = right && votes && self.witness_health(now) == Health::Good;
        // A witness that comes must have accepted the view that counts it.
        if !voted && table.votes.witness > 0 && !asks {
            return None;
        }
        let members = || {
            let learner = |n: &NodeId| self.looks_like_learner(*n);
            view.members.keys().copied().filter(move |n| !learner(n))
        };
        let enough = view.votes.exceeds_half(members(), asks && voted)
            && table.votes.exceeds_half(members(), asks);
        enough.then_some((table, asks))
    }

    /// (With the rule that they lose it broken: evicted nodes keep their votes.)
    fn kept(&self, mut target: Table) -> Table {
        if self.config.rules.broken(Rule::EvictedReturns) {
            let evicted = self.database.nodes.values().filter(|n| n.evicted).map(|n| (n.id, 1));
            target.votes.nodes.extend(evicted);
        }
        target
    }

    /// No lease lives outside the view when its votes change (P5).
    fn past_outside(&self, now: Instant, view: &View) -> bool {
        let m = &self.membership;
        let over = |n: &NodeId| {
            view.has_node(*n) || m.not_before.get(n).is_some_and(|&until| now >= until)
        };
        self.config.nodes.keys().all(over) || self.config.rules.broken(Rule::NoOutsideWait)
    }

    /// Whether updates of the installed view are committed only with the witness' log (P8). A share
    /// has none; and a witness without a vote is never needed to find what was committed.
    pub(crate) fn logs_at_witness(&self) -> bool {
        let disk = |w: &WitnessSpec| w.kind == WitnessKind::Disk;
        self.membership.installed.as_ref().is_some_and(|v| {
            v.witness_in && v.votes.witness > 0 && v.witness.as_ref().is_some_and(disk)
        })
    }

    /// The open witness is that of the installed view.
    pub(crate) fn witness_is_right(&self) -> bool {
        let view = self.membership.installed.as_ref();
        view.is_some_and(|v| v.same_witness(self.witness_spec()))
    }

    /// How the open witness is, if it is the one that the database names.
    pub(crate) fn witness_health(&self, now: Instant) -> Health {
        match self.witness.failing_for(now) {
            Some(span) if span >= T_STABLE => Health::Failed,
            None if self.witness.answered() => Health::Good,
            _ => Health::Doubtful,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;
    use crate::database::tests::cluster;
    use wolfpack_types::membership::QuorumConfig;
    use wolfpack_types::objects::Cluster;
    use wolfpack_types::register::Exclusion;
    use wolfpack_types::{Ballot, ClusterId, Force, Guid, Incarnation, Member, Seq, StoreId};

    fn n(i: u8) -> NodeId {
        NodeId::new(i).unwrap()
    }

    fn spec(id: u128) -> WitnessSpec {
        let place = format!("/dev/w{id}");
        WitnessSpec {
            place,
            kind: WitnessKind::Disk,
            exclusion: Exclusion::None,
            id: Guid(id),
            checkpoint_bytes: 0,
        }
    }

    fn database(nodes: u8, kind: QuorumType, dynamic: bool) -> Database {
        let mut db = cluster(nodes);
        let witness = kind.has_witness().then(|| spec(1));
        let quorum = QuorumConfig { dynamic, ..QuorumConfig::of(kind, witness) };
        db.cluster = Some(Cluster { id: ClusterId(Guid(1)), name: "pack".into(), quorum });
        db
    }

    fn view(members: &[u8], votes: &[(u8, u8)], witness: u8) -> View {
        let member = |&i: &u8| (n(i), Member { inc: Incarnation(1), store: StoreId(Guid(9)) });
        View {
            ballot: Ballot::new(Force::default(), 3, n(members[0])),
            members: members.iter().map(member).collect(),
            former: BTreeSet::new(),
            witness_in: false,
            votes: VoteTable { nodes: votes.iter().map(|&(i, v)| (n(i), v)).collect(), witness },
            prev_votes: None,
            base_seq: Seq(1),
            witness: (witness > 0).then(|| spec(1)),
            forces: Vec::new(),
        }
    }

    fn votes(table: &Table) -> (Vec<u8>, u8) {
        (table.votes.nodes.values().copied().collect(), table.votes.witness)
    }

    #[test]
    fn fixed_votes_stay_whoever_is_away() {
        let db = database(3, QuorumType::Majority, false);
        let v = view(&[1, 2], &[(1, 1), (2, 1), (3, 1)], 0);
        assert_eq!(step(&v, target(&db, &v, Health::Good).unwrap()), None);
    }

    #[test]
    fn dynamic_votes_follow_the_members_and_stay_odd() {
        let db = database(4, QuorumType::Majority, true);
        let all = [(1, 1), (2, 1), (3, 1), (4, 1)];
        let v = view(&[1, 2, 3, 4], &all, 0);
        assert_eq!(votes(&target(&db, &v, Health::Good).unwrap()), (vec![1, 1, 1, 0], 0));
        let v = view(&[1, 2, 3], &[(1, 1), (2, 1), (3, 1), (4, 0)], 0);
        assert_eq!(step(&v, target(&db, &v, Health::Good).unwrap()), None);
        // The last two: the leader keeps its vote, and it is the last man standing.
        let v = view(&[2, 3], &[(1, 1), (2, 1), (3, 1), (4, 0)], 0);
        assert_eq!(votes(&target(&db, &v, Health::Good).unwrap()), (vec![0, 1, 0, 0], 0));
        // Who has no vote already is not the one to get it at another's expense.
        let v = view(&[2, 3], &[(1, 0), (2, 0), (3, 1), (4, 0)], 0);
        assert_eq!(votes(&target(&db, &v, Health::Good).unwrap()), (vec![0, 0, 1, 0], 0));
    }

    #[test]
    fn a_dynamic_witness_votes_when_the_nodes_are_even() {
        let db = database(3, QuorumType::NodeAndDisk, true);
        let v = view(&[1, 2, 3], &[(1, 1), (2, 1), (3, 1)], 1);
        assert_eq!(votes(&target(&db, &v, Health::Good).unwrap()), (vec![1, 1, 1], 0));
        let v = view(&[1, 2], &[(1, 1), (2, 1), (3, 1)], 0);
        assert_eq!(votes(&target(&db, &v, Health::Good).unwrap()), (vec![1, 1, 0], 1));
        // A witness that has not answered gets no vote; one that fails for long loses it.
        assert_eq!(votes(&target(&db, &v, Health::Doubtful).unwrap()), (vec![1, 0, 0], 0));
        let v = view(&[1, 2], &[(1, 1), (2, 1), (3, 0)], 1);
        assert_eq!(votes(&target(&db, &v, Health::Doubtful).unwrap()), (vec![1, 1, 0], 1));
        assert_eq!(votes(&target(&db, &v, Health::Failed).unwrap()), (vec![1, 0, 0], 0));
    }

    #[test]
    fn a_witness_is_replaced_by_way_of_a_view_without_one() {
        let mut db = database(2, QuorumType::NodeAndDisk, false);
        db.cluster.as_mut().unwrap().quorum.witness = Some(spec(2));
        let v = view(&[1, 2], &[(1, 1), (2, 1)], 1);
        let first = step(&v, target(&db, &v, Health::Doubtful).unwrap()).unwrap();
        assert_eq!(votes(&first), (vec![1, 0], 0), "the leader alone, for the moment");
        assert_eq!(first.witness, Some(spec(1)));
        let mut v = view(&[1, 2], &[(1, 1), (2, 0)], 0);
        v.witness = Some(spec(1));
        let second = step(&v, target(&db, &v, Health::Good).unwrap()).unwrap();
        assert_eq!(votes(&second), (vec![1, 1], 1));
        assert_eq!(second.witness, Some(spec(2)));
    }

    #[test]
    fn an_evicted_node_loses_its_vote_and_a_new_one_gets_it_as_a_member() {
        let mut db = database(3, QuorumType::Majority, false);
        db.nodes.get_mut(&n(3)).unwrap().evicted = true;
        let v = view(&[1, 2], &[(1, 1), (2, 1), (3, 1)], 0);
        assert_eq!(votes(&target(&db, &v, Health::Good).unwrap()), (vec![1, 1], 0));
        db.nodes.get_mut(&n(3)).unwrap().evicted = false;
        let v = view(&[1, 2], &[(1, 1), (2, 1)], 0);
        assert_eq!(step(&v, target(&db, &v, Health::Good).unwrap()), None);
        let v = view(&[1, 2, 3], &[(1, 1), (2, 1)], 0);
        assert_eq!(votes(&target(&db, &v, Health::Good).unwrap()), (vec![1, 1, 1], 0));
    }

    #[test]
    fn weights_are_votes() {
        let mut db = database(2, QuorumType::NodeAndDisk, false);
        db.cluster.as_mut().unwrap().quorum.weights = BTreeMap::from([(n(1), 3)]);
        let v = view(&[1, 2], &[(1, 1), (2, 1)], 1);
        assert_eq!(votes(&target(&db, &v, Health::Doubtful).unwrap()), (vec![3, 1], 1));
    }
}
