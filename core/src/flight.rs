//! The flight recorder's format: everything that one life of a core was told, and a digest of every
//! answer, so that `wolfpack-sim replay` can run the life again and say where it takes another turn.
//!
//! Pure: bytes in, bytes out. The service writes them to a file, the simulator reads them; nobody
//! else depends on them. A file is
//!
//! ```text
//! "WPFLIGHT" | version u16 LE | frame ...
//! frame = length u32 LE | crc32c of the payload u32 LE | payload
//! payload = kind u8 | postcard
//! ```
//!
//! with one [`Header`] first, then one [`Step`] per input, then perhaps an end in words. A file that
//! breaks off in the midst of a frame (the machine lost power) is good up to there. Requests and
//! replies are JSON inside: their tagged form needs a format that describes itself.

use serde::{Deserialize, Serialize};
use wolfpack_types::Instant;
use wolfpack_types::codec::{decode, encode};

use crate::{CoreConfig, Input, Output};

/// First bytes of every file.
pub const MAGIC: &[u8; 8] = b"WPFLIGHT";

/// Version of the format; a reader refuses any other in words.
pub const VERSION: u16 = 1;

/// Bytes before the payload of a frame.
const FRAME_HEAD: usize = 8;

const HEADER: u8 = 1;
const STEP: u8 = 2;
const END: u8 = 3;

/// What a life started with.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Header {
    /// Version of the package that recorded.
    pub version: String,
    /// The commit it was built from; empty where that is not known. A replay by another commit may
    /// take another turn without anything being wrong.
    pub commit: String,
    /// Wall clock at the start, milliseconds since 1970, for people.
    pub wall_ms: u64,
    /// The own time given to [`crate::Core::new`].
    pub started: Instant,
    /// All that the core was set up with, what its store had and its seed included.
    pub config: CoreConfig,
}

/// One input, and what came of it.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Step {
    pub now: Instant,
    /// None: what a new core puts out before it is told anything. Always the first step.
    pub input: Option<Input>,
    /// One digest for each output, in order; see [`digest`].
    pub outputs: Vec<u32>,
}

/// One frame, read.
#[derive(Clone, Debug)]
pub enum Frame {
    Header(Box<Header>),
    Step(Box<Step>),
    /// The recording ended on purpose, and why (the file is full, the life is over).
    End(String),
}

/// Why a file cannot be read on.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum FlightError {
    #[error("this is no flight recording: it does not begin with WPFLIGHT")]
    Foreign,
    #[error(
        "the recording has format {0}, this program reads format {VERSION}: use the wolfpack-sim of the version that recorded it"
    )]
    Version(u16),
    #[error("at byte {at}: {why}; what comes before it can be replayed")]
    Damaged { at: usize, why: String },
}

/// The digest of an output: CRC-32C of its encoding.
#[must_use]
pub fn digest(output: &Output) -> u32 {
    crc32c::crc32c(&encode(output))
}

fn frame(kind: u8, parts: &[&[u8]]) -> Vec<u8> {
    let length = 1 + parts.iter().map(|p| p.len()).sum::<usize>();
    let mut out = Vec::with_capacity(FRAME_HEAD + length);
    // A frame beyond 4 GiB cannot be: a message is far smaller, a database is bounded.
    out.extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    out.push(kind);
    for part in parts {
        out.extend_from_slice(part);
    }
    let crc = crc32c::crc32c(&out[FRAME_HEAD..]);
    out[4..FRAME_HEAD].copy_from_slice(&crc.to_le_bytes());
    out
}

/// The beginning of a file: magic, version and header.
#[must_use]
pub fn begin(header: &Header) -> Vec<u8> {
    let mut out = MAGIC.to_vec();
    out.extend_from_slice(&VERSION.to_le_bytes());
    out.extend_from_slice(&frame(HEADER, &[&encode(header)]));
    out
}

/// The end of a file, in words.
#[must_use]
pub fn end(why: &str) -> Vec<u8> {
    frame(END, &[&encode(&why)])
}

/// A step that is being recorded: made before the core takes the input (which is then gone), told of
/// every output, finished when there is none left.
///
/// ```ignore
/// let mut draft = flight::Draft::new(now, Some(&input));
/// core.handle(now, input);
/// while let Some(output) = core.poll_output() {
///     draft.output(&output);
///     // ... carry it out
/// }
/// file.write_all(&draft.finish())?;
/// ```
#[derive(Debug)]
pub struct Draft {
    input: Vec<u8>,
    outputs: Vec<u32>,
}

impl Draft {
    /// A step of this input; None for the outputs of a new core.
    #[must_use]
    pub fn new(now: Instant, input: Option<&Input>) -> Self {
        Self { input: encode(&(now, input)), outputs: Vec::new() }
    }

    /// The core has put this out.
    pub fn output(&mut self, output: &Output) {
        self.outputs.push(digest(output));
    }

    /// The frame of the step.
    #[must_use]
    pub fn finish(self) -> Vec<u8> {
        frame(STEP, &[&self.input, &encode(&self.outputs)])
    }
}

