//! The pause detector: notices that the own clock stood still while a peer's ran on (P6).
//!
//! A machine that is frozen and resumed with its clock where it was believes that its lease still
//! holds. It learns better from the peers' clocks: the offset *peer's clock in a heartbeat - own
//! clock at receipt* can fall without limit when a heartbeat is delayed, but can rise only by the
//! drift of the clocks and by delay that went away. The highest offset of the recent past belongs to
//! the smallest delay; an offset above it by more than L/4 means that the own clock is behind.
//!
//! A few first heartbeats may all have been late, together (they waited in a socket while the own
//! driver was busy), so the baseline counts only when it was gathered over a T_detect. And it rises
//! only with the own clock: heartbeats that waited before a machine which stood still (in the ring of
//! its network card) come all at one time of its clock, each a period above the one before, and would
//! lift the baseline with them in steps that are too small to be seen.

use std::time::Duration;

use wolfpack_types::times::DRIFT_PPM;
use wolfpack_types::{Instant, Times};

/// The baseline is the highest offset of the last one to two half windows, and a window is this
/// many leases: long enough that a spell of delay does not become the baseline, short enough that
/// the allowance for drift over it (2 rho x 30 L = 0.06 L) stays well below L/4.
const WINDOW_LEASES: u32 = 30;

/// Clocks of two machines move apart by at most this: (1 + rho) / (1 - rho) - 1, rounded up.
const APART_PPM: i128 = 2 * DRIFT_PPM as i128 + 5;

/// Highest offset of a half window.
#[derive(Clone, Copy, Debug)]
struct Highest {
    offset: i128,
    at: Instant,
}

impl Highest {
    /// The highest offset that drift alone explains now.
    fn expected(self, now: Instant) -> i128 {
        let age = i128::from(now.0) - i128::from(self.at.0);
        self.offset + age.max(0) * APART_PPM / 1_000_000
    }
}

/// Watches the clock of one life of a peer.
#[derive(Debug)]
pub(crate) struct PauseWatch {
    current: Highest,
    current_since: Instant,
    previous: Option<Highest>,
    /// Times of reading, different ones, that the baseline rests on; up to what is needed.
    readings: u32,
    last: Instant,
}

impl PauseWatch {
    /// The first heartbeat of a life.
    pub(crate) fn new(now: Instant, clock: Instant) -> Self {
        let current = Highest { offset: offset(now, clock), at: now };
        Self { current, current_since: now, previous: None, readings: 1, last: now }
    }

    /// A further heartbeat. By how much the own clock is behind, if it is by more than a quarter of
    /// the lease; said once, then the new offset is the baseline.
    pub(crate) fn observe(
        &mut self,
        now: Instant,
        clock: Instant,
        times: &Times,
    ) -> Option<Duration> {
        let offset = offset(now, clock);
        let (lease, needed) = (times.lease, times.misses);
        // What is read at one time, or nearly, may have been late together.
        let apart = now.since(self.last) >= times.heartbeat / 2;
        if apart {
            self.readings = self.readings.saturating_add(1).min(needed + 1);
            self.last = now;
        }
        let expected =
            self.previous.map_or(i128::MIN, |p| p.expected(now)).max(self.current.expected(now));
        let ahead = offset - expected;
        if self.readings > needed
            && ahead > i128::try_from(lease.as_nanos() / 4).unwrap_or(i128::MAX)
        {
            *self = Self::new(now, clock);
            return Some(Duration::from_nanos(u64::try_from(ahead).unwrap_or(u64::MAX)));
        }
        if now.since(self.current_since) >= lease * WINDOW_LEASES / 2 {
            self.previous = Some(self.current);
            self.current = Highest { offset, at: now };
            self.current_since = now;
        } else if offset >= self.current.offset && apart {
            self.current = Highest { offset, at: now };
        }
        None
    }
}

fn offset(now: Instant, clock: Instant) -> i128 {
    i128::from(clock.0) - i128::from(now.0)
}
