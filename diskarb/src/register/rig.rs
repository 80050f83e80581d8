//! An in-memory unit (reservation, unit attentions, queued faults) and registers of several lives
//! at it, for the tests.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use wolfpack_types::disk::{DiskOp, DiskOutcome};
use wolfpack_types::event::Cause;
use wolfpack_types::register::{Exclusion, RegisterCommand, RegisterEvent};
use wolfpack_types::store::Snapshot;
use wolfpack_types::update::{LogEntry, Update};
use wolfpack_types::{
    Ballot, ClusterId, Force, GroupId, Guid, Incarnation, Instant, Member, Members, NodeId,
    NodeInc, Rule, Rules, Seq, StoreId, Times, View, VoteTable,
};

use super::{Input, Output, Register, RegisterConfig};
use crate::layout::Layout;

pub(super) const CLUSTER: ClusterId = ClusterId(Guid(0xfeed));

pub(super) fn node(n: u8) -> NodeId {
    NodeId::new(n).unwrap()
}

pub(super) fn life(n: u8, inc: u64) -> NodeInc {
    NodeInc::new(node(n), Incarnation(inc))
}

pub(super) fn ballot(counter: u64, n: u8) -> Ballot {
    Ballot::new(Force::default(), counter, node(n))
}

pub(super) fn members(lives: &[NodeInc]) -> Members {
    let member = |inc| Member { inc, store: StoreId(Guid(u128::MAX - 7)) };
    lives.iter().map(|l| (l.node, member(l.inc))).collect()
}

pub(super) fn view(b: Ballot, lives: &[NodeInc]) -> View {
    View {
        ballot: b,
        members: members(lives),
        former: BTreeSet::new(),
        witness_in: true,
        votes: VoteTable::default(),
        prev_votes: None,
        base_seq: Seq(0),
        witness: None,
        forces: Vec::new(),
    }
}

pub(super) fn entry(b: Ballot, seq: u64) -> LogEntry {
    let group = GroupId(Guid(u128::from(seq)));
    let update = Update::MoveGroup { group, to: node(1), cause: Cause::default() };
    LogEntry { ballot: b, seq: Seq(seq), wall_ms: 0, request: None, update, cause: None }
}

pub(super) fn snapshot(seq: u64) -> Snapshot {
    Snapshot { seq: Seq(seq), ballot: ballot(1, 1), rows: vec![("k".into(), vec![1; 40])] }
}

/// The unit.
#[derive(Clone, Debug, Default)]
pub(super) struct Unit {
    pub blocks: BTreeMap<u64, Vec<u8>>,
    pub holder: Option<NodeInc>,
    pub attention: BTreeMap<NodeInc, u8>,
    /// Outcomes to come instead of the next commands of the name.
    pub faults: VecDeque<(&'static str, DiskOutcome)>,
    /// The next write of this block is not carried out and ends so.
    pub fault_at: Option<(u64, DiskOutcome)>,
    /// A command that ends by a fault is carried out all the same: its answer is lost.
    pub faulty_are_executed: bool,
    pub writes: Vec<(NodeInc, u64)>,
}

impl Unit {
    pub(super) fn prepared() -> Self {
        let mut unit = Self::default();
        unit.blocks.insert(0, Layout::new(CLUSTER, 512, 16).superblock());
        unit
    }

    pub(super) fn reset(&mut self, all: &[NodeInc]) {
        self.holder = None;
        for &nexus in all {
            *self.attention.entry(nexus).or_default() += 1;
        }
    }

    pub(super) fn execute(&mut self, nexus: NodeInc, all: &[NodeInc], op: &DiskOp) -> DiskOutcome {
        if let DiskOp::Write { lba, .. } = op
            && self.fault_at.as_ref().is_some_and(|(at, _)| at == lba)
        {
            return self.fault_at.take().unwrap().1;
        }
        if self.faults.front().is_some_and(|(name, _)| *name == op.name()) {
            let outcome = self.faults.pop_front().unwrap().1;
            if self.faulty_are_executed {
                self.carry_out(nexus, all, op);
            }
            return outcome;
        }
        self.carry_out(nexus, all, op)
    }

