//! Log regions: two checkpoint areas and a ring of records.
//!
//! A checkpoint (snapshot and entries) carries a generation, counted up by the region's writer, and
//! the ballot under which it was accepted. Records count only with the generation of the checkpoint
//! in force. The checkpoint in force for a slot is the newest whole one with the slot's `bal`: one
//! that was written for a ballot that the slot never took is no part of it. What a replay yields
//! beyond the slot's `last_seq` was never taken either and is cut; one that ends before is refused.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};
use wolfpack_types::disk::DiskOp;
use wolfpack_types::store::Snapshot;
use wolfpack_types::update::LogEntry;
use wolfpack_types::{Ballot, Seq, codec};

use super::frame::{self, Kind, checksum, frame, unframe};
use super::{Layout, Station};

/// Largest transfer of one command: below what common targets and adapters take at once.
const CHUNK: usize = 256 << 10;
/// First read of the ring: most rings are short.
const FIRST_READ: usize = 16 << 10;

/// The head of a checkpoint.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Head {
    pub generation: u64,
    pub ballot: Ballot,
    length: u32,
    crc: u32,
}

#[derive(Serialize, Deserialize)]
struct Record {
    generation: u64,
    ballot: Ballot,
    entries: Vec<LogEntry>,
}

impl Layout {
    /// The commands that write a checkpoint; whole only when all are done.
    ///
    /// # Errors
    /// It does not fit: size and limit.
    pub(crate) fn checkpoint_image(
        &self,
        at: Station,
        area: u8,
        (generation, ballot): (u64, Ballot),
        snapshot: &Snapshot,
        entries: &[LogEntry],
    ) -> Result<VecDeque<DiskOp>, String> {
        let content = codec::encode(&(snapshot, entries));
        let limit = self.checkpoint_capacity();
        if content.len() > limit {
            return Err(format!(
                "a checkpoint of {} bytes does not fit into the witness' {limit}",
                content.len()
            ));
        }
        let length = u32::try_from(content.len()).unwrap_or(u32::MAX);
        let head = Head { generation, ballot, length, crc: checksum(&[&content]) };
        let mut image = frame(Kind::Checkpoint, &head, self.block_size);
        image.extend_from_slice(&content);
        frame::pad(&mut image, self.block_size);
        let lba = self.checkpoint_lba(at, area);
        Ok(self.chunks(lba, &image))
    }

    /// The commands that write a record at a ring position, and the position after it; none if the
    /// ring has no room.
    pub(crate) fn record_image(
        &self,
        at: Station,
        position: u32,
        (generation, ballot): (u64, Ballot),
        entries: &[LogEntry],
    ) -> Option<(VecDeque<DiskOp>, u32)> {
        let record = Record { generation, ballot, entries: entries.to_vec() };
        let image = frame(Kind::Record, &record, self.block_size);
        let end = position.checked_add(self.blocks_of(image.len()))?;
        (end <= self.ring).then(|| {
            let lba = self.ring_lba(at) + u64::from(position);
            (self.chunks(lba, &image), end)
        })
    }

    fn chunks(&self, lba: u64, image: &[u8]) -> VecDeque<DiskOp> {
        let per_chunk = (CHUNK / self.block_size as usize) as u64;
        (0..)
            .zip(image.chunks(CHUNK))
            .map(|(i, data)| DiskOp::Write { lba: lba + i * per_chunk, data: data.to_vec() })
            .collect()
    }

    /// The read of a checkpoint's head.
    pub(crate) fn head_read(&self, at: Station, area: u8) -> DiskOp {
        DiskOp::Read { lba: self.checkpoint_lba(at, area), blocks: 1 }
    }

    /// A checkpoint's head; none if there is no whole one.
    pub(crate) fn parse_head(&self, block: &[u8]) -> Option<Head> {
        let head: Head = unframe(Kind::Checkpoint, block).ok()?;
        (head.length as usize <= self.checkpoint_capacity()).then_some(head)
    }
}

/// A log region, as read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct LoadedLog {
    pub snapshot: Snapshot,
    pub entries: Vec<LogEntry>,
    /// The checkpoint in force.
    pub area: u8,
    pub generation: u64,
    /// First free block of the ring.
    pub position: u32,
}

/// What the reader wants next.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum ReadStep {
    Read(DiskOp),
    Done(Box<LoadedLog>),
    /// The region does not hold the log that the slot speaks of.
    Corrupt(String),
}

#[derive(Debug)]
enum Phase {
    Head(u8),
    Content { head: Head, area: u8, data: Vec<u8> },
    Ring { log: LoadedLog, data: Vec<u8>, next: u32 },
}

/// Reads the log that belongs to one slot: sans-IO, one read at a time.
#[derive(Debug)]
pub(crate) struct LogReader {
    layout: Layout,
    at: Station,
    ballot: Ballot,
    last: Seq,
    heads: [Option<Head>; 2],
    /// Areas that were tried and found wanting, with the reason.
    failed: Vec<(u8, String)>,
    phase: Phase,
}

impl LogReader {
    /// For the slot at `at` with this `bal` and `last_seq`.
    pub(crate) fn new(layout: Layout, at: Station, ballot: Ballot, last: Seq) -> Self {
        let (heads, failed) = ([None, None], Vec::new());
        Self { layout, at, ballot, last, heads, failed, phase: Phase::Head(0) }
    }

    /// The first read.
    pub(crate) fn start(&self) -> DiskOp {
        self.layout.head_read(self.at, 0)
    }

