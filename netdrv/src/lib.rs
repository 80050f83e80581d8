//! The cluster network driver: UDP on every cluster network, sessions, heartbeats, reliable
//! messages, path choice.
//!
//! It carries bytes between the lives of two nodes and says who is alive; it knows nothing of what
//! messages mean. [`start`] runs it on a thread of its own, with the failure detector of
//! `wolfpack-heartbeat` inside.
//!
//! ```text
//!   sockets <-> loop_uring (thread)  <-> engine (pure) -+- session  (who may speak; replay)
//!                    ^                                  +- stream   (reliable, ordered)
//!   commands, eventfd|                                  +- Detector (heartbeats, leases)
//!                 Driver                                +- drops    (what was refused, counted)
//! ```
//!
//! The pure part (`engine` and below it) takes the time as a parameter and does no input or output;
//! `loop_uring` and `socket` translate between it and the kernel and decide nothing. System calls
//! without a safe wrapper are in `sys` alone.

mod api;
pub mod clock;
pub mod dissect;
mod driver;
mod drops;
mod engine;
mod errors;
mod event_loop;
mod filter;
#[cfg(feature = "fuzz")]
pub mod fuzz;
mod handshake;
mod interfaces;
mod key;
mod key_log;
mod links;
mod netlink;
mod node_key;
pub mod pace;
mod packet;
pub mod pcap;
mod replay;
mod seal;
mod session;
mod socket;
mod stats;
mod stream;
mod sys;
pub mod testament;

pub use api::{
    DELAY_BUCKETS, DriverConfig, DriverError, DriverEvent, DriverNetwork, DriverStats, DropReason,
    EventLoop, Security, SendError,
};
pub use driver::{Driver, DriverPulse, start};
pub use key::{ClusterKey, KeyError};
pub use node_key::NodeKey;

/// The longest message that [`Driver::send`] takes.
pub const MESSAGE_BYTES_MAX: usize = 16 << 20;
/// Messages that wait for one peer, in bytes, before [`Driver::send`] refuses more.
pub const QUEUE_BYTES_MAX: usize = 32 << 20;
