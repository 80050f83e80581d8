//! Ending everything of a life, and the proof that nothing of it runs any more.
//!
//! ```text
//!  1. the section says `ended`: no monitor starts anything more, no lease counts
//!  2. cgroup.kill, SIGKILL to the monitors; the addresses are shut in the filter
//!  3. SIGKILL to every descendant, again and again, until there is no child (see `Monitors::reap`)
//!  4. only then the addresses are removed: no monitor is left that could add one
//!  5. all is looked at; entries of the ledger whose resource is gone are removed
//! ```
//!
//! A step does not wait: the loop calls again on SIGCHLD, and the killing is repeated every few
//! milliseconds. What remains (a process in uninterruptible sleep) is named and tried again for
//! ever; nothing is proclaimed before it is gone.

use std::collections::BTreeMap;
use std::time::Duration;

use nix::sys::signal::Signal;
use wolfpack_resource::section::Section;
use wolfpack_types::{Instant, NodeInc};

use super::monitors::Monitors;
use crate::addresses::{Addresses, address_of};
use crate::cgroup::Base;
use crate::ledger::{Entry, Held, Ledger};
use crate::processes::Processes;
use crate::tree::{self, Process, ProcessId};

/// How often everything is killed again at first, and how often once the margin is over. Not more
/// often: the dying need the processor, and SIGCHLD tells when they are dead.
const SOON: Duration = Duration::from_millis(5);
const LATER: Duration = Duration::from_millis(100);

/// One ending under way.
#[derive(Debug)]
pub(super) struct Ending {
    /// The life that ends; none for leftovers found at the start.
    pub(super) life: Option<NodeInc>,
    pub(super) why: String,
    pub(super) since: Instant,
    /// By when it should be over; afterwards what is left is said.
    pub(super) until: Instant,
    /// What is left was said.
    pub(super) reported: bool,
    /// What was left after the last step.
    pub(super) left: Vec<String>,
    next_step: Instant,
    shut: bool,
    /// Processes outside the guard's own tree that were killed and have not ended yet.
    dying: BTreeMap<ProcessId, Process>,
}

/// What an ending needs of the guard.
pub(super) struct Hands<'a> {
    pub(super) monitors: &'a Monitors,
    pub(super) addresses: &'a mut Addresses,
    pub(super) cgroups: Option<&'a Base>,
    pub(super) ledger: &'a Ledger,
    /// Nothing descends from the guard (see [`Monitors::reap`]).
    pub(super) childless: bool,
}

impl Ending {
    /// Begins: marks the section.
    pub(super) fn begin(
        section: Option<&Section>,
        why: &str,
        now: Instant,
        margin: Duration,
    ) -> Self {
        if let Some(section) = section {
            section.mark_ended(now);
        }
        Self {
            life: section.map(Section::life),
            why: why.into(),
            since: now,
            until: now + margin,
            reported: false,
            left: Vec::new(),
            next_step: now,
            shut: false,
            dying: BTreeMap::new(),
        }
    }

    /// When to make the next step, at the latest.
    pub(super) const fn next_deadline(&self) -> Instant {
        self.next_step
    }

    /// One round; what is left after it, in words. Nothing left: it is proven.
    pub(super) fn step(&mut self, now: Instant, hands: &mut Hands<'_>) -> Vec<String> {
        let mut left = Vec::new();
        let entries = match hands.ledger.all() {
            Ok((entries, unreadable)) => {
                left.extend(unreadable.iter().map(ToString::to_string));
                entries
            }
            Err(e) => {
                left.push(e.to_string());
                Vec::new()
            }
        };
        if now >= self.next_step {
            self.next_step = now + if now < self.until { SOON } else { LATER };
            kill_all(hands);
        }
        if !self.shut {
            self.shut = shut(&entries, hands.addresses);
        }
        if !hands.childless {
            // Looked up only when it is to be told: the look costs more than the ending.
            left.extend(if now < self.until { vec!["processes".into()] } else { children() });
            return left;
        }
        if self.life.is_none() {
            for entry in entries.iter().filter(|e| e.of_this_boot()) {
                left.extend(kill_of_entry(entry, &mut self.dying));
            }
        }
        if left.is_empty() {
            left.extend(entries.iter().filter_map(|e| close(e, hands).err()));
        }
        if left.is_empty()
            && let Some(whole) = hands.cgroups.map(Base::whole)
        {
            let strays = whole.processes();
            left.extend(strays.iter().map(|pid| format!("process {pid} in the node's cgroup")));
            whole.clear();
        }
        left
    }
}

/// SIGKILL to everything of the node that is known, the monitors first: they start things.
fn kill_all(hands: &Hands<'_>) {
    hands.monitors.kill();
    let whole = hands.cgroups.map(Base::whole);
    if let Some(whole) = &whole
        && let Err(e) = whole.kill()
    {
        tracing::warn!("cgroup.kill failed, ending one by one: {e}");
    }
    let all = tree::snapshot();
    let strays = whole.map(|w| w.processes()).unwrap_or_default();
    for p in tree::with_descendants(&all, &strays.into_iter().collect())
        .into_iter()
        .chain(tree::descendants(&all, tree::own_id().pid))
    {
        // One that is gone meanwhile is what is wanted.
        let _ = tree::signal(p.id, Signal::SIGKILL);
        tree::hasten(p.id.pid);
    }
}

/// Who still lives below the guard. Never empty: that nobody does is known by reaping alone,
/// because one born during the look may be missed.
fn children() -> Vec<String> {
    let all = tree::snapshot();
    let below = tree::descendants(&all, tree::own_id().pid);
    let mut left: Vec<String> = below.iter().map(|p| tree::describe(p)).collect();
    if left.is_empty() {
        left.push("a child that has just ended".into());
    }
    left
}

/// Nothing of the addresses passes from now on, though they may still be there.
fn shut(entries: &[Entry], addresses: &mut Addresses) -> bool {
    let mut all = true;
    for entry in entries {
        if let Held::Address { ip, .. } = &entry.what
            && let Err(e) = addresses.shut(*ip)
        {
            tracing::warn!(%ip, "cannot shut the address: {e}");
            all = false;
        }
    }
    all
}

/// Kills what of a resource runs outside the guard's own tree: left by a former guard. What has not
/// ended yet.
fn kill_of_entry(entry: &Entry, dying: &mut BTreeMap<ProcessId, Process>) -> Vec<String> {
    // It dies with the guard that started it, but perhaps not just yet.
    if tree::runs(entry.monitor) {
        let _ = tree::signal(entry.monitor, Signal::SIGKILL);
        return vec![format!("the monitor (process {}) of '{}'", entry.monitor.pid, entry.name)];
    }
    let Held::Application { process, cgroup } = &entry.what else { return Vec::new() };
    let left = Processes::new(entry.resource, *process, cgroup.clone()).kill_round(dying);
    left.into_iter().map(|p| format!("{p} of '{}'", entry.name)).collect()
}

/// Removes what no process holds, and the entry.
fn close(entry: &Entry, hands: &mut Hands<'_>) -> Result<(), String> {
    if entry.of_this_boot()
        && let Some(address) = address_of(entry)
    {
        let address = address.map_err(|e| e.to_string())?;
        hands.addresses.remove(&address).map_err(|e| e.to_string())?;
    }
    hands.ledger.remove(entry.resource).map_err(|e| e.to_string())
}