/// Reads a file, frame by frame.
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    /// A reader of a whole file.
    ///
    /// # Errors
    /// Bytes that are no recording, or one of another format.
    pub fn new(bytes: &'a [u8]) -> Result<Self, FlightError> {
        let rest = bytes.strip_prefix(MAGIC.as_slice()).ok_or(FlightError::Foreign)?;
        let version = rest.first_chunk::<2>().map(|v| u16::from_le_bytes(*v));
        match version {
            Some(VERSION) => Ok(Self { bytes, at: MAGIC.len() + 2 }),
            Some(other) => Err(FlightError::Version(other)),
            None => Err(FlightError::Foreign),
        }
    }

    /// The next frame; None at the end of the file, also where it breaks off.
    ///
    /// # Errors
    /// A frame that is damaged.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, FlightError> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let Some((head, rest)) = rest.split_first_chunk::<FRAME_HEAD>() else { return Ok(None) };
        let [a, b, c, d, crc @ ..] = *head;
        let length = usize::try_from(u32::from_le_bytes([a, b, c, d])).unwrap_or(usize::MAX);
        let Some(payload) = rest.get(..length) else { return Ok(None) };
        let damaged = |why: String| FlightError::Damaged { at: self.at, why };
        if crc32c::crc32c(payload) != u32::from_le_bytes(crc) {
            return Err(damaged("the checksum of a frame is wrong".into()));
        }
        let Some((&kind, body)) = payload.split_first() else {
            return Err(damaged("a frame is empty".into()));
        };
        let broken = |e: wolfpack_types::codec::DecodeError| damaged(e.to_string());
        let read = match kind {
            HEADER => Frame::Header(Box::new(decode("flight header", body).map_err(broken)?)),
            STEP => Frame::Step(Box::new(decode("flight step", body).map_err(broken)?)),
            END => Frame::End(decode("flight end", body).map_err(broken)?),
            other => return Err(damaged(format!("unknown kind of frame {other}"))),
        };
        self.at += FRAME_HEAD + length;
        Ok(Some(read))
    }

    /// Bytes after the last whole frame that was read: not zero where the file breaks off.
    #[must_use]
    pub const fn left_over(&self) -> usize {
        self.bytes.len() - self.at
    }
}

/// Values whose tagged form needs a format that describes itself, as JSON text.
pub(crate) mod json {
    use serde::de::{DeserializeOwned, Error as _};
    use serde::ser::Error as _;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(crate) fn serialize<T: Serialize, S: Serializer>(
        value: &T,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        let text = serde_json::to_string(value).map_err(S::Error::custom)?;
        to.serialize_str(&text)
    }

    pub(crate) fn deserialize<'de, T: DeserializeOwned, D: Deserializer<'de>>(
        from: D,
    ) -> Result<T, D::Error> {
        let text = String::deserialize(from)?;
        serde_json::from_str(&text).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use wolfpack_types::api::Request;
    use wolfpack_types::heartbeat::HeartbeatNotice;
    use wolfpack_types::{Incarnation, NodeId, NodeInc};

    fn inputs() -> Vec<Input> {
        let who = NodeInc::new(NodeId::new(3).unwrap(), Incarnation(7));
        vec![
            Input::Deadline,
            Input::Request {
                id: 4,
                entropy: u128::MAX,
                request: Request::GroupOnline { group: "mail".into() },
            },
            Input::Heartbeat(HeartbeatNotice::Noted {
                id: 1,
                newest: BTreeMap::from([(who, Instant(9))]),
            }),
            Input::StoreFailed { error: "no space".into() },
        ]
    }

    fn file() -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        out.extend_from_slice(&VERSION.to_le_bytes());
        for input in &inputs() {
            let mut draft = Draft::new(Instant(5), Some(input));
            draft.output(&Output::Reply {
                id: 1,
                reply: wolfpack_types::api::Reply::Done { seq: 1 },
            });
            out.extend_from_slice(&draft.finish());
        }
        out.extend_from_slice(&end("full"));
        out
    }

    #[test]
    fn what_is_recorded_is_read() {
        let bytes = file();
        let mut reader = Reader::new(&bytes).unwrap();
        for input in inputs() {
            let Some(Frame::Step(step)) = reader.next_frame().unwrap() else { panic!("a step") };
            assert_eq!((step.now, step.input, step.outputs.len()), (Instant(5), Some(input), 1));
        }
        assert!(matches!(reader.next_frame(), Ok(Some(Frame::End(why))) if why == "full"));
        assert!(matches!(reader.next_frame(), Ok(None)));
        assert_eq!(reader.left_over(), 0);
    }

    #[test]
    fn a_file_that_breaks_off_is_good_up_to_there() {
        let whole = file();
        for length in 10..whole.len() {
            let mut reader = Reader::new(&whole[..length]).unwrap();
            let mut frames = 0;
            while reader.next_frame().unwrap().is_some() {
                frames += 1;
            }
            assert!(frames < 5);
        }
    }

    #[test]
    fn a_changed_bit_is_found() {
        let whole = file();
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 4;
            let mut frames = 0;
            let Ok(mut reader) = Reader::new(&bytes) else { continue };
            while let Ok(Some(_)) = reader.next_frame() {
                frames += 1;
            }
            assert!(frames < 5, "byte {at}");
        }
    }

    #[test]
    fn foreign_and_newer_files_are_refused_in_words() {
        assert_eq!(Reader::new(b"PNG").unwrap_err(), FlightError::Foreign);
        let err = Reader::new(b"WPFLIGHT\x02\x00").unwrap_err();
        assert!(err.to_string().contains("format 2"), "{err}");
    }
}
