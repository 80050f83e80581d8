//! Taking an address over, holding it, giving it up: what the client sees, and what is refused.

use std::net::UdpSocket;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::lab::{Echo, IP, Lab, Namespace, address, answers, asker, bound, owner, possible, wait};
use wolfpack_ipowner::{Address, Claim, IpError, IpOwner, ProbeOutcome, Renewal};

const LONG: Duration = Duration::from_secs(60);

#[test]
fn an_address_answers_while_leased_and_the_kernel_alone_ends_it() {
    if !possible() {
        return;
    }
    let lab = Lab::new(1);
    let (node, client) = (&lab.nodes[0], &lab.client);
    let _echo = Echo::new(node);
    let ask = asker(client);

    // Shut, on the interface, without lease: neither ARP nor IP.
    node.run(|| {
        let mut owner = owner();
        owner.own(&address()).unwrap();
        owner.add(&address(), LONG).unwrap();
        assert!(owner.present(&address()).unwrap());
        assert_eq!(owner.lease_left(IP).unwrap(), None);
    });
    assert_eq!(probe(client, "br0"), ProbeOutcome::Free);
    assert!(!answers(&ask, 1));

    // Leased, by a process that is gone when it is asked.
    node.run(|| IpOwner::new("wolfpack").unwrap().lease(IP, Duration::from_secs(5)).unwrap());
    assert_eq!(probe(client, "br0"), ProbeOutcome::InUse { mac: node.mac("eth0") });
    let mut question = 1;
    wait("the leased address answers", || {
        question += 1;
        answers(&ask, question)
    });
    wait("the kernel ends the lease", || {
        question += 1;
        !answers(&ask, question)
    });
    assert_eq!(probe(client, "br0"), ProbeOutcome::Free);
    node.run(|| {
        let mut owner = owner();
        assert_eq!(owner.lease_left(IP).unwrap(), None);
        // It is still configured: the filter alone has silenced it.
        assert!(owner.present(&address()).unwrap());
    });
}

#[test]
fn without_a_lease_nothing_comes_in_and_nothing_goes_out() {
    if !possible() {
        return;
    }
    let lab = Lab::new(1);
    let (node, client) = (&lab.nodes[0], &lab.client);
    // A client that knows the hardware address already: ARP alone does not stop it.
    client.ip(&format!("neigh replace {IP} lladdr {} dev br0 nud permanent", node.mac("eth0")));
    let (inside, beside) = node.run(|| {
        let mut owner = owner();
        owner.own(&address()).unwrap();
        owner.add(&address(), LONG).unwrap();
        // Without a claim it is shut all the same.
        owner.disown(&address()).unwrap();
        (bound(7008), UdpSocket::bind("10.77.0.11:7009").unwrap())
    });
    let outside = client.run(|| UdpSocket::bind("10.77.0.1:7010").unwrap());
    outside.send_to(b"shut", (IP, 7008)).unwrap();
    // What comes by the same way afterwards shows that the first has had its time.
    outside.send_to(b"after", "10.77.0.11:7009").unwrap();
    let mut buffer = [0; 16];
    assert_eq!(beside.recv(&mut buffer).unwrap(), 5);
    let refused = inside.send_to(b"out", "10.77.0.1:7010").unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::PermissionDenied);

    // As a leftover it is shut, and foreign to who would take it over; leased it is open.
    node.run(|| {
        assert!(matches!(owner().own(&address()), Err(IpError::AlreadyConfigured { .. })));
        owner().lease(IP, LONG).unwrap();
    });
    outside.send_to(b"open", (IP, 7008)).unwrap();
    let length = inside.recv(&mut buffer).unwrap();
    assert_eq!(&buffer[..length], b"open", "the one sent to a shut address came in");
    inside.send_to(b"out", "10.77.0.1:7010").unwrap();
    let (length, from) = outside.recv_from(&mut buffer).unwrap();
    assert_eq!((&buffer[..length], from.ip()), (&b"out"[..], IP.into()));
}

#[test]
fn a_renewed_lease_has_no_gap() {
    if !possible() {
        return;
    }
    for renewal in [None, Some(Renewal::Extend), Some(Renewal::Replace)] {
        let lab = Lab::new(1);
        let node = &lab.nodes[0];
        let lengthens = node.run(|| lengthens(renewal));
        if renewal == Some(Renewal::Extend) && !lengthens {
            eprintln!("SKIPPED: missing a kernel (6.12 or later) that extends set elements");
            continue;
        }
        assert!(lengthens, "{renewal:?}");
        let _echo = Echo::new(node);
        // On a loaded machine a renewal can come too late; then the run shows nothing.
        let lost = (0..10).find_map(|_| lost_while_renewed(&lab, renewal));
        let lost = lost.expect("a run in which no renewal came late");
        // Between processors a replaced element may be missed (see `Renewal::Replace`).
        let allowed = usize::from(renewal == Some(Renewal::Replace));
        assert!(lost <= allowed, "{renewal:?}: {lost} questions were lost");
    }
}

