//! Prepares a disk as a witness, and refuses to overwrite what is not ours.
//!
//! A disk counts as empty if its first MiB and its last MiB are zeros: there every common format has
//! something (partition tables at both ends, superblocks and labels in the first MiB, RAID metadata
//! at the end). What is found is named, so that the administrator knows whose it is.

use std::time::Duration;

use wolfpack_types::ClusterId;
use wolfpack_types::disk::{DiskOp, DiskOutcome};

use crate::device::{Naming, OpenError, ScsiDevice, open};
use crate::layout::{Layout, MAX_NODES, SuperblockError};
use crate::sense::words;

/// Deadline of one command here: an administrator waits.
const DEADLINE: Duration = Duration::from_secs(20);
/// Bytes at each end that must be zeros.
const PROBED: u64 = 1 << 20;
/// Largest transfer of one command.
const CHUNK: u64 = 256 << 10;

/// Whether foreign or old content may be overwritten.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Overwrite {
    /// Refuse.
    No,
    /// The administrator has said so explicitly.
    Yes,
}

/// What [`prepare`] did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Prepared {
    /// The disk was empty (or was to be overwritten) and is an empty witness now.
    Written,
    /// It already was the witness of this cluster; nothing was changed.
    Already,
}

/// A disk cannot be the witness.
#[derive(Debug, thiserror::Error)]
pub enum PrepareError {
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error("{place} cannot be a witness: {why}")]
    Share { place: String, why: String },
    #[error("{disk} is too small for a witness: it has {has} bytes, {needed} are needed")]
    TooSmall { disk: String, has: u64, needed: u64 },
    #[error(
        "{disk} is too small for the database of this cluster: it keeps {room} bytes for each node, and {needed} are needed; choose a larger disk"
    )]
    NoRoom { disk: String, room: u64, needed: u64 },
    #[error(
        "{disk} holds data that looks like {what}; nothing was changed. If it is not needed, say so with --overwrite"
    )]
    Foreign { disk: String, what: String },
    #[error("{disk} is reserved by another initiator; is it in use by another cluster?")]
    Reserved { disk: String },
    #[error("{disk}: {what} failed: {why}")]
    Io { disk: String, what: &'static str, why: String },
}

/// Bytes that a disk with such blocks must have to be a witness.
#[must_use]
pub fn needed_bytes(block_size: u32) -> u64 {
    let layout = Layout::new(ClusterId::default(), block_size, MAX_NODES);
    layout.blocks() * u64::from(block_size)
}

/// What was prepared, and what it can keep.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ready {
    pub done: Prepared,
    /// Bytes that a checkpoint may have; none where only views are kept (a share).
    pub room: Option<u64>,
}

/// Opens a place by its name and makes it the register of this identity, for `naming`'s cluster.
/// It must keep `needed` bytes for each node. Blocks as long as the place does.
///
/// # Errors
/// It cannot be opened, or as for [`prepare`].
pub fn prepare_place(
    place: &str,
    naming: &Naming,
    register: ClusterId,
    overwrite: Overwrite,
    needed: u64,
) -> Result<Ready, PrepareError> {
    if let Some(prepared) = crate::files::prepare(place, naming.cluster, register, overwrite) {
        return prepared.map(|done| Ready { done, room: None });
    }
    let mut device = open(place, naming)?;
    prepare_for(device.as_mut(), register, overwrite, needed)
}

/// As [`prepare_for`], for a cluster whose database is still small.
///
/// # Errors
/// As there.
pub fn prepare(
    device: &mut dyn ScsiDevice,
    cluster: ClusterId,
    overwrite: Overwrite,
) -> Result<Prepared, PrepareError> {
    prepare_for(device, cluster, overwrite, 0).map(|ready| ready.done)
}

/// Makes the disk the witness of `cluster`: writes the superblock and clears all slots. With
/// `Overwrite::Yes` also a witness of this cluster is emptied: what it alone knows is lost.
///
/// # Errors
/// Too small (for any witness, or to keep `needed` bytes for each node), in use by something else,
/// reserved, or failing. Nothing was written where it is too small or in use.
pub fn prepare_for(
    device: &mut dyn ScsiDevice,
    cluster: ClusterId,
    overwrite: Overwrite,
    needed: u64,
) -> Result<Ready, PrepareError> {
    let (disk, capacity) = (device.describe().to_owned(), device.capacity());
    let Some(layout) = Layout::fitting(cluster, capacity.block_size, MAX_NODES, capacity.blocks)
    else {
        let needed = needed_bytes(capacity.block_size);
        return Err(PrepareError::TooSmall { disk, has: capacity.bytes(), needed });
    };
    let ready = |done, layout: &Layout| match layout.checkpoint_capacity() as u64 {
        room if room < needed => Err(PrepareError::NoRoom { disk: disk.clone(), room, needed }),
        room => Ok(Ready { done, room: Some(room) }),
    };
    if overwrite == Overwrite::No {
        let per_end = PROBED / u64::from(capacity.block_size);
        let head = read(device, 0, per_end)?;
        let block = &head[..capacity.block_size as usize];
        if let Some(found) = Layout::parse(block).ok().filter(|found| found.cluster == cluster) {
            return ready(Prepared::Already, &found);
        }
        let tail = read(device, capacity.blocks - per_end, per_end)?;
        if let Some(what) = looks_like(&head, &tail, capacity.block_size) {
            return Err(PrepareError::Foreign { disk, what });
        }
    }
    let written = ready(Prepared::Written, &layout)?;
    clear(device, &layout)?;
    write(device, 0, layout.superblock())?;
    Ok(written)
}

