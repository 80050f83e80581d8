//! The replay window: which counters of one sender were seen already.
//!
//! The sliding window of RFC 4303 (section 3.4.3), in whole words.

/// Counters below the highest by less than this are told apart; older ones are refused. One
/// network delivers in order but for a few, so this is ample.
const WINDOW: u64 = 1024;
const WORDS: usize = 16;
const _: () = assert!(WORDS * 64 == 1024 && WINDOW == 1024, "a bit for each counter");

/// A window over 64-bit counters that start at 1.
#[derive(Debug)]
pub(crate) struct ReplayWindow {
    highest: u64,
    /// Bit `counter % WINDOW`, for the last `WINDOW` counters up to `highest`.
    seen: [u64; WORDS],
}

impl ReplayWindow {
    pub(crate) const fn new() -> Self {
        Self { highest: 0, seen: [0; WORDS] }
    }

    /// Whether [`ReplayWindow::admit`] would admit this counter; changes nothing.
    pub(crate) fn is_new(&self, counter: u64) -> bool {
        if counter == 0 || self.highest.saturating_sub(counter) >= WINDOW {
            return false;
        }
        let (word, bit) = Self::place(counter);
        counter > self.highest || self.seen[word] & bit == 0
    }

    /// Whether this counter comes for the first time; then it never does again. To be asked for
    /// authentic datagrams only.
    pub(crate) fn admit(&mut self, counter: u64) -> bool {
        if counter == 0 || self.highest.saturating_sub(counter) >= WINDOW {
            return false;
        }
        if counter > self.highest {
            // Forget what leaves the window on the way; at most a whole turn.
            let from = self.highest.max(counter.saturating_sub(WINDOW));
            for passed in from..counter {
                self.clear(passed.wrapping_add(1));
            }
            self.highest = counter;
        }
        let (word, bit) = Self::place(counter);
        let first = self.seen[word] & bit == 0;
        self.seen[word] |= bit;
        first
    }

    fn clear(&mut self, counter: u64) {
        let (word, bit) = Self::place(counter);
        self.seen[word] &= !bit;
    }

    fn place(counter: u64) -> (usize, u64) {
        let position = counter % WINDOW;
        let word = usize::try_from(position / 64).expect("below the number of words");
        (word, 1 << (position % 64))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_edges_of_the_window() {
        let mut window = ReplayWindow::new();
        assert!(!window.admit(0));
        assert!(window.admit(WINDOW));
        assert!(window.admit(1));
        assert!(!window.admit(1));
        assert!(window.admit(WINDOW + 1));
        assert!(!window.admit(1), "left the window");
        assert!(window.admit(2));
        assert!(window.admit(u64::MAX));
        assert!(!window.admit(u64::MAX));
        assert!(window.admit(u64::MAX - WINDOW + 1));
        assert!(!window.admit(u64::MAX - WINDOW));
    }

    proptest! {
        #[test]
        fn admits_each_counter_once(steps in proptest::collection::vec(0..3000u64, 1..400), jump in 0..5000u64) {
            let mut window = ReplayWindow::new();
            let mut seen = BTreeSet::new();
            let mut highest = 0;
            for (n, step) in steps.into_iter().enumerate() {
                let counter = if n % 50 == 0 { step + jump } else { step };
                let young = counter > 0 && counter + WINDOW > highest;
                prop_assert_eq!(window.is_new(counter), young && !seen.contains(&counter));
                prop_assert_eq!(window.admit(counter), young && !seen.contains(&counter));
                if young {
                    seen.insert(counter);
                    highest = highest.max(counter);
                }
            }
        }
    }
}
