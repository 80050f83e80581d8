//! What dead switches, cables, interfaces and nodes look like, and that the judge can be trusted.

use proptest::prelude::*;

use super::*;

const PRIVATE: NetworkId = NetworkId(0);
const PUBLIC: NetworkId = NetworkId(1);

fn node(n: u8) -> NodeId {
    NodeId::new(n).unwrap()
}

/// Nodes a, b, c ... on two networks.
struct Lab {
    networks: BTreeMap<NetworkId, String>,
    nodes: BTreeMap<NodeId, String>,
    live: NodeSet,
    rows: BTreeMap<NodeId, NetworkRows>,
}

impl Lab {
    /// Everybody hears everybody.
    fn new(count: u8) -> Self {
        let name = |n: u8| char::from(b'a' + n - 1).to_string();
        let nodes: BTreeMap<NodeId, String> = (1..=count).map(|n| (node(n), name(n))).collect();
        let live: NodeSet = nodes.keys().copied().collect();
        let mut rows: BTreeMap<NodeId, NetworkRows> = BTreeMap::new();
        for a in live.iter() {
            rows.entry(a).or_default();
            for b in live.iter().filter(|&b| b != a) {
                for network in [PRIVATE, PUBLIC] {
                    rows.entry(a).or_default().set(network, b, true);
                }
            }
        }
        let networks = [(PRIVATE, "private"), (PUBLIC, "public")];
        let networks = networks.map(|(id, name)| (id, name.to_owned())).into();
        Self { networks, nodes, live, rows }
    }

    /// `to` no longer hears `from` on the private network.
    fn deafen(&mut self, to: u8, from: u8) {
        self.rows.get_mut(&node(to)).unwrap().set(PRIVATE, node(from), false);
    }

    fn cut(&mut self, a: u8, b: u8) {
        self.deafen(a, b);
        self.deafen(b, a);
    }

    fn cut_off(&mut self, a: u8) {
        for b in self.live.iter().map(NodeId::get).filter(|&b| b != a).collect::<Vec<_>>() {
            self.cut(a, b);
        }
    }

    fn break_interface(&mut self, a: u8) {
        self.cut_off(a);
        self.rows.get_mut(&node(a)).unwrap().set_broken(PRIVATE, true);
    }

    fn die(&mut self, a: u8) {
        self.live.remove(node(a));
        self.rows.remove(&node(a));
    }

    fn judge(&self) -> Vec<NetworkVerdict> {
        let Self { networks, nodes, live, rows } = self;
        judge(&Reports { networks, nodes, live: *live, rows })
    }

    /// The verdict on the private network: its state, and the interfaces' by a letter each.
    fn private(&self) -> (NetworkState, String, String) {
        let all = self.judge();
        assert_eq!(
            all[1].state,
            if self.live.len() < 2 { NetworkState::Unavailable } else { NetworkState::Up }
        );
        let letter = |v: &InterfaceVerdict| match v.state {
            InterfaceState::Up => 'U',
            InterfaceState::Unreachable => 'r',
            InterfaceState::Failed => 'F',
            InterfaceState::Unavailable => '-',
        };
        (all[0].state, all[0].interfaces.values().map(letter).collect(), all[0].why.clone())
    }

    fn why(&self, a: u8) -> String {
        self.judge()[0].interfaces[&node(a)].why.clone()
    }
}

#[test]
fn a_whole_network_is_up_without_reasons() {
    let (state, interfaces, why) = Lab::new(3).private();
    assert_eq!((state, interfaces.as_str(), why.as_str()), (NetworkState::Up, "UUU", ""));
}

#[test]
fn a_dead_switch_is_the_networks_fault() {
    let mut lab = Lab::new(3);
    (1..=3).for_each(|n| lab.cut_off(n));
    let (state, interfaces, why) = lab.private();
    assert_eq!((state, interfaces.as_str()), (NetworkState::Down, "rrr"));
    assert_eq!(
        why,
        "no node hears another over it while all hear each other over 'public': a switch or cable \
         common to all"
    );
    // A switch without power takes the carriers with it.
    (1..=3).for_each(|n| lab.break_interface(n));
    let (state, interfaces, why) = lab.private();
    assert_eq!((state, interfaces.as_str()), (NetworkState::Down, "FFF"));
    assert!(why.contains("a switch common to all"), "{why}");
}

#[test]
fn a_dead_interface_is_its_nodes_fault() {
    let mut lab = Lab::new(3);
    lab.cut_off(2);
    let (state, interfaces, _) = lab.private();
    assert_eq!((state, interfaces.as_str()), (NetworkState::Up, "UFU"));
    let why = lab.why(2);
    assert!(why.starts_with("it hears nobody and nobody hears it"), "{why}");
    let mut deaf = Lab::new(3);
    deaf.deafen(2, 1);
    deaf.deafen(2, 3);
    assert_eq!(deaf.private().1, "UFU");
    assert!(deaf.why(2).starts_with("it hears nobody, but a and c hear it"), "{}", deaf.why(2));
}

