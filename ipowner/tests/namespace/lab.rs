//! Network namespaces for the tests: made here, used here, removed here. Nothing of the host's
//! network is touched.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns};
use socket2::{Domain, Socket, Type};
use wolfpack_ipowner::{Address, IpOwner, Mac};

/// Conditions are waited for this long; a machine under load is slow, not wrong.
const PATIENCE: Duration = Duration::from_secs(30);

const ECHO_PORT: u16 = 7007;

/// The address that moves.
pub(crate) const IP: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 5);

/// A switch in a namespace of its own, where the client lives too, and nodes around it.
#[derive(Debug)]
pub(crate) struct Lab {
    pub(crate) client: Namespace,
    pub(crate) nodes: Vec<Namespace>,
}

/// A network namespace, removed when dropped.
#[derive(Debug)]
pub(crate) struct Namespace(pub(crate) String);

/// Whether labs can be made; says loudly why not.
pub(crate) fn possible() -> bool {
    let root = nix::unistd::geteuid().is_root();
    let tool = |names: &[&str]| names.iter().any(|n| Path::new(n).exists());
    let missing = [
        (root, "root"),
        (tool(&["/usr/sbin/ip", "/sbin/ip", "/usr/bin/ip", "/bin/ip"]), "ip (iproute2)"),
        (tool(&["/usr/sbin/nft", "/sbin/nft"]), "nft (nftables)"),
    ]
    .into_iter()
    .find(|(there, _)| !there);
    if let Some((_, what)) = missing {
        eprintln!("SKIPPED: missing {what}");
    }
    missing.is_none()
}

impl Lab {
    /// A client with 10.77.0.1 and nodes with 10.77.0.11, .12, ... on `eth0`.
    pub(crate) fn new(nodes: u8) -> Self {
        let client = Namespace::new();
        client.ip("link add br0 type bridge");
        client.ip("link set br0 up");
        client.ip("addr add 10.77.0.1/24 dev br0");
        let nodes = (1..=nodes)
            .map(|n| {
                let node = Namespace::new();
                node.ip(&format!("link add eth0 type veth peer name port{n} netns {}", client.0));
                client.ip(&format!("link set port{n} master br0 up"));
                node.ip(&format!("addr add 10.77.0.1{n}/24 dev eth0"));
                node.ip("link set eth0 up");
                node
            })
            .collect();
        Self { client, nodes }
    }
}

impl Namespace {
    pub(crate) fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("wpip{}-{number}", std::process::id());
        ip(&format!("netns add {name}"));
        let made = Self(name);
        made.ip("link set lo up");
        made
    }

    /// Runs `ip` in this namespace.
    pub(crate) fn ip(&self, arguments: &str) -> String {
        ip(&format!("-n {} {arguments}", self.0))
    }

    /// Runs code on a thread that has entered this namespace.
    pub(crate) fn run<T: Send>(&self, code: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                self.enter();
                code()
            });
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// The hardware address of an interface.
    pub(crate) fn mac(&self, interface: &str) -> Mac {
        let text = self.ip(&format!("-o link show dev {interface}"));
        let mut words = text.split_whitespace().skip_while(|w| *w != "link/ether");
        let mac = words.nth(1).expect("a hardware address");
        let bytes: Vec<u8> =
            mac.split(':').map(|b| u8::from_str_radix(b, 16).expect("hexadecimal")).collect();
        Mac(bytes.try_into().expect("six bytes"))
    }

    /// Whom this namespace believes to have [`IP`].
    pub(crate) fn neighbour(&self) -> Option<String> {
        let text = self.ip(&format!("neigh show {IP}"));
        let mut words = text.split_whitespace().skip_while(|w| *w != "lladdr");
        words.nth(1).map(Into::into)
    }

    fn enter(&self) {
        let file = File::open(format!("/run/netns/{}", self.0)).expect("the namespace's file");
        setns(file, CloneFlags::CLONE_NEWNET).expect("setns");
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.0]).status();
    }
}

/// Answers datagrams in a namespace until dropped.
#[derive(Debug)]
pub(crate) struct Echo {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Echo {
    pub(crate) fn new(node: &Namespace) -> Self {
        // Bound to the address itself, here or not, so that answers come from it.
        let socket = node.run(|| bound(ECHO_PORT));
        socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut buffer = [0; 64];
            while !seen.load(Ordering::Relaxed) {
                if let Ok((length, from)) = socket.recv_from(&mut buffer) {
                    // The filter makes this fail with EPERM without a lease: that is its duty.
                    let _ = socket.send_to(&buffer[..length], from);
                }
            }
        });
        Self { stop, thread: Some(thread) }
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A socket of [`IP`], whether the address is here or not.
pub(crate) fn bound(port: u16) -> UdpSocket {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, None).unwrap();
    socket.set_freebind_v4(true).unwrap();
    socket.bind(&SocketAddr::from((IP, port)).into()).unwrap();
    let socket = UdpSocket::from(socket);
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

/// A socket of the client that asks [`IP`].
pub(crate) fn asker(client: &Namespace) -> UdpSocket {
    let socket = client.run(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap());
    socket.connect((IP, ECHO_PORT)).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    socket
}

/// Asks once; whether this very question was answered.
pub(crate) fn answers(socket: &UdpSocket, question: u64) -> bool {
    let asked = question.to_be_bytes();
    if socket.send(&asked).is_err() {
        return false; // "No route to host": ARP had no answer either.
    }
    let mut answer = [0; 64];
    loop {
        match socket.recv(&mut answer) {
            Ok(length) if answer[..length] == asked => return true,
            Ok(_) => {} // Late, to an earlier question.
            Err(_) => return false,
        }
    }
}

pub(crate) fn address() -> Address {
    Address::new(IP, 24, "eth0").unwrap()
}

/// An owner with its filter in place.
pub(crate) fn owner() -> IpOwner {
    let mut owner = IpOwner::new("wolfpack").unwrap();
    owner.prepare_filter().unwrap();
    owner
}

/// Waits until something is so.
#[track_caller]
pub(crate) fn wait(what: &str, mut so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !so() {
        assert!(start.elapsed() < PATIENCE, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn ip(arguments: &str) -> String {
    let output = Command::new("ip").args(arguments.split(' ')).output().expect("ip runs");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {arguments}: {errors}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}
