//! The record pair (P2): two slots of one preallocated file, written in turn, the newest whole one
//! counts.
//!
//! ```text
//!  offset  size
//!       0     8  magic "WPRECORD"
//!       8     2  format version
//!      10     2  zero
//!      12     4  length of the body
//!      16     8  generation: counts the writes; its parity is the slot's position
//!      24     4  CRC-32C of bytes 8..24 and of the body
//!      28     4  zero
//!      32     -  body: postcard of (generation of the log, record)
//! ```
//! All numbers are little-endian. A torn write destroys the slot that was not the newest, so the
//! state before it remains. Pure: reading and writing is the caller's.

use serde::{Deserialize, Serialize};
use wolfpack_types::codec;
use wolfpack_types::store::Record;

/// A slot. A view of 64 nodes with a long history has some 8 KiB.
pub(crate) const SLOT_BYTES: usize = 64 * 1024;
/// The file.
pub(crate) const FILE_BYTES: usize = 2 * SLOT_BYTES;
/// Format of the record file.
pub(crate) const VERSION: u16 = 1;

const MAGIC: &[u8; 8] = b"WPRECORD";
const HEADER_BYTES: usize = 32;
/// Slots are written in whole blocks of the disk.
const BLOCK_BYTES: usize = 4096;

/// What a slot says: the record, and which log belongs to it.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Body {
    /// The log file that continues the database; 0: none was made yet.
    pub(crate) log: u64,
    pub(crate) record: Record,
}

/// Why no record could be read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum BadRecord {
    Version(u16),
    /// Neither slot is whole.
    Both(String),
}

/// The bytes of a slot and their place in the file. None if the body does not fit.
pub(crate) fn encode(generation: u64, body: &Body) -> Option<(u64, Vec<u8>)> {
    let body = codec::encode(body);
    if body.len() > SLOT_BYTES - HEADER_BYTES {
        return None;
    }
    let length = u32::try_from(body.len()).ok()?;
    let mut bytes = Vec::with_capacity((HEADER_BYTES + body.len()).next_multiple_of(BLOCK_BYTES));
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&VERSION.to_le_bytes());
    bytes.extend_from_slice(&[0; 2]);
    bytes.extend_from_slice(&length.to_le_bytes());
    bytes.extend_from_slice(&generation.to_le_bytes());
    let crc = crc32c::crc32c_append(crc32c::crc32c(&bytes[8..24]), &body);
    bytes.extend_from_slice(&crc.to_le_bytes());
    bytes.extend_from_slice(&[0; 4]);
    bytes.extend_from_slice(&body);
    bytes.resize(bytes.len().next_multiple_of(BLOCK_BYTES), 0);
    let place = if generation.is_multiple_of(2) { 0 } else { SLOT_BYTES as u64 };
    Some((place, bytes))
}

/// A new file with one slot written.
pub(crate) fn new_file(generation: u64, body: &Body) -> Option<Vec<u8>> {
    let (place, slot) = encode(generation, body)?;
    let place = usize::try_from(place).ok()?;
    let mut file = vec![0; FILE_BYTES];
    file[place..place + slot.len()].copy_from_slice(&slot);
    Some(file)
}

/// The newest whole slot of a file, with its generation.
pub(crate) fn newest(file: &[u8]) -> Result<(u64, Body), BadRecord> {
    if file.len() != FILE_BYTES {
        return Err(BadRecord::Both(format!("it has {} bytes, not {FILE_BYTES}", file.len())));
    }
    let slots = [decode(0, &file[..SLOT_BYTES]), decode(1, &file[SLOT_BYTES..])];
    let mut whys = Vec::new();
    let mut best: Option<(u64, Body)> = None;
    for slot in slots {
        match slot {
            Ok(found) => {
                if best.as_ref().is_none_or(|b| b.0 < found.0) {
                    best = Some(found);
                }
            }
            // A newer program has been here: the other slot is not the newest then.
            Err(BadSlot::Version(v)) => return Err(BadRecord::Version(v)),
            Err(BadSlot::Invalid(why)) => whys.push(why),
        }
    }
    best.ok_or_else(|| BadRecord::Both(whys.join("; ")))
}

enum BadSlot {
    Version(u16),
    Invalid(String),
}

fn number<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&bytes[at..at + N]);
    out
}

