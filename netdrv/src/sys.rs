//! The system calls without a safe wrapper elsewhere. All `unsafe` of the crate is here.

pub(crate) mod epoll;
pub(crate) mod errors;
mod outgoing;
pub(crate) mod port;
pub(crate) mod realtime;
pub(crate) mod uring;
