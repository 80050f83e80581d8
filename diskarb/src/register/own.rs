//! What this life knows of its own slot and log region: the slot as it is meant to be, whether the
//! disk is known to hold it, and the log behind it.

use std::collections::VecDeque;

use wolfpack_types::codec::encoded_bytes;
use wolfpack_types::disk::DiskOp;
use wolfpack_types::register::Slot;
use wolfpack_types::store::Snapshot;
use wolfpack_types::update::LogEntry;
use wolfpack_types::{Ballot, ClusterId, Members, NodeInc, Seq};

use crate::layout::{Layout, SlotImage, Station};

/// The log in the own region, as far as this life has written or carried it.
#[derive(Clone, Debug)]
pub(super) struct OwnLog {
    pub ballot: Ballot,
    pub generation: u64,
    /// The checkpoint in force: the other area is free.
    pub area: u8,
    /// First free block of the ring.
    pub position: u32,
    pub snapshot: Snapshot,
    pub entries: Vec<LogEntry>,
    /// At most so many bytes has a checkpoint of snapshot and entries. It always fits into an area:
    /// else the next life, of the other parity, could not carry the log over.
    pub bytes: usize,
}

/// What a job's writes make of the own log, once they are all done.
#[derive(Debug)]
pub(super) enum LogChange {
    /// They were the body of a slot.
    None,
    /// A checkpoint.
    Replace(Box<OwnLog>),
    /// A record in the ring.
    Extend { position: u32, entries: Vec<LogEntry> },
}

impl OwnLog {
    /// Bytes of a checkpoint of these.
    pub(super) fn size(snapshot: &Snapshot, entries: &[LogEntry]) -> usize {
        encoded_bytes(snapshot) + encoded_bytes(&entries)
    }

    pub(super) fn end(&self) -> Seq {
        self.entries.last().map_or(self.snapshot.seq, |e| e.seq)
    }
}

/// The own slot and log.
#[derive(Debug)]
pub(super) struct Own {
    pub layout: Option<Layout>,
    pub station: Station,
    /// The own slots were read and carried over: writing is allowed.
    pub ready: bool,
    /// The disk is known to have the slot as meant.
    pub synced: bool,
    /// The slot as meant; the next write writes all of it.
    pub slot: Slot,
    pub log: Option<OwnLog>,
    /// Highest generation seen in, or written to, the own region.
    pub newest: u64,
    /// The last write of the slot, if it is not known whether the disk has it. It is repeated word
    /// for word before anything else is written: until then it is not known which checkpoint area
    /// and which body the disk's slot names, so neither may be overwritten.
    uncertain: Option<DiskOp>,
    /// Body that the disk's slot names (valid while nothing is uncertain).
    body: Option<u8>,
}

impl Own {
    pub(super) fn new(me: NodeInc, cluster: ClusterId) -> Self {
        let slot = Slot {
            cluster,
            node: me.node,
            inc: me.inc,
            wseq: 0,
            mbal: Ballot::ZERO,
            members: Members::new(),
            bal: Ballot::ZERO,
            view: None,
            last_seq: Seq(0),
            renew: 0,
        };
        Self {
            layout: None,
            station: Station::of(me.node, me.inc),
            ready: false,
            synced: true,
            slot,
            log: None,
            newest: 0,
            uncertain: None,
            body: None,
        }
    }

    /// The repetition of a slot write whose outcome is not known.
    pub(super) fn repetition(&self) -> Option<DiskOp> {
        self.uncertain.clone()
    }

    /// The commands that write the slot as meant. The last one is to be announced by
    /// [`Own::slot_sent`].
    pub(super) fn image(&mut self, layout: &Layout) -> Result<SlotImage, String> {
        assert!(self.ready && self.uncertain.is_none(), "carried over, and the last write certain");
        self.slot.wseq += 1;
        let free = self.body.map_or(0, |used| 1 - used);
        layout.slot_image(&self.slot, free)
    }

    /// The slot's block is being written now.
    pub(super) fn slot_sent(&mut self, op: &DiskOp, which: Option<u8>) {
        self.uncertain = Some(op.clone());
        self.body = which;
    }

    /// The last write of the slot was carried out: the disk has the slot as meant, since nothing is
    /// changed while a write is uncertain.
    pub(super) fn slot_is_certain(&mut self) {
        self.uncertain = None;
        self.synced = true;
    }

    /// The body that the former life's slot at this station names.
    pub(super) fn body_found(&mut self, which: Option<u8>) {
        self.body = which;
    }

    /// The writes of a change are done.
    pub(super) fn log_written(&mut self, change: LogChange) {
        match change {
            LogChange::None => {}
            LogChange::Replace(log) => self.log = Some(*log),
            LogChange::Extend { position, entries } => {
                if let Some(log) = &mut self.log {
                    log.position = position;
                    log.bytes += encoded_bytes(&entries);
                    log.entries.extend(entries);
                }
            }
        }
    }

    /// The commands that write a checkpoint to the free area, and what the log is once they are
    /// done.
    pub(super) fn checkpoint(
        &mut self,
        layout: &Layout,
        ballot: Ballot,
        snapshot: Snapshot,
        entries: Vec<LogEntry>,
    ) -> Result<(VecDeque<DiskOp>, OwnLog), String> {
        let area = self.log.as_ref().map_or(0, |log| 1 - log.area);
        let generation = self.newest.saturating_add(1);
        let ops = layout.checkpoint_image(
            self.station,
            area,
            (generation, ballot),
            &snapshot,
            &entries,
        )?;
        self.newest = generation;
        let bytes = OwnLog::size(&snapshot, &entries);
        let log = OwnLog { ballot, generation, area, position: 0, snapshot, entries, bytes };
        Ok((ops, log))
    }

    pub(super) fn check(&self) {
        assert!(self.slot.bal <= self.slot.mbal, "accepted only what was promised");
        let named = self.slot.view.as_ref().map_or(Ballot::ZERO, |v| v.ballot);
        assert_eq!(named, self.slot.bal, "bal is the view's ballot");
        assert!(self.ready || self.slot.wseq == 0, "nothing written before the carry-over");
    }
}
