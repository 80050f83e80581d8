//! What was refused: counted by network and reason, told at a limited rate.
//!
//! Bounded: a reason names at most a configured peer and a number of the packet, and at most
//! [`REASONS_MAX`] different ones are told apart; anything beyond counts as [`DropReason::Foreign`].

use std::collections::BTreeMap;
use std::time::Duration;

use wolfpack_types::{Instant, NetworkId};

use crate::DropReason;

/// One event for each network and reason in this time at most.
const PERIOD: Duration = Duration::from_secs(10);
/// Versions and incarnations come from outside: not every value gets its own counter.
const REASONS_MAX: usize = 256;

#[derive(Debug)]
struct Tally {
    unsaid: u64,
    /// When the next event may be sent.
    next: Instant,
}

/// The counters.
#[derive(Debug, Default)]
pub(crate) struct Drops {
    tallies: BTreeMap<(NetworkId, DropReason), Tally>,
}

impl Drops {
    /// Counts one refusal. The first of its kind is told at once.
    pub(crate) fn count(&mut self, now: Instant, network: NetworkId, reason: DropReason) {
        if reason == DropReason::NoSession {
            return;
        }
        let known = self.tallies.contains_key(&(network, reason));
        let reason =
            if known || self.tallies.len() < REASONS_MAX { reason } else { DropReason::Foreign };
        let tally = self.tallies.entry((network, reason)).or_insert(Tally { unsaid: 0, next: now });
        tally.unsaid = tally.unsaid.saturating_add(1);
    }

    /// The next event that is due: where, why, how many since the last one.
    pub(crate) fn poll(&mut self, now: Instant) -> Option<(NetworkId, DropReason, u64)> {
        let due = |tally: &Tally| tally.unsaid > 0 && now >= tally.next;
        let (&(network, reason), tally) = self.tallies.iter_mut().find(|(_, tally)| due(tally))?;
        tally.next = now + PERIOD;
        Some((network, reason, std::mem::take(&mut tally.unsaid)))
    }

    /// When [`Drops::poll`] has something to tell.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.tallies.values().filter(|tally| tally.unsaid > 0).map(|tally| tally.next).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NET: NetworkId = NetworkId(0);

    #[test]
    fn the_first_is_told_at_once_and_the_rest_by_the_period() {
        let mut drops = Drops::default();
        let now = Instant(5_000_000_000);
        assert_eq!(drops.poll(now), None);
        for _ in 0..3 {
            drops.count(now, NET, DropReason::Truncated);
        }
        drops.count(now, NET, DropReason::Foreign);
        assert_eq!(drops.poll(now), Some((NET, DropReason::Truncated, 3)));
        assert_eq!(drops.poll(now), Some((NET, DropReason::Foreign, 1)));
        assert_eq!(drops.poll(now), None);
        drops.count(now, NET, DropReason::Foreign);
        assert_eq!(drops.next_deadline(), Some(now + PERIOD));
        assert_eq!(drops.poll(now + PERIOD), Some((NET, DropReason::Foreign, 1)));
        assert_eq!(drops.next_deadline(), None);
    }

    #[test]
    fn made_up_reasons_cost_no_memory() {
        let mut drops = Drops::default();
        for network in 0..16 {
            for theirs in 0..=255 {
                let reason = DropReason::Version { ours: 1, theirs };
                drops.count(Instant::ZERO, NetworkId(network), reason);
            }
        }
        assert!(drops.tallies.len() <= REASONS_MAX + 16);
        let mut total = 0;
        while let Some((_, _, count)) = drops.poll(Instant(1)) {
            total += count;
        }
        assert_eq!(total, 16 * 256);
    }
}
