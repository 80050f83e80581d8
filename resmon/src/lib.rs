//! Resource monitors and the guard.
//!
//! ```text
//!   wolfpackd ---- guard.sock ----> guard (monitor 0) ----- forks ----> monitor N ----> applications
//!       |                             | ends all of it at lease end        |
//!       +------- monitor's socket ----|------------------------------------+
//!       +------- shared section ------+------------------------------------+
//! ```
//!
//! The guard (`guard`) alone ends resources at lease end, or when its service is lost, and proves
//! that nothing runs (protocol P6, P7). A monitor (`monitor`) runs resource types (`kinds`) and may
//! die at any time: what it started is in the `ledger`. Neither knows anything of membership.

mod addresses;
mod cgroup;
pub mod guard;
mod kinds;
mod ledger;
pub mod log;
pub mod monitor;
mod node;
mod processes;
mod sys;
mod tree;
mod watchdog;

pub use ledger::LedgerError;
pub use node::NodeError;
