//! Reliable, ordered messages between two lives: pieces, acknowledgements, retransmission, path
//! choice.
//!
//! Each class of messages is a stream of bytes of its own: its messages one after the other. Pieces of
//! the streams go into datagrams, as many as fit, control before bulk, acknowledgements with them. The
//! receiver acknowledges everything up to a place and the ranges that it has beyond it, and gives back
//! the sender's mark of the newest datagram, so that a round trip is measured even of what was sent
//! twice, and what the newest has overtaken is known to be lost. What is not acknowledged in a round
//! trip and some is sent again, over the next path. A stream lives and dies with its two lives;
//! nothing of it outlasts either.
//!
//! Pure: driven by `engine`.

mod receiver;
mod route;
mod sender;
#[cfg(test)]
mod tests;
pub(crate) mod wire;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use wolfpack_types::peer::Class;
use wolfpack_types::{Instant, NetworkId};

use crate::packet::OVERHEAD_BYTES;
pub(crate) use receiver::Receiver;
use receiver::Taken;
use route::Routes;
pub(crate) use sender::cost;
use sender::{Sender, Sending};
use wire::{ACK_BYTES_MAX, Body, Frame, HEAD_BYTES, Head, Mark, write_ack};

/// Bytes of a class under way at once, in each direction: fills a gigabit network at a round trip of
/// 2.5 ms, and fits into a socket's receive buffer.
pub(crate) const WINDOW_BYTES: usize = 320 << 10;
/// The shortest wait before a piece is sent again over another path, and over the same: below it lie
/// the scheduling of a busy peer and the delay of acknowledgements.
const RTO_MIN_OTHER: Duration = Duration::from_millis(4);
const RTO_MIN: Duration = Duration::from_millis(20);
/// The longest by backing off: a peer that comes back is not kept waiting.
const RTO_MAX: Duration = Duration::from_millis(200);
/// The longest at all, on the slowest of paths.
const RTO_LONGEST: Duration = Duration::from_secs(2);
/// An acknowledgement waits this long for something to go with, unless another datagram comes.
const ACK_DELAY: Duration = Duration::from_millis(1);
/// Datagrams of bulk in one turn of the loop: so many may be before a control message that comes in
/// the middle.
const BULK_BURST: usize = 8;
/// No data is added where less room is left.
const ROOM_MIN: usize = 48;

/// A peer broke the rules of the stream: its program differs or is broken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Malformed;

/// Both directions of a class.
#[derive(Debug)]
struct Lane {
    class: Class,
    sender: Sender,
    receiver: Receiver,
}

/// Everything between this life and one life of a peer.
#[derive(Debug)]
pub(crate) struct Stream {
    lanes: [Lane; 2],
    routes: Routes,
    round_trip: RoundTrip,
    /// Number of the next datagram.
    serial: u64,
    /// The newest datagram with pieces, when it came, and over which network.
    newest: Option<(Mark, Instant, NetworkId)>,
    /// By when to acknowledge.
    ack_due: Option<Instant>,
    /// Datagrams of bulk that may still be sent in this turn.
    bulk_left: usize,
    messages: VecDeque<Vec<u8>>,
}

impl Stream {
    /// A stream over these networks, the lower numbers preferred, none of which is known to work.
    pub(crate) fn new(networks: BTreeMap<NetworkId, u8>) -> Self {
        let lane = |class| Lane { class, sender: Sender::new(class), receiver: Receiver::new() };
        Self {
            lanes: Class::ALL.map(lane),
            routes: Routes::new(networks),
            round_trip: RoundTrip::default(),
            serial: 1,
            newest: None,
            ack_due: None,
            bulk_left: BULK_BURST,
            messages: VecDeque::new(),
        }
    }

    fn lane(&mut self, class: Class) -> &mut Lane {
        match class {
            Class::Control => &mut self.lanes[0],
            Class::Bulk => &mut self.lanes[1],
        }
    }

    /// Queues a message.
    pub(crate) fn send(&mut self, class: Class, bytes: Vec<u8>) {
        self.lane(class).sender.queue(bytes);
    }

    /// The failure detector's word on a path.
    pub(crate) fn set_path(&mut self, network: NetworkId, up: bool) {
        self.routes.set(network, up);
    }