fn decode(position: u64, slot: &[u8]) -> Result<(u64, Body), BadSlot> {
    let invalid = |why: &str| BadSlot::Invalid(format!("slot {position}: {why}"));
    if &slot[..8] != MAGIC {
        return Err(invalid("no record"));
    }
    let version = u16::from_le_bytes(number(slot, 8));
    let length = u32::from_le_bytes(number(slot, 12)) as usize;
    let generation = u64::from_le_bytes(number(slot, 16));
    let crc = u32::from_le_bytes(number(slot, 24));
    let body =
        slot.get(HEADER_BYTES..HEADER_BYTES + length).ok_or_else(|| invalid("wrong length"))?;
    if crc32c::crc32c_append(crc32c::crc32c(&slot[8..24]), body) != crc {
        return Err(invalid("wrong checksum"));
    }
    if version != VERSION {
        return Err(BadSlot::Version(version));
    }
    if generation % 2 != position {
        return Err(invalid("written in the wrong place"));
    }
    let body = codec::decode("record", body).map_err(|e| invalid(&e.to_string()))?;
    Ok((generation, body))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use wolfpack_types::Incarnation;

    use super::*;

    fn body(inc: u64) -> Body {
        Body { log: inc * 3, record: Record { incarnation: Incarnation(inc), ..Record::default() } }
    }

    /// A file after the writes of these generations.
    fn file(generations: std::ops::RangeInclusive<u64>) -> Vec<u8> {
        let mut file = new_file(*generations.start(), &body(*generations.start())).unwrap();
        for g in generations.skip(1) {
            write(&mut file, g, usize::MAX);
        }
        file
    }

    fn write(file: &mut [u8], generation: u64, torn_after: usize) {
        let (place, slot) = encode(generation, &body(generation)).unwrap();
        let place = usize::try_from(place).unwrap();
        let n = slot.len().min(torn_after);
        file[place..place + n].copy_from_slice(&slot[..n]);
    }

    #[test]
    fn the_newest_counts() {
        for last in 1..5 {
            assert_eq!(newest(&file(1..=last)), Ok((last, body(last))));
        }
    }

    #[test]
    fn a_torn_write_leaves_the_state_before() {
        let old = file(1..=4);
        let whole = encode(5, &body(5)).unwrap().1;
        let mut seen_old = 0;
        for cut in 0..=whole.len() {
            let mut torn = old.clone();
            write(&mut torn, 5, cut);
            let found = newest(&torn).unwrap();
            if found.0 == 4 {
                seen_old += 1;
                assert_eq!(found.1, body(4));
            } else {
                // Whole as soon as only zeros are missing.
                assert_eq!(found, (5, body(5)));
            }
        }
        assert!(seen_old >= HEADER_BYTES, "tearing never mattered");
    }

    #[test]
    fn both_broken_is_said() {
        let mut both = file(1..=2);
        both[40] ^= 1;
        assert_eq!(newest(&both).unwrap().0, 1, "one broken slot");
        both[SLOT_BYTES + 40] ^= 1;
        let Err(BadRecord::Both(why)) = newest(&both) else { panic!("accepted") };
        assert!(why.contains("slot 0: wrong checksum; slot 1: wrong checksum"), "{why}");
        assert!(matches!(newest(&[]), Err(BadRecord::Both(_))));
    }

    #[test]
    fn another_version_is_not_taken_for_damage() {
        let mut f = file(1..=2);
        f[8] = 9;
        let body_length = u32::from_le_bytes(number(&f, 12)) as usize;
        let crc = crc32c::crc32c_append(crc32c::crc32c(&f[8..24]), &f[32..32 + body_length]);
        f[24..28].copy_from_slice(&crc.to_le_bytes());
        assert_eq!(newest(&f), Err(BadRecord::Version(9)));
    }

    proptest! {
        #[test]
        fn arbitrary_damage_never_gives_a_third_state(
            at in 0..FILE_BYTES, with in proptest::collection::vec(any::<u8>(), 1..80)
        ) {
            let mut f = file(6..=7);
            for (i, b) in with.iter().enumerate() {
                if let Some(byte) = f.get_mut(at + i) {
                    *byte ^= b;
                }
            }
            if let Ok((g, found)) = newest(&f) {
                prop_assert!(g == 6 || g == 7);
                prop_assert_eq!(found, body(g));
            }
        }
    }
}
