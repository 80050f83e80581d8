//! Command descriptor blocks: pure bytes, shared by both transports.

use wolfpack_types::disk::DiskOp;

/// Which way the data goes, and how many bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Data {
    None,
    /// From the unit.
    In(u32),
    /// To the unit.
    Out(u32),
}

/// A command for the unit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Cdb {
    bytes: [u8; 16],
    length: u8,
    pub data: Data,
}

impl Cdb {
    fn new(bytes: &[u8], data: Data) -> Self {
        let mut cdb = Self { bytes: [0; 16], length: 0, data };
        for (to, from) in cdb.bytes.iter_mut().zip(bytes) {
            *to = *from;
            cdb.length += 1;
        }
        cdb
    }

    /// The bytes that are sent.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }

    /// TEST UNIT READY (SPC-4 section 6.47).
    pub(crate) fn test_unit_ready() -> Self {
        Self::new(&[0; 6], Data::None)
    }

    /// RESERVE(6) (SPC-2 section 7.21): the whole unit, for this I_T nexus.
    pub(crate) fn reserve() -> Self {
        Self::new(&[0x16, 0, 0, 0, 0, 0], Data::None)
    }

    /// RELEASE(6) (SPC-2 section 7.16).
    pub(crate) fn release() -> Self {
        Self::new(&[0x17, 0, 0, 0, 0, 0], Data::None)
    }

    /// INQUIRY (SPC-4 section 6.6), standard data or a page of vital product data.
    pub(crate) fn inquiry(page: Option<u8>) -> Self {
        let evpd = u8::from(page.is_some());
        Self::new(&[0x12, evpd, page.unwrap_or(0), 0, 255, 0], Data::In(255))
    }

    /// READ CAPACITY(10) (SBC-3 section 5.16).
    pub(crate) fn read_capacity10() -> Self {
        Self::new(&[0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0], Data::In(8))
    }

    /// READ CAPACITY(16) (SBC-3 section 5.17): SERVICE ACTION IN(16), action 10h.
    pub(crate) fn read_capacity16() -> Self {
        let mut cdb = [0; 16];
        (cdb[0], cdb[1], cdb[13]) = (0x9e, 0x10, 32);
        Self::new(&cdb, Data::In(32))
    }

    /// READ or WRITE (SBC-3 sections 5.12 and following): the 10-byte form where it can name the
    /// blocks, else the 16-byte form. Writes have FUA: done means on the medium.
    fn transfer(write: bool, lba: u64, blocks: u32, data: Data) -> Self {
        let fua = if write { 0x08 } else { 0 };
        if let (Ok(lba), Ok(blocks)) = (u32::try_from(lba), u16::try_from(blocks)) {
            let [a, b, c, d] = lba.to_be_bytes();
            let [m, n] = blocks.to_be_bytes();
            let code = if write { 0x2a } else { 0x28 };
            return Self::new(&[code, fua, a, b, c, d, 0, m, n, 0], data);
        }
        let mut cdb = [0; 16];
        cdb[0] = if write { 0x8a } else { 0x88 };
        cdb[1] = fua;
        cdb[2..10].copy_from_slice(&lba.to_be_bytes());
        cdb[10..14].copy_from_slice(&blocks.to_be_bytes());
        Self::new(&cdb, data)
    }

    /// The block for an operation on a unit with such blocks; none for LUN RESET, which is a task
    /// management function and no command, and for what is longer than a transfer can be.
    pub(crate) fn of(op: &DiskOp, block_size: u32) -> Option<Self> {
        match op {
            DiskOp::Reserve => Some(Self::reserve()),
            DiskOp::Release => Some(Self::release()),
            DiskOp::Test => Some(Self::test_unit_ready()),
            DiskOp::LunReset => None,
            DiskOp::Read { lba, blocks } => {
                let data = Data::In(blocks.checked_mul(block_size)?);
                Some(Self::transfer(false, *lba, *blocks, data))
            }
            DiskOp::Write { lba, data } => {
                let length = u32::try_from(data.len()).ok()?;
                let blocks = length.checked_div(block_size)?;
                (blocks * block_size == length && blocks > 0)
                    .then(|| Self::transfer(true, *lba, blocks, Data::Out(length)))
            }
        }
    }
}