    /// The longest datagram that a path carries, its header and code included.
    pub(crate) fn set_limit(&mut self, network: NetworkId, bytes: usize) {
        self.routes.set_limit(network, bytes);
    }

    /// The body of a stream datagram came in. With `hold`, its messages wait.
    ///
    /// # Errors
    /// It contradicts itself or an earlier one.
    pub(crate) fn on_datagram(
        &mut self,
        now: Instant,
        network: NetworkId,
        body: &[u8],
        hold: bool,
    ) -> Result<(), Malformed> {
        let (head, mut body) = Body::open(body).map_err(|_| Malformed)?;
        let (mut pieces, mut odd, mut progress) = (false, false, false);
        while let Some(frame) = body.next().map_err(|_| Malformed)? {
            match frame {
                Frame::Piece { class, place, bytes } => {
                    let [control, bulk] = &mut self.lanes;
                    let lane = if class == Class::Control { control } else { bulk };
                    let taken = lane.receiver.take(place, bytes, hold, &mut self.messages)?;
                    pieces = true;
                    odd |= taken == Taken::Odd;
                }
                Frame::Ack(class, ack) => {
                    progress |= self.lane(class).sender.on_ack(now, &ack)?;
                    self.routes.trust(network);
                }
            }
        }
        if let Some(echo) = head.echo {
            self.on_echo(now, echo, progress)?;
        }
        if pieces {
            self.note(now, network, head.mark, odd);
        }
        Ok(())
    }

    fn on_echo(&mut self, now: Instant, echo: Mark, progress: bool) -> Result<(), Malformed> {
        let ago = low(self.serial).wrapping_sub(echo.serial);
        let latest = self.serial.checked_sub(ago.into()).ok_or(Malformed)?;
        if progress {
            self.round_trip.doublings = 0;
            let micros = stamp(now).wrapping_sub(echo.stamp);
            self.round_trip.measure(Duration::from_micros(micros.into()).min(RTO_LONGEST));
        }
        let round_trip = self.round_trip.mean();
        for lane in &mut self.lanes {
            lane.sender.overtake(now, latest, round_trip);
        }
        Ok(())
    }

    /// Remembers what is to be acknowledged, and by when.
    fn note(&mut self, now: Instant, network: NetworkId, mark: Mark, odd: bool) {
        let newer = |(known, ..): (Mark, _, _)| mark.serial.wrapping_sub(known.serial) < 1 << 31;
        if self.newest.is_none_or(newer) {
            self.newest = Some((mark, now, network));
        }
        // The second one, and whatever is odd, is acknowledged at once.
        let due = if odd || self.ack_due.is_some() { now } else { now + ACK_DELAY };
        self.ack_due = Some(due);
    }

    /// The core takes messages again: gives what waited.
    ///
    /// # Errors
    /// What waited made no sense.
    pub(crate) fn resume(&mut self, now: Instant) -> Result<(), Malformed> {
        for lane in &mut self.lanes {
            if lane.receiver.resume(&mut self.messages)? {
                self.ack_due = Some(now);
            }
        }
        Ok(())
    }

    /// Whether messages wait for [`Stream::resume`].
    pub(crate) fn waits(&self) -> bool {
        self.lanes.iter().any(|lane| lane.receiver.waits())
    }

    /// Bytes that came before their turn.
    #[cfg(test)]
    pub(crate) fn bytes_early(&self) -> usize {
        self.lanes.iter().map(|lane| lane.receiver.bytes_held()).sum()
    }

    /// The next complete message.
    pub(crate) fn poll_message(&mut self) -> Option<Vec<u8>> {
        self.messages.pop_front()
    }

    /// A turn of the loop begins: looks at the clock.
    pub(crate) fn tick(&mut self, now: Instant) {
        self.bulk_left = BULK_BURST;
        let timeout = self.round_trip.timeout(self.routes.several());
        let mut late = false;
        for lane in &mut self.lanes {
            let timer = lane.sender.timer();
            if timer.is_some_and(|timer| now >= timer + timeout) {
                if let Some(path) = lane.sender.expire(now) {
                    self.routes.shun(now, path);
                }
                late = true;
            }
        }
        if late {
            self.round_trip.doublings = self.round_trip.doublings.saturating_add(1);
        }
    }

