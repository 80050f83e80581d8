//! How the loop fares: written by its thread, read by any, without locks.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use wolfpack_types::Instant;

use crate::{DELAY_BUCKETS, DriverStats};

/// The recent worst delay is that of the last one to two of these.
const WINDOW: Duration = Duration::from_secs(60);

/// The figures. Only the loop's thread writes, so plain loads and stores do.
#[derive(Debug, Default)]
pub(crate) struct Stats {
    uring: AtomicBool,
    realtime: AtomicBool,
    memory_locked: AtomicBool,
    delays: [AtomicU64; DELAY_BUCKETS],
    worst_ns: AtomicU64,
    /// Worst of the window before this one, and of this one.
    before_ns: AtomicU64,
    window_ns: AtomicU64,
    window_since: AtomicU64,
    received: AtomicU64,
    sent: AtomicU64,
    turns: AtomicU64,
}

fn add(to: &AtomicU64, what: u64) {
    to.store(to.load(Ordering::Relaxed).wrapping_add(what), Ordering::Relaxed);
}

fn raise(to: &AtomicU64, what: u64) {
    if to.load(Ordering::Relaxed) < what {
        to.store(what, Ordering::Relaxed);
    }
}

impl Stats {
    pub(crate) fn set_kind(&self, uring: bool, realtime: bool, memory_locked: bool) {
        self.uring.store(uring, Ordering::Relaxed);
        self.realtime.store(realtime, Ordering::Relaxed);
        self.memory_locked.store(memory_locked, Ordering::Relaxed);
    }

    /// The loop ran at this time; it had wanted to run at `deadline` at the latest.
    pub(crate) fn turn(&self, now: Instant, deadline: Instant) {
        add(&self.turns, 1);
        if now < deadline {
            return;
        }
        let since = Instant(self.window_since.load(Ordering::Relaxed));
        if now.since(since) >= WINDOW {
            let past = self.window_ns.swap(0, Ordering::Relaxed);
            // A window long ago says nothing of now.
            let past = if now.since(since) >= WINDOW * 2 { 0 } else { past };
            self.before_ns.store(past, Ordering::Relaxed);
            self.window_since.store(now.0, Ordering::Relaxed);
        }
        let late = now.since(deadline);
        let ns = u64::try_from(late.as_nanos()).unwrap_or(u64::MAX);
        add(&self.delays[bucket(late)], 1);
        raise(&self.window_ns, ns);
        raise(&self.worst_ns, ns);
    }

    pub(crate) fn received(&self, count: usize) {
        add(&self.received, count as u64);
    }

    pub(crate) fn sent(&self) {
        add(&self.sent, 1);
    }

    pub(crate) fn read(&self) -> DriverStats {
        let get = |from: &AtomicU64| from.load(Ordering::Relaxed);
        let recent = get(&self.before_ns).max(get(&self.window_ns));
        DriverStats {
            event_loop: if self.uring.load(Ordering::Relaxed) { "io_uring" } else { "epoll" },
            realtime: self.realtime.load(Ordering::Relaxed),
            memory_locked: self.memory_locked.load(Ordering::Relaxed),
            recent_worst_delay: Duration::from_nanos(recent),
            worst_delay: Duration::from_nanos(get(&self.worst_ns)),
            delays: std::array::from_fn(|n| get(&self.delays[n])),
            received: get(&self.received),
            sent: get(&self.sent),
            turns: get(&self.turns),
        }
    }
}

/// The bucket of a delay: the number of binary digits of its microseconds.
fn bucket(late: Duration) -> usize {
    let us = u64::try_from(late.as_micros()).unwrap_or(u64::MAX);
    let digits = (u64::BITS - us.leading_zeros()) as usize;
    digits.min(DELAY_BUCKETS - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Instant = Instant(5_000_000_000_000);

    #[test]
    fn delays_fall_into_buckets_by_power_of_two() {
        let us = Duration::from_micros;
        let buckets = [0, 1, 2, 3, 4, 1023, 1024].map(|n| bucket(us(n)));
        assert_eq!(buckets, [0, 1, 2, 2, 3, 10, 11]);
        assert_eq!(bucket(Duration::MAX), DELAY_BUCKETS - 1);
    }

    #[test]
    fn the_recent_worst_is_forgotten_and_the_worst_is_not() {
        let stats = Stats::default();
        let (ms, second) = (Duration::from_millis(1), Duration::from_secs(1));
        stats.turn(START + ms * 30, START);
        assert_eq!(stats.read().recent_worst_delay, ms * 30);
        // Woken by something else, before the time: no delay.
        stats.turn(START + second, START + second * 2);
        assert_eq!(stats.read().delays.iter().sum::<u64>(), 1);
        for minute in 1..4 {
            let at = START + second * 61 * minute;
            stats.turn(at + ms, at);
        }
        let read = stats.read();
        assert_eq!((read.recent_worst_delay, read.worst_delay), (ms, ms * 30));
        assert_eq!(read.turns, 5);
    }

    #[test]
    fn a_quiet_time_is_no_recent_window() {
        let stats = Stats::default();
        stats.turn(START + Duration::from_millis(30), START);
        let later = START + Duration::from_secs(1000);
        stats.turn(later, later);
        assert_eq!(stats.read().recent_worst_delay, Duration::ZERO);
    }
}
