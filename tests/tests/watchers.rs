//! The watchers must see what they are for: a planted second owner of the address, a planted
//! writer that comes back, a planted outage. No cluster runs here.

use std::fs::OpenOptions;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use wolfpack_lab::clock::{now_us, wait_for};
use wolfpack_lab::lab::{PORT, cluster_address};
use wolfpack_lab::netns::{self, Netns};
use wolfpack_lab::network::{Switch, Wire, mac};
use wolfpack_lab::reaper::Reaper;
use wolfpack_lab::record::{RECORD_BYTES, Record};
use wolfpack_lab::watch::address::AddressWatcher;
use wolfpack_lab::watch::client::Client;
use wolfpack_lab::watch::disk::DiskWatcher;

const PATIENCE: Duration = Duration::from_secs(30);

/// Two machines and a client on the lab's wires, without any program of ours on them.
struct Wires {
    switch: Switch,
    machines: Vec<Netns>,
    client: Netns,
    _reaper: Reaper,
}

impl Wires {
    fn make() -> Option<Self> {
        if let Err(e) = netns::requirements() {
            eprintln!("SKIPPED: {e}");
            return None;
        }
        let reaper = Reaper::start().unwrap();
        let prefix = reaper.prefix();
        let switch = Switch::create(prefix).unwrap();
        let machine = |label: &str, host| {
            let ns = Netns::create(&format!("{prefix}-{label}")).unwrap();
            switch.plug(&ns, label, Wire::Public, host).unwrap();
            ns
        };
        let machines = vec![machine("a", 1), machine("b", 2)];
        let client = machine("client", 200);
        Some(Self { switch, machines, client, _reaper: reaper })
    }

    fn give_address(&self, machine: usize, add: bool) {
        let verb = if add { "add" } else { "del" };
        let address = cluster_address();
        self.machines[machine].ip(&format!("addr {verb} {address}/24 dev public")).unwrap();
    }

    fn watch(&self) -> AddressWatcher {
        let asker = Wire::Public.address(201);
        AddressWatcher::start(&self.client, "public", asker, cluster_address()).unwrap()
    }
}

/// An HTTP server of the demo's form on one machine, for the life of the process.
fn serve_on(ns: &Netns, name: &'static str) {
    let serve = move || {
        let listener = TcpListener::bind(("0.0.0.0", PORT)).unwrap();
        for mut stream in listener.incoming().flatten() {
            let mut request = [0; 1024];
            let _ = stream.read(&mut request);
            let _ = write!(stream, "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nnode={name}\n");
        }
    };
    ns.thread("server", serve).unwrap();
}

fn answered_by(watcher: &AddressWatcher, machine: u8) {
    let wanted = mac(Wire::Public, machine);
    let since = now_us();
    wait_for("an ARP answer", PATIENCE, || match watcher.last_answer_of(wanted) {
        Some(at) if at >= since => Ok(()),
        seen => Err(format!("its last was {seen:?}")),
    })
    .unwrap();
}

#[test]
fn a_second_owner_of_the_address_is_seen_and_a_move_is_not_one() {
    let Some(wires) = Wires::make() else { return };
    let watcher = wires.watch();
    wires.give_address(0, true);
    answered_by(&watcher, 1);
    wires.give_address(0, false);
    wires.give_address(1, true);
    answered_by(&watcher, 2);
    assert_eq!(watcher.breaches(), Vec::<String>::new(), "a move is no breach");
    wires.give_address(0, true);
    wait_for("the breach", PATIENCE, || match watcher.breaches().len() {
        0 => Err("none was seen".into()),
        _ => Ok(()),
    })
    .unwrap();
    assert!(watcher.breaches()[0].contains("two machines answered"), "{:?}", watcher.breaches());
}

#[test]
fn a_second_owner_behind_a_partition_is_seen_by_the_client_between_them() {
    let Some(wires) = Wires::make() else { return };
    let watcher = wires.watch();
    wires.switch.part("a", "b", Wire::Public).unwrap();
    wires.give_address(0, true);
    wires.give_address(1, true);
    wait_for("the breach", PATIENCE, || match watcher.breaches().len() {
        0 => Err("none was seen".into()),
        _ => Ok(()),
    })
    .unwrap();
}

#[test]
fn the_client_measures_an_outage_and_who_answers_after_it() {
    let Some(wires) = Wires::make() else { return };
    let server = std::net::SocketAddrV4::new(cluster_address(), PORT);
    wires.give_address(0, true);
    serve_on(&wires.machines[0], "a");
    serve_on(&wires.machines[1], "b");
    let client = Client::start(&wires.client, server).unwrap();
    let answer = |from: &str, since: u64| {
        wait_for("an answer", PATIENCE, || {
            let answers = client.answers_since(since);
            let found = answers.iter().find(|a| a.node == from);
            found.cloned().ok_or_else(|| format!("{} other answers came", answers.len()))
        })
        .unwrap()
    };
    answer("a", 0);
    let fault = now_us();
    wires.switch.cable("a", Wire::Public, false).unwrap();
    let gap = Duration::from_millis(300);
    std::thread::sleep(gap);
    wires.give_address(1, true);
    // Nobody announces here, as the cluster would: the client is made to ask again.
    wires.client.ip("neigh flush dev public").unwrap();
    let first = answer("b", fault);
    let outage = client.outage(fault).unwrap();
    assert_eq!((outage.last.node.as_str(), outage.first.node.as_str()), ("a", "b"));
    assert_eq!(outage.first, first);
    assert!(outage.ms() >= 300.0, "the address was nobody's for {gap:?}: {outage:?}");
}

#[test]
fn a_planted_writer_that_comes_back_is_seen() {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(64 << 20).unwrap();
    let disk = OpenOptions::new().write(true).open(file.path()).unwrap();
    let write = |counter: u64, tenure: u64| {
        let record = Record { tenure, counter, time_us: now_us(), node: format!("n{tenure}") };
        let bytes: [u8; RECORD_BYTES] = record.encode();
        disk.write_all_at(&bytes, Record::offset(counter)).unwrap();
    };
    let watcher = DiskWatcher::start(file.path()).unwrap();
    for (counter, tenure) in [(0, 1), (1, 1), (2, 2), (3, 2)] {
        write(counter, tenure);
    }
    let seen = |n: u64| {
        wait_for("the records", PATIENCE, || match watcher.records() {
            r if r >= n => Ok(()),
            r => Err(format!("{r} were seen")),
        })
        .unwrap();
    };
    seen(4);
    assert_eq!(watcher.breaches(), Vec::<String>::new());
    assert_eq!(watcher.tenures().len(), 2);
    write(4, 1);
    seen(5);
    assert_eq!(watcher.breaches().len(), 1, "{:?}", watcher.breaches());
    write(3, 9);
    wait_for("the second breach", PATIENCE, || match watcher.breaches().len() {
        2 => Ok(()),
        n => Err(format!("{n} were seen")),
    })
    .unwrap();
}
