//! Reading a witness from outside, block by block: for checks and for people. The register machine
//! itself reads by disk commands of its own.

use wolfpack_types::disk::DiskOp;
use wolfpack_types::register::Slot;

use super::{Layout, SlotBlock, Station};

impl Layout {
    /// Which slot's block this is, if it is one.
    #[must_use]
    pub fn slot_at(&self, lba: u64) -> Option<Station> {
        self.all_stations().find(|&at| self.slot_lba(at) == lba)
    }

    /// What the block of a slot says; none if it was never written. `read` gives blocks from the
    /// disk, for slots that do not fit into their block.
    ///
    /// # Errors
    /// Torn, foreign, or saying what cannot be.
    pub fn inspect_slot(
        &self,
        at: Station,
        block: &[u8],
        read: impl Fn(u64, u32) -> Vec<u8>,
    ) -> Result<Option<Slot>, String> {
        match self.parse_slot(at, block)? {
            SlotBlock::Empty => Ok(None),
            SlotBlock::Here(slot) => Ok(Some(slot)),
            SlotBlock::Body(place) => match self.body_read(&place) {
                DiskOp::Read { lba, blocks } => {
                    self.parse_body(&place, &read(lba, blocks)).map(Some)
                }
                other => Err(format!("a body is fetched by {}", other.name())),
            },
        }
    }
}
