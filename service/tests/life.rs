//! The real program as the only node of a cluster, with this test in the place of its guard and of
//! its resource monitor: attaching, the local API, a dying monitor, and every way to end.
//!
//! Traffic goes to loopback alone, on an address of 127.0.0.0/8 of the test's own.

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use wolfpack_client::{Client, ClientError};
use wolfpack_resource::rpc::{Channel, Listener, RpcError};
use wolfpack_resource::section::{CallRecorder, Section};
use wolfpack_types::NodeInc;
use wolfpack_types::api::{Reply, Request, ServiceState};
use wolfpack_types::monitor::{
    EntryPoint, GuardCommand, GuardEvent, MONITOR_PROTOCOL, MonitorCommand, MonitorEvent,
};
use wolfpack_types::objects::ResourceState;

/// For everything that must come: far longer than it takes.
const PATIENCE: Duration = Duration::from_secs(60);

type GuardEnd = Channel<GuardEvent, GuardCommand>;
type MonitorEnd = Channel<MonitorEvent, MonitorCommand>;

/// A service with this test for a guard.
struct Node {
    dir: tempfile::TempDir,
    service: Child,
    guard: GuardEnd,
    section: Section,
    monitor: MonitorEnd,
    me: NodeInc,
}

fn prepare(dir: &Path) {
    static LAST: AtomicU8 = AtomicU8::new(1);
    // Tests of one run and of several runs side by side each have their own address.
    let [high, low, ..] = std::process::id().to_le_bytes();
    let address = format!("127.{}.{}.{}", high | 1, low, LAST.fetch_add(1, Ordering::SeqCst));
    let shown = dir.display();
    let config = format!(
        r#"
node = "a"
cluster_key = "{shown}/key"
state_dir = "{shown}/state"
run_dir = "{shown}/run"
quorum = "majority"
profile = "fast"
[[network]]
name = "lo"
interface = "lo"
[[peer]]
id = 1
name = "a"
addresses = {{ lo = "{address}" }}
"#
    );
    fs::write(dir.join("node.toml"), config).unwrap();
    fs::create_dir(dir.join("run")).unwrap();
    fs::write(dir.join("key"), "ab".repeat(32) + "\n").unwrap();
    fs::set_permissions(dir.join("key"), fs::Permissions::from_mode(0o600)).unwrap();
}

fn spawn(dir: &Path) -> Child {
    Command::new(env!("CARGO_BIN_EXE_wolfpackd"))
        .args(["--foreground", "--config"])
        .arg(dir.join("node.toml"))
        .spawn()
        .unwrap()
}

fn socket(dir: &Path) -> PathBuf {
    dir.join("run/api.sock")
}

fn command(guard: &GuardEnd) -> GuardCommand {
    guard.recv(Some(PATIENCE)).unwrap().expect("a command for the guard").message
}

/// Answers `StartMonitor` with a new socket; returns the monitor's end of it, greeted.
fn start_monitor(guard: &GuardEnd, me: NodeInc) -> MonitorEnd {
    assert_eq!(command(guard), GuardCommand::StartMonitor { number: 1 });
    let (ours, theirs) = MonitorEnd::pair().unwrap();
    let started = GuardEvent::MonitorStarted { number: 1, pid: std::process::id() };
    guard.send_fds(&started, &[theirs.as_fd()], PATIENCE).unwrap();
    drop(theirs);
    let hello = MonitorCommand::Hello { version: MONITOR_PROTOCOL, me };
    assert_eq!(ours.recv(Some(PATIENCE)).unwrap().unwrap().message, hello);
    ours.send(&MonitorEvent::Hello { version: MONITOR_PROTOCOL }, PATIENCE).unwrap();
    ours
}

