//! What goes wrong: partitions in one or both directions, on one or both networks, crashes of a
//! service, of its guard, of a machine, stopped services, resets of the disk by strangers, lost
//! paths to it, failing resources and monitors, false alarms, clean leaves.

use std::time::Duration;

use wolfpack_core::Input as CoreInput;
use wolfpack_types::NodeId;
use wolfpack_types::heartbeat::{HeartbeatNotice, Reach};
use wolfpack_types::register::Exclusion;

use crate::cluster::{Cluster, End};
use crate::draw::Delays;
use crate::event::Event;
use crate::node::Queue;

/// How the surroundings behave, partitions and crashes apart.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Weather {
    /// Nothing is lost or very late.
    Calm,
    /// As the seed has drawn.
    Drawn,
}

impl Cluster {
    /// Faults begin.
    pub fn begin_chaos(&mut self) {
        self.set_weather(Weather::Drawn);
        self.chaotic = true;
        self.admin.whims = true;
        self.story.say(self.now, || "--- faults begin".into());
        self.soon(Event::Fault);
        if !self.params.quiet {
            for id in self.ids() {
                self.soon(Event::WallClock(id));
            }
        }
    }

    /// Everything is mended: links, paths, services; no more faults.
    pub fn end_chaos(&mut self) {
        self.story.say(self.now, || "--- faults end; everything is mended".into());
        self.chaotic = false;
        self.set_weather(Weather::Calm);
        self.device.heal();
        self.heal_links();
        for id in self.ids() {
            self.soon(Event::Thaw(id));
            self.soon(Event::Resume(id));
            if self.life(id).is_none() && !self.node(id).evicted {
                self.restart_after(id, Duration::from_millis(20));
            }
        }
        self.want_all_nodes();
        self.admin.want_all_online(self.now);
    }

    /// How much is lost and late from now on.
    pub fn set_weather(&mut self, weather: Weather) {
        let p = &self.params;
        let calm = weather == Weather::Calm;
        let delays = |drawn: Delays| if calm { drawn.calm() } else { drawn };
        let share = |drawn: u32| if calm { 0 } else { drawn };
        self.thread_delays = delays(p.thread);
        self.store_delays = delays(p.store);
        self.network.delays = delays(p.wire);
        self.network.loss = share(p.loss);
        self.network.twice = share(p.twice);
        self.network.corrupt = share(p.corrupt);
        self.device.delays = delays(p.disk);
        self.device.slow_commands = share(p.slow_commands);
        self.device.late_completions = share(p.late_completions);
        let (resends, failing) = if p.quiet { (0, 0) } else { (share(200), share(20)) };
        self.device.resends = resends;
        for node in &mut self.nodes {
            node.machine.failing = failing;
        }
    }

    /// All links work again.
    pub fn heal_links(&mut self) {
        for (at, lane) in self.network.heal(self.now, &mut self.dice) {
            self.agenda.plan(at, Event::Stream(lane));
        }
    }

    pub(crate) fn fault(&mut self) {
        if !self.chaotic {
            return;
        }
        let ids = self.ids();
        let id = self.dice.pick(&ids);
        let lease = self.params.times.lease;
        match self.dice.range(0, 139) {
            0..30 => self.partition(),
            30..48 => self.crash(id),
            48..56 if self.params.exclusion == Exclusion::Reserve => {
                self.tally.resets += 1;
                self.story.say(self.now, || "a stranger resets the witness disk".into());
                self.device.reset();
            }
            56..64 => {
                let span = self.dice.span(lease * 3);
                self.pause(id, span);
            }
            64..76 => self.false_alarm(id),
            76..81 => self.leave(id),
            81..86 => self.lose_path(id),
            86..90 => self.fail_resource(id),
            90..93 => self.kill_monitor(id),
            93..100 => self.begin_flapping(),
            100..108 => {
                let clock_runs = self.dice.permille(500);
                let most = lease * self.dice.pick(&[1, 3, 8]);
                let span = self.dice.span(most);
                self.freeze(id, span, clock_runs);
            }
            108..112 if self.params.exclusion == Exclusion::Reserve => {
                let left = u8::try_from(self.dice.range(1, 12)).unwrap_or(1);
                self.stranger(left);
            }
            112..115 if self.params.exclusion == Exclusion::Reserve => {
                self.story.say(self.now, || "a unit attention for every machine".into());
                self.device.unit_attention();
            }
            115..119 => self.slow_disk(),
            119..122 => self.fill_store(id),
            122..124 => self.lose_two_stores(),
            _ => {}
        }
        let pause = self.dice.span(self.params.fault_pause * 2) + Duration::from_millis(1);
        self.after(pause, Event::Fault);
    }

