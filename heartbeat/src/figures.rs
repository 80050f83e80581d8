//! What is measured of a path and of this machine: for people, and for the choice of times. Nothing
//! here decides who is alive.
//!
//! All of bounded size and without allocation after the first. A peer may count its heartbeats as it
//! likes: wrong counts give wrong figures, nothing else.

use std::collections::VecDeque;
use std::time::Duration;

use wolfpack_types::heartbeat::{Echo, Heartbeat};
use wolfpack_types::networks::{Delays, GAPS_MAX, Gap, RoundTrip};
use wolfpack_types::{Instant, Times};

/// Heartbeats remembered as come or missed.
const HISTORY: u8 = 64;

/// One path, since the peer's present life was first heard on it.
#[derive(Debug)]
pub(crate) struct Figures {
    /// Highest count received, and the clocks of that heartbeat: the peer's, and the own.
    newest: Option<(u64, Instant, Instant)>,
    pub(crate) received: u64,
    pub(crate) lost: u64,
    pub(crate) reordered: u64,
    pub(crate) history: u64,
    pub(crate) history_len: u8,
    jitter_ns: u64,
    pub(crate) round_trip: Option<RoundTrip>,
    gaps: VecDeque<Gap>,
}

impl Figures {
    pub(crate) fn new() -> Self {
        Self {
            newest: None,
            received: 0,
            lost: 0,
            reordered: 0,
            history: 0,
            history_len: 0,
            jitter_ns: 0,
            round_trip: None,
            gaps: VecDeque::with_capacity(GAPS_MAX),
        }
    }

    /// A new life of the peer counts from the beginning.
    pub(crate) fn reset(&mut self) {
        let mut gaps = std::mem::take(&mut self.gaps);
        gaps.clear();
        *self = Self { gaps, newest: None, ..Self::new() };
    }

    pub(crate) fn jitter(&self) -> Duration {
        Duration::from_nanos(self.jitter_ns)
    }

    pub(crate) fn gaps(&self) -> Vec<Gap> {
        self.gaps.iter().copied().collect()
    }

    /// A heartbeat came, after `silence` on this path.
    pub(crate) fn count(&mut self, now: Instant, heartbeat: &Heartbeat, silence: Duration) {
        let (seq, clock) = (heartbeat.seq, heartbeat.clock);
        self.received += 1;
        match self.newest {
            Some((highest, ..)) if seq <= highest => {
                // Late: it was taken for lost, unless it is too old to be known or came twice.
                let back = highest - seq;
                let known = back < u64::from(self.history_len);
                if known && self.history >> back & 1 == 1 {
                    self.history &= !(1 << back);
                    self.lost = self.lost.saturating_sub(1);
                    self.reordered += 1;
                }
                return;
            }
            Some((highest, sent, received)) => {
                let missed = seq - highest - 1;
                self.shift(missed);
                if missed > 0 {
                    self.lost = self.lost.saturating_add(missed);
                    let missed = u32::try_from(missed).unwrap_or(u32::MAX);
                    if self.gaps.len() == GAPS_MAX {
                        self.gaps.pop_front();
                    }
                    self.gaps.push_back(Gap { at: now, missed, silence });
                }
                let spacing = |to: Instant, from: Instant| i128::from(to.0) - i128::from(from.0);
                let deviation = (spacing(now, received) - spacing(clock, sent)).unsigned_abs();
                let deviation = u64::try_from(deviation).unwrap_or(u64::MAX);
                // J += (|D| - J) / 16
                self.jitter_ns = self.jitter_ns - self.jitter_ns / 16 + deviation / 16;
            }
            None => self.shift(0),
        }
        self.newest = Some((seq, clock, now));
    }

    /// `missed` that did not come, then one that did.
    fn shift(&mut self, missed: u64) {
        let by = u32::try_from(missed).unwrap_or(u32::MAX).saturating_add(1);
        let missing = match by {
            1..=63 => (1_u64 << by) - 2,
            _ => u64::MAX - 1,
        };
        self.history = self.history.checked_shl(by).unwrap_or(0) | missing;
        let len = u32::from(self.history_len).saturating_add(by).min(HISTORY.into());
        self.history_len = u8::try_from(len).unwrap_or(HISTORY);
    }

