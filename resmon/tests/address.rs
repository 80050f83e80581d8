//! The IP Address type and the guard's renewal, on a real interface with a real neighbour.

mod lab;

use std::time::Duration;

use lab::{LEASE, Lab, Monitor, Service, eventually, spec};
use wolfpack_resource::boottime;
use wolfpack_types::monitor::{GuardEvent, MonitorCommand, MonitorEvent, OnlineMode, ResourceSpec};
use wolfpack_types::objects::ResourceType;

const IP: &str = "10.77.0.9";

fn setup() -> Option<(Lab, Service, Monitor, ResourceSpec)> {
    lab::can_run().then(|| {
        let lab = Lab::new();
        let service = Service::with_lease(&lab, 1);
        let monitor = service.start_monitor(1);
        (lab, service, monitor, address())
    })
}

fn address() -> ResourceSpec {
    let properties = [("address", "10.77.0.9/24"), ("network", "net")];
    spec(1, ResourceType::IpAddress, &properties)
}

/// Whether the peer reaches the address.
fn answers(lab: &Lab) -> bool {
    // The guard's namespace answers a closed port at once; a shut address never.
    let script = "import socket,sys\ns=socket.socket()\ns.settimeout(0.3)\n\
                  try: s.connect(('10.77.0.9',9)); print('yes')\n\
                  except ConnectionRefusedError: print('yes')\n\
                  except OSError: print('no')";
    lab.in_peer(&["python3", "-c", script]).trim() == "yes"
}

/// The hardware address that the peer has for it.
fn neighbour(lab: &Lab) -> String {
    lab.in_peer(&["ip", "neigh", "show", IP])
}

#[test]
fn an_address_answers_while_the_lease_is_renewed_and_goes_when_told() {
    let Some((lab, _service, monitor, address)) = setup() else { return };
    let call = monitor.begin_online(&address, OnlineMode::Start { probe: true });
    monitor.outcome(call).unwrap();
    assert!(lab.has_address(IP) && lab.has_lease(IP));
    let until = std::time::Instant::now() + LEASE * 3;
    while std::time::Instant::now() < until {
        assert!(answers(&lab), "the guard renews it without a gap");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(neighbour(&lab).contains("lladdr"), "{}", neighbour(&lab));
    monitor.send(&MonitorCommand::Announce { resource: address.id });
    monitor.offline(&address).unwrap();
    assert!(!lab.has_address(IP) && !lab.has_lease(IP) && !answers(&lab));
}

#[test]
fn a_lost_service_takes_the_address_away() {
    let Some((lab, service, monitor, address)) = setup() else { return };
    let peer = lab.peer_socket();
    monitor.online(&address).unwrap();
    assert!(answers(&lab));
    service.die();
    lab::uninterrupted(|| peer.recv_from(&mut [0; 2048])).expect("AllTerminated");
    // Proclaimed only after it is gone.
    assert!(!lab.has_address(IP) && !lab.has_lease(IP));
}

#[test]
fn without_service_and_guard_the_kernel_shuts_the_address() {
    let Some((mut lab, service, monitor, address)) = setup() else { return };
    monitor.online(&address).unwrap();
    assert!(answers(&lab));
    service.die();
    lab.kill_guard();
    eventually("the lease runs out by itself", || !lab.has_lease(IP));
    assert!(lab.has_address(IP) || !answers(&lab));
    assert!(!answers(&lab));
    // A new guard clears up.
    lab.start_guard();
    drop(Service::with_lease(&lab, 2));
    assert!(!lab.has_address(IP));
}

#[test]
fn a_new_monitor_finds_the_address_and_it_never_goes() {
    let Some((lab, service, monitor, address)) = setup() else { return };
    monitor.online(&address).unwrap();
    monitor.kill();
    let (event, _) = service.event();
    assert!(matches!(event, GuardEvent::MonitorEnded { .. }));
    // Renewed by the guard, monitor or not.
    std::thread::sleep(LEASE + LEASE / 2);
    assert!(answers(&lab));
    let next = service.start_monitor(1);
    next.restore(&address).unwrap();
    assert!(answers(&lab));
    next.offline(&address).unwrap();
    assert!(!lab.has_address(IP));
}

#[test]
fn what_happens_to_the_address_is_reported_at_once() {
    let Some((lab, _service, monitor, mut address)) = setup() else { return };
    (address.policy.looks_alive_ms, address.policy.is_alive_ms) = (0, 0);
    monitor.online(&address).unwrap();
    lab.in_node(&["ip", "addr", "del", "10.77.0.9/24", "dev", "v0"]);
    let MonitorEvent::Failed { why, .. } = monitor.event() else { panic!() };
    assert!(why.contains("removed"), "{why}");
    monitor.online(&address).unwrap();
    lab.in_node(&["ip", "link", "set", "v0", "down"]);
    let MonitorEvent::Failed { why, .. } = monitor.event() else { panic!() };
    assert!(why.contains("v0"), "{why}");
    monitor.outcome(monitor.begin_terminate(&address)).unwrap();
    let err = monitor.online(&address).unwrap_err();
    assert!(err.contains("v0"), "{err}");
    assert!(!lab.has_address(IP), "nothing half-made");
}

#[test]
fn an_address_in_use_is_not_taken() {
    let Some((lab, _service, monitor, address)) = setup() else { return };
    lab.in_peer(&["ip", "addr", "add", "10.77.0.9/32", "dev", "v1"]);
    let mac = lab.in_peer(&["cat", "/sys/class/net/v1/address"]).trim().to_lowercase();
    let begun = boottime();
    let call = monitor.begin_online(&address, OnlineMode::Start { probe: true });
    let err = monitor.outcome(call).unwrap_err();
    assert!(err.to_lowercase().contains(&mac), "{mac} in {err}");
    assert!(boottime().since(begun) >= LEASE, "the former owner is given a lease's time");
    assert!(!lab.has_address(IP));
    // The other goes away while it is asked again.
    let call = monitor.begin_online(&address, OnlineMode::Start { probe: true });
    lab.in_peer(&["ip", "addr", "del", "10.77.0.9/32", "dev", "v1"]);
    monitor.outcome(call).unwrap();
    assert!(answers(&lab));
}

#[test]
fn wrong_networks_are_refused_with_the_right_ones() {
    let Some((lab, _service, monitor, mut address)) = setup() else { return };
    address.properties.insert("network".into(), "lan".into());
    let err = monitor.online(&address).unwrap_err();
    assert!(err.contains("no network 'lan'; it has: net"), "{err}");
    // The node's own address is nobody's to take.
    let own = [("address", "10.77.0.1/24"), ("network", "net")];
    let err = monitor.online(&spec(2, ResourceType::IpAddress, &own)).unwrap_err();
    assert!(err.contains("10.77.0.1") && !err.contains("undone"), "{err}");
    assert_eq!(std::fs::read_dir(lab.run_dir().join("ledger")).unwrap().count(), 0);
    assert!(lab.has_address("10.77.0.1"), "and it stays");
}
