//! The witness disk: sparse blocks, one SCSI-2 reservation, unit attentions, LUN resets.
//!
//! A command travels (and survives its sender), waits in the target's queue (where a reset aborts
//! it, and the kernel of some machines then sends it again), is executed at one instant, and its
//! completion travels back, perhaps to a disk thread that has given up waiting. It knows nothing of
//! slots: that is the register machine's.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use wolfpack_types::disk::{DiskOp, DiskOutcome};
use wolfpack_types::register::Exclusion;
use wolfpack_types::{NodeId, NodeInc};

use crate::clock::Time;
use crate::draw::{Delays, Dice, nanos};

/// Bytes of a logical block.
pub const BLOCK: usize = 512;
const PAGE_BLOCKS: u64 = 8;
const PAGE: usize = 4096;

/// A path from a machine to the unit: what a reservation belongs to. Those of the nodes count from
/// 1; with 0 it is a stranger's, whatever the node.
pub type Nexus = (NodeId, u32);

/// What the next step of a command is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    Arrive,
    Execute,
    /// The completion reaches the disk thread.
    Complete,
    /// The disk thread gives up waiting.
    GiveUp,
}

/// What a disk thread is told.
#[derive(Clone, PartialEq, Debug)]
pub enum Told {
    Done(DiskOutcome),
    /// A command that it had given up will not be executed any more.
    Dead,
}

#[derive(Debug)]
struct Command {
    nexus: Nexus,
    life: NodeInc,
    /// The register machine's number for it.
    id: u64,
    op: DiskOp,
    queued: bool,
    /// Executed, or aborted for good.
    outcome: Option<DiskOutcome>,
    given_up: bool,
    resent: bool,
    /// A scene's choice of the way back.
    back: Option<Duration>,
}

/// A scene's choice of (way there, way back) for a command.
pub type DiskRigging = Box<dyn FnMut(NodeInc, &DiskOp) -> Option<(Duration, Duration)>>;

/// The unit.
pub struct Device {
    exclusion: Exclusion,
    /// The nodes that it is prepared for.
    pub nodes: u8,
    pages: BTreeMap<u64, Box<[u8; PAGE]>>,
    holder: Option<Nexus>,
    attention: BTreeSet<Nexus>,
    nexuses: BTreeSet<Nexus>,
    commands: BTreeMap<u64, Command>,
    serial: u64,
    unreachable_from: BTreeSet<NodeId>,
    rigging: Option<DiskRigging>,
    /// Unit of the long delays: a thirtieth of the lease.
    tick: Duration,
    command_timeout: Duration,
    pub delays: Delays,
    pub slow_commands: u32,
    pub late_completions: u32,
    /// Every command takes so many times as long.
    pub slow_by: u32,
    /// The kernel of the machines sends aborted commands again, now and then.
    pub resends: u32,
}

impl std::fmt::Debug for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Device {{ holder: {:?}, commands: {} }}", self.holder, self.commands.len())
    }
}

/// An executed write, for the checks.
#[derive(Debug)]
pub struct Written {
    pub by: NodeInc,
    pub lba: u64,
    pub before: Vec<u8>,
    pub after: Vec<u8>,
}

/// What became of a step.
#[derive(Debug, Default)]
pub struct Progress {
    /// The next step of the command.
    pub then: Option<(Time, Step)>,
    pub told: Option<(NodeInc, u64, Told)>,
    pub written: Option<Written>,
    pub reset: bool,
}

impl Device {
    /// An empty unit.
    #[must_use]
    pub fn new(params: &crate::draw::Params) -> Self {
        Self {
            exclusion: params.exclusion,
            nodes: params.nodes,
            pages: BTreeMap::new(),
            holder: None,
            attention: BTreeSet::new(),
            nexuses: BTreeSet::new(),
            commands: BTreeMap::new(),
            serial: 0,
            unreachable_from: BTreeSet::new(),
            rigging: None,
            tick: params.times.lease / 30,
            command_timeout: params.times.command_timeout,
            delays: params.disk,
            slow_commands: params.slow_commands,
            late_completions: params.late_completions,
            slow_by: 1,
            resends: if params.quiet { 0 } else { 200 },
        }
    }

    /// A directed scene takes over how long commands travel, or gives it back.
    pub fn rig(&mut self, rigging: Option<DiskRigging>) {
        self.rigging = rigging;
    }

