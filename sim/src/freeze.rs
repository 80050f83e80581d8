//! A machine that stands still as a whole, as a virtual machine that is paused, and goes on later:
//! with its clock run on (a suspend) or with the clock where it was (a snapshot that is resumed).
//!
//! A lease cannot end what does not run and cannot see the time that it slept through; the protocol
//! (P6) states that and demands two things, which are checked here: with its clock run on a core
//! acts on no old lease; with its clock set back a machine learns of it from the first heartbeat of
//! a peer whose clock it knew. Until then what it believes is known to be wrong, and the checks of
//! leases and owners leave it out (the data disks, fenced by reservation, do not).

use std::time::Duration;

use wolfpack_types::{NodeId, NodeInc};

use crate::clock::Time;
use crate::cluster::Cluster;
use crate::draw::nanos;
use crate::event::Event;
use crate::invariants::{Verdict, Violation};
use crate::node::Freeze;

/// A life whose clock is behind, and that must learn of it.
#[derive(Clone, Copy, Debug)]
pub struct Behind {
    /// When the machine went on, and how long it had stood.
    pub since: Time,
    pub by: Duration,
}

impl Cluster {
    /// The whole machine stands still for a while.
    pub fn freeze(&mut self, id: NodeId, span: Duration, clock_runs: bool) {
        let now = self.now;
        let node = &mut self.nodes[id.index()];
        if node.frozen.is_some() || node.paused || node.life.is_none() {
            return;
        }
        node.frozen = Some(Freeze { shown: node.clock.local(now), clock_runs });
        self.tally.freezes += 1;
        self.oracle.frozen.insert(id);
        self.say(id, || {
            let clock = if clock_runs { "its clock runs on" } else { "its clock stands still too" };
            format!("the machine stands still for {span:?}; {clock}")
        });
        self.after(span, Event::Thaw(id));
    }

    pub(crate) fn thaw(&mut self, id: NodeId) {
        let now = self.now;
        let node = &mut self.nodes[id.index()];
        let Some(freeze) = node.frozen.take() else { return };
        self.story.say(now, || format!("[{id}] the machine goes on"));
        if freeze.clock_runs {
            self.thaw_in_time(id);
        } else {
            let stood = node.clock.local(now).since(freeze.shown);
            node.clock.set_back(now, freeze.shown);
            self.thaw_behind(id, stood);
        }
        self.write_data(id);
        for event in self.held.remove(&id).unwrap_or_default() {
            self.soon(event);
        }
        if let Some(life) = &mut self.node_mut(id).life {
            life.wake_at = None;
        }
        self.rewake(id);
    }

    /// The clock ran on. What runs there is ended at once where the lease is over; until the guard
    /// has looked, it is known to be wrong.
    fn thaw_in_time(&mut self, id: NodeId) {
        let node = self.node(id);
        let guard = &node.machine.guard;
        let over = node.clock.local(self.now) >= guard.lease_end || guard.ending;
        if !over || node.machine.runs().next().is_none() {
            self.oracle.frozen.remove(&id);
        }
    }

    fn thaw_behind(&mut self, id: NodeId, stood: Duration) {
        let now = self.now;
        let quarter = self.params.times.lease / 4;
        let node = &mut self.nodes[id.index()];
        let (clock, end) = (node.clock, node.machine.guard.lease_end);
        let Some(life) = &mut node.life else { return };
        let who = life.me;
        // A little more than the quarter: delays of the network blur what can be seen.
        if stood > quarter + self.params.blur() {
            life.behind = Some(Behind { since: now, by: stood });
        }
        self.oracle.set_back(who, nanos(stood), clock.when(end));
    }

    /// A heartbeat has been handled by a life whose clock is behind: where the peer sent it after the
    /// pause, and the peer's clock was known before, the life must have noticed.
    pub(crate) fn judge_pause(&mut self, who: NodeInc, sent: Time, known: bool) {
        let Some(life) = self.nodes[who.node.index()].life_of(who) else { return };
        let Some(behind) = life.behind else { return };
        if !known || sent <= behind.since {
            return;
        }
        let verdict: Verdict = Err(Violation {
            invariant: "P6 a pause is noticed",
            what: format!(
                "{who} stood still for {:?} with its clock, and a heartbeat sent after that has told \
                 it nothing",
                behind.by
            ),
        });
        self.judge(verdict);
    }
}
