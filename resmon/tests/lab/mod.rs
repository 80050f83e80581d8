//! A node for the tests: two network namespaces joined by a veth pair (node and peer), a run
//! directory, a real guard, and this test in the place of the service.
//!
//! Everything is ended by process id or by the guard itself, also when a test panics.
#![allow(dead_code, unreachable_pub, reason = "each test program uses its part of it")]

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::UdpSocket;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use wolfpack_netdrv::ClusterKey;
use wolfpack_resource::boottime;
use wolfpack_resource::rpc::Channel;
use wolfpack_resource::section::LeaseWriter;
use wolfpack_types::monitor::{
    GuardCommand, GuardEvent, MONITOR_PROTOCOL, MonitorCommand, MonitorEvent, OnlineMode,
    ResourceSpec,
};
use wolfpack_types::objects::{Policy, ResourceType};
use wolfpack_types::{Guid, Incarnation, NodeId, NodeInc, ResourceId};

/// Longer than anything takes on a machine that is very busy; never reached when all is well.
pub const LONG: Duration = Duration::from_secs(30);

pub const LEASE: Duration = Duration::from_secs(2);

/// Waits until it holds.
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let until = Instant::now() + LONG;
    while !holds() {
        assert!(Instant::now() < until, "never: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn run(program: &str, args: &[&str]) {
    let out = Command::new(program).args(args).output().unwrap_or_else(|e| {
        panic!("cannot run {program}: {e}");
    });
    assert!(out.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&out.stderr));
}

/// Says loudly why the tests cannot run; they need root and these programs.
pub fn can_run() -> bool {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("SKIPPED: needs root (network namespaces)");
        return false;
    }
    for program in ["ip", "nft", "nsenter", "setpriv"] {
        let found = ["/usr/bin", "/usr/sbin", "/bin", "/sbin"]
            .iter()
            .any(|dir| Path::new(dir).join(program).exists());
        if !found {
            eprintln!("SKIPPED: missing {program}");
            return false;
        }
    }
    true
}

