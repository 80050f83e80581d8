//! The sending half: the queue, the window, round trips, retransmission.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use wolfpack_types::{Instant, NetworkId};

use super::frame::{AckFrame, Fragment, PAYLOAD_BYTES_MAX};
use super::route::Routes;
use super::{Malformed, WINDOW};

/// The shortest wait before a fragment is sent again: below it lies the scheduling of a busy peer.
const RTO_MIN: Duration = Duration::from_millis(20);
/// The longest: a peer that comes back is not kept waiting.
const RTO_MAX: Duration = Duration::from_millis(200);
/// Acknowledgements of later fragments that make an earlier one lost (RFC 5681, section 3.2).
const OVERTAKEN: u32 = 3;
/// Fragments sent again by the clock at once: a dead peer is asked, not flooded. When a path fails
/// and another is left, all go over to that at the first timeout.
const RESEND_BURST: usize = 4;

/// A fragment that is not acknowledged up to.
#[derive(Debug)]
struct InFlight {
    fragment: Fragment,
    /// None: to be sent (again) now.
    sent: Option<Instant>,
    path: Option<NetworkId>,
    /// The receiver holds it, out of order.
    held: bool,
    overtaken: u32,
    resent: bool,
}

#[derive(Debug)]
pub(super) struct Sender {
    routes: Routes,
    queue: VecDeque<Vec<u8>>,
    /// Bytes of the first message of the queue that are in fragments already.
    cut: usize,
    /// By number, without gaps, up to `next - 1`.
    window: VecDeque<InFlight>,
    /// The next number to give.
    next: u64,
    queued: usize,
    released: usize,
    round_trip: RoundTrip,
}

/// Smoothed round trip and its deviation (RFC 6298), with the backing off.
#[derive(Debug, Default)]
struct RoundTrip {
    smoothed: Option<(Duration, Duration)>,
    doublings: u32,
}

impl RoundTrip {
    fn measure(&mut self, sample: Duration) {
        self.smoothed = Some(match self.smoothed {
            None => (sample, sample / 2),
            Some((mean, deviation)) => {
                let error = mean.abs_diff(sample);
                ((mean * 7 + sample) / 8, (deviation * 3 + error) / 4)
            }
        });
    }

    fn timeout(&self) -> Duration {
        let plain = self.smoothed.map_or(RTO_MIN, |(mean, deviation)| mean + deviation * 4);
        let plain = plain.clamp(RTO_MIN, RTO_MAX);
        (plain * 2u32.saturating_pow(self.doublings.min(8))).min(RTO_MAX)
    }
}

impl Sender {
    pub(super) fn new(networks: BTreeSet<NetworkId>) -> Self {
        Self {
            routes: Routes::new(networks),
            queue: VecDeque::new(),
            cut: 0,
            window: VecDeque::new(),
            next: 1,
            queued: 0,
            released: 0,
            round_trip: RoundTrip::default(),
        }
    }

    pub(super) fn queue(&mut self, bytes: Vec<u8>) {
        self.queued += cost(bytes.len());
        self.queue.push_back(bytes);
    }

    pub(super) fn set_path(&mut self, network: NetworkId, up: bool) {
        self.routes.set(network, up);
    }

    pub(super) const fn queued(&self) -> usize {
        self.queued
    }

    pub(super) fn take_released(&mut self) -> usize {
        std::mem::take(&mut self.released)
    }

