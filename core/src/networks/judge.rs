//! From who hears whom over each network to states of networks and interfaces, in words.
//!
//! Pure, and a function of its input alone. It judges by pairs that hear each other both ways, among
//! the nodes that are up and whose interface is not known to be broken:
//!
//! | over the network | network | interfaces |
//! |---|---|---|
//! | all pairs hear each other | Up | Up |
//! | some pairs do; a node is in none of them, the others are in one at least | as without it | that node's Failed |
//! | some pairs do, among the rest some do not | Partitioned | those of broken pairs Unreachable |
//! | no pair does | Down | Unreachable |
//! | a node says that its interface is broken | as without it | that node's Failed |
//! | fewer than two nodes are up | Unavailable | |
//!
//! What happens to one node's interface alone is that interface's fault; what happens to everybody is
//! the network's.

use std::collections::BTreeMap;

use wolfpack_types::networks::{
    InterfaceState, InterfaceVerdict, NetworkRows, NetworkState, NetworkVerdict,
};
use wolfpack_types::{NetworkId, NodeId, NodeSet};

/// Pairs that are named in an explanation; more are counted.
const PAIRS_NAMED: usize = 3;

/// All that is known of the networks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reports<'a> {
    /// Networks that carry cluster traffic, with their names.
    pub(crate) networks: &'a BTreeMap<NetworkId, String>,
    /// All configured nodes, with their names.
    pub(crate) nodes: &'a BTreeMap<NodeId, String>,
    /// Nodes that are up: heard on some network, and members.
    pub(crate) live: NodeSet,
    /// By node that is up, whom it hears over each network.
    pub(crate) rows: &'a BTreeMap<NodeId, NetworkRows>,
}

/// Judges every network.
pub(crate) fn judge(reports: &Reports<'_>) -> Vec<NetworkVerdict> {
    reports.networks.keys().map(|&network| One { reports, network }.judge()).collect()
}

/// One network of the reports.
#[derive(Clone, Copy)]
struct One<'a> {
    reports: &'a Reports<'a>,
    network: NetworkId,
}

