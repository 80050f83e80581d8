//! P10.20: a data disk is open on a node, and takes what it writes, only while the keys on it are of
//! that life: machines that stand still, whose leases nobody can end, included.

use wolfpack_types::NodeInc;

use super::{Verdict, holds};
use crate::data_disk::DataDisk;

/// The disk of a group takes what a life writes.
pub fn written(disk: &DataDisk, who: NodeInc, group: &str) -> Verdict {
    let other = disk.keys.iter().find(|&&key| key != who);
    holds(other.is_none(), "P10.20 own key only", || {
        format!("{who} writes to the disk of group '{group}', on which {other:?} has its key")
    })
}
