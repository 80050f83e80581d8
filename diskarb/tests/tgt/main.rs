//! The disk driver against a real SCSI target (tgtd on loopback, one per test).

mod data;
mod device;
mod fixture;
mod format;
mod register;