#[test]
fn a_dead_node_is_neither() {
    let mut lab = Lab::new(3);
    lab.die(3);
    let (state, interfaces, why) = lab.private();
    assert_eq!((state, interfaces.as_str(), why.as_str()), (NetworkState::Up, "UU-", ""));
    assert_eq!(lab.why(3), "node c is down");
    lab.die(2);
    assert_eq!(lab.private().0, NetworkState::Unavailable);
    assert_eq!(lab.private().1, "U--");
}

#[test]
fn with_two_nodes_the_one_that_says_so_is_to_blame_and_otherwise_nobody() {
    let mut lab = Lab::new(2);
    lab.cut(1, 2);
    let (state, interfaces, why) = lab.private();
    assert_eq!((state, interfaces.as_str()), (NetworkState::Down, "rr"));
    assert!(why.contains("cannot be told apart"), "{why}");
    lab.break_interface(2);
    let (state, interfaces, why) = lab.private();
    assert_eq!((state, interfaces.as_str()), (NetworkState::Down, "UF"));
    assert!(why.contains("that of b is broken"), "{why}");
}

#[test]
fn one_direction_that_is_lost_is_named() {
    let mut lab = Lab::new(2);
    lab.deafen(2, 1);
    let (state, _, why) = lab.private();
    assert_eq!(state, NetworkState::Down);
    assert!(why.ends_with("b does not hear a, though a hears b"), "{why}");
    let mut lab = Lab::new(4);
    lab.deafen(3, 2);
    let (state, interfaces, why) = lab.private();
    assert_eq!((state, interfaces.as_str()), (NetworkState::Partitioned, "UrrU"));
    assert_eq!(why, "c does not hear b, though b hears c");
}

#[test]
fn a_split_switch_is_a_partition_in_named_parts() {
    let mut lab = Lab::new(5);
    for (a, b) in [1, 2].into_iter().flat_map(|a| [3, 4, 5].map(|b| (a, b))) {
        lab.cut(a, b);
    }
    let (state, interfaces, why) = lab.private();
    assert_eq!((state, interfaces.as_str()), (NetworkState::Partitioned, "rrrrr"));
    assert_eq!(why, "the nodes fall apart into a and b | c, d and e");
}

#[test]
fn explanations_are_bounded() {
    let mut lab = Lab::new(20);
    for a in 2..20 {
        lab.cut(a, a + 1);
    }
    let (state, _, why) = lab.private();
    assert_eq!(state, NetworkState::Partitioned);
    assert!(why.ends_with("; and 15 more pairs"), "{why}");
}

proptest! {
    /// Whatever is reported, true or not: every configured node has a state, nobody is blamed who
    /// reaches everybody, and the state of the network is that of its interfaces.
    #[test]
    fn states_agree_with_each_other(
        count in 1..7_u8,
        dead in 0..64_u8,
        broken in 0..64_u8,
        deaf in proptest::collection::vec((1..7_u8, 1..7_u8), 0..20),
    ) {
        let mut lab = Lab::new(count);
        for (a, b) in deaf.into_iter().filter(|&(a, b)| a <= count && b <= count) {
            lab.deafen(a, b);
        }
        for n in (1..=count).filter(|n| broken >> (n - 1) & 1 == 1) {
            lab.rows.get_mut(&node(n)).unwrap().set_broken(PRIVATE, true);
        }
        for n in (1..=count).filter(|n| dead >> (n - 1) & 1 == 1) {
            lab.die(n);
        }
        let verdict = lab.judge().remove(0);
        let of = |wanted| verdict.interfaces.values().filter(|v| v.state == wanted).count();
        prop_assert_eq!(verdict.interfaces.len(), usize::from(count));
        prop_assert_eq!(of(InterfaceState::Unavailable), usize::from(count) - lab.live.len());
        match verdict.state {
            NetworkState::Up => {
                prop_assert!(verdict.why.is_empty());
                prop_assert_eq!(of(InterfaceState::Unreachable), 0);
                prop_assert!(of(InterfaceState::Up) >= 2);
            }
            NetworkState::Partitioned => prop_assert!(of(InterfaceState::Unreachable) >= 2),
            NetworkState::Down => prop_assert!(of(InterfaceState::Up) <= 1),
            NetworkState::Unavailable => prop_assert!(lab.live.len() < 2),
        }
        for (id, v) in &verdict.interfaces {
            prop_assert_eq!(v.why.is_empty(), v.state == InterfaceState::Up);
            if v.state == InterfaceState::Failed && !lab.rows[id].broken(PRIVATE) {
                let one = lab.live.iter().any(|other| {
                    lab.rows[&other].row(PRIVATE).contains(*id) && lab.rows[id].row(PRIVATE).contains(other)
                        && !lab.rows[&other].broken(PRIVATE)
                });
                prop_assert!(!one, "failed, but heard");
            }
        }
    }
}
