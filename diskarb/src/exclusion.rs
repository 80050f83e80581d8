//! Proves that a unit's reservation excludes, before the unit is accepted.
//!
//! Some units answer GOOD to RESERVE of everybody and exclude nobody (a disk that a hypervisor
//! shares, for one): with such a unit challenge and defence would be a play. So it is tried, with two
//! sessions of this node, which are two I_T nexuses (SAM-5 section 4.8). A disk of the kernel has one
//! nexus per node, so for it the proof needs two nodes and is refused here.

use std::time::Duration;

use wolfpack_types::disk::{DiskOp, DiskOutcome};

use crate::device::{Device, Naming, OpenError, Purpose, open};
use crate::sense::words;

/// Deadline of one command here: an administrator waits.
const DEADLINE: Duration = Duration::from_secs(20);
/// Unit attentions that may come first.
const TRIES: u32 = 8;

/// The reservation does not exclude, or that could not be shown.
#[derive(Debug, thiserror::Error)]
pub enum ExclusionError {
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error(
        "{0} is a disk of the kernel: that its reservation excludes can only be shown from two nodes"
    )]
    OneNexus(String),
    #[error("{0} is reserved by another initiator; is it in use?")]
    Reserved(String),
    #[error(
        "{disk}: a reservation does not keep others out ({what} was carried out for another \
         initiator): use exclusion 'none', or another disk"
    )]
    NoExclusion { disk: String, what: &'static str },
    #[error("{disk}: {what} failed: {why}")]
    Io { disk: String, what: &'static str, why: String },
}

/// Reserves the unit by one session, and shows that RESERVE, READ, WRITE and TEST UNIT READY of
/// another are refused, and that it is free for the other after RELEASE. Nothing is changed: the
/// write, if it is carried out, writes what was read.
///
/// # Errors
/// The unit does not exclude, is reserved already, or fails.
pub fn prove(disk: &str, naming: &Naming) -> Result<(), ExclusionError> {
    if !disk.starts_with("iscsi://") {
        return Err(ExclusionError::OneNexus(disk.to_owned()));
    }
    let mut holder = open(disk, &Naming { purpose: Purpose::Admin, ..*naming })?;
    let mut other = open(disk, &Naming { purpose: Purpose::Proof, ..*naming })?;
    let failed = |what: &'static str, outcome: &DiskOutcome| ExclusionError::Io {
        disk: disk.to_owned(),
        what,
        why: words(outcome),
    };
    match execute(&mut holder, &DiskOp::Reserve) {
        DiskOutcome::Good(_) => {}
        DiskOutcome::Conflict => return Err(ExclusionError::Reserved(disk.to_owned())),
        outcome => return Err(failed("RESERVE", &outcome)),
    }
    let read = DiskOp::Read { lba: 0, blocks: 1 };
    let block = match execute(&mut holder, &read) {
        DiskOutcome::Good(block) => block,
        outcome => return Err(failed("READ", &outcome)),
    };
    for op in [DiskOp::Test, read, DiskOp::Reserve, DiskOp::Write { lba: 0, data: block }] {
        match execute(&mut other, &op) {
            DiskOutcome::Conflict => {}
            DiskOutcome::Good(_) => {
                return Err(ExclusionError::NoExclusion { disk: disk.to_owned(), what: op.name() });
            }
            outcome => return Err(failed(op.name(), &outcome)),
        }
    }
    let released = execute(&mut holder, &DiskOp::Release);
    match execute(&mut other, &DiskOp::Reserve) {
        DiskOutcome::Good(_) => {}
        outcome => {
            let what = "RESERVE after RELEASE";
            tracing::debug!(disk, released = words(&released), "exclusion");
            return Err(failed(what, &outcome));
        }
    }
    match execute(&mut other, &DiskOp::Release) {
        DiskOutcome::Good(_) => Ok(()),
        outcome => Err(failed("RELEASE", &outcome)),
    }
}

/// A command; unit attentions, which say that something was before, are asked away.
fn execute(device: &mut Device, op: &DiskOp) -> DiskOutcome {
    let mut outcome = device.execute(op, DEADLINE);
    for _ in 1..TRIES {
        if !matches!(outcome, DiskOutcome::UnitAttention { .. }) {
            break;
        }
        outcome = device.execute(op, DEADLINE);
    }
    outcome
}
