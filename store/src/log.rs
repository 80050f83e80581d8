//! The log file: frames, each written by one synchronous write and so torn, if at all, only at the
//! end.
//!
//! ```text
//!  file:   8  magic "WPLOGLOG"
//!          2  format version, 6 zero bytes
//!          8  generation, as in the file's name
//!          -  frames 0, 1, 2 ...
//!  frame:  4  magic "WPFR"
//!          4  length of the body
//!          8  number of the frame
//!          4  CRC-32C of generation, length, number and body
//!          -  body: postcard of `Frame`
//! ```
//! Behind the last frame follow zeros, as many as there are. Frame 0 belongs to the file from its creation (which is one step) and must be whole. A broken
//! frame with no whole later one behind it was never acknowledged: the log ends before it. A broken
//! frame that is followed by a whole later one had been acknowledged: that is damage. Pure.

use serde::{Deserialize, Serialize};
use wolfpack_types::store::Snapshot;
use wolfpack_types::update::LogEntry;
use wolfpack_types::{Ballot, Seq, StoreId, codec};

/// Format of the log files.
pub(crate) const VERSION: u16 = 1;

const MAGIC: &[u8; 8] = b"WPLOGLOG";
const FRAME_MAGIC: &[u8; 4] = b"WPFR";
const PRELUDE_BYTES: usize = 24;
const FRAME_HEADER_BYTES: usize = 20;

/// How a log file begins.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Start {
    pub(crate) store: StoreId,
    /// The position before the first entry.
    pub(crate) base: Seq,
    /// Replaces the database, if the database does not say that it has been replaced already.
    pub(crate) instead: Instead,
    pub(crate) entries: Vec<LogEntry>,
}

/// What replaces the rows of the database.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) enum Instead {
    Nothing,
    Snapshot(Snapshot),
    /// The copy that came in pieces and is in the database's file; the ballot of its position.
    Copy(Ballot),
}

#[derive(Deserialize)]
enum Frame {
    Start(Start),
    Entries(Vec<LogEntry>),
}

/// The same, for writing what is not given away.
#[derive(Serialize)]
enum FrameRef<'a> {
    Start(&'a Start),
    Entries(&'a [LogEntry]),
}

/// What a log file says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct LogFile {
    pub(crate) store: StoreId,
    pub(crate) base: Seq,
    pub(crate) instead: Instead,
    pub(crate) entries: Vec<LogEntry>,
    /// Bytes of a torn last write that were left out.
    pub(crate) torn_bytes: usize,
}

/// Why a log file cannot be used.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum BadLog {
    Version(u16),
    Damaged(String),
}

fn frame(generation: u64, number: u64, frame: &FrameRef<'_>) -> Vec<u8> {
    let body = codec::encode(frame);
    let length = u32::try_from(body.len()).expect("updates and snapshots are far below 4 GiB");
    let mut bytes = Vec::with_capacity(FRAME_HEADER_BYTES + body.len());
    bytes.extend_from_slice(FRAME_MAGIC);
    bytes.extend_from_slice(&length.to_le_bytes());
    bytes.extend_from_slice(&number.to_le_bytes());
    bytes.extend_from_slice(&checksum(generation, length, number, &body).to_le_bytes());
    bytes.extend_from_slice(&body);
    bytes
}

fn checksum(generation: u64, length: u32, number: u64, body: &[u8]) -> u32 {
    let mut crc = crc32c::crc32c(&generation.to_le_bytes());
    crc = crc32c::crc32c_append(crc, &length.to_le_bytes());
    crc = crc32c::crc32c_append(crc, &number.to_le_bytes());
    crc32c::crc32c_append(crc, body)
}

/// A new file.
pub(crate) fn new_file(generation: u64, start: &Start) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&VERSION.to_le_bytes());
    bytes.extend_from_slice(&[0; 6]);
    bytes.extend_from_slice(&generation.to_le_bytes());
    bytes.extend(frame(generation, 0, &FrameRef::Start(start)));
    bytes
}

