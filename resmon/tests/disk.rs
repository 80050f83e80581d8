//! The Physical Disk type with a real target: reserved, served to applications, lost, taken again.

mod lab;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use lab::{Lab, Service, eventually, runs, spec};
use wolfpack_diskarb::data::DataDisk;
use wolfpack_diskarb::device::{Naming, Purpose};
use wolfpack_diskarb::nbd_client::NbdClient;
use wolfpack_types::monitor::{MonitorEvent, OnlineMode, ResourceSpec};
use wolfpack_types::objects::ResourceType;
use wolfpack_types::{ClusterId, Guid, NodeId, Times};

const TARGET: &str = "iqn.2026-11.test:d";

/// A tgtd in the peer's network, with one unit.
struct Target {
    tgtd: Child,
    socket: PathBuf,
}

impl Target {
    fn start(lab: &Lab) -> Option<Self> {
        if !Path::new("/usr/sbin/tgtd").exists() {
            eprintln!("SKIPPED: missing tgtd (Debian package tgt)");
            return None;
        }
        let socket = lab.path("tgt");
        let image = lab.path("unit");
        File::create(&image).unwrap().set_len(4 << 20).unwrap();
        let tgtd = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "ip", "netns", "exec", lab.peer_ns()])
            .args(["/usr/sbin/tgtd", "-f", "-C", "0", "-t", "1"])
            .args(["--iscsi", "portal=10.77.0.2:3260"])
            .env("TGT_IPC_SOCKET", &socket)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let target = Self { tgtd, socket };
        let new = ["--mode", "target", "--op", "new", "--tid", "1", "--targetname", TARGET];
        eventually("tgtd answers", || target.admin(&new));
        let image = image.to_str().unwrap();
        let unit =
            ["--mode", "logicalunit", "--op", "new", "--tid", "1", "--lun", "1", "-b", image];
        assert!(target.admin(&unit));
        assert!(target.admin(&["--mode", "target", "--op", "bind", "--tid", "1", "-I", "ALL"]));
        Some(target)
    }

    fn admin(&self, args: &[&str]) -> bool {
        Command::new("/usr/sbin/tgtadm")
            .args(["-C", "0", "--lld", "iscsi"])
            .args(args)
            .env("TGT_IPC_SOCKET", &self.socket)
            .stderr(Stdio::null())
            .status()
            .unwrap()
            .success()
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        let _ = self.tgtd.kill();
        let _ = self.tgtd.wait();
    }
}

fn disk() -> ResourceSpec {
    let url = format!("iscsi://10.77.0.2:3260/{TARGET}/1");
    spec(7, ResourceType::PhysicalDisk, &[("disk", &url)])
}

/// Another node takes the disk, as the cluster would have it do when this one is out.
fn take_elsewhere(lab: &Lab, url: &str) -> DataDisk {
    let naming = Naming {
        cluster: ClusterId(Guid(1)),
        node: NodeId::new(2).unwrap(),
        purpose: Purpose::Data,
    };
    let url = url.to_owned();
    lab.in_peer_network(move || {
        DataDisk::take(&url, &naming, &Times::STANDARD, |_| {}).expect("the disk, after a reset")
    })
}

#[test]
fn a_disk_is_served_to_the_applications_of_its_group() {
    if !lab::can_run() {
        return;
    }
    let lab = Lab::new();
    let Some(_target) = Target::start(&lab) else { return };
    let service = Service::with_lease(&lab, 1);
    let monitor = service.start_monitor(1);
    let disk = disk();
    monitor.online(&disk).unwrap();
    let app = lab.application(1, "echo $WOLFPACK_DISK_R7 > where; echo $$ > pid; exec sleep 1000");
    monitor.online(&app).unwrap();
    let pid = lab.pid_in("pid");
    let path = PathBuf::from(std::fs::read_to_string(lab.path("where")).unwrap().trim());
    let mut client = NbdClient::connect(&path).unwrap();
    client.write_at(4096, b"counter 1").unwrap();
    // A new monitor takes it again and serves it at the same place; the application lives.
    monitor.kill();
    service.event();
    assert!(client.read_at(0, &mut [0]).is_err(), "the export has ended with its monitor");
    let next = service.start_monitor(1);
    next.restore(&disk).unwrap();
    next.restore(&app).unwrap();
    assert_eq!(lab.pid_in("pid"), pid);
    let mut client = NbdClient::connect(&path).unwrap();
    let mut bytes = [0; 9];
    client.read_at(4096, &mut bytes).unwrap();
    assert_eq!(&bytes, b"counter 1");
    // Another owner: this one learns it at once and writes nothing more.
    let other = take_elsewhere(&lab, &disk.properties["disk"]);
    let MonitorEvent::Failed { resource, why } = next.event() else { panic!() };
    assert!(resource == disk.id && why.contains("lost"), "{why}");
    assert!(client.write_at(4096, b"counter 2").is_err());
    assert_eq!(other.handle().read(4096, 9).unwrap(), b"counter 1");
    other.release();
    // And back again.
    next.online(&disk).unwrap();
    NbdClient::connect(&path).unwrap().write_at(4096, b"counter 3").unwrap();
    next.offline(&disk).unwrap();
    assert!(NbdClient::connect(&path).is_err());
    assert!(runs(pid));
}

#[test]
fn a_disk_gives_nothing_more_when_the_lease_is_over() {
    if !lab::can_run() {
        return;
    }
    let lab = Lab::new();
    let Some(_target) = Target::start(&lab) else { return };
    let mut service = Service::with_lease(&lab, 1);
    let monitor = service.start_monitor(1);
    let disk = disk();
    monitor.online(&disk).unwrap();
    let path = lab.run_dir().join("disk/r7.nbd");
    let mut client = NbdClient::connect(&path).unwrap();
    client.write_at(0, b"x").unwrap();
    service.stop_lease();
    eventually("everything is ended", || service.writer.ended() && !runs(monitor.pid));
    assert!(client.write_at(0, b"y").is_err());
    // Nobody holds it any more.
    let other = take_elsewhere(&lab, &disk.properties["disk"]);
    assert_eq!(other.handle().read(0, 1).unwrap(), b"x");
}

#[test]
fn a_stranger_that_defends_its_disk_keeps_it() {
    if !lab::can_run() {
        return;
    }
    let lab = Lab::new();
    let Some(_target) = Target::start(&lab) else { return };
    let service = Service::with_lease(&lab, 1);
    let monitor = service.start_monitor(1);
    let disk = disk();
    let stranger = take_elsewhere(&lab, &disk.properties["disk"]);
    // Nothing proves that the holder was a former owner: it is challenged, and it lives.
    let call = monitor.begin_online(&disk, OnlineMode::Start { probe: true });
    let why = monitor.outcome(call).unwrap_err();
    assert!(why.contains("defends"), "{why}");
    assert!(stranger.still_held());
    // A former owner whose lease is over has no say.
    monitor.online(&disk).unwrap();
}