/// A blocking call that a signal may interrupt although the test handles none (the machine may be
/// frozen and thawed as a whole).
pub fn uninterrupted<T>(mut act: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match act() {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

static COUNT: AtomicU32 = AtomicU32::new(0);

pub struct Lab {
    pub dir: tempfile::TempDir,
    node_ns: String,
    peer_ns: String,
    cgroups: bool,
    pub guard: Option<Child>,
}

impl Lab {
    /// With a running guard.
    pub fn new() -> Self {
        let mut lab = Self::without_guard(true);
        lab.start_guard();
        lab
    }

    /// `cgroups`: whether the guard sees the machine's cgroup file system.
    pub fn without_guard(cgroups: bool) -> Self {
        let name = format!("{}n{}", std::process::id(), COUNT.fetch_add(1, Ordering::SeqCst));
        let (node_ns, peer_ns) = (format!("wpm{name}a"), format!("wpm{name}b"));
        for ns in [&node_ns, &peer_ns] {
            run("ip", &["netns", "add", ns]);
            run("ip", &["-n", ns, "link", "set", "lo", "up"]);
        }
        let lab =
            Self { dir: tempfile::tempdir().unwrap(), node_ns, peer_ns, cgroups, guard: None };
        let (node, peer) = (lab.node_ns.as_str(), lab.peer_ns.as_str());
        run("ip", &["-n", node, "link", "add", "v0", "type", "veth", "peer", "v1", "netns", peer]);
        for (ns, link, address) in [(node, "v0", "10.77.0.1/24"), (peer, "v1", "10.77.0.2/24")] {
            run("ip", &["-n", ns, "addr", "add", address, "dev", link]);
            run("ip", &["-n", ns, "link", "set", link, "up"]);
        }
        let key = lab.path("key");
        fs::write(&key, format!("{}\n", "5a".repeat(32))).unwrap();
        fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
        let text = format!(
            "node = 'a'\ncluster_key = '{}'\nrun_dir = '{}'\nstate_dir = '{}'\n\
             quorum = 'node-and-disk'\n[witness]\ndisk = '/dev/none'\n\
             [[network]]\nname = 'net'\ninterface = 'v0'\n\
             [[peer]]\nid = 1\nname = 'a'\naddresses = {{ net = '10.77.0.1' }}\n\
             [[peer]]\nid = 2\nname = 'b'\naddresses = {{ net = '10.77.0.2' }}\n",
            key.display(),
            lab.run_dir().display(),
            lab.path("state").display(),
        );
        fs::write(lab.path("config"), text).unwrap();
        lab
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn run_dir(&self) -> PathBuf {
        self.path("run")
    }

    /// The guard's command line: in the node's network, dying with the thread that starts it.
    /// `ip netns exec` also gives a /sys of its own, without cgroups.
    pub fn guard_command(&self) -> Command {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL"]);
        if self.cgroups {
            command.arg("nsenter").arg(format!("--net=/run/netns/{}", self.node_ns));
        } else {
            command.args(["ip", "netns", "exec", &self.node_ns]);
        }
        command.arg(env!("CARGO_BIN_EXE_wolfpack-resmon"));
        command.arg("--guard").arg("--config").arg(self.path("config"));
        command
    }

    pub fn start_guard(&mut self) {
        let path = self.path("guard.log");
        let log = fs::OpenOptions::new().create(true).append(true).open(path).unwrap();
        self.start_guard_with(log.into());
    }

    /// With another place for its log.
    pub fn start_guard_with(&mut self, log: Stdio) {
        assert!(self.guard.is_none());
        let mut command = self.guard_command();
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        self.guard = Some(command.spawn().unwrap());
        // A socket file of a killed guard is there before the new one listens.
        eventually("the guard listens", || {
            Channel::<GuardCommand, GuardEvent>::connect(&self.socket()).is_ok()
        });
    }

    pub fn socket(&self) -> PathBuf {
        self.run_dir().join("guard.sock")
    }

    pub fn signal_guard(&self, signal: Signal) {
        let pid = self.guard.as_ref().unwrap().id();
        kill(Pid::from_raw(pid.try_into().unwrap()), signal).unwrap();
    }

    pub fn wait_guard(&mut self) -> std::process::ExitStatus {
        self.guard.take().unwrap().wait().unwrap()
    }

    pub fn kill_guard(&mut self) {
        self.signal_guard(Signal::SIGKILL);
        self.wait_guard();
    }

    pub fn peer_ns(&self) -> &str {
        &self.peer_ns
    }

    /// Runs something in a thread in the peer's network; sockets made there stay there.
    pub fn in_peer_network<T: Send + 'static>(
        &self,
        act: impl FnOnce() -> T + Send + 'static,
    ) -> T {
        let path = format!("/run/netns/{}", self.peer_ns);
        let enter = move || {
            let ns = fs::File::open(path).unwrap();
            setns(ns.as_fd(), CloneFlags::CLONE_NEWNET).unwrap();
            act()
        };
        std::thread::spawn(enter).join().unwrap()
    }

    /// A socket of the peer's cluster port.
    pub fn peer_socket(&self) -> UdpSocket {
        let socket = self.in_peer_network(|| UdpSocket::bind("10.77.0.2:3343").unwrap());
        socket.set_read_timeout(Some(LONG)).unwrap();
        socket
    }

    pub fn key(&self) -> ClusterKey {
        ClusterKey::load(&self.path("key")).unwrap()
    }

    fn output(ns: &str, program: &[&str]) -> String {
        let out = Command::new("ip").args(["netns", "exec", ns]).args(program).output().unwrap();
        String::from_utf8_lossy(&out.stdout).into_owned()
    }

    /// In the node's network.
    pub fn in_node(&self, program: &[&str]) -> String {
        Self::output(&self.node_ns, program)
    }

    /// In the peer's network.
    pub fn in_peer(&self, program: &[&str]) -> String {
        Self::output(&self.peer_ns, program)
    }

    pub fn has_address(&self, ip: &str) -> bool {
        self.in_node(&["ip", "-4", "addr"]).contains(&format!("inet {ip}/"))
    }

    /// Whether the kernel lets packets of the address pass.
    pub fn has_lease(&self, ip: &str) -> bool {
        self.in_node(&["nft", "list", "set", "inet", "wolfpack", "leased"]).contains(ip)
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.path("guard.log")).unwrap_or_default()
    }

    /// A shell as application, with the lab's directory as its own.
    pub fn application(&self, n: u128, script: &str) -> ResourceSpec {
        let command = format!("/bin/sh -c '{script}'");
        let directory = self.dir.path().display().to_string();
        spec(
            n,
            ResourceType::GenericApplication,
            &[("command", &command), ("directory", &directory)],
        )
    }

    /// The process id that an application has written to a file.
    pub fn pid_in(&self, file: &str) -> i32 {
        let mut pid = None;
        eventually(&format!("a process id in {file}"), || {
            let text = fs::read_to_string(self.path(file)).unwrap_or_default();
            pid = text.strip_suffix('\n').and_then(|t| t.parse().ok());
            pid.is_some()
        });
        pid.unwrap()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let cgroups_used = !self.log().contains("no cgroup for it");
        assert!(cgroups_used || std::thread::panicking(), "{}", self.log());
        if std::thread::panicking() || std::env::var_os("LAB_LOG").is_some() {
            eprintln!("--- the guard's log:\n{}", self.log());
        }
        // The guard ends what runs; if the test killed it, a new one does.
        if self.guard.is_none() {
            self.guard = self.guard_command().stderr(Stdio::null()).spawn().ok();
            std::thread::sleep(Duration::from_millis(200));
        }
        if let Some(mut guard) = self.guard.take() {
            let pid = Pid::from_raw(i32::try_from(guard.id()).unwrap_or(0));
            let _ = kill(pid, Signal::SIGCONT);
            let _ = kill(pid, Signal::SIGTERM);
            let until = Instant::now() + Duration::from_secs(10);
            while Instant::now() < until && matches!(guard.try_wait(), Ok(None)) {
                std::thread::sleep(Duration::from_millis(10));
            }
            let _ = guard.kill();
            let _ = guard.wait();
        }
        for ns in [&self.node_ns, &self.peer_ns] {
            let _ = Command::new("ip").args(["netns", "del", ns]).status();
        }
    }
}

/// Whether a process runs (a zombie does not).
pub fn runs(pid: i32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat.rsplit(')').next().unwrap_or_default().starts_with(" Z"))
}

