//! The system calls without a safe wrapper elsewhere. All `unsafe` of the crate is here.

pub(crate) mod realtime;
pub(crate) mod uring;
