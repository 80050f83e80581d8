//! The data disks of the groups, one each, with persistent reservations (Write Exclusive, Registrants
//! Only): who brings a group online registers the key of its life and preempts every other at once,
//! looks at its lease again, and only then opens. What is written under a key that is gone is refused
//! by the disk: that is what stops a machine which stood still and does not know it yet (P7).
//!
//! Commands take their time but do not outlive the owner's lease, which is longer than a command may
//! take on these disks.

use std::collections::{BTreeMap, BTreeSet};

use wolfpack_types::{NodeId, NodeInc, Rule};

use crate::cluster::Cluster;
use crate::event::Event;
use crate::invariants::own_key_only;

/// One disk.
#[derive(Debug, Default)]
pub struct DataDisk {
    /// Registered keys, by the life that they are of.
    pub keys: BTreeSet<NodeInc>,
    /// Lives that have opened it and not closed it.
    open: BTreeSet<NodeInc>,
}

/// The disks, by the group's name.
pub type DataDisks = BTreeMap<String, DataDisk>;

impl Cluster {
    /// A life begins to bring a group online: its key goes to the disk.
    pub(crate) fn take_data_disk(&mut self, who: NodeInc, group: &str) {
        let open = self.data_disks.get(group).is_some_and(|disk| disk.open.contains(&who));
        if !open {
            let wait = self.device.delays.calm().draw(&mut self.dice);
            self.after(wait, Event::DataDisk { who, group: group.into() });
        }
    }

    /// REGISTER and PREEMPT are executed, and their end is seen.
    pub(crate) fn data_disk_taken(&mut self, who: NodeInc, group: &str) {
        let node = &self.nodes[who.node.index()];
        let guard = &node.machine.guard;
        // The lease is looked at again after the act.
        let may = guard.life == Some(who)
            && !guard.ended
            && node.clock.local(self.now) < guard.lease_end
            && node.machine.runs().any(|run| run.life == who && run.group == group);
        let disk = self.data_disks.entry(group.to_owned()).or_default();
        if !self.rules.broken(Rule::NoPreempt) {
            disk.keys.clear();
        }
        disk.keys.insert(who);
        if may {
            disk.open.insert(who);
            self.write_data(who.node);
        } else {
            disk.keys.remove(&who);
        }
    }

    /// A group does not run any more: its disk is closed, its key removed.
    pub(crate) fn leave_data_disk(&mut self, who: NodeInc, group: &str) {
        if let Some(disk) = self.data_disks.get_mut(group) {
            disk.open.remove(&who);
            disk.keys.remove(&who);
        }
    }

    /// A resource has ended; with the last of its group the disk is left.
    pub(crate) fn last_of_group(&mut self, group: &str, who: NodeInc) {
        let runs = self.node(who.node).machine.runs();
        if !runs.into_iter().any(|run| run.group == group && run.life == who) {
            self.leave_data_disk(who, group);
        }
    }

    /// Everything that runs on a machine writes to its disk.
    pub(crate) fn write_data(&mut self, id: NodeId) {
        let runs: BTreeSet<(String, NodeInc)> =
            self.node(id).machine.runs().map(|run| (run.group.clone(), run.life)).collect();
        for (group, life) in runs {
            let Some(disk) = self.data_disks.get(&group) else { continue };
            if disk.open.contains(&life) && disk.keys.contains(&life) {
                let verdict = own_key_only::written(disk, life, &group);
                self.judge(verdict);
            }
        }
    }
}
