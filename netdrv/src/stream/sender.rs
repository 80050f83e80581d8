//! The sending half of a class: the messages that wait, and what of them is under way.

use std::collections::VecDeque;
use std::time::Duration;

use wolfpack_types::peer::Class;
use wolfpack_types::{Instant, NetworkId};

use super::wire::{Ack, PIECE_BYTES, write_piece};
use super::{Malformed, WINDOW_BYTES};

/// Datagrams sent later that must have arrived before an earlier one counts as lost (RFC 5681,
/// section 3.2).
const OVERTAKEN: u64 = 3;
/// Pieces sent again by the clock at once: a dead peer is asked, not flooded. Once they have arrived,
/// all others that were under way before them count as overtaken.
const RESEND_BURST: usize = 4;
/// No piece is cut smaller, but at the end of what there is: heads cost too.
const PIECE_MIN: usize = 32;

/// A message, until all of it is acknowledged.
#[derive(Debug)]
struct Message {
    /// Place of its length in the stream.
    start: u64,
    prefix: [u8; 4],
    bytes: Vec<u8>,
}

impl Message {
    fn end(&self) -> u64 {
        self.start + 4 + self.bytes.len() as u64
    }
}

/// A piece that is not acknowledged up to.
#[derive(Debug)]
struct Flight {
    start: u64,
    end: u64,
    /// Number of the datagram that it went with last.
    serial: u64,
    path: NetworkId,
    state: State,
    /// When it was sent again last.
    resent: Option<Instant>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    UnderWay,
    /// The receiver has it, out of order.
    Held,
    /// To be sent again.
    Lost,
}

#[derive(Debug)]
pub(super) struct Sender {
    class: Class,
    messages: VecDeque<Message>,
    /// Place of the first byte that was never sent, and of the end of all messages.
    fresh: u64,
    end: u64,
    /// Everything before this place is acknowledged.
    acked: u64,
    /// By place, without gaps, from `acked` to `fresh`.
    flights: VecDeque<Flight>,
    lost: usize,
    /// No piece before this place is lost.
    lost_from: u64,
    queued: usize,
    released: usize,
    /// The timeout runs from here.
    timer: Instant,
}

/// What a datagram is sent with.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sending {
    pub(super) now: Instant,
    pub(super) path: NetworkId,
    pub(super) serial: u64,
}

impl Sender {
    pub(super) const fn new(class: Class) -> Self {
        Self {
            class,
            messages: VecDeque::new(),
            fresh: 0,
            end: 0,
            acked: 0,
            flights: VecDeque::new(),
            lost: 0,
            lost_from: 0,
            queued: 0,
            released: 0,
            timer: Instant::ZERO,
        }
    }

    pub(super) fn queue(&mut self, bytes: Vec<u8>) {
        let length = u32::try_from(bytes.len()).expect("messages are bounded by the driver");
        let message = Message { start: self.end, prefix: length.to_le_bytes(), bytes };
        self.end = message.end();
        self.queued += cost(message.bytes.len());
        self.messages.push_back(message);
    }

    pub(super) const fn queued(&self) -> usize {
        self.queued
    }

    pub(super) fn take_released(&mut self) -> usize {
        std::mem::take(&mut self.released)
    }

    /// Whether there is something to send now.
    pub(super) const fn ready(&self) -> bool {
        self.lost > 0 || self.fresh < self.limit()
    }

    const fn limit(&self) -> u64 {
        let window = self.acked + WINDOW_BYTES as u64;
        if window < self.end { window } else { self.end }
    }

    /// Appends a piece of at most `room` bytes, its head included; whether there was one. Lost ones
    /// go first.
    pub(super) fn write(&mut self, out: &mut Vec<u8>, room: usize, how: Sending) -> bool {
        let Some(room) = room.checked_sub(PIECE_BYTES).filter(|&room| room > 0) else {
            return false;
        };
        if self.lost > 0 {
            self.write_lost(out, room, how)
        } else {
            self.write_fresh(out, room, how)
        }
    }

    fn write_lost(&mut self, out: &mut Vec<u8>, room: usize, how: Sending) -> bool {
        let from = self.flights.partition_point(|flight| flight.start < self.lost_from);
        let mut later = self.flights.range(from..);
        let Some(at) = later.position(|flight| flight.state == State::Lost) else { return false };
        let at = from + at;
        let flight = &mut self.flights[at];
        let cut = flight.start + room as u64;
        if cut < flight.end {
            if room < PIECE_MIN {
                return false;
            }
            // The path takes less than the one it went on before.
            let rest = Flight { start: cut, end: flight.end, ..*flight };
            flight.end = cut;
            self.flights.insert(at + 1, rest);
            self.lost += 1;
        }
        let flight = &mut self.flights[at];
        (flight.serial, flight.path, flight.state) = (how.serial, how.path, State::UnderWay);
        flight.resent = Some(how.now);
        let (start, end) = (flight.start, flight.end);
        self.lost -= 1;
        self.lost_from = end;
        self.timer = self.timer.max(how.now);
        self.copy(out, start, end);
        true
    }

