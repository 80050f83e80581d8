//! P10.16: a slot and a log region are written only by their node, and never is a second command of
//! a node's register under way while a write of it may still be executed.

use wolfpack_types::disk::DiskOp;
use wolfpack_types::{NodeId, NodeInc};

use super::{Verdict, holds};
use crate::device::Device;

const NAME: &str = "P10.16 one writer, one command";

/// A register machine sends a command.
pub fn submitted(device: &Device, who: NodeInc, op: &DiskOp) -> Verdict {
    let write = matches!(op, DiskOp::Write { .. });
    holds(!(write && device.write_in_flight(who.node)), NAME, || {
        format!("{who} sends a write while an earlier one of its node may still be executed")
    })
}

/// A slot is written.
pub fn slot(by: NodeInc, owner: NodeId) -> Verdict {
    holds(by.node == owner, NAME, || format!("{by} writes the slot of node {owner}"))
}

/// A slot was written that cannot be read.
pub fn unreadable(by: NodeInc, why: &str) -> Verdict {
    holds(false, NAME, || format!("{by} wrote what cannot be read: {why}"))
}