/// What is appended for these entries; frame numbers count from 1.
pub(crate) fn append(generation: u64, number: u64, entries: &[LogEntry]) -> Vec<u8> {
    frame(generation, number, &FrameRef::Entries(entries))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..at + 8)?.try_into().ok().map(u64::from_le_bytes)
}

/// The whole frame at the start of `bytes`: its number, its content, its length.
fn take_frame(generation: u64, bytes: &[u8]) -> Option<(u64, Frame, usize)> {
    if bytes.get(..4)? != FRAME_MAGIC {
        return None;
    }
    let length = u32_at(bytes, 4)?;
    let number = u64_at(bytes, 8)?;
    let crc = u32_at(bytes, 16)?;
    let end = FRAME_HEADER_BYTES.checked_add(usize::try_from(length).ok()?)?;
    let body = bytes.get(FRAME_HEADER_BYTES..end)?;
    if checksum(generation, length, number, body) != crc {
        return None;
    }
    let frame = codec::decode("frame", body).ok()?;
    Some((number, frame, end))
}

/// Whether a whole frame later than `number` begins anywhere in `bytes`.
fn later_frame(generation: u64, number: u64, bytes: &[u8]) -> Option<u64> {
    (0..bytes.len())
        .filter(|&at| bytes[at..].starts_with(FRAME_MAGIC))
        .find_map(|at| take_frame(generation, &bytes[at..]).filter(|f| f.0 > number))
        .map(|f| f.0)
}

/// Reads a log file.
pub(crate) fn read(generation: u64, file: &[u8]) -> Result<LogFile, BadLog> {
    let damaged = |what: &str| BadLog::Damaged(what.into());
    if file.get(..8) != Some(MAGIC.as_slice()) {
        return Err(damaged("it does not begin like a log"));
    }
    let version = file.get(8..10).and_then(|b| b.try_into().ok()).map_or(0, u16::from_le_bytes);
    if version != VERSION {
        return Err(BadLog::Version(version));
    }
    if u64_at(file, 16) != Some(generation) {
        return Err(damaged("it is not the log that its name says"));
    }
    let mut rest = &file[PRELUDE_BYTES..];
    let Some((0, Frame::Start(start), length)) = take_frame(generation, rest) else {
        return Err(damaged("its first frame is broken"));
    };
    rest = &rest[length..];
    let mut log = LogFile {
        store: start.store,
        base: start.base,
        instead: start.instead,
        entries: start.entries,
        torn_bytes: 0,
    };
    for number in 1.. {
        // Behind the last frame the file is filled with zeros.
        if rest.iter().all(|b| *b == 0) {
            break;
        }
        match take_frame(generation, rest) {
            Some((n, Frame::Entries(entries), length)) if n == number => {
                log.entries.extend(entries);
                rest = &rest[length..];
            }
            _ => {
                if let Some(later) = later_frame(generation, number, rest) {
                    let what = format!("frame {number} is broken, but frame {later} is there");
                    return Err(BadLog::Damaged(what));
                }
                log.torn_bytes = rest.len();
                break;
            }
        }
    }
    consecutive(&log)?;
    Ok(log)
}

