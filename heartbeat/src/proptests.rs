//! The detector under arbitrary inputs, against brute force and against its promises.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use proptest::prelude::*;
use wolfpack_types::heartbeat::{
    Ack, Echo, Heartbeat, HeartbeatCommand, HeartbeatNotice, LeaseTerms, Standing,
};
use wolfpack_types::networks::NetworkRows;
use wolfpack_types::{
    Ballot, Incarnation, Instant, NetworkId, NodeId, NodeInc, NodeMap, NodeSet, Rules, Seq, Times,
    VoteTable,
};

use crate::{Detector, DetectorConfig, Input, Output};

const START: Instant = Instant(1_000_000_000_000);
const NODES: u8 = 4;

fn node(n: u8) -> NodeId {
    NodeId::new(n).unwrap()
}

/// What may happen next.
#[derive(Clone, Debug)]
enum Step {
    /// Call when due, `late` milliseconds late.
    Due {
        late: u64,
    },
    Wait {
        ms: u64,
    },
    Beat {
        from: u8,
        network: u8,
        inc: u64,
        age: u64,
        seq: u64,
        acked_age: Option<u64>,
        probe: bool,
    },
    Mask {
        lives: Vec<(u8, u64)>,
    },
    Terms {
        tables: Vec<(Vec<u8>, u8)>,
        register: bool,
    },
    Register {
        age: u64,
    },
    Dead {
        node: u8,
        inc: u64,
    },
    Hint {
        node: u8,
        network: u8,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let id = 1..=NODES;
    prop_oneof![
        4 => prop_oneof![9 => 0..5u64, 1 => 0..4000u64].prop_map(|late| Step::Due { late }),
        2 => (0..300u64).prop_map(|ms| Step::Wait { ms }),
        6 => (id.clone(), 0..3u8, 1..4u64, 0..3000u64, 0..3u64, proptest::option::of(0..3000u64), any::<bool>())
            .prop_map(|(from, network, inc, age, seq, acked_age, probe)| Step::Beat {
                from, network, inc, age, seq, acked_age, probe
            }),
        1 => proptest::collection::vec((id.clone(), 1..4u64), 0..5).prop_map(|lives| Step::Mask { lives }),
        1 => (proptest::collection::vec((proptest::collection::vec(0..3u8, 4), 0..3u8), 0..3), any::<bool>())
            .prop_map(|(tables, register)| Step::Terms { tables, register }),
        1 => (0..6000u64).prop_map(|age| Step::Register { age }),
        1 => (id.clone(), 1..4u64).prop_map(|(node, inc)| Step::Dead { node, inc }),
        1 => (id, 0..3u8).prop_map(|(node, network)| Step::Hint { node, network }),
    ]
}

/// What the detector should know, kept in the plainest way.
#[derive(Default)]
struct Model {
    mask: BTreeSet<NodeInc>,
    terms: LeaseTerms,
    granted: BTreeMap<NodeId, Instant>,
    register: Option<Instant>,
    incs: BTreeMap<NodeId, Incarnation>,
    /// (sender's life, its clock) -> own receive times.
    received: BTreeMap<(NodeInc, Instant), Instant>,
    /// Receive time of the newest heartbeat acknowledged, by node.
    acked: BTreeMap<NodeId, Instant>,
    /// The last pause: no grant from before it counts.
    floor: Instant,
}

impl Model {
    /// Tries every instant at which a grant ends: the latest with a majority in every table.
    fn lease_holds(&self, at: Instant, own: Instant, times: &Times) -> bool {
        let lives = |grant: Instant| at < grant;
        !self.terms.tables.is_empty()
            && self.terms.tables.iter().all(|table| {
                let mut nodes: BTreeSet<NodeId> = self
                    .granted
                    .iter()
                    .filter(|&(_, &clock)| lives(clock + times.lease))
                    .map(|(&node, _)| node)
                    .collect();
                if lives(own + times.lease) {
                    nodes.insert(node(1));
                }
                let register = self.terms.register_counts
                    && self.register.is_some_and(|sent| lives(sent + times.register_lease));
                table.exceeds_half(nodes, register)
            })
    }
}

struct Run {
    detector: Detector,
    model: Model,
    now: Instant,
    /// Last time that heartbeats went out by schedule, as seen from outside.
    mask_id: u64,
}

impl Run {
    fn new() -> Self {
        let networks = BTreeSet::from([NetworkId(0), NetworkId(1)]);
        let config = DetectorConfig {
            me: NodeInc::new(node(1), Incarnation(9)),
            times: Times::STANDARD,
            paths: (2..=NODES).map(|n| (node(n), networks.clone())).collect(),
            rules: Rules::ALL,
        };
        Self {
            detector: Detector::new(config, START),
            model: Model::default(),
            now: START,
            mask_id: 0,
        }
    }

