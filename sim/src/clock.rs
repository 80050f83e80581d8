//! True time and the clocks of the nodes, which run at slightly different rates.
//!
//! True time is nanoseconds since the start of the run; only the simulator and its checks know it.
//! A node's clock is `offset + rate x true`; with the rate within what the protocol allows
//! (`DRIFT_PPM`), so that a bound without its drift factor is a bound that is too small.

use wolfpack_types::Instant;
use wolfpack_types::times::DRIFT_PPM;

use crate::draw::Dice;

/// True time in nanoseconds.
pub type Time = u64;

const SECOND: u64 = 1_000_000_000;

/// Times of a run, and parts of them, are far below the limit.
const fn signed(n: u64) -> i64 {
    n.cast_signed()
}

/// The clock of one machine.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    offset: u64,
    /// Parts per billion that it runs fast (or slow).
    rate_ppb: i64,
}

impl Clock {
    /// A clock that is somewhere and runs at some allowed rate.
    #[must_use]
    pub fn draw(dice: &mut Dice, extreme: bool) -> Self {
        let limit = i64::from(DRIFT_PPM) * 1000;
        let rate_ppb = match dice.range(0, 2) {
            0 if extreme => -limit,
            1 if extreme => limit,
            _ => i64::try_from(dice.range(0, 2 * u64::from(DRIFT_PPM) * 1000)).unwrap_or(0) - limit,
        };
        Self { offset: dice.range(60_000_000_000, 1_000_000_000_000), rate_ppb }
    }

    /// A clock with a stated rate, for scenes.
    #[must_use]
    pub const fn with_rate(offset: u64, rate_ppb: i64) -> Self {
        Self { offset, rate_ppb }
    }

    /// What it shows at a true time.
    #[must_use]
    pub fn local(&self, at: Time) -> Instant {
        // In halves, so that 64 bits are enough: this is asked several times per event.
        let (seconds, rest) = (signed(at / SECOND), signed(at % SECOND));
        let gained = seconds * self.rate_ppb + rest * self.rate_ppb / signed(SECOND);
        Instant((self.offset + at).saturating_add_signed(gained))
    }

    /// The clock stands at what it showed: from `now` on it goes on from there.
    pub fn set_back(&mut self, now: Time, shown: Instant) {
        let ahead = self.local(now).since(shown);
        self.offset = self.offset.saturating_sub(crate::draw::nanos(ahead));
    }

    /// The first true time at which it shows this or more; 0 for what is before the run.
    #[must_use]
    pub fn when(&self, shown: Instant) -> Time {
        if shown == Instant::FAR {
            return Time::MAX;
        }
        let since = shown.0.saturating_sub(self.offset);
        let gained = since as f64 * (self.rate_ppb as f64 / (1e9 + self.rate_ppb as f64));
        #[expect(clippy::cast_possible_truncation, reason = "a guess, corrected below")]
        let gained = gained as i64;
        let mut at = since.saturating_add_signed(-gained);
        // The guess rounds: correct by the few nanoseconds that it loses.
        while at > 0 && self.local(at - 1) >= shown {
            at -= 1;
        }
        while self.local(at) < shown && at < Time::MAX {
            at += 1;
        }
        at
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn when_is_the_inverse_of_local() {
        let mut dice = Dice::new(3, 9);
        for _ in 0..1000 {
            let clock = Clock::draw(&mut dice, true);
            let at = dice.range(1, 1_000_000_000_000);
            let shown = clock.local(at);
            let back = clock.when(shown);
            assert!(back <= at && clock.local(back) >= shown);
            assert!(back == 0 || clock.local(back - 1) < shown);
        }
    }

    #[test]
    fn two_extreme_clocks_drift_apart_by_two_permille() {
        let fast = Clock::with_rate(0, 1_000_000);
        let slow = Clock::with_rate(0, -1_000_000);
        let apart = fast.local(1_000_000_000).0 - slow.local(1_000_000_000).0;
        assert_eq!(apart, 2_000_000);
    }
}