    /// Whether [`Stream::poll_transmit`] has a datagram.
    pub(crate) fn has_datagram(&self, now: Instant) -> bool {
        let [control, bulk] = &self.lanes;
        control.sender.ready()
            || bulk.sender.ready() && self.bulk_left > 0
            || self.ack_due.is_some_and(|due| now >= due)
    }

    /// Appends the body of the next datagram to `out`, and says on which network it goes.
    pub(crate) fn poll_transmit(&mut self, now: Instant, out: &mut Vec<u8>) -> Option<NetworkId> {
        let [control, bulk] = &self.lanes;
        let bulk_ready = bulk.sender.ready() && self.bulk_left > 0;
        let data = control.sender.ready() || bulk_ready;
        let ack = self.ack_due.is_some_and(|due| data || now >= due);
        if !data && !ack {
            return None;
        }
        // Acknowledgements alone go back on the way that the pieces came: it works in this moment.
        let came = self.newest.map(|(.., network)| network);
        let path = came.filter(|_| !data).or_else(|| self.routes.best(now))?;
        let begin = out.len();
        let room = self.routes.limit(path) - OVERHEAD_BYTES;
        let echo = self.newest.filter(|_| ack).map(|(mark, came, _)| {
            let waited = u32::try_from(now.since(came).as_micros()).unwrap_or(u32::MAX);
            Mark { stamp: mark.stamp.wrapping_add(waited), ..mark }
        });
        Head { mark: Mark { serial: low(self.serial), stamp: stamp(now) }, echo }.write(out);
        debug_assert_eq!(out.len() - begin, HEAD_BYTES);
        if ack {
            self.ack_due = None;
            for Lane { class, receiver, .. } in &mut self.lanes {
                // Both could fill a short datagram: the other's turn comes with its next pieces.
                if receiver.owes && out.len() - begin + ACK_BYTES_MAX <= room {
                    receiver.owes = false;
                    write_ack(out, *class, receiver.next(), receiver.held());
                }
            }
        }
        let how = Sending { now, path, serial: self.serial };
        for Lane { class, sender, .. } in &mut self.lanes {
            if *class == Class::Bulk && !bulk_ready {
                continue;
            }
            let mut any = false;
            while let Some(left) = room.checked_sub(out.len() - begin).filter(|&l| l >= ROOM_MIN)
                && sender.write(out, left, how)
            {
                any = true;
            }
            self.bulk_left -= usize::from(any && *class == Class::Bulk);
        }
        self.serial += 1;
        Some(path)
    }

    /// When [`Stream::tick`] and [`Stream::poll_transmit`] have something to do again; in the past,
    /// if now.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        if self.lanes.iter().any(|lane| lane.sender.ready()) {
            return Some(Instant::ZERO);
        }
        let timers = self.lanes.iter().filter_map(|lane| lane.sender.timer());
        let timeout = self.round_trip.timeout(self.routes.several());
        timers.map(|timer| timer + timeout).chain(self.ack_due).min()
    }

    /// Bytes of messages that the peer has acknowledged since the last call.
    pub(crate) fn take_released(&mut self, class: Class) -> usize {
        self.lane(class).sender.take_released()
    }

    /// Bytes of messages that it has not acknowledged yet.
    pub(crate) fn queued(&mut self, class: Class) -> usize {
        self.lane(class).sender.queued()
    }
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

    fn mean(&self) -> Duration {
        self.smoothed.map_or(RTO_MIN, |(mean, _)| mean)
    }

    fn timeout(&self, several: bool) -> Duration {
        let least = if several { RTO_MIN_OTHER } else { RTO_MIN };
        let plain = self.smoothed.map_or(RTO_MIN, |(mean, deviation)| mean + deviation * 4);
        let plain = plain.clamp(least, RTO_LONGEST);
        (plain * 2u32.saturating_pow(self.doublings.min(8))).min(RTO_MAX.max(plain))
    }
}

/// Microseconds, cut; only differences are used.
fn stamp(now: Instant) -> u32 {
    low(now.0 / 1000)
}

fn low(number: u64) -> u32 {
    u32::try_from(number & u64::from(u32::MAX)).unwrap_or(0)
}
