//! Drivers in network namespaces of their own: links that go down, interfaces that vanish and come
//! back, a stream that changes paths. Needs root and iproute2; without them it says so.

use std::fs::File;
use std::net::IpAddr;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant as StdInstant};

use crossbeam_channel::{Receiver, bounded};
use nix::sched::{CloneFlags, setns};
use wolfpack_netdrv::{
    ClusterKey, Driver, DriverConfig, DriverEvent, DriverNetwork, EventLoop, Security, start,
};
use wolfpack_types::heartbeat::{HeartbeatNotice, InterfaceChange, Reach};
use wolfpack_types::peer::Class;
use wolfpack_types::{Incarnation, NetworkId, NodeId, NodeInc, Rules, Times};

const PATIENCE: Duration = Duration::from_secs(60);

fn ip(arguments: &str) -> Result<String, String> {
    let run = Command::new("ip")
        .args(arguments.split_whitespace())
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("cannot run ip: {error}"))?;
    let said = String::from_utf8_lossy(&run.stderr);
    if run.status.success() {
        Ok(String::from_utf8_lossy(&run.stdout).into_owned())
    } else {
        Err(format!("ip {arguments}: {said}"))
    }
}

/// Two namespaces with a pair of virtual links between them; gone when dropped.
struct Lab {
    names: [String; 2],
    event_loop: EventLoop,
    kind: Kind,
}

/// What kind of addresses the networks have.
#[derive(Clone, Copy)]
enum Kind {
    V4,
    /// Network 0 has unique local addresses, network 1 has link-local ones.
    V6,
}

impl Kind {
    fn address(self, network: u8, n: u8) -> IpAddr {
        let text = match (self, network) {
            (Self::V4, _) => format!("10.77.{network}.{n}"),
            (Self::V6, 0) => format!("fd77::{n}"),
            (Self::V6, _) => format!("fe80::77:{n}"),
        };
        text.parse().unwrap()
    }

    fn prefix(self) -> &'static str {
        match self {
            Self::V4 => "/24",
            Self::V6 => "/64 nodad",
        }
    }
}

impl Lab {
    fn new(event_loop: EventLoop, kind: Kind) -> Result<Self, String> {
        static LABS: AtomicU32 = AtomicU32::new(0);
        let lab = LABS.fetch_add(1, Ordering::Relaxed);
        let names = ["a", "b"].map(|side| format!("wpn{}x{lab}{side}", std::process::id()));
        let lab = Self { names, event_loop, kind };
        for name in &lab.names {
            ip(&format!("netns add {name}"))?;
            ip(&format!("-n {name} link set lo up"))?;
        }
        for network in 0..2 {
            lab.connect(network)?;
        }
        for name in &lab.names {
            // The kernel tells of carriers late, and of two changes within a second as of one.
            for network in 0..2 {
                let end = StdInstant::now() + PATIENCE;
                while !ip(&format!("-n {name} -o link show net{network}"))?.contains("state UP") {
                    if StdInstant::now() > end {
                        return Err(format!("net{network} of {name} has no carrier"));
                    }
                    std::thread::sleep(Duration::from_millis(20));
                }
            }
        }
        Ok(lab)
    }

    /// None, and said loudly, where there are no network namespaces.
    fn or_said(event_loop: EventLoop, kind: Kind) -> Option<Self> {
        Self::new(event_loop, kind)
            .inspect_err(|missing| eprintln!("SKIPPED: no network namespaces here: {missing}"))
            .ok()
    }

    /// Runs `ip` inside a node.
    fn ip(&self, n: u8, arguments: &str) {
        ip(&format!("-n {} {arguments}", self.names[usize::from(n) - 1])).unwrap();
    }

    fn connect(&self, network: u8) -> Result<(), String> {
        let [a, b] = &self.names;
        ip(&format!("-n {a} link add net{network} type veth peer name net{network} netns {b}"))?;
        for (n, name) in self.names.iter().enumerate() {
            let n = u8::try_from(n + 1).unwrap();
            let address = format!("{}{}", self.kind.address(network, n), self.kind.prefix());
            let (address, nodad) = address.split_once(' ').unwrap_or((&address, ""));
            ip(&format!("-n {name} addr add {address} dev net{network} {nodad}"))?;
            ip(&format!("-n {name} link set net{network} up"))?;
        }
        Ok(())
    }

