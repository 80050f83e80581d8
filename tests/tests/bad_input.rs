//! Bad input to whole daemons: each is refused in clear words, nothing is half-made, and what runs
//! goes on.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::process::{Command, Output};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use wolfpack_lab::clock::{now_us, wait_for};
use wolfpack_lab::intruder;
use wolfpack_lab::lab::{Lab, LabOptions, PATIENCE};
use wolfpack_lab::netns::{self, output};
use wolfpack_lab::network::{Wire, mac, mac_text};
use wolfpack_lab::node::{Daemon, Node};
use wolfpack_lab::san::Lun;
use wolfpack_lab::scenarios::{GROUP, Stage};
use wolfpack_types::api::ServiceState;
use wolfpack_types::config::CLUSTER_PORT;
use wolfpack_types::event::EventKind;
use wolfpack_types::objects::ResourceState;

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// Whether labs can be made here; labs do not run beside each other.
fn ready() -> Option<MutexGuard<'static, ()>> {
    if let Err(e) = netns::requirements() {
        eprintln!("SKIPPED: {e}");
        return None;
    }
    Some(ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner))
}

fn said(out: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr))
}

fn tell(line: &str) {
    eprintln!("{line}");
}

/// A lab with node `a` on, and no cluster yet.
fn single(options: LabOptions) -> Lab {
    let mut lab = Lab::new(options).unwrap();
    lab.power_on("a").unwrap();
    lab.wait_status("a", "the service to run", |_| Some(())).unwrap();
    lab
}

/// `cluster create` fails with these words, and there is no cluster.
fn refused(lab: &Lab, words: &[&str]) {
    let out = lab.wolfpack_raw("a", &["cluster", "create", "demo"]).unwrap();
    let text = said(&out);
    assert!(!out.status.success(), "it was done: {text}");
    for word in words {
        assert!(text.contains(word), "'{word}' is not in: {text}");
    }
    let status = lab.status("a").unwrap();
    assert_eq!(status.state, ServiceState::Empty, "something is half-made: {status:?}");
    assert_eq!(status.name, None);
}

#[test]
fn datagrams_of_strangers_and_replayed_ones_change_nothing() {
    let Some(_alone) = ready() else { return };
    let mut say = tell;
    let mut stage = Stage::new(LabOptions::default(), &mut say).unwrap();
    stage.make_cluster().unwrap();
    let wire = Wire::Public;
    let heard =
        intruder::listen(&stage.lab.switch, wire, ("b", 2), 1, Duration::from_secs(2)).unwrap();
    assert!(heard.len() > 5, "only {} datagrams were heard", heard.len());
    let ballot = stage.lab.status("a").unwrap().view.unwrap().ballot;
    let mut bad = heard.clone();
    bad.extend(heard.iter().map(|d| d[..d.len() / 2].to_vec()));
    bad.extend(heard.iter().enumerate().map(|(i, d)| {
        let mut d = d.clone();
        let at = (i * 7) % d.len();
        d[at] ^= 1 << (i % 8);
        d
    }));
    bad.extend((0..200_u32).map(|i| {
        let bytes = i.wrapping_mul(2_654_435_761).to_le_bytes();
        bytes.iter().copied().cycle().take(usize::try_from(i * 7 % 1400).unwrap()).collect()
    }));
    let at = now_us();
    intruder::forge(&stage.lab.switch, wire, 2, ("a", 1), CLUSTER_PORT, bad).unwrap();
    stage
        .wait_event(
            "a",
            "datagrams-dropped",
            at,
            |e| matches!(e, EventKind::DatagramsDropped { count, .. } if *count > 0),
        )
        .unwrap();
    stage.wait_steady("a").unwrap();
    let after = stage.lab.status("a").unwrap();
    assert_eq!(after.view.unwrap().ballot, ballot, "there was a regroup");
    assert_eq!(after.state, ServiceState::Member);
    stage.lab.check_watchers().unwrap();
}