    fn write_fresh(&mut self, out: &mut Vec<u8>, room: usize, how: Sending) -> bool {
        let (start, limit) = (self.fresh, self.limit());
        let end = limit.min(start + room as u64);
        if start == end || end < limit && room < PIECE_MIN {
            return false;
        }
        if self.flights.is_empty() {
            self.timer = how.now;
        }
        let (serial, path) = (how.serial, how.path);
        self.flights.push_back(Flight {
            start,
            end,
            serial,
            path,
            state: State::UnderWay,
            resent: None,
        });
        self.fresh = end;
        self.copy(out, start, end);
        true
    }

    /// Appends a piece with these bytes of the stream.
    fn copy(&self, out: &mut Vec<u8>, start: u64, end: u64) {
        let length = usize::try_from(end - start).expect("a piece fits into a datagram");
        write_piece(out, self.class, start, length);
        let first = self.messages.partition_point(|message| message.end() <= start);
        let mut place = start;
        for message in self.messages.range(first..) {
            if place >= end {
                break;
            }
            let within = |place: u64| usize::try_from(place - message.start).unwrap_or(usize::MAX);
            let (from, to) = (within(place), within(end.min(message.end())));
            out.extend_from_slice(&message.prefix[from.min(4)..to.min(4)]);
            out.extend_from_slice(&message.bytes[from.max(4) - 4..to.max(4) - 4]);
            place = message.end();
        }
    }

    /// When what is under way has been so for too long, if that is after `timeout`.
    pub(super) fn timer(&self) -> Option<Instant> {
        (!self.flights.is_empty()).then_some(self.timer)
    }

    /// Time is up: takes the first pieces for lost, and says on which path the first one was. Also
    /// what the receiver holds: perhaps the word is lost that it has made room.
    pub(super) fn expire(&mut self, now: Instant) -> Option<NetworkId> {
        self.timer = now;
        let missing = |flight: &&mut Flight| flight.state == State::UnderWay;
        let mut path = None;
        for flight in self.flights.iter_mut().filter(missing).take(RESEND_BURST) {
            flight.state = State::Lost;
            self.lost_from = self.lost_from.min(flight.start);
            path = path.or(Some(flight.path));
            self.lost += 1;
        }
        if path.is_none() && self.lost == 0 {
            let first = self.flights.front_mut()?;
            first.state = State::Lost;
            self.lost_from = first.start;
            self.lost = 1;
        }
        path
    }

    /// An acknowledgement; whether something arrived that was not known to have.
    ///
    /// # Errors
    /// It acknowledges what was never sent.
    pub(super) fn on_ack(&mut self, now: Instant, ack: &Ack) -> Result<bool, Malformed> {
        if ack.next > self.fresh || ack.held.last().is_some_and(|&(_, to)| to > self.fresh) {
            return Err(Malformed);
        }
        let mut progress = false;
        while let Some(first) = self.flights.front().filter(|first| first.end <= ack.next) {
            progress |= first.state != State::Held;
            self.lost -= usize::from(first.state == State::Lost);
            self.acked = first.end;
            self.flights.pop_front();
        }
        progress |= self.release();
        progress |= self.mark_held(ack);
        if progress {
            self.timer = now;
        }
        Ok(progress)
    }

    fn release(&mut self) -> bool {
        let before = self.released;
        while self.messages.front().is_some_and(|first| first.end() <= self.acked) {
            if let Some(message) = self.messages.pop_front() {
                let freed = cost(message.bytes.len());
                self.queued -= freed;
                self.released += freed;
            }
        }
        self.released > before
    }

    /// Notes what the receiver holds out of order; whether any of it is news.
    fn mark_held(&mut self, ack: &Ack) -> bool {
        let mut news = false;
        for &(from, to) in &ack.held {
            let first = self.flights.partition_point(|flight| flight.start < from);
            for flight in self.flights.range_mut(first..) {
                if flight.end > to {
                    break;
                }
                if flight.state != State::Held {
                    self.lost -= usize::from(flight.state == State::Lost);
                    flight.state = State::Held;
                    news = true;
                }
            }
        }
        news
    }

    /// The datagram of this number has arrived: what was sent well before it and has not, is lost.
    /// What was sent again is given a round trip: where datagrams overtake each other all the time,
    /// everything would be sent again and again.
    pub(super) fn overtake(&mut self, now: Instant, latest: u64, round_trip: Duration) {
        for flight in &mut self.flights {
            if flight.state == State::UnderWay
                && flight.serial + OVERTAKEN <= latest
                && flight.resent.is_none_or(|resent| now >= resent + round_trip)
            {
                flight.state = State::Lost;
                self.lost_from = self.lost_from.min(flight.start);
                self.lost += 1;
            }
        }
    }
}

/// What a queued message takes from the bound on the queue: many short ones are not free.
pub(crate) const fn cost(length: usize) -> usize {
    length + 64
}
