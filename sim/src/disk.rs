//! Between the register machines and the witness disk, and what the oracle learns from it.

use wolfpack_core::Input as CoreInput;
use wolfpack_diskarb::register::{Input as RegisterInput, Output as RegisterOutput};
use wolfpack_types::NodeInc;
use wolfpack_types::disk::DiskOp;

use crate::cluster::Cluster;
use crate::device::{Step, Told, Written};
use crate::event::Event;
use crate::invariants;
use crate::node::{Part, Queue};
use crate::sight;

impl Cluster {
    pub(crate) fn drain_register(&mut self, who: NodeInc) {
        let mut outputs = Vec::new();
        let Some(life) = self.nodes[who.node.index()].life_of(who) else { return };
        while let Some(output) = life.register.as_mut().and_then(|r| r.poll_output()) {
            outputs.push(output);
        }
        life.note_deadline(Part::Register);
        for output in outputs {
            match output {
                RegisterOutput::Disk { id, op } => self.submit(who, id, op),
                RegisterOutput::Event(event) => {
                    self.say(who, || format!("register says {}", crate::tell::register(&event)));
                    self.to_core(who, Queue::RegisterToCore, CoreInput::Register(event));
                }
            }
        }
        self.rewake(who.node);
    }

    fn submit(&mut self, who: NodeInc, id: u64, op: DiskOp) {
        let verdict = invariants::slot_writer::submitted(&self.device, who, &op);
        self.judge(verdict);
        let Some(nexus) = self.node(who.node).nexus else { return };
        let (command, steps) = self.device.submit(self.now, &mut self.dice, nexus, who, id, op);
        for (at, step) in steps {
            self.agenda.plan(at, Event::Disk { command, step });
        }
    }

    pub(crate) fn disk_step(&mut self, command: u64, step: Step) {
        let progress = self.device.step(self.now, &mut self.dice, command, step);
        if let Some((at, step)) = progress.then {
            self.agenda.plan(at, Event::Disk { command, step });
        }
        if progress.reset {
            self.tally.resets += 1;
        }
        if let Some(written) = progress.written {
            self.disk_written(&written);
        }
        if let Some((who, id, told)) = progress.told {
            self.soon(Event::Told { who, id, told });
        }
    }

    pub(crate) fn disk_tells(&mut self, who: NodeInc, id: u64, told: Told) {
        let input = match told {
            Told::Done(outcome) => RegisterInput::Done { id, outcome },
            Told::Dead => RegisterInput::Dead { id },
        };
        self.feed_register(who, input);
    }

    fn disk_written(&mut self, written: &Written) {
        let slots = match sight::slots_written(&self.device, written) {
            Ok(slots) => slots,
            Err(why) => return self.judge(invariants::slot_writer::unreadable(written.by, &why)),
        };
        for (before, after) in slots {
            let verdict = invariants::slot_writer::slot(written.by, after.node);
            self.judge(verdict);
            if let Some(before) = before {
                let verdict = invariants::monotone::slot(&before, &after);
                self.judge(verdict);
            }
            self.oracle.witness_accepted.insert(after.bal);
        }
    }
}