#[test]
fn a_node_with_a_wrong_key_stays_outside() {
    let Some(_alone) = ready() else { return };
    let mut say = tell;
    let mut stage = Stage::new(LabOptions::default(), &mut say).unwrap();
    stage.make_cluster().unwrap();
    stage.lab.power_cut("b").unwrap();
    stage.lab.wait_members(&["a"]).unwrap();
    let mut options = stage.lab.node_options();
    options.key = "0123456789abcdef".repeat(4);
    let at = now_us();
    let dir = stage.lab.dir().to_owned();
    let prefix = stage.lab.prefix().to_owned();
    let binaries = stage.lab.binaries.clone();
    stage.lab.nodes[1] = Node::new(&prefix, &dir, 2, &[1, 2], &binaries, &options).unwrap();
    stage.lab.power_on("b").unwrap();
    stage
        .wait_event(
            "a",
            "datagrams-dropped",
            at,
            |e| matches!(e, EventKind::DatagramsDropped { count, .. } if *count > 0),
        )
        .unwrap();
    stage.wait_steady("a").unwrap();
    let members = stage.lab.status("a").unwrap().view.unwrap().members;
    assert_eq!(members, ["a"]);
    let state = stage.lab.status("b").map(|s| s.state);
    assert!(!matches!(state, Ok(ServiceState::Member)), "b believes to be a member");
    stage.lab.check_watchers().unwrap();
}

#[test]
fn a_second_service_on_the_node_is_refused() {
    let Some(_alone) = ready() else { return };
    let lab = single(LabOptions::default());
    let node = lab.node("a");
    let first = node.daemon(Daemon::Service).unwrap().pid().unwrap();
    let mut command = node.netns().unwrap().command(&lab.binaries.service).unwrap();
    let out = command.arg("--config").arg(node.config_file()).output().unwrap();
    let text = said(&out);
    assert!(!out.status.success(), "a second one runs: {text}");
    assert!(text.contains("another wolfpackd"), "{text}");
    assert!(text.contains(&first.to_string()), "it does not name process {first}: {text}");
    assert_eq!(node.daemon(Daemon::Service).unwrap().pid().unwrap(), first);
    lab.status("a").unwrap();
}

#[test]
fn a_configuration_that_cannot_hold_is_refused_by_line_and_reason() {
    let Some(_alone) = ready() else { return };
    let lab = Lab::new(LabOptions::default()).unwrap();
    let good = fs::read_to_string(lab.node("a").config_file()).unwrap();
    let file = lab.dir().join("bad.toml");
    let cases = [
        ("id = 2", "id = = 2", "line"),
        ("id = 2", "id = 1", "id 1 is there twice"),
        ("node = \"a\"", "node = \"z\"", "'z' is not among"),
        ("quorum = ", "quorun = ", "quorun"),
        ("profile = \"standard\"", "profile = \"standard\"\n[times]\nlease_ms = 700\n", "lease L"),
    ];
    for (from, to, words) in cases {
        assert!(good.contains(from));
        // A table must not stand before plain keys: what it would swallow goes before it.
        let mut text = good.replacen(from, to, 1);
        if to.contains("[times]") {
            text = good.clone() + "\n[times]\nlease_ms = 700\n";
        }
        fs::write(&file, text).unwrap();
        let check = Command::new(&lab.binaries.cli).args(["config", "check"]).arg(&file).output();
        let service = Command::new(&lab.binaries.service).arg("--config").arg(&file).output();
        for out in [check.unwrap(), service.unwrap()] {
            assert!(!out.status.success(), "{to} was accepted");
            assert!(said(&out).contains(words), "'{words}' is not in: {}", said(&out));
        }
    }
    let out =
        Command::new(&lab.binaries.service).args(["--config", "/no/such.toml"]).output().unwrap();
    assert!(!out.status.success() && said(&out).contains("/no/such.toml"), "{}", said(&out));
}

#[test]
fn a_witness_that_is_too_small_is_refused() {
    let Some(_alone) = ready() else { return };
    let lab = single(LabOptions { quorum_bytes: 1 << 20, ..LabOptions::default() });
    refused(&lab, &["small"]);
}

