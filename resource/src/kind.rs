//! What a resource type is: the entry points that a resource monitor calls.
//!
//! Entry points of one resource are never called two at a time, but for [`Terminator::terminate`],
//! which may overtake any other. The monitor records every call in the section before it makes
//! it, so a type that crashes or hangs is known by name.

use std::fmt;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::Duration;

use wolfpack_types::Instant;
use wolfpack_types::monitor::OnlineMode;

/// Why an entry point failed: one plain sentence that says what and where, and what to do.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0}")]
pub struct Fault(pub String);

impl Fault {
    /// From anything that can say what is wrong, with its causes.
    #[must_use]
    pub fn of(error: &dyn std::error::Error) -> Self {
        let mut text = error.to_string();
        let mut cause = error.source();
        while let Some(c) = cause {
            text.push_str(": ");
            text.push_str(&c.to_string());
            cause = c.source();
        }
        Self(text)
    }

    /// The same, with what was being done before it.
    #[must_use]
    pub fn while_doing(self, what: impl fmt::Display) -> Self {
        Self(format!("{what}: {}", self.0))
    }
}

impl From<String> for Fault {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl From<&str> for Fault {
    fn from(text: &str) -> Self {
        Self(text.into())
    }
}

/// The right to run something now. Asked before each step of `online` and after each act.
pub trait Authority: Send + Sync {
    /// How long the right lasts from now on.
    ///
    /// # Errors
    /// No lease, everything was ended, or the call is being terminated.
    fn remaining(&self) -> Result<Duration, Fault>;

    /// Waits for `span`, less if the call is terminated or the lease runs out meanwhile.
    ///
    /// # Errors
    /// As [`Authority::remaining`], at the end of the wait.
    fn wait(&self, span: Duration) -> Result<(), Fault>;

    /// Whether the call is being terminated. What ends a resource needs no lease, only this: to
    /// stop being patient.
    fn cancelled(&self) -> bool;
}

/// One resource of a type, opened.
pub trait ResourceType: Send {
    /// Brings it online, or attaches to what still runs ([`OnlineMode::Restore`]). After a failure
    /// the monitor calls [`Terminator::terminate`], so nothing need be undone here.
    ///
    /// # Errors
    /// Why it could not.
    fn online(&mut self, mode: OnlineMode, authority: &dyn Authority) -> Result<(), Fault>;

    /// Ends it in order; ends it hard when it does not end in order.
    ///
    /// # Errors
    /// Something of it still runs.
    fn offline(&mut self, authority: &dyn Authority) -> Result<(), Fault>;

    /// Cheap check, called often and when [`ResourceType::watch`] is readable.
    ///
    /// # Errors
    /// Why it does not look alive; [`ResourceType::is_alive`] is asked at once.
    fn looks_alive(&mut self) -> Result<(), Fault>;

    /// Thorough check.
    ///
    /// # Errors
    /// Why it is not alive.
    fn is_alive(&mut self) -> Result<(), Fault>;

    /// The hand that may overtake.
    fn terminator(&self) -> Arc<dyn Terminator>;

    /// Readable when the kernel has something to say about it while it is online.
    fn watch(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    /// Says to the world again that it is here.
    fn announce(&mut self) {}

    /// Work that is due now; when to call again.
    fn housekeeping(&mut self, now: Instant) -> Option<Instant> {
        let _ = now;
        None
    }
}

/// Ends a resource at once, whatever another thread does with it at the same time.
pub trait Terminator: Send + Sync {
    /// Idempotent. Called again after the overtaken call has returned.
    ///
    /// # Errors
    /// Something of it still runs.
    fn terminate(&self) -> Result<(), Fault>;
}
