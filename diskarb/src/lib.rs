//! The cluster disk driver: transports, the register on the witness disk, exclusion, data disks.
pub mod register;
