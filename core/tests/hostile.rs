//! Any decodable message in any state: no panic, the record only moves forward, and what does not
//! fit is refused with a reason that is counted.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use proptest::prelude::*;
use wolfpack_core::{Core, CoreConfig, Input, Output};
use wolfpack_types::heartbeat::{HeartbeatCommand, HeartbeatNotice, Standing};
use wolfpack_types::membership::{Illegal, QuorumConfig, QuorumType};
use wolfpack_types::objects::Cluster;
use wolfpack_types::peer::{Accept, PeerMessage, Promise, SignedSpan};
use wolfpack_types::register::Exclusion;
use wolfpack_types::store::{Loaded, Record, Snapshot};
use wolfpack_types::update::{LogEntry, Update};
use wolfpack_types::{
    Ballot, ClusterId, Force, Guid, Incarnation, Instant, Member, Members, NodeId, NodeInc,
    RequestId, Rules, Seq, StoreId, Times, View, VoteTable,
};

fn n(i: u8) -> NodeId {
    NodeId::new(i).unwrap()
}

fn life(i: u8, inc: u64) -> NodeInc {
    NodeInc::new(n(i), Incarnation(inc))
}

fn store(i: u8) -> StoreId {
    StoreId(Guid(u128::from(i)))
}

/// Node 1 of three, with partners that do as they should until somebody else speaks for them.
struct Bench {
    core: Core,
    now: Instant,
    helpful: bool,
}

impl Bench {
    fn new() -> Self {
        let votes = VoteTable { nodes: (1..=3).map(|i| (n(i), 1)).collect(), witness: 0 };
        let record = Record { store: store(1), incarnation: Incarnation(1), ..Record::default() };
        let config = CoreConfig {
            me: life(1, 1),
            cluster: ClusterId(Guid(1)),
            nodes: (1..=3).map(|i| (n(i), format!("n{i}"))).collect(),
            networks: vec!["private".into()],
            client_networks: Default::default(),
            votes,
            quorum: QuorumType::Majority,
            witness: None,
            exclusion: Exclusion::None,
            times: Times::STANDARD,
            loaded: Loaded { record, new_store: true, ..Loaded::default() },
            seed: 7,
            rules: Rules::ALL,
            events: wolfpack_core::EventStart::default(),
        };
        let now = Instant(1_000_000_000);
        Self { core: Core::new(config, now), now, helpful: true }
    }

    fn step(&mut self, input: Input) {
        let mut inputs = vec![input];
        let mut limit = 0;
        while let Some(input) = inputs.pop() {
            limit += 1;
            if limit > 500 {
                return;
            }
            self.core.handle(self.now, input);
            while let Some(output) = self.core.poll_output() {
                match output {
                    Output::Persist { id, .. } => inputs.push(Input::Persisted { id }),
                    Output::Heartbeat(HeartbeatCommand::SetMask { id, .. }) => {
                        let last_ack = BTreeMap::new();
                        let notice = HeartbeatNotice::MaskInForce { id, last_ack };
                        inputs.push(Input::Heartbeat(notice));
                    }
                    Output::Send { to, message } if self.helpful => {
                        if let Some(message) = help(to, &message) {
                            inputs.insert(0, Input::Peer { from: life(to.get(), 1), message });
                        }
                    }
                    _ => {}
                }
            }
        }
    }

    /// Peers are heard and, where the case wants it, the cluster is created with them.
    fn prepare(&mut self, created: bool) {
        for i in [2, 3] {
            let standing = Standing { store: store(i), ..Standing::default() };
            let row = (1..=3).map(n).filter(|&x| x != n(i)).collect();
            let networks = wolfpack_types::networks::NetworkRows::default();
            let notice = HeartbeatNotice::Heard { from: life(i, 1), standing, row, networks };
            self.step(Input::Heartbeat(notice));
        }
        if created {
            let quorum = QuorumConfig::of(QuorumType::Majority, None);
            let cluster = Cluster { id: ClusterId(Guid(1)), name: "pack".into(), quorum };
            self.step(Input::Create { id: 1, cluster, entropy: 1 });
            let end = self.now + Duration::from_secs(5);
            self.step(Input::Heartbeat(HeartbeatNotice::Lease { end }));
        }
    }
}

/// What an honest new node answers.
fn help(to: NodeId, message: &PeerMessage) -> Option<PeerMessage> {
    match message {
        PeerMessage::Prepare { ballot, .. } => Some(PeerMessage::Promise(Box::new(Promise {
            ballot: *ballot,
            who: NodeInc::new(to, Incarnation(1)),
            accepted: None,
            last: (Ballot::ZERO, Seq(0)),
            commit_seq: Seq(0),
            established: Ballot::ZERO,
            installed: Ballot::ZERO,
            fresh: true,
            learner: true,
            ack_ages: BTreeMap::new(),
            bounds: BTreeMap::new(),
        }))),
        PeerMessage::Accept(a) => Some(PeerMessage::Accepted { ballot: a.view.ballot }),
        PeerMessage::Append { ballot, entries, .. } => {
            Some(PeerMessage::Appended { ballot: *ballot, last: entries.last()?.seq })
        }
        _ => None,
    }
}

