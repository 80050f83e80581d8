//! Where every output goes: between core, detector and register machine of one life, to the store,
//! the disk, the monitor, the networks. Every queue keeps its order and takes its time.
//!
//! It decides nothing. Before an output takes effect the oracle is told of it.

use wolfpack_core::flight::Draft;
use wolfpack_core::{Input as CoreInput, Output as CoreOutput};
use wolfpack_diskarb::register::Input as RegisterInput;
use wolfpack_heartbeat::{Input as DetectorInput, Output as DetectorOutput};
use wolfpack_types::event::Proof;
use wolfpack_types::heartbeat::{Heartbeat, HeartbeatCommand, HeartbeatNotice};
use wolfpack_types::monitor::MonitorCommand;
use wolfpack_types::peer::PeerMessage;
use wolfpack_types::{NetworkId, NodeId, NodeInc};

use crate::cluster::{Cluster, gap_in_log};
use crate::event::Event;
use crate::invariants::{self, Violation};
use crate::monitor::{CallEnd, Taken};
use crate::network::Lane;
use crate::node::{Part, Queue};
use crate::sight;

/// After so many heartbeats of a life its clock is known well enough to tell a pause by it.
const KNOWN: u32 = 120;

impl Cluster {
    // ---- inputs

    /// Puts an input on a queue to the core of a life.
    pub fn to_core(&mut self, who: NodeInc, queue: Queue, input: CoreInput) {
        let (now, delays) = (self.now, self.thread_delays);
        let Some(life) = self.nodes[who.node.index()].life_of(who) else { return };
        let at = life.through(queue, now, &mut self.dice, delays);
        self.agenda.plan(at, Event::ToCore(who, Box::new(input)));
    }

    /// A deadline has come, perhaps.
    pub(crate) fn wake(&mut self, who: NodeInc) {
        let now = self.now;
        let node = &mut self.nodes[who.node.index()];
        let local = node.clock.local(now);
        let Some(life) = node.life_of(who) else { return };
        if life.wake_at.is_none_or(|at| at > now) {
            return;
        }
        life.wake_at = None;
        let due = |part| life.deadline(part) <= local;
        let (core, detector, register) =
            (due(Part::Core), due(Part::Detector), due(Part::Register));
        if detector {
            self.feed_detector(who, DetectorInput::Deadline);
        }
        if register {
            self.feed_register(who, RegisterInput::Deadline);
        }
        if core {
            self.feed_core(who, CoreInput::Deadline);
        }
        self.judge_spin(who, (core, detector, register));
        self.rewake(who.node);
    }

    /// A machine whose deadline has come must do something about it: one that asks to be woken at
    /// once, again and again, would take a whole processor in the field.
    fn judge_spin(&mut self, who: NodeInc, woken: (bool, bool, bool)) {
        const TURNS_MAX: u32 = 1000;
        let now = self.now;
        let Some(life) = self.nodes[who.node.index()].life_of(who) else { return };
        if now > life.woken_last + 1000 {
            life.woken_often = 0;
        }
        life.woken_last = now;
        life.woken_often += 1;
        if life.woken_often > TURNS_MAX {
            let what = format!("{who} spins (core, detector, register due: {woken:?})");
            self.judge(Err(Violation { invariant: "deadlines move", what }));
        }
    }

    /// Plans a wake-up for the earliest deadline of a node.
    pub(crate) fn rewake(&mut self, id: NodeId) {
        let now = self.now;
        let node = &mut self.nodes[id.index()];
        let clock = node.clock;
        let Some(life) = &mut node.life else { return };
        let deadline = life.next_deadline();
        if deadline == wolfpack_types::Instant::FAR {
            return;
        }
        // A thread is never woken before its time, and seldom exactly at it.
        let at = clock.when(deadline).max(now.saturating_add(1));
        if life.wake_at.is_none_or(|planned| at < planned) {
            life.wake_at = Some(at);
            let who = life.me;
            self.agenda.plan(at, Event::Wake(who));
        }
    }

    pub(crate) fn feed_core(&mut self, who: NodeInc, input: CoreInput) {
        if let CoreInput::Peer { message: PeerMessage::Prepare { ballot, members, .. }, .. } =
            &input
        {
            self.oracle.prepare_received(who, *ballot, members);
        }
        let now = self.now;
        let node = &mut self.nodes[who.node.index()];
        let local = node.clock.local(now);
        let Some(life) = node.life_of(who) else { return };
        let draft = self.recordings.draft(local, Some(&input));
        life.core.handle(local, input);
        self.drain_core(who, draft);
    }