    /// A machine logs in anew.
    pub fn log_in(&mut self, nexus: Nexus) {
        self.nexuses.insert(nexus);
    }

    /// A machine's session is gone. `noticed`: the target has seen it, and so releases.
    pub fn log_out(&mut self, nexus: Nexus, noticed: bool) {
        self.nexuses.remove(&nexus);
        self.attention.remove(&nexus);
        if noticed && self.holder == Some(nexus) {
            self.holder = None;
        }
    }

    /// LOGICAL UNIT RESET, by one of the nodes or by a stranger.
    pub fn reset(&mut self) {
        self.holder = None;
        for command in self.commands.values_mut() {
            command.queued = false;
        }
        self.attention = self.nexuses.clone();
    }

    /// Who holds the reservation.
    #[must_use]
    pub fn holder(&self) -> Option<NodeId> {
        self.holder.filter(|&(_, serial)| serial > 0).map(|(node, _)| node)
    }

    /// Another machine takes the reservation if it is free; whether it has it anew.
    pub fn stranger_reserves(&mut self) -> bool {
        let free = self.holder.is_none();
        if free {
            self.holder = NodeId::new(NodeId::MAX).ok().map(|node| (node, 0));
        }
        free
    }

    /// It lets go.
    pub fn stranger_leaves(&mut self) {
        self.holder = self.holder.filter(|&(_, serial)| serial > 0);
    }

    /// Every path is told of a change (parameters, other initiators): the reservation stands, which
    /// nobody can know.
    pub fn unit_attention(&mut self) {
        self.attention = self.nexuses.clone();
    }

    /// The storage network of a machine fails or is back.
    pub fn set_path(&mut self, node: NodeId, works: bool) {
        if works {
            self.unreachable_from.remove(&node);
        } else {
            self.unreachable_from.insert(node);
        }
    }

    /// Every storage network works, the unit is quick, strangers are gone.
    pub fn heal(&mut self) {
        self.slow_by = 1;
        self.stranger_leaves();
        self.unreachable_from.clear();
    }

    /// Whether a command of an earlier life of the node may still be executed.
    #[must_use]
    pub fn former_lives_have_commands(&self, now: NodeInc) -> bool {
        self.commands
            .values()
            .any(|c| c.life.node == now.node && c.life.inc < now.inc && c.outcome.is_none())
    }

    /// Whether a write of this node is on its way or in the queue.
    #[must_use]
    pub fn write_in_flight(&self, node: NodeId) -> bool {
        self.commands.values().any(|c| {
            c.life.node == node && c.outcome.is_none() && matches!(c.op, DiskOp::Write { .. })
        })
    }

    /// A disk thread sends a command. Answers its number and its first steps.
    pub fn submit(
        &mut self,
        now: Time,
        dice: &mut Dice,
        nexus: Nexus,
        life: NodeInc,
        id: u64,
        op: DiskOp,
    ) -> (u64, [(Time, Step); 2]) {
        let rigged = self.rigging.as_mut().and_then(|rig| rig(life, &op));
        let there = rigged.map_or_else(
            || {
                let mut there = self.delays.draw(dice) * self.slow_by;
                if dice.permille(self.slow_commands) {
                    there += dice.between(self.tick * 10, self.tick * 60);
                }
                there
            },
            |(there, _)| there,
        );
        self.serial += 1;
        let command = Command {
            nexus,
            life,
            id,
            op,
            queued: false,
            outcome: None,
            given_up: false,
            resent: false,
            back: rigged.map(|(_, back)| back),
        };
        self.commands.insert(self.serial, command);
        let steps =
            [(now + nanos(there), Step::Arrive), (now + nanos(self.command_timeout), Step::GiveUp)];
        (self.serial, steps)
    }