impl One<'_> {
    fn hears(self, a: NodeId, b: NodeId) -> bool {
        self.reports.rows.get(&a).is_some_and(|rows| rows.row(self.network).contains(b))
    }

    fn linked(self, a: NodeId, b: NodeId) -> bool {
        self.hears(a, b) && self.hears(b, a)
    }

    fn name(self, node: NodeId) -> String {
        self.reports.nodes.get(&node).cloned().unwrap_or_else(|| node.to_string())
    }

    fn names(self, set: NodeSet) -> String {
        let names: Vec<String> = set.iter().map(|node| self.name(node)).collect();
        match names.split_last() {
            Some((last, [])) => last.clone(),
            Some((last, rest)) => format!("{} and {last}", rest.join(", ")),
            None => "nobody".into(),
        }
    }

    fn says_broken(self) -> NodeSet {
        let rows = |node: &NodeId| self.reports.rows.get(node);
        let broken = |node: &NodeId| rows(node).is_some_and(|rows| rows.broken(self.network));
        self.reports.live.iter().filter(broken).collect()
    }

    /// Pairs of a set that do not hear each other both ways.
    fn broken_pairs(self, set: NodeSet) -> Vec<(NodeId, NodeId)> {
        let pairs = set.iter().flat_map(|a| set.iter().map(move |b| (a, b)));
        pairs.filter(|&(a, b)| a < b && !self.linked(a, b)).collect()
    }

    fn judge(self) -> NetworkVerdict {
        let live = self.reports.live;
        let broken = self.says_broken();
        let able = live.without(broken);
        let alone = |&a: &NodeId| !able.iter().any(|b| a != b && self.linked(a, b));
        let isolated: NodeSet = able.iter().filter(alone).collect();
        let rest = able.without(isolated);
        let mut verdict = NetworkVerdict {
            network: self.network,
            state: NetworkState::Up,
            why: String::new(),
            interfaces: BTreeMap::new(),
        };
        let mut note = |node: NodeId, state: InterfaceState, why: String| {
            verdict.interfaces.insert(node, InterfaceVerdict { state, why });
        };
        for &node in self.reports.nodes.keys().filter(|&&node| !live.contains(node)) {
            note(node, InterfaceState::Unavailable, format!("node {} is down", self.name(node)));
        }
        for node in broken.iter() {
            let why = "its node says that there is no carrier, interface or address";
            note(node, InterfaceState::Failed, why.into());
        }
        if live.len() < 2 {
            able.iter().for_each(|node| note(node, InterfaceState::Up, String::new()));
            verdict.state = NetworkState::Unavailable;
            verdict.why = "fewer than two nodes are up".into();
        } else if rest.is_empty() {
            for node in able.iter() {
                if able.len() < 2 {
                    note(node, InterfaceState::Up, String::new());
                } else {
                    let why = "no other node reaches it both ways".into();
                    note(node, InterfaceState::Unreachable, why);
                }
            }
            verdict.state = NetworkState::Down;
            verdict.why = self.why_down(able, broken);
        } else {
            for node in isolated.iter() {
                note(node, InterfaceState::Failed, self.why_isolated(node, able));
            }
            let pairs = self.broken_pairs(rest);
            for node in rest.iter() {
                let missed = self.missed(node, &pairs);
                if missed.is_empty() {
                    note(node, InterfaceState::Up, String::new());
                } else {
                    let why = format!("it does not reach {} both ways", self.names(missed));
                    note(node, InterfaceState::Unreachable, why);
                }
            }
            if !pairs.is_empty() {
                verdict.state = NetworkState::Partitioned;
                verdict.why = self.why_partitioned(rest, &pairs);
            }
        }
        verdict
    }

    /// With whom a node has a broken pair.
    fn missed(self, node: NodeId, pairs: &[(NodeId, NodeId)]) -> NodeSet {
        let other = |&(a, b): &(NodeId, NodeId)| match node {
            n if n == a => Some(b),
            n if n == b => Some(a),
            _ => None,
        };
        pairs.iter().filter_map(other).collect()
    }

    /// Which networks work for everybody, as a clause; empty if none does.
    fn while_others(self) -> String {
        let live = self.reports.live;
        let others = self.reports.networks.iter().filter(|&(&id, _)| id != self.network);
        let whole =
            others.filter(|&(&network, _)| One { network, ..self }.broken_pairs(live).is_empty());
        let names: Vec<String> = whole.map(|(_, name)| format!("'{name}'")).collect();
        if names.is_empty() {
            return String::new();
        }
        format!(" while all hear each other over {}", names.join(" and "))
    }

    fn why_down(self, able: NodeSet, broken: NodeSet) -> String {
        let others = self.while_others();
        if able.is_empty() {
            return format!(
                "the interfaces of all nodes are without carrier, gone or without address{others}: \
                 a switch common to all"
            );
        }
        if able.len() == 1 {
            let (left, broken) = (self.names(able), self.names(broken));
            return format!(
                "only the interface of {left} is whole: that of {broken} is broken{others}"
            );
        }
        let pairs = self.broken_pairs(able);
        let one_way = |&(a, b): &(NodeId, NodeId)| self.hears(a, b) || self.hears(b, a);
        if pairs.iter().any(one_way) {
            let pairs = self.name_pairs(&pairs);
            return format!("no two nodes hear each other both ways over it{others}: {pairs}");
        }
        let cause = match able.len() {
            2 => {
                "a switch or cable common to both, or the interface of either (with two nodes \
                  that cannot be told apart)"
            }
            _ => "a switch or cable common to all",
        };
        format!("no node hears another over it{others}: {cause}")
    }

    fn why_isolated(self, node: NodeId, able: NodeSet) -> String {
        let mut others = able;
        others.remove(node);
        let heard_by: NodeSet = others.iter().filter(|&other| self.hears(other, node)).collect();
        let hears: NodeSet = others.iter().filter(|&other| self.hears(node, other)).collect();
        let how = match (hears.is_empty(), heard_by.is_empty()) {
            (true, true) => "it hears nobody and nobody hears it".to_owned(),
            (true, false) => format!("it hears nobody, but {} hear it", self.names(heard_by)),
            (false, true) => format!("nobody hears it, but it hears {}", self.names(hears)),
            (false, false) => "nobody hears it whom it hears".to_owned(),
        };
        format!("{how}, while others hear each other over this network: its interface or cable")
    }

    fn why_partitioned(self, rest: NodeSet, pairs: &[(NodeId, NodeId)]) -> String {
        let parts = self.parts(rest);
        if parts.len() > 1 {
            let parts: Vec<String> = parts.into_iter().map(|part| self.names(part)).collect();
            return format!("the nodes fall apart into {}", parts.join(" | "));
        }
        self.name_pairs(pairs)
    }

    /// The connected parts of a set.
    fn parts(self, mut left: NodeSet) -> Vec<NodeSet> {
        let mut parts = Vec::new();
        while let Some(first) = left.iter().next() {
            let mut part = NodeSet::from_iter([first]);
            loop {
                let joins = |&n: &NodeId| part.iter().any(|p| p == n || self.linked(p, n));
                let grown: NodeSet = left.iter().filter(joins).collect();
                if grown == part {
                    break;
                }
                part = grown;
            }
            left = left.without(part);
            parts.push(part);
        }
        parts
    }

    /// Broken pairs in words, the first few of them.
    fn name_pairs(self, pairs: &[(NodeId, NodeId)]) -> String {
        let one = |&(a, b): &(NodeId, NodeId)| {
            let (x, y) = (self.name(a), self.name(b));
            match (self.hears(a, b), self.hears(b, a)) {
                (true, _) => format!("{y} does not hear {x}, though {x} hears {y}"),
                (_, true) => format!("{x} does not hear {y}, though {y} hears {x}"),
                _ => format!("{x} and {y} do not hear each other"),
            }
        };
        let named: Vec<String> = pairs.iter().take(PAIRS_NAMED).map(one).collect();
        let more = match pairs.len().saturating_sub(PAIRS_NAMED) {
            0 => String::new(),
            n => format!("; and {n} more pairs"),
        };
        format!("{}{more}", named.join("; "))
    }
}

#[cfg(test)]
mod tests;