    fn input(&mut self, step: &Step) -> Input {
        let old = |age: u64| self.now.before(Duration::from_millis(age));
        match step {
            Step::Due { late } => {
                let due = self.detector.next_deadline().unwrap();
                self.now = self.now.max(due) + Duration::from_millis(*late);
                Input::Deadline
            }
            Step::Wait { ms } => {
                self.now += Duration::from_millis(*ms);
                Input::Deadline
            }
            Step::Beat { from, network, inc, age, seq, acked_age, probe } => {
                let acked = acked_age.map(|age| Ack { inc: Incarnation(9), clock: old(age) });
                Input::Received {
                    network: NetworkId(*network),
                    from: node(*from),
                    heartbeat: Heartbeat {
                        inc: Incarnation(*inc),
                        seq: *seq,
                        clock: old(*age),
                        probe: *probe,
                        standing: Standing { commit_seq: Seq(*seq), ..Standing::default() },
                        acks: acked.map(|ack| (node(1), ack)).into_iter().collect(),
                        row: NodeSet::EMPTY,
                        networks: NetworkRows::default(),
                        echo: acked.map(|ack| Echo {
                            clock: ack.clock,
                            held_ns: u32::try_from(*seq).unwrap_or(0),
                        }),
                        grants: NodeMap::new(),
                    },
                }
            }
            Step::Mask { lives } => {
                self.mask_id += 1;
                let mask = lives.iter().map(|&(n, inc)| NodeInc::new(node(n), Incarnation(inc)));
                Input::Command(HeartbeatCommand::SetMask { id: self.mask_id, mask: mask.collect() })
            }
            Step::Terms { tables, register } => {
                let tables = tables.iter().map(|(votes, witness)| VoteTable {
                    nodes: (1..=NODES).map(node).zip(votes.iter().copied()).collect(),
                    witness: *witness,
                });
                Input::Command(HeartbeatCommand::SetLeaseTerms(LeaseTerms {
                    tables: tables.collect(),
                    accepted: Ballot::ZERO,
                    register_counts: *register,
                    witness: None,
                }))
            }
            Step::Register { age } => {
                Input::Command(HeartbeatCommand::RegisterGrant { sent: old(*age) })
            }
            Step::Dead { node: n, inc } => Input::Command(HeartbeatCommand::DeclareDead(
                NodeInc::new(node(*n), Incarnation(*inc)),
            )),
            Step::Hint { node: n, network } => {
                Input::PathHint { network: NetworkId(*network), node: node(*n) }
            }
        }
    }

    fn learn(&mut self, input: &Input) {
        let model = &mut self.model;
        match input {
            Input::Received { network, from, heartbeat } if network.0 < 2 && *from != node(1) => {
                let newest = model.incs.get(from).copied().unwrap_or_default();
                if heartbeat.inc < newest {
                    return;
                }
                model.incs.insert(*from, heartbeat.inc);
                let life = NodeInc::new(*from, heartbeat.inc);
                model.received.entry((life, heartbeat.clock)).or_insert(self.now);
                if let Some(ack) =
                    heartbeat.acks.get(&node(1)).filter(|ack| ack.clock >= model.floor)
                {
                    let granted = model.granted.entry(*from).or_insert(ack.clock);
                    *granted = ack.clock.max(*granted);
                }
            }
            Input::Command(HeartbeatCommand::SetMask { mask, .. }) => model.mask.clone_from(mask),
            Input::Command(HeartbeatCommand::SetLeaseTerms(terms)) => model.terms = terms.clone(),
            Input::Command(HeartbeatCommand::RegisterGrant { sent }) if *sent >= model.floor => {
                model.register = model.register.max(Some(*sent));
            }
            // The dead are heard no more; the model takes them for a life just below the next.
            Input::Command(HeartbeatCommand::DeclareDead(who)) if who.node != node(1) => {
                let newest = model.incs.entry(who.node).or_default();
                *newest = Incarnation(newest.0.max(who.inc.0 + 1));
            }
            _ => {}
        }
    }