    /// Carries out one step of a command.
    pub fn step(&mut self, now: Time, dice: &mut Dice, number: u64, step: Step) -> Progress {
        let mut progress = Progress::default();
        let Some(command) = self.commands.get_mut(&number) else { return progress };
        match step {
            Step::Arrive if self.unreachable_from.contains(&command.life.node) => {
                command.outcome = Some(DiskOutcome::Transport("the path is down".into()));
                progress.then = Some((now, Step::Complete));
            }
            Step::Arrive => {
                command.queued = true;
                let wait = if command.back.is_some() {
                    Duration::from_micros(50)
                } else {
                    self.delays.draw(dice)
                };
                progress.then = Some((now + nanos(wait), Step::Execute));
            }
            Step::Execute => self.execute(now, dice, number, &mut progress),
            Step::Complete => {
                let Some(command) = self.commands.remove(&number) else { return progress };
                let outcome = command.outcome.unwrap_or(DiskOutcome::Aborted);
                let told = if command.given_up { Told::Dead } else { Told::Done(outcome) };
                progress.told = Some((command.life, command.id, told));
            }
            Step::GiveUp => {
                command.given_up = true;
                progress.told = Some((command.life, command.id, Told::Done(DiskOutcome::Timeout)));
            }
        }
        progress
    }

    fn execute(&mut self, now: Time, dice: &mut Dice, number: u64, progress: &mut Progress) {
        let Some(command) = self.commands.get_mut(&number) else { return };
        if !command.queued {
            if !command.resent && dice.permille(self.resends) {
                command.resent = true;
                let wait = dice.between(self.tick, self.tick * 6);
                progress.then = Some((now + nanos(wait), Step::Arrive));
                return;
            }
            command.outcome = Some(DiskOutcome::Aborted);
        } else if self.exclusion == Exclusion::Reserve
            && command.op != DiskOp::LunReset
            && self.attention.remove(&command.nexus)
        {
            if dice.permille(self.resends) {
                let wait = dice.span(self.tick * 3);
                progress.then = Some((now + nanos(wait), Step::Arrive));
                return;
            }
            command.outcome = Some(DiskOutcome::UnitAttention { asc: 0x29, ascq: 0 });
        } else {
            let (nexus, life, op) = (command.nexus, command.life, command.op.clone());
            let outcome = self.perform(nexus, life, op, progress);
            if let Some(command) = self.commands.get_mut(&number) {
                command.outcome = Some(outcome);
            }
        }
        let back = self.commands.get(&number).and_then(|c| c.back);
        let back = back.unwrap_or_else(|| {
            let mut back = self.delays.draw(dice);
            if dice.permille(self.late_completions) {
                back += dice.between(self.tick * 3, self.tick * 30);
            }
            back
        });
        progress.then = Some((now + nanos(back), Step::Complete));
    }

    fn perform(
        &mut self,
        nexus: Nexus,
        life: NodeInc,
        op: DiskOp,
        progress: &mut Progress,
    ) -> DiskOutcome {
        let reserved_by_another = self.exclusion == Exclusion::Reserve
            && self.holder.is_some_and(|holder| holder != nexus);
        match op {
            DiskOp::LunReset => {
                self.reset();
                progress.reset = true;
                DiskOutcome::Good(Vec::new())
            }
            DiskOp::Release => {
                if self.holder == Some(nexus) {
                    self.holder = None;
                }
                DiskOutcome::Good(Vec::new())
            }
            _ if reserved_by_another => DiskOutcome::Conflict,
            DiskOp::Reserve => {
                self.holder = Some(nexus);
                DiskOutcome::Good(Vec::new())
            }
            DiskOp::Test => DiskOutcome::Good(Vec::new()),
            DiskOp::Read { lba, blocks } => DiskOutcome::Good(self.read(lba, blocks)),
            DiskOp::Write { lba, data } => {
                let blocks = u32::try_from(data.len() / BLOCK).unwrap_or(u32::MAX);
                let before = self.read(lba, blocks);
                self.write(lba, &data);
                progress.written = Some(Written { by: life, lba, before, after: data });
                DiskOutcome::Good(Vec::new())
            }
        }
    }

    /// Blocks as they are.
    #[must_use]
    pub fn read(&self, lba: u64, blocks: u32) -> Vec<u8> {
        let mut out = vec![0; blocks as usize * BLOCK];
        for (k, chunk) in out.chunks_mut(BLOCK).enumerate() {
            let at = lba + k as u64;
            if let Some(page) = self.pages.get(&(at / PAGE_BLOCKS)) {
                let offset = usize::try_from(at % PAGE_BLOCKS).unwrap_or(0) * BLOCK;
                chunk.copy_from_slice(&page[offset..offset + BLOCK]);
            }
        }
        out
    }

