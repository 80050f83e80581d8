//! The receiving half of a class: puts pieces in order and messages together, each exactly once.
//!
//! Bounded: at most a window of bytes out of order, and one unfinished message, which grows with what
//! really arrived and never by what was announced.

use std::collections::{BTreeMap, VecDeque};

use super::{Malformed, WINDOW_BYTES};
use crate::MESSAGE_BYTES_MAX;

/// Room made for a message at once; more only as it comes.
const ROOM_FIRST: usize = 64 << 10;

#[derive(Debug)]
pub(crate) struct Receiver {
    /// All before this place were taken.
    next: u64,
    /// Pieces that came before their turn, by place; they may overlap.
    early: BTreeMap<u64, Vec<u8>>,
    early_bytes: usize,
    /// Length of the message to come, as far as it has come.
    prefix: [u8; 4],
    prefix_has: usize,
    /// The message being put together, and what it still lacks.
    partial: Vec<u8>,
    missing: usize,
    /// It made no sense: nothing more is taken.
    broken: bool,
    /// Pieces came since the last acknowledgement was written.
    pub(super) owes: bool,
}

/// What a piece was.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Taken {
    InOrder,
    /// Early, or a repetition: the sender should know soon.
    Odd,
}

impl Receiver {
    pub(crate) const fn new() -> Self {
        Self {
            next: 0,
            early: BTreeMap::new(),
            early_bytes: 0,
            prefix: [0; 4],
            prefix_has: 0,
            partial: Vec::new(),
            missing: 0,
            broken: false,
            owes: false,
        }
    }

    /// Takes a piece; complete messages go to `messages`, unless `hold`: then it waits.
    pub(crate) fn take(
        &mut self,
        place: u64,
        bytes: &[u8],
        hold: bool,
        messages: &mut VecDeque<Vec<u8>>,
    ) -> Result<Taken, Malformed> {
        if self.broken {
            return Err(Malformed);
        }
        self.owes = true;
        let end = place.checked_add(bytes.len() as u64).ok_or(Malformed)?;
        if end <= self.next || end > self.next + WINDOW_BYTES as u64 {
            // A repetition (its acknowledgement was lost), or more than was allowed.
            return Ok(Taken::Odd);
        }
        if hold || place > self.next {
            self.keep(place, bytes);
            return Ok(if hold { Taken::InOrder } else { Taken::Odd });
        }
        let hole = !self.early.is_empty();
        self.advance(place, bytes, messages)?;
        self.resume(messages)?;
        Ok(if hole { Taken::Odd } else { Taken::InOrder })
    }

    fn keep(&mut self, place: u64, bytes: &[u8]) {
        let longer = self.early.get(&place).is_none_or(|known| known.len() < bytes.len());
        if longer && self.early_bytes + bytes.len() <= WINDOW_BYTES {
            self.early_bytes += bytes.len();
            if let Some(shorter) = self.early.insert(place, bytes.to_vec()) {
                self.early_bytes -= shorter.len();
            }
        }
    }

    /// Takes what had to wait and need not any more; whether there was any.
    pub(super) fn resume(&mut self, messages: &mut VecDeque<Vec<u8>>) -> Result<bool, Malformed> {
        let mut any = false;
        while let Some(entry) = self.early.first_entry().filter(|e| *e.key() <= self.next) {
            let (place, bytes) = entry.remove_entry();
            self.early_bytes -= bytes.len();
            self.advance(place, &bytes, messages)?;
            any = true;
        }
        self.owes |= any;
        Ok(any)
    }

    /// Whether something waits whose turn it is.
    pub(super) fn waits(&self) -> bool {
        self.early.first_key_value().is_some_and(|(&place, _)| place <= self.next)
    }

    /// Goes on with a piece that begins at or before the next place.
    fn advance(
        &mut self,
        place: u64,
        bytes: &[u8],
        messages: &mut VecDeque<Vec<u8>>,
    ) -> Result<(), Malformed> {
        let known = usize::try_from(self.next - place).map_err(|_| Malformed)?;
        let Some(mut rest) = bytes.get(known..).filter(|rest| !rest.is_empty()) else {
            return Ok(());
        };
        self.next += rest.len() as u64;
        while !rest.is_empty() {
            if self.missing == 0 {
                let wanted = (4 - self.prefix_has).min(rest.len());
                let (prefix, after) = rest.split_at(wanted);
                self.prefix[self.prefix_has..self.prefix_has + wanted].copy_from_slice(prefix);
                self.prefix_has += wanted;
                rest = after;
                if self.prefix_has < 4 {
                    break;
                }
                self.prefix_has = 0;
                let length = usize::try_from(u32::from_le_bytes(self.prefix));
                let length = length.ok().filter(|&length| length <= MESSAGE_BYTES_MAX);
                let Some(length) = length else {
                    self.broken = true;
                    return Err(Malformed);
                };
                if let Some((message, after)) = rest.split_at_checked(length) {
                    // All of it is here: the usual case.
                    messages.push_back(message.to_vec());
                    rest = after;
                    continue;
                }
                self.missing = length;
                self.partial = Vec::with_capacity(length.min(ROOM_FIRST));
            }
            let (part, after) = rest.split_at(self.missing.min(rest.len()));
            self.partial.extend_from_slice(part);
            self.missing -= part.len();
            rest = after;
            if self.missing == 0 {
                messages.push_back(std::mem::take(&mut self.partial));
            }
        }
        Ok(())
    }

    /// Everything before this place has come and was taken.
    pub(super) const fn next(&self) -> u64 {
        self.next
    }

    #[cfg(test)]
    pub(super) const fn bytes_held(&self) -> usize {
        self.early_bytes
    }

    /// What has come beyond that, in ranges.
    pub(super) fn held(&self) -> impl Iterator<Item = (u64, u64)> {
        let mut pieces = self.early.iter().map(|(&from, bytes)| (from, from + bytes.len() as u64));
        let mut range = pieces.next();
        std::iter::from_fn(move || {
            let (from, mut to) = range.take()?;
            for (next_from, next_to) in pieces.by_ref() {
                if next_from > to {
                    range = Some((next_from, next_to));
                    break;
                }
                to = to.max(next_to);
            }
            Some((from, to))
        })
        .map(|(from, to)| (from.max(self.next), to))
    }
}
