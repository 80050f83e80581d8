//! How a core and the disk look from outside: the little of their state that the checks need.

use std::collections::{BTreeMap, BTreeSet};

use wolfpack_core::Core;
use wolfpack_diskarb::layout::{Layout, MAX_NODES};
use wolfpack_types::register::Slot;
use wolfpack_types::{Ballot, GroupId, Instant, NodeId, Seq, View};

use crate::device::{BLOCK, Device, Written};
use crate::node::CLUSTER;

/// A core at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sight {
    pub installed: Option<Ballot>,
    /// All updates up to here are committed and in its database.
    pub applied: Seq,
    pub digest: u64,
    /// Groups that it may run now.
    pub authority: BTreeSet<GroupId>,
}

/// What a core shows after an input: its sight, and what it has done since the last.
#[derive(Debug, Default)]
pub struct Look {
    pub sight: Sight,
    /// The installed view, where it is another than before.
    pub view: Option<View>,
    /// Views that it has established, with the own time up to which leases outside may last.
    pub established: Vec<(Ballot, BTreeMap<NodeId, Instant>)>,
    /// What it has committed as the leader of a view.
    pub committed: Vec<(Ballot, Seq)>,
}

/// Looks at a core; None: it looks as before, and has done nothing that is looked at.
#[must_use]
pub fn look(core: &mut Core, now: Instant, before: &Sight) -> Option<Look> {
    let seen = core.glance(now);
    let (established, committed) = (core.take_established(), core.take_committed());
    if seen.installed == before.installed
        && seen.commit_seq == before.applied
        && seen.digest == before.digest
        && seen.authority == before.authority
        && established.is_empty()
        && committed.is_empty()
    {
        return None;
    }
    let sight = Sight {
        installed: seen.installed,
        applied: seen.commit_seq,
        digest: seen.digest,
        authority: seen.authority,
    };
    let view = (sight.installed != before.installed).then(|| core.observe(now).installed).flatten();
    Some(Look { view, sight, established, committed })
}

/// Prepared for as many nodes as there are: fewer slots to read with every renewal.
fn layout(device: &Device) -> Layout {
    Layout::new(CLUSTER, u32::try_from(BLOCK).unwrap_or(0), device.nodes.min(MAX_NODES))
}

/// Makes the unit a witness.
pub fn prepare(device: &mut Device) {
    let superblock = layout(device).superblock();
    device.write(0, &superblock);
}

/// The slots that a write has changed: what they said, and what they say.
///
/// # Errors
/// A slot that cannot be read.
pub fn slots_written(
    device: &Device,
    written: &Written,
) -> Result<Vec<(Option<Slot>, Slot)>, String> {
    let layout = layout(device);
    let mut out = Vec::new();
    let blocks = written.before.chunks(BLOCK).zip(written.after.chunks(BLOCK));
    for (lba, (before, after)) in (written.lba..).zip(blocks) {
        let Some(at) = layout.slot_at(lba) else { continue };
        let read = |lba, blocks| device.read(lba, blocks);
        let old = layout.inspect_slot(at, before, read)?;
        if let Some(new) = layout.inspect_slot(at, after, read)? {
            out.push((old, new));
        }
    }
    Ok(out)
}
