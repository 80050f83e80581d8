//! The bodies of fragment and acknowledgement datagrams.
//!
//! ```text
//!   fragment                                   acknowledgement
//!   +-------------------------------+ 0        +-------------------------------+ 0
//!   | number (8)                    |          | next expected (8)             |
//!   +---------------+---------------+ 8        +-------------------------------+ 8
//!   | stamp (4)     | remaining (4) |          | later ones held, a bit each(8)|
//!   +---------------+---------------+ 16       +---------------+---------------+ 16
//!   | payload                       |          | echoed stamp  |
//!   +-------------------------------+          +---------------+
//! ```
//! All little-endian. `remaining` counts the bytes of the message from this fragment on, so a
//! fragment with `remaining` equal to its payload is the last. Bit *n* of an acknowledgement stands
//! for number `next + 1 + n`. Stamps are the sender's microseconds, cut to 32 bits.

use crate::MESSAGE_BYTES_MAX;
use crate::packet::{BODY_BYTES_MAX, FormError, Reader};

const FRAGMENT_HEADER_BYTES: usize = 16;
/// Bytes of a message in one datagram.
pub(super) const PAYLOAD_BYTES_MAX: usize = BODY_BYTES_MAX - FRAGMENT_HEADER_BYTES;

/// A piece of a message.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Fragment {
    pub(crate) number: u64,
    pub(crate) stamp: u32,
    pub(crate) remaining: u32,
    pub(crate) payload: Vec<u8>,
}

impl Fragment {
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.clear();
        out.extend_from_slice(&self.number.to_le_bytes());
        out.extend_from_slice(&self.stamp.to_le_bytes());
        out.extend_from_slice(&self.remaining.to_le_bytes());
        out.extend_from_slice(&self.payload);
    }

    /// # Errors
    /// Too short, an empty piece of a longer message, or a message longer than any.
    pub(crate) fn decode(body: &[u8]) -> Result<Self, FormError> {
        let mut reader = Reader(body);
        let number = u64::from_le_bytes(reader.array()?);
        let stamp = u32::from_le_bytes(reader.array()?);
        let remaining = u32::from_le_bytes(reader.array()?);
        let payload = reader.rest();
        let left = usize::try_from(remaining).map_err(|_| FormError::Truncated)?;
        if left > MESSAGE_BYTES_MAX || payload.len() > left || payload.is_empty() && left > 0 {
            return Err(FormError::Truncated);
        }
        Ok(Self { number, stamp, remaining, payload: payload.to_vec() })
    }
}

/// What the receiver holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct AckFrame {
    pub(crate) next: u64,
    pub(crate) held: u64,
    pub(crate) stamp: u32,
}

impl AckFrame {
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.clear();
        out.extend_from_slice(&self.next.to_le_bytes());
        out.extend_from_slice(&self.held.to_le_bytes());
        out.extend_from_slice(&self.stamp.to_le_bytes());
    }

    /// # Errors
    /// Not exactly as long as an acknowledgement.
    pub(crate) fn decode(body: &[u8]) -> Result<Self, FormError> {
        let mut reader = Reader(body);
        let next = u64::from_le_bytes(reader.array()?);
        let held = u64::from_le_bytes(reader.array()?);
        let stamp = u32::from_le_bytes(reader.array()?);
        if reader.rest().is_empty() {
            Ok(Self { next, held, stamp })
        } else {
            Err(FormError::Truncated)
        }
    }
}
