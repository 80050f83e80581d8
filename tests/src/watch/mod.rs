//! Watchers outside the nodes: they see only what clients, wires and disks see, run all the time,
//! and remember every breach. None of them asks the cluster anything.

pub mod address;
pub mod client;
pub mod disk;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

/// What a watcher and its thread share.
#[derive(Debug, Default)]
struct Shared<T> {
    notes: Mutex<T>,
    stop: AtomicBool,
}

impl<T> Shared<T> {
    fn notes(&self) -> MutexGuard<'_, T> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

/// A watcher's thread; ended when dropped.
#[derive(Debug)]
struct Watching<T, R> {
    shared: Arc<Shared<T>>,
    thread: Option<JoinHandle<R>>,
}

impl<T, R> Drop for Watching<T, R> {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A watcher that panicked has said so on the standard error stream already.
            let _ = thread.join();
        }
    }
}
