//! Pruning: the heaviest set of nodes that all hear each other, in bounded time.
//!
//! Advisory: which set is chosen decides who survives, never whether that is safe.

use std::collections::{BTreeMap, BTreeSet};

use wolfpack_types::{NodeId, VoteTable};

/// Who hears whom: the row of a node is the set of peers that it hears.
pub(crate) type Rows = BTreeMap<NodeId, BTreeSet<NodeId>>;

/// Search steps before the best set so far is taken.
const STEPS_MAX: u32 = 20_000;

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

struct Search<'a> {
    rows: &'a Rows,
    votes: &'a VoteTable,
    leader: Option<NodeId>,
    best: Vec<NodeId>,
    steps: u32,
}

impl Search<'_> {
    fn extend(&mut self, set: &mut Vec<NodeId>, candidates: &[NodeId]) {
        self.steps += 1;
        if rank(set, self.votes, self.leader) > rank(&self.best, self.votes, self.leader) {
            self.best.clone_from(set);
        }
        for (i, &c) in candidates.iter().enumerate() {
            if self.steps >= STEPS_MAX {
                return;
            }
            let rest: Vec<NodeId> =
                candidates[i + 1..].iter().copied().filter(|&d| linked(self.rows, c, d)).collect();
            set.push(c);
            self.extend(set, &rest);
            set.pop();
        }
    }
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
    // The leader first, then low ids: if the steps run out, a good set has been seen.
    candidates.sort_by_key(|&n| (Some(n) != leader, n));
    let mut search = Search { rows, votes, leader, best: vec![me], steps: 0 };
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
}