/// Whether a short lease becomes a long one.
fn lengthens(renewal: Option<Renewal>) -> bool {
    let mut owner = with(renewal);
    owner.own(&address()).unwrap();
    owner.lease(IP, Duration::from_secs(10)).unwrap();
    owner.lease(IP, LONG).unwrap();
    let left = owner.lease_left(IP).unwrap().expect("a lease");
    if renewal.is_none() {
        eprintln!("this kernel renews by {:?}", owner.renewal().unwrap());
    }
    left > Duration::from_secs(11)
}

/// Renews for several lease times while the client asks all the time; how many questions were lost,
/// `None` if the machine let a renewal come too late.
fn lost_while_renewed(lab: &Lab, renewal: Option<Renewal>) -> Option<usize> {
    let lease = Duration::from_millis(600);
    let ask = asker(&lab.client);
    let claim = Claim { ip: IP, interface: "eth0".into() };
    lab.nodes[0].run(|| {
        let mut owner = with(renewal);
        owner.take_over(&address(), false, LONG).unwrap();
        wait("the address answers", || answers(&ask, 0));
        owner.unlease(IP).unwrap();
        owner.lease(IP, lease).unwrap();
        let start = Instant::now();
        std::thread::scope(|scope| {
            let client = scope.spawn(|| {
                let mut lost = 0;
                let mut question = 0;
                while start.elapsed() < lease * 4 {
                    question += 1;
                    lost += usize::from(!answers(&ask, question));
                }
                lost
            });
            let mut latest = Duration::ZERO;
            while !client.is_finished() {
                let before = Instant::now();
                std::thread::sleep(lease / 4);
                owner.renew(&claim, lease).unwrap();
                latest = latest.max(before.elapsed());
            }
            let lost = client.join().unwrap();
            owner.remove(&address()).unwrap();
            (latest < lease - Duration::from_millis(100)).then_some(lost)
        })
    })
}

fn with(renewal: Option<Renewal>) -> IpOwner {
    let owner = owner();
    match renewal {
        Some(renewal) => owner.with_renewal(renewal),
        None => owner,
    }
}

#[test]
fn a_removed_address_leaves_nothing() {
    if !possible() {
        return;
    }
    let lab = Lab::new(1);
    let node = &lab.nodes[0];
    node.run(|| {
        let mut owner = owner();
        owner.take_over(&address(), true, LONG).unwrap();
        owner.prepare_filter().unwrap();
        assert!(owner.lease_left(IP).unwrap().is_some(), "preparing again keeps leases");
        let claim = Claim { ip: IP, interface: "eth0".into() };
        assert_eq!(owner.claimed().unwrap(), std::slice::from_ref(&claim));
        owner.remove(&address()).unwrap();
        assert!(!owner.present(&address()).unwrap());
        assert_eq!(owner.lease_left(IP).unwrap(), None);
        assert_eq!(owner.claimed().unwrap(), []);
        owner.remove(&address()).unwrap();
        owner.remove_claim(&claim).unwrap();
        // Renewing what was given up brings nothing back.
        owner.renew(&claim, LONG).unwrap();
        assert!(!owner.present(&address()).unwrap());
        // And the guard's way, which knows no prefix.
        owner.take_over(&address(), false, LONG).unwrap();
        owner.remove_claim(&claim).unwrap();
        assert!(!owner.present(&address()).unwrap());
        assert_eq!(owner.claimed().unwrap(), []);
    });
    assert_eq!(probe(&lab.client, "br0"), ProbeOutcome::Free);
}

