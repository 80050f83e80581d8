//! When the guard must end everything. Pure: time, lease and what is held come in as values.

use std::time::Duration;

use wolfpack_types::Instant;

/// What the lease demands now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Verdict {
    /// Nothing; look again at this time, at the latest.
    Fine { look: Instant },
    /// The lease is over and something may run.
    Over,
}

/// Judges a life that has a service.
///
/// A lease that is over (or never was) matters only once something is held: a service that has
/// attached and owns nothing is as harmless without a lease as with one. Monitors count what they
/// hold *before* they check the lease for a start, and wake the guard after counting; so either the
/// guard sees it here, or the monitor sees that the lease is over.
///
/// `tick` bounds the wait: the lease may be published shorter than it was.
pub(super) fn judge(now: Instant, lease_end: Instant, held: bool, tick: Duration) -> Verdict {
    if !held {
        return Verdict::Fine { look: now + tick };
    }
    if now >= lease_end {
        return Verdict::Over;
    }
    Verdict::Fine { look: lease_end.min(now + tick) }
}

/// How often leases of addresses are renewed, and the guard says that it lives: eight times within
/// a lease, so that a guard that is late once or twice starves nobody.
pub(super) fn tick(lease: Duration) -> Duration {
    (lease / 8).max(Duration::from_millis(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TICK: Duration = Duration::from_nanos(10);

    #[test]
    fn nothing_held_is_never_over() {
        for lease in [0, 5, 500] {
            let verdict = judge(Instant(100), Instant(lease), false, TICK);
            assert_eq!(verdict, Verdict::Fine { look: Instant(110) });
        }
    }

    #[test]
    fn what_is_held_ends_with_the_lease() {
        let judge = |lease| judge(Instant(100), Instant(lease), true, TICK);
        assert_eq!(judge(0), Verdict::Over, "no lease at all");
        assert_eq!(judge(99), Verdict::Over);
        assert_eq!(judge(100), Verdict::Over, "the end itself is over");
        assert_eq!(judge(101), Verdict::Fine { look: Instant(101) });
        assert_eq!(judge(1000), Verdict::Fine { look: Instant(110) });
        assert_eq!(judge(u64::MAX), Verdict::Fine { look: Instant(110) });
    }

    #[test]
    fn ticks_are_an_eighth() {
        assert_eq!(tick(Duration::from_secs(2)), Duration::from_millis(250));
        assert_eq!(tick(Duration::ZERO), Duration::from_millis(1));
    }
}
