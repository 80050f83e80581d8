//! The deterministic simulator: the pure crates of one to 64 nodes (core, failure detector,
//! register machine; the very code of the daemon) under a seeded network, disk, store and clock,
//! with faults, and with the invariants of the protocol checked after every event that could break
//! them.
//!
//! The same seed gives the same run. A rule of the protocol can be taken away ([`Rules::without`]);
//! the checks must then find it. It opens no socket and no file and reads no clock.

#![forbid(unsafe_code)]

pub mod admin;
pub mod bench;
pub mod chaos;
pub mod clock;
pub mod cluster;
pub mod data_disk;
pub mod device;
mod disk;
pub mod draw;
pub mod event;
mod faults;
pub mod freeze;
mod guard;
pub mod invariants;
pub mod liveness;
pub mod many;
pub mod monitor;
pub mod mutants;
pub mod network;
pub mod node;
pub mod oracle;
pub mod points;
pub mod regressions;
pub mod replay;
pub mod run;
pub mod scenes;
pub mod sight;
pub mod store;
pub mod story;
pub mod tales;
pub mod tell;
mod wiring;
mod wishes;

pub use run::{Outcome, run};
pub use wolfpack_types::Rules;