    /// Starts a driver inside; its thread inherits the namespace.
    fn start(&self, n: u8) -> Node {
        let file = File::open(format!("/run/netns/{}", self.names[usize::from(n) - 1])).unwrap();
        let config = config(n, self.event_loop, self.kind);
        std::thread::spawn(move || {
            setns(file, CloneFlags::CLONE_NEWNET).unwrap();
            let (notify, events) = bounded(1000);
            let driver = start(config, Box::new(|_| {}), notify).unwrap();
            Node { driver, events }
        })
        .join()
        .unwrap()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let router = router(self);
        let made = std::path::Path::new("/run/netns").join(&router).exists();
        for name in self.names.iter().chain(made.then_some(&router)) {
            if let Err(error) = ip(&format!("netns del {name}")) {
                eprintln!("{error}");
            }
        }
    }
}

fn node(n: u8) -> NodeId {
    NodeId::new(n).unwrap()
}

fn config(n: u8, event_loop: EventLoop, kind: Kind) -> DriverConfig {
    let network = |id: u8| DriverNetwork {
        id: NetworkId(id),
        name: format!("net{id}"),
        interface: format!("net{id}"),
        address: kind.address(id, n),
        peers: [1, 2].map(|n| (node(n), kind.address(id, n))).into(),
        priority: id,
    };
    DriverConfig {
        me: NodeInc::new(node(n), Incarnation(1)),
        key: ClusterKey::from_bytes([3; 32]),
        times: Times::STANDARD,
        port: 3343,
        networks: vec![network(0), network(1)],
        realtime: false,
        event_loop,
        rules: Rules::ALL,
        security: Security::default(),
    }
}

struct Node {
    driver: Driver,
    events: Receiver<DriverEvent>,
}

impl Node {
    /// Waits for an event. A change of reach that nobody waits for is a failure.
    fn until(&self, what: &str, wanted: impl Fn(&DriverEvent) -> bool) {
        let end = StdInstant::now() + PATIENCE;
        while StdInstant::now() < end {
            // This core lives, whether there are events or not.
            self.driver.core_alive();
            let Ok(event) = self.events.recv_timeout(Duration::from_millis(100)) else { continue };
            if wanted(&event) {
                return;
            }
            let lost = matches!(
                event,
                DriverEvent::Heartbeat(HeartbeatNotice::Reach { reach: Reach::Unreachable, .. })
            );
            assert!(!lost, "{what}: the peer was lost, though a path was left");
        }
        panic!("never came: {what}");
    }

    fn until_path(&self, network: u8, wanted: bool) {
        self.until(&format!("path {network} {wanted}"), |event| match event {
            DriverEvent::Heartbeat(HeartbeatNotice::Path { network: n, up, .. }) => {
                n.0 == network && *up == wanted
            }
            _ => false,
        });
    }

    fn until_interface(&self, network: u8, wanted: InterfaceChange) {
        self.until(&format!("{wanted:?} on network {network}"), |event| match event {
            DriverEvent::Heartbeat(HeartbeatNotice::Interface { network: n, change }) => {
                n.0 == network && *change == wanted
            }
            _ => false,
        });
    }

    fn until_message(&self, expected: &[u8]) {
        self.until("a message", |event| match event {
            DriverEvent::Message { bytes, .. } => {
                assert_eq!(bytes, expected);
                true
            }
            _ => false,
        });
    }
}

