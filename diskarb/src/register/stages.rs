//! The stages of which jobs are made: what each sends, and what the end of its disk command means.
//!
//! ```text
//!  Reserve ─good─▶ Prepare ─▶ [Superblock ▶ Drain ▶ Gather ▶ Carry ▶ Head 0,1 ▶ CarryLog ▶ CarryWrite]
//!     │ conflict                                                     (once in a life)
//!     ▼
//!  Reset ▶ Wait 2R+margin ▶ Reserve ─conflict─▶ Defended
//!
//!  Admit ▶ Settle ▶ WriteLog ▶ Change ▶ (body) ▶ SlotBlock ▶ Gather ▶ Judge
//! ```

use std::collections::VecDeque;

use wolfpack_types::disk::{DiskOp, DiskOutcome};
use wolfpack_types::register::{ChallengeStage, RegisterFailure};
use wolfpack_types::{Instant, Rule};

use super::Register;
use super::jobs::out_of_turn;
use super::own::LogChange;
use crate::layout::{Layout, LogReader, Place, ReadStep, Station};
use crate::sense;

/// RESERVE is sent again after this many unit attentions, aborts or BUSY: two resets queue two.
const RESERVE_TRIES: u8 = 4;

/// The slots are read again so many times when a body was replaced meanwhile.
const GATHER_TRIES: u8 = 4;

/// What a RESERVE is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Try {
    /// By the holder before each renewal.
    Defend,
    /// The first of a challenge: nobody may hold it (a hand-over), or it is held already.
    Take,
    /// After LUN reset and wait.
    Retake,
}

/// One step of a job.
#[derive(Debug)]
pub(super) enum Stage {
    Reserve {
        tries: u8,
        why: Try,
    },
    Reset,
    Wait {
        until: Option<Instant>,
    },
    Release {
        tries: u8,
    },
    /// Carries the own slots over, if this life has not done so.
    Prepare,
    Superblock,
    /// Until no command of a former life can be executed any more.
    Drain,
    /// Reads all slots.
    Gather {
        tries: u8,
    },
    Bodies {
        places: VecDeque<Place>,
        tries: u8,
    },
    Carry,
    Head(u8),
    CarryLog {
        reader: LogReader,
        from: Station,
    },
    CarryWrite,
    Carried,
    Admit,
    /// Makes sure that the disk has the own slot as meant (`fully`), or at least that it is known
    /// which writes of it were carried out.
    Settle {
        fully: bool,
    },
    WriteLog,
    /// Writes; when all are done the own log is changed.
    Writes {
        ops: VecDeque<DiskOp>,
        change: LogChange,
    },
    /// Changes the own slot as the command says, writes it, reads all, judges.
    Change,
    WriteSlot,
    SlotBlock {
        op: DiskOp,
        which: Option<u8>,
    },
    Repeat,
    Locate,
    ReadLog(LogReader),
    Judge,
}

impl Stage {
    pub(super) const fn reserve(why: Try) -> Self {
        Self::Reserve { tries: RESERVE_TRIES, why }
    }

    pub(super) const fn gather() -> Self {
        Self::Gather { tries: GATHER_TRIES }
    }
}

pub(super) type Outcome<T> = Result<T, RegisterFailure>;

impl Register {
    /// Begins the next stage of the job. False if it must wait (for time, or for former lives).
    pub(super) fn advance(&mut self, now: Instant) -> bool {
        let next = self.job.as_mut().and_then(|job| job.stages.pop_front());
        let Some(stage) = next else {
            self.judge(now);
            return true;
        };
        match self.enter(now, stage) {
            Ok(go_on) => go_on,
            Err(why) => {
                self.fail(why);
                true
            }
        }
    }

