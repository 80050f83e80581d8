//! The coordinator's choice (protocol P3, "choose"): which view everything continues from, whose
//! log is the newest, who may be a member, and by which votes it is counted. A pure function.

use std::collections::{BTreeMap, BTreeSet};

use wolfpack_types::membership::{WitnessKind, WitnessSpec};
use wolfpack_types::peer::Promise;
use wolfpack_types::register::Slot;
use wolfpack_types::{
    Ballot, Force, Members, NodeId, NodeInc, Rule, Rules, Seq, View, VoteTable, descends,
};

/// All that the coordinator knows when every promise is in.
pub(crate) struct Question<'a> {
    pub(crate) me: NodeId,
    pub(crate) ballot: Ballot,
    pub(crate) members: &'a Members,
    pub(crate) promises: &'a BTreeMap<NodeId, Promise>,
    /// The witness promised too; its slot with the highest accepted ballot.
    pub(crate) register: Option<Option<&'a Slot>>,
    /// Which register that is, or would be.
    pub(crate) witness: Option<&'a WitnessSpec>,
    /// What is wanted beside a view of these members.
    pub(crate) purpose: &'a Purpose,
    pub(crate) rules: &'a Rules,
}

/// What an attempt is for.
#[derive(Clone, Debug, Default)]
pub(crate) enum Purpose {
    /// A view of the members.
    #[default]
    View,
    /// A planned change of votes or witness.
    Table(Table),
    /// The first view of all, with these votes.
    Create(VoteTable),
    /// A forced quorum: these votes hold, whatever the former view says (P9).
    Force(VoteTable),
}

/// Votes, and of which witness they speak.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Table {
    pub(crate) votes: VoteTable,
    pub(crate) witness: Option<WitnessSpec>,
}

/// Whose log the new view starts with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Source {
    Node(NodeId),
    Register(NodeInc),
    /// The cluster is being created: the log is empty.
    Nothing,
}

/// What was decided.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Choice {
    /// V*, unless the cluster is being created.
    pub(crate) base: Option<View>,
    pub(crate) source: Source,
    pub(crate) votes: VoteTable,
    pub(crate) prev_votes: Option<VoteTable>,
    pub(crate) witness: Option<WitnessSpec>,
    /// The lineage of the new view.
    pub(crate) forces: Vec<Force>,
    /// Who could have been in the new view.
    pub(crate) former: BTreeSet<NodeInc>,
    /// Members that count in no majority.
    pub(crate) learners: BTreeSet<NodeId>,
    /// Nodes whose register term of `not_before` may be dropped (P6).
    pub(crate) drop_register: BTreeSet<NodeId>,
}

/// Why no view can follow from these promises.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum NoChoice {
    /// More votes are needed: try again with the witness.
    NeedWitness,
    /// The view to go on from counts another witness than the one that was asked.
    OtherWitness(Box<View>),
    /// The share names a view of which no member promised: its log is with these.
    OnlyShare(BTreeSet<NodeId>),
    /// Two of the views reported descend from different forces.
    Forked,
    /// This life was excluded by V*: it must end.
    MustRestart(NodeInc),
    /// Nobody has ever accepted a view: there is no cluster yet.
    NeverCreated,
    /// A cluster is to be created, but there is one.
    AlreadyCreated,
}

struct Report<'a> {
    source: Source,
    view: &'a View,
    /// Ends with an entry of the view's own ballot: it was established.
    own_entries: bool,
    last: Seq,
}

/// Whether this view's witness keeps no log.
fn share(view: &View) -> bool {
    view.witness.as_ref().is_some_and(|w| w.kind == WitnessKind::Share)
}