/// The superblock first (what is prepared by half is no witness), then all slots and the heads of
/// all checkpoints. Bodies and records mean nothing without them.
fn clear(device: &mut dyn ScsiDevice, layout: &Layout) -> Result<(), PrepareError> {
    let zeros = |blocks: u32| vec![0; blocks as usize * layout.block_size as usize];
    write(device, 0, zeros(1))?;
    let (lba, blocks) = layout.slot_area();
    write(device, lba, zeros(blocks))?;
    for at in layout.all_stations() {
        for area in 0..2 {
            write(device, layout.checkpoint_lba(at, area), zeros(1))?;
        }
    }
    Ok(())
}

fn execute(
    device: &mut dyn ScsiDevice,
    what: &'static str,
    op: &DiskOp,
) -> Result<Vec<u8>, PrepareError> {
    let mut outcome = device.execute(op, DEADLINE);
    // Not executed; whoever reset the unit did so before we came. Reads and these writes may be
    // repeated: nobody else uses the disk yet.
    if matches!(outcome, DiskOutcome::UnitAttention { .. }) {
        outcome = device.execute(op, DEADLINE);
    }
    let disk = device.describe().to_owned();
    match outcome {
        DiskOutcome::Good(data) => Ok(data),
        DiskOutcome::Conflict => Err(PrepareError::Reserved { disk }),
        outcome => Err(PrepareError::Io { disk, what, why: words(&outcome) }),
    }
}

fn write(device: &mut dyn ScsiDevice, lba: u64, data: Vec<u8>) -> Result<(), PrepareError> {
    execute(device, "writing", &DiskOp::Write { lba, data }).map(drop)
}

fn read(device: &mut dyn ScsiDevice, lba: u64, blocks: u64) -> Result<Vec<u8>, PrepareError> {
    let step = CHUNK / u64::from(device.capacity().block_size);
    let mut data = Vec::new();
    let mut at = 0;
    while at < blocks {
        let count = u32::try_from(step.min(blocks - at)).unwrap_or(1);
        let op = DiskOp::Read { lba: lba + at, blocks: count };
        data.extend(execute(device, "reading", &op)?);
        at += u64::from(count);
    }
    Ok(data)
}

/// What the first and last MiB of a disk look like; none if they are all zeros.
fn looks_like(head: &[u8], tail: &[u8], block_size: u32) -> Option<String> {
    if head.iter().chain(tail).all(|&b| b == 0) {
        return None;
    }
    match Layout::parse(head.get(..block_size as usize).unwrap_or_default()) {
        Ok(layout) => return Some(format!("the witness of Wolfpack cluster {}", layout.cluster)),
        Err(SuperblockError::Missing) => {}
        Err(other) => return Some(format!("a Wolfpack witness ({other})")),
    }
    let block = block_size as usize;
    let last_block = tail.len().saturating_sub(block);
    let signs: [(&str, &[u8], usize, &[u8]); 14] = [
        ("a partition table (GPT)", head, block, b"EFI PART"),
        ("a partition table (GPT, its copy at the end)", tail, last_block, b"EFI PART"),
        ("an LVM physical volume", head, 512, b"LABELONE"),
        ("an LVM physical volume", head, 0, b"LABELONE"),
        ("an ext2, ext3 or ext4 file system", head, 0x438, &[0x53, 0xef]),
        ("an XFS file system", head, 0, b"XFSB"),
        ("a Btrfs file system", head, 0x10040, b"_BHRfS_M"),
        ("an encrypted volume (LUKS)", head, 0, &[b'L', b'U', b'K', b'S', 0xba, 0xbe]),
        ("swap space", head, 4086, b"SWAPSPACE2"),
        ("a RAID member (md)", head, 4096, &[0xfc, 0x4e, 0x2b, 0xa9]),
        ("a RAID member (md)", head, 0, &[0xfc, 0x4e, 0x2b, 0xa9]),
        ("an SBD device (Pacemaker)", head, 0, b"SBD_SBD_"),
        ("an NTFS file system", head, 3, b"NTFS    "),
        ("a partition table (MBR) or boot sector", head, 510, &[0x55, 0xaa]),
    ];
    let found = signs.iter().find(|(_, area, at, sign)| {
        area.get(*at..at.saturating_add(sign.len())).is_some_and(|bytes| bytes == *sign)
    });
    Some(
        found.map_or_else(|| "data of an unknown kind".to_owned(), |(what, ..)| (*what).to_owned()),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(at: usize, sign: &[u8]) -> Option<String> {
        let mut head = vec![0; 1 << 20];
        head[at..at + sign.len()].copy_from_slice(sign);
        looks_like(&head, &[0; 4096], 512)
    }

    #[test]
    fn contents_are_named() {
        assert_eq!(looks_like(&[0; 4096], &[0; 4096], 512), None);
        for (at, sign, name) in [
            (0x438, &[0x53, 0xef][..], "ext4"),
            (0, b"XFSB", "XFS"),
            (512, b"LABELONE", "LVM"),
            (512, b"EFI PART", "GPT"),
            (510, &[0x55, 0xaa], "MBR"),
            (4086, b"SWAPSPACE2", "swap"),
            (0, b"SBD_SBD_", "SBD"),
            (0x10040, b"_BHRfS_M", "Btrfs"),
            (99, b"?", "unknown"),
        ] {
            let what = with(at, sign).unwrap();
            assert!(what.contains(name), "{what}");
        }
        let tail = [vec![0; 512], b"EFI PART".to_vec(), vec![0; 504]].concat();
        assert!(looks_like(&[0; 4096], &tail, 512).unwrap().contains("at the end"));
        let ours = Layout::new(ClusterId(wolfpack_types::Guid(0xab)), 512, 16).superblock();
        assert!(with(0, &ours).unwrap().contains("00ab"));
        assert!(with(0, &ours[..40]).unwrap().contains("Wolfpack witness"));
    }
}
