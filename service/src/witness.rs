//! The witness as this node uses it: which one is open, and preparing another one, in a thread of
//! its own, because disks block.

use std::thread;

use crossbeam_channel::{Receiver, Sender, bounded};
use wolfpack_diskarb::device::{Naming, OpenError, Purpose};
use wolfpack_diskarb::exclusion::{ExclusionError, prove};
use wolfpack_diskarb::format::{Overwrite, PrepareError, Prepared, prepare_place};
use wolfpack_diskarb::register::RegisterConfig;
use wolfpack_diskarb::thread::{Place, RegisterNotice, RegisterThread};
use wolfpack_types::api::{ErrorKind, ErrorReply};
use wolfpack_types::config::{Config, Witness};
use wolfpack_types::membership::{WitnessKind, WitnessSpec};
use wolfpack_types::register::{Exclusion, RegisterCommand};
use wolfpack_types::{ClusterId, NodeId, NodeInc, Rules, Times};

use crate::errands::Done;

/// Notices of the register that may wait.
const QUEUE: usize = 1024;

/// The register that is open here, if any, and its thread.
#[derive(Debug)]
pub(crate) struct Seat {
    thread: RegisterThread,
    open: Option<WitnessSpec>,
    configured: Option<Witness>,
    cluster: ClusterId,
    me: NodeInc,
    times: Times,
}

impl Seat {
    /// Starts the thread, with the witness that the store speaks of (`known`; none inside: it speaks
    /// of no witness), else with that of the configuration.
    pub(crate) fn start(
        config: &Config,
        cluster: ClusterId,
        me: NodeInc,
        known: Option<Option<WitnessSpec>>,
    ) -> std::io::Result<(Self, Receiver<RegisterNotice>)> {
        let (notify, notices) = bounded(QUEUE);
        let mut seat = Self {
            thread: RegisterThread::start(None, notify)?,
            open: None,
            configured: config.witness.clone(),
            cluster,
            me,
            times: config.times,
        };
        seat.open(known.unwrap_or_else(|| configured(config, cluster)));
        Ok((seat, notices))
    }

    /// Commands go to this witness from now on.
    pub(crate) fn open(&mut self, spec: Option<WitnessSpec>) {
        if self.open == spec {
            return;
        }
        self.open = spec;
        self.open_again();
    }

    /// Opens what is open anew, at once: it was just prepared.
    pub(crate) fn open_again(&self) {
        let place = self.open.as_ref().map(|spec| Place {
            cluster: self.cluster,
            register: RegisterConfig {
                me: self.me,
                cluster: ClusterId(spec.id),
                exclusion: spec.exclusion,
                views_only: spec.kind == WitnessKind::Share,
                times: self.times,
                rules: Rules::ALL,
            },
            disk: self.place_here(spec),
        });
        match &place {
            Some(place) => tracing::info!("the witness is {}", place.disk),
            None => tracing::info!("there is no witness"),
        }
        self.thread.open(place);
    }

    /// The path to a register from here: this node's file may name another one to the same.
    fn place_here(&self, spec: &WitnessSpec) -> String {
        match &self.configured {
            Some(own) if spec.id == self.cluster.0 => own.place.clone(),
            _ => spec.place.clone(),
        }
    }

    /// Which witness is open.
    pub(crate) const fn spec(&self) -> Option<&WitnessSpec> {
        self.open.as_ref()
    }

    pub(crate) fn command(&self, command: RegisterCommand) {
        self.thread.command(command);
    }

    /// Ends thread and session.
    pub(crate) fn stop(self) {
        self.thread.stop();
    }
}

/// The witness of the configuration: the one of `cluster create`.
pub(crate) fn configured(config: &Config, cluster: ClusterId) -> Option<WitnessSpec> {
    let witness = config.witness.as_ref()?;
    Some(WitnessSpec {
        place: witness.place.clone(),
        kind: config.quorum.witness_kind()?,
        exclusion: witness.exclusion,
        id: cluster.0,
        checkpoint_bytes: 0,
    })
}

/// What there is to prepare, and for whom.
#[derive(Clone, Debug)]
pub(crate) struct Job {
    pub(crate) place: String,
    pub(crate) exclusion: Exclusion,
    pub(crate) cluster: ClusterId,
    /// The identity of the register.
    pub(crate) register: ClusterId,
    pub(crate) node: NodeId,
    pub(crate) overwrite: Overwrite,
    /// Bytes that it must keep for each node.
    pub(crate) room: u64,
}

/// Starts the thread; `done` hears how it ended.
pub(crate) fn start(job: Job, done: Sender<Done>) -> std::io::Result<()> {
    thread::Builder::new().name("wolfpack-format".into()).stack_size(512 * 1024).spawn(
        move || {
            // The service may have ended meanwhile.
            let _ = done.send(Done::Witness(run(&job)));
        },
    )?;
    Ok(())
}

fn run(job: &Job) -> Result<Option<u64>, ErrorReply> {
    let naming = Naming { cluster: job.cluster, node: job.node, purpose: Purpose::Admin };
    if job.exclusion == Exclusion::Reserve {
        // P4: before a disk is accepted at all, its reservation is shown to exclude.
        match prove(&job.place, &naming) {
            Ok(()) => {}
            Err(e @ ExclusionError::OneNexus(_)) => tracing::warn!("{e}"),
            Err(ExclusionError::Open(e)) => return Err(unreachable_disk(&e)),
            Err(e) => return Err(no_exclusion(&e)),
        }
    }
    let prepared = prepare_place(&job.place, &naming, job.register, job.overwrite, job.room);
    let ready = prepared.map_err(|e| unusable_disk(&e))?;
    match ready.done {
        Prepared::Written => tracing::info!("{} is prepared as a witness", job.place),
        Prepared::Already => tracing::info!("{} was prepared as this witness before", job.place),
    }
    if let Some(room) = ready.room {
        tracing::info!("{} keeps a database of up to {room} bytes for each node", job.place);
    }
    Ok(ready.room)
}

fn unreachable_disk(e: &OpenError) -> ErrorReply {
    let kind = match e {
        OpenError::BadName { .. }
        | OpenError::NotADisk { .. }
        | OpenError::BlockSize { .. }
        | OpenError::Files { .. } => ErrorKind::Invalid,
        _ => ErrorKind::Internal,
    };
    ErrorReply {
        kind,
        what: format!("the witness cannot be used: {e}"),
        advice: "check the witness' place; nothing was changed".into(),
    }
}

fn no_exclusion(e: &ExclusionError) -> ErrorReply {
    let kind = match e {
        ExclusionError::Io { .. } => ErrorKind::Internal,
        _ => ErrorKind::Invalid,
    };
    ErrorReply {
        kind,
        what: format!("the witness cannot be used with exclusion 'reserve': {e}"),
        advice: "nothing was changed, neither in the cluster nor on the disk".into(),
    }
}

fn unusable_disk(e: &PrepareError) -> ErrorReply {
    let kind = match e {
        PrepareError::Open(e) => return unreachable_disk(e),
        PrepareError::Io { .. } => ErrorKind::Internal,
        _ => ErrorKind::Invalid,
    };
    ErrorReply {
        kind,
        what: format!("the witness cannot be used: {e}"),
        advice: "nothing was changed, neither in the cluster nor on the witness".into(),
    }
}