fn reports<'a>(q: &Question<'a>) -> Vec<Report<'a>> {
    let mut out: Vec<Report<'a>> = q
        .promises
        .iter()
        .filter_map(|(&node, p)| {
            let view = p.accepted.as_ref()?;
            Some(Report {
                source: Source::Node(node),
                view,
                own_entries: p.last.0 == view.ballot,
                last: p.last.1,
            })
        })
        .collect();
    if let Some(Some(slot)) = q.register
        && let Some(view) = &slot.view
    {
        out.push(Report {
            source: Source::Register(NodeInc::new(slot.node, slot.inc)),
            view,
            own_entries: !share(view) && slot.last_seq > view.base_seq,
            last: slot.last_seq,
        });
    }
    out
}

impl Question<'_> {
    fn register_bal(&self) -> Ballot {
        self.register.flatten().map_or(Ballot::ZERO, |s| s.bal)
    }

    /// The witness of this view promised.
    fn witness_of(&self, view: &View) -> bool {
        self.register.is_some()
            && (view.same_witness(self.witness) || self.rules.broken(Rule::AnyWitness))
    }

    /// The promise of a node that is the same voter (store) as in `view`.
    fn voter(&self, view: &View, node: NodeId) -> Option<&Promise> {
        let promise = self.promises.get(&node)?;
        let store = self.members.get(&node)?.store;
        let same = view.members.get(&node).is_none_or(|m| m.store == store);
        let counts = same && !promise.learner || self.rules.broken(Rule::LearnerCounts);
        counts.then_some(promise)
    }

    /// One of its own voters can no longer accept it: it never was and never will be established.
    fn dead(&self, view: &View) -> bool {
        let behind = |node: &NodeId| {
            self.voter(view, *node).is_some_and(|p| {
                p.accepted.as_ref().map_or(Ballot::ZERO, |v| v.ballot) < view.ballot
            })
        };
        view.members.keys().any(behind)
            || self.witness_of(view) && view.witness_in && self.register_bal() < view.ballot
    }

    fn exceeds(&self, table: &VoteTable, learners: &BTreeSet<NodeId>, witness: bool) -> bool {
        let counted = self.members.keys().copied().filter(|n| !learners.contains(n));
        table.exceeds_half(counted, witness)
    }
}

/// Decides.
pub(crate) fn choose(q: &Question<'_>) -> Result<Choice, NoChoice> {
    let mut reports = reports(q);
    if q.rules.broken(Rule::DiscardDead) && reports.iter().any(|r| !q.dead(r.view)) {
        reports.retain(|r| !q.dead(r.view));
    }
    let Some(top) = reports.iter().max_by_key(|r| r.view.ballot).map(|r| r.view) else {
        return create(q);
    };
    if matches!(q.purpose, Purpose::Create(_)) {
        return Err(NoChoice::AlreadyCreated);
    }
    // P9: a view that does not descend from what another one was forced to never merges with it.
    let merges = |v: &View| top.descends_from(v.ballot.force);
    if !reports.iter().all(|r| merges(r.view)) && !q.rules.broken(Rule::ForceMerge) {
        return Err(NoChoice::Forked);
    }
    let best = replica(q, &reports, top)?;
    let base = top;
    let known = q.promises.values().any(|p| p.established == base.ballot)
        || reports.iter().any(|r| r.view.ballot == base.ballot && r.own_entries);

    let learners: BTreeSet<NodeId> =
        q.members.keys().copied().filter(|&n| q.voter(base, n).is_none()).collect();
    let prev = base.prev_votes.as_ref().filter(|_| !known);
    enough(q, base, prev, &learners)?;
    let former = former(q, base)?;
    let next = next_table(q, base, prev, known, &learners);
    let asked_other = next.2.as_ref().map(|w| w.id) != q.witness.map(|w| w.id);
    if q.register.is_some() && asked_other && !q.rules.broken(Rule::AnyWitness) {
        return Err(NoChoice::OtherWitness(Box::new(base.clone())));
    }
    let drop_register = base
        .members
        .keys()
        .copied()
        .filter(|_| {
            (known || q.rules.broken(Rule::SkipAny))
                && !base.witness_in
                && base.ballot > q.register_bal()
        })
        .collect();
    let (votes, prev_votes, witness) = next;
    let mut forces = base.forces.clone();
    if !descends(&forces, Force::default(), q.ballot.force) {
        forces.push(q.ballot.force);
    }
    Ok(Choice {
        base: Some(base.clone()),
        source: best,
        votes,
        prev_votes,
        witness,
        forces,
        former,
        learners,
        drop_register,
    })
}

