//! The lab's clock: CLOCK_BOOTTIME in microseconds, which all processes of the machine share, in
//! whatever namespace they live. Waiting for conditions stands here too, because every wait of the
//! lab has a deadline.

use std::time::Duration;

use anyhow::{Result, bail};
use nix::time::{ClockId, clock_gettime};

/// Now, in microseconds of CLOCK_BOOTTIME.
///
/// # Panics
/// Where the kernel has no CLOCK_BOOTTIME (before Linux 2.6.39).
#[must_use]
pub fn now_us() -> u64 {
    let t = clock_gettime(ClockId::CLOCK_BOOTTIME).expect("Linux has CLOCK_BOOTTIME");
    let secs = u64::try_from(t.tv_sec()).unwrap_or(0);
    let nanos = u64::try_from(t.tv_nsec()).unwrap_or(0);
    secs * 1_000_000 + nanos / 1000
}

/// How often a condition is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Waits until `look` finds what it looks for.
///
/// # Errors
/// The deadline passed: `what` was waited for, and what was last seen instead.
pub fn wait_for<T>(
    what: &str,
    deadline: Duration,
    mut look: impl FnMut() -> Result<T, String>,
) -> Result<T> {
    let end = now_us() + u64::try_from(deadline.as_micros()).unwrap_or(u64::MAX / 2);
    loop {
        match look() {
            Ok(found) => return Ok(found),
            Err(seen) if now_us() >= end => {
                bail!("waited {} s for {what}, but {seen}", deadline.as_secs())
            }
            Err(_) => std::thread::sleep(LOOK_EVERY),
        }
    }
}
