//! The cluster disk driver: SCSI transports, the register on the witness disk, its exclusion
//! (challenge and defence), data disks and their export to applications.
//!
//! ```text
//!  service: RegisterThread ── Register (pure, P4) ── Layout (pure)      monitor: DataDisk ── Export (NBD)
//!                 │                                                        │
//!                 └───────────────── ScsiDevice (one session) ─────────────┘
//!                    iscsi/ (libiscsi)   sg (SG_IO)   files/ (witness on a share or in a file)
//! ```
//!
//! The pure parts (`register`, `layout`, `cdb`, `sense`) know no socket, thread or clock. Nothing
//! here knows of groups, views beyond their bytes, or leases beyond a yes-or-no closure.

#![deny(unsafe_code)]

mod cdb;
pub mod data;
pub mod device;
pub mod exclusion;
pub mod export;
pub mod files;
pub mod format;
#[cfg(feature = "iscsi")]
mod iscsi;
pub mod layout;
mod nbd;
pub mod nbd_client;
pub mod register;
mod sense;
mod sg;
pub mod thread;