    fn partition(&mut self) {
        self.heal_links();
        if self.dice.permille(400) {
            self.story.say(self.now, || "all links work".into());
            return;
        }
        self.tally.partitions += 1;
        let one_network = self.params.networks > 1 && self.dice.permille(250);
        let last = u64::from(self.params.networks) - 1;
        let hurt = u8::try_from(self.dice.range(0, last)).unwrap_or(0);
        let ids = self.ids();
        for (k, &a) in ids.iter().enumerate() {
            for &b in &ids[k + 1..] {
                if self.dice.permille(500) {
                    let back = self.dice.permille(800);
                    self.story.say(self.now, || {
                        let how = if one_network {
                            format!("links of network {hurt}")
                        } else {
                            "all links".into()
                        };
                        format!("{how} cut: {a} {} {b}", if back { "=/=" } else { "-/->" })
                    });
                    let networks = self.network.ids();
                    for network in networks.filter(|n| !one_network || n.0 == hurt) {
                        self.network.cut(network, a, b);
                        if back {
                            self.network.cut(network, b, a);
                        }
                    }
                }
            }
        }
    }

    /// A crash of some kind, and a restart some time later.
    fn crash(&mut self, id: NodeId) {
        if self.life(id).is_none() {
            return;
        }
        let how = match self.dice.range(0, 99) {
            _ if self.node(id).frozen.is_some() => End::PowerCut,
            0..45 => End::Killed,
            45..78 => End::PowerCut,
            78..92 => End::KilledWithGuard,
            _ => End::GuardDied,
        };
        self.tally.crashes += 1;
        self.end(id, how);
        if how == End::PowerCut && self.dice.permille(self.params.lost_stores) {
            self.lose_store(id);
        }
        let lease = self.params.times.lease;
        let wait = self.dice.pick(&[lease / 30, lease / 10, lease * 2 / 3, lease * 2]);
        self.restart_after(id, wait);
        if self.dice.permille(self.params.double_crash) {
            let again = wait + self.dice.between(lease / 10, lease / 2);
            self.after(again, Event::Hit(id));
        }
    }

    /// The coordinator of a regroup (or sometimes somebody else) crashes or is cut off.
    pub(crate) fn hit(&mut self, id: NodeId) {
        if !self.chaotic {
            return;
        }
        let ids = self.ids();
        let id = if self.dice.permille(300) { self.dice.pick(&ids) } else { id };
        if self.dice.permille(400) {
            self.crash(id);
            return;
        }
        self.tally.partitions += 1;
        let (inward, outward) =
            self.dice.pick(&[(true, true), (true, true), (true, false), (false, true)]);
        self.say(id, || format!("is cut off (inward {inward}, outward {outward})"));
        self.heal_links();
        for other in ids.into_iter().filter(|&other| other != id) {
            if outward {
                self.network.cut_all(id, other);
            }
            if inward {
                self.network.cut_all(other, id);
            }
        }
    }

    /// A failure detector takes a living peer for dead, for a while.
    fn false_alarm(&mut self, id: NodeId) {
        let others: Vec<NodeId> = self.ids().into_iter().filter(|&other| other != id).collect();
        if others.is_empty() {
            return;
        }
        let about = self.dice.pick(&others);
        let Some(who) = self.life(id) else { return };
        self.tally.alarms += 1;
        self.say(who, || format!("false alarm: node {about} looks unreachable"));
        let notice = HeartbeatNotice::Reach {
            node: about,
            reach: Reach::Unreachable,
            silence: self.params.times.detect(),
        };
        self.to_core(who, Queue::DriverToCore, CoreInput::Heartbeat(notice));
        let wait = self.dice.span(self.params.times.lease);
        self.after(wait, Event::AlarmOver { who, about });
    }

    fn leave(&mut self, id: NodeId) {
        let Some(who) = self.life(id) else { return };
        self.say(who, || "is asked to leave".into());
        self.to_core(who, Queue::MonitorToCore, CoreInput::Leave);
    }

    fn lose_path(&mut self, id: NodeId) {
        if !self.params.has_witness() {
            return;
        }
        self.say(id, || "loses its path to the witness disk".into());
        self.device.set_path(id, false);
        let wait = self.dice.span(self.params.times.register_lease);
        self.after(wait, Event::PathBack(id));
    }

    fn fail_resource(&mut self, id: NodeId) {
        let Some(who) = self.node(id).machine.guard.life else { return };
        let node = &mut self.nodes[id.index()];
        let Some((event, run)) = node.machine.fail_one(&mut self.dice) else { return };
        self.say(who, || format!("a resource of group {} fails", run.group));
        self.oracle.run_ends(run.life, &run.group);
        self.last_of_group(&run.group, run.life);
        self.to_core(who, Queue::MonitorToCore, CoreInput::Monitor(event));
    }

    fn kill_monitor(&mut self, id: NodeId) {
        let Some(who) = self.life(id) else { return };
        if self.node(id).machine.guard.ended {
            return;
        }
        self.say(who, || "its resource monitor dies".into());
        for event in self.node_mut(id).machine.monitor_dies() {
            self.to_core(who, Queue::MonitorToCore, CoreInput::Monitor(event));
        }
    }
}
