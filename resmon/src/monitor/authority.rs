//! The right to run something, as an entry point sees it: the node's lease, and that nobody has
//! asked for its end meanwhile.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use wolfpack_resource::boottime;
use wolfpack_resource::kind::{Authority, Fault};

use crate::kinds::Context;

/// Waits look at the lease this often: it may be published shorter than it was.
const LOOK: Duration = Duration::from_millis(20);

/// Says to a call under way that it is to end.
#[derive(Debug, Default)]
pub(super) struct Cancel {
    set: Mutex<bool>,
    changed: Condvar,
}

impl Cancel {
    pub(super) fn set(&self, value: bool) {
        *self.set.lock().unwrap_or_else(PoisonError::into_inner) = value;
        self.changed.notify_all();
    }

    fn is_set(&self) -> bool {
        *self.set.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait(&self, span: Duration) {
        let set = self.set.lock().unwrap_or_else(PoisonError::into_inner);
        // Whether it was notified or not is looked at by the caller.
        drop(self.changed.wait_timeout_while(set, span, |set| !*set));
    }
}

/// What an entry point of one resource is given.
#[derive(Debug)]
pub(super) struct CallAuthority {
    pub(super) context: Arc<Context>,
    pub(super) cancel: Arc<Cancel>,
}

impl Authority for CallAuthority {
    fn remaining(&self) -> Result<Duration, Fault> {
        if self.cancel.is_set() {
            return Err("the call was terminated".into());
        }
        self.context.lease.remaining(boottime()).ok_or_else(|| {
            let why = if self.context.lease.ended() {
                "everything of this life of the service was ended: nothing is started any more"
            } else {
                "the node has no lease: it may not run anything"
            };
            Fault(why.into())
        })
    }

    fn wait(&self, span: Duration) -> Result<(), Fault> {
        let until = boottime() + span;
        loop {
            self.remaining()?;
            let left = until.since(boottime());
            if left.is_zero() {
                return Ok(());
            }
            self.cancel.wait(left.min(LOOK));
        }
    }

    fn cancelled(&self) -> bool {
        self.cancel.is_set()
    }
}