fn ballot() -> impl Strategy<Value = Ballot> {
    let counter = prop_oneof![12 => 0_u64..5, 1 => Just(u64::MAX), 1 => Just(1 << 62)];
    let force = prop_oneof![6 => Just(Force::default()), 1 => Just(Force { count: 1, random: 9 })];
    (force, counter, 1_u8..=4).prop_map(|(f, c, i)| Ballot::new(f, c, n(i)))
}

fn a_life() -> impl Strategy<Value = NodeInc> {
    (1_u8..=4, 0_u64..3).prop_map(|(i, inc)| life(i, inc))
}

fn members() -> impl Strategy<Value = Members> {
    prop::collection::btree_map(
        (1_u8..=4).prop_map(n),
        (0_u64..3, 0_u8..4).prop_map(|(inc, s)| Member { inc: Incarnation(inc), store: store(s) }),
        0..4,
    )
}

fn table() -> impl Strategy<Value = VoteTable> {
    (prop::collection::btree_map((1_u8..=4).prop_map(n), 0_u8..3, 0..4), 0_u8..2)
        .prop_map(|(nodes, witness)| VoteTable { nodes, witness })
}

fn view() -> impl Strategy<Value = View> {
    (ballot(), members(), table(), prop::option::of(table()), any::<bool>(), 0_u64..5).prop_map(
        |(ballot, members, votes, prev_votes, witness_in, base)| View {
            ballot,
            members,
            former: BTreeSet::new(),
            witness_in,
            votes,
            prev_votes,
            base_seq: Seq(base),
            witness: None,
            forces: Vec::new(),
        },
    )
}

fn entry() -> impl Strategy<Value = LogEntry> {
    let update = prop_oneof![
        Just(Update::Batch(vec![])),
        (1_u8..=4).prop_map(|i| Update::EvictNode { node: n(i) }),
        (1_u8..=4).prop_map(|i| Update::MoveQuorum { to: n(i) }),
    ];
    (ballot(), 0_u64..5, update).prop_map(|(ballot, seq, update)| LogEntry {
        ballot,
        seq: Seq(seq),
        wall_ms: 0,
        request: None,
        update,
        cause: None,
    })
}

fn entries() -> impl Strategy<Value = Vec<LogEntry>> {
    prop::collection::vec(entry(), 0..4)
}

fn snapshot() -> impl Strategy<Value = Option<Snapshot>> {
    let rows =
        prop::collection::vec(("[a-z/0-9]{0,8}", prop::collection::vec(any::<u8>(), 0..6)), 0..2);
    prop::option::weighted(0.2, (0_u64..6, ballot(), rows))
        .prop_map(|s| s.map(|(seq, ballot, rows)| Snapshot { seq: Seq(seq), ballot, rows }))
}

fn promise() -> impl Strategy<Value = PeerMessage> {
    let ages = prop::collection::btree_map((1_u8..=4).prop_map(n), any::<u32>(), 0..3);
    let bounds = prop::collection::btree_map((1_u8..=4).prop_map(n), any::<i64>(), 0..3);
    let view = prop::option::of(view());
    (ballot(), a_life(), view, (ballot(), 0_u64..5), ballot(), any::<bool>(), ages, bounds)
        .prop_map(|(ballot, who, accepted, (at, seq), established, fresh, ages, bounds)| {
            PeerMessage::Promise(Box::new(Promise {
                ballot,
                who,
                accepted,
                last: (at, Seq(seq)),
                commit_seq: Seq(seq / 2),
                established,
                installed: Ballot::ZERO,
                fresh,
                learner: !fresh,
                ack_ages: ages
                    .into_iter()
                    .map(|(n, ms)| (n, Duration::from_millis(u64::from(ms))))
                    .collect(),
                bounds: bounds.into_iter().map(|(n, ns)| (n, SignedSpan(ns))).collect(),
            }))
        })
}

