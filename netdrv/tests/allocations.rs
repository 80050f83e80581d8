//! In the steady state the driver's thread allocates nothing: what allocates can be made to wait by
//! another thread that holds the allocator's lock, or by the kernel that has no page to give.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant as StdInstant};

use crossbeam_channel::{Receiver, bounded};
use wolfpack_netdrv::{
    ClusterKey, Driver, DriverConfig, DriverEvent, DriverNetwork, EventLoop, Security, start,
};
use wolfpack_types::heartbeat::{HeartbeatCommand, LeaseTerms};
use wolfpack_types::{Incarnation, NetworkId, NodeId, NodeInc, Rules, Times, VoteTable};

const PATIENCE: Duration = Duration::from_secs(120);
/// Heartbeats that come in while it is counted.
const HEARTBEATS: u64 = 2000;

thread_local! {
    /// This thread is one of those looked at. Without a destructor or a lazy beginning, so that the
    /// allocator may read it at any time.
    static LOOKED_AT: Cell<bool> = const { Cell::new(false) };
}

static COUNTING: AtomicBool = AtomicBool::new(false);
static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);
static THREADS: AtomicU64 = AtomicU64::new(0);

struct Counting;

fn count() {
    if COUNTING.load(Ordering::Relaxed) && LOOKED_AT.with(Cell::get) {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
    }
}

// SAFETY: every call is handed on to the system's allocator as it came; the counting allocates
// nothing itself.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: as the caller promised.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: as the caller promised.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: as the caller promised.
        unsafe { System.realloc(at, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn node(n: u8) -> NodeId {
    NodeId::new(n).unwrap()
}

fn config(n: u8, event_loop: EventLoop, port: u16) -> DriverConfig {
    let [a, b] = port.to_be_bytes();
    let address =
        |network: u8, n: u8| IpAddr::from(Ipv4Addr::new(127, a, b.max(1), network * 64 + n));
    let network = |id: u8| DriverNetwork {
        id: NetworkId(id),
        name: format!("net{id}"),
        interface: "lo".into(),
        address: address(id, n),
        peers: [1, 2, 3].map(|n| (node(n), address(id, n))).into(),
        priority: id,
    };
    DriverConfig {
        me: NodeInc::new(node(n), Incarnation(1)),
        key: ClusterKey::from_bytes([3; 32]),
        times: Times { heartbeat: Duration::from_millis(5), misses: 200, ..Times::STANDARD },
        port,
        networks: vec![network(0), network(1)],
        realtime: false,
        event_loop,
        rules: Rules::ALL,
        security: Security::default(),
    }
}

/// A driver that is acknowledged and acknowledges, so that its lease grows with every heartbeat;
/// its thread makes itself known by the function that is told the lease.
fn begin(n: u8, event_loop: EventLoop, port: u16) -> (Driver, Receiver<DriverEvent>) {
    let (notify, events) = bounded(10_000);
    let known = Box::new(|_| {
        if !LOOKED_AT.with(|looked_at| looked_at.replace(true)) {
            THREADS.fetch_add(1, Ordering::SeqCst);
        }
    });
    let driver = start(config(n, event_loop, port), known, notify).unwrap();
    let all = [1, 2, 3].map(|n| (node(n), 1));
    let table = VoteTable { nodes: BTreeMap::from(all), witness: 0 };
    let terms = LeaseTerms { tables: vec![table], ..LeaseTerms::default() };
    driver.command(HeartbeatCommand::SetLeaseTerms(terms));
    let mask = [1, 2, 3].map(|n| NodeInc::new(node(n), Incarnation(1)));
    driver.command(HeartbeatCommand::SetMask { id: 1, mask: mask.into() });
    (driver, events)
}

/// Stretches that are looked at until one has no allocation.
const STRETCHES: u32 = 5;

/// Allocations of the drivers' threads in the best stretch of heartbeats. A machine that does not
/// let the drivers run makes them tell of it, and telling allocates: so a stretch without such
/// trouble is looked for. What allocates for every datagram shows in each of them.
fn allocations_of(event_loop: EventLoop) -> u64 {
    let any = UdpSocket::bind("127.0.0.1:0").unwrap();
    let port = any.local_addr().unwrap().port();
    drop(any);
    let nodes = [1, 2, 3].map(|n| begin(n, event_loop, port));
    let end = StdInstant::now() + PATIENCE;
    // Until so many more datagrams have come in at each.
    let pass = |heartbeats: u64| {
        let before: Vec<_> = nodes.iter().map(|(driver, _)| driver.stats()).collect();
        let behind = |now: u64, before: u64| now - before < heartbeats;
        while nodes.iter().zip(&before).any(|((driver, _), before)| {
            let now = driver.stats();
            behind(now.received, before.received) || behind(now.sent, before.sent)
        }) {
            assert!(StdInstant::now() < end, "heartbeats stopped");
            std::thread::sleep(Duration::from_millis(20));
            for (driver, events) in &nodes {
                driver.core_alive();
                while events.try_recv().is_ok() {}
            }
        }
    };
    // Sessions begin, buffers reach their size.
    pass(HEARTBEATS);
    assert_eq!(THREADS.swap(0, Ordering::SeqCst), 3, "all three threads are looked at");
    let mut best = u64::MAX;
    for _ in 0..STRETCHES {
        COUNTING.store(true, Ordering::SeqCst);
        let before = ALLOCATIONS.load(Ordering::SeqCst);
        pass(HEARTBEATS);
        best = best.min(ALLOCATIONS.load(Ordering::SeqCst) - before);
        COUNTING.store(false, Ordering::SeqCst);
        if best == 0 {
            break;
        }
    }
    best
}

#[test]
fn heartbeats_come_in_and_go_out_without_an_allocation() {
    for event_loop in [EventLoop::Uring, EventLoop::Epoll] {
        assert_eq!(allocations_of(event_loop), 0, "{event_loop:?}");
    }
    // And the counting counts.
    LOOKED_AT.with(|looked_at| looked_at.set(true));
    COUNTING.store(true, Ordering::SeqCst);
    let before = ALLOCATIONS.load(Ordering::SeqCst);
    drop(std::hint::black_box(vec![1_u8; 100]));
    assert_eq!(ALLOCATIONS.load(Ordering::SeqCst) - before, 1);
}
