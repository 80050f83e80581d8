//! A machine's resource monitor and guard, as far as the protocol can see them: what runs, and what
//! ends it.
//!
//! The guard outlives the service. It ends everything at lease end or when the service is gone,
//! within the margin, and may then prove it to the peers; after that nothing of this life runs ever
//! again. The times are chosen here, the decisions are the core's.

use std::collections::BTreeMap;
use std::time::Duration;

use wolfpack_types::monitor::{MonitorCommand, MonitorEvent};
use wolfpack_types::{Instant, NodeInc, ResourceId};

use crate::draw::Dice;

/// Where a resource stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    Starting,
    Online,
    Stopping,
}

/// A resource that runs, or may: from the start of its online call until it is known ended.
#[derive(Clone, Debug)]
pub struct Run {
    pub group: String,
    pub life: NodeInc,
    phase: Phase,
    call: u64,
}

/// The end of a call, some time later.
#[derive(Clone, Copy, Debug)]
pub struct CallEnd {
    call: u64,
    resource: ResourceId,
    /// Calls of a monitor that has died since have no end.
    monitor: u32,
    kind: CallKind,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum CallKind {
    Online { works: bool },
    End,
}

/// The guard's state.
#[derive(Debug, Default)]
pub struct Guard {
    /// The life it works for.
    pub life: Option<NodeInc>,
    /// The lease as the driver thread has last published it, by the own clock.
    pub lease_end: Instant,
    /// It has begun to end everything of this life.
    pub ended: bool,
    /// A check at lease end is planned.
    pub watching: bool,
    /// Everything of the life is being ended; a new life cannot attach yet.
    pub ending: bool,
}

/// What runs on one machine.
#[derive(Debug, Default)]
pub struct Machine {
    runs: BTreeMap<ResourceId, Run>,
    pub guard: Guard,
    monitor: u32,
    /// Of a thousand online calls, so many fail.
    pub failing: u32,
}

/// The shortest and longest call.
const CALL: (Duration, Duration) = (Duration::from_millis(2), Duration::from_millis(120));

/// What a command led to.
#[derive(Debug)]
pub enum Taken {
    /// The call ends after this time.
    Later(Duration, CallEnd),
    /// Answered at once.
    Now(MonitorEvent),
    Ignored,
}

impl Machine {
    /// What runs.
    pub fn runs(&self) -> impl Iterator<Item = &Run> {
        self.runs.values()
    }

    /// Nothing of an earlier life runs or is being ended: a new service may attach.
    #[must_use]
    pub fn is_clear(&self) -> bool {
        self.runs.is_empty() && !self.guard.ending
    }

    /// A service of this life attaches.
    pub fn attach(&mut self, life: NodeInc) {
        debug_assert!(self.is_clear(), "the guard refuses a life while another's things run");
        self.guard = Guard { life: Some(life), ..Guard::default() };
        self.monitor += 1;
    }

    /// A command of the service arrives at the monitor.
    pub fn command(
        &mut self,
        now: Instant,
        dice: &mut Dice,
        life: NodeInc,
        command: MonitorCommand,
    ) -> Taken {
        if self.guard.ended || self.guard.life != Some(life) {
            return Taken::Ignored;
        }
        match command {
            MonitorCommand::Online { call, resource, .. } => {
                if now >= self.guard.lease_end {
                    let outcome = Err("the lease is over".to_owned());
                    return Taken::Now(MonitorEvent::Done { call, resource: resource.id, outcome });
                }
                let run = Run { group: resource.group, life, phase: Phase::Starting, call };
                self.runs.insert(resource.id, run);
                let kind = CallKind::Online { works: !dice.permille(self.failing) };
                self.later(dice, call, resource.id, kind)
            }
            MonitorCommand::Offline { call, resource }
            | MonitorCommand::Terminate { call, resource } => {
                if let Some(run) = self.runs.get_mut(&resource) {
                    run.phase = Phase::Stopping;
                    run.call = call;
                }
                self.later(dice, call, resource, CallKind::End)
            }
            _ => Taken::Ignored,
        }
    }

    fn later(&self, dice: &mut Dice, call: u64, resource: ResourceId, kind: CallKind) -> Taken {
        let end = CallEnd { call, resource, monitor: self.monitor, kind };
        Taken::Later(dice.between(CALL.0, CALL.1), end)
    }

    /// A call ends; what the service is told, and the run that ended with it.
    pub fn call_ends(&mut self, now: Instant, end: CallEnd) -> (Option<MonitorEvent>, Option<Run>) {
        if end.monitor != self.monitor || self.guard.ended {
            return (None, None);
        }
        let current = self.runs.get(&end.resource).is_some_and(|run| run.call == end.call);
        let (outcome, ended) = match end.kind {
            CallKind::Online { works } if current => {
                if works && now < self.guard.lease_end {
                    if let Some(run) = self.runs.get_mut(&end.resource) {
                        run.phase = Phase::Online;
                    }
                    (Ok(()), None)
                } else {
                    (Err("it did not start".to_owned()), self.runs.remove(&end.resource))
                }
            }
            CallKind::Online { .. } => (Err("it was ended".to_owned()), None),
            CallKind::End => (Ok(()), if current { self.runs.remove(&end.resource) } else { None }),
        };
        let done = MonitorEvent::Done { call: end.call, resource: end.resource, outcome };
        (Some(done), ended)
    }

    /// An online resource fails by itself.
    pub fn fail_one(&mut self, dice: &mut Dice) -> Option<(MonitorEvent, Run)> {
        let online: Vec<ResourceId> = self
            .runs
            .iter()
            .filter(|(_, run)| run.phase == Phase::Online)
            .map(|(&id, _)| id)
            .collect();
        if online.is_empty() || self.guard.ended {
            return None;
        }
        let resource = dice.pick(&online);
        let run = self.runs.remove(&resource)?;
        Some((MonitorEvent::Failed { resource, why: "it exited".into() }, run))
    }

    /// The monitor process dies and is started again: calls under way have no end, what runs goes
    /// on running.
    pub fn monitor_dies(&mut self) -> [MonitorEvent; 2] {
        self.monitor += 1;
        [MonitorEvent::Crashed { monitor: 1, blame: None }, MonitorEvent::Restarted { monitor: 1 }]
    }

    /// Everything is ended. Answers what had been running.
    pub fn end_all(&mut self) -> Vec<Run> {
        self.guard.ending = false;
        std::mem::take(&mut self.runs).into_values().collect()
    }

    /// Whether everything of a wanted group is online here.
    #[must_use]
    pub fn is_online(&self, group: &str) -> bool {
        let mut of_group = self.runs.values().filter(|run| run.group == group).peekable();
        of_group.peek().is_some() && of_group.all(|run| run.phase == Phase::Online)
    }
}