pub fn spec(n: u128, kind: ResourceType, properties: &[(&str, &str)]) -> ResourceSpec {
    // Guids of tests that run side by side must differ: processes are found by them.
    let unique = u128::from(std::process::id()) << 64 | u128::from(nanos()) << 16 | n;
    let properties: BTreeMap<String, String> =
        properties.iter().map(|&(k, v)| (k.into(), v.into())).collect();
    ResourceSpec {
        id: ResourceId(Guid(unique)),
        name: format!("r{n}"),
        group: "web".into(),
        kind,
        properties,
        policy: Policy { looks_alive_ms: 100, is_alive_ms: 500, ..Policy::default() },
    }
}

fn nanos() -> u32 {
    std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().subsec_nanos()
}

pub fn life(inc: u64) -> NodeInc {
    NodeInc::new(NodeId::new(1).unwrap(), Incarnation(inc))
}

/// The test in the place of the service.
pub struct Service {
    pub channel: Channel<GuardCommand, GuardEvent>,
    pub section: OwnedFd,
    pub writer: Arc<LeaseWriter>,
    heart: Arc<AtomicBool>,
    beating: Option<JoinHandle<()>>,
}

/// Asks to attach and takes the answer.
pub fn ask_to_attach(lab: &Lab, me: NodeInc) -> Result<Service, String> {
    let channel = Channel::<GuardCommand, GuardEvent>::connect(&lab.socket()).unwrap();
    let command = GuardCommand::Attach { version: MONITOR_PROTOCOL, me, margin_ms: 500 };
    channel.send(&command, LONG).unwrap();
    let mut answer = channel.recv(Some(LONG)).unwrap().expect("an answer");
    match answer.message {
        GuardEvent::Attached { .. } => {
            let section = answer.fds.remove(0);
            let writer = Arc::new(LeaseWriter::open(section.as_fd(), me).unwrap());
            let heart = Arc::new(AtomicBool::new(false));
            Ok(Service { channel, section, writer, heart, beating: None })
        }
        GuardEvent::Refused { why } => Err(why),
        other => panic!("{other:?}"),
    }
}