    pub(crate) fn feed_detector(&mut self, who: NodeInc, input: DetectorInput) {
        let now = self.now;
        let node = &mut self.nodes[who.node.index()];
        let local = node.clock.local(now);
        let Some(life) = node.life_of(who) else { return };
        if let DetectorInput::Command(HeartbeatCommand::SetMask { mask, .. }) = &input {
            life.mask.clone_from(mask);
        }
        life.detector.handle(local, input);
        self.drain_detector(who);
    }

    pub(crate) fn feed_register(&mut self, who: NodeInc, input: RegisterInput) {
        let now = self.now;
        let node = &mut self.nodes[who.node.index()];
        let local = node.clock.local(now);
        let Some(register) = node.life_of(who).and_then(|life| life.register.as_mut()) else {
            return;
        };
        register.handle(local, input);
        self.drain_register(who);
    }

    pub(crate) fn stream(&mut self, lane: Lane) {
        let Some(message) = self.network.arrive(self.now, lane) else { return };
        let (from, to) = lane;
        if self.meet(from, to) {
            self.feed_core(to, CoreInput::Peer { from, message });
        }
    }

    /// A life hears of another: newer lives replace older ones, whose streams are dropped. Whether
    /// this one is still listened to.
    fn meet(&mut self, from: NodeInc, to: NodeInc) -> bool {
        let Some(life) = self.nodes[to.node.index()].life_of(to) else { return false };
        let known = life.sessions.entry(from.node).or_insert(from.inc);
        if *known > from.inc {
            return false;
        }
        if *known < from.inc {
            *known = from.inc;
            self.network.forget(to, from);
        }
        true
    }

    pub(crate) fn heartbeat_arrives(
        &mut self,
        network: NetworkId,
        from: NodeInc,
        to: NodeId,
        heartbeat: Heartbeat,
    ) {
        let Some(who) = self.life(to) else { return };
        if self.meet(from, who) {
            let sent = self.node(from.node).clock.when(heartbeat.clock);
            let known = self.node(to).life.as_ref().is_some_and(|life| {
                life.behind.is_some() && life.heard.get(&from).is_some_and(|&n| n >= KNOWN)
            });
            let input = DetectorInput::Received { network, from: from.node, heartbeat };
            self.feed_detector(who, input);
            self.judge_pause(who, sent, known);
            if let Some(life) = self.nodes[to.index()].life_of(who)
                && life.behind.is_none()
            {
                *life.heard.entry(from).or_default() += 1;
            }
        }
    }

    pub(crate) fn testament_arrives(&mut self, to: NodeId, who: NodeInc) {
        let Some(me) = self.life(to) else { return };
        self.feed_detector(me, DetectorInput::Command(HeartbeatCommand::DeclareDead(who)));
        let input = CoreInput::Dead { who, proof: Proof::AllTerminated };
        self.to_core(me, Queue::DriverToCore, input);
    }

    pub(crate) fn alarm_over(&mut self, who: NodeInc, about: NodeId) {
        let notice = HeartbeatNotice::Reach {
            node: about,
            reach: wolfpack_types::heartbeat::Reach::Up,
            silence: std::time::Duration::ZERO,
        };
        self.to_core(who, Queue::DriverToCore, CoreInput::Heartbeat(notice));
    }

    pub(crate) fn former_lives(&mut self, who: NodeInc) {
        if self.node(who.node).life.as_ref().is_none_or(|life| life.me != who) {
            return;
        }
        if self.device.former_lives_have_commands(who) {
            self.after(self.params.times.lease / 15, Event::FormerLives(who));
        } else {
            self.feed_register(who, RegisterInput::FormerLivesDead);
        }
    }

    // ---- outputs of the core

