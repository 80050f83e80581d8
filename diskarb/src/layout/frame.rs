//! A frame: the one way in which a value stands in blocks of the disk, so that a torn, foreign or
//! never written block is told from a good one.
//!
//! ```text
//!  0       4        8        12
//!  | magic | length | crc32c | payload (postcard), length bytes | zeros up to whole blocks
//! ```
//! Little-endian; the checksum (Castagnoli) covers magic, length and payload.

use serde::{Serialize, de::DeserializeOwned};
use wolfpack_types::codec;

/// Bytes before the payload.
pub(crate) const HEADER: usize = 12;

/// What kind of block it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    Slot,
    Body,
    Checkpoint,
    Record,
}

impl Kind {
    const fn magic(self) -> [u8; 4] {
        match self {
            Self::Slot => *b"WSLT",
            Self::Body => *b"WBDY",
            Self::Checkpoint => *b"WCKP",
            Self::Record => *b"WREC",
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Slot => "slot",
            Self::Body => "slot body",
            Self::Checkpoint => "checkpoint",
            Self::Record => "log record",
        }
    }
}

/// The checksum of parts, in order.
pub(crate) fn checksum(parts: &[&[u8]]) -> u32 {
    parts.iter().fold(0, |crc, part| crc32c::crc32c_append(crc, part))
}

/// A value as a frame, padded to whole blocks.
pub(crate) fn frame<T: Serialize>(kind: Kind, value: &T, block_size: u32) -> Vec<u8> {
    let payload = codec::encode(value);
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX).to_le_bytes();
    let crc = checksum(&[&kind.magic(), &length, &payload]);
    let mut out = Vec::with_capacity(HEADER + payload.len());
    out.extend_from_slice(&kind.magic());
    out.extend_from_slice(&length);
    out.extend_from_slice(&crc.to_le_bytes());
    out.extend_from_slice(&payload);
    pad(&mut out, block_size);
    out
}

/// Fills the last block with zeros.
pub(crate) fn pad(data: &mut Vec<u8>, block_size: u32) {
    data.resize(data.len().next_multiple_of(block_size as usize), 0);
}

/// Bytes of the frame (header and payload) that seems to start here, before any check of its
/// content; none if it is not of this kind.
pub(crate) fn extent(kind: Kind, data: &[u8]) -> Option<usize> {
    let (magic, rest) = data.split_first_chunk::<4>()?;
    let length = rest.first_chunk::<4>()?;
    (*magic == kind.magic())
        .then(|| usize::try_from(u32::from_le_bytes(*length)).ok())
        .flatten()
        .and_then(|n| n.checked_add(HEADER))
}

/// The value of the frame at the start of `data`.
///
/// # Errors
/// Not such a frame, truncated, checksum wrong, or not a value of this type.
pub(crate) fn unframe<T: DeserializeOwned>(kind: Kind, data: &[u8]) -> Result<T, String> {
    let name = kind.name();
    let size = extent(kind, data).ok_or_else(|| format!("not a {name}"))?;
    let frame = data.get(..size).ok_or_else(|| format!("{name} is cut short"))?;
    let (head, payload) = frame.split_at(HEADER);
    let (start, crc) = head.split_at(8);
    if checksum(&[start, payload]).to_le_bytes() != *crc {
        return Err(format!("{name} is torn (checksum)"));
    }
    codec::decode(name, payload).map_err(|e| e.to_string())
}