fn consecutive(log: &LogFile) -> Result<(), BadLog> {
    let mut expected = log.base;
    for entry in &log.entries {
        expected = expected.next();
        if entry.seq != expected {
            let what = format!("update {} stands where {expected} is expected", entry.seq);
            return Err(BadLog::Damaged(what));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use wolfpack_types::update::Update;
    use wolfpack_types::{GroupId, Guid};

    use super::*;

    fn entry(seq: u64) -> LogEntry {
        LogEntry {
            ballot: Ballot::ZERO,
            seq: Seq(seq),
            wall_ms: seq * 1000,
            request: None,
            update: Update::DeleteGroup(GroupId(Guid(u128::from(seq)))),
            cause: None,
        }
    }

    fn start() -> Start {
        Start {
            store: StoreId(Guid(9)),
            base: Seq(10),
            instead: Instead::Nothing,
            entries: vec![entry(11), entry(12)],
        }
    }

    /// The file with two appended frames, and where each ends.
    fn file() -> (Vec<u8>, [usize; 3]) {
        let mut f = new_file(4, &start());
        let a = f.len();
        f.extend(append(4, 1, &[entry(13)]));
        let b = f.len();
        f.extend(append(4, 2, &[entry(14), entry(15)]));
        let c = f.len();
        (f, [a, b, c])
    }

    fn seqs(log: &LogFile) -> Vec<u64> {
        log.entries.iter().map(|e| e.seq.0).collect()
    }

    #[test]
    fn what_was_appended_is_read() {
        let log = read(4, &file().0).unwrap();
        assert_eq!(seqs(&log), [11, 12, 13, 14, 15]);
        assert_eq!((log.base, log.torn_bytes), (Seq(10), 0));
    }

    #[test]
    fn zeros_behind_the_last_frame_are_its_end() {
        let (mut f, [_, b, _]) = file();
        f.resize(f.len() + 5000, 0);
        let log = read(4, &f).unwrap();
        assert_eq!((seqs(&log), log.torn_bytes), (vec![11, 12, 13, 14, 15], 0));
        // A frame of which only a part arrived, before zeros.
        f[b + 30..].fill(0);
        assert_eq!(seqs(&read(4, &f).unwrap()), [11, 12, 13]);
    }

    #[test]
    fn cut_anywhere_it_is_a_whole_number_of_frames_or_refused() {
        let (f, [a, b, c]) = file();
        for cut in 0..=c {
            match read(4, &f[..cut]) {
                Ok(log) => {
                    assert!(cut >= a, "the first frame must be whole");
                    let frames = if cut < b {
                        2
                    } else if cut < c {
                        3
                    } else {
                        5
                    };
                    assert_eq!(log.entries.len(), frames, "cut at {cut}");
                }
                Err(e) => assert!(cut < a, "cut at {cut}: {e:?}"),
            }
        }
    }

    #[test]
    fn a_broken_frame_in_the_middle_is_damage_and_at_the_end_is_torn() {
        let (f, [a, b, c]) = file();
        for at in a..b {
            let mut broken = f.clone();
            broken[at] ^= 0x40;
            let Err(BadLog::Damaged(why)) = read(4, &broken) else { panic!("accepted at {at}") };
            assert!(why.contains("frame 1 is broken, but frame 2 is there"), "{why}");
        }
        for at in b..c {
            let mut broken = f.clone();
            broken[at] ^= 0x40;
            let log = read(4, &broken).unwrap();
            assert_eq!(seqs(&log), [11, 12, 13]);
            assert_eq!(log.torn_bytes, c - b);
        }
    }

    #[test]
    fn a_log_of_another_generation_or_version_is_refused() {
        assert!(matches!(read(5, &file().0), Err(BadLog::Damaged(_))));
        let mut f = file().0;
        f[8] = 7;
        assert_eq!(read(4, &f), Err(BadLog::Version(7)));
    }

    #[test]
    fn a_gap_is_refused() {
        let mut f = new_file(4, &start());
        f.extend(append(4, 1, &[entry(14)]));
        let Err(BadLog::Damaged(why)) = read(4, &f) else { panic!("accepted") };
        assert!(why.contains("update 14 stands where 13 is expected"), "{why}");
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = read(4, &bytes);
        }

        #[test]
        fn damage_never_invents_an_update(
            at in 0..400_usize, with in proptest::collection::vec(any::<u8>(), 1..40)
        ) {
            let mut f = file().0;
            for (i, b) in with.iter().enumerate() {
                if let Some(byte) = f.get_mut(at + i) {
                    *byte = *b;
                }
            }
            if let Ok(log) = read(4, &f) {
                let whole = [11, 12, 13, 14, 15];
                prop_assert!(whole.starts_with(&seqs(&log)));
            }
        }
    }
}