    pub(crate) fn drain_core(&mut self, who: NodeInc, mut draft: Option<Draft>) {
        let node = &mut self.nodes[who.node.index()];
        let Some(life) = node.life_of(who) else { return };
        let mut outputs = Vec::new();
        while let Some(output) = life.core.poll_output() {
            if let Some(draft) = &mut draft {
                draft.output(&output);
            }
            outputs.push(output);
        }
        life.note_deadline(Part::Core);
        if let Some(draft) = draft {
            self.recordings.finish(who, draft);
        }
        self.look(who);
        for output in outputs {
            self.core_output(who, output);
            // What comes after Exit is not carried out.
            if self.violation().is_some() || self.life(who.node) != Some(who) {
                return;
            }
        }
        self.rewake(who.node);
    }

    /// The oracle looks at a core.
    fn look(&mut self, who: NodeInc) {
        let now = self.now;
        let node = &mut self.nodes[who.node.index()];
        let clock = node.clock;
        let Some(life) = node.life_of(who) else { return };
        let Some(before) = self.oracle.lives.get(&who.node).map(|facts| &facts.sight) else {
            return;
        };
        let Some(look) = sight::look(&mut life.core, clock.local(now), before) else {
            let verdict = self.oracle.looked_again(who);
            return self.judge(verdict);
        };
        if let Some(view) = &look.view {
            self.story.say(now, || format!("[{who}] installs {}", crate::tell::view(view)));
        }
        let verdict = self.oracle.looked(who, look, |at| clock.when(at));
        self.judge(verdict);
    }

    fn core_output(&mut self, who: NodeInc, output: CoreOutput) {
        match output {
            CoreOutput::Send { to, message } => self.send(who, to, message),
            CoreOutput::OpenWitness(wanted) => {
                // One witness device is modelled so far: another one is never there.
                let ours = wanted.is_some_and(|spec| spec.id == crate::node::CLUSTER.0);
                if let Some(life) = self.nodes[who.node.index()].life_of(who)
                    && !ours
                {
                    life.register = None;
                    life.note_deadline(Part::Register);
                }
            }
            CoreOutput::Heartbeat(command) => {
                let (now, delays) = (self.now, self.thread_delays);
                let Some(life) = self.nodes[who.node.index()].life_of(who) else { return };
                let at = life.through(Queue::CoreToDriver, now, &mut self.dice, delays);
                let input = Box::new(DetectorInput::Command(command));
                self.agenda.plan(at, Event::ToDetector(who, input));
            }
            CoreOutput::Persist { id, step } => {
                self.oracle.step_issued(who, &step);
                let (now, delays) = (self.now, self.store_delays);
                let store = &mut self.nodes[who.node.index()].store;
                let at = store.queue(now, &mut self.dice, delays, id, step);
                self.agenda.plan(at, Event::Durable(who));
            }
            CoreOutput::Register(command) => {
                self.say(who, || format!("register: {}", crate::tell::register_command(&command)));
                let (now, delays) = (self.now, self.thread_delays);
                let Some(life) = self.nodes[who.node.index()].life_of(who) else { return };
                let at = life.through(Queue::CoreToRegister, now, &mut self.dice, delays);
                let input = Box::new(RegisterInput::Command(command));
                self.agenda.plan(at, Event::ToRegister(who, input));
            }
            CoreOutput::Monitor(command) => self.tell_monitor(who, command),
            CoreOutput::Reply { id, reply } => self.answered(who, id, &reply),
            CoreOutput::Event(event) => {
                let verdict = self.oracle.happened.event(&event);
                self.judge(verdict);
                self.say(who, || format!("{:?}: {event}", event.event.severity));
            }
            CoreOutput::Replicated(_) => {}
            // The simulated network has no sessions; the core refuses what such a life says.
            CoreOutput::Expel(life) => {
                self.say(who, || format!("the session of {life} is dropped"))
            }
            CoreOutput::Exit(reason) => self.exits(who, &reason),
            CoreOutput::Backup { backup, .. } => {
                self.say(who, || format!("a backup at update {}", backup.snapshot.seq));
            }
        }
    }