    /// The data of the read asked for.
    pub(crate) fn feed(&mut self, data: &[u8]) -> ReadStep {
        match &mut self.phase {
            Phase::Head(area) => {
                let area = *area;
                self.heads[usize::from(area)] = self.layout.parse_head(data);
                if area == 0 {
                    self.phase = Phase::Head(1);
                    return ReadStep::Read(self.layout.head_read(self.at, 1));
                }
                self.try_next()
            }
            Phase::Content { head, data: got, .. } => {
                got.extend_from_slice(data);
                if got.len() < head.length as usize {
                    return self.read_content();
                }
                self.content_read()
            }
            Phase::Ring { data: got, next, .. } => {
                got.extend_from_slice(data);
                *next += self.layout.blocks_of(data.len());
                self.replay()
            }
        }
    }

    /// The newest checkpoint of the ballot that has not failed yet.
    fn try_next(&mut self) -> ReadStep {
        let candidate = (0u8..)
            .zip(&self.heads)
            .filter(|(area, _)| self.failed.iter().all(|(failed, _)| failed != area))
            .filter_map(|(area, head)| head.map(|head| (area, head)))
            .filter(|(_, head)| head.ballot == self.ballot)
            .max_by_key(|(_, head)| head.generation);
        let Some((area, head)) = candidate else {
            let why: Vec<_> = self.failed.iter().map(|(_, why)| why.as_str()).collect();
            return ReadStep::Corrupt(format!(
                "log region {}/{} of the witness has no whole log of ballot {} up to {}{}{}",
                self.at.node,
                self.at.parity,
                self.ballot,
                self.last,
                if why.is_empty() { "" } else { ": " },
                why.join("; ")
            ));
        };
        self.phase = Phase::Content { head, area, data: Vec::new() };
        self.read_content()
    }

    fn read_content(&self) -> ReadStep {
        let Phase::Content { head, area, data } = &self.phase else {
            unreachable!("content is read in its phase only")
        };
        let rest = (head.length as usize).saturating_sub(data.len()).clamp(1, CHUNK);
        let lba = self.layout.checkpoint_lba(self.at, *area)
            + 1
            + u64::from(self.layout.blocks_of(data.len()));
        ReadStep::Read(DiskOp::Read { lba, blocks: self.layout.blocks_of(rest) })
    }

    fn fail(&mut self, area: u8, why: String) -> ReadStep {
        self.failed.push((area, why));
        self.try_next()
    }

    fn content_read(&mut self) -> ReadStep {
        let Phase::Content { head, area, data } = &mut self.phase else {
            unreachable!("content is judged in its phase only")
        };
        let (head, area) = (*head, *area);
        data.truncate(head.length as usize);
        if checksum(&[data]) != head.crc {
            return self.fail(area, format!("checkpoint {area} is torn"));
        }
        let decoded = codec::decode::<(Snapshot, Vec<LogEntry>)>("checkpoint", data);
        let (snapshot, entries) = match decoded {
            Ok(content) => content,
            Err(e) => return self.fail(area, e.to_string()),
        };
        if !continues(snapshot.seq, &entries) {
            return self.fail(area, format!("checkpoint {area} has a gap"));
        }
        let log = LoadedLog { snapshot, entries, area, generation: head.generation, position: 0 };
        self.phase = Phase::Ring { log, data: Vec::new(), next: 0 };
        self.replay()
    }

    /// Takes whole records from what has been read, and asks for more while `last` is not reached.
    fn replay(&mut self) -> ReadStep {
        let (layout, last, ballot) = (self.layout, self.last, self.ballot);
        let Phase::Ring { log, data, next } = &mut self.phase else {
            unreachable!("records are replayed in their phase only")
        };
        let block = layout.block_size as usize;
        while log.end() < last {
            let rest = data.get(log.position as usize * block..).unwrap_or_default();
            let wanted = if rest.is_empty() {
                FIRST_READ.max(block)
            } else {
                match frame::extent(Kind::Record, rest) {
                    Some(size) if size > rest.len() => size - rest.len(),
                    Some(size) => match take_record(rest, log, ballot) {
                        Ok(()) => {
                            log.position += layout.blocks_of(size);
                            continue;
                        }
                        Err(_) => 0,
                    },
                    None => 0,
                }
            };
            let blocks = layout.blocks_of(wanted.min(CHUNK)).min(layout.ring.saturating_sub(*next));
            if blocks == 0 {
                let why = format!("its records end at {} instead of {last}", log.end());
                let area = log.area;
                return self.fail(area, why);
            }
            let lba = layout.ring_lba(self.at) + u64::from(*next);
            return ReadStep::Read(DiskOp::Read { lba, blocks });
        }
        // Beyond `last`: written, but never taken by the slot.
        log.entries.retain(|e| e.seq <= last);
        if log.snapshot.seq > last {
            let (area, why) =
                (log.area, format!("its snapshot is already at {}", log.snapshot.seq));
            return self.fail(area, why);
        }
        ReadStep::Done(Box::new(log.clone()))
    }
}

impl LoadedLog {
    fn end(&self) -> Seq {
        self.entries.last().map_or(self.snapshot.seq, |e| e.seq)
    }
}

/// Appends the entries of the record at the start of `data`, if it continues the log.
fn take_record(data: &[u8], log: &mut LoadedLog, ballot: Ballot) -> Result<(), String> {
    let record: Record = unframe(Kind::Record, data)?;
    if record.generation != log.generation || record.ballot != ballot {
        return Err("of another generation".into());
    }
    if record.entries.is_empty() || !continues(log.end(), &record.entries) {
        return Err("does not continue the log".into());
    }
    log.entries.extend(record.entries);
    Ok(())
}

/// Whether the entries follow `after` without a gap.
pub(crate) fn continues(after: Seq, entries: &[LogEntry]) -> bool {
    (1..).zip(entries).all(|(i, e)| after.0.checked_add(i) == Some(e.seq.0))
}
