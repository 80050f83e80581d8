//! Pruning: the heaviest set of nodes that all hear each other, in bounded time.
//!
//! Advisory: which set is chosen decides who survives, never whether that is safe.

use std::collections::{BTreeMap, BTreeSet};

use wolfpack_types::{NodeId, VoteTable};

/// Who hears whom: the row of a node is the set of peers that it hears.
pub(crate) type Rows = BTreeMap<NodeId, BTreeSet<NodeId>>;

/// Search steps before the best set so far is taken. One step looks at every candidate once, so the
/// whole search looks at most at `STEPS_MAX * 64` links: a few milliseconds.
const STEPS_MAX: u32 = 2_000;

/// One-way links count as broken: both must hear each other.
fn linked(rows: &Rows, a: NodeId, b: NodeId) -> bool {
    let hears = |x, y| rows.get(&x).is_some_and(|row| row.contains(&y));
    hears(a, b) && hears(b, a)
}

/// What makes one set better than another: votes, then having the leader, then size, then low ids.
fn rank(set: &[NodeId], votes: &VoteTable, leader: Option<NodeId>) -> (u32, bool, usize, u64) {
    let has_leader = leader.is_some_and(|l| set.contains(&l));
    let low = set.iter().fold(0_u64, |bits, n| bits | 1 << (63 - n.index()));
    (votes.sum(set.iter().copied(), false), has_leader, set.len(), low)
}

/// Nodes as bits of a word.
type Bits = u64;

struct Search<'a> {
    /// By node: those that it has two-way links with.
    links: [Bits; 64],
    votes: &'a VoteTable,
    leader: Option<NodeId>,
    best: Vec<NodeId>,
    steps: u32,
}

fn bit(node: NodeId) -> Bits {
    1 << node.index()
}

impl Search<'_> {
    /// Whether some extension of `set` by `candidates` could be better than the best so far: even
    /// all of them together hold no more votes.
    fn hopeless(&self, set: &[NodeId], candidates: &[NodeId]) -> bool {
        let all: Vec<NodeId> = set.iter().chain(candidates).copied().collect();
        rank(&all, self.votes, self.leader) <= rank(&self.best, self.votes, self.leader)
    }

    fn extend(&mut self, set: &mut Vec<NodeId>, candidates: &[NodeId]) {
        self.steps += 1;
        if rank(set, self.votes, self.leader) > rank(&self.best, self.votes, self.leader) {
            self.best.clone_from(set);
        }
        for (i, &c) in candidates.iter().enumerate() {
            if self.steps >= STEPS_MAX || self.hopeless(set, &candidates[i..]) {
                return;
            }
            let with = self.links[c.index()];
            let rest: Vec<NodeId> =
                candidates[i + 1..].iter().copied().filter(|&d| with & bit(d) != 0).collect();
            set.push(c);
            self.extend(set, &rest);
            set.pop();
        }
    }

    /// A first good set: whoever has the most links among the rest is taken next. It is what the
    /// bounded search can only improve on.
    fn greedy(&mut self, me: NodeId, candidates: &[NodeId]) {
        let mut set = vec![me];
        let mut rest: Bits = candidates.iter().map(|&c| bit(c)).sum();
        while rest != 0 {
            let among = |n: NodeId| (self.links[n.index()] & rest).count_ones();
            let left = candidates.iter().copied().filter(|&c| rest & bit(c) != 0);
            let weight = |n: NodeId| self.votes.of(n) > 0;
            let first = |n: NodeId| std::cmp::Reverse(n);
            let next =
                left.max_by_key(|&n| (Some(n) == self.leader, weight(n), among(n), first(n)));
            let Some(next) = next else { break };
            set.push(next);
            rest &= self.links[next.index()] & !bit(next);
        }
        set.sort_unstable();
        self.best = set;
    }
}

/// Two-way links, as bits.
fn links(rows: &Rows) -> [Bits; 64] {
    let mut out = [0; 64];
    for &a in rows.keys() {
        let both = rows.keys().filter(|&&b| a != b && linked(rows, a, b));
        out[a.index()] = both.map(|&b| bit(b)).sum();
    }
    out
}