fn links_fail_and_come_back_and_nothing_is_lost(event_loop: EventLoop) {
    let Some(lab) = Lab::or_said(event_loop, Kind::V4) else { return };
    let (one, two) = (lab.start(1), lab.start(2));
    for node in [&one, &two] {
        node.until_path(1, true);
    }
    // The link of the best path goes down: messages go on over the other before it is noticed.
    ip(&format!("-n {} link set net0 down", lab.names[0])).unwrap();
    one.driver.send(node(2), Class::Control, vec![1; 100_000]).unwrap();
    two.until_message(&[1; 100_000]);
    one.until_path(0, false);
    two.until_path(0, false);
    ip(&format!("-n {} link set net0 up", lab.names[0])).unwrap();
    one.until_path(0, true);
    two.until_path(0, true);
    // The interface itself goes, on both sides, and another of the same name comes.
    ip(&format!("-n {} link del net0", lab.names[0])).unwrap();
    for node in [&one, &two] {
        node.until("the loss of the interface", |event| {
            matches!(event, DriverEvent::BindFailed { network: NetworkId(0), .. })
        });
    }
    two.driver.send(node(1), Class::Control, vec![2; 100_000]).unwrap();
    one.until_message(&[2; 100_000]);
    lab.connect(0).unwrap();
    for node in [&one, &two] {
        node.until("the interface", |event| *event == DriverEvent::Bound { network: NetworkId(0) });
    }
    // Its path may never have been taken for lost meanwhile. And now the other goes, so that the new
    // one must carry.
    ip(&format!("-n {} link set net1 down", lab.names[1])).unwrap();
    one.until_path(1, false);
    two.driver.send(node(1), Class::Control, vec![3; 100_000]).unwrap();
    one.until_message(&[3; 100_000]);
}

fn a_cluster_of_ipv6_alone_works(event_loop: EventLoop) {
    let Some(lab) = Lab::or_said(event_loop, Kind::V6) else { return };
    let (one, two) = (lab.start(1), lab.start(2));
    for node in [&one, &two] {
        node.until_path(1, true);
    }
    one.driver.send(node(2), Class::Control, vec![1; 100_000]).unwrap();
    two.until_message(&[1; 100_000]);
    // Over the link-local one alone.
    lab.ip(1, "link set net0 down");
    one.until_path(0, false);
    two.driver.send(node(1), Class::Control, vec![2; 100_000]).unwrap();
    one.until_message(&[2; 100_000]);
}

fn what_befalls_an_interface_is_told_at_once(event_loop: EventLoop) {
    let Some(lab) = Lab::or_said(event_loop, Kind::V4) else { return };
    let (one, two) = (lab.start(1), lab.start(2));
    for node in [&one, &two] {
        node.until_path(1, true);
    }
    lab.ip(2, "link set net0 down");
    one.until_interface(0, InterfaceChange::LinkLost);
    two.until_interface(0, InterfaceChange::LinkLost);
    lab.ip(2, "link set net0 up");
    one.until_interface(0, InterfaceChange::LinkBack);
    two.until_interface(0, InterfaceChange::LinkBack);
    // Another address, and the right one again.
    lab.ip(1, "addr add 10.99.0.1/24 dev net1");
    lab.ip(1, "addr del 10.77.1.1/24 dev net1");
    one.until_interface(1, InterfaceChange::AddressLost);
    one.until("no socket", |event| match event {
        DriverEvent::BindFailed { network: NetworkId(1), error } => {
            assert!(error.contains("10.77.1.1"), "{error}");
            true
        }
        _ => false,
    });
    one.until_path(1, false);
    two.until_path(1, false);
    two.driver.send(node(1), Class::Control, vec![5; 50_000]).unwrap();
    one.until_message(&[5; 50_000]);
    lab.ip(1, "addr add 10.77.1.1/24 dev net1");
    one.until_interface(1, InterfaceChange::AddressBack);
    one.until_path(1, true);
    two.until_path(1, true);
    // Gone, and another of the same name.
    lab.ip(1, "link del net1");
    one.until_interface(1, InterfaceChange::Gone);
    two.until_interface(1, InterfaceChange::Gone);
    lab.connect(1).unwrap();
    one.until_interface(1, InterfaceChange::Appeared);
    one.until("a socket", |event| *event == DriverEvent::Bound { network: NetworkId(1) });
}

