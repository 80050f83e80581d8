//! Where everything is on the witness disk, and how it is encoded: pure.
//!
//! ```text
//!  block 0      slots                       bodies                   log regions
//!  | superblock | n1/0 n1/1 n2/0 n2/1 ..    | 2 per slot, 16 KiB     | n1/0: ckpt ckpt ring | n1/1 ..
//! ```
//! One slot, two bodies and one log region per (node, parity of the incarnation); all are written
//! only by their node. Every size is in the superblock. Every decoder is bounded and never panics,
//! whatever the disk says. Byte layout: `docs/format.md`.

mod frame;
mod inspect;
mod log;
mod slot;
#[cfg(test)]
mod tests;

use wolfpack_types::{ClusterId, Guid, Incarnation, NodeId};

pub(crate) use frame::checksum;
pub(crate) use log::{LoadedLog, LogReader, ReadStep, continues};
pub(crate) use slot::{Place, SlotBlock, SlotImage};

/// Nodes that a witness is prepared for.
pub const MAX_NODES: u8 = 16;

/// First bytes of a witness disk.
pub const MAGIC: [u8; 8] = *b"WOLFPACK";

const VERSION: u32 = 1;
const BODY_BYTES: u32 = 16 << 10;
/// Bytes that a checkpoint may have: on the smallest disk, on the largest, and in what steps between.
pub const CHECKPOINT_BYTES_MIN: u64 = wolfpack_types::membership::CHECKPOINT_BYTES_MIN;
/// As large as the tree of keys may be at most.
pub const CHECKPOINT_BYTES_MAX: u64 = 128 << 20;
const CHECKPOINT_STEP: u64 = 64 << 10;
/// [`CHECKPOINT_BYTES_MIN`] as a number of the superblock's width.
const SMALLEST: u32 = 1 << 20;
const _: () = assert!(SMALLEST as u64 == CHECKPOINT_BYTES_MIN, "one bound");
const RING_BYTES: u32 = 1 << 20;

/// Where a (node, parity) has its things.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Station {
    pub node: NodeId,
    /// Incarnation modulo 2.
    pub parity: u8,
}

impl Station {
    /// The station of a life.
    #[must_use]
    pub fn of(node: NodeId, inc: Incarnation) -> Self {
        Self { node, parity: u8::from(inc.0 % 2 == 1) }
    }

    /// The node's other station.
    #[must_use]
    pub const fn other(self) -> Self {
        Self { node: self.node, parity: 1 - self.parity }
    }

    const fn index(self) -> u64 {
        self.node.index() as u64 * 2 + self.parity as u64
    }
}

/// What a block belongs to, where it is not a log's: the parts that a witness in files has too.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Piece {
    Superblock,
    Slot(Station),
    /// The first block of a body.
    Body(Station, u8),
}

/// The superblock's content: the geometry of one witness disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Layout {
    pub cluster: ClusterId,
    /// Bytes of a block of the unit.
    pub block_size: u32,
    pub max_nodes: u8,
    /// Blocks of one body, of one checkpoint area (head included), of one ring.
    body: u32,
    checkpoint: u32,
    ring: u32,
}

/// The first block is not a superblock that this version can use.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SuperblockError {
    #[error("the disk is not prepared as a witness (no superblock)")]
    Missing,
    #[error("the superblock is damaged (checksum)")]
    Damaged,
    #[error("the superblock has format version {0}, this program knows version {VERSION}")]
    Version(u32),
    #[error("the superblock says {what} = {value}, which cannot be")]
    Impossible { what: &'static str, value: u64 },
}

impl Layout {
    /// The geometry of a new witness with the smallest checkpoints.
    #[must_use]
    pub const fn new(cluster: ClusterId, block_size: u32, max_nodes: u8) -> Self {
        Self {
            cluster,
            block_size,
            max_nodes,
            body: BODY_BYTES.div_ceil(block_size),
            checkpoint: SMALLEST.div_ceil(block_size) + 1,
            ring: RING_BYTES.div_ceil(block_size),
        }
    }