    fn enter(&mut self, now: Instant, stage: Stage) -> Outcome<bool> {
        match stage {
            Stage::Reserve { .. } => self.command_of(stage, DiskOp::Reserve),
            Stage::Reset => self.command_of(stage, DiskOp::LunReset),
            Stage::Release { .. } => self.command_of(stage, DiskOp::Release),
            Stage::Wait { until } => {
                let wait = self.config.times.challenge_wait();
                let until = until.unwrap_or_else(|| now + wait);
                if now < until {
                    self.first([Stage::Wait { until: Some(until) }]);
                    return Ok(false);
                }
            }
            Stage::Drain => {
                if !self.former_lives_dead && !self.config.rules.broken(Rule::NoDrain) {
                    self.first([Stage::Drain]);
                    return Ok(false);
                }
            }
            Stage::Superblock => {
                if self.own.layout.is_none() {
                    self.command_of(stage, DiskOp::Read { lba: 0, blocks: 1 });
                }
            }
            Stage::Gather { .. } => {
                let (lba, blocks) = self.layout()?.slot_area();
                self.command_of(stage, DiskOp::Read { lba, blocks });
            }
            Stage::Bodies { ref places, .. } => {
                if let Some(place) = places.front() {
                    let op = self.layout()?.body_read(place);
                    self.command_of(stage, op);
                }
            }
            Stage::Head(area) => {
                let op = self.layout()?.head_read(self.own.station, area);
                self.command_of(stage, op);
            }
            Stage::CarryLog { ref reader, .. } | Stage::ReadLog(ref reader) => {
                let op = reader.start();
                self.command_of(stage, op);
            }
            Stage::Writes { ref ops, .. } => {
                if let Some(op) = ops.front().cloned() {
                    self.command_of(stage, op);
                }
            }
            Stage::SlotBlock { ref op, which } => {
                let op = op.clone();
                self.own.slot_sent(&op, which);
                self.command_of(stage, op);
            }
            Stage::Repeat => {
                if let Some(op) = self.own.repetition() {
                    self.command_of(stage, op);
                }
            }
            Stage::Judge => self.judge(now),
            immediate => self.enter_immediate(immediate)?,
        }
        Ok(true)
    }

    /// Stages that send nothing themselves.
    fn enter_immediate(&mut self, stage: Stage) -> Outcome<()> {
        match stage {
            Stage::Prepare if !self.own.ready => {
                let (drain, gather) = (Stage::Drain, Stage::gather());
                self.first([Stage::Superblock, drain, gather, Stage::Carry]);
            }
            Stage::Carry => self.carry()?,
            Stage::CarryWrite => self.carry_write()?,
            Stage::Carried => self.carried(),
            Stage::Admit => {
                if let Some(job) = &self.job {
                    self.admit(&job.command)?;
                }
            }
            Stage::Settle { fully } => {
                if self.own.repetition().is_some() {
                    self.first([Stage::Repeat, Stage::Settle { fully }]);
                } else if fully && !self.own.synced {
                    self.first([Stage::WriteSlot]);
                }
            }
            Stage::WriteLog => {
                let Some(mut job) = self.job.take() else { return Ok(()) };
                let writes = self.log_writes(&mut job.command);
                self.job = Some(job);
                let (ops, change) = writes?;
                self.first([Stage::Writes { ops, change }]);
            }
            Stage::Change => {
                let Some(job) = self.job.take() else { return Ok(()) };
                let changed = self.change_slot(&job.command);
                self.job = Some(job);
                changed?;
                self.first([Stage::WriteSlot, Stage::gather(), Stage::Judge]);
            }
            Stage::WriteSlot => {
                let layout = self.layout()?;
                let image = self.own.image(&layout).map_err(RegisterFailure::Io)?;
                let ops = image.body.into_iter().collect();
                let block = Stage::SlotBlock { op: image.block, which: image.which };
                self.first([Stage::Writes { ops, change: LogChange::None }, block]);
            }
            Stage::Locate => {
                let Some(job) = &self.job else { return Ok(()) };
                let wolfpack_types::register::RegisterCommand::ReadLog { slot, .. } = job.command
                else {
                    return Err(out_of_turn("without a log"));
                };
                let reader = self.locate(slot, &job.slots)?;
                self.first([Stage::ReadLog(reader)]);
            }
            _ => {}
        }
        Ok(())
    }

    /// The end of the current stage's command.
    pub(super) fn stage_ended(&mut self, now: Instant, outcome: DiskOutcome) {
        let Some(stage) = self.job.as_mut().and_then(|job| job.current.take()) else { return };
        if let Err(why) = self.leave(now, stage, outcome) {
            self.fail(why);
        }
    }

    fn leave(&mut self, now: Instant, stage: Stage, outcome: DiskOutcome) -> Outcome<()> {
        match stage {
            Stage::Reserve { tries, why } => return self.reserved(tries, why, &outcome),
            Stage::Release { tries } => {
                return match outcome {
                    // Another holds it: then we do not.
                    DiskOutcome::Good(_) | DiskOutcome::Conflict => Ok(()),
                    DiskOutcome::UnitAttention { .. } | DiskOutcome::Aborted if tries > 1 => {
                        self.first([Stage::Release { tries: tries - 1 }]);
                        Ok(())
                    }
                    other => Err(io("RELEASE", &other)),
                };
            }
            Stage::Reset => {
                good("LUN RESET", outcome)?;
                self.challenge(ChallengeStage::Reset);
            }
            Stage::Writes { mut ops, change } => {
                good("WRITE of the log", outcome)?;
                ops.pop_front();
                if ops.is_empty() {
                    self.own.log_written(change);
                } else {
                    self.first([Stage::Writes { ops, change }]);
                }
            }
            Stage::SlotBlock { .. } => {
                good("WRITE of the slot", outcome)?;
                if let Some(job) = &mut self.job {
                    job.written = now;
                }
            }
            Stage::Repeat => {
                good("WRITE of the slot", outcome)?;
            }
            read => return self.leave_read(read, outcome),
        }
        Ok(())
    }