    /// Sets blocks, as preparing the disk does.
    pub fn write(&mut self, lba: u64, data: &[u8]) {
        for (k, chunk) in data.chunks_exact(BLOCK).enumerate() {
            let at = lba + k as u64;
            let page = self.pages.entry(at / PAGE_BLOCKS).or_insert_with(|| Box::new([0; PAGE]));
            let offset = usize::try_from(at % PAGE_BLOCKS).unwrap_or(0) * BLOCK;
            page[offset..offset + BLOCK].copy_from_slice(chunk);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::draw::Params;
    use wolfpack_types::Incarnation;
    use wolfpack_types::membership::QuorumType;

    fn life(node: u8) -> NodeInc {
        NodeInc::new(NodeId::new(node).unwrap(), Incarnation(1))
    }

    struct Bench {
        device: Device,
        dice: Dice,
        now: Time,
    }

    impl Bench {
        fn new() -> Self {
            let params = Params::quiet(2, QuorumType::Disk, Exclusion::Reserve);
            let mut device = Device::new(&params);
            device.log_in((life(1).node, 1));
            device.log_in((life(2).node, 1));
            Self { device, dice: Dice::new(1, 1), now: 0 }
        }

        /// A command from start to end.
        fn run(&mut self, node: u8, op: DiskOp) -> DiskOutcome {
            let (life, nexus) = (life(node), (life(node).node, 1));
            let (number, [first, _]) =
                self.device.submit(self.now, &mut self.dice, nexus, life, 1, op);
            let mut next = Some(first);
            while let Some((at, step)) = next {
                self.now = at;
                let progress = self.device.step(at, &mut self.dice, number, step);
                if let Some((_, _, Told::Done(outcome))) = progress.told {
                    return outcome;
                }
                next = progress.then;
            }
            panic!("the command has no end");
        }
    }

    #[test]
    fn a_reservation_keeps_others_out_until_a_reset() {
        let mut bench = Bench::new();
        assert_eq!(bench.run(1, DiskOp::Reserve), DiskOutcome::Good(vec![]));
        assert_eq!(bench.run(2, DiskOp::Reserve), DiskOutcome::Conflict);
        assert_eq!(bench.run(2, DiskOp::Read { lba: 0, blocks: 1 }), DiskOutcome::Conflict);
        assert_eq!(bench.run(2, DiskOp::LunReset), DiskOutcome::Good(vec![]));
        let attention = DiskOutcome::UnitAttention { asc: 0x29, ascq: 0 };
        assert_eq!(bench.run(2, DiskOp::Reserve), attention, "a reset is told to everybody");
        assert_eq!(bench.run(2, DiskOp::Reserve), DiskOutcome::Good(vec![]));
        assert_eq!(bench.run(1, DiskOp::Test), attention);
        assert_eq!(bench.run(1, DiskOp::Reserve), DiskOutcome::Conflict);
    }

    #[test]
    fn written_blocks_are_read_back() {
        let mut bench = Bench::new();
        let data: Vec<u8> = (0..BLOCK * 9).map(|k| u8::try_from(k % 251).unwrap()).collect();
        bench.run(1, DiskOp::Write { lba: 5, data: data.clone() });
        assert_eq!(bench.run(2, DiskOp::Read { lba: 5, blocks: 9 }), DiskOutcome::Good(data));
        let zeros = DiskOutcome::Good(vec![0; BLOCK]);
        assert_eq!(bench.run(2, DiskOp::Read { lba: 4, blocks: 1 }), zeros);
    }

    #[test]
    fn a_command_that_was_given_up_is_executed_later_and_then_dead() {
        let mut bench = Bench::new();
        bench.device.slow_commands = 1000;
        let op = DiskOp::Write { lba: 0, data: vec![7; BLOCK] };
        let nexus = (life(1).node, 1);
        let (number, [arrive, give_up]) =
            bench.device.submit(0, &mut bench.dice, nexus, life(1), 9, op);
        let told = bench.device.step(give_up.0, &mut bench.dice, number, Step::GiveUp).told;
        assert_eq!(told, Some((life(1), 9, Told::Done(DiskOutcome::Timeout))));
        assert!(bench.device.write_in_flight(life(1).node));
        let mut next = Some(arrive);
        let mut last = None;
        while let Some((at, step)) = next {
            let progress = bench.device.step(at, &mut bench.dice, number, step);
            last = progress.told.or(last);
            next = progress.then;
        }
        assert_eq!(last, Some((life(1), 9, Told::Dead)));
        assert_eq!(bench.device.read(0, 1), vec![7; BLOCK]);
    }
}