    /// The geometry of a new witness on a disk of so many blocks: checkpoints as large as there is
    /// room for, up to [`CHECKPOINT_BYTES_MAX`]. None if the disk is too small for the smallest.
    #[must_use]
    pub fn fitting(
        cluster: ClusterId,
        block_size: u32,
        max_nodes: u8,
        blocks: u64,
    ) -> Option<Self> {
        let smallest = Self::new(cluster, block_size, max_nodes);
        let spare = blocks.checked_sub(smallest.blocks())?;
        // Two areas of each station share what is left.
        let more = spare / (smallest.stations() * 2);
        let more = more.saturating_mul(u64::from(block_size)).min(CHECKPOINT_BYTES_MAX);
        let more = more - more % CHECKPOINT_STEP;
        let bytes = (CHECKPOINT_BYTES_MIN + more).min(CHECKPOINT_BYTES_MAX);
        let checkpoint = u32::try_from(bytes / u64::from(block_size)).ok()?.checked_add(1)?;
        Some(Self { checkpoint, ..smallest })
    }

    /// Block 0.
    #[must_use]
    pub fn superblock(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.block_size as usize);
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&self.cluster.0.0.to_le_bytes());
        out.extend_from_slice(&self.block_size.to_le_bytes());
        out.extend_from_slice(&u32::from(self.max_nodes).to_le_bytes());
        out.extend_from_slice(&self.body.to_le_bytes());
        out.extend_from_slice(&self.checkpoint.to_le_bytes());
        out.extend_from_slice(&self.ring.to_le_bytes());
        let crc = checksum(&[&out]);
        out.extend_from_slice(&crc.to_le_bytes());
        frame::pad(&mut out, self.block_size);
        out
    }

    /// Reads block 0 (`block` is exactly one block).
    ///
    /// # Errors
    /// Not a superblock, damaged, of another version, or with impossible sizes.
    pub fn parse(block: &[u8]) -> Result<Self, SuperblockError> {
        const LENGTH: usize = 8 + 4 + 16 + 5 * 4;
        let head = block.get(..LENGTH).ok_or(SuperblockError::Missing)?;
        if head[..8] != MAGIC {
            return Err(SuperblockError::Missing);
        }
        let word = |at: usize| {
            let bytes = block.get(at..at + 4).and_then(|b| b.first_chunk::<4>());
            bytes.map_or(0, |b| u32::from_le_bytes(*b))
        };
        if checksum(&[head]) != word(LENGTH) {
            return Err(SuperblockError::Damaged);
        }
        if word(8) != VERSION {
            return Err(SuperblockError::Version(word(8)));
        }
        let cluster = head[12..28].first_chunk::<16>().map_or(0, |b| u128::from_le_bytes(*b));
        let bounded = |what, at, max: u32| match word(at) {
            n if n >= 1 && n <= max => Ok(n),
            n => Err(SuperblockError::Impossible { what, value: u64::from(n) }),
        };
        let block_size = word(28);
        if block_size as usize != block.len() || !matches!(block_size, 512 | 4096) {
            return Err(SuperblockError::Impossible {
                what: "block size",
                value: u64::from(block_size),
            });
        }
        let max_nodes = bounded("nodes", 32, u32::from(NodeId::MAX))?;
        // Bounds of what this version reads into memory: 1 MiB of body, 128 MiB of checkpoint and its
        // head, 64 MiB of ring. A checkpoint smaller than any that was ever prepared is none.
        Ok(Self {
            cluster: ClusterId(Guid(cluster)),
            block_size,
            max_nodes: u8::try_from(max_nodes).unwrap_or(NodeId::MAX),
            body: bounded("body blocks", 36, (1 << 20) / block_size)?,
            checkpoint: match bounded("checkpoint blocks", 40, (128 << 20) / block_size + 1)? {
                n if n > SMALLEST / block_size => n,
                n => {
                    let (what, value) = ("checkpoint blocks", u64::from(n));
                    return Err(SuperblockError::Impossible { what, value });
                }
            },
            ring: bounded("ring blocks", 44, (64 << 20) / block_size)?,
        })
    }

    /// Whether there is a place for this node.
    #[must_use]
    pub const fn has_place(&self, node: NodeId) -> bool {
        node.get() <= self.max_nodes
    }

    /// Blocks that the witness takes.
    #[must_use]
    pub fn blocks(&self) -> u64 {
        self.logs_lba() + self.stations() * self.region_blocks()
    }

    /// The contiguous area of all slots: first block and number of blocks.
    #[must_use]
    pub fn slot_area(&self) -> (u64, u32) {
        (1, u32::from(self.max_nodes) * 2)
    }

    /// Every station, in the order of the slots.
    pub fn all_stations(&self) -> impl Iterator<Item = Station> + use<> {
        let nodes = (1..=self.max_nodes).filter_map(|n| NodeId::new(n).ok());
        nodes.flat_map(|node| [Station { node, parity: 0 }, Station { node, parity: 1 }])
    }

    /// The slot's block.
    #[must_use]
    pub fn slot_lba(&self, at: Station) -> u64 {
        self.slot_area().0 + at.index()
    }

    /// What begins at this block; none for the logs, and for what is not there.
    pub(crate) fn piece_at(&self, lba: u64) -> Option<Piece> {
        let station = |index: u64| {
            let node = u8::try_from(index / 2 + 1).ok().and_then(|n| NodeId::new(n).ok())?;
            Some(Station { node, parity: u8::from(index % 2 == 1) })
        };
        if lba == 0 {
            return Some(Piece::Superblock);
        }
        if lba < self.bodies_lba() {
            return station(lba - 1).map(Piece::Slot);
        }
        let (at, size) = (lba - self.bodies_lba(), u64::from(self.body));
        let index = at / size;
        if index >= self.stations() * 2 || !at.is_multiple_of(size) {
            return None;
        }
        station(index / 2).map(|s| Piece::Body(s, u8::from(index % 2 == 1)))
    }

    fn stations(&self) -> u64 {
        u64::from(self.max_nodes) * 2
    }

    fn bodies_lba(&self) -> u64 {
        1 + self.stations()
    }

    fn logs_lba(&self) -> u64 {
        self.bodies_lba() + self.stations() * 2 * u64::from(self.body)
    }

    fn region_blocks(&self) -> u64 {
        2 * u64::from(self.checkpoint) + u64::from(self.ring)
    }

    pub(crate) fn body_lba(&self, at: Station, which: u8) -> u64 {
        self.bodies_lba() + (at.index() * 2 + u64::from(which & 1)) * u64::from(self.body)
    }

    fn region_lba(&self, at: Station) -> u64 {
        self.logs_lba() + at.index() * self.region_blocks()
    }

    /// First block (the head) of a checkpoint area, 0 or 1.
    pub(crate) fn checkpoint_lba(&self, at: Station, area: u8) -> u64 {
        self.region_lba(at) + u64::from(area & 1) * u64::from(self.checkpoint)
    }

    pub(crate) fn ring_lba(&self, at: Station) -> u64 {
        self.region_lba(at) + 2 * u64::from(self.checkpoint)
    }

    /// Bytes that a checkpoint may have, its head apart.
    #[must_use]
    pub fn checkpoint_capacity(&self) -> usize {
        (self.checkpoint as usize - 1).saturating_mul(self.block_size as usize)
    }

    /// Blocks that `bytes` take.
    pub(crate) fn blocks_of(&self, bytes: usize) -> u32 {
        u32::try_from(bytes.div_ceil(self.block_size as usize)).unwrap_or(u32::MAX)
    }
}

/// Bytes that a witness for so many nodes takes on a disk with blocks of 4096 bytes (with smaller
/// blocks it is less).
#[must_use]
pub fn required_bytes(max_nodes: u8) -> u64 {
    let layout = Layout::new(ClusterId::default(), 4096, max_nodes);
    (layout.blocks() * 4096).next_multiple_of(1 << 20)
}
