//! The laboratory itself, with scripts in place of the daemons: its faults must be what they claim
//! to be, and nothing of it may be left behind.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddrV4, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use wolfpack_lab::clock::wait_for;
use wolfpack_lab::lab::{Lab, LabOptions};
use wolfpack_lab::netns::{self, output};
use wolfpack_lab::network::Wire;
use wolfpack_lab::node::Daemon;

const PATIENCE: Duration = Duration::from_secs(30);
/// Set in a process that is to make a lab and then be killed.
const CRASH: &str = "WOLFPACK_LAB_CRASH";

/// Programs that only live: each with a child that has left its session.
fn fake_programs() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for name in ["wolfpackd", "wolfpack-resmon", "wolfpack", "wolfpack-demo-app"] {
        let path = dir.path().join(name);
        fs::write(&path, "#!/bin/sh\nsetsid sleep 54321 &\nsleep 54321\n").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    dir
}

fn lab(programs: &Path) -> Option<Lab> {
    if let Err(e) = netns::requirements() {
        eprintln!("SKIPPED: {e}");
        return None;
    }
    let binaries = Some(programs.to_owned());
    Some(Lab::new(LabOptions { binaries, ..LabOptions::default() }).unwrap())
}

fn left_behind(prefix: &str) -> Vec<String> {
    let mut left: Vec<String> = output("ip", &["netns", "list"], None)
        .unwrap()
        .lines()
        .filter(|l| l.starts_with(prefix))
        .map(str::to_owned)
        .collect();
    for dir in [std::env::temp_dir(), "/dev/shm".into()] {
        let dir = dir.join(prefix);
        if dir.exists() {
            left.push(dir.display().to_string());
        }
    }
    left
}

#[test]
fn a_power_cut_says_nothing_on_the_wire_and_leaves_no_process() {
    let programs = fake_programs();
    let Some(mut lab) = lab(programs.path()) else { return };
    lab.power_on("a").unwrap();
    let node = lab.node("a");
    wait_for("the daemons and their children", PATIENCE, || {
        let pids = node.netns().unwrap().pids().unwrap();
        if pids.len() >= 6 { Ok(()) } else { Err(format!("there are {pids:?}")) }
    })
    .unwrap();
    // A server on the node, in a process of the node: it waits for a request that never comes.
    let mut server =
        node.netns().unwrap().command(env!("CARGO_BIN_EXE_wolfpack-demo-app")).unwrap();
    let mut server = server.args(["--port", "7777"]).spawn().unwrap();
    let address = SocketAddrV4::new(node.address(Wire::Public), 7777);
    let connect = move || {
        wait_for("the server", PATIENCE, || TcpStream::connect(address).map_err(|e| e.to_string()))
    };
    let thread = lab.client_ns.thread("connect", connect).unwrap();
    let mut stream = thread.join().unwrap().unwrap().unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    let pids = lab.node("a").netns().unwrap().pids().unwrap();
    lab.power_cut("a").unwrap();
    server.wait().unwrap();
    for pid in pids {
        let comm = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        assert!(comm.is_empty() || comm.contains(") Z "), "{comm} lives on");
    }
    let error = stream.read(&mut [0; 1]).expect_err("the end of the connection was announced");
    assert!(matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut), "{error}");
    assert!(!lab.node("a").is_on());
    lab.power_on("a").unwrap();
    lab.node("a").netns().unwrap();
}

#[test]
fn a_killed_daemon_is_started_again_and_a_held_one_is_not() {
    let programs = fake_programs();
    let Some(mut lab) = lab(programs.path()) else { return };
    lab.power_on("b").unwrap();
    let guard = lab.node("b").daemon(Daemon::Guard).unwrap();
    let running = || guard.pid().map_err(|e| e.to_string());
    let first = wait_for("the guard", PATIENCE, running).unwrap();
    lab.node("b").signal(Daemon::Guard, nix::sys::signal::Signal::SIGKILL).unwrap();
    guard.wait_end(first, PATIENCE).unwrap();
    let second = wait_for("the next guard", PATIENCE, running).unwrap();
    assert_ne!(first, second);
}

#[test]
fn cut_cables_failed_networks_and_partitions_stop_frames_and_heal() {
    let programs = fake_programs();
    let Some(mut lab) = lab(programs.path()) else { return };
    lab.power_on("a").unwrap();
    lab.power_on("b").unwrap();
    let listener = {
        let bind = || TcpListener::bind("0.0.0.0:7778").unwrap();
        lab.node("b").netns().unwrap().thread("bind", bind).unwrap().join().unwrap().unwrap()
    };
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = stream.write_all(b"x");
        }
    });
    let reach = |wire: Wire| {
        let address = SocketAddrV4::new(lab.node("b").address(wire), 7778).into();
        let connect =
            move || TcpStream::connect_timeout(&address, Duration::from_millis(1500)).is_ok();
        lab.node("a").netns().unwrap().thread("try", connect).unwrap().join().unwrap().unwrap()
    };
    let all = || Wire::ALL.map(reach);
    assert_eq!(all(), [true; 3]);
    lab.switch.fail(Wire::Private, true).unwrap();
    assert_eq!(all(), [false, true, true], "the private network failed");
    lab.switch.part("a", "b", Wire::Public).unwrap();
    assert_eq!(all(), [false, false, true], "and the public one is parted");
    lab.switch.fail(Wire::Private, false).unwrap();
    lab.switch.heal().unwrap();
    assert_eq!(all(), [true; 3], "all is healed");
    lab.switch.cable("b", Wire::Storage, false).unwrap();
    assert_eq!(all(), [true, true, false], "a storage cable is pulled");
}

#[test]
fn nothing_is_left_when_the_lab_is_dropped() {
    let programs = fake_programs();
    let Some(mut lab) = lab(programs.path()) else { return };
    let prefix = lab.prefix().to_owned();
    lab.power_on("a").unwrap();
    assert!(left_behind(&prefix).len() > 3);
    drop(lab);
    assert_eq!(left_behind(&prefix), Vec::<String>::new());
}

#[test]
fn nothing_is_left_when_the_labs_process_is_killed() {
    if let Err(e) = netns::requirements() {
        eprintln!("SKIPPED: {e}");
        return;
    }
    let programs = fake_programs();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "the_process_that_is_killed", "--nocapture"])
        .env(CRASH, programs.path())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let prefix = format!("wplab{}x", child.id());
    let made = wait_for("its lab", PATIENCE, || match programs.path().join("made").exists() {
        true => Ok(()),
        false => Err("it is not made yet".into()),
    });
    child.kill().unwrap();
    child.wait().unwrap();
    made.unwrap();
    wait_for("everything to be removed", PATIENCE, || {
        match left_behind(&format!("{prefix}0")).as_slice() {
            [] => Ok(()),
            left => Err(format!("{left:?} are left")),
        }
    })
    .unwrap();
}

/// Not a test by itself: the process that the test above starts and kills. Without its variable it
/// has nothing to do.
#[test]
fn the_process_that_is_killed() {
    let Some(programs) = std::env::var_os(CRASH) else { return };
    let mut lab = lab(Path::new(&programs)).unwrap();
    lab.power_on("a").unwrap();
    fs::write(Path::new(&programs).join("made"), "").unwrap();
    std::thread::sleep(PATIENCE * 2);
}
