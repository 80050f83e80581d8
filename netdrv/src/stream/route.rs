//! Which path a fragment takes: the best that works.
//!
//! The failure detector needs a T_detect to see that a path is gone; a stream sees it within a round
//! trip, and leaves the path until something arrives over it again or a second has passed.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use wolfpack_types::{Instant, NetworkId};

/// A path that lost a fragment is tried again after this, even if nothing was heard over it.
const SHUN: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct Routes {
    networks: BTreeSet<NetworkId>,
    /// What the failure detector takes for up.
    up: BTreeSet<NetworkId>,
    shunned: BTreeMap<NetworkId, Instant>,
}

impl Routes {
    pub(super) const fn new(networks: BTreeSet<NetworkId>) -> Self {
        Self { networks, up: BTreeSet::new(), shunned: BTreeMap::new() }
    }

    pub(super) fn set(&mut self, network: NetworkId, up: bool) {
        self.shunned.remove(&network);
        if up && self.networks.contains(&network) {
            self.up.insert(network);
        } else {
            self.up.remove(&network);
        }
    }

    /// A fragment sent on this path was not acknowledged in time.
    pub(super) fn shun(&mut self, now: Instant, network: NetworkId) {
        self.shunned.insert(network, now + SHUN);
    }

    /// Something that this path was needed for has arrived.
    pub(super) fn trust(&mut self, network: NetworkId) {
        self.shunned.remove(&network);
    }

    /// The best path: up, not shunned, of the lowest number; else the one shunned for the longest
    /// time, so that several bad paths take turns. Without any that is up, all are tried.
    pub(super) fn best(&self, now: Instant) -> Option<NetworkId> {
        let candidates = if self.up.is_empty() { &self.networks } else { &self.up };
        let until = |network: NetworkId| {
            self.shunned.get(&network).copied().filter(|&until| now < until).unwrap_or_default()
        };
        candidates.iter().copied().min_by_key(|&network| (until(network), network))
    }
}
