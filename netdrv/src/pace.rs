//! How punctual this machine is: measured at the start, before times are relied on that it cannot
//! hold. (The failure detector goes on measuring itself while it runs.)

use std::io;
use std::thread;
use std::time::Duration;

use nix::time::{ClockId, ClockNanosleepFlags, clock_nanosleep};

use crate::clock::boottime;
use crate::sys::realtime;

/// How often the measuring thread wakes.
const PERIOD: Duration = Duration::from_millis(2);

/// What was measured.
#[derive(Debug)]
pub struct Pace {
    /// Why a thread of this process may not run at SCHED_RR; none if it may.
    pub refused: Option<io::Error>,
    /// The worst lateness of a thread that sleeps to absolute times, scheduled as the driver's is.
    pub worst: Duration,
}

/// Measures for `span` on a thread of its own.
///
/// # Errors
/// The thread cannot be started.
pub fn measure(span: Duration) -> io::Result<Pace> {
    let thread = thread::Builder::new().name("wolfpack-pace".into());
    let thread = thread.stack_size(64 * 1024).spawn(move || {
        let refused = realtime::round_robin().err();
        Pace { refused, worst: worst_lateness(span) }
    })?;
    thread.join().map_err(|_| io::Error::other("the measuring thread panicked"))
}

fn worst_lateness(span: Duration) -> Duration {
    let start = boottime();
    let end = start + span;
    let (mut due, mut worst) = (start + PERIOD, Duration::ZERO);
    while due < end {
        let at = nix::sys::time::TimeSpec::from_duration(due.since(wolfpack_types::Instant::ZERO));
        // Interrupted: the lateness of this round is as good as any.
        let _ = clock_nanosleep(ClockId::CLOCK_BOOTTIME, ClockNanosleepFlags::TIMER_ABSTIME, &at);
        let now = boottime();
        worst = worst.max(now.since(due));
        due = due.max(now) + PERIOD;
    }
    worst
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_measures_for_as_long_as_asked_and_no_sleep_ends_early() {
        let before = boottime();
        let pace = measure(Duration::from_millis(30)).unwrap();
        let took = boottime().since(before);
        assert!(took >= Duration::from_millis(28), "{took:?}");
        // Some lateness there always is: a timer has a grain.
        assert!(pace.worst > Duration::ZERO && pace.worst <= took, "{pace:?}");
    }
}
