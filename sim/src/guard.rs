//! The guards: when they look at the lease, end everything, and prove it to the peers.
//!
//! What runs on a machine is in `monitor`; here is only time and the way of the proofs.

use wolfpack_core::Input as CoreInput;
use wolfpack_types::monitor::MonitorEvent;
use wolfpack_types::{NetworkId, NodeId, NodeInc};

use crate::cluster::Cluster;
use crate::event::Event;
use crate::node::Queue;

impl Cluster {
    /// Plans the guard's look at the lease, if something runs and none is planned.
    pub fn watch_lease(&mut self, id: NodeId) {
        let (now, node) = (self.now, &mut self.nodes[id.index()]);
        let guard = &mut node.machine.guard;
        let Some(who) = guard.life else { return };
        if guard.watching || guard.ended || node.machine.runs().next().is_none() {
            return;
        }
        let guard = &mut node.machine.guard;
        guard.watching = true;
        let at = node.clock.when(guard.lease_end).max(now);
        self.agenda.plan(at, Event::GuardWake(who));
    }

    pub(crate) fn guard_wakes(&mut self, who: NodeInc) {
        let late = self.dice.span(self.params.times.margin * 9 / 10);
        let now = self.now;
        let node = &mut self.nodes[who.node.index()];
        let guard = &mut node.machine.guard;
        if guard.life != Some(who) || guard.ended {
            return;
        }
        guard.watching = false;
        if node.clock.local(now) < guard.lease_end || node.machine.runs().next().is_none() {
            self.watch_lease(who.node);
            return;
        }
        // It has begun: this life runs nothing ever again, even if its lease comes back.
        let guard = &mut node.machine.guard;
        guard.ended = true;
        guard.ending = true;
        let at = node.clock.when(guard.lease_end + late).max(now);
        self.tally.lease_ends += 1;
        self.say(who, || "lease over: the guard ends everything".into());
        self.agenda.plan(at, Event::GuardEnds { who, proof: true });
    }

    pub(crate) fn guard_ends(&mut self, who: NodeInc, proof: bool) {
        if self.node(who.node).machine.guard.life != Some(who) {
            return;
        }
        self.say(who, || "everything of it has ended".into());
        self.everything_ended(who);
        let event = MonitorEvent::Terminated { why: "lease end".into(), left: Vec::new() };
        self.to_core(who, Queue::MonitorToCore, CoreInput::Monitor(event));
        if !proof {
            return;
        }
        self.tally.proofs += 1;
        for to in self.ids() {
            for network in self.network.ids() {
                for _ in 0..2 {
                    if to != who.node {
                        self.send_testament(network, to, who);
                    }
                }
            }
        }
    }

    fn send_testament(&mut self, network: NetworkId, to: NodeId, who: NodeInc) {
        let arrivals = self.network.datagram(self.now, &mut self.dice, network, who.node, to);
        if let [Some(at), _] = arrivals {
            self.agenda.plan(at, Event::Testament { to, who });
        }
    }
}