    fn carry_out(&mut self, nexus: NodeInc, all: &[NodeInc], op: &DiskOp) -> DiskOutcome {
        if *op == DiskOp::LunReset {
            self.reset(all);
            return DiskOutcome::Good(vec![]);
        }
        if let Some(n) = self.attention.get_mut(&nexus).filter(|n| **n > 0) {
            *n -= 1;
            return DiskOutcome::UnitAttention { asc: 0x29, ascq: 0 };
        }
        if self.holder.is_some_and(|h| h != nexus) {
            let release = *op == DiskOp::Release;
            return if release { DiskOutcome::Good(vec![]) } else { DiskOutcome::Conflict };
        }
        match op {
            DiskOp::Reserve => self.holder = Some(nexus),
            DiskOp::Release => self.holder = None,
            DiskOp::Read { lba, blocks } => {
                let zero = vec![0; 512];
                let range = *lba..lba + u64::from(*blocks);
                let data = range.flat_map(|b| self.blocks.get(&b).unwrap_or(&zero).clone());
                return DiskOutcome::Good(data.collect());
            }
            DiskOp::Write { lba, data } => {
                self.writes.push((nexus, *lba));
                for (i, block) in data.chunks(512).enumerate() {
                    self.blocks.insert(lba + i as u64, block.to_vec());
                }
            }
            DiskOp::Test | DiskOp::LunReset => {}
        }
        DiskOutcome::Good(vec![])
    }
}

/// Lives at one unit; each runs its commands to their end.
#[derive(Debug)]
pub(super) struct Rig {
    pub now: Instant,
    pub unit: Unit,
    pub lives: BTreeMap<NodeInc, Register>,
    pub exclusion: Exclusion,
    pub views_only: bool,
    number: u64,
    /// Commands sent by the last run.
    pub sent: Vec<DiskOp>,
    pub challenges: Vec<wolfpack_types::register::ChallengeStage>,
}

impl Rig {
    pub(super) fn new(exclusion: Exclusion) -> Self {
        Self {
            now: Instant(1_000_000_000),
            unit: Unit::prepared(),
            lives: BTreeMap::new(),
            exclusion,
            views_only: false,
            number: 0,
            sent: vec![],
            challenges: vec![],
        }
    }

    /// A life begins; its former lives are dead.
    pub(super) fn start(&mut self, me: NodeInc, rules: &[Rule]) {
        let config = RegisterConfig {
            me,
            cluster: CLUSTER,
            exclusion: self.exclusion,
            views_only: self.views_only,
            times: Times::STANDARD,
            rules: Rules::without(rules.iter().copied()),
        };
        let mut register = Register::new(config);
        register.handle(self.now, Input::FormerLivesDead);
        self.lives.insert(me, register);
    }

    pub(super) fn give(&mut self, me: NodeInc, input: Input) {
        self.lives.get_mut(&me).unwrap().handle(self.now, input);
    }

    /// Carries out one output of a life; its event, if it is one.
    pub(super) fn step(&mut self, me: NodeInc) -> Option<Option<RegisterEvent>> {
        let all: Vec<NodeInc> = self.lives.keys().copied().collect();
        let register = self.lives.get_mut(&me).unwrap();
        match register.poll_output()? {
            Output::Event(RegisterEvent::Challenge { stage }) => {
                self.challenges.push(stage);
                Some(None)
            }
            Output::Event(event) => Some(Some(event)),
            Output::Disk { id, op } => {
                let outcome = self.unit.execute(me, &all, &op);
                self.sent.push(op);
                self.now += Duration::from_millis(1);
                register.handle(self.now, Input::Done { id, outcome });
                Some(None)
            }
        }
    }

    /// Gives a command and runs the life until it answers.
    pub(super) fn run(&mut self, me: NodeInc, command: RegisterCommand) -> RegisterEvent {
        self.sent.clear();
        self.give(me, Input::Command(command));
        self.answer(me)
    }

    pub(super) fn answer(&mut self, me: NodeInc) -> RegisterEvent {
        loop {
            match self.step(me) {
                Some(Some(event)) => return event,
                Some(None) => {}
                None => {
                    let deadline = self.lives[&me].next_deadline();
                    self.now = deadline.expect("the register neither answers nor waits");
                    self.give(me, Input::Deadline);
                }
            }
        }
    }

    fn id(&mut self) -> u64 {
        self.number += 1;
        self.number
    }

    pub(super) fn promise(&mut self, me: NodeInc, b: Ballot, m: &[NodeInc]) -> RegisterEvent {
        let id = self.id();
        self.run(me, RegisterCommand::Promise { id, ballot: b, members: members(m) })
    }

    pub(super) fn accept(&mut self, me: NodeInc, v: View, base: u64, to: u64) -> RegisterEvent {
        let id = self.id();
        let entries = (base + 1..=to).map(|s| entry(v.ballot, s)).collect();
        self.run(me, RegisterCommand::Accept { id, view: v, snapshot: snapshot(base), entries })
    }

    pub(super) fn append(&mut self, me: NodeInc, b: Ballot, seq: u64) -> RegisterEvent {
        let id = self.id();
        self.run(me, RegisterCommand::Append { id, ballot: b, entries: vec![entry(b, seq)] })
    }

    pub(super) fn renew(&mut self, me: NodeInc, v: View) -> RegisterEvent {
        let id = self.id();
        self.run(me, RegisterCommand::Renew { id, view: v })
    }

    pub(super) fn read_log(&mut self, me: NodeInc, slot: NodeInc) -> RegisterEvent {
        let id = self.id();
        self.run(me, RegisterCommand::ReadLog { id, slot })
    }

    /// Promise and accept, both good.
    pub(super) fn form(&mut self, me: NodeInc, v: &View, base: u64, to: u64) {
        let lives: Vec<NodeInc> = v.lives().collect();
        let promised = self.promise(me, v.ballot, &lives);
        assert!(matches!(promised, RegisterEvent::Promised { .. }), "{promised:?}");
        let accepted = self.accept(me, v.clone(), base, to);
        assert!(matches!(accepted, RegisterEvent::Accepted { .. }), "{accepted:?}");
    }
}