/// Number of blocks and their size from READ CAPACITY(10) or (16) data; `Err(true)` if the shorter
/// form says that the longer one is needed.
pub(crate) fn parse_capacity(data: &[u8]) -> Result<(u64, u32), bool> {
    let word = |at: usize| data.get(at..at + 4).and_then(|b| b.first_chunk::<4>().copied());
    match data.len() {
        8 => match (word(0), word(4)) {
            (Some([255, 255, 255, 255]), _) => Err(true),
            (Some(last), Some(size)) => {
                Ok((u64::from(u32::from_be_bytes(last)) + 1, u32::from_be_bytes(size)))
            }
            _ => Err(false),
        },
        12.. => match (data.first_chunk::<8>(), word(8)) {
            (Some(last), Some(size)) => {
                Ok((u64::from_be_bytes(*last).saturating_add(1), u32::from_be_bytes(size)))
            }
            _ => Err(false),
        },
        _ => Err(false),
    }
}

/// Printable text of a fixed field, without padding.
pub(crate) fn text(field: &[u8]) -> String {
    let printable = field.iter().filter(|b| (0x20..0x7f).contains(*b));
    printable.map(|&b| char::from(b)).collect::<String>().trim().to_owned()
}

/// The first designator of the logical unit itself in a device identification page (SPC-4 section
/// 7.8.6), as hexadecimal digits.
pub(crate) fn parse_designator(page: &[u8]) -> String {
    let mut rest = page.get(4..).unwrap_or_default();
    while let Some((head, tail)) = rest.split_first_chunk::<4>() {
        let Some(value) = tail.get(..usize::from(head[3])) else { break };
        if head[1] & 0x30 == 0 && !value.is_empty() {
            return value.iter().map(|b| format!("{b:02x}")).collect();
        }
        rest = &tail[value.len()..];
    }
    String::new()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_the_bytes_of_the_standards() {
        let of = |op: &DiskOp| Cdb::of(op, 512).unwrap();
        assert_eq!(of(&DiskOp::Reserve).bytes(), [0x16, 0, 0, 0, 0, 0]);
        assert_eq!(of(&DiskOp::Release).bytes(), [0x17, 0, 0, 0, 0, 0]);
        assert_eq!(of(&DiskOp::Test).bytes(), [0; 6]);
        let read = of(&DiskOp::Read { lba: 0x0102_0304, blocks: 0x0506 });
        assert_eq!(read.bytes(), [0x28, 0, 1, 2, 3, 4, 0, 5, 6, 0]);
        assert_eq!(read.data, Data::In(0x0506 * 512));
        let write = of(&DiskOp::Write { lba: 7, data: vec![0; 1024] });
        assert_eq!(write.bytes(), [0x2a, 8, 0, 0, 0, 7, 0, 0, 2, 0]);
        let far = of(&DiskOp::Write { lba: 1 << 40, data: vec![0; 512] });
        assert_eq!(far.bytes(), [0x8a, 8, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0]);
    }

    #[test]
    fn what_cannot_be_sent_is_no_command() {
        assert_eq!(Cdb::of(&DiskOp::LunReset, 512), None);
        assert_eq!(Cdb::of(&DiskOp::Read { lba: 0, blocks: u32::MAX }, 512), None);
        assert_eq!(Cdb::of(&DiskOp::Write { lba: 0, data: vec![0; 100] }, 512), None);
        assert_eq!(Cdb::of(&DiskOp::Write { lba: 0, data: vec![] }, 512), None);
    }

    #[test]
    fn capacity_and_identity_survive_any_bytes() {
        assert_eq!(parse_capacity(&[0, 0, 0, 9, 0, 0, 2, 0]), Ok((10, 512)));
        assert_eq!(parse_capacity(&[255, 255, 255, 255, 0, 0, 2, 0]), Err(true));
        assert_eq!(parse_capacity(&[0; 3]), Err(false));
        let mut long = [0; 32];
        (long[7], long[10]) = (9, 16);
        assert_eq!(parse_capacity(&long), Ok((10, 4096)));
        assert_eq!(parse_designator(&[0, 0x83, 0, 6, 1, 3, 0, 2, 0xab, 0xcd]), "abcd");
        assert_eq!(parse_designator(&[0, 0x83, 0, 6, 1, 3, 0, 200, 0xab]), "");
        assert_eq!(parse_designator(&[]), "");
        assert_eq!(text(b"  IET \0\x07 "), "IET");
    }
}
