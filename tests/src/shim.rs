//! A bad wire: cluster datagrams from one node to another, on one network, are taken out by the
//! switch and carried by hand: late, out of order, twice, or not at all. (The kernel of the labs has no
//! netem.) Everything else on the wire passes as ever.

use std::collections::BinaryHeap;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

use anyhow::{Result, anyhow};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::clock::now_us;
use crate::intruder::payload;
use crate::network::{Switch, Wire};
use crate::sys::PacketSocket;

/// All frames: those of one type are the bridge's before a socket on its port sees them.
const ETHERTYPE_ALL: u16 = 3;
/// Where the UDP checksum is in a frame whose IP header has no options.
const CHECKSUM: std::ops::Range<usize> = 40..42;
/// Frames on the way at once; a wire that holds more loses them.
const FRAMES_MAX: usize = 10_000;

/// What a wire does to datagrams. Chances are in thousandths.
#[derive(Clone, Copy, Debug)]
pub struct Badness {
    pub lost: u32,
    pub twice: u32,
    /// Each frame, and each second one, is late by anything up to this: so they overtake each other.
    pub late_us: u64,
}

/// What a wire has done.
#[derive(Debug, Default)]
pub struct Counts {
    pub taken: AtomicU64,
    pub lost: AtomicU64,
    pub doubled: AtomicU64,
    /// Delivered after one that came later.
    pub overtaken: AtomicU64,
}

/// One direction of a bad wire. Dropping it mends the wire, once the switch is healed.
#[derive(Debug)]
pub struct Shim {
    stop: Arc<AtomicBool>,
    pub counts: Arc<Counts>,
    thread: Option<JoinHandle<Result<Result<()>>>>,
}

/// A frame on the way; the heap's greatest is the next due.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Late {
    due: std::cmp::Reverse<u64>,
    number: u64,
    frame: Vec<u8>,
}