#[test]
fn a_witness_that_cannot_be_reached_is_refused() {
    let Some(_alone) = ready() else { return };
    let mut lab = Lab::new(LabOptions::default()).unwrap();
    let mut options = lab.node_options();
    options.witness = Some(format!("iscsi://{}:3260/iqn.none:x/1", Wire::Storage.address(77)));
    let (prefix, dir) = (lab.prefix().to_owned(), lab.dir().to_owned());
    lab.nodes[0] = Node::new(&prefix, &dir, 1, &[1, 2], &lab.binaries, &options).unwrap();
    lab.power_on("a").unwrap();
    lab.wait_status("a", "the service to run", |_| Some(())).unwrap();
    refused(&lab, &["cannot reach", &Wire::Storage.address(77).to_string()]);
}

#[test]
fn somebody_elses_data_on_the_witness_is_kept_unless_asked() {
    let Some(_alone) = ready() else { return };
    let lab = single(LabOptions::default());
    let image = fs::OpenOptions::new().read(true).write(true).open(lab.san.image(Lun::Quorum));
    let image = image.unwrap();
    // The superblock of an ext4 file system has its magic at byte 1080.
    image.write_all_at(&[0x53, 0xef], 1080).unwrap();
    image.write_all_at(b"the payroll of 1998", 300_000).unwrap();
    refused(&lab, &["--overwrite"]);
    let mut kept = [0; 19];
    image.read_exact_at(&mut kept, 300_000).unwrap();
    assert_eq!(&kept, b"the payroll of 1998", "it was overwritten although it was refused");
    lab.wolfpack("a", &["cluster", "create", "demo", "--overwrite"]).unwrap();
    lab.wait_members(&["a"]).unwrap();
}

#[test]
fn names_that_do_not_exist_or_exist_already_are_refused_with_their_exit_codes() {
    let Some(_alone) = ready() else { return };
    let mut say = tell;
    let mut stage = Stage::new(LabOptions::default(), &mut say).unwrap();
    stage.make_cluster().unwrap();
    let before = stage.lab.status("a").unwrap();
    let code = |args: &[&str]| {
        let out = stage.lab.wolfpack_raw("b", args).unwrap();
        (out.status.code(), said(&out))
    };
    let (exit, text) = code(&["group", "move", "wep", "--to", "b"]);
    assert_eq!(exit, Some(3), "{text}");
    assert!(text.contains("'wep'") && text.contains(GROUP), "no hint at '{GROUP}': {text}");
    let (exit, text) = code(&["group", "create", GROUP]);
    assert_eq!(exit, Some(4), "{text}");
    assert!(text.contains("exists"), "{text}");
    let create = ["resource", "create", "x", "--group", GROUP, "--type"];
    let bad: [&[&str]; 4] = [
        &["teapot"],
        &["ip-address", "--set", "address=10.77.0.300/24", "--set", "network=public"],
        &["ip-address", "--set", "adress=10.77.0.60/24", "--set", "network=public"],
        &["generic-application", "--set", "command=/bin/true", "--depends-on", "nobody"],
    ];
    for rest in bad {
        let (exit, text) = code(&[&create[..], rest].concat());
        assert!(matches!(exit, Some(2..=4)), "{rest:?}: exit {exit:?}: {text}");
    }
    let after = stage.lab.status("b").unwrap();
    assert_eq!(after.resources.len(), before.resources.len(), "something is half-made");
    assert_eq!(after.groups.len(), before.groups.len());
}

