//! The laboratory: real nodes, networks, disks and clients in network namespaces of one machine,
//! with faults and with watchers that no node can influence. Used by the end-to-end tests and by
//! `cargo xtask demo` and `bench`.
//!
//! Needs root, and the programs that [`netns::requirements`] names. Traffic stays in the namespaces
//! that a lab makes; a lab ends only processes in its own namespaces, by their ids.

pub mod binaries;
pub mod clock;
pub mod intruder;
pub mod lab;
pub mod netns;
pub mod network;
pub mod node;
pub mod process;
pub mod reaper;
pub mod record;
pub mod san;
pub mod scenarios;
pub mod shim;
mod sys;
pub mod timeline;
pub mod watch;