    fn check(&mut self, outputs: &[Output]) -> Result<(), TestCaseError> {
        for output in outputs {
            match output {
                Output::Transmit { to, heartbeat, .. } => {
                    for (who, ack) in heartbeat.acks.iter() {
                        prop_assert_eq!(who, *to);
                        let life = NodeInc::new(who, ack.inc);
                        prop_assert!(self.model.mask.contains(&life), "ack outside the mask");
                        let received = self.model.received.get(&(life, ack.clock));
                        let received = *received.expect("acknowledged what was heard");
                        let newest = self.model.acked.entry(who).or_insert(received);
                        *newest = received.max(*newest);
                    }
                    prop_assert_eq!(heartbeat.clock, self.now);
                }
                Output::Notice(HeartbeatNotice::MaskInForce { last_ack, .. }) => {
                    for (&who, &at) in last_ack {
                        let acked = self.model.acked.get(&who).copied().unwrap_or(START);
                        prop_assert_eq!(at, acked.max(START), "last_ack of {}", who);
                    }
                }
                Output::Notice(HeartbeatNotice::Heard { from, .. }) => {
                    prop_assert_eq!(self.model.incs.get(&from.node), Some(&from.inc));
                }
                Output::Notice(HeartbeatNotice::Paused { .. }) => {
                    self.model.floor = self.now;
                    self.model.granted.retain(|_, clock| *clock >= self.now);
                    self.model.register = None;
                }
                Output::Notice(_) => {}
            }
        }
        Ok(())
    }

    fn check_lease(&self, own: Instant) -> Result<(), TestCaseError> {
        let end = self.detector.lease_end();
        let holds = |at| self.model.lease_holds(at, own, &Times::STANDARD);
        if end > Instant::ZERO {
            prop_assert!(holds(Instant(end.0 - 1)), "the lease outlasts its majority");
        }
        prop_assert!(!holds(end), "the lease ends before its majority");
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// Lease against brute force, acknowledgements within the mask, ages right, lives only rise.
    #[test]
    fn promises_hold(steps in proptest::collection::vec(step(), 1..120)) {
        let mut run = Run::new();
        let mut own = START;
        let mut tick = START;
        for step in steps {
            let input = run.input(&step);
            run.learn(&input);
            let sets_terms = matches!(input, Input::Command(HeartbeatCommand::SetLeaseTerms(_)));
            run.detector.handle(run.now, input);
            if run.now >= tick || sets_terms {
                own = run.now;
            }
            while tick <= run.now {
                tick += Times::STANDARD.heartbeat;
            }
            let mut outputs = Vec::new();
            while let Some(output) = run.detector.poll_output() {
                outputs.push(output);
            }
            run.check(&outputs)?;
            run.check_lease(own)?;
            prop_assert!(run.detector.next_deadline().is_some());
        }
    }

    /// Same inputs, same outputs.
    #[test]
    fn it_is_deterministic(steps in proptest::collection::vec(step(), 1..60)) {
        let outputs = || {
            let mut run = Run::new();
            let mut outputs = Vec::new();
            for step in &steps {
                let input = run.input(step);
                run.detector.handle(run.now, input);
                while let Some(output) = run.detector.poll_output() {
                    outputs.push(output);
                }
            }
            outputs
        };
        prop_assert_eq!(outputs(), outputs());
    }
}