impl Node {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        prepare(dir.path());
        Self::start_in(dir)
    }

    fn start_in(dir: tempfile::TempDir) -> Self {
        let listener = Listener::bind(&dir.path().join("run/guard.sock")).unwrap();
        let service = spawn(dir.path());
        let guard = GuardEnd::from_fd(listener.accept().unwrap().0).unwrap();
        let GuardCommand::Attach { me, version: MONITOR_PROTOCOL, .. } = command(&guard) else {
            panic!("no attach")
        };
        let section = Section::create(me).unwrap();
        let attached = GuardEvent::Attached { version: MONITOR_PROTOCOL };
        guard.send_fds(&attached, &[section.as_fd()], PATIENCE).unwrap();
        let monitor = start_monitor(&guard, me);
        Self { dir, service, guard, section, monitor, me }
    }

    fn ask(&self, request: &Request) -> Result<Reply, ClientError> {
        Client::connect(&socket(self.dir.path()), PATIENCE)?.request(request)
    }

    /// Asks until the answer is as wanted.
    fn until(&self, what: &str, request: &Request, good: impl Fn(&Reply) -> bool) -> Reply {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let reply = self.ask(request);
            match &reply {
                Ok(reply) if good(reply) => return reply.clone(),
                _ => assert!(Instant::now() < deadline, "never {what}: {reply:?}"),
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn create_cluster(&self) {
        let create = Request::ClusterCreate { name: "one".into(), overwrite: false };
        self.until("created", &create, |r| matches!(r, Reply::Done { .. }));
        self.until(
            "a member",
            &Request::ClusterStatus,
            |r| matches!(r, Reply::Cluster(s) if s.state == ServiceState::Member),
        );
    }

    fn done(&self, request: &Request) {
        let reply = self.ask(request).unwrap();
        assert!(matches!(reply, Reply::Done { .. }), "{reply:?}");
    }

    /// The next command for the monitor that is not `Announce`.
    fn monitor_command(&self) -> MonitorCommand {
        loop {
            let next = self.monitor.recv(Some(PATIENCE)).unwrap().expect("a command").message;
            if !matches!(next, MonitorCommand::Announce { .. }) {
                return next;
            }
        }
    }

    /// A group with one application, online as far as this monitor says.
    fn run_application(&self) -> wolfpack_types::ResourceId {
        self.done(&Request::GroupCreate { group: "g".into(), preferred: Vec::new() });
        self.done(&Request::ResourceCreate {
            resource: "app".into(),
            group: "g".into(),
            kind: "generic-application".into(),
            properties: BTreeMap::from([("command".into(), "/bin/true".into())]),
            depends_on: Vec::new(),
        });
        self.done(&Request::GroupOnline { group: "g".into() });
        let MonitorCommand::Online { call, resource, .. } = self.monitor_command() else {
            panic!("not asked to bring it online")
        };
        assert_eq!((resource.name.as_str(), resource.group.as_str()), ("app", "g"));
        let outcome = Ok(());
        let done = MonitorEvent::Done { call, resource: resource.id, outcome };
        self.monitor.send(&done, PATIENCE).unwrap();
        self.until("online", &Request::ResourceStatus { resource: None }, |r| {
            matches!(r, Reply::Resources { resources } if resources[0].state == ResourceState::Online)
        });
        resource.id
    }

    fn ended(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.service.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "the service does not end");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Waits until the service asks for the end of everything, and says that it is reached.
    fn end_everything(&self) {
        loop {
            if let GuardCommand::TerminateAll { why } = command(&self.guard) {
                let left = Vec::new();
                let said = GuardEvent::Terminated { me: self.me, why, left };
                return self.guard.send(&said, PATIENCE).unwrap();
            }
        }
    }

    fn sigterm(&self) {
        let pid = self.service.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // Already gone in every test that succeeded.
        let _ = self.service.kill();
        let _ = self.service.wait();
    }
}

#[test]
fn a_cluster_is_created_kept_and_left() {
    let mut node = Node::start();
    let Ok(Reply::Cluster(status)) = node.ask_when_up() else { panic!("no status") };
    assert_eq!(status.state, ServiceState::Empty);
    let bad = Request::ClusterCreate { name: "no name!".into(), overwrite: false };
    let refusal = node.ask(&bad).unwrap_err().to_string();
    assert!(refusal.contains("no name for a cluster"), "{refusal}");
    node.create_cluster();
    let again = Request::ClusterCreate { name: "two".into(), overwrite: true };
    let refusal = node.ask(&again).unwrap_err().to_string();
    assert!(refusal.contains("belongs to a cluster already"), "{refusal}");
    node.done(&Request::GroupCreate { group: "kept".into(), preferred: Vec::new() });

    node.sigterm();
    node.end_everything();
    assert_eq!(node.ended().code(), Some(0));
    let dir = std::mem::replace(&mut node.dir, tempfile::tempdir().unwrap());
    assert!(!socket(dir.path()).exists(), "the socket stays behind");

    let former = node.me.inc.0;
    let mut node = Node::start_in(dir);
    assert_eq!(node.me.inc.0, former + 1, "a new life");
    node.until(
        "kept",
        &Request::GroupStatus { group: None },
        |r| matches!(r, Reply::Groups { groups } if groups.len() == 1 && groups[0].name == "kept"),
    );
    let events = Client::connect(&socket(node.dir.path()), PATIENCE).unwrap();
    let events: Result<Vec<_>, _> = events.events(0, false).unwrap().collect();
    let starts = events.unwrap();
    let starts = starts.iter().filter(|e| e.event.text.contains("service of node 1.")).count();
    assert_eq!(starts, 2, "events of both lives are kept");
    node.sigterm();
    node.end_everything();
    assert_eq!(node.ended().code(), Some(0));
}

impl Node {
    fn ask_when_up(&self) -> Result<Reply, ClientError> {
        Ok(self.until("answered", &Request::ClusterStatus, |_| true))
    }
}

#[test]
fn a_dead_monitor_is_blamed_and_its_resources_are_restored() {
    let mut node = Node::start();
    node.create_cluster();
    let app = node.run_application();

    // It dies in IsAlive of the application.
    let recorder = CallRecorder::open(node.section.as_fd(), 1).unwrap();
    std::mem::forget(recorder.begin(EntryPoint::IsAlive, app, wolfpack_types::Instant(1)));
    node.monitor.shutdown();
    let ended = GuardEvent::MonitorEnded { number: 1, how: "killed by the test".into() };
    node.guard.send(&ended, PATIENCE).unwrap();
    node.monitor = start_monitor(&node.guard, node.me);
    let MonitorCommand::Online { call, resource, mode } = node.monitor_command() else {
        panic!("not asked to restore it")
    };
    assert_eq!(resource.id, app);
    assert_eq!(mode, wolfpack_types::monitor::OnlineMode::Restore);
    let done = MonitorEvent::Done { call, resource: app, outcome: Ok(()) };
    node.monitor.send(&done, PATIENCE).unwrap();
    node.until("online again", &Request::ResourceStatus { resource: None }, |r| {
        matches!(r, Reply::Resources { resources } if resources[0].state == ResourceState::Online)
    });
    let events = Client::connect(&socket(node.dir.path()), PATIENCE).unwrap();
    let texts: Vec<_> = events.events(0, false).unwrap().map(|e| e.unwrap().event.text).collect();
    let blamed = texts.iter().any(|t| t.contains("app") && t.to_lowercase().contains("alive"));
    assert!(blamed, "nobody is blamed: {texts:#?}");

    // The guard ends everything by itself: this life is over.
    let why = "the lease is over".to_owned();
    let said = GuardEvent::Terminated { me: node.me, why, left: Vec::new() };
    node.guard.send(&said, PATIENCE).unwrap();
    assert_eq!(node.ended().code(), Some(75));
}

#[test]
fn a_lost_guard_ends_the_life() {
    let mut node = Node::start();
    node.ask_when_up().unwrap();
    node.guard.shutdown();
    assert_eq!(node.ended().code(), Some(75));
}

#[test]
fn a_leave_that_finds_no_guard_is_over_all_the_same() {
    let dir = tempfile::tempdir().unwrap();
    prepare(dir.path());
    let mut service = spawn(dir.path());
    // No guard listens; the service says so and waits.
    let deadline = Instant::now() + PATIENCE;
    while !dir.path().join("state/record").exists() {
        assert!(Instant::now() < deadline, "the service does not start");
        std::thread::sleep(Duration::from_millis(10));
    }
    let pid = service.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    assert_eq!(service.wait().unwrap().code(), Some(0));
}

#[test]
fn a_guard_that_refuses_is_asked_again() {
    let dir = tempfile::tempdir().unwrap();
    prepare(dir.path());
    let listener = Listener::bind(&dir.path().join("run/guard.sock")).unwrap();
    let mut service = spawn(dir.path());
    for _ in 0..3 {
        let guard = GuardEnd::from_fd(listener.accept().unwrap().0).unwrap();
        assert!(matches!(command(&guard), GuardCommand::Attach { .. }));
        let why = "leftovers of a former life".into();
        guard.send(&GuardEvent::Refused { why }, PATIENCE).unwrap();
        assert!(matches!(guard.recv(Some(PATIENCE)), Err(RpcError::Closed)));
    }
    service.kill().unwrap();
    service.wait().unwrap();
}

#[test]
fn the_cluster_key_is_changed_under_a_running_service() {
    let mut node = Node::start();
    node.create_cluster();
    let file = node.dir.path().join("key");
    let (old, new) = ("ab".repeat(32), "cd".repeat(32));
    let Ok(Reply::Cluster(status)) = node.ask_when_up() else { panic!("no status") };
    let id = status.cluster.clone();
    let steps = [
        format!("{old}\nalso {new}\ncluster {id}\n"),
        format!("{new}\nalso {old}\ncluster {id}\n"),
        format!("{new}\ncluster {id}\n"),
    ];
    for step in steps {
        fs::write(&file, step).unwrap();
        node.done(&Request::KeyReload);
        assert_eq!(command(&node.guard), GuardCommand::ReloadKey);
    }
    // A signal does the same.
    let pid = node.service.id().to_string();
    assert!(Command::new("kill").args(["-HUP", &pid]).status().unwrap().success());
    assert_eq!(command(&node.guard), GuardCommand::ReloadKey);

    // What is no key of this cluster is refused, and the guard hears nothing of it.
    for (text, reason) in [(format!("{new}\n"), "of another cluster"), ("x\n".into(), "64 hex")] {
        fs::write(&file, text).unwrap();
        let refusal = node.ask(&Request::KeyReload).unwrap_err().to_string();
        assert!(refusal.contains(reason), "{refusal}");
    }
    let Ok(Reply::Cluster(after)) = node.ask_when_up() else { panic!("no status") };
    assert_eq!((after.state, after.cluster), (ServiceState::Member, id));
    assert_eq!(after.view, status.view, "no regroup");
    node.sigterm();
    assert!(matches!(command(&node.guard), GuardCommand::TerminateAll { .. }));
    node.service.kill().unwrap();
    node.ended();
}
