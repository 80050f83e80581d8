//! Sets and maps of nodes that cost no allocation where every heartbeat carries them: nodes are
//! numbered 1 to 64, so a set is one word, and a map of one entry lies inline.

use std::collections::BTreeSet;
use std::fmt;

use serde::de::{Error as _, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use smallvec::SmallVec;

use crate::NodeId;

/// A set of nodes: bit `n - 1` for node `n`, which is also its form on the wire.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct NodeSet(u64);

impl NodeSet {
    /// No node.
    pub const EMPTY: Self = Self(0);

    /// Adds a node; says whether it is new.
    pub fn insert(&mut self, node: NodeId) -> bool {
        let new = !self.contains(node);
        self.0 |= bit(node);
        new
    }

    /// Takes a node out; says whether it was in.
    pub fn remove(&mut self, node: NodeId) -> bool {
        let was = self.contains(node);
        self.0 &= !bit(node);
        was
    }

    /// Whether the node is in.
    #[must_use]
    pub const fn contains(self, node: NodeId) -> bool {
        self.0 & bit(node) != 0
    }

    /// How many nodes are in.
    #[must_use]
    pub const fn len(self) -> usize {
        self.0.count_ones() as usize
    }

    /// Whether no node is in.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Those of this set that are not in the other.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// The nodes, in the order of their numbers.
    pub fn iter(self) -> impl Iterator<Item = NodeId> + Clone {
        (1..=NodeId::MAX).filter_map(|n| NodeId::new(n).ok()).filter(move |&n| self.contains(n))
    }

    /// As an ordinary set.
    #[must_use]
    pub fn to_set(self) -> BTreeSet<NodeId> {
        self.iter().collect()
    }
}

const fn bit(node: NodeId) -> u64 {
    1 << node.index()
}

impl fmt::Debug for NodeSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

impl FromIterator<NodeId> for NodeSet {
    fn from_iter<I: IntoIterator<Item = NodeId>>(nodes: I) -> Self {
        let mut set = Self::EMPTY;
        for node in nodes {
            set.insert(node);
        }
        set
    }
}

impl<const N: usize> From<[NodeId; N]> for NodeSet {
    fn from(nodes: [NodeId; N]) -> Self {
        nodes.into_iter().collect()
    }
}

/// A map from nodes, sorted by node. One entry lies inline; more are allocated.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NodeMap<T>(SmallVec<[(NodeId, T); 1]>);

impl<T> Default for NodeMap<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> NodeMap<T> {
    /// Nothing.
    #[must_use]
    pub fn new() -> Self {
        Self(SmallVec::new())
    }

    fn place(&self, node: NodeId) -> Result<usize, usize> {
        self.0.binary_search_by_key(&node, |(n, _)| *n)
    }

    /// Sets the value of a node; returns the former one.
    pub fn insert(&mut self, node: NodeId, value: T) -> Option<T> {
        match self.place(node) {
            Ok(at) => Some(std::mem::replace(&mut self.0[at].1, value)),
            Err(at) => {
                self.0.insert(at, (node, value));
                None
            }
        }
    }

    /// The value of a node.
    #[must_use]
    pub fn get(&self, node: &NodeId) -> Option<&T> {
        self.place(*node).ok().map(|at| &self.0[at].1)
    }

    /// The value of a node, to change it.
    pub fn get_mut(&mut self, node: &NodeId) -> Option<&mut T> {
        self.place(*node).ok().map(|at| &mut self.0[at].1)
    }

    /// Whether the node has a value.
    #[must_use]
    pub fn contains_key(&self, node: &NodeId) -> bool {
        self.place(*node).is_ok()
    }

    /// How many nodes have a value.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether no node has a value.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Nodes and values, by node.
    pub fn iter(&self) -> impl Iterator<Item = (NodeId, &T)> {
        self.0.iter().map(|(node, value)| (*node, value))
    }

    /// The nodes, in order.
    pub fn keys(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.0.iter().map(|(node, _)| *node)
    }

    /// The values, by node.
    pub fn values(&self) -> impl Iterator<Item = &T> {
        self.0.iter().map(|(_, value)| value)
    }
}

impl<T> FromIterator<(NodeId, T)> for NodeMap<T> {
    fn from_iter<I: IntoIterator<Item = (NodeId, T)>>(entries: I) -> Self {
        let mut map = Self::new();
        for (node, value) in entries {
            map.insert(node, value);
        }
        map
    }
}

impl<T, const N: usize> From<[(NodeId, T); N]> for NodeMap<T> {
    fn from(entries: [(NodeId, T); N]) -> Self {
        entries.into_iter().collect()
    }
}

impl<T: Serialize> Serialize for NodeMap<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter())
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for NodeMap<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(MapVisitor(std::marker::PhantomData))
    }
}

struct MapVisitor<T>(std::marker::PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for MapVisitor<T> {
    type Value = NodeMap<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("entries of different nodes, in order")
    }

    /// The length that the sender claims is not believed: at most one entry for each node.
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let mut map: NodeMap<T> = NodeMap::new();
        while let Some((node, value)) = seq.next_element::<(NodeId, T)>()? {
            if map.0.last().is_some_and(|(last, _)| *last >= node) {
                return Err(A::Error::custom("a node twice, or out of order"));
            }
            map.0.push((node, value));
        }
        Ok(map)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec;

    fn node(n: u8) -> NodeId {
        NodeId::new(n).unwrap()
    }

    #[test]
    fn a_set_holds_the_first_and_the_last_node() {
        let mut set = NodeSet::from([node(64), node(1)]);
        assert_eq!(set.iter().collect::<Vec<_>>(), [node(1), node(64)]);
        assert!(!set.insert(node(64)));
        assert!(set.remove(node(64)) && !set.contains(node(64)) && set.len() == 1);
        assert_eq!(codec::decode::<NodeSet>("set", &codec::encode(&set)), Ok(set));
    }

    #[test]
    fn a_map_is_sorted_and_its_wire_form_must_be() {
        let map: NodeMap<u8> = [(node(9), 1), (node(2), 2), (node(9), 3)].into_iter().collect();
        assert_eq!(map.iter().collect::<Vec<_>>(), [(node(2), &2), (node(9), &3)]);
        let bytes = codec::encode(&map);
        assert_eq!(bytes, [2, 2, 2, 9, 3]);
        assert_eq!(codec::decode::<NodeMap<u8>>("map", &bytes), Ok(map));
        assert!(codec::decode::<NodeMap<u8>>("map", &[2, 9, 3, 2, 2]).is_err());
        assert!(codec::decode::<NodeMap<u8>>("map", &[2, 2, 3, 2, 2]).is_err());
        assert!(codec::decode::<NodeMap<u8>>("map", &[0xff, 0xff, 3, 1, 1]).is_err());
    }
}
