//! The store's own thread: a slow disk must never hold up the core.
//!
//! Steps that arrive while the disk is busy are carried out together (group commit).

use std::io;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TrySendError, bounded};
use wolfpack_types::store::Persist;

use crate::{Store, StoreError};

/// Steps that may wait. The core waits for the answers of far fewer; a disk that is this far
/// behind has failed for all that a cluster needs.
const QUEUE: usize = 4096;
/// Steps carried out together at most.
const BATCH: usize = 256;

/// How often an idle store looks whether a checkpoint is due or done.
const IDLE: Duration = Duration::from_secs(1);

/// What the store thread reports.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum StoreEvent {
    /// This step, and all before it, are durable (steps that were written together are told of
    /// once; the database's own steps alone are not told of).
    Persisted { id: u64 },
    /// No durability any more; said once.
    Failed { error: String },
}

/// The thread that owns an open store.
#[derive(Debug)]
pub struct StoreThread {
    steps: Sender<(u64, Persist)>,
    thread: JoinHandle<Result<(), StoreError>>,
}

impl StoreThread {
    /// Starts the thread; `notify` gets its events.
    ///
    /// # Errors
    /// No thread could be made.
    pub fn start(store: Store, notify: Sender<StoreEvent>) -> io::Result<Self> {
        let (steps, queue) = bounded(QUEUE);
        let thread = thread::Builder::new()
            .name("wolfpack-store".into())
            .spawn(move || run(store, &queue, &notify))?;
        Ok(Self { steps, thread })
    }

    /// Queues one step; never blocks.
    ///
    /// # Errors
    /// The store has failed, or is further behind than it may be.
    pub fn persist(&self, id: u64, step: Persist) -> Result<(), StoreError> {
        self.steps.try_send((id, step)).map_err(|e| match e {
            TrySendError::Full(_) => StoreError::Behind { queued: QUEUE },
            TrySendError::Disconnected(_) => StoreError::Stopped,
        })
    }

    /// Carries out what is queued, writes a checkpoint, and ends.
    ///
    /// # Errors
    /// The last steps could not be made durable.
    pub fn stop(self) -> Result<(), StoreError> {
        drop(self.steps);
        self.thread.join().unwrap_or(Err(StoreError::Stopped))
    }
}

fn run(
    mut store: Store,
    queue: &Receiver<(u64, Persist)>,
    notify: &Sender<StoreEvent>,
) -> Result<(), StoreError> {
    loop {
        let first = match queue.recv_timeout(IDLE) {
            Ok(first) => first,
            Err(RecvTimeoutError::Timeout) => {
                said(store.keep_house(), notify)?;
                continue;
            }
            Err(RecvTimeoutError::Disconnected) => return store.close(),
        };
        let batch = std::iter::once(first).chain(queue.try_iter().take(BATCH - 1));
        let (ids, steps): (Vec<u64>, Vec<Persist>) = batch.unzip();
        // Nobody waits for the database to move: the log has what it lacks.
        let awaited = steps.iter().rposition(|s| !matches!(s, Persist::Apply { .. }));
        said(store.persist(steps), notify)?;
        if let Some(&id) = awaited.and_then(|last| ids.get(last)) {
            let _ = notify.send(StoreEvent::Persisted { id });
        }
    }
}

/// Tells of a failure. Nobody may listen any more; then nobody needs to know.
fn said(result: Result<(), StoreError>, notify: &Sender<StoreEvent>) -> Result<(), StoreError> {
    if let Err(e) = &result {
        let _ = notify.send(StoreEvent::Failed { error: e.in_full() });
    }
    result
}