#[test]
fn a_renewal_that_races_a_removal_brings_nothing_back() {
    if !possible() {
        return;
    }
    let lab = Lab::new(1);
    let node = &lab.nodes[0];
    let (stop, renewals) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        let guard = scope.spawn(|| {
            node.run(|| {
                let mut guard = owner();
                let claim = Claim { ip: IP, interface: "eth0".into() };
                while !stop.load(Ordering::SeqCst) {
                    // Longer each time, so that each writes the life time of the address.
                    let number = renewals.fetch_add(1, Ordering::SeqCst);
                    guard.renew(&claim, Duration::from_secs(1 + number % 60)).unwrap();
                }
            });
        });
        let stopper = Stop(&stop);
        node.run(|| {
            let mut monitor = owner();
            for _ in 0..1000 {
                monitor.take_over(&address(), false, Duration::from_millis(100)).unwrap();
                monitor.remove(&address()).unwrap();
                // The renewal under way at the removal has ended when two more have begun.
                let seen = renewals.load(Ordering::SeqCst);
                while renewals.load(Ordering::SeqCst) < seen + 2 {
                    assert!(!guard.is_finished(), "the renewing thread has failed");
                    std::thread::yield_now();
                }
                assert!(!monitor.present(&address()).unwrap());
            }
        });
        drop(stopper);
        guard.join().unwrap();
    });
}

/// Ends the other thread also when this one panics.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

#[test]
fn the_address_itself_is_ended_by_the_kernel_too() {
    if !possible() {
        return;
    }
    let lab = Lab::new(1);
    lab.nodes[0].run(|| {
        let mut owner = owner();
        owner.take_over(&address(), false, Duration::from_millis(100)).unwrap();
        wait("the coarse life time ends", || !owner.present(&address()).unwrap());
        assert!(matches!(owner.refresh_valid(&address(), LONG), Err(IpError::NotOwned { .. })));
    });
}

#[test]
fn an_address_in_use_is_found_and_left_alone() {
    if !possible() {
        return;
    }
    let lab = Lab::new(2);
    let (node, other) = (&lab.nodes[0], &lab.nodes[1]);
    other.ip(&format!("addr add {IP}/24 dev eth0"));
    let mac = other.mac("eth0");
    node.run(|| {
        let mut owner = owner();
        assert_eq!(owner.probe(&address()).unwrap(), ProbeOutcome::InUse { mac });
        let refused = owner.take_over(&address(), true, LONG).unwrap_err();
        assert!(matches!(refused, IpError::InUse { mac: by, .. } if by == mac), "{refused}");
        assert!(refused.to_string().contains(&mac.to_string()));
        assert_eq!(owner.claimed().unwrap(), []);
        assert!(!owner.present(&address()).unwrap());
    });
    other.ip(&format!("addr del {IP}/24 dev eth0"));
    assert_eq!(probe(node, "eth0"), ProbeOutcome::Free);
}

#[test]
fn an_announcement_turns_the_neighbours() {
    if !possible() {
        return;
    }
    let lab = Lab::new(2);
    let ask = asker(&lab.client);
    let _echoes: Vec<_> = lab.nodes.iter().map(Echo::new).collect();
    let mut question = 0;
    for node in [&lab.nodes[0], &lab.nodes[1], &lab.nodes[0]] {
        // The former owner is cut off without a word: the client's entry is the old one.
        node.run(|| owner().take_over(&address(), false, LONG).unwrap());
        let mac = node.mac("eth0").to_string();
        // The first time there is no entry to turn: the question makes it.
        if question == 0 {
            wait("the first owner answers", || {
                question += 1;
                answers(&ask, question)
            });
        }
        wait("the neighbour entry is the new owner's", || {
            lab.client.neighbour() == Some(mac.clone())
        });
        node.run(|| owner().remove(&address()).unwrap());
    }
}

#[test]
fn only_its_own_interface_answers_for_an_address() {
    if !possible() {
        return;
    }
    let lab = Lab::new(1);
    let node = &lab.nodes[0];
    // Another segment of the node, where Linux would answer for the address as well.
    let aside = Namespace::new();
    node.ip(&format!("link add eth1 type veth peer name eth0 netns {}", aside.0));
    node.ip("link set eth1 up");
    aside.ip("link set eth0 up");
    node.run(|| owner().take_over(&address(), false, LONG).unwrap());
    assert_eq!(probe(&lab.client, "br0"), ProbeOutcome::InUse { mac: node.mac("eth0") });
    assert_eq!(probe(&aside, "eth0"), ProbeOutcome::Free);
}

