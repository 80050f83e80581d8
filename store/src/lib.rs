//! The durable part of one node: its record (ballots, promise, accepted view), its log of updates,
//! and its copy of the database.
//!
//! It carries out [`wolfpack_types::store::Persist`] steps in order and takes no decision. Each
//! step is whole or not at all after a crash; nothing is reported done before it is durable. What
//! cannot be read back is refused in words: a store that silently forgot a promise would break the
//! protocol (P2), so damage is never taken for newness.
//!
//! Three files and their order make a step whole: the *record* names the *log* that counts, so a
//! new log is written first and the record is the commit point; the *database* follows later, from
//! the log. The layouts are in `docs/format.md`. Driven by [`StoreThread`], which belongs to the
//! service.

#![forbid(unsafe_code)]

mod database;
mod error;
mod files;
#[cfg(feature = "fuzz")]
pub mod fuzz;
mod load;
mod lock;
mod log;
mod record;
mod store;
mod thread;

pub use error::StoreError;
pub use store::Store;
pub use thread::{StoreEvent, StorePulse, StoreThread};

#[cfg(test)]
mod crash_tests;