    /// What to say of the newest heartbeat, for the peer's round trips.
    pub(crate) fn echo(&self, now: Instant) -> Option<Echo> {
        let (_, clock, received) = self.newest?;
        let held_ns = u32::try_from(now.since(received).as_nanos()).ok()?;
        Some(Echo { clock, held_ns })
    }

    /// The peer says which heartbeat of this life it has, and how long it held that.
    pub(crate) fn round_trip(&mut self, now: Instant, started: Instant, echo: Echo) {
        // A clock of another life, or one that this node has not reached, measures nothing.
        if echo.clock < started || echo.clock > now {
            return;
        }
        let held = Duration::from_nanos(echo.held_ns.into());
        let Some(last) = now.since(echo.clock).checked_sub(held) else { return };
        self.round_trip = Some(match self.round_trip {
            None => RoundTrip { last, smoothed: last, min: last, max: last },
            Some(known) => RoundTrip {
                last,
                smoothed: known.smoothed - known.smoothed / 8 + last / 8,
                min: known.min.min(last),
                max: known.max.max(last),
            },
        });
    }
}

/// A window of the worst delay; the last one to two count.
const WINDOW: Duration = Duration::from_secs(60);

/// How late the detector is run on this machine.
#[derive(Debug)]
pub(crate) struct DelayWatch {
    allowed: Duration,
    current: Duration,
    previous: Duration,
    since: Instant,
    ever: Duration,
    safe: bool,
}

impl DelayWatch {
    pub(crate) fn new(times: &Times, now: Instant) -> Self {
        Self {
            allowed: times.delay_allowed(),
            current: Duration::ZERO,
            previous: Duration::ZERO,
            since: now,
            ever: Duration::ZERO,
            safe: true,
        }
    }

    pub(crate) fn delays(&self) -> Delays {
        let worst = self.current.max(self.previous);
        Delays { worst, worst_ever: self.ever, allowed: self.allowed }
    }

