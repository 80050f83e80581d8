//! What can go wrong with the store, each with what to do about it.

use std::io;
use std::path::PathBuf;

/// A store that cannot be opened, or a step that could not be made durable.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("another wolfpackd ({holder}) runs on this node with the store {}; end it first", dir.display())]
    InUse { dir: PathBuf, holder: String },
    #[error("cannot {act} {}", path.display())]
    Io {
        act: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// Never repaired silently: a forgotten promise could make two clusters of one.
    #[error(
        "the store is damaged: {}: {what}; if the other nodes have the cluster, move the directory \
         away and start again: this node then fetches everything from them and counts for no \
         quorum until it is let in",
        path.display()
    )]
    Damaged { path: PathBuf, what: String },
    #[error(
        "{} has format {found}, this program reads format {known}; use the program version that \
         wrote it",
        path.display()
    )]
    Version { path: PathBuf, found: u16, known: u16 },
    #[error("the database {} failed: {what}", path.display())]
    Database { path: PathBuf, what: String },
    #[error("a step that does not fit the store was refused: {0}")]
    Misfit(String),
    #[error("the store has failed before and takes no further step")]
    Stopped,
    #[error("the disk under the store does not keep up: {queued} steps are waiting")]
    Behind { queued: usize },
}

impl StoreError {
    /// The error with its causes, for a log.
    #[must_use]
    pub fn in_full(&self) -> String {
        let mut text = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(e) = cause {
            text.push_str(": ");
            text.push_str(&e.to_string());
            cause = e.source();
        }
        text
    }
}