/// The heaviest fully connected set that contains `me`, out of `alive`.
pub(crate) fn prune(
    me: NodeId,
    alive: &BTreeSet<NodeId>,
    rows: &Rows,
    votes: &VoteTable,
    leader: Option<NodeId>,
) -> BTreeSet<NodeId> {
    let mut candidates: Vec<NodeId> =
        alive.iter().copied().filter(|&n| n != me && linked(rows, me, n)).collect();
    let mut search = Search { links: links(rows), votes, leader, best: vec![me], steps: 0 };
    search.greedy(me, &candidates);
    // The best linked first: good sets come early, and the bound cuts off the rest.
    let among = candidates.iter().map(|&c| bit(c)).sum::<Bits>();
    let degree = |n: NodeId| (search.links[n.index()] & among).count_ones();
    candidates.sort_by_key(|&n| (Some(n) != leader, std::cmp::Reverse(degree(n)), n));
    search.extend(&mut vec![me], &candidates);
    search.best.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn n(i: u8) -> NodeId {
        NodeId::new(i).unwrap()
    }

    fn set(ids: &[u8]) -> BTreeSet<NodeId> {
        ids.iter().map(|&i| n(i)).collect()
    }

    fn one_vote(ids: &[u8]) -> VoteTable {
        VoteTable { nodes: ids.iter().map(|&i| (n(i), 1)).collect(), witness: 0 }
    }

    fn full(ids: &[u8]) -> Rows {
        ids.iter().map(|&i| (n(i), set(ids))).collect()
    }

    #[test]
    fn a_full_mesh_is_kept_whole() {
        let ids = [1, 2, 3, 4];
        let got = prune(n(3), &set(&ids), &full(&ids), &one_vote(&ids), None);
        assert_eq!(got, set(&ids));
    }

    #[test]
    fn a_one_way_link_is_a_broken_link() {
        let ids = [1, 2, 3];
        let mut rows = full(&ids);
        rows.get_mut(&n(2)).unwrap().remove(&n(3));
        let got = prune(n(1), &set(&ids), &rows, &one_vote(&ids), Some(n(3)));
        assert_eq!(got, set(&[1, 3]), "the leader breaks the tie");
        let got = prune(n(1), &set(&ids), &rows, &one_vote(&ids), None);
        assert_eq!(got, set(&[1, 2]), "then the lowest ids");
    }

    #[test]
    fn one_sick_node_of_many_is_pruned() {
        let ids: Vec<u8> = (1..=10).collect();
        let mut rows = full(&ids);
        for i in 5..=10 {
            rows.get_mut(&n(4)).unwrap().remove(&n(i));
        }
        let got = prune(n(1), &set(&ids), &rows, &one_vote(&ids), None);
        assert_eq!(got, set(&[1, 2, 3, 5, 6, 7, 8, 9, 10]));
    }

    #[test]
    fn sixty_four_nodes_with_random_holes_end_in_time() {
        let ids: Vec<u8> = (1..=64).collect();
        let mut rows = full(&ids);
        let mut random = crate::random::Random::new(7);
        for _ in 0..900 {
            let a = u8::try_from(random.next() % 64).unwrap() + 1;
            let b = u8::try_from(random.next() % 64).unwrap() + 1;
            rows.get_mut(&n(a)).unwrap().remove(&n(b));
        }
        let got = prune(n(1), &set(&ids), &rows, &one_vote(&ids), None);
        assert!(got.contains(&n(1)) && got.len() > 5);
        for &a in &got {
            for &b in &got {
                assert!(a == b || linked(&rows, a, b));
            }
        }
    }

    /// The best set by looking at all of them.
    fn by_exhaustion(
        me: NodeId,
        ids: &[u8],
        rows: &Rows,
        votes: &VoteTable,
        leader: Option<NodeId>,
    ) -> BTreeSet<NodeId> {
        let mut best = vec![me];
        for mask in 0_u32..1 << ids.len() {
            let picked = ids.iter().enumerate().filter(|(k, _)| mask & (1 << k) != 0);
            let nodes: Vec<NodeId> = picked.map(|(_, &i)| n(i)).collect();
            let all = |&a: &NodeId| nodes.iter().all(|&b| a == b || linked(rows, a, b));
            if nodes.contains(&me)
                && nodes.iter().all(all)
                && rank(&nodes, votes, leader) > rank(&best, votes, leader)
            {
                best = nodes;
            }
        }
        best.into_iter().collect()
    }

    #[test]
    fn of_ten_nodes_the_best_set_is_found() {
        let ids: Vec<u8> = (1..=10).collect();
        let mut random = crate::random::Random::new(3);
        for round in 0..60 {
            let mut rows = full(&ids);
            for _ in 0..round {
                let a = ids[usize::try_from(random.next() % 10).unwrap()];
                let b = ids[usize::try_from(random.next() % 10).unwrap()];
                rows.get_mut(&n(a)).unwrap().remove(&n(b));
            }
            let mut votes = one_vote(&ids);
            votes.nodes.insert(n(7), 3);
            let leader = Some(n(5));
            let got = prune(n(2), &set(&ids), &rows, &votes, leader);
            assert_eq!(got, by_exhaustion(n(2), &ids, &rows, &votes, leader), "round {round}");
        }
    }

    #[test]
    fn the_worst_graph_costs_no_more_than_the_bound() {
        // Many disjoint missing links: exponentially many sets are equally large.
        let ids: Vec<u8> = (1..=64).collect();
        let mut rows = full(&ids);
        for i in (2..=63).step_by(2) {
            rows.get_mut(&n(i)).unwrap().remove(&n(i + 1));
        }
        let votes = one_vote(&ids);
        let mut search =
            Search { links: links(&rows), votes: &votes, leader: None, best: vec![n(1)], steps: 0 };
        let candidates: Vec<NodeId> = (2..=64).map(n).collect();
        search.extend(&mut vec![n(1)], &candidates);
        assert!(search.steps <= STEPS_MAX, "{}", search.steps);
        // And it is as large as any can be: one of each pair, and the two that lack nothing.
        let got = prune(n(1), &set(&ids), &rows, &votes, None);
        assert_eq!(got.len(), 33);
    }
}