fn message() -> impl Strategy<Value = PeerMessage> {
    let seq = || (0_u64..5).prop_map(Seq);
    prop_oneof![
        3 => (ballot(), members()).prop_map(|(ballot, members)| PeerMessage::Prepare {
            ballot, members, forces: vec![], cause: None,
        }),
        3 => promise(),
        1 => (ballot(), any::<u64>(), any::<bool>()).prop_map(|(ballot, counter, refused)| {
            PeerMessage::Nack { ballot, counter, refused }
        }),
        1 => (ballot(), seq()).prop_map(|(ballot, after)| PeerMessage::FetchLog { ballot, after }),
        1 => (ballot(), snapshot(), entries()).prop_map(|(ballot, snapshot, entries)| {
            PeerMessage::LogData { ballot, snapshot, entries }
        }),
        3 => (view(), seq(), snapshot(), entries()).prop_map(|(view, after, snapshot, entries)| {
            PeerMessage::Accept(Box::new(Accept {
                view, after, snapshot, entries, ack_ages: BTreeMap::new(), bounds: BTreeMap::new(), cause: None,
            }))
        }),
        1 => ballot().prop_map(|ballot| PeerMessage::Accepted { ballot }),
        1 => (ballot(), seq()).prop_map(|(ballot, commit_seq)| {
            PeerMessage::Established { ballot, commit_seq }
        }),
        1 => (a_life(), ballot()).prop_map(|(you, because)| PeerMessage::Restart {
            you, because, cause: None,
        }),
        2 => (ballot(), ballot(), seq(), entries()).prop_map(|(ballot, at, seq, entries)| {
            PeerMessage::Append { ballot, prev: (at, seq), entries }
        }),
        1 => (ballot(), seq()).prop_map(|(ballot, last)| PeerMessage::Appended { ballot, last }),
        1 => (ballot(), seq()).prop_map(|(ballot, seq)| PeerMessage::Commit { ballot, seq }),
        1 => (ballot(), seq(), any::<u64>()).prop_map(|(ballot, seq, digest)| {
            PeerMessage::Applied { ballot, seq, digest }
        }),
        1 => (ballot(), entry()).prop_map(|(ballot, e)| PeerMessage::Volatile {
            ballot, number: 1, update: e.update, cause: None,
        }),
        1 => (a_life(), entry()).prop_map(|(from, e)| PeerMessage::Request {
            id: RequestId { from, number: 1 }, update: e.update, cause: None,
        }),
        1 => a_life().prop_map(|who| PeerMessage::Leaving { who, cause: None }),
        1 => ballot().prop_map(|ballot| PeerMessage::Resign { ballot, cause: None }),
        1 => a_life().prop_map(|who| PeerMessage::Exit { who, cause: None }),
        1 => a_life().prop_map(|you| PeerMessage::Evicted { you }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]
    #[test]
    fn arbitrary_messages_in_arbitrary_states_do_no_harm(
        created in any::<bool>(),
        // Of one's own ballots and life, to get past the first checks more often.
        steps in prop::collection::vec((a_life(), message(), 0_u64..400, any::<bool>()), 1..60),
    ) {
        let mut bench = Bench::new();
        bench.prepare(created);
        for (from, message, wait, helpful) in steps {
            bench.now += Duration::from_millis(wait);
            bench.helpful = helpful;
            let before = bench.core.observe(bench.now);
            if wait > 300 {
                bench.step(Input::Deadline);
            }
            bench.step(Input::Peer { from, message });
            let after = bench.core.observe(bench.now);
            let accepted = |o: &wolfpack_core::Observation| {
                o.accepted.as_ref().map_or(Ballot::ZERO, |v| v.ballot)
            };
            prop_assert!(after.promised >= before.promised, "P10.6: promised");
            prop_assert!(after.max_ballot >= before.max_ballot, "P10.6: max_ballot");
            prop_assert!(accepted(&after) >= accepted(&before), "P10.6: accepted");
            prop_assert!(accepted(&after) <= after.promised, "P10.6: accepted <= promised");
            prop_assert!(after.commit_seq <= after.log_last.1, "P10.14");
            prop_assert!(
                after.installed.as_ref().is_none_or(|v| v.ballot <= accepted(&after)),
                "what is installed was accepted"
            );
        }
    }
}

#[test]
fn a_refusal_has_a_reason_and_is_counted() {
    let mut bench = Bench::new();
    bench.prepare(true);
    let installed = bench.core.observe(bench.now).installed.expect("the cluster is created").ballot;
    let mut say = |from, message, why: Illegal| {
        let before = bench.core.observe(bench.now).illegal.get(&why).copied().unwrap_or(0);
        bench.step(Input::Peer { from, message });
        let after = bench.core.observe(bench.now).illegal.get(&why).copied().unwrap_or(0);
        assert_eq!(after, before + 1, "{why:?}");
    };
    let future = Ballot::new(Force::default(), 1 << 63, n(2));
    let members = bench_members();
    let prepare = |ballot, members: &Members| PeerMessage::Prepare {
        ballot,
        members: members.clone(),
        forces: vec![],
        cause: None,
    };
    say(life(2, 1), prepare(future, &members), Illegal::FutureBallot);
    say(life(4, 1), prepare(future, &members), Illegal::UnknownNode);
    let of_two = Ballot::new(Force::default(), 9, n(2));
    say(life(3, 1), prepare(of_two, &members), Illegal::NotTheCoordinator);
    say(life(2, 1), prepare(of_two, &Members::new()), Illegal::NotAMember);
    say(life(2, 0), prepare(of_two, &members), Illegal::DeadLife);
    say(life(2, 1), PeerMessage::Accepted { ballot: installed }, Illegal::PastBallot);
    say(life(2, 1), PeerMessage::Exit { who: life(3, 1), cause: None }, Illegal::NotTheSender);
    let established = PeerMessage::Established { ballot: of_two, commit_seq: Seq(1) };
    say(life(2, 1), established, Illegal::FutureBallot);
    say(life(2, 1), PeerMessage::Evicted { you: life(1, 0) }, Illegal::NotThisLife);
}

fn bench_members() -> Members {
    (1..=3).map(|i| (n(i), Member { inc: Incarnation(1), store: store(i) })).collect()
}
