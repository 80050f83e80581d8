//! All processes of one application resource: finding them, and ending them until none is left.
//!
//! They are: what is in its cgroup; what carries its mark in the environment; the first process's
//! group and session; and whatever descends from any of these. An application that forks, calls
//! `setsid` or lets its first process die is found by one of them.

use std::collections::{BTreeMap, BTreeSet};
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

    /// Sends a signal to all that live now; who they were.
    pub(crate) fn signal(&self, signal: Signal) -> Vec<Process> {
        let living = self.living();
        for p in &living {
            // One that is gone meanwhile is what is wanted.
            let _ = tree::signal(p.id, signal);
        }
        living
    }

    /// One round of ending: SIGKILL to all that live. Those of this and of earlier rounds (`known`)
    /// that have not ended: a process that is dying has lost its mark and its cgroup before it has
    /// closed its files, so it is remembered until it is a zombie.
    pub(crate) fn kill_round(&self, known: &mut BTreeMap<ProcessId, Process>) -> Vec<String> {
        if let Some(cgroup) = &self.cgroup {
            // Where it fails the signals do the same, one by one. Looked at before it is killed.
            let all = tree::snapshot();
            let inside: BTreeSet<i32> = cgroup.processes().into_iter().collect();
            let members = tree::with_descendants(&all, &inside);
            known.extend(members.into_iter().map(|p| (p.id, p.clone())));
            let _ = cgroup.kill();
        }
        known.extend(self.signal(Signal::SIGKILL).into_iter().map(|p| (p.id, p)));
        known.retain(|&id, _| tree::runs(id));
        if known.is_empty()
            && let Some(cgroup) = &self.cgroup
        {
            cgroup.remove();
        }
        known.values().map(tree::describe).collect()
    }

    /// SIGKILL to all, again and again until none lives or `deadline` has come.
    ///
    /// # Errors
    /// Those that still live, in words.
    pub(crate) fn kill(&self, deadline: Instant) -> Result<(), Vec<String>> {
        let mut known = BTreeMap::new();
        loop {
            let left = self.kill_round(&mut known);
            if left.is_empty() {
                return Ok(());
            }
            if boottime() >= deadline {
                return Err(left);
            }
            thread::sleep(LOOK);
        }
    }
}
