//! The clock of leases.

use nix::time::{ClockId, clock_gettime};
use wolfpack_types::Instant;

/// CLOCK_BOOTTIME now: it runs on while the machine sleeps, so a lease ends in its sleep.
///
/// # Panics
/// A kernel without CLOCK_BOOTTIME (Linux has it since 2.6.39).
#[must_use]
pub fn boottime() -> Instant {
    let t = clock_gettime(ClockId::CLOCK_BOOTTIME).expect("CLOCK_BOOTTIME exists");
    let seconds = u64::try_from(t.tv_sec()).unwrap_or(0);
    let nanos = u64::try_from(t.tv_nsec()).unwrap_or(0);
    Instant(seconds.saturating_mul(1_000_000_000).saturating_add(nanos))
}