fn narrow_links_are_kept_to(event_loop: EventLoop) {
    for kind in [Kind::V4, Kind::V6] {
        let Some(lab) = Lab::or_said(event_loop, kind) else { return };
        // One network is narrow from the beginning, the other becomes it.
        for n in [1, 2] {
            lab.ip(n, "link set net0 mtu 1280");
        }
        let (one, two) = (lab.start(1), lab.start(2));
        for node in [&one, &two] {
            node.until_path(0, true);
        }
        one.driver.send(node(2), Class::Control, vec![1; 100_000]).unwrap();
        two.until_message(&[1; 100_000]);
        for n in [1, 2] {
            lab.ip(n, "link set net1 mtu 1280");
        }
        lab.ip(1, "link set net0 down");
        one.until_path(0, false);
        two.driver.send(node(1), Class::Control, vec![2; 100_000]).unwrap();
        one.until_message(&[2; 100_000]);
    }
}

fn router(lab: &Lab) -> String {
    format!("{}r", lab.names[0])
}

/// Puts a router between the nodes, on network 0; its link to node 2 is narrow, which node 1 can
/// only learn by an ICMP error.
fn route(lab: &Lab) -> Result<(), String> {
    let [a, b] = &lab.names;
    let router = router(lab);
    ip(&format!("-n {a} link del net0"))?;
    ip(&format!("-n {a} link del net1"))?;
    ip(&format!("netns add {router}"))?;
    ip(&format!("netns exec {router} sysctl -qw net.ipv4.ip_forward=1"))?;
    for (name, n, other) in [(a, 1, 2), (b, 2, 1)] {
        ip(&format!("-n {name} link add net0 type veth peer name to{n} netns {router}"))?;
        ip(&format!("-n {name} addr add 10.77.0.{n}/32 dev net0"))?;
        ip(&format!("-n {name} addr add 10.78.{n}.1/24 dev net0"))?;
        ip(&format!("-n {name} link set net0 up"))?;
        ip(&format!("-n {name} route add 10.77.0.{other}/32 via 10.78.{n}.2 src 10.77.0.{n}"))?;
        ip(&format!("-n {router} addr add 10.78.{n}.2/24 dev to{n}"))?;
        ip(&format!("-n {router} link set to{n} up"))?;
        ip(&format!("-n {router} route add 10.77.0.{n}/32 via 10.78.{n}.1"))?;
    }
    ip(&format!("-n {router} link set to2 mtu 1300"))?;
    ip(&format!("-n {b} link set net0 mtu 1300"))?;
    Ok(())
}

fn a_path_that_is_narrower_than_its_interface_is_learned_of(event_loop: EventLoop) {
    let Some(lab) = Lab::or_said(event_loop, Kind::V4) else { return };
    let router = route(&lab);
    let (one, two) = (lab.start(1), lab.start(2));
    for node in [&one, &two] {
        node.until_path(0, true);
    }
    one.driver.send(node(2), Class::Control, vec![1; 200_000]).unwrap();
    two.until_message(&[1; 200_000]);
    two.driver.send(node(1), Class::Control, vec![2; 200_000]).unwrap();
    one.until_message(&[2; 200_000]);
    router.unwrap();
    // That the way was narrow indeed.
    let says = ip(&format!("-n {} route get 10.77.0.2", lab.names[0])).unwrap();
    assert!(says.contains("mtu 1300"), "{says}");
}

/// The same tests under both event loops.
macro_rules! under_both_loops {
    ($($name:ident),* $(,)?) => {
        mod uring {
            $(#[test] fn $name() { super::$name(super::EventLoop::Uring); })*
        }
        mod epoll {
            $(#[test] fn $name() { super::$name(super::EventLoop::Epoll); })*
        }
    };
}

under_both_loops!(
    links_fail_and_come_back_and_nothing_is_lost,
    a_cluster_of_ipv6_alone_works,
    what_befalls_an_interface_is_told_at_once,
    narrow_links_are_kept_to,
    a_path_that_is_narrower_than_its_interface_is_learned_of,
);
