//! Address take-over: an IPv4 address that answers on this node only while a lease lives.
//!
//! Four things make an address "here": a filter that drops every packet of it without a lease, the
//! address on its interface, a lease element in the filter that the kernel itself lets run out, and
//! an announcement that turns the neighbours. [`IpOwner`] does them by netlink and AF_PACKET;
//! [`announce::Schedule`] (pure) says when to announce again; [`Watch`] tells what the kernel and
//! the wire say about the address afterwards.
//!
//! This crate knows nothing of groups, views or who ought to own what: the resource monitors and
//! the guard drive it. All calls are blocking and short (a probe takes a quarter of a second).
//! See `docs/internals/address.md`.

mod address;
pub mod announce;
mod arp;
mod channel;
mod error;
mod filter;
mod frame;
mod nft;
mod owner;
mod probe;
mod route;
mod sys;
mod watch;

pub use address::{Address, AddressError};
pub use arp::Mac;
pub use error::IpError;
pub use filter::{LEASE_MAX, LEASE_MIN, Renewal};
pub use owner::{Claim, IpOwner};
pub use probe::ProbeOutcome;
pub use watch::{Watch, WatchEvent};
