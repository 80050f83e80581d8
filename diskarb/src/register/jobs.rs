//! What each command of the core means: its stages, what it changes in the own slot, and how the
//! slots read at its end are judged (protocol P4).

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use wolfpack_types::codec::encoded_bytes;
use wolfpack_types::disk::DiskOp;
use wolfpack_types::register::{
    ChallengeStage, Exclusion, RegisterCommand, RegisterEvent, RegisterFailure, Slot, Slots,
};
use wolfpack_types::{Ballot, Instant, NodeInc, Rule, View, same_members};

use super::own::{LogChange, OwnLog};
use super::stages::{Stage, Try};
use super::{Output, Register};
use crate::layout::{LoadedLog, LogReader, Station, continues};

/// A command under way.
#[derive(Debug)]
pub(super) struct Job {
    pub id: u64,
    pub command: RegisterCommand,
    /// What is still to be done; the first is next.
    pub stages: VecDeque<Stage>,
    /// The stage that waits for the end of its disk command.
    pub current: Option<Stage>,
    /// When the job began: before its first command was sent.
    pub begun: Instant,
    /// When the own slot was last written.
    pub written: Instant,
    /// A renewal that met a foreign holder: the challenge decides what it means.
    pub regaining: bool,
    /// The slots, as last gathered, and which bodies they named.
    pub slots: Slots,
    pub bodies: BTreeMap<Station, u8>,
    pub carry: Option<Carry>,
    /// The log asked for.
    pub log: Option<LoadedLog>,
}

/// What a new life takes over from the own slots.
#[derive(Debug)]
pub(super) struct Carry {
    pub slot: Slot,
    pub log: Option<OwnLog>,
}

impl Job {
    /// The end of a wait, if the job is waiting.
    pub(super) fn deadline(&self) -> Option<Instant> {
        match self.stages.front() {
            Some(Stage::Wait { until, .. }) => *until,
            _ => None,
        }
    }

    /// Puts stages before all others, in order.
    pub(super) fn first<const N: usize>(&mut self, stages: [Stage; N]) {
        for stage in stages.into_iter().rev() {
            self.stages.push_front(stage);
        }
    }
}

impl Register {
    /// Begins a command.
    pub(super) fn begin(&mut self, now: Instant, command: RegisterCommand) {
        let Some(id) = command.id() else { return };
        let reserve = self.config.exclusion == Exclusion::Reserve;
        let mut stages = VecDeque::new();
        match &command {
            RegisterCommand::Promise { .. } => {
                stages.extend(reserve.then_some(Stage::reserve(Try::Take)));
                stages.extend([Stage::Prepare, Stage::Settle { fully: false }, Stage::Change]);
            }
            RegisterCommand::Renew { .. } => {
                stages.extend(reserve.then_some(Stage::reserve(Try::Defend)));
                stages.extend([Stage::Prepare, Stage::Settle { fully: false }, Stage::Change]);
            }
            RegisterCommand::Accept { .. } | RegisterCommand::Append { .. } => {
                stages.extend([Stage::Admit, Stage::Settle { fully: true }]);
                stages.extend((!self.config.views_only).then_some(Stage::WriteLog));
                stages.push_back(Stage::Change);
            }
            RegisterCommand::ReadLog { .. } => {
                stages.extend([
                    Stage::Admit,
                    Stage::Superblock,
                    Stage::gather(),
                    Stage::Locate,
                    Stage::Judge,
                ]);
            }
            RegisterCommand::Release { .. } => {
                stages.extend(reserve.then_some(Stage::Release { tries: 4 }));
                stages.push_back(Stage::Judge);
            }
            RegisterCommand::Cancel => return,
        }
        self.job = Some(Job {
            id,
            command,
            stages,
            current: None,
            begun: now,
            written: now,
            regaining: false,
            slots: Slots::new(),
            bodies: BTreeMap::new(),
            carry: None,
            log: None,
        });
    }

