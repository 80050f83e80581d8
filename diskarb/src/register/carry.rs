//! What reads bring: the superblock, the slots of all, and, once in a life, the own slots and log that
//! are carried over into this life's slot and region.

use std::collections::VecDeque;

use wolfpack_types::register::{RegisterFailure, Slot};
use wolfpack_types::{NodeInc, Rule};

use super::Register;
use super::jobs::Carry;
use super::own::{LogChange, OwnLog};
use super::stages::{Outcome, Stage};
use crate::layout::{Layout, LoadedLog, LogReader, Place, SlotBlock, Station};

impl Register {
    pub(super) fn superblock(&self, block: &[u8]) -> Outcome<Layout> {
        let corrupt = |why: String| RegisterFailure::Corrupt(why);
        let layout = Layout::parse(block).map_err(|e| corrupt(e.to_string()))?;
        if layout.cluster != self.config.cluster {
            return Err(corrupt(format!("the disk is the witness of cluster {}", layout.cluster)));
        }
        if !layout.has_place(self.config.me.node) {
            return Err(corrupt(format!(
                "the witness was prepared for {} nodes, this is node {}",
                layout.max_nodes, self.config.me.node
            )));
        }
        Ok(layout)
    }

    pub(super) fn gathered(&mut self, data: &[u8], tries: u8) -> Outcome<()> {
        let layout = self.layout()?;
        let size = layout.block_size as usize;
        if data.len() != size * layout.slot_area().1 as usize {
            return Err(RegisterFailure::Io(format!("short read of the slots: {}", data.len())));
        }
        let Some(job) = &mut self.job else { return Ok(()) };
        job.slots.clear();
        job.bodies.clear();
        let mut places = VecDeque::new();
        for (at, block) in layout.all_stations().zip(data.chunks(size)) {
            match layout.parse_slot(at, block).map_err(RegisterFailure::Corrupt)? {
                SlotBlock::Empty => {}
                SlotBlock::Here(slot) => {
                    job.slots.insert(NodeInc::new(slot.node, slot.inc), slot);
                }
                SlotBlock::Body(place) => {
                    job.bodies.insert(place.at, place.which);
                    places.push_back(place);
                }
            }
        }
        if !places.is_empty() {
            self.first([Stage::Bodies { places, tries }]);
        }
        Ok(())
    }

    pub(super) fn body_read(
        &mut self,
        mut places: VecDeque<Place>,
        tries: u8,
        data: &[u8],
    ) -> Outcome<()> {
        let layout = self.layout()?;
        let Some(place) = places.pop_front() else { return Ok(()) };
        match layout.parse_body(&place, data) {
            Ok(slot) => {
                if let Some(job) = &mut self.job {
                    job.slots.insert(NodeInc::new(slot.node, slot.inc), slot);
                }
                self.first([Stage::Bodies { places, tries }]);
            }
            // Its writer may have replaced it since the slots were read.
            Err(_) if tries > 1 => self.first([Stage::Gather { tries: tries - 1 }]),
            Err(why) => return Err(RegisterFailure::Corrupt(why)),
        }
        Ok(())
    }

    /// Decides what to carry over from the own slots, of both parities.
    pub(super) fn carry(&mut self) -> Outcome<()> {
        let (me, layout) = (self.config.me, self.layout()?);
        self.own.log = None;
        let Some(job) = &mut self.job else { return Ok(()) };
        self.own.body_found(job.bodies.get(&self.own.station).copied());
        let mine: Vec<&Slot> = job.slots.values().filter(|s| s.node == me.node).collect();
        if let Some(later) = mine.iter().find(|s| s.inc > me.inc) {
            return Err(RegisterFailure::Corrupt(format!(
                "the witness has a slot of incarnation {} of this node, which is {}: \
                 another copy of the node runs, or its store was set back",
                later.inc.0, me.inc.0
            )));
        }
        let mut slot = self.own.slot.clone();
        // This life has been here before: the witness was changed, and changed back.
        if let Some(same) = mine.iter().find(|s| s.inc == me.inc) {
            (slot.wseq, slot.renew) = (same.wseq, same.renew);
        }
        let mut reader = None;
        if !self.config.rules.broken(Rule::NoCarrySlot) {
            if let Some(top) = mine.iter().max_by_key(|s| s.mbal) {
                slot.mbal = top.mbal;
                slot.members.clone_from(&top.members);
            }
            let best = mine.iter().max_by_key(|s| (s.bal, s.last_seq));
            if let Some(best) = best.filter(|s| s.view.is_some()) {
                (slot.bal, slot.last_seq) = (best.bal, best.last_seq);
                slot.view.clone_from(&best.view);
                let from = Station::of(best.node, best.inc);
                let log = LogReader::new(layout, from, best.bal, best.last_seq);
                reader = Some(Stage::CarryLog { reader: log, from });
            }
        }
        job.carry = Some(Carry { slot, log: None });
        if self.config.views_only {
            self.first([Stage::Carried]);
            return Ok(());
        }
        self.first([Stage::CarryWrite, Stage::Carried]);
        if let Some(reader) = reader {
            self.first([reader]);
        }
        self.first([Stage::Head(0), Stage::Head(1)]);
        Ok(())
    }

    pub(super) fn log_carried(&mut self, log: LoadedLog, from: Station) {
        let own_station = self.own.station;
        let Some(carry) = self.job.as_mut().and_then(|job| job.carry.as_mut()) else { return };
        let loaded = OwnLog {
            ballot: carry.slot.bal,
            generation: log.generation,
            area: log.area,
            position: log.position,
            bytes: OwnLog::size(&log.snapshot, &log.entries),
            snapshot: log.snapshot,
            entries: log.entries,
        };
        if from == own_station {
            self.own.log = Some(loaded);
        } else {
            carry.log = Some(loaded);
        }
    }

    /// Copies the log of the other parity's region into the own one.
    pub(super) fn carry_write(&mut self) -> Outcome<()> {
        let layout = self.layout()?;
        let carry = self.job.as_mut().and_then(|job| job.carry.as_mut());
        let Some(log) = carry.and_then(|carry| carry.log.take()) else { return Ok(()) };
        // The own region's former log is superseded by this one: either area may be taken.
        let (ops, log) = self
            .own
            .checkpoint(&layout, log.ballot, log.snapshot, log.entries)
            .map_err(RegisterFailure::Io)?;
        self.first([Stage::Writes { ops, change: LogChange::Replace(Box::new(log)) }]);
        Ok(())
    }

    pub(super) fn carried(&mut self) {
        if let Some(carry) = self.job.as_mut().and_then(|job| job.carry.take()) {
            self.own.slot = carry.slot;
            self.own.ready = true;
        }
    }
}