impl Service {
    /// Attached, with a lease that is renewed until [`Service::stop_lease`].
    pub fn with_lease(lab: &Lab, inc: u64) -> Self {
        let mut service = ask_to_attach(lab, life(inc)).unwrap();
        service.writer.publish(boottime() + LEASE);
        let (writer, heart) = (Arc::clone(&service.writer), Arc::clone(&service.heart));
        heart.store(true, Ordering::SeqCst);
        service.beating = Some(std::thread::spawn(move || {
            while heart.load(Ordering::SeqCst) {
                writer.publish(boottime() + LEASE);
                std::thread::sleep(Duration::from_millis(20));
            }
        }));
        service
    }

    pub fn stop_lease(&mut self) {
        self.heart.store(false, Ordering::SeqCst);
        if let Some(beating) = self.beating.take() {
            beating.join().unwrap();
        }
    }

    pub fn event(&self) -> (GuardEvent, Vec<OwnedFd>) {
        let received = self.channel.recv(Some(LONG)).unwrap().expect("an event of the guard");
        (received.message, received.fds)
    }

    pub fn start_monitor(&self, number: u32) -> Monitor {
        self.channel.send(&GuardCommand::StartMonitor { number }, LONG).unwrap();
        let (event, mut fds) = self.event();
        let GuardEvent::MonitorStarted { number: started, pid } = event else {
            panic!("{event:?}");
        };
        assert_eq!(started, number);
        let channel = Channel::from_fd(fds.remove(0)).unwrap();
        let monitor = Monitor { channel, pid: pid.try_into().unwrap(), next: AtomicU32::new(1) };
        let hello = MonitorCommand::Hello { version: MONITOR_PROTOCOL, me: life(1) };
        monitor.channel.send(&hello, LONG).unwrap();
        assert_eq!(monitor.event(), MonitorEvent::Hello { version: MONITOR_PROTOCOL });
        monitor
    }

    /// Ends the service as its death does: by closing its socket.
    pub fn die(mut self) {
        self.stop_lease();
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.heart.store(false, Ordering::SeqCst);
    }
}

/// A monitor as the service sees it.
pub struct Monitor {
    pub channel: Channel<MonitorCommand, MonitorEvent>,
    pub pid: i32,
    next: AtomicU32,
}

impl Monitor {
    pub fn call(&self) -> u64 {
        self.next.fetch_add(1, Ordering::SeqCst).into()
    }

    pub fn send(&self, command: &MonitorCommand) {
        self.channel.send(command, LONG).unwrap();
    }

    pub fn event(&self) -> MonitorEvent {
        self.channel.recv(Some(LONG)).unwrap().expect("an event of the monitor").message
    }

    /// The outcome of a call; other events before it are not expected.
    pub fn outcome(&self, call: u64) -> Result<(), String> {
        match self.event() {
            MonitorEvent::Done { call: done, outcome, .. } if done == call => outcome,
            other => panic!("waiting for call {call}: {other:?}"),
        }
    }

    pub fn begin_online(&self, spec: &ResourceSpec, mode: OnlineMode) -> u64 {
        let call = self.call();
        self.send(&MonitorCommand::Online { call, resource: spec.clone(), mode });
        call
    }

    pub fn online(&self, spec: &ResourceSpec) -> Result<(), String> {
        self.outcome(self.begin_online(spec, OnlineMode::Start { probe: false }))
    }

    pub fn restore(&self, spec: &ResourceSpec) -> Result<(), String> {
        self.outcome(self.begin_online(spec, OnlineMode::Restore))
    }

    pub fn begin_offline(&self, spec: &ResourceSpec) -> u64 {
        let call = self.call();
        self.send(&MonitorCommand::Offline { call, resource: spec.id });
        call
    }

    pub fn offline(&self, spec: &ResourceSpec) -> Result<(), String> {
        self.outcome(self.begin_offline(spec))
    }

    pub fn begin_terminate(&self, spec: &ResourceSpec) -> u64 {
        let call = self.call();
        self.send(&MonitorCommand::Terminate { call, resource: spec.id });
        call
    }

    pub fn kill(&self) {
        kill(Pid::from_raw(self.pid), Signal::SIGKILL).unwrap();
    }
}