#[test]
fn garbage_at_the_local_socket_is_answered_and_survived() {
    let Some(_alone) = ready() else { return };
    let lab = single(LabOptions::default());
    let pid = lab.node("a").daemon(Daemon::Service).unwrap().pid().unwrap();
    for garbage in
        [&b"hello\n"[..], b"{}\n", b"{\"verb\":\"no-such\"}\n", b"\xff\xfe\x00\n", b"[[[[[[\n"]
    {
        let mut stream = UnixStream::connect(lab.node("a").socket()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(garbage).unwrap();
        let mut line = String::new();
        BufReader::new(&stream).read_line(&mut line).unwrap();
        assert!(line.contains("\"error\""), "{garbage:?} was answered by '{line}'");
    }
    let mut stream = UnixStream::connect(lab.node("a").socket()).unwrap();
    let endless = vec![b'x'; 4 << 20];
    // The service hangs up on a line without an end; how soon the write notices is its own affair.
    let _ = stream.write_all(&endless);
    lab.status("a").unwrap();
    assert_eq!(lab.node("a").daemon(Daemon::Service).unwrap().pid().unwrap(), pid, "it died");
}

#[test]
fn an_address_that_somebody_uses_is_not_taken() {
    let Some(_alone) = ready() else { return };
    let mut say = tell;
    let mut stage = Stage::new(LabOptions::default(), &mut say).unwrap();
    stage.make_cluster().unwrap();
    let taken = Wire::Public.address(60);
    stage.lab.client_ns.ip(&format!("addr add {taken}/24 dev public")).unwrap();
    let address = format!("address={taken}/24");
    stage.command("a", &["group", "create", "second", "--preferred", "a"]).unwrap();
    let create = ["resource", "create", "second-address", "--group", "second"];
    let rest = ["--type", "ip-address", "--set", "network=public", "--set", &address];
    stage.command("a", &[&create[..], &rest].concat()).unwrap();
    let at = now_us();
    stage.command("a", &["group", "online", "second"]).unwrap();
    let owner = mac_text(mac(Wire::Public, 200));
    let why = |s: &wolfpack_types::api::ClusterStatus| {
        let r = s.resources.iter().find(|r| r.name == "second-address")?;
        (r.why.contains(&owner)).then(|| r.why.clone())
    };
    let why = stage.lab.wait_status("a", "the refusal, with the owner's MAC address", why).unwrap();
    assert!(why.contains(&taken.to_string()), "{why}");
    for node in &stage.lab.nodes {
        let online = node.event_since(at, |e| {
            matches!(e, EventKind::ResourceState { name, state: ResourceState::Online, .. }
                if name == "second-address")
        });
        assert!(online.is_none(), "{online:?}");
        let shown = output("ip", &["-n", node.netns().unwrap().name(), "addr"], None).unwrap();
        assert!(!shown.contains(&taken.to_string()), "node {} has it: {shown}", node.name());
    }
    stage.wait_steady("a").unwrap();
}

#[test]
fn a_full_disk_under_the_store_makes_the_node_leave_cleanly() {
    let Some(_alone) = ready() else { return };
    let mut say = tell;
    let mut stage = Stage::new(LabOptions::default(), &mut say).unwrap();
    let state = stage.lab.node("a").dir().join("state");
    let path = state.to_str().unwrap();
    netns::run("mount", &["-t", "tmpfs", "-o", "size=64m", "wolfpack-lab", path], None).unwrap();
    stage.make_cluster().unwrap();
    let service = stage.lab.node("a").daemon(Daemon::Service).unwrap();
    let pid = service.pid().unwrap();
    // Full, to the last block. The log alone has blocks that it filled with zeros ahead of its end,
    // so what is small can still be kept, and is; what is more than those cannot.
    let mut ballast = fs::File::create(state.join("ballast")).unwrap();
    let chunk = vec![1; 4096];
    while ballast.write_all(&chunk).is_ok() {}
    let at = now_us();
    let filler = "x".repeat(100_000);
    let ended = wait_for("the service to give up", PATIENCE, || {
        static COUNT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let i = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        // Refused or not: each is an update that must be made durable.
        let set = ["--timeout", "5", "database", "set", "filler", &format!("{i}"), &filler];
        let _ = stage.lab.wolfpack_raw("b", &set);
        let ends = stage.lab.node("a").daemon(Daemon::Service).unwrap().ends();
        ends.into_iter().find(|e| e.pid == pid).ok_or_else(|| format!("it runs after {i} updates"))
    })
    .unwrap();
    stage.lab.node("a").daemon(Daemon::Service).unwrap().set_restart(false);
    assert_eq!(ended.how, "exit status: 74", "it did not leave for its store");
    stage.wait_moved("b", at).unwrap();
    let log = stage.lab.node("a").log_tail("service.log", 60);
    // The flight recorder may say the same words, and ends nothing.
    let why = |line: &str| line.contains("no durability") && line.contains("No space left");
    assert!(log.lines().any(why), "it does not say why:\n{log}");
    stage.lab.check_watchers().unwrap();
}