    /// Whether an Accept or Append may begin at all.
    pub(super) fn admit(&self, command: &RegisterCommand) -> Result<(), RegisterFailure> {
        let own = &self.own;
        let logs =
            matches!(command, RegisterCommand::Append { .. } | RegisterCommand::ReadLog { .. });
        if logs && self.config.views_only {
            return Err(out_of_turn("that asks a share for a log"));
        }
        let ballot = match command {
            RegisterCommand::Accept { view, .. } => view.ballot,
            RegisterCommand::Append { ballot, .. } => *ballot,
            _ => return Ok(()),
        };
        if !own.ready {
            return Err(out_of_turn("before the register promised in this life"));
        }
        if own.slot.mbal > ballot {
            return Err(RegisterFailure::Outbid { counter: own.slot.mbal.counter });
        }
        if own.slot.mbal < ballot {
            return Err(out_of_turn("under a ballot that the register did not promise"));
        }
        match command {
            RegisterCommand::Accept { snapshot, entries, .. }
                if !continues(snapshot.seq, entries) =>
            {
                return Err(out_of_turn("with a gap in the log"));
            }
            RegisterCommand::Append { entries, .. } => {
                let log = own.log.as_ref().filter(|log| log.ballot == ballot);
                let Some(log) = log.filter(|_| own.slot.bal == ballot) else {
                    return Err(out_of_turn("under a view that the register did not accept"));
                };
                if entries.is_empty() || !continues(log.end(), entries) {
                    return Err(out_of_turn("that does not continue the log"));
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// The writes of the log that belongs to an Accept or Append, and what the log is after them.
    /// Takes snapshot and entries out of the command: nothing else needs them.
    pub(super) fn log_writes(
        &mut self,
        command: &mut RegisterCommand,
    ) -> Result<(VecDeque<DiskOp>, LogChange), RegisterFailure> {
        let layout =
            self.own.layout.ok_or_else(|| out_of_turn("before the superblock was read"))?;
        let own = &mut self.own;
        let (ballot, snapshot, entries) = match command {
            RegisterCommand::Accept { view, snapshot, entries, .. } => {
                (view.ballot, std::mem::take(snapshot), std::mem::take(entries))
            }
            RegisterCommand::Append { ballot, entries, .. } => {
                let (ballot, entries) = (*ballot, std::mem::take(entries));
                let Some(log) = &own.log else {
                    return Err(out_of_turn("under a view that the register did not accept"));
                };
                let bytes = log.bytes.saturating_add(encoded_bytes(&entries));
                let capacity = layout.checkpoint_capacity();
                if bytes > capacity {
                    return Err(RegisterFailure::Io(format!(
                        "the log of this view has {bytes} bytes, and the witness keeps {capacity}: \
                         the next view begins with a new checkpoint"
                    )));
                }
                let tag = (log.generation, ballot);
                if let Some((ops, position)) =
                    layout.record_image(own.station, log.position, tag, &entries)
                {
                    return Ok((ops, LogChange::Extend { position, entries }));
                }
                // The ring is full: everything becomes a new checkpoint, and the ring is empty.
                let all = log.entries.iter().cloned().chain(entries).collect();
                (ballot, log.snapshot.clone(), all)
            }
            _ => return Err(out_of_turn("without a log")),
        };
        let (ops, log) =
            own.checkpoint(&layout, ballot, snapshot, entries).map_err(RegisterFailure::Io)?;
        Ok((ops, LogChange::Replace(Box::new(log))))
    }

    /// Changes the own slot as the command says; the slot is written and all are read next.
    pub(super) fn change_slot(&mut self, command: &RegisterCommand) -> Result<(), RegisterFailure> {
        let slot = &mut self.own.slot;
        match command {
            RegisterCommand::Promise { ballot, members, .. } => {
                if slot.mbal > *ballot {
                    return Err(RegisterFailure::Outbid { counter: slot.mbal.counter });
                }
                slot.mbal = *ballot;
                slot.members.clone_from(members);
            }
            RegisterCommand::Accept { view, .. } => {
                assert!(slot.bal <= view.ballot, "bal never decreases");
                slot.bal = view.ballot;
                slot.view = Some(view.clone());
            }
            RegisterCommand::Renew { .. } => slot.renew += 1,
            _ => {}
        }
        if let Some(log) = &self.own.log {
            self.own.slot.last_seq = log.end();
        }
        self.own.synced = false;
        Ok(())
    }

    /// Finds the slot whose log is asked for.
    pub(super) fn locate(
        &self,
        wanted: NodeInc,
        slots: &Slots,
    ) -> Result<LogReader, RegisterFailure> {
        let corrupt = |why: &str| RegisterFailure::Corrupt(format!("slot of {wanted}: {why}"));
        let layout =
            self.own.layout.ok_or_else(|| out_of_turn("before the superblock was read"))?;
        let slot = slots.get(&wanted).ok_or_else(|| corrupt("is not on the witness any more"))?;
        if slot.view.is_none() {
            return Err(corrupt("has accepted nothing, so it has no log"));
        }
        let station = Station::of(slot.node, slot.inc);
        Ok(LogReader::new(layout, station, slot.bal, slot.last_seq))
    }

    /// The end of a job: what the slots that were read mean for it.
    pub(super) fn judge(&mut self, now: Instant) {
        let Some(job) = self.job.take() else { return };
        let (id, slots) = (job.id, &job.slots);
        let highest = slots.values().map(|s| s.mbal).max().unwrap_or_default();
        let outbid = |ballot: Ballot| {
            (highest > ballot).then_some(RegisterEvent::Failed {
                id,
                why: RegisterFailure::Outbid { counter: highest.counter },
            })
        };
        let event = match job.command {
            RegisterCommand::Promise { ballot, .. } => outbid(ballot).unwrap_or_else(|| {
                let best = slots.values().max_by_key(|s| (s.bal, s.last_seq));
                let best = best.filter(|s| s.view.is_some()).cloned();
                RegisterEvent::Promised { id, written: job.written, best }
            }),
            RegisterCommand::Accept { view, .. } => {
                outbid(view.ballot).unwrap_or(RegisterEvent::Accepted { id })
            }
            RegisterCommand::Append { ballot, .. } => outbid(ballot)
                .filter(|_| !self.config.rules.broken(Rule::NoReadBack))
                .unwrap_or(RegisterEvent::Appended { id }),
            RegisterCommand::Renew { view, .. } => {
                // The time of a renewal is the time before it was sent: what others wrote since may
                // not have been seen.
                let late = self.config.rules.broken(Rule::RenewDone);
                let sent = if late { now } else { job.begun };
                RegisterEvent::Renewed { id, sent, excluded: excluded(&view, slots) }
            }
            RegisterCommand::ReadLog { .. } => match job.log {
                Some(log) => {
                    RegisterEvent::Log { id, snapshot: log.snapshot, entries: log.entries }
                }
                None => RegisterEvent::Failed { id, why: out_of_turn("without a log") },
            },
            RegisterCommand::Release { .. } => RegisterEvent::Released { id },
            RegisterCommand::Cancel => return,
        };
        self.event(event);
    }

    /// A stage of a challenge, for the timeline.
    pub(super) fn challenge(&mut self, stage: ChallengeStage) {
        self.outputs.push_back(Output::Event(RegisterEvent::Challenge { stage }));
    }
}

/// The lives of the view's members that some slot excludes: it promised or accepted above the view,
/// without them.
fn excluded(view: &View, slots: &Slots) -> BTreeSet<NodeInc> {
    let out = |life: NodeInc| {
        slots.values().any(|slot| {
            let promised = slot.mbal > view.ballot && !same_members(&slot.members, life);
            let accepted =
                slot.view.as_ref().is_some_and(|v| v.ballot > view.ballot && !v.has(life));
            promised || accepted
        })
    };
    view.lives().filter(|&life| out(life)).collect()
}

/// A command that the core should not have given now.
pub(super) fn out_of_turn(what: &str) -> RegisterFailure {
    RegisterFailure::Io(format!("a command to the witness {what} was refused"))
}
