//! The store's own thread: a slow disk must never hold up the core.
//!
//! Steps that arrive while the disk is busy are carried out together (group commit).

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

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

/// Whether the store's thread is stuck in the disk; to be asked from any thread.
#[derive(Clone, Debug, Default)]
pub struct StorePulse(Arc<Mutex<Option<Instant>>>);

impl StorePulse {
    /// For how long it has been in the batch that it is in; zero while it waits for one.
    #[must_use]
    pub fn busy_for(&self) -> Duration {
        let since = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        since.map_or(Duration::ZERO, |since| since.elapsed())
    }

    fn set(&self, busy: bool) {
        let since = busy.then(Instant::now);
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = since;
    }
}

/// The thread that owns an open store.
#[derive(Debug)]
pub struct StoreThread {
    steps: Sender<(u64, Persist)>,
    pulse: StorePulse,
    thread: JoinHandle<Result<(), StoreError>>,
}

impl StoreThread {
    /// Starts the thread; `notify` gets its events.
    ///
    /// # Errors
    /// No thread could be made.
    pub fn start(store: Store, notify: Sender<StoreEvent>) -> io::Result<Self> {
        let (steps, queue) = bounded(QUEUE);
        let pulse = StorePulse::default();
        let thread = thread::Builder::new().name("wolfpack-store".into()).spawn({
            let pulse = pulse.clone();
            move || run(store, &queue, &notify, &pulse)
        })?;
        Ok(Self { steps, pulse, thread })
    }

    /// For whoever must know whether it is stuck.
    #[must_use]
    pub fn pulse(&self) -> StorePulse {
        self.pulse.clone()
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
    pulse: &StorePulse,
) -> Result<(), StoreError> {
    loop {
        let first = match queue.recv_timeout(IDLE) {
            Ok(first) => first,
            Err(RecvTimeoutError::Timeout) => {
                pulse.set(true);
                let kept = store.keep_house();
                pulse.set(false);
                said(kept, notify)?;
                continue;
            }
            Err(RecvTimeoutError::Disconnected) => return store.close(),
        };
        let batch = std::iter::once(first).chain(queue.try_iter().take(BATCH - 1));
        let (ids, steps): (Vec<u64>, Vec<Persist>) = batch.unzip();
        // Nobody waits for the database to move: the log has what it lacks.
        let awaited = steps.iter().rposition(|s| !matches!(s, Persist::Apply { .. }));
        pulse.set(true);
        let persisted = store.persist(steps);
        pulse.set(false);
        said(persisted, notify)?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_in_the_disk_is_seen_from_outside() {
        let pulse = StorePulse::default();
        let seen = pulse.clone();
        assert_eq!(seen.busy_for(), Duration::ZERO);
        pulse.set(true);
        thread::sleep(Duration::from_millis(2));
        assert!(seen.busy_for() >= Duration::from_millis(2));
        pulse.set(false);
        assert_eq!(seen.busy_for(), Duration::ZERO);
    }
}
