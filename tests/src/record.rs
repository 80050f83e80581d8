//! What the demo application writes to the data disk: a ring of records with one counter that
//! every tenure continues. Shared by the application and by the watcher that checks them.
//!
//! A *tenure* is one start of the application on one node. Correct fail-over means that in the
//! order of the counter each tenure is one unbroken run: it never comes back after another.

use std::io;

/// Bytes of a record: one block, so that a write of it is not torn.
pub const RECORD_BYTES: usize = 512;
/// Records in the ring: eight megabytes, which is 160 seconds at one record every 10 ms.
pub const RING: u64 = 16_384;
/// Where on the disk the ring begins.
pub const RING_OFFSET: u64 = 1 << 20;

const MAGIC: &[u8; 8] = b"WPACKREC";
const NODE_MAX: usize = 63;

/// One record.
///
/// ```text
/// 0   8      16       24     32        33     96      508
/// +---+-------+--------+------+---------+------+-------+--------+
/// | magic | tenure | counter | time_us | len | node | zeroes | crc32c |
/// +---+-------+--------+------+---------+------+-------+--------+
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Record {
    /// Which start of the application wrote it.
    pub tenure: u64,
    /// Continues the last one on the disk.
    pub counter: u64,
    /// CLOCK_BOOTTIME, microseconds.
    pub time_us: u64,
    pub node: String,
}

impl Record {
    /// As bytes of the disk.
    #[must_use]
    pub fn encode(&self) -> [u8; RECORD_BYTES] {
        let mut bytes = [0; RECORD_BYTES];
        bytes[..8].copy_from_slice(MAGIC);
        bytes[8..16].copy_from_slice(&self.tenure.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.counter.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.time_us.to_le_bytes());
        let node = &self.node.as_bytes()[..self.node.len().min(NODE_MAX)];
        bytes[32] = u8::try_from(node.len()).unwrap_or(0);
        bytes[33..33 + node.len()].copy_from_slice(node);
        let crc = crc32c::crc32c(&bytes[..RECORD_BYTES - 4]);
        bytes[RECORD_BYTES - 4..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// From bytes of the disk; none if they are no whole record.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let word = |at: usize| Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
        let crc = u32::from_le_bytes(bytes.get(RECORD_BYTES - 4..RECORD_BYTES)?.try_into().ok()?);
        if bytes.get(..8)? != MAGIC || crc32c::crc32c(&bytes[..RECORD_BYTES - 4]) != crc {
            return None;
        }
        let len = usize::from(bytes[32]);
        let node = std::str::from_utf8(bytes.get(33..33 + len.min(NODE_MAX))?).ok()?;
        let node = node.to_owned();
        Some(Self { tenure: word(8)?, counter: word(16)?, time_us: word(24)?, node })
    }

    /// Where on the disk the record with this counter stands.
    #[must_use]
    pub const fn offset(counter: u64) -> u64 {
        RING_OFFSET + (counter % RING) * RECORD_BYTES as u64
    }
}

/// Finds the newest record by bisection; `read` gives the block at an offset. None: an empty ring.
///
/// The slots of the ring hold, from slot 0 on, the counters of the current round, then those of the
/// round before (or nothing). What is no record ends the current round too.
///
/// # Errors
/// Those of `read`.
pub fn find_newest(
    mut read: impl FnMut(u64) -> io::Result<[u8; RECORD_BYTES]>,
) -> io::Result<Option<Record>> {
    let mut slot = |n: u64| Ok::<_, io::Error>(Record::decode(&read(Record::offset(n))?));
    let Some(first) = slot(0)? else { return Ok(None) };
    let (mut newest, mut low, mut high) = (first.clone(), 0, RING);
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        match slot(middle)? {
            Some(r) if r.counter == first.counter + middle => (newest, low) = (r, middle),
            _ => high = middle,
        }
    }
    Ok(Some(newest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(counter: u64) -> Record {
        Record { tenure: 7, counter, time_us: 1, node: "a".into() }
    }

    #[test]
    fn a_record_survives_the_disk_and_a_torn_one_is_none() {
        let r = record(9);
        let mut bytes = r.encode();
        assert_eq!(Record::decode(&bytes), Some(r));
        bytes[40] ^= 1;
        assert_eq!(Record::decode(&bytes), None);
        assert_eq!(Record::decode(&bytes[..100]), None);
    }

    #[test]
    fn the_newest_is_found_in_every_round() {
        for last in [0, 1, 2, RING - 1, RING, RING + 1, 3 * RING + 77] {
            let from = last.saturating_sub(RING - 1);
            let mut disk = vec![[0; RECORD_BYTES]; usize::try_from(RING).unwrap()];
            for n in from..=last {
                disk[usize::try_from(n % RING).unwrap()] = record(n).encode();
            }
            let at = |o: u64| usize::try_from((o - RING_OFFSET) / RECORD_BYTES as u64).unwrap();
            let found = find_newest(|o| Ok(disk[at(o)])).unwrap();
            assert_eq!(found.unwrap().counter, last);
        }
        assert_eq!(find_newest(|_| Ok([0; RECORD_BYTES])).unwrap(), None);
    }
}
