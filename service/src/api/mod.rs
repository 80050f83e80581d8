//! The local API: a Unix socket for this node's administrator, one JSON object per line.
//!
//! Each connection has a thread, so that a slow reader holds up nobody; it asks the core through a
//! bounded channel and knows nothing of clusters.

mod connection;
#[cfg(test)]
mod tests;

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::thread;
use std::time::Duration;

use crossbeam_channel::Sender;
use wolfpack_types::api::{Reply, Request};

use crate::error::StartError;
use crate::journal::Journal;

/// Connections at once.
const CONNECTIONS_MAX: usize = 64;

/// A request for the core.
#[derive(Debug)]
pub(crate) struct ApiCall {
    pub(crate) request: Request,
    /// Takes exactly one reply, unless it is a watch.
    pub(crate) reply: Sender<Reply>,
    /// For a watch: gone when its client is.
    pub(crate) watch: Option<Weak<()>>,
}

/// The open socket; its file goes with it.
#[derive(Debug)]
pub(crate) struct Api {
    path: PathBuf,
}

/// What every connection needs.
#[derive(Clone, Debug)]
struct Context {
    calls: Sender<ApiCall>,
    journal: Journal,
    limits: Limits,
}

/// How long anybody is waited for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// A connection on which nothing is asked.
    idle: Duration,
    /// A client that does not read what it asked for.
    write: Duration,
    /// The core, for an answer. It answers a change within 10 s or says that it cannot; preparing
    /// a witness disk may wait for storage.
    answer: Duration,
}

impl Limits {
    pub(crate) const STANDARD: Self = Self {
        idle: Duration::from_secs(600),
        write: Duration::from_secs(5),
        answer: Duration::from_secs(120),
    };
}

impl Api {
    /// Listens at `path`. A file that an earlier life left there is replaced: the caller holds the
    /// lock of the store, so no other service of this node lives.
    pub(crate) fn start(
        path: &Path,
        calls: Sender<ApiCall>,
        journal: Journal,
        limits: Limits,
    ) -> Result<Self, StartError> {
        let failed = |source| StartError::Listen { path: path.to_owned(), source };
        match fs::remove_file(path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(failed(e)),
            _ => {}
        }
        let listener = UnixListener::bind(path).map_err(failed)?;
        // Whoever connects before this is asked for its credentials all the same.
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map_err(failed)?;
        let context = Context { calls, journal, limits };
        thread::Builder::new()
            .name("wolfpack-api".into())
            .stack_size(128 * 1024)
            .spawn(move || accept(&listener, &context))
            .map_err(failed)?;
        Ok(Self { path: path.to_owned() })
    }
}

impl Drop for Api {
    fn drop(&mut self) {
        // A file that stays is replaced by the next life.
        let _ = fs::remove_file(&self.path);
    }
}

fn accept(listener: &UnixListener, context: &Context) {
    let open = Arc::new(AtomicUsize::new(0));
    for stream in listener.incoming() {
        let stream = match stream {
            Ok(stream) => stream,
            Err(e) => {
                tracing::warn!("cannot accept a connection to the local API: {e}");
                // As when there are no descriptors left: not to spin.
                thread::sleep(Duration::from_millis(100));
                continue;
            }
        };
        if open.fetch_add(1, Ordering::SeqCst) >= CONNECTIONS_MAX {
            open.fetch_sub(1, Ordering::SeqCst);
            connection::refuse(stream, "too many connections to the local API at once");
            continue;
        }
        let (context, count) = (context.clone(), Arc::clone(&open));
        let spawned = thread::Builder::new()
            .name("wolfpack-api-c".into())
            .stack_size(512 * 1024)
            .spawn(move || {
                connection::serve(stream, &context);
                count.fetch_sub(1, Ordering::SeqCst);
            });
        if let Err(e) = spawned {
            open.fetch_sub(1, Ordering::SeqCst);
            tracing::warn!("cannot serve a connection to the local API: {e}");
        }
    }
}
