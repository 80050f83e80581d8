//! Which path a datagram takes: the best that works.
//!
//! The failure detector needs a T_detect to see that a path is gone; a stream sees it within a round
//! trip, and leaves the path until something arrives over it again or a second has passed.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use wolfpack_types::{Instant, NetworkId};

use crate::packet::{DATAGRAM_BYTES_MAX, DATAGRAM_BYTES_MIN};

/// A path that lost a piece is tried again after this, even if nothing was heard over it.
const SHUN: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct Routes {
    /// All, and how they are preferred: the lowest first.
    networks: BTreeMap<NetworkId, u8>,
    /// What the failure detector takes for up.
    up: BTreeSet<NetworkId>,
    shunned: BTreeMap<NetworkId, Instant>,
    /// The longest datagram of each path that does not take the usual length.
    limits: BTreeMap<NetworkId, usize>,
}

impl Routes {
    pub(super) const fn new(networks: BTreeMap<NetworkId, u8>) -> Self {
        Self { networks, up: BTreeSet::new(), shunned: BTreeMap::new(), limits: BTreeMap::new() }
    }

    pub(super) fn set(&mut self, network: NetworkId, up: bool) {
        self.shunned.remove(&network);
        if up && self.networks.contains_key(&network) {
            self.up.insert(network);
        } else {
            self.up.remove(&network);
        }
    }

    /// The longest datagram that a path carries.
    pub(super) fn set_limit(&mut self, network: NetworkId, bytes: usize) {
        self.limits.insert(network, bytes.clamp(DATAGRAM_BYTES_MIN, DATAGRAM_BYTES_MAX));
    }

    pub(super) fn limit(&self, network: NetworkId) -> usize {
        self.limits.get(&network).copied().unwrap_or(DATAGRAM_BYTES_MAX)
    }

    /// Whether there is more than one path that may work.
    pub(super) fn several(&self) -> bool {
        if self.up.is_empty() { self.networks.len() > 1 } else { self.up.len() > 1 }
    }

    /// A piece sent on this path was not acknowledged in time.
    pub(super) fn shun(&mut self, now: Instant, network: NetworkId) {
        self.shunned.insert(network, now + SHUN);
    }

    /// Something that this path was needed for has arrived.
    pub(super) fn trust(&mut self, network: NetworkId) {
        self.shunned.remove(&network);
    }

    /// The best path: up, not shunned, of the lowest priority and number; else the one shunned for
    /// the longest time, so that several bad paths take turns. Without any that is up, all are tried.
    pub(super) fn best(&self, now: Instant) -> Option<NetworkId> {
        let until = |network: NetworkId| {
            self.shunned.get(&network).copied().filter(|&until| now < until).unwrap_or_default()
        };
        let usable = |network: &NetworkId| self.up.is_empty() || self.up.contains(network);
        let candidates = self.networks.iter().filter(|(network, _)| usable(network));
        let best = candidates.min_by_key(|&(&network, &first)| (until(network), first, network));
        best.map(|(&network, _)| network)
    }
}