    /// The end of a read: what it brought.
    fn leave_read(&mut self, stage: Stage, outcome: DiskOutcome) -> Outcome<()> {
        match stage {
            Stage::Superblock => {
                let block = good("READ of the superblock", outcome)?;
                self.own.layout = Some(self.superblock(&block)?);
            }
            Stage::Gather { tries } => {
                let data = good("READ of the slots", outcome)?;
                self.gathered(&data, tries)?;
            }
            Stage::Bodies { places, tries } => {
                let data = good("READ of a slot body", outcome)?;
                self.body_read(places, tries, &data)?;
            }
            Stage::Head(_) => {
                let data = good("READ of a checkpoint", outcome)?;
                if let Some(head) = self.layout()?.parse_head(&data) {
                    self.own.newest = self.own.newest.max(head.generation);
                }
            }
            Stage::CarryLog { mut reader, from } => {
                let data = good("READ of the own log", outcome)?;
                match reader.feed(&data) {
                    ReadStep::Read(op) => self.command_of(Stage::CarryLog { reader, from }, op),
                    ReadStep::Corrupt(why) => return Err(RegisterFailure::Corrupt(why)),
                    ReadStep::Done(log) => self.log_carried(*log, from),
                }
            }
            Stage::ReadLog(mut reader) => {
                let data = good("READ of a log", outcome)?;
                match reader.feed(&data) {
                    ReadStep::Read(op) => self.command_of(Stage::ReadLog(reader), op),
                    ReadStep::Corrupt(why) => return Err(RegisterFailure::Corrupt(why)),
                    ReadStep::Done(log) => {
                        if let Some(job) = &mut self.job {
                            job.log = Some(*log);
                        }
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// RESERVE has ended.
    fn reserved(&mut self, tries: u8, why: Try, outcome: &DiskOutcome) -> Outcome<()> {
        let regaining = self.job.as_ref().is_some_and(|job| job.regaining);
        match (outcome, why) {
            (DiskOutcome::Good(_), _) => {
                if why == Try::Retake {
                    self.challenge(ChallengeStage::Won);
                }
                if regaining {
                    // Somebody was in between: what this renewal would prove is not known.
                    return Err(RegisterFailure::Io(
                        "reservation regained; this renewal is not counted".into(),
                    ));
                }
            }
            (DiskOutcome::Conflict, Try::Defend) => {
                // A dead holder (perhaps an own former session), or a better challenger: find out.
                if let Some(job) = &mut self.job {
                    job.regaining = true;
                }
                self.first([Stage::reserve(Try::Take)]);
            }
            (DiskOutcome::Conflict, Try::Take) => {
                self.challenge(ChallengeStage::Conflict);
                let wait = Stage::Wait { until: None };
                self.first([Stage::Reset, wait, Stage::reserve(Try::Retake)]);
            }
            (DiskOutcome::Conflict, Try::Retake) => {
                self.challenge(ChallengeStage::Lost);
                return Err(RegisterFailure::Defended);
            }
            // Not executed, reservation unknown: ask again.
            (DiskOutcome::UnitAttention { .. } | DiskOutcome::Aborted | DiskOutcome::Busy, _)
                if tries > 1 =>
            {
                self.first([Stage::Reserve { tries: tries - 1, why }])
            }
            (other, _) => return Err(io("RESERVE", other)),
        }
        Ok(())
    }

    pub(super) fn layout(&self) -> Outcome<Layout> {
        self.own.layout.ok_or_else(|| out_of_turn("before the superblock was read"))
    }

    pub(super) fn first<const N: usize>(&mut self, stages: [Stage; N]) {
        if let Some(job) = &mut self.job {
            job.first(stages);
        }
    }

    fn command_of(&mut self, stage: Stage, op: DiskOp) {
        let slot = matches!(stage, Stage::SlotBlock { .. } | Stage::Repeat);
        if let Some(job) = &mut self.job {
            job.current = Some(stage);
        }
        self.send(op, slot);
    }
}

/// The data of a GOOD; everything else fails the job.
fn good(what: &str, outcome: DiskOutcome) -> Outcome<Vec<u8>> {
    match outcome {
        DiskOutcome::Good(data) => Ok(data),
        other => Err(io(what, &other)),
    }
}

/// A failed disk command in words.
fn io(what: &str, outcome: &DiskOutcome) -> RegisterFailure {
    RegisterFailure::Io(format!("{what} on the witness: {}", sense::words(outcome)))
}