#[test]
fn a_flushed_ruleset_is_noticed_and_restored() {
    if !possible() {
        return;
    }
    let lab = Lab::new(1);
    lab.nodes[0].run(|| {
        let mut owner = owner();
        owner.take_over(&address(), false, LONG).unwrap();
        let claims = owner.claimed().unwrap();
        let flushed = std::process::Command::new("nft").args(["flush", "ruleset"]).status();
        assert!(flushed.unwrap().success());
        assert!(matches!(owner.lease(IP, LONG), Err(IpError::NoFilter { .. })));
        assert!(matches!(owner.renew(&claims[0], LONG), Err(IpError::NoFilter { .. })));
        assert!(matches!(owner.lease_left(IP), Err(IpError::NoFilter { .. })));
        owner.restore_filter(&claims).unwrap();
        assert_eq!(owner.lease_left(IP).unwrap(), None);
        owner.lease(IP, LONG).unwrap();
        assert_eq!(owner.claimed().unwrap(), claims);
        // Without the filter an address can still be given up.
        let flushed = std::process::Command::new("nft").args(["flush", "ruleset"]).status();
        assert!(flushed.unwrap().success());
        owner.remove(&address()).unwrap();
        assert!(!owner.present(&address()).unwrap());
    });
}

#[test]
fn a_lease_too_short_shuts_instead_of_staying_for_ever() {
    if !possible() {
        return;
    }
    let lab = Lab::new(1);
    lab.nodes[0].run(|| {
        let mut owner = owner();
        owner.take_over(&address(), false, LONG).unwrap();
        for remaining in [Duration::ZERO, Duration::from_micros(900), Duration::from_millis(3)] {
            owner.lease(IP, LONG).unwrap();
            let refused = owner.lease(IP, remaining);
            assert!(matches!(refused, Err(IpError::LeaseTooShort { .. })), "{refused:?}");
            assert_eq!(owner.lease_left(IP).unwrap(), None);
        }
        // And the longest is bounded, whatever the caller says.
        owner.lease(IP, Duration::MAX).unwrap();
        assert!(owner.lease_left(IP).unwrap().unwrap() <= wolfpack_ipowner::LEASE_MAX);
        owner.lease(IP, wolfpack_ipowner::LEASE_MIN).unwrap();
        wait("the shortest lease ends", || owner.lease_left(IP).unwrap().is_none());
    });
}

#[test]
fn refusals_name_what_is_wrong_and_leave_nothing() {
    if !possible() {
        return;
    }
    let lab = Lab::new(1);
    let node = &lab.nodes[0];
    node.ip("addr add 10.77.0.6/24 dev eth0");
    node.ip("link add eth1 type veth peer name eth2");
    node.run(|| {
        let mut bare = IpOwner::new("wolfpack").unwrap();
        assert!(matches!(bare.own(&address()), Err(IpError::NoFilter { .. })));
        assert!(matches!(bare.claimed(), Err(IpError::NoFilter { .. })));
        bare.remove(&Address::parse("10.77.0.6/24", "eth0").unwrap()).unwrap();

        let mut owner = owner();
        let on = |text, interface| Address::parse(text, interface).unwrap();
        let refused = |result: Result<(), IpError>, part: &str| {
            let message = result.unwrap_err().to_string();
            assert!(message.contains(part), "{message}");
        };
        refused(owner.take_over(&on("10.77.0.5/24", "eth9"), true, LONG), "eth9");
        refused(owner.take_over(&on("10.77.0.5/24", "lo"), true, LONG), "no Ethernet");
        refused(owner.take_over(&on("10.77.0.5/24", "eth1"), true, LONG), "is down");
        refused(owner.take_over(&on("10.77.0.5/24", "eth1"), false, LONG), "is down");
        refused(owner.take_over(&on("10.77.0.6/24", "eth0"), false, LONG), "somebody else");
        // Giving up what one does not have takes nothing from others.
        owner.remove(&on("10.77.0.6/24", "eth0")).unwrap();
        assert!(owner.present(&on("10.77.0.6/24", "eth0")).unwrap());
        refused(owner.add(&address(), LONG), "not shut");
        refused(owner.announce(&address()), "no lease");
        assert_eq!(owner.claimed().unwrap(), []);
        assert!(!owner.present(&address()).unwrap());
        assert!(!owner.present(&on("10.77.0.5/24", "eth9")).unwrap());

        owner.take_over(&address(), false, LONG).unwrap();
        refused(owner.take_over(&on("10.77.0.5/24", "eth2"), false, LONG), "eth0");
        assert!(owner.lease_left(IP).unwrap().is_some(), "the refused one has not ended the good");
    });
}

fn probe(from: &Namespace, interface: &str) -> ProbeOutcome {
    let address = Address::new(IP, 24, interface).unwrap();
    from.run(|| IpOwner::new("wolfpack").unwrap().probe(&address).unwrap())
}
