//! Slots as blocks: in the slot's own block where they fit (a block is written whole or not at
//! all), else in one of two bodies, with the block naming body, length and checksum. The body is
//! written first, and the one that the disk's slot names is never overwritten.

use serde::{Deserialize, Serialize};
use wolfpack_types::codec;
use wolfpack_types::disk::DiskOp;
use wolfpack_types::register::Slot;
use wolfpack_types::{Ballot, Incarnation};

use super::frame::{self, Kind, frame, unframe};
use super::{Layout, Station};

/// Content of a slot's block.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
enum Content {
    Inline(Slot),
    Body { which: u8, length: u32, crc: u32 },
}

/// Where the body of a slot is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Place {
    pub at: Station,
    pub which: u8,
    length: u32,
    crc: u32,
}

/// A slot's block, as read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum SlotBlock {
    /// Never written.
    Empty,
    Here(Slot),
    Body(Place),
}

/// How a slot is written.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct SlotImage {
    /// To be written before the block, if the slot does not fit into it.
    pub body: Option<DiskOp>,
    pub block: DiskOp,
    /// The body that the block names.
    pub which: Option<u8>,
}

impl Layout {
    /// The commands that write a slot; a body goes to `free`.
    ///
    /// # Errors
    /// The slot does not fit into a body either (its size and the limit).
    pub(crate) fn slot_image(&self, slot: &Slot, free: u8) -> Result<SlotImage, String> {
        let at = Station::of(slot.node, slot.inc);
        let inline = frame(Kind::Slot, &Content::Inline(slot.clone()), self.block_size);
        let lba = self.slot_lba(at);
        if inline.len() == self.block_size as usize {
            let block = DiskOp::Write { lba, data: inline };
            return Ok(SlotImage { body: None, block, which: None });
        }
        let payload = codec::encode(slot);
        let body = frame(Kind::Body, slot, self.block_size);
        let limit = self.body as usize * self.block_size as usize;
        if body.len() > limit {
            return Err(format!(
                "a slot of {} bytes does not fit into {limit}: prepare the witness for fewer nodes",
                body.len()
            ));
        }
        let content = Content::Body {
            which: free & 1,
            length: u32::try_from(frame::HEADER + payload.len()).unwrap_or(u32::MAX),
            crc: frame::checksum(&[&payload]),
        };
        Ok(SlotImage {
            body: Some(DiskOp::Write { lba: self.body_lba(at, free), data: body }),
            block: DiskOp::Write { lba, data: frame(Kind::Slot, &content, self.block_size) },
            which: Some(free & 1),
        })
    }

    /// A slot's block, as read from the disk.
    ///
    /// # Errors
    /// Torn, foreign, or saying what cannot be.
    pub(crate) fn parse_slot(&self, at: Station, block: &[u8]) -> Result<SlotBlock, String> {
        if block.iter().all(|&b| b == 0) {
            return Ok(SlotBlock::Empty);
        }
        match unframe(Kind::Slot, block).map_err(|why| self.blame(at, &why))? {
            Content::Inline(slot) => {
                self.check_slot(at, &slot)?;
                Ok(SlotBlock::Here(slot))
            }
            Content::Body { which, length, crc } => {
                let limit = self.body as usize * self.block_size as usize;
                if which > 1 || !(frame::HEADER + 1..=limit).contains(&(length as usize)) {
                    return Err(self.blame(at, "names a body that cannot be"));
                }
                Ok(SlotBlock::Body(Place { at, which, length, crc }))
            }
        }
    }

    /// The read that fetches a body.
    pub(crate) fn body_read(&self, place: &Place) -> DiskOp {
        let blocks = self.blocks_of(place.length as usize);
        DiskOp::Read { lba: self.body_lba(place.at, place.which), blocks }
    }

    /// A body, as read from the disk.
    ///
    /// # Errors
    /// Not the body that the slot's block names (it may have been replaced meanwhile: read the
    /// slots again), or saying what cannot be.
    pub(crate) fn parse_body(&self, place: &Place, data: &[u8]) -> Result<Slot, String> {
        let blame = |why: &str| self.blame(place.at, why);
        let payload = data
            .get(frame::HEADER..place.length as usize)
            .ok_or_else(|| blame("has a body that is cut short"))?;
        if frame::checksum(&[payload]) != place.crc {
            return Err(blame("has another body than it names"));
        }
        let slot = unframe(Kind::Body, data).map_err(|why| blame(&why))?;
        self.check_slot(place.at, &slot)?;
        Ok(slot)
    }

    fn blame(&self, at: Station, why: &str) -> String {
        format!("slot {}/{} of the witness: {why}", at.node, at.parity)
    }

    fn check_slot(&self, at: Station, slot: &Slot) -> Result<(), String> {
        let blame = |why: String| Err(self.blame(at, &why));
        if slot.cluster != self.cluster {
            return blame(format!("belongs to cluster {}", slot.cluster));
        }
        if Station::of(slot.node, slot.inc) != at || slot.inc == Incarnation(0) {
            return blame(format!("was written by {}.{}", slot.node, slot.inc.0));
        }
        let named = slot.view.as_ref().map_or(Ballot::ZERO, |v| v.ballot);
        if named != slot.bal || slot.mbal < slot.bal {
            return blame(format!(
                "has mbal {}, bal {}, view of {named}: contradictory",
                slot.mbal, slot.bal
            ));
        }
        Ok(())
    }
}
