//! The built-in resource types. Other sources of types (shared objects, scripts, agents) come in
//! beside them, by [`open`].

mod address;
mod application;
mod disk;

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use wolfpack_resource::boottime;
use wolfpack_resource::kind::{Fault, ResourceType, Terminator};
use wolfpack_resource::section::LeaseReader;
use wolfpack_types::monitor::ResourceSpec;
use wolfpack_types::properties::{self, Properties};

use crate::ledger::{Entry, Held, Ledger};
use crate::node::Setup;

/// How long SIGKILL may take before it is said that something does not end.
const KILL_PATIENCE: Duration = Duration::from_secs(5);

/// What all resources of a monitor share.
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) setup: Setup,
    pub(crate) ledger: Ledger,
    pub(crate) lease: LeaseReader,
    /// Wakes the guard: something is held that was not, or the ledger has changed.
    pub(crate) poke: OwnedFd,
    /// Names of the disks of each group, for the environment of its applications.
    pub(crate) disks: Mutex<BTreeMap<String, BTreeSet<String>>>,
}

impl Context {
    /// Wakes the guard.
    pub(crate) fn poke(&self) {
        // A counter that is full has woken it already; a closed one means that the guard is gone,
        // and this process with it.
        let _ = nix::unistd::write(&self.poke, &1_u64.to_ne_bytes());
    }

    /// Records what is about to be started, and tells the guard.
    ///
    /// # Errors
    /// It cannot be recorded: it must not be started.
    pub(crate) fn record(&self, spec: &ResourceSpec, what: Held) -> Result<(), Fault> {
        let entry = Entry::new(self.setup.life, spec.id, &spec.name, what);
        self.ledger.put(&entry).map_err(|e| Fault::of(&e))?;
        self.poke();
        Ok(())
    }

    /// Whether the node has a lease now.
    #[must_use]
    pub(crate) fn authority(&self) -> bool {
        self.lease.remaining(boottime()).is_some()
    }
}

/// Opens a resource.
///
/// # Errors
/// Its properties are wrong, or name what this node does not have.
pub(crate) fn open(
    spec: &ResourceSpec,
    context: &Arc<Context>,
) -> Result<Box<dyn ResourceType>, Fault> {
    let parsed = properties::parse(spec.kind, &spec.properties).map_err(|e| Fault::of(&e))?;
    let context = Arc::clone(context);
    let spec = spec.clone();
    Ok(match parsed {
        Properties::Application(p) => {
            Box::new(application::GenericApplication::new(spec, p, context))
        }
        Properties::Address(p) => Box::new(address::IpAddress::new(spec, &p, context)?),
        Properties::Disk(p) => Box::new(disk::PhysicalDisk::new(spec, p, context)),
    })
}

/// The hand that ends what a ledger entry names, without the resource being open.
#[must_use]
pub(crate) fn terminator_of(entry: &Entry) -> Arc<dyn Terminator> {
    match &entry.what {
        Held::Application { process, cgroup } => {
            Arc::new(application::End::new(entry.resource, *process, cgroup.clone()))
        }
        Held::Address { .. } => Arc::new(address::End::of(entry)),
        Held::Disk { .. } => Arc::new(disk::End::default()),
    }
}

/// A lock whose holder may have panicked in an entry point: the data are still good, because each
/// is replaced as a whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
