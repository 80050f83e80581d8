//! The disk driver against a real SCSI target (tgtd on loopback, one per test).

mod device;
mod fixture;
mod register;
