//! The guard end to end: a real guard, real monitors and applications, the test as the service.

mod lab;

use std::net::UdpSocket;
use std::process::Command;
use std::time::Duration;

use lab::{
    LEASE, LONG, Lab, Monitor, Service, ask_to_attach, eventually, life, runs, uninterrupted,
};
use nix::sys::signal::Signal;
use wolfpack_netdrv::testament;
use wolfpack_resource::boottime;
use wolfpack_resource::rpc::{Channel, RpcError};
use wolfpack_types::monitor::{GuardCommand, GuardEvent};

/// Forks children that leave its group and session and ignore SIGTERM, as it does itself.
const STUBBORN: &str = "trap \"\" TERM; echo $$ > first; \
    setsid sh -c \"trap \\\"\\\" TERM; echo \\$\\$ > second; \
        (setsid sh -c \\\"echo \\\\\\$\\\\\\$ > third; exec sleep 1000\\\" &) ; exec sleep 1000\" & \
    while true; do sleep 1000; done";

fn stubborn_pids(lab: &Lab) -> [i32; 3] {
    ["first", "second", "third"].map(|file| lab.pid_in(file))
}

fn start_stubborn(lab: &Lab, service: &Service) -> (Monitor, [i32; 3]) {
    let monitor = service.start_monitor(1);
    monitor.online(&lab.application(1, STUBBORN)).unwrap();
    let pids = stubborn_pids(lab);
    assert!(pids.iter().all(|&p| runs(p)));
    (monitor, pids)
}

fn expect_testament(lab: &Lab, peer: &UdpSocket, inc: u64) {
    let mut bytes = [0; 2048];
    let (len, from) = uninterrupted(|| peer.recv_from(&mut bytes)).expect("AllTerminated");
    assert_eq!(bytes[..len], testament::seal(&lab.key(), life(inc)));
    assert_eq!(from.ip().to_string(), "10.77.0.1");
}

fn service_lost(cgroups: bool) {
    let mut lab = Lab::without_guard(cgroups);
    lab.start_guard();
    eventually("its log", || lab.log().contains("the guard runs"));
    assert_eq!(lab.log().contains("no cgroups"), !cgroups, "{}", lab.log());
    let peer = lab.peer_socket();
    let service = Service::with_lease(&lab, 1);
    let (monitor, pids) = start_stubborn(&lab, &service);
    service.die();
    expect_testament(&lab, &peer, 1);
    // What was said is true.
    assert!(pids.iter().all(|&p| !runs(p)) && !runs(monitor.pid));
    assert_eq!(std::fs::read_dir(lab.run_dir().join("ledger")).unwrap().count(), 0);
    // Said more than once, against loss.
    expect_testament(&lab, &peer, 1);
}

#[test]
fn a_lost_service_ends_everything_and_the_peers_are_told() {
    if lab::can_run() {
        service_lost(true);
    }
}

#[test]
fn the_same_without_cgroups_by_the_process_tree() {
    if lab::can_run() {
        service_lost(false);
    }
}