    fn send(&mut self, who: NodeInc, to: NodeId, message: PeerMessage) {
        let node = &self.nodes[who.node.index()];
        let Some(life) = node.life.as_ref().filter(|life| life.me == who) else { return };
        let (record, last) = (node.store.record(), node.store.last().1);
        let verdict = self.oracle.message_sent(who, &message, record, last, &life.mask);
        let session = life.sessions.get(&to).copied();
        self.judge(verdict);
        self.say(who, || format!("-> {to} {}", crate::tell::message(&message)));
        if to == who.node {
            self.agenda.plan(
                self.now,
                Event::ToCore(who, Box::new(CoreInput::Peer { from: who, message })),
            );
            return;
        }
        self.tally.messages += 1;
        if matches!(message, PeerMessage::Prepare { .. })
            && self.chaotic
            && self.dice.permille(self.params.hits)
        {
            let wait = self.dice.span(self.params.times.lease / 3);
            self.after(wait, Event::Hit(who.node));
        }
        let Some(inc) = session else {
            self.say(who, || format!("   (no session with node {to}: dropped)"));
            return;
        };
        let lane = (who, NodeInc::new(to, inc));
        let (now, delays) = (self.now, self.thread_delays);
        let Some(life) = self.nodes[who.node.index()].life_of(who) else { return };
        let at = life.through(Queue::CoreToDriver, now, &mut self.dice, delays);
        self.agenda.plan(at, Event::Leaves(lane, Box::new(message)));
    }

    /// The driver puts a message on the wire.
    pub(crate) fn leaves(&mut self, lane: Lane, message: PeerMessage) {
        if self.life(lane.0.node) != Some(lane.0) {
            return;
        }
        // A segment that arrives changed is one that is lost: it is sent again.
        let resent = self.corrupted(&message);
        if let Some(due) = self.network.post(self.now, &mut self.dice, lane, message, resent) {
            self.agenda.plan(due, Event::Stream(lane));
        }
    }

    fn tell_monitor(&mut self, who: NodeInc, command: MonitorCommand) {
        if let MonitorCommand::Online { resource, .. } = &command {
            let verdict =
                invariants::authority_for_acts::online(&self.oracle, who, &resource.group);
            self.judge(verdict);
        }
        self.say(who, || format!("monitor: {}", crate::tell::monitor_command(&command)));
        let (now, delays) = (self.now, self.thread_delays);
        let Some(life) = self.nodes[who.node.index()].life_of(who) else { return };
        let at = life.through(Queue::CoreToMonitor, now, &mut self.dice, delays);
        self.agenda.plan(at, Event::ToMonitor(who, Box::new(command)));
    }

    // ---- outputs of the detector

    pub(crate) fn drain_detector(&mut self, who: NodeInc) {
        let mut outputs = std::mem::take(&mut self.scratch);
        let Some(life) = self.nodes[who.node.index()].life_of(who) else { return };
        while let Some(output) = life.detector.poll_output() {
            outputs.push(output);
        }
        life.note_deadline(Part::Detector);
        for output in outputs.drain(..) {
            match output {
                DetectorOutput::Transmit { network, to, heartbeat } => {
                    self.transmit(who, network, to, heartbeat);
                }
                DetectorOutput::Notice(notice) => self.notice(who, notice),
            }
        }
        self.scratch = outputs;
        self.rewake(who.node);
    }

    fn transmit(&mut self, who: NodeInc, network: NetworkId, to: NodeId, beat: Heartbeat) {
        let record = self.nodes[who.node.index()].store.record();
        let verdict = self.oracle.heartbeat_sent(who, &beat, record);
        self.judge(verdict);
        if self.corrupted(&beat) {
            return;
        }
        let [first, second] =
            self.network.datagram(self.now, &mut self.dice, network, who.node, to);
        if let Some(at) = second {
            let beat = Box::new(beat.clone());
            self.agenda.plan(at, Event::Heartbeat { network, from: who, to, beat });
        }
        if let Some(at) = first {
            let beat = Box::new(beat);
            self.agenda.plan(at, Event::Heartbeat { network, from: who, to, beat });
        }
    }

    /// Whether what is sent arrives changed. The receiver's session drops it, since its seal does not
    /// fit; and should bytes like these ever be taken for true, their decoder must not panic.
    fn corrupted<T: serde::Serialize + serde::de::DeserializeOwned>(&mut self, sent: &T) -> bool {
        if self.network.corrupt == 0 || !self.dice.permille(self.network.corrupt) {
            return false;
        }
        let mut bytes = wolfpack_types::codec::encode(sent);
        for _ in 0..self.dice.range(1, 4) {
            let at = self.dice.index(bytes.len());
            bytes[at] ^= 1 << self.dice.range(0, 7);
        }
        if self.dice.permille(200) {
            let length = self.dice.index(bytes.len());
            bytes.truncate(length);
        }
        let _ = wolfpack_types::codec::decode::<T>("corrupted", &bytes);
        true
    }