    /// When a fragment has been under way for too long.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let timeout = self.round_trip.timeout();
        let waiting = self.window.iter().filter(|inflight| !inflight.held);
        waiting.filter_map(|inflight| inflight.sent).min().map(|sent| sent + timeout)
    }

    /// The next fragment to send: lost ones first, then new ones as the window allows.
    pub(super) fn poll_transmit(&mut self, now: Instant) -> Option<(NetworkId, Fragment)> {
        self.expire(now);
        self.fill();
        let network = self.routes.best(now)?;
        let inflight =
            self.window.iter_mut().find(|inflight| !inflight.held && inflight.sent.is_none())?;
        inflight.sent = Some(now);
        inflight.path = Some(network);
        inflight.overtaken = 0;
        inflight.fragment.stamp = stamp(now);
        Some((network, inflight.fragment.clone()))
    }

    /// Takes for lost what was not acknowledged in time.
    fn expire(&mut self, now: Instant) {
        let timeout = self.round_trip.timeout();
        let waiting = self.window.iter_mut().filter(|inflight| !inflight.held);
        let late = waiting.filter(|i| i.sent.is_some_and(|sent| now >= sent + timeout));
        let mut backed_off = false;
        for (n, inflight) in late.enumerate() {
            if let Some(path) = inflight.path {
                self.routes.shun(now, path);
            }
            backed_off = true;
            let elsewhere =
                self.round_trip.doublings == 0 && self.routes.best(now) != inflight.path;
            if n < RESEND_BURST || elsewhere {
                inflight.sent = None;
                inflight.resent = true;
            } else {
                // Its turn comes when the first are through, or with the next timeout. It was not
                // sent, so its wait says nothing of a path: or two paths are shunned at the same
                // moment for ever, and the better number wins though it is the dead one.
                inflight.sent = Some(now);
                inflight.path = None;
            }
        }
        if backed_off {
            self.round_trip.doublings = self.round_trip.doublings.saturating_add(1);
        }
    }

    /// Cuts queued messages into fragments while the window has room.
    fn fill(&mut self) {
        while self.window_has_room() {
            let Some(message) = self.queue.front() else { return };
            let rest = &message[self.cut..];
            let payload = rest[..rest.len().min(PAYLOAD_BYTES_MAX)].to_vec();
            let remaining =
                u32::try_from(rest.len()).expect("messages are bounded when they are queued");
            self.cut += payload.len();
            if self.cut == message.len() {
                self.queue.pop_front();
                self.cut = 0;
            }
            let fragment = Fragment { number: self.next, stamp: 0, remaining, payload };
            self.next += 1;
            self.window.push_back(InFlight {
                fragment,
                sent: None,
                path: None,
                held: false,
                overtaken: 0,
                resent: false,
            });
        }
    }

    fn window_has_room(&self) -> bool {
        self.window.front().is_none_or(|first| self.next - first.fragment.number < WINDOW)
    }

    pub(super) fn on_ack(
        &mut self,
        now: Instant,
        network: NetworkId,
        ack: &AckFrame,
    ) -> Result<(), Malformed> {
        if ack.next > self.next {
            return Err(Malformed);
        }
        self.routes.trust(network);
        let mut progress = false;
        while self.window.front().is_some_and(|first| first.fragment.number < ack.next) {
            if let Some(inflight) = self.window.pop_front() {
                let Fragment { payload, remaining, .. } = &inflight.fragment;
                let last = usize::try_from(*remaining).is_ok_and(|left| left == payload.len());
                let freed = payload.len() + if last { cost(0) } else { 0 };
                self.queued -= freed;
                self.released += freed;
                progress = true;
            }
        }
        progress |= self.mark_held(ack);
        if progress {
            self.round_trip.doublings = 0;
            let micros = stamp(now).wrapping_sub(ack.stamp);
            self.round_trip.measure(Duration::from_micros(micros.into()).min(RTO_MAX));
        }
        Ok(())
    }

    /// Notes what the receiver holds out of order; what it lacks before that may be lost.
    fn mark_held(&mut self, ack: &AckFrame) -> bool {
        let mut progress = false;
        let held = |number: u64| {
            let position = number.checked_sub(ack.next + 1).unwrap_or(u64::MAX);
            u32::try_from(position).is_ok_and(|p| ack.held.checked_shr(p).unwrap_or(0) & 1 == 1)
        };
        let mut later = 0;
        for inflight in self.window.iter_mut().rev() {
            if held(inflight.fragment.number) {
                progress |= !inflight.held;
                inflight.held = true;
            }
            if inflight.held {
                later += 1;
            } else if inflight.sent.is_some() && !inflight.resent {
                inflight.overtaken = inflight.overtaken.max(later);
                if inflight.overtaken >= OVERTAKEN {
                    inflight.sent = None;
                    inflight.resent = true;
                }
            }
        }
        progress
    }
}

/// What a queued message takes from the bound on the queue: many short ones are not free.
pub(crate) const fn cost(length: usize) -> usize {
    length + 64
}

/// Microseconds, cut; only differences are used.
fn stamp(now: Instant) -> u32 {
    u32::try_from((now.0 / 1000) & u64::from(u32::MAX)).unwrap_or(0)
}
