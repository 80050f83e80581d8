//! The receiving half: puts fragments in order and messages together, each exactly once.
//!
//! Bounded: at most a window of fragments out of order, and one unfinished message, which grows
//! with what really arrived and never by what was announced.

use std::collections::{BTreeMap, VecDeque};

use super::frame::{AckFrame, Fragment};
use super::{Malformed, WINDOW};

#[derive(Debug)]
pub(super) struct Receiver {
    /// All before this have arrived.
    next: u64,
    /// Later ones that have arrived.
    early: BTreeMap<u64, Fragment>,
    /// The message being put together, and what it still lacks.
    partial: Vec<u8>,
    missing: Option<u32>,
    /// Of the fragment that came last.
    stamp: u32,
}

impl Receiver {
    pub(super) const fn new() -> Self {
        Self { next: 1, early: BTreeMap::new(), partial: Vec::new(), missing: None, stamp: 0 }
    }

    /// Takes a fragment; complete messages go to `messages`.
    pub(super) fn take(
        &mut self,
        fragment: Fragment,
        messages: &mut VecDeque<Vec<u8>>,
    ) -> Result<(), Malformed> {
        self.stamp = fragment.stamp;
        if fragment.number < self.next || fragment.number - self.next > WINDOW {
            // A repetition (its acknowledgement was lost), or more than was allowed.
            return Ok(());
        }
        self.early.entry(fragment.number).or_insert(fragment);
        while let Some(fragment) = self.early.remove(&self.next) {
            self.append(fragment, messages)?;
            self.next += 1;
        }
        Ok(())
    }

    fn append(
        &mut self,
        fragment: Fragment,
        messages: &mut VecDeque<Vec<u8>>,
    ) -> Result<(), Malformed> {
        let length = u32::try_from(fragment.payload.len()).map_err(|_| Malformed)?;
        if self.missing.is_some_and(|missing| missing != fragment.remaining) {
            return Err(Malformed);
        }
        let left = fragment.remaining.checked_sub(length).ok_or(Malformed)?;
        self.partial.extend_from_slice(&fragment.payload);
        if left == 0 {
            self.missing = None;
            messages.push_back(std::mem::take(&mut self.partial));
        } else {
            self.missing = Some(left);
        }
        Ok(())
    }

    /// What has arrived.
    pub(super) fn ack(&self) -> AckFrame {
        let held = self.early.keys().fold(0, |held, number| {
            // `next` itself is not held, or it would have been taken.
            held | 1u64.checked_shl(bit(number - self.next - 1)).unwrap_or(0)
        });
        AckFrame { next: self.next, held, stamp: self.stamp }
    }
}

fn bit(position: u64) -> u32 {
    u32::try_from(position).unwrap_or(u32::MAX)
}
