//! A witness in a file or a block device that is no SCSI disk (`file:/path`): read and written past
//! the page cache where the file system allows it, durable when a write returns. Exclusion: none.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};
use std::path::Path;

use wolfpack_types::disk::{DiskOp, DiskOutcome};

use super::worker::{FileDevice, Files, ILLEGAL};
use crate::device::{Capacity, Device, OpenError};

/// Bytes of a block, and the alignment that O_DIRECT asks for at most.
const BLOCK: u32 = 4096;
/// Longest transfer.
const TRANSFER_MAX: usize = 4 << 20;

struct Block {
    file: File,
    bytes: u64,
}

/// Opens it; its size is what it has now.
pub(super) fn open(name: &str, path: &Path) -> Result<Device, OpenError> {
    let failed = |source| OpenError::Os { disk: name.to_owned(), source };
    let mut options = OpenOptions::new();
    options.read(true).write(true);
    let direct = options.clone().custom_flags(libc::O_DIRECT | libc::O_DSYNC).open(path);
    let mut file = match direct {
        // A file system in memory knows no O_DIRECT, and shows all processes the same bytes.
        Err(e) if e.kind() == ErrorKind::InvalidInput => {
            options.custom_flags(libc::O_DSYNC).open(path)
        }
        other => other,
    }
    .map_err(failed)?;
    let kind = file.metadata().map_err(failed)?.file_type();
    if !kind.is_file() && !kind.is_block_device() {
        let why = "neither a file nor a block device".to_owned();
        return Err(OpenError::Files { place: name.to_owned(), why });
    }
    // A block device has no length in its metadata.
    let bytes = file.seek(SeekFrom::End(0)).map_err(failed)?;
    let capacity = Capacity { blocks: bytes / u64::from(BLOCK), block_size: BLOCK };
    let device = FileDevice::start(name, capacity, "file", Block { file, bytes })?;
    Ok(Box::new(device))
}

/// Memory whose first used byte is at a multiple of the block size.
struct Aligned {
    memory: Vec<u8>,
    from: usize,
    length: usize,
}

impl Aligned {
    fn new(length: usize) -> Self {
        let memory = vec![0; length + BLOCK as usize];
        let from = memory.as_ptr().align_offset(BLOCK as usize).min(BLOCK as usize);
        Self { memory, from, length }
    }

    fn bytes(&mut self) -> &mut [u8] {
        &mut self.memory[self.from..self.from + self.length]
    }
}

impl Block {
    /// The place of a transfer, if it lies within the file.
    fn place(&self, lba: u64, length: usize) -> Option<u64> {
        let at = lba.checked_mul(u64::from(BLOCK))?;
        let end = at.checked_add(length as u64)?;
        (length <= TRANSFER_MAX && end <= self.bytes).then_some(at)
    }

    fn read(&self, lba: u64, blocks: u32) -> io::Result<DiskOutcome> {
        let length = blocks as usize * BLOCK as usize;
        let Some(at) = self.place(lba, length) else { return Ok(ILLEGAL) };
        let mut buffer = Aligned::new(length);
        self.file.read_exact_at(buffer.bytes(), at)?;
        Ok(DiskOutcome::Good(buffer.bytes().to_vec()))
    }

    fn write(&self, lba: u64, data: &[u8]) -> io::Result<DiskOutcome> {
        let Some(at) = self.place(lba, data.len()) else { return Ok(ILLEGAL) };
        let mut buffer = Aligned::new(data.len());
        buffer.bytes().copy_from_slice(data);
        self.file.write_all_at(buffer.bytes(), at)?;
        Ok(DiskOutcome::Good(vec![]))
    }
}

impl Files for Block {
    fn carry_out(&mut self, op: &DiskOp) -> DiskOutcome {
        let end = match op {
            DiskOp::Read { lba, blocks } => self.read(*lba, *blocks),
            DiskOp::Write { lba, data } => self.write(*lba, data),
            DiskOp::Test => Ok(DiskOutcome::Good(vec![])),
            DiskOp::Reserve | DiskOp::Release | DiskOp::LunReset => Ok(ILLEGAL),
        };
        end.unwrap_or_else(|e| DiskOutcome::Transport(e.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn blocks_are_where_they_were_written_and_the_end_is_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("w");
        File::create(&path).unwrap().set_len(10 * u64::from(BLOCK) + 7).unwrap();
        let mut device = open("file:w", &path).unwrap();
        assert_eq!(device.capacity().blocks, 10);
        let second = Duration::from_secs(60);
        let data = vec![7; 2 * BLOCK as usize];
        let op = DiskOp::Write { lba: 8, data: data.clone() };
        assert_eq!(device.execute(&op, second), DiskOutcome::Good(vec![]));
        let op = DiskOp::Read { lba: 8, blocks: 2 };
        assert_eq!(device.execute(&op, second), DiskOutcome::Good(data));
        for op in [
            DiskOp::Read { lba: 9, blocks: 2 },
            DiskOp::Read { lba: u64::MAX, blocks: 1 },
            DiskOp::Read { lba: 0, blocks: u32::MAX },
            DiskOp::Reserve,
        ] {
            assert_eq!(device.execute(&op, second), ILLEGAL, "{op:?}");
        }
        let missing = open("file:none", &dir.path().join("none")).unwrap_err();
        assert!(missing.to_string().contains("file:none"), "{missing}");
        assert!(open("file:.", dir.path()).is_err());
    }
}
