//! The one way in which values become bytes: postcard, bounded, with an error that names the type.

use serde::{Serialize, de::DeserializeOwned};

/// Bytes that are not what they should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what}: {why}")]
pub struct DecodeError {
    pub what: &'static str,
    pub why: String,
}

/// Encodes a value.
///
/// # Panics
/// Only if a type of this crate cannot be encoded at all, which its tests exclude.
#[must_use]
pub fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    postcard::to_allocvec(value).expect("types of this crate have an encoding")
}

/// Bytes that [`encode`] makes of the value.
///
/// # Panics
/// As [`encode`].
#[must_use]
pub fn encoded_bytes<T: Serialize>(value: &T) -> usize {
    postcard::experimental::serialized_size(value).expect("types of this crate have an encoding")
}

/// Encodes a value behind what is in `out`; allocates only if that has no room.
///
/// # Panics
/// As [`encode`].
pub fn encode_into<T: Serialize>(value: &T, out: &mut Vec<u8>) {
    let taken = std::mem::take(out);
    *out = postcard::to_extend(value, taken).expect("types of this crate have an encoding");
}

/// Decodes a value; all bytes must be used.
///
/// # Errors
/// Bytes that are truncated, malformed, or followed by others.
pub fn decode<T: DeserializeOwned>(what: &'static str, bytes: &[u8]) -> Result<T, DecodeError> {
    match postcard::take_from_bytes(bytes) {
        Ok((value, [])) => Ok(value),
        Ok((_, rest)) => Err(DecodeError { what, why: format!("{} bytes left over", rest.len()) }),
        Err(e) => Err(DecodeError { what, why: e.to_string() }),
    }
}
