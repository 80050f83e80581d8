//! Faults of links, disk and stores that take a while: links that come and go, strangers at the
//! witness disk, slow spells of it, full file systems, stores that are lost, wall clocks that are
//! set. When they happen is in `chaos`.

use std::time::Duration;

use wolfpack_core::Input as CoreInput;
use wolfpack_types::NodeId;
use wolfpack_types::membership::WitnessKind;

use crate::cluster::{Cluster, End};
use crate::event::Event;
use crate::node::Queue;

impl Cluster {
    /// A link comes and goes.
    pub(crate) fn begin_flapping(&mut self) {
        let ids = self.ids();
        let (from, to) = (self.dice.pick(&ids), self.dice.pick(&ids));
        if from != to {
            self.tally.partitions += 1;
            self.say(from, || format!("the link to {to} comes and goes"));
            self.soon(Event::Flap { from, to, left: 12 });
            if self.dice.permille(500) {
                self.soon(Event::Flap { from: to, to: from, left: 12 });
            }
        }
    }

    pub(crate) fn flap(&mut self, from: NodeId, to: NodeId, left: u8) {
        if left == 0 || !self.chaotic {
            self.mend_link(from, to);
            return;
        }
        if left.is_multiple_of(2) {
            self.network.cut_all(from, to);
        } else {
            self.mend_link(from, to);
        }
        let wait = self.dice.span(self.params.times.detect() * 3 / 2);
        self.after(wait, Event::Flap { from, to, left: left - 1 });
    }

    fn mend_link(&mut self, from: NodeId, to: NodeId) {
        for (at, lane) in self.network.mend(self.now, &mut self.dice, from, to) {
            self.agenda.plan(at, Event::Stream(lane));
        }
    }

    /// Another machine takes the witness disk, or defends it.
    pub(crate) fn stranger(&mut self, left: u8) {
        if left == 0 || !self.chaotic {
            self.story.say(self.now, || "the stranger releases the witness disk".into());
            self.device.stranger_leaves();
            return;
        }
        if self.device.stranger_reserves() {
            self.story.say(self.now, || "a stranger reserves the witness disk".into());
        }
        let wait = self.params.times.reserve_renew / 2;
        self.after(wait, Event::Stranger { left: left - 1 });
    }

    /// Every command to the witness disk takes long, for a while.
    pub(crate) fn slow_disk(&mut self) {
        if !self.params.has_witness() {
            return;
        }
        self.story.say(self.now, || "the witness disk is slow".into());
        self.device.slow_by = self.dice.pick(&[5, 30, 200]);
        let wait = self.dice.span(self.params.times.register_lease);
        self.after(wait, Event::DiskRecovers);
    }

    /// A file system is full: the next durable step of the node fails.
    pub(crate) fn fill_store(&mut self, id: NodeId) {
        if self.life(id).is_some() {
            self.say(id, || "the file system of its store is full".into());
            self.node_mut(id).store_full = true;
        }
    }

    /// Somebody sets a wall clock, forward or back, by seconds or by years.
    pub(crate) fn set_wall_clock(&mut self, id: NodeId) {
        let ms = self.dice.range(0, 4_000_000_000_000);
        if let Some(who) = self.life(id) {
            self.to_core(who, Queue::MonitorToCore, CoreInput::WallClock { ms });
        }
        let wait = self.dice.span(Duration::from_secs(20));
        self.after(wait, Event::WallClock(id));
    }

    /// Two machines lose their power and their disks at the same moment.
    pub(crate) fn lose_two_stores(&mut self) {
        let ids = self.ids();
        if ids.len() < 3 || self.params.lost_stores == 0 {
            return;
        }
        let first = self.dice.pick(&ids);
        let second = self.dice.pick(&ids);
        if first == second || self.life(first).is_none() || self.life(second).is_none() {
            return;
        }
        for id in [first, second] {
            self.tally.crashes += 1;
            self.end(id, End::PowerCut);
        }
        for id in [first, second] {
            self.lose_store(id);
            let wait = self.dice.span(self.params.times.lease * 2);
            self.restart_after(id, wait);
        }
    }

    /// The disk of a node, whose power is off, is gone with all that was on it.
    pub(crate) fn lose_store(&mut self, id: NodeId) {
        self.tally.lost_stores += 1;
        self.say(id, || "its store is lost".into());
        let node = self.node_mut(id);
        node.store = crate::store::Store::in_place_of(&node.store);
        let identity = node.store.record().store;
        self.oracle.learners.insert(identity);
    }

    /// An administrator has given the copy up: the node comes back with an empty store.
    pub(crate) fn discard_store(&mut self, id: NodeId) {
        let node = self.node_mut(id);
        node.store = crate::store::Store::in_place_of(&node.store);
        let identity = node.store.record().store;
        self.oracle.learners.insert(identity);
    }

    /// Whether the stores that are whole can still be a majority of every table that may count. If
    /// not, the cluster waits for ever, and rightly: only a forced quorum, by people who know what
    /// is lost, helps then.
    #[must_use]
    pub fn majority_is_whole(&self) -> bool {
        let whole = |id: NodeId| {
            let record = self.node(id).store.record();
            !record.learner && !self.oracle.learners.contains(&record.store)
        };
        // An empty store never forms (P9), even where nodes have no votes.
        if !self.nodes.iter().any(|node| whole(node.id) && node.store.record().accepted.is_some()) {
            return false;
        }
        let Some(newest) = self.oracle.views.values().next_back() else { return true };
        if self.log_is_lost() {
            return false;
        }
        let tables = std::iter::once(&newest.votes).chain(&newest.prev_votes);
        let witness = self.params.has_witness();
        tables.into_iter().all(|table| {
            let nodes = table.nodes.keys().copied().filter(|&id| whole(id));
            table.exceeds_half(nodes, witness)
        })
    }

    /// A share keeps no log: of the newest view that it names, and that may be established, the log
    /// is in the stores that accepted it, or one after it, alone. Without any of them everybody waits
    /// for ever, and rightly (P10.13).
    fn log_is_lost(&self) -> bool {
        if self.params.quorum.witness_kind() != Some(WitnessKind::Share) {
            return false;
        }
        let established = self.oracle.established.keys().next_back();
        let named = self.oracle.witness_accepted.iter().next_back();
        let Some(&newest) = established.max(named) else { return false };
        !self.nodes.iter().any(|node| {
            let accepted = node.store.record().accepted.as_ref();
            accepted.is_some_and(|view| view.ballot >= newest)
        })
    }
}
