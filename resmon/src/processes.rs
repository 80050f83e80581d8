//! All processes of one application resource: finding them, and ending them until none is left.
//!
//! They are: what is in its cgroup; what carries its mark in the environment; the first process's
//! group and session; and whatever descends from any of these. An application that forks, calls
//! `setsid` or lets its first process die is found by one of them.

use std::collections::BTreeSet;
use std::thread;
use std::time::Duration;

use nix::sys::signal::Signal;
use wolfpack_resource::boottime;
use wolfpack_types::{Instant, ResourceId};

use crate::cgroup::Cgroup;
use crate::ledger;
use crate::tree::{self, Process, ProcessId};

/// How often processes that are being ended are looked at.
const LOOK: Duration = Duration::from_millis(2);

/// The processes of one resource.
#[derive(Clone, Debug)]
pub(crate) struct Processes {
    mark: String,
    first: Option<ProcessId>,
    cgroup: Option<Cgroup>,
}

impl Processes {
    /// Those of a resource, as its ledger entry names them.
    #[must_use]
    pub(crate) fn new(
        resource: ResourceId,
        first: Option<ProcessId>,
        cgroup: Option<Cgroup>,
    ) -> Self {
        Self { mark: ledger::mark(resource), first, cgroup }
    }

    /// Which live now.
    #[must_use]
    pub(crate) fn living(&self) -> Vec<Process> {
        let all = tree::snapshot();
        let mut roots: BTreeSet<i32> = self.cgroup.iter().flat_map(Cgroup::processes).collect();
        // The group's number is the first process's for as long as that is not reaped.
        if let Some(first) = self.first.filter(|f| all.iter().any(|p| p.id == *f)) {
            roots.insert(first.pid);
            let same = |p: &&Process| p.group == first.pid || p.session == first.pid;
            roots.extend(all.iter().filter(same).map(|p| p.id.pid));
        }
        let marked = |p: &&Process| !p.zombie && tree::has_mark(p.id.pid, &self.mark);
        roots.extend(all.iter().filter(marked).map(|p| p.id.pid));
        tree::with_descendants(&all, &roots).into_iter().cloned().collect()
    }

    /// Sends a signal to all that live now; how many there were.
    pub(crate) fn signal(&self, signal: Signal) -> usize {
        let living = self.living();
        for p in &living {
            // One that is gone meanwhile is what is wanted.
            let _ = tree::signal(p.id, signal);
        }
        living.len()
    }

    /// SIGKILL to all, again and again until none lives or `deadline` has come.
    ///
    /// # Errors
    /// Those that still live, in words.
    pub(crate) fn kill(&self, deadline: Instant) -> Result<(), Vec<String>> {
        loop {
            if let Some(cgroup) = &self.cgroup {
                // Where it fails the signals below do the same, one by one.
                let _ = cgroup.kill();
            }
            if self.signal(Signal::SIGKILL) == 0 {
                if let Some(cgroup) = &self.cgroup {
                    cgroup.remove();
                }
                return Ok(());
            }
            if boottime() >= deadline {
                return Err(self.living().iter().map(tree::describe).collect());
            }
            thread::sleep(LOOK);
        }
    }
}
