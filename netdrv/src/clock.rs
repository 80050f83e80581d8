//! The one clock of the daemons: CLOCK_BOOTTIME, which also counts while the machine is suspended.

use nix::time::{ClockId, clock_gettime};
use wolfpack_types::Instant;

/// Now, on this machine.
///
/// # Panics
/// Linux has had this clock since 2.6.39; a kernel without it cannot run a cluster.
#[must_use]
pub fn boottime() -> Instant {
    let now = clock_gettime(ClockId::CLOCK_BOOTTIME).expect("the kernel has CLOCK_BOOTTIME");
    let seconds = u64::try_from(now.tv_sec()).unwrap_or(0);
    let nanos = u64::try_from(now.tv_nsec()).unwrap_or(0);
    Instant(seconds.saturating_mul(1_000_000_000).saturating_add(nanos))
}