/// The longest log among the replicas of V*; the own copy where it is as good. A share is none.
fn replica(q: &Question<'_>, reports: &[Report<'_>], top: &View) -> Result<Source, NoChoice> {
    let own = Source::Node(q.me);
    let rank = |r: &&Report<'_>| (r.last, r.source == own, matches!(r.source, Source::Node(_)));
    let has_log = |r: &&Report<'_>| !share(r.view) || matches!(r.source, Source::Node(_));
    let of_top = reports.iter().filter(|r| r.view.ballot == top.ballot);
    if let Some(best) = of_top.filter(has_log).max_by_key(rank) {
        return Ok(best.source);
    }
    let any = reports.iter().filter(has_log).max_by_key(rank);
    match any.filter(|_| q.rules.broken(Rule::ShareDecides)) {
        Some(best) => Ok(best.source),
        None => Err(NoChoice::OnlyShare(top.members.keys().copied().collect())),
    }
}

/// The promisers hold more than half of V*'s votes, and of the votes before them.
fn enough(
    q: &Question<'_>,
    base: &View,
    prev: Option<&VoteTable>,
    learners: &BTreeSet<NodeId>,
) -> Result<(), NoChoice> {
    if matches!(q.purpose, Purpose::Force(_)) {
        return Ok(());
    }
    let witness = q.witness_of(base);
    let enough = q.exceeds(&base.votes, learners, witness)
        && (q.rules.broken(Rule::NoPrev) || prev.is_none_or(|t| q.exceeds(t, learners, witness)));
    match enough {
        true => Ok(()),
        false if !base.same_witness(q.witness) && base.votes.witness > 0 => {
            Err(NoChoice::OtherWitness(Box::new(base.clone())))
        }
        false => Err(NoChoice::NeedWitness),
    }
}

/// Who may be in the new view; everybody asked must be among them.
fn former(q: &Question<'_>, base: &View) -> Result<BTreeSet<NodeInc>, NoChoice> {
    let mut former: BTreeSet<NodeInc> = base.lives().collect();
    if q.dead(base) && !q.rules.broken(Rule::KeepDead) {
        former.extend(base.former.iter().copied());
    }
    for (&node, m) in q.members {
        let who = NodeInc::new(node, m.inc);
        let fresh = q.promises.get(&node).is_some_and(|p| p.fresh);
        if !fresh && !former.contains(&who) {
            return Err(NoChoice::MustRestart(who));
        }
    }
    Ok(former)
}

/// The votes of the new view, those before them, and of which witness they speak.
fn next_table(
    q: &Question<'_>,
    base: &View,
    prev: Option<&VoteTable>,
    known: bool,
    learners: &BTreeSet<NodeId>,
) -> (VoteTable, Option<VoteTable>, Option<WitnessSpec>) {
    let kept = prev.cloned().filter(|_| !q.rules.broken(Rule::PrevDrop));
    match q.purpose {
        Purpose::Force(votes) => {
            // The dead, and the witness, which may remember them, have no say until they are back.
            let nodes = votes.nodes.iter().map(|(&n, &v)| {
                (n, if q.members.contains_key(&n) && !learners.contains(&n) { v } else { 0 })
            });
            let votes = VoteTable { nodes: nodes.collect(), witness: 0 };
            return (votes, None, base.witness.clone());
        }
        Purpose::Table(new) if known || q.rules.broken(Rule::TableUnknown) => {
            let same = base.same_witness(new.witness.as_ref());
            // One witness at a time: the former one has lost its vote before another gets one.
            let one = same || base.votes.witness == 0 || new.votes.witness == 0;
            let named = if base.votes.witness > 0 { &base.witness } else { &new.witness };
            let counted =
                q.register.is_some() && named.as_ref().map(|w| w.id) == q.witness.map(|w| w.id);
            if one && q.exceeds(&new.votes, learners, counted) {
                return (new.votes.clone(), Some(base.votes.clone()), named.clone());
            }
        }
        _ => {}
    }
    (base.votes.clone(), kept, base.witness.clone())
}

