//! Witnesses that are files: a directory on a file share (`share:/path`), and a file or block
//! device that is no SCSI disk (`file:/path`).
//!
//! The kernel's calls on files have no deadline of their own, and on a share that hangs they never
//! return: they are made by a thread of the device ([`worker`]), and the caller waits as long as it
//! wants. A call that has not returned *may still be carried out*, and no session can be dropped to
//! end it: such a device says so ([`ScsiDevice::ends_with_session`]), and its driver sends nothing
//! else until the call has returned.

mod block;
mod mount;
mod share;
mod worker;

use std::path::{Path, PathBuf};

use wolfpack_types::ClusterId;

use crate::device::{Device, OpenError};
use crate::format::{Overwrite, PrepareError, Prepared};

/// How a witness on a file share begins.
pub const SHARE: &str = "share:";
/// How a witness in a file or plain block device begins.
pub const FILE: &str = "file:";

/// Opens `share:/path` or `file:/path`; none if the name is of another kind.
pub(crate) fn open(name: &str, cluster: ClusterId) -> Option<Result<Device, OpenError>> {
    if let Some(path) = name.strip_prefix(SHARE) {
        return Some(absolute(name, path).and_then(|path| share::open(name, &path, cluster)));
    }
    let path = name.strip_prefix(FILE)?;
    Some(absolute(name, path).and_then(|path| block::open(name, &path)))
}

/// Makes a share the witness of `cluster`, as the register of this identity: a directory with the cluster's name in it, so that one
/// share serves many clusters and nothing of others is touched. None if the name is of another kind.
pub(crate) fn prepare(
    name: &str,
    cluster: ClusterId,
    register: ClusterId,
    overwrite: Overwrite,
) -> Option<Result<Prepared, PrepareError>> {
    let path = name.strip_prefix(SHARE)?;
    let failed = |e: OpenError| PrepareError::Share { place: name.to_owned(), why: e.to_string() };
    let path = match absolute(name, path) {
        Ok(path) => path,
        Err(e) => return Some(Err(failed(e))),
    };
    Some(share::prepare(name, &path, (cluster, register), overwrite))
}

fn absolute(name: &str, path: &str) -> Result<PathBuf, OpenError> {
    let path = Path::new(path);
    if path.is_absolute() {
        return Ok(path.to_owned());
    }
    let why = "the path must be absolute, as in share:/mnt/witness".to_owned();
    Err(OpenError::BadName { text: name.to_owned(), why })
}