    /// The detector was run this late. Whether the times are safe, if that has changed.
    pub(crate) fn observe(&mut self, now: Instant, late: Duration) -> Option<bool> {
        let passed = now.since(self.since);
        if passed >= WINDOW {
            self.previous = if passed >= 2 * WINDOW { Duration::ZERO } else { self.current };
            self.current = Duration::ZERO;
            self.since = now;
        }
        self.current = self.current.max(late);
        self.ever = self.ever.max(late);
        let safe = self.delays().worst <= self.allowed;
        (std::mem::replace(&mut self.safe, safe) != safe).then_some(safe)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use wolfpack_types::heartbeat::Standing;
    use wolfpack_types::networks::NetworkRows;
    use wolfpack_types::{Incarnation, NodeMap, NodeSet};

    use super::*;

    const START: Instant = Instant(1_000_000_000_000);
    /// The peer's clock is another one altogether.
    const AHEAD: Duration = Duration::from_secs(77_777);

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    fn beat(seq: u64, sent: Instant) -> Heartbeat {
        Heartbeat {
            inc: Incarnation(1),
            seq,
            clock: sent + AHEAD,
            probe: false,
            standing: Standing::default(),
            acks: NodeMap::new(),
            row: NodeSet::EMPTY,
            networks: NetworkRows::default(),
            echo: None,
            grants: NodeMap::new(),
        }
    }

    fn run(seqs: &[u64]) -> Figures {
        let mut figures = Figures::new();
        for (i, &seq) in seqs.iter().enumerate() {
            let now = START + ms(100) * u32::try_from(i).unwrap();
            figures.count(now, &beat(seq, now), ms(100));
        }
        figures
    }

    #[test]
    fn lost_ones_are_counted_and_come_back_when_they_were_only_late() {
        let f = run(&[5, 6, 9, 10]);
        assert_eq!((f.received, f.lost, f.reordered), (4, 2, 0));
        assert_eq!((f.history, f.history_len), (0b0_1100, 6));
        assert_eq!(f.gaps(), [Gap { at: START + ms(200), missed: 2, silence: ms(100) }]);
        let f = run(&[5, 6, 9, 10, 8, 8]);
        assert_eq!((f.received, f.lost, f.reordered), (6, 1, 1), "twice is once");
        assert_eq!(f.history, 0b0_1000);
    }

    #[test]
    fn long_gaps_and_mad_counts_stay_within_bounds() {
        let mut f = run(&[1, 100]);
        assert_eq!((f.lost, f.history, f.history_len), (98, u64::MAX - 1, 64));
        f.count(START + ms(500), &beat(u64::MAX, START), ms(1));
        f.count(START + ms(600), &beat(0, START), ms(1));
        assert_eq!(f.history, u64::MAX - 1);
        let many: Vec<u64> = (0..100).map(|n| n * 2).collect();
        assert_eq!(run(&many).gaps().len(), GAPS_MAX);
    }

    #[test]
    fn sixty_three_missed_fill_the_history_but_for_the_newest() {
        for missed in [62, 63, 64, 65] {
            let f = run(&[1, 2 + missed]);
            let zeros = 64 - f.history.count_ones();
            assert_eq!(zeros, if missed == 62 { 2 } else { 1 }, "{missed}");
        }
    }

    #[test]
    fn even_arrivals_have_no_jitter_and_uneven_ones_have() {
        assert_eq!(run(&[1, 2, 3, 4, 5]).jitter(), Duration::ZERO);
        let mut f = Figures::new();
        for i in 0..200 {
            let sent = START + ms(100) * i;
            // Every second one is 8 ms late: |D| is 8 ms throughout.
            let now = sent + ms(8) * (i % 2);
            f.count(now, &beat(u64::from(i), sent), ms(100));
        }
        assert!((ms(7)..ms(9)).contains(&f.jitter()), "{:?}", f.jitter());
    }

    #[test]
    fn a_round_trip_is_without_the_time_held_and_of_this_life_alone() {
        let mut f = Figures::new();
        let now = START + ms(500);
        let echo = |ago: u64, held: u32| Echo { clock: now.before(ms(ago)), held_ns: held };
        f.round_trip(now, START, echo(600, 0));
        f.round_trip(now, START, Echo { clock: now + ms(1), held_ns: 0 });
        f.round_trip(now, START, echo(1, 2_000_000));
        assert_eq!(f.round_trip, None, "none of these can be");
        f.round_trip(now, START, echo(60, 50_000_000));
        f.round_trip(now, START, echo(98, 80_000_000));
        let known = f.round_trip.unwrap();
        assert_eq!((known.last, known.min, known.max), (ms(18), ms(10), ms(18)));
        assert_eq!(known.smoothed, ms(11));
    }

    #[test]
    fn an_echo_says_how_long_it_was_held_while_that_can_be_said() {
        let mut f = Figures::new();
        assert_eq!(f.echo(START), None);
        f.count(START, &beat(1, START), ms(1));
        let echo = f.echo(START + ms(7)).unwrap();
        assert_eq!((echo.clock, echo.held_ns), (START + AHEAD, 7_000_000));
        assert_eq!(f.echo(START + ms(5000)), None);
    }

    #[test]
    fn delays_are_safe_again_when_the_bad_windows_are_over() {
        let mut watch = DelayWatch::new(&Times::TURBO, START);
        assert_eq!(watch.observe(START, ms(20)), None);
        assert_eq!(watch.observe(START + ms(1), ms(21)), Some(false));
        assert_eq!(watch.observe(START + ms(2), ms(500)), None, "said once");
        assert_eq!(watch.observe(START + WINDOW, ms(1)), None);
        assert_eq!(watch.delays().worst, ms(500));
        assert_eq!(watch.observe(START + 2 * WINDOW, ms(1)), Some(true));
        assert_eq!((watch.delays().worst, watch.delays().worst_ever), (ms(1), ms(500)));
    }
}
