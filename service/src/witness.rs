//! Prepares the witness disk for `cluster create`, in a thread of its own: disks block.

use std::thread;

use crossbeam_channel::Sender;
use wolfpack_diskarb::device::{self, Naming, OpenError, Purpose};
use wolfpack_diskarb::exclusion::{ExclusionError, prove};
use wolfpack_diskarb::format::{Overwrite, PrepareError, Prepared, prepare};
use wolfpack_types::api::{ErrorKind, ErrorReply};
use wolfpack_types::register::Exclusion;
use wolfpack_types::{ClusterId, NodeId};

/// What there is to prepare, and for whom.
#[derive(Clone, Debug)]
pub(crate) struct Job {
    pub(crate) disk: String,
    pub(crate) exclusion: Exclusion,
    pub(crate) cluster: ClusterId,
    pub(crate) node: NodeId,
    pub(crate) overwrite: Overwrite,
}

/// Starts the thread; `done` hears how it ended.
pub(crate) fn start(job: Job, done: Sender<Result<(), ErrorReply>>) -> std::io::Result<()> {
    thread::Builder::new().name("wolfpack-format".into()).stack_size(512 * 1024).spawn(
        move || {
            // The service may have ended meanwhile.
            let _ = done.send(run(&job));
        },
    )?;
    Ok(())
}

fn run(job: &Job) -> Result<(), ErrorReply> {
    let naming = Naming { cluster: job.cluster, node: job.node, purpose: Purpose::Admin };
    if job.exclusion == Exclusion::Reserve {
        // P4: before a disk is accepted at all, its reservation is shown to exclude.
        match prove(&job.disk, &naming) {
            Ok(()) => {}
            Err(e @ ExclusionError::OneNexus(_)) => tracing::warn!("{e}"),
            Err(ExclusionError::Open(e)) => return Err(unreachable_disk(&e)),
            Err(e) => return Err(no_exclusion(&e)),
        }
    }
    let mut device = device::open(&job.disk, &naming).map_err(|e| unreachable_disk(&e))?;
    let prepared =
        prepare(device.as_mut(), job.cluster, job.overwrite).map_err(|e| unusable_disk(&e))?;
    match prepared {
        Prepared::Written => tracing::info!("{} is the witness now", job.disk),
        Prepared::Already => tracing::info!("{} was the witness already", job.disk),
    }
    Ok(())
}

fn unreachable_disk(e: &OpenError) -> ErrorReply {
    let kind = match e {
        OpenError::BadName { .. } | OpenError::NotADisk { .. } | OpenError::BlockSize { .. } => {
            ErrorKind::Invalid
        }
        _ => ErrorKind::Internal,
    };
    ErrorReply {
        kind,
        what: format!("the witness disk cannot be used: {e}"),
        advice: "check [witness] in the configuration of the nodes; no cluster was made".into(),
    }
}

fn no_exclusion(e: &ExclusionError) -> ErrorReply {
    let kind = match e {
        ExclusionError::Io { .. } => ErrorKind::Internal,
        _ => ErrorKind::Invalid,
    };
    ErrorReply {
        kind,
        what: format!("the witness disk cannot be used with exclusion 'reserve': {e}"),
        advice: "no cluster was made and nothing was changed on the disk".into(),
    }
}

fn unusable_disk(e: &PrepareError) -> ErrorReply {
    let kind = match e {
        PrepareError::Io { .. } => ErrorKind::Internal,
        _ => ErrorKind::Invalid,
    };
    ErrorReply {
        kind,
        what: format!("the witness disk cannot be used: {e}"),
        advice: "no cluster was made and nothing was changed on the disk".into(),
    }
}
