//! The words of Wolfpack: identities, time, ballots, views, and every message that crosses a border
//! (between nodes, between threads, to the disk, to the monitors, to the administrator).
//!
//! This crate holds data and the arithmetic on it. It knows no socket, file, thread or clock and
//! takes no decision; every other crate speaks in its terms.

#![forbid(unsafe_code)]

pub mod api;
pub mod backup;
pub mod codec;
pub mod config;
pub mod disk;
pub mod event;
pub mod heartbeat;
mod ids;
pub mod membership;
pub mod monitor;
mod netstatus;
pub mod networks;
mod nodes;
pub mod objects;
pub mod peer;
pub mod properties;
pub mod register;
pub mod rules;
pub mod security;
pub mod store;
mod time;
pub mod times;
pub mod tree;
pub mod update;
pub mod version;
mod view;
mod votes;

pub use ids::{
    ClusterId, GroupId, Guid, Incarnation, NetworkId, NodeId, NodeInc, RequestId, ResourceId, Seq,
    StoreId,
};
pub use nodes::{NodeMap, NodeSet};
pub use rules::{Rule, Rules};
pub use time::Instant;
pub use times::Times;
pub use version::VersionRange;
pub use view::{Ballot, Force, Member, Members, View, descends, same_members};
pub use votes::VoteTable;