impl Shim {
    /// Makes the wire from one node to another bad. `port`: the cluster's UDP port.
    ///
    /// # Errors
    /// What `nft` says, or no packet socket.
    pub fn start(
        switch: &Switch,
        wire: Wire,
        from: (&'static str, u8),
        to: (&'static str, u8),
        port: u16,
        badness: Badness,
    ) -> Result<Self> {
        let name = wire.name();
        let (here, there) = (format!("{}-{name}", from.0), format!("{}-{name}", to.0));
        let (source, destination) = (wire.address(from.1), wire.address(to.1));
        let (stop, counts) = (Arc::new(AtomicBool::new(false)), Arc::new(Counts::default()));
        let (stopped, counted) = (Arc::clone(&stop), Arc::clone(&counts));
        let (ready, is_ready) = std::sync::mpsc::channel();
        let (out_of, into) = (here.clone(), there.clone());
        let carry = move || -> Result<()> {
            let ears = PacketSocket::open(&out_of, ETHERTYPE_ALL)?;
            let mouth = PacketSocket::open(&into, 0)?;
            // Whoever waits is gone only if it failed itself.
            let _ = ready.send(());
            let mine = |frame: &[u8]| {
                let udp = payload(frame, source, destination).is_some();
                udp && frame.get(36..38) == Some(&port.to_be_bytes()[..])
            };
            let mut dice = 0x9e37_79b9_7f4a_7c15 ^ u64::from(from.1) << 8 ^ u64::from(to.1);
            let mut carrier =
                Carrier { badness, counts: counted, late: BinaryHeap::new(), number: 0, newest: 0 };
            let mut frame = [0; 2048];
            while !stopped.load(Ordering::Acquire) {
                let wait = carrier.next_due().map_or(20, |due| due.saturating_sub(now_us()) / 1000);
                let wait = u16::try_from(wait.min(20)).unwrap_or(20);
                let mut fds = [PollFd::new(ears.as_fd(), PollFlags::POLLIN)];
                poll(&mut fds, PollTimeout::from(wait))?;
                while let Ok(len) = ears.receive(&mut frame) {
                    if mine(&frame[..len]) {
                        // The sender's kernel left it to a card to make: none, as IPv4 allows.
                        frame[CHECKSUM].fill(0);
                        carrier.take(&frame[..len], &mut dice);
                    }
                }
                while let Some(frame) = carrier.give() {
                    // A cable that is pulled, or a full queue: lost, as on any wire.
                    let _ = mouth.send(&frame);
                }
            }
            Ok(())
        };
        let thread = switch.netns().thread("lab-shim", carry)?;
        is_ready.recv().map_err(|_| anyhow!("the shim on {here} could not listen"))?;
        switch.netns().nft(&format!(
            "add rule bridge faults forward iifname {here} oifname {there} ether type ip ip protocol udp \
             udp dport {port} drop"
        ))?;
        Ok(Self { stop, counts, thread: Some(thread) })
    }
}

impl Drop for Shim {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take()
            && let Ok(Ok(Err(e)) | Err(e)) = thread.join()
        {
            eprintln!("the shim had failed: {e:#}");
        }
    }
}

/// Frames on their way.
struct Carrier {
    badness: Badness,
    counts: Arc<Counts>,
    late: BinaryHeap<Late>,
    number: u64,
    /// Highest number given.
    newest: u64,
}

/// Marsaglia's xorshift64: the same frames have the same fate in every run.
fn roll(dice: &mut u64) -> u64 {
    *dice ^= *dice << 13;
    *dice ^= *dice >> 7;
    *dice ^= *dice << 17;
    *dice
}

impl Carrier {
    fn take(&mut self, frame: &[u8], dice: &mut u64) {
        self.counts.taken.fetch_add(1, Ordering::Relaxed);
        let chance = |permille: u32, dice: &mut u64| roll(dice) % 1000 < u64::from(permille);
        if chance(self.badness.lost, dice) || self.late.len() >= FRAMES_MAX {
            self.counts.lost.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let twice = chance(self.badness.twice, dice);
        if twice {
            self.counts.doubled.fetch_add(1, Ordering::Relaxed);
        }
        self.number += 1;
        for _ in 0..=u8::from(twice) {
            let due = now_us() + roll(dice) % self.badness.late_us.max(1);
            let due = std::cmp::Reverse(due);
            self.late.push(Late { due, number: self.number, frame: frame.to_vec() });
        }
    }

    fn next_due(&self) -> Option<u64> {
        self.late.peek().map(|late| late.due.0)
    }

    fn give(&mut self) -> Option<Vec<u8>> {
        if self.next_due()? > now_us() {
            return None;
        }
        let late = self.late.pop()?;
        if late.number < self.newest {
            self.counts.overtaken.fetch_add(1, Ordering::Relaxed);
        }
        self.newest = self.newest.max(late.number);
        Some(late.frame)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn carrier(badness: Badness) -> Carrier {
        let counts = Arc::new(Counts::default());
        Carrier { badness, counts, late: BinaryHeap::new(), number: 0, newest: 0 }
    }

    #[test]
    fn a_bad_wire_loses_doubles_and_reorders_about_as_often_as_told() {
        let mut carrier = carrier(Badness { lost: 300, twice: 200, late_us: 500 });
        let mut dice = 7;
        for n in 0..2000_u32 {
            carrier.take(&n.to_be_bytes(), &mut dice);
        }
        let mut given = 0;
        while carrier.next_due().is_some() {
            given += u64::from(carrier.give().is_some());
        }
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let (lost, doubled) = (read(&carrier.counts.lost), read(&carrier.counts.doubled));
        assert!((500..700).contains(&lost) && (200..360).contains(&doubled), "{lost} {doubled}");
        assert_eq!(given, 2000 - lost + doubled);
        assert!(read(&carrier.counts.overtaken) > 100);
    }
}
