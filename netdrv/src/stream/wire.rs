//! The body of a stream datagram: a head, then frames.
//!
//! ```text
//!   head                               acknowledgement (3: control, 4: bulk)
//!   +-------+ 0                        +-------+ 0
//!   | flags |                          |   3   |
//!   +-------+-------+ 1                +-------+-------------------+ 1
//!   | serial (4)    |                  | all before this came (8)  |
//!   +---------------+ 5                +-------+-------------------+ 9
//!   | stamp (4)     |                  | pairs |
//!   +---------------+ 9                +-------+-------+ 10
//!   | echoed serial |                  | gap (4)       | these are not here,
//!   +---------------+ 13               +---------------+
//!   | echoed stamp  |                  | length (4)    | these are; again
//!   +---------------+ 17               +---------------+
//!
//!   piece (1: control, 2: bulk)        The stream of a class is its messages one after the other,
//!   +-------+ 0                        each with its length (4) before it.
//!   |   1   |
//!   +-------+-------------------+ 1
//!   | place in the stream (8)   |
//!   +---------------+-----------+ 9
//!   | length (2)    |
//!   +---------------+ 11
//!   | bytes         |
//! ```
//! All little-endian. Serials count the datagrams of the stream, cut to 32 bits. Stamps are
//! microseconds of the sender's clock, likewise cut. The echo (flag 1) is of the newest datagram with
//! pieces that came; its stamp is put forward by the time that it waited for the acknowledgement.

use wolfpack_types::peer::Class;

use crate::packet::{BODY_BYTES_MAX, FormError, Reader};

/// Length of the head.
pub(crate) const HEAD_BYTES: usize = 17;
/// What a piece has beside its bytes.
pub(crate) const PIECE_BYTES: usize = 11;
/// Ranges that one acknowledgement names at most.
pub(crate) const RANGES_MAX: usize = 32;
/// The longest acknowledgement.
pub(crate) const ACK_BYTES_MAX: usize = 10 + 8 * RANGES_MAX;

const ECHO: u8 = 1;
const _: () = assert!(HEAD_BYTES + 2 * ACK_BYTES_MAX < BODY_BYTES_MAX);

/// The head of a stream datagram.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Head {
    pub(crate) mark: Mark,
    pub(crate) echo: Option<Mark>,
}

/// Names a datagram of a stream.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Mark {
    pub(crate) serial: u32,
    pub(crate) stamp: u32,
}

impl Head {
    pub(crate) fn write(self, out: &mut Vec<u8>) {
        out.push(if self.echo.is_some() { ECHO } else { 0 });
        for mark in [self.mark, self.echo.unwrap_or_default()] {
            out.extend_from_slice(&mark.serial.to_le_bytes());
            out.extend_from_slice(&mark.stamp.to_le_bytes());
        }
    }
}

/// One frame as it came.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Frame<'a> {
    Piece { class: Class, place: u64, bytes: &'a [u8] },
    Ack(Class, Ack),
}

/// What the receiver of a class has.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Ack {
    /// Everything before this place.
    pub(crate) next: u64,
    /// Beyond it, in order and apart: from, to.
    pub(crate) held: Vec<(u64, u64)>,
}

const fn code(class: Class) -> u8 {
    match class {
        Class::Control => 1,
        Class::Bulk => 2,
    }
}

/// Writes the head of a piece whose bytes follow.
pub(crate) fn write_piece(out: &mut Vec<u8>, class: Class, place: u64, length: usize) {
    let length = u16::try_from(length).expect("a piece fits into a datagram");
    out.push(code(class));
    out.extend_from_slice(&place.to_le_bytes());
    out.extend_from_slice(&length.to_le_bytes());
}

/// Writes an acknowledgement; ranges beyond the first [`RANGES_MAX`] are left out.
pub(crate) fn write_ack(
    out: &mut Vec<u8>,
    class: Class,
    next: u64,
    held: impl Iterator<Item = (u64, u64)>,
) {
    out.push(code(class) + 2);
    out.extend_from_slice(&next.to_le_bytes());
    let count = out.len();
    out.push(0);
    let mut end = next;
    for (from, to) in held.take(RANGES_MAX) {
        // Within one window of `next`, so these fit.
        let span = |span: u64| u32::try_from(span).unwrap_or(u32::MAX).to_le_bytes();
        out.extend_from_slice(&span(from - end));
        out.extend_from_slice(&span(to - from));
        out[count] += 1;
        end = to;
    }
}

/// Reads a body: its head, and its frames one after the other.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Body<'a>(Reader<'a>);

impl<'a> Body<'a> {
    /// # Errors
    /// No head, or one of a later release.
    pub(crate) fn open(body: &'a [u8]) -> Result<(Head, Self), FormError> {
        let mut reader = Reader(body);
        let [flags] = reader.array()?;
        let mut mark = || {
            let serial = u32::from_le_bytes(reader.array()?);
            Ok(Mark { serial, stamp: u32::from_le_bytes(reader.array()?) })
        };
        let (mark, echo) = (mark()?, mark()?);
        if flags > ECHO || flags & ECHO == 0 && echo != Mark::default() {
            return Err(FormError::Truncated);
        }
        Ok((Head { mark, echo: (flags & ECHO != 0).then_some(echo) }, Self(reader)))
    }

    /// The next frame, or the end.
    ///
    /// # Errors
    /// No frame of ours; the rest cannot be read.
    pub(crate) fn next(&mut self) -> Result<Option<Frame<'a>>, FormError> {
        let reader = &mut self.0;
        if reader.0.is_empty() {
            return Ok(None);
        }
        let [code] = reader.array()?;
        let place = u64::from_le_bytes(reader.array()?);
        let class = match code {
            1 | 3 => Class::Control,
            2 | 4 => Class::Bulk,
            _ => return Err(FormError::Truncated),
        };
        if code <= 2 {
            let length = usize::from(u16::from_le_bytes(reader.array()?));
            let bytes = reader.bytes(length)?;
            if bytes.is_empty() || place.checked_add(length as u64).is_none() {
                return Err(FormError::Truncated);
            }
            return Ok(Some(Frame::Piece { class, place, bytes }));
        }
        let [pairs] = reader.array()?;
        if usize::from(pairs) > RANGES_MAX {
            return Err(FormError::Truncated);
        }
        let (mut end, mut held) = (place, Vec::new());
        for _ in 0..pairs {
            let gap = u64::from(u32::from_le_bytes(reader.array()?));
            let length = u64::from(u32::from_le_bytes(reader.array()?));
            let from = end.checked_add(gap).ok_or(FormError::Truncated)?;
            end = from.checked_add(length).ok_or(FormError::Truncated)?;
            held.push((from, end));
        }
        Ok(Some(Frame::Ack(class, Ack { next: place, held })))
    }
}