#[test]
fn lease_end_ends_everything_while_the_service_hangs() {
    if !lab::can_run() {
        return;
    }
    let lab = Lab::new();
    let peer = lab.peer_socket();
    let mut service = Service::with_lease(&lab, 1);
    let (_monitor, pids) = start_stubborn(&lab, &service);
    // Longer than a lease: it is renewed, so nothing ends.
    std::thread::sleep(LEASE + LEASE / 2);
    assert!(pids.iter().all(|&p| runs(p)));
    service.stop_lease();
    expect_testament(&lab, &peer, 1);
    assert!(pids.iter().all(|&p| !runs(p)));
    // The service, when it wakes, is told; its life is over whatever it does.
    loop {
        match service.event().0 {
            GuardEvent::MonitorEnded { number: 1, .. } => {}
            GuardEvent::Terminated { me, left, why } => {
                assert_eq!((me, left), (life(1), vec![]));
                assert!(why.contains("lease"), "{why}");
                break;
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(service.writer.ended());
    service.writer.publish(boottime() + LONG);
    service.channel.send(&GuardCommand::StartMonitor { number: 1 }, LONG).unwrap();
    let (event, _) = service.event();
    let GuardEvent::Refused { why } = event else { panic!("{event:?}") };
    assert!(why.contains("ended"), "{why}");
    // A new life may begin while the old service's socket is still open.
    drop(ask_to_attach(&lab, life(2)).unwrap());
}

#[test]
fn a_lapse_without_resources_ends_nothing() {
    if !lab::can_run() {
        return;
    }
    let lab = Lab::new();
    let service = ask_to_attach(&lab, life(1)).unwrap();
    let monitor = service.start_monitor(1);
    let app = lab.application(1, "echo $$ > pid; exec sleep 1000");
    let err = monitor.online(&app).unwrap_err();
    assert!(err.contains("no lease"), "{err}");
    service.writer.publish(boottime() + Duration::from_millis(50));
    std::thread::sleep(Duration::from_millis(600));
    assert!(!service.writer.ended());
    service.writer.publish(boottime() + LONG);
    monitor.online(&app).unwrap();
    assert!(runs(lab.pid_in("pid")));
    // A lease that is taken back ends it at once.
    service.writer.publish(boottime());
    eventually("it is ended", || service.writer.ended());
}

#[test]
fn one_service_at_a_time_and_only_later_lives() {
    if !lab::can_run() {
        return;
    }
    let lab = Lab::new();
    let first = ask_to_attach(&lab, life(5)).unwrap();
    let err = ask_to_attach(&lab, life(6)).err().unwrap();
    assert!(err.contains("attached already"), "{err}");
    drop(first);
    let why_not = |me| ask_to_attach(&lab, me).err().unwrap_or_default();
    assert!(why_not(life(5)).contains("not after"));
    let other = wolfpack_types::NodeInc { node: 2.try_into().unwrap(), ..life(7) };
    assert!(why_not(other).contains("guard of node 1"));
    drop(ask_to_attach(&lab, life(6)).unwrap());
}

#[test]
fn callers_who_talk_nonsense_are_dropped_and_harm_nobody() {
    if !lab::can_run() {
        return;
    }
    use std::os::fd::{AsFd, AsRawFd};
    let lab = Lab::new();
    let service = Service::with_lease(&lab, 1);
    for bytes in [&b"\xff\xff\xff\xff\xff\xff"[..], &[0; 60_000], b"GET / HTTP/1.1\r\n"] {
        let caller = Channel::<GuardCommand, GuardEvent>::connect(&lab.socket()).unwrap();
        let fd = caller.as_fd().as_raw_fd();
        nix::sys::socket::send(fd, bytes, nix::sys::socket::MsgFlags::empty()).unwrap();
        assert!(matches!(caller.recv(Some(LONG)), Err(RpcError::Closed)), "{bytes:?}");
    }
    let caller = Channel::<GuardCommand, GuardEvent>::connect(&lab.socket()).unwrap();
    caller.send(&GuardCommand::TerminateAll { why: "malice".into() }, LONG).unwrap();
    let answer = caller.recv(Some(LONG)).unwrap().unwrap().message;
    assert!(matches!(answer, GuardEvent::Refused { .. }), "{answer:?}");
    let caller = Channel::<GuardCommand, GuardEvent>::connect(&lab.socket()).unwrap();
    let attach = GuardCommand::Attach { version: 99, me: life(1), margin_ms: 1 };
    caller.send(&attach, LONG).unwrap();
    let answer = caller.recv(Some(LONG)).unwrap().unwrap().message;
    let GuardEvent::Refused { why } = answer else { panic!("{answer:?}") };
    assert!(why.contains("version 99"), "{why}");
    // The service is served as before.
    drop(service.start_monitor(7));
    service.channel.send(&GuardCommand::StartMonitor { number: 4000 }, LONG).unwrap();
    loop {
        match service.event().0 {
            GuardEvent::Refused { why } => break assert!(why.contains("4000"), "{why}"),
            GuardEvent::MonitorEnded { number: 7, .. } => {}
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_killed_guard_takes_its_monitors_and_the_next_one_ends_the_rest() {
    if !lab::can_run() {
        return;
    }
    for cgroups in [true, false] {
        let mut lab = Lab::without_guard(cgroups);
        lab.start_guard();
        let service = Service::with_lease(&lab, 1);
        let (monitor, pids) = start_stubborn(&lab, &service);
        lab.kill_guard();
        eventually("the monitor dies with its guard", || !runs(monitor.pid));
        assert!(matches!(service.channel.recv(Some(LONG)), Err(RpcError::Closed)));
        assert!(pids.iter().all(|&p| runs(p)), "nobody is left who could end them");
        lab.start_guard();
        // The next life is attached only when they are ended.
        let next = Service::with_lease(&lab, 2);
        assert!(pids.iter().all(|&p| !runs(p)));
        drop(next);
    }
}

#[test]
fn a_guard_that_is_told_to_stop_ends_everything_first() {
    if !lab::can_run() {
        return;
    }
    let mut lab = Lab::new();
    let peer = lab.peer_socket();
    let service = Service::with_lease(&lab, 1);
    let (_monitor, pids) = start_stubborn(&lab, &service);
    lab.signal_guard(Signal::SIGTERM);
    assert!(lab.wait_guard().success());
    assert!(pids.iter().all(|&p| !runs(p)));
    expect_testament(&lab, &peer, 1);
    assert!(!lab.socket().exists());
}

#[test]
fn terminate_all_is_obeyed_and_answered() {
    if !lab::can_run() {
        return;
    }
    let lab = Lab::new();
    let service = Service::with_lease(&lab, 1);
    let (_monitor, pids) = start_stubborn(&lab, &service);
    service.channel.send(&GuardCommand::TerminateAll { why: "leaving".into() }, LONG).unwrap();
    loop {
        match service.event().0 {
            GuardEvent::Terminated { why, left, .. } => {
                assert_eq!((why.as_str(), left), ("leaving", vec![]));
                break;
            }
            GuardEvent::MonitorEnded { .. } => {}
            other => panic!("{other:?}"),
        }
    }
    assert!(pids.iter().all(|&p| !runs(p)));
}

#[test]
fn a_second_guard_and_bad_files_are_refused_in_words() {
    if !lab::can_run() {
        return;
    }
    let lab = Lab::new();
    let refused = |lab: &Lab| {
        let out = lab.guard_command().output().unwrap();
        assert!(!out.status.success());
        (out.status.code(), String::from_utf8_lossy(&out.stderr).into_owned())
    };
    let (_, err) = refused(&lab);
    assert!(err.contains("another guard runs"), "{err}");
    let config = std::fs::read_to_string(lab.path("config")).unwrap();
    std::fs::write(lab.path("config"), config.replace("quorum =", "quorun =")).unwrap();
    let (code, err) = refused(&lab);
    assert!(code == Some(78) && err.contains("quorun"), "{code:?} {err}");
    std::fs::write(lab.path("config"), &config).unwrap();
    std::fs::write(lab.path("key"), "short\n").unwrap();
    let (code, err) = refused(&lab);
    assert!(code == Some(78) && err.contains("64 hexadecimal"), "{code:?} {err}");
    std::fs::write(lab.path("key"), format!("{}\n", "5a".repeat(32))).unwrap();
    // A monitor that nobody started.
    let out = Command::new(env!("CARGO_BIN_EXE_wolfpack-resmon"))
        .args(["--monitor", "1"])
        .output()
        .unwrap();
    let err = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(!out.status.success() && err.contains("started by the guard only"), "{err}");
}

#[test]
fn a_log_that_nobody_reads_holds_nothing_up() {
    if !lab::can_run() {
        return;
    }
    let mut lab = Lab::without_guard(true);
    let (unread, full) = std::io::pipe().unwrap();
    lab.start_guard_with(full.into());
    let peer = lab.peer_socket();
    let service = Service::with_lease(&lab, 1);
    let (_monitor, pids) = start_stubborn(&lab, &service);
    // Each refusal is a line of some 100 bytes; a pipe holds 64 KiB.
    for _ in 0..2000 {
        assert!(ask_to_attach(&lab, life(2)).is_err());
    }
    service.die();
    expect_testament(&lab, &peer, 1);
    assert!(pids.iter().all(|&p| !runs(p)));
    drop(unread);
}

#[test]
fn systemd_is_told_that_the_guard_is_ready_and_lives() {
    if !lab::can_run() {
        return;
    }
    let mut lab = Lab::without_guard(true);
    let socket = std::os::unix::net::UnixDatagram::bind(lab.path("notify")).unwrap();
    socket.set_read_timeout(Some(LONG)).unwrap();
    let mut command = lab.guard_command();
    command.env("NOTIFY_SOCKET", lab.path("notify")).env("WATCHDOG_USEC", "200000");
    lab.guard = Some(command.stderr(std::process::Stdio::null()).spawn().unwrap());
    let hear = || {
        let mut bytes = [0; 256];
        let len = uninterrupted(|| socket.recv(&mut bytes)).unwrap();
        String::from_utf8_lossy(&bytes[..len]).trim().to_owned()
    };
    assert_eq!(hear(), "READY=1");
    for _ in 0..5 {
        assert_eq!(hear(), "WATCHDOG=1");
    }
    // A guard that stands still is silent.
    lab.signal_guard(Signal::SIGSTOP);
    socket.set_read_timeout(Some(Duration::from_millis(1500))).unwrap();
    eventually("silence", || uninterrupted(|| socket.recv(&mut [0; 256])).is_err());
    lab.signal_guard(Signal::SIGCONT);
    socket.set_read_timeout(Some(LONG)).unwrap();
    assert_eq!(hear(), "WATCHDOG=1");
}

#[test]
fn a_ledger_entry_that_nobody_understands_is_named_and_blocks() {
    if !lab::can_run() {
        return;
    }
    let mut lab = Lab::without_guard(true);
    let entry = lab.run_dir().join("ledger").join(format!("{}.json", "0".repeat(31) + "1"));
    std::fs::create_dir_all(entry.parent().unwrap()).unwrap();
    std::fs::write(&entry, "{ half an ent").unwrap();
    lab.start_guard();
    let err = ask_to_attach(&lab, life(1)).err().unwrap();
    assert!(err.contains("former life") && err.contains(&*entry.to_string_lossy()), "{err}");
    eventually("it is named", || lab.log().contains(&*entry.to_string_lossy()));
    std::fs::remove_file(&entry).unwrap();
    drop(ask_to_attach(&lab, life(1)).unwrap());
}
