//! What the service, the guard and the resource monitors share: the section (lease and crash
//! record in memory), the packets between them, and what a resource type is.
//!
//! It decides nothing and starts nothing: the programs do. Unsafe code is in [`sys`] alone.

mod clock;
pub mod kind;
pub mod rpc;
pub mod section;
mod sys;

pub use clock::boottime;
