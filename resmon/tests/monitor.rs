//! Resource monitors end to end: applications started, watched, lost and found again.

mod lab;

use std::fs;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::Duration;

use lab::{Lab, Monitor, Service, eventually, runs, spec};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use wolfpack_resource::section::CallReader;
use wolfpack_types::monitor::{
    Blame, EntryPoint, GuardEvent, MonitorCommand, MonitorEvent, OnlineMode,
};
use wolfpack_types::objects::{Policy, ResourceType};

const SLEEPER: &str = "echo $$ > pid; exec sleep 1000";

/// Neither ends on SIGTERM nor leaves its pid file half written.
const DEAF: &str = "trap \"\" TERM; echo $$ > pid; while true; do sleep 1000; done";

fn setup() -> Option<(Lab, Service, Monitor)> {
    lab::can_run().then(|| {
        let lab = Lab::new();
        let service = Service::with_lease(&lab, 1);
        let monitor = service.start_monitor(1);
        (lab, service, monitor)
    })
}

fn forget_pid(lab: &Lab) {
    fs::remove_file(lab.path("pid")).unwrap();
}

fn failure(monitor: &Monitor) -> String {
    match monitor.event() {
        MonitorEvent::Failed { why, .. } => why,
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_application_comes_online_with_its_environment_and_goes_in_order() {
    let Some((lab, _service, monitor)) = setup() else { return };
    let script = "env > env.tmp; mv env.tmp env; trap \"echo bye > bye; exit 0\" TERM; \
                  echo $$ > pid; while true; do sleep 0.02; done";
    let mut app = lab.application(1, script);
    app.properties.insert("environment".into(), "COLOR=blue;SIZE=4".into());
    monitor.online(&app).unwrap();
    let pid = lab.pid_in("pid");
    let env = fs::read_to_string(lab.path("env")).unwrap();
    for line in
        ["COLOR=blue", "SIZE=4", "WOLFPACK_NODE=a", "WOLFPACK_GROUP=web", "WOLFPACK_RESOURCE=r1"]
    {
        assert!(env.lines().any(|l| l == line), "{line} in {env}");
    }
    // Online again is no second start.
    monitor.online(&app).unwrap();
    assert_eq!(lab.pid_in("pid"), pid);
    monitor.offline(&app).unwrap();
    assert!(!runs(pid));
    assert!(lab.path("bye").exists(), "it was given the time to end in order");
    // Offline again is nothing to do, and online a new start.
    monitor.offline(&app).unwrap();
    forget_pid(&lab);
    monitor.online(&app).unwrap();
    assert_ne!(lab.pid_in("pid"), pid);
}

#[test]
fn what_cannot_start_says_why() {
    let Some((lab, _service, monitor)) = setup() else { return };
    let kind = ResourceType::GenericApplication;
    let err = monitor.online(&spec(1, kind, &[("command", "/nonexistent/x")])).unwrap_err();
    assert!(err.contains("/nonexistent/x") && err.contains("No such file"), "{err}");
    let err = monitor.online(&spec(2, kind, &[("comand", "/bin/true")])).unwrap_err();
    assert!(err.contains("no property 'comand'"), "{err}");
    let err =
        monitor.online(&spec(3, kind, &[("command", "/bin/sleep 9"), ("directory", "/none")]));
    assert!(err.unwrap_err().contains("No such file"));
    let disk = spec(4, ResourceType::PhysicalDisk, &[("disk", "iscsi://127.0.0.1:1/iqn.x:y/1")]);
    let err = monitor.online(&disk).unwrap_err();
    assert!(!err.is_empty(), "{err}");
    // Nothing half-made is left.
    assert_eq!(fs::read_dir(lab.run_dir().join("ledger")).unwrap().count(), 0);
    // Other properties for the same resource are taken.
    let mut app = lab.application(5, "exec /nonexistent");
    app.properties.insert("command".into(), "/nonexistent/x".into());
    monitor.online(&app).unwrap_err();
    app.properties = lab.application(5, SLEEPER).properties;
    monitor.online(&app).unwrap();
    assert!(runs(lab.pid_in("pid")));
}

#[test]
fn an_application_that_ends_is_reported_at_once() {
    let Some((lab, _service, monitor)) = setup() else { return };
    let mut app = lab.application(1, SLEEPER);
    // Not by a poll.
    app.policy = Policy { looks_alive_ms: 0, is_alive_ms: 0, ..Policy::default() };
    monitor.online(&app).unwrap();
    kill(Pid::from_raw(lab.pid_in("pid")), Signal::SIGKILL).unwrap();
    let why = failure(&monitor);
    assert!(why.contains("signal: 9"), "{why}");
    // It may be started again without more ado.
    forget_pid(&lab);
    monitor.online(&app).unwrap();
    assert!(runs(lab.pid_in("pid")));
}

#[test]
fn offline_ends_what_ignores_sigterm_and_what_has_left_its_session() {
    let Some((lab, _service, monitor)) = setup() else { return };
    let script = "(setsid sh -c \"echo \\$\\$ > stray; exec sleep 1000\" &); \
                  trap \"\" TERM; echo $$ > pid; while true; do sleep 1000; done";
    let mut app = lab.application(1, script);
    app.properties.insert("stop_timeout_ms".into(), "200".into());
    monitor.online(&app).unwrap();
    let pids = [lab.pid_in("pid"), lab.pid_in("stray")];
    monitor.offline(&app).unwrap();
    assert!(pids.iter().all(|&p| !runs(p)));
}

#[test]
fn a_killed_monitor_leaves_its_applications_to_the_next() {
    let Some((lab, service, monitor)) = setup() else { return };
    let app = lab.application(1, SLEEPER);
    let other = lab.application(2, "echo $$ > other; exec sleep 1000");
    monitor.online(&app).unwrap();
    monitor.online(&other).unwrap();
    let pids = [lab.pid_in("pid"), lab.pid_in("other")];
    monitor.kill();
    let GuardEvent::MonitorEnded { number: 1, how } = service.event().0 else { panic!() };
    assert!(how.contains("SIGKILL"), "{how}");
    assert!(pids.iter().all(|&p| runs(p)));
    let next = service.start_monitor(1);
    next.restore(&app).unwrap();
    assert_eq!(lab.pid_in("pid"), pids[0]);
    // A restored one is watched like any other ...
    kill(Pid::from_raw(pids[0]), Signal::SIGKILL).unwrap();
    assert!(failure(&next).contains("ended"));
    // ... is started anew where nothing is left of it ...
    forget_pid(&lab);
    next.outcome(next.begin_terminate(&app)).unwrap();
    next.restore(&app).unwrap();
    assert!(runs(lab.pid_in("pid")));
    // ... and one that nobody restores can be ended all the same.
    next.outcome(next.begin_terminate(&other)).unwrap();
    assert!(!runs(pids[1]));
    next.offline(&app).unwrap();
    assert_eq!(fs::read_dir(lab.run_dir().join("ledger")).unwrap().count(), 0);
}

#[test]
fn a_start_finds_nothing_of_an_earlier_one() {
    let Some((lab, service, monitor)) = setup() else { return };
    let app = lab.application(1, SLEEPER);
    monitor.online(&app).unwrap();
    let pid = lab.pid_in("pid");
    monitor.kill();
    service.event();
    forget_pid(&lab);
    let next = service.start_monitor(1);
    next.online(&app).unwrap();
    assert!(!runs(pid) && runs(lab.pid_in("pid")));
}

#[test]
fn the_crash_record_names_resource_and_entry_point() {
    let Some((lab, service, monitor)) = setup() else { return };
    let mut app = lab.application(1, DEAF);
    app.properties.insert("stop_timeout_ms".into(), "60000".into());
    monitor.online(&app).unwrap();
    lab.pid_in("pid");
    monitor.begin_offline(&app);
    let record = CallReader::open(service.section.as_fd(), 1).unwrap();
    let want = Some(Blame { resource: app.id, entry_point: EntryPoint::Offline });
    eventually("it is in offline", || record.calls_in_progress().blame() == want);
    monitor.kill();
    assert!(matches!(service.event().0, GuardEvent::MonitorEnded { .. }));
    assert_eq!(record.calls_in_progress().blame(), want, "readable after the death");
    // A monitor that dies of a fault says which thread it was.
    let next = service.start_monitor(1);
    next.restore(&app).unwrap();
    next.begin_offline(&app);
    eventually("it is in offline", || record.calls_in_progress().blame() == want);
    let thread = record.calls_in_progress().calls[0].thread;
    let thread = i32::try_from(thread).unwrap();
    // To that very thread, as the kernel sends a fault.
    // SAFETY: tgkill takes three integers.
    let sent = unsafe { libc::syscall(libc::SYS_tgkill, next.pid, thread, libc::SIGSEGV) };
    assert_eq!(sent, 0);
    let GuardEvent::MonitorEnded { how, .. } = service.event().0 else { panic!() };
    assert!(how.contains("SIGSEGV"), "{how}");
    let report = record.calls_in_progress();
    assert_eq!(report.crashed_thread, Some(thread.unsigned_abs().into()));
    assert_eq!(report.blame(), want);
}

#[test]
fn terminate_overtakes_an_offline_that_is_patient() {
    let Some((lab, _service, monitor)) = setup() else { return };
    let mut app = lab.application(1, DEAF);
    app.properties.insert("stop_timeout_ms".into(), "3600000".into());
    monitor.online(&app).unwrap();
    let pid = lab.pid_in("pid");
    let offline = monitor.begin_offline(&app);
    let terminate = monitor.begin_terminate(&app);
    monitor.outcome(offline).unwrap();
    monitor.outcome(terminate).unwrap();
    assert!(!runs(pid));
    // And is over: the resource can be used again.
    forget_pid(&lab);
    monitor.online(&app).unwrap();
    assert!(runs(lab.pid_in("pid")));
}

#[test]
fn a_call_beyond_its_pending_timeout_is_ended() {
    let Some((lab, _service, monitor)) = setup() else { return };
    let mut app = lab.application(1, DEAF);
    app.properties.insert("stop_timeout_ms".into(), "3600000".into());
    app.policy.pending_timeout_ms = 1500;
    monitor.online(&app).unwrap();
    let pid = lab.pid_in("pid");
    monitor.offline(&app).unwrap();
    assert!(!runs(pid));
}

#[test]
fn a_monitor_that_is_told_nonsense_ends_and_harms_nothing() {
    use std::os::fd::AsRawFd;
    let Some((lab, service, monitor)) = setup() else { return };
    let app = lab.application(1, SLEEPER);
    monitor.online(&app).unwrap();
    let pid = lab.pid_in("pid");
    let fd = monitor.channel.as_fd().as_raw_fd();
    nix::sys::socket::send(fd, b"\xfe\xfe\xfe", nix::sys::socket::MsgFlags::empty()).unwrap();
    assert!(matches!(service.event().0, GuardEvent::MonitorEnded { number: 1, .. }));
    assert!(runs(pid));
    service.start_monitor(1).restore(&app).unwrap();
    assert_eq!(lab.pid_in("pid"), pid);
}

#[test]
fn many_resources_come_and_go_at_once() {
    let Some((lab, _service, monitor)) = setup() else { return };
    let apps: Vec<_> = (1..=20)
        .map(|n| lab.application(n, &format!("echo $$ > pid{n}; exec sleep 1000")))
        .collect();
    let mode = OnlineMode::Start { probe: false };
    let mut calls: Vec<u64> = apps.iter().map(|app| monitor.begin_online(app, mode)).collect();
    let take_all = |calls: &mut Vec<u64>| {
        while !calls.is_empty() {
            let MonitorEvent::Done { call, outcome, .. } = monitor.event() else { panic!() };
            outcome.unwrap();
            calls.retain(|&c| c != call);
        }
    };
    take_all(&mut calls);
    let pids: Vec<i32> = (1..=20).map(|n| lab.pid_in(&format!("pid{n}"))).collect();
    monitor.send(&MonitorCommand::Announce { resource: apps[0].id });
    calls = apps.iter().map(|app| monitor.begin_offline(app)).collect();
    take_all(&mut calls);
    assert!(pids.iter().all(|&p| !runs(p)));
    assert!(Path::new(&lab.run_dir()).exists());
}

#[test]
fn nothing_is_started_when_everything_was_ended() {
    let Some((lab, mut service, monitor)) = setup() else { return };
    // Without a lease and held by nothing, the monitor lives on and refuses.
    service.stop_lease();
    service.writer.publish(wolfpack_resource::boottime());
    let err = monitor.online(&lab.application(1, SLEEPER)).unwrap_err();
    assert!(err.contains("lease"), "{err}");
    std::thread::sleep(Duration::from_millis(50));
    assert!(!lab.path("pid").exists());
}
