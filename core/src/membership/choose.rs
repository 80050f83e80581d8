//! The coordinator's choice (protocol P3, "choose"): which view everything continues from, whose
//! log is the newest, who may be a member, and by which votes it is counted. A pure function.

use std::collections::{BTreeMap, BTreeSet};

use wolfpack_types::peer::Promise;
use wolfpack_types::register::Slot;
use wolfpack_types::{Ballot, Members, NodeId, NodeInc, Rule, Rules, Seq, View, VoteTable};

/// All that the coordinator knows when every promise is in.
pub(crate) struct Question<'a> {
    pub(crate) me: NodeId,
    pub(crate) members: &'a Members,
    pub(crate) promises: &'a BTreeMap<NodeId, Promise>,
    /// The witness promised too; its slot with the highest accepted ballot.
    pub(crate) register: Option<Option<&'a Slot>>,
    /// A planned change of votes.
    pub(crate) table: Option<&'a VoteTable>,
    /// The votes of a cluster that is being created.
    pub(crate) creating: Option<&'a VoteTable>,
    pub(crate) rules: &'a Rules,
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
    /// Who could have been in the new view.
    pub(crate) former: BTreeSet<NodeInc>,
    /// Members that count in no majority.
    pub(crate) learners: BTreeSet<NodeId>,
    /// V* is known to have been established.
    pub(crate) known: bool,
    /// Nodes whose register term of `not_before` may be dropped (P6).
    pub(crate) drop_register: BTreeSet<NodeId>,
}

/// Why no view can follow from these promises.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum NoChoice {
    /// More votes are needed: try again with the witness.
    NeedWitness,
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
            own_entries: slot.last_seq > view.base_seq,
            last: slot.last_seq,
        });
    }
    out
}

impl Question<'_> {
    fn register_bal(&self) -> Ballot {
        self.register.flatten().map_or(Ballot::ZERO, |s| s.bal)
    }

    /// The promise of a node that is the same voter (store) as in `view`.
    fn voter(&self, view: &View, node: NodeId) -> Option<&Promise> {
        let promise = self.promises.get(&node)?;
        let store = self.members.get(&node)?.store;
        let same = view.members.get(&node).is_none_or(|m| m.store == store);
        (same && !promise.learner).then_some(promise)
    }

    /// One of its own voters can no longer accept it: it never was and never will be established.
    fn dead(&self, view: &View) -> bool {
        let behind = |node: &NodeId| {
            self.voter(view, *node).is_some_and(|p| {
                p.accepted.as_ref().map_or(Ballot::ZERO, |v| v.ballot) < view.ballot
            })
        };
        view.members.keys().any(behind)
            || self.register.is_some() && view.witness_in && self.register_bal() < view.ballot
    }

    fn exceeds(&self, table: &VoteTable, learners: &BTreeSet<NodeId>) -> bool {
        let counted = self.members.keys().copied().filter(|n| !learners.contains(n));
        table.exceeds_half(counted, self.register.is_some())
    }
}

/// Decides.
pub(crate) fn choose(q: &Question<'_>) -> Result<Choice, NoChoice> {
    let mut reports = reports(q);
    if q.rules.broken(Rule::DiscardDead) && reports.iter().any(|r| !q.dead(r.view)) {
        reports.retain(|r| !q.dead(r.view));
    }
    let Some(top) = reports.iter().map(|r| r.view.ballot).max() else {
        return create(q);
    };
    if q.creating.is_some() {
        return Err(NoChoice::AlreadyCreated);
    }
    // The longest log among the replicas of V*; the own copy where it is as good.
    let own = Source::Node(q.me);
    let best = reports
        .iter()
        .filter(|r| r.view.ballot == top)
        .max_by_key(|r| (r.last, r.source == own, matches!(r.source, Source::Node(_))))
        .expect("the highest ballot is that of a report");
    let base = best.view;
    let known = q.promises.values().any(|p| p.established == top)
        || reports.iter().any(|r| r.view.ballot == top && r.own_entries);

    let learners: BTreeSet<NodeId> =
        q.members.keys().copied().filter(|&n| q.voter(base, n).is_none()).collect();
    let prev = base.prev_votes.as_ref().filter(|_| !known);
    let enough = q.exceeds(&base.votes, &learners)
        && (q.rules.broken(Rule::NoPrev) || prev.is_none_or(|t| q.exceeds(t, &learners)));
    if !enough {
        return Err(NoChoice::NeedWitness);
    }

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

    let mut votes = base.votes.clone();
    let mut prev_votes = prev.cloned().filter(|_| !q.rules.broken(Rule::PrevDrop));
    if let Some(table) = q.table
        && (known || q.rules.broken(Rule::TableUnknown))
        && q.exceeds(table, &learners)
    {
        prev_votes = Some(votes);
        votes = table.clone();
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
    Ok(Choice {
        base: Some(base.clone()),
        source: best.source,
        votes,
        prev_votes,
        former,
        learners,
        known,
        drop_register,
    })
}

/// `cluster create`: nobody may know of a view, and the founders must be a majority of the table
/// that they create (so two creations cannot both succeed).
fn create(q: &Question<'_>) -> Result<Choice, NoChoice> {
    let votes = q.creating.ok_or(NoChoice::NeverCreated)?;
    if !q.exceeds(votes, &BTreeSet::new()) {
        return Err(NoChoice::NeedWitness);
    }
    Ok(Choice {
        base: None,
        source: Source::Nothing,
        votes: votes.clone(),
        prev_votes: None,
        former: BTreeSet::new(),
        learners: BTreeSet::new(),
        known: true,
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
            members,
            promises,
            register,
            table: None,
            creating: None,
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
        assert!(got.known, "an entry of its own ballot proves that V* was established");
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
        let votes = table(&[1, 2], 1);
        let question = |register, promises| {
            choose(&Question {
                me: n(1),
                members: &m,
                promises,
                register,
                table: None,
                creating: Some(&votes),
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
