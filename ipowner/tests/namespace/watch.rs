//! The watch against a real kernel: what others do to an address is told, also when news were lost.

use std::os::fd::AsFd;
use std::time::Duration;

use crate::lab::{IP, Lab, address, owner, possible, wait};
use nix::poll::{PollFd, PollFlags, poll};
use wolfpack_ipowner::{Address, Watch, WatchEvent};

const LONG: Duration = Duration::from_secs(60);

#[test]
fn the_watch_tells_what_others_do() {
    if !possible() {
        return;
    }
    let lab = Lab::new(2);
    let (node, other) = (&lab.nodes[0], &lab.nodes[1]);
    let foreign = other.mac("eth0");
    let mut watch = node.run(|| {
        owner().take_over(&address(), false, LONG).unwrap();
        let mut watch = Watch::new().unwrap();
        watch.watch(&address()).unwrap();
        watch
    });

    // A switch that sends the node's own announcement back to it makes no foreign claim of it.
    lab.client.ip("link set port1 type bridge_slave hairpin on");
    node.run(|| owner().announce(&address()).unwrap());
    other.run(|| owner().take_over(&address(), false, LONG).unwrap());
    let claims = expect(&mut watch, &WatchEvent::ForeignClaim { ip: IP, mac: foreign });
    assert_eq!(claims, [WatchEvent::ForeignClaim { ip: IP, mac: foreign }]);
    other.run(|| owner().remove(&address()).unwrap());

    lab.client.ip("link set port1 down");
    expect(&mut watch, &WatchEvent::LinkDown { interface: "eth0".into() });
    lab.client.ip("link set port1 up");
    expect(&mut watch, &WatchEvent::LinkUp { interface: "eth0".into() });

    node.ip(&format!("addr del {IP}/24 dev eth0"));
    expect(&mut watch, &WatchEvent::AddressRemoved { ip: IP });

    // What was gone before the watching began is the first event.
    node.run(|| {
        let mut late = Watch::new().unwrap();
        late.watch(&address()).unwrap();
        assert_eq!(late.events().unwrap(), [WatchEvent::AddressRemoved { ip: IP }]);
        late.unwatch(IP);
        assert_eq!(late.events().unwrap(), []);
    });

    node.ip("link del eth0");
    expect(&mut watch, &WatchEvent::LinkDown { interface: "eth0".into() });
}

/// Waits for an event by the descriptor, as a driver would; all that came until then.
#[track_caller]
fn expect(watch: &mut Watch, wanted: &WatchEvent) -> Vec<WatchEvent> {
    let mut seen = Vec::new();
    wait(&format!("{wanted:?}"), || {
        let mut fds = [PollFd::new(watch.as_fd(), PollFlags::POLLIN)];
        poll(&mut fds, 1000u16).unwrap();
        seen.extend(watch.events().unwrap());
        seen.contains(wanted)
    });
    seen
}

#[test]
fn lost_news_are_made_up_for() {
    if !possible() {
        return;
    }
    let lab = Lab::new(1);
    let node = &lab.nodes[0];
    let mut watch = node.run(|| {
        owner().take_over(&address(), false, LONG).unwrap();
        let mut watch = Watch::new().unwrap();
        watch.watch(&address()).unwrap();
        watch
    });
    // Nobody reads: far more news than the socket's buffer holds, the removal among the last.
    node.run(|| {
        let mut owner = owner();
        for n in 0..4000u32 {
            let [_, _, c, d] = n.to_be_bytes();
            let other = Address::new([10, 78, c, 2 + d % 250].into(), 24, "eth0").unwrap();
            owner.own(&other).unwrap();
            owner.add(&other, LONG).unwrap();
            owner.remove(&other).unwrap();
        }
    });
    node.ip(&format!("addr del {IP}/24 dev eth0"));
    expect(&mut watch, &WatchEvent::AddressRemoved { ip: IP });
}