/// `cluster create`: nobody may know of a view, and the founders must be a majority of the table
/// that they create (so two creations cannot both succeed).
fn create(q: &Question<'_>) -> Result<Choice, NoChoice> {
    let Purpose::Create(votes) = q.purpose else { return Err(NoChoice::NeverCreated) };
    if !q.exceeds(votes, &BTreeSet::new(), q.register.is_some()) {
        return Err(NoChoice::NeedWitness);
    }
    Ok(Choice {
        base: None,
        source: Source::Nothing,
        votes: votes.clone(),
        prev_votes: None,
        witness: q.witness.cloned(),
        forces: Vec::new(),
        former: BTreeSet::new(),
        learners: BTreeSet::new(),
        drop_register: BTreeSet::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use wolfpack_types::{Force, Guid, Incarnation, Member, StoreId};

    fn n(i: u8) -> NodeId {
        NodeId::new(i).unwrap()
    }

    fn b(counter: u64, node: u8) -> Ballot {
        Ballot::new(Force::default(), counter, n(node))
    }

    fn members(ids: &[u8]) -> Members {
        ids.iter()
            .map(|&i| (n(i), Member { inc: Incarnation(1), store: StoreId(Guid(u128::from(i))) }))
            .collect()
    }

    fn table(ids: &[u8], witness: u8) -> VoteTable {
        VoteTable { nodes: ids.iter().map(|&i| (n(i), 1)).collect(), witness }
    }

    fn view(ballot: Ballot, ids: &[u8], votes: VoteTable, witness_in: bool) -> View {
        View {
            ballot,
            members: members(ids),
            former: BTreeSet::new(),
            witness_in,
            votes,
            prev_votes: None,
            base_seq: Seq(1),
            witness: None,
            forces: Vec::new(),
        }
    }

    fn promise(node: u8, accepted: Option<View>, last: (Ballot, u64)) -> (NodeId, Promise) {
        let p = Promise {
            ballot: b(9, 1),
            who: NodeInc::new(n(node), Incarnation(1)),
            accepted,
            last: (last.0, Seq(last.1)),
            commit_seq: Seq(1),
            established: Ballot::ZERO,
            installed: Ballot::ZERO,
            fresh: false,
            learner: false,
            ack_ages: BTreeMap::new(),
            bounds: BTreeMap::new(),
        };
        (n(node), p)
    }

    fn ask(
        members: &Members,
        promises: &BTreeMap<NodeId, Promise>,
        register: Option<Option<&Slot>>,
    ) -> Result<Choice, NoChoice> {
        choose(&Question {
            me: n(1),
            ballot: b(9, 1),
            members,
            promises,
            register,
            witness: None,
            purpose: &Purpose::View,
            rules: &Rules::ALL,
        })
    }

    #[test]
    fn the_longest_log_of_the_highest_accepted_view_wins() {
        let old = view(b(1, 1), &[1, 2, 3], table(&[1, 2, 3], 0), false);
        let new = view(b(2, 2), &[1, 2, 3], table(&[1, 2, 3], 0), false);
        let promises = BTreeMap::from([
            promise(1, Some(old), (b(1, 1), 9)),
            promise(2, Some(new.clone()), (b(1, 1), 4)),
            promise(3, Some(new), (b(2, 2), 5)),
        ]);
        let got = ask(&members(&[1, 2, 3]), &promises, None).unwrap();
        assert_eq!(got.source, Source::Node(n(3)));
        assert!(
            got.drop_register.contains(&n(1)),
            "an entry of its own ballot proves V* established"
        );
    }

    #[test]
    fn half_is_not_enough_without_the_witness() {
        let v = view(b(1, 1), &[1, 2], table(&[1, 2], 1), false);
        let promises = BTreeMap::from([promise(1, Some(v), (b(1, 1), 4))]);
        assert_eq!(ask(&members(&[1]), &promises, None), Err(NoChoice::NeedWitness));
        let got = ask(&members(&[1]), &promises, Some(None)).unwrap();
        assert_eq!(got.drop_register, BTreeSet::from([n(1), n(2)]));
    }

    #[test]
    fn a_lost_store_is_no_voter() {
        let v = view(b(1, 1), &[1, 2, 3], table(&[1, 2, 3], 0), false);
        let mut promises = BTreeMap::from([
            promise(1, Some(v), (b(1, 1), 4)),
            promise(2, None, (Ballot::ZERO, 0)),
        ]);
        let mut m = members(&[1, 2]);
        m.insert(n(2), Member { inc: Incarnation(1), store: StoreId(Guid(77)) });
        promises.get_mut(&n(2)).unwrap().fresh = true;
        assert_eq!(ask(&m, &promises, None), Err(NoChoice::NeedWitness));
    }

    #[test]
    fn an_excluded_life_is_told_to_restart() {
        let old = view(b(1, 1), &[1, 2, 3], table(&[1, 2, 3], 0), false);
        let new = view(b(2, 1), &[1, 3], table(&[1, 2, 3], 0), false);
        let promises = BTreeMap::from([
            promise(1, Some(new), (b(2, 1), 5)),
            promise(2, Some(old), (b(1, 1), 4)),
        ]);
        let who = NodeInc::new(n(2), Incarnation(1));
        assert_eq!(ask(&members(&[1, 2]), &promises, None), Err(NoChoice::MustRestart(who)));
    }

    #[test]
    fn whom_a_dead_view_excluded_may_come_back() {
        let old = view(b(1, 1), &[1, 2, 3], table(&[1, 2, 3], 0), false);
        let mut new = view(b(2, 1), &[1, 3], table(&[1, 2, 3], 0), false);
        new.former = old.lives().collect();
        // 3 is in the new view and promises without having accepted it: the new view is dead.
        let promises = BTreeMap::from([
            promise(1, Some(new), (b(1, 1), 5)),
            promise(2, Some(old.clone()), (b(1, 1), 4)),
            promise(3, Some(old), (b(1, 1), 4)),
        ]);
        assert!(ask(&members(&[1, 2, 3]), &promises, None).is_ok());
    }

    #[test]
    fn nothing_is_created_by_accident_or_twice() {
        let promises = BTreeMap::from([promise(1, None, (Ballot::ZERO, 0))]);
        let m = members(&[1]);
        assert_eq!(ask(&m, &promises, None), Err(NoChoice::NeverCreated));
        let purpose = Purpose::Create(table(&[1, 2], 1));
        let question = |register, promises| {
            choose(&Question {
                me: n(1),
                ballot: b(9, 1),
                members: &m,
                promises,
                register,
                witness: None,
                purpose: &purpose,
                rules: &Rules::ALL,
            })
        };
        assert_eq!(question(None, &promises), Err(NoChoice::NeedWitness));
        assert!(question(Some(None), &promises).is_ok());
        let v = view(b(1, 1), &[1], table(&[1], 0), false);
        let promises = BTreeMap::from([promise(1, Some(v), (b(1, 1), 4))]);
        assert_eq!(question(Some(None), &promises), Err(NoChoice::AlreadyCreated));
    }
}