    fn notice(&mut self, who: NodeInc, notice: HeartbeatNotice) {
        match &notice {
            HeartbeatNotice::Lease { end } => {
                // The driver thread writes it to the shared section itself.
                let node = &mut self.nodes[who.node.index()];
                node.machine.guard.lease_end = *end;
                let at = node.clock.when(*end);
                let verdict = self.oracle.lease_published(who, at);
                self.judge(verdict);
                self.watch_lease(who.node);
            }
            HeartbeatNotice::Reach { node, reach, silence } => {
                if *reach == wolfpack_types::heartbeat::Reach::Unreachable {
                    self.silence_reported.get_or_insert(self.now);
                }
                self.say(who, || format!("node {node} is {reach:?}, silent for {silence:?}"));
            }
            HeartbeatNotice::Paused { .. } | HeartbeatNotice::Stalled { .. } => {
                if matches!(notice, HeartbeatNotice::Paused { .. })
                    && let Some(life) = self.nodes[who.node.index()].life_of(who)
                {
                    life.behind = None;
                    // What was known of clocks is of no use any more.
                    life.heard.clear();
                }
                self.say(who, || format!("{notice:?}"));
            }
            _ => {}
        }
        self.to_core(who, Queue::DriverToCore, CoreInput::Heartbeat(notice));
    }

    // ---- store

    pub(crate) fn step_durable(&mut self, who: NodeInc) {
        let node = &mut self.nodes[who.node.index()];
        if node.life.as_ref().is_none_or(|life| life.me != who) {
            return;
        }
        if std::mem::take(&mut node.store_full) {
            let error = "no space left on the device".to_owned();
            self.to_core(who, Queue::StoreToCore, CoreInput::StoreFailed { error });
            return;
        }
        let hit = self.crash_point.is_some_and(|point| point.hits(node));
        node.steps += 1;
        if hit {
            return self.crash_at_step(who);
        }
        let before = node.store.record().clone();
        match node.store.complete() {
            Ok(Some((id, step))) => {
                let verdict = self.oracle.step_durable(who, &before, &step);
                self.judge(verdict);
                self.to_core(who, Queue::StoreToCore, CoreInput::Persisted { id });
            }
            Ok(None) => {}
            Err(gap) => self.judge(gap_in_log(&format!("{who}: {gap}"))),
        }
    }

    // ---- monitor

    pub(crate) fn monitor_takes(&mut self, who: NodeInc, command: MonitorCommand) {
        let now = self.now;
        let group = match &command {
            MonitorCommand::Online { resource, .. } => Some(resource.group.clone()),
            _ => None,
        };
        let node = &mut self.nodes[who.node.index()];
        let local = node.clock.local(now);
        let before = node.machine.runs().count();
        let taken = node.machine.command(local, &mut self.dice, who, command);
        if let Some(group) = group
            && node.machine.runs().count() > before
        {
            let verdict = self.oracle.run_starts(who, &group);
            self.judge(verdict);
            self.count_move(who, &group);
            self.take_data_disk(who, &group);
            self.watch_lease(who.node);
        }
        match taken {
            Taken::Later(span, end) => self.after(span, Event::CallEnds(who.node, end)),
            Taken::Now(event) => {
                self.to_core(who, Queue::MonitorToCore, CoreInput::Monitor(event));
            }
            Taken::Ignored => {}
        }
    }

    fn count_move(&mut self, who: NodeInc, group: &str) {
        let last = self.admin.last_runner.insert(group.to_owned(), who.node);
        if last.is_some_and(|node| node != who.node) {
            self.tally.moves += 1;
        }
    }

    pub(crate) fn call_ends(&mut self, id: NodeId, end: CallEnd) {
        let now = self.now;
        let node = &mut self.nodes[id.index()];
        let local = node.clock.local(now);
        let Some(who) = node.machine.guard.life else { return };
        let (event, ended) = node.machine.call_ends(local, end);
        if let Some(run) = ended {
            self.oracle.run_ends(run.life, &run.group);
            self.last_of_group(&run.group, run.life);
        }
        if let Some(event) = event {
            self.to_core(who, Queue::MonitorToCore, CoreInput::Monitor(event));
        }
    }
}
