//! The detector against the table of what must happen, case by case.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use wolfpack_types::heartbeat::{
    Ack, Heartbeat, HeartbeatCommand, HeartbeatNotice, LeaseTerms, ProxyGrant, Reach, Standing,
};
use wolfpack_types::networks::NetworkRows;
use wolfpack_types::{
    Ballot, Force, Incarnation, Instant, NetworkId, NodeId, NodeInc, NodeMap, NodeSet, Rule, Rules,
    Seq, Times, VoteTable,
};

use crate::{Detector, DetectorConfig, Input, Output};

mod pause;

const START: Instant = Instant(1_000_000_000_000);
const A: NetworkId = NetworkId(0);
const B: NetworkId = NetworkId(1);

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn node(n: u8) -> NodeId {
    NodeId::new(n).unwrap()
}

fn life(n: u8, inc: u64) -> NodeInc {
    NodeInc::new(node(n), Incarnation(inc))
}

fn config(peers: &[u8], rules: Rules) -> DetectorConfig {
    DetectorConfig {
        me: life(1, 7),
        times: Times::STANDARD,
        paths: peers.iter().map(|&n| (node(n), BTreeSet::from([A, B]))).collect(),
        rules,
    }
}

/// A detector with its clock, called at every deadline on the way.
struct Lab {
    detector: Detector,
    now: Instant,
    out: Vec<(Instant, Output)>,
}

impl Lab {
    fn new(peers: &[u8]) -> Self {
        Self::with(config(peers, Rules::ALL))
    }

    fn with(config: DetectorConfig) -> Self {
        let mut lab = Self { detector: Detector::new(config, START), now: START, out: Vec::new() };
        lab.give(Input::Deadline);
        lab
    }

    fn give(&mut self, input: Input) {
        self.detector.handle(self.now, input);
        while let Some(output) = self.detector.poll_output() {
            self.out.push((self.now, output));
        }
    }

    fn command(&mut self, command: HeartbeatCommand) {
        self.give(Input::Command(command));
    }

    /// Lets time pass, on time.
    fn pass(&mut self, span: Duration) {
        let end = self.now + span;
        while let Some(deadline) = self.detector.next_deadline().filter(|&d| d <= end) {
            self.now = self.now.max(deadline);
            self.give(Input::Deadline);
        }
        self.now = end;
    }

    /// Time passes, and the detector is not called.
    fn stall(&mut self, span: Duration) {
        self.now += span;
    }

    fn hear_on(&mut self, network: NetworkId, from: u8, heartbeat: Heartbeat) {
        self.give(Input::Received { network, from: node(from), heartbeat });
    }

    /// A plain heartbeat whose sender's clock agrees with ours.
    fn hear(&mut self, from: u8, inc: u64) {
        let heartbeat = beat(inc, self.now);
        self.hear_on(A, from, heartbeat);
    }

    fn notices(&self) -> Vec<HeartbeatNotice> {
        self.out
            .iter()
            .filter_map(|(_, output)| match output {
                Output::Notice(notice) => Some(notice.clone()),
                Output::Transmit { .. } => None,
            })
            .collect()
    }

    fn reaches(&self) -> Vec<(Instant, NodeId, Reach)> {
        self.out
            .iter()
            .filter_map(|(at, output)| match output {
                Output::Notice(HeartbeatNotice::Reach { node, reach, .. }) => {
                    Some((*at, *node, *reach))
                }
                _ => None,
            })
            .collect()
    }

    fn sent(&self) -> Vec<(Instant, NetworkId, NodeId, Heartbeat)> {
        self.out
            .iter()
            .filter_map(|(at, output)| match output {
                Output::Transmit { network, to, heartbeat } => {
                    Some((*at, *network, *to, heartbeat.clone()))
                }
                Output::Notice(_) => None,
            })
            .collect()
    }

    fn acks_sent(&self) -> Vec<Ack> {
        self.sent().iter().flat_map(|s| s.3.acks.values().copied().collect::<Vec<_>>()).collect()
    }

    fn take(&mut self) {
        self.out.clear();
    }

    fn last_ack(&mut self, mask: &[NodeInc]) -> BTreeMap<NodeId, Instant> {
        self.command(HeartbeatCommand::SetMask { id: 9, mask: mask.iter().copied().collect() });
        let found = self.notices().into_iter().rev().find_map(|notice| match notice {
            HeartbeatNotice::MaskInForce { last_ack, .. } => Some(last_ack),
            _ => None,
        });
        found.expect("a mask is answered at once")
    }
}

fn beat(inc: u64, clock: Instant) -> Heartbeat {
    Heartbeat {
        inc: Incarnation(inc),
        seq: 1,
        clock,
        probe: false,
        standing: Standing::default(),
        acks: NodeMap::new(),
        row: NodeSet::EMPTY,
        networks: NetworkRows::default(),
        echo: None,
        grants: NodeMap::new(),
    }
}

fn acking(inc: u64, clock: Instant, acked: Instant) -> Heartbeat {
    let ack = Ack { inc: Incarnation(7), clock: acked };
    Heartbeat { acks: NodeMap::from([(node(1), ack)]), ..beat(inc, clock) }
}

fn table(nodes: &[(u8, u8)], witness: u8) -> VoteTable {
    VoteTable { nodes: nodes.iter().map(|&(n, v)| (node(n), v)).collect(), witness }
}

fn ballot(counter: u64, leader: u8) -> Ballot {
    Ballot::new(Force::default(), counter, node(leader))
}

fn terms(tables: Vec<VoteTable>, register_counts: bool) -> HeartbeatCommand {
    HeartbeatCommand::SetLeaseTerms(LeaseTerms {
        tables,
        accepted: ballot(5, 2),
        register_counts,
        witness: None,
    })
}

#[test]
fn a_heartbeat_goes_to_every_peer_on_every_path_by_an_absolute_schedule() {
    let mut lab = Lab::new(&[2, 3]);
    lab.pass(ms(250));
    // Called late, but not by a period: the schedule does not move.
    lab.stall(ms(80));
    lab.give(Input::Deadline);
    lab.pass(ms(170));
    let times: BTreeSet<Instant> = lab.sent().iter().map(|s| s.0).collect();
    let expected = [0, 100, 200, 330, 400, 500].map(|n| START + ms(n));
    assert_eq!(times, BTreeSet::from(expected));
    assert_eq!(lab.sent().len(), 6 * 2 * 2);
    let seqs: Vec<u64> =
        lab.sent().iter().filter(|s| s.1 == B && s.2 == node(3)).map(|s| s.3.seq).collect();
    assert_eq!(seqs, [1, 2, 3, 4, 5, 6]);
}

#[test]
fn a_changed_standing_is_said_at_once_and_storms_are_smoothed() {
    let mut lab = Lab::new(&[2]);
    lab.pass(ms(50));
    lab.take();
    let standing = |n| Standing { commit_seq: Seq(n), ..Standing::default() };
    lab.command(HeartbeatCommand::SetStanding(standing(1)));
    assert_eq!(lab.sent().len(), 2, "at once, on both paths");
    lab.command(HeartbeatCommand::SetStanding(standing(1)));
    assert_eq!(lab.sent().len(), 2, "no change, nothing to say");
    for n in 2..100 {
        lab.command(HeartbeatCommand::SetStanding(standing(n)));
    }
    assert_eq!(lab.sent().len(), 2, "the storm waits");
    lab.pass(ms(10));
    assert_eq!(lab.sent().len(), 4);
    assert_eq!(lab.sent()[3].3.standing, standing(99));
}

#[test]
fn silence_makes_suspected_then_unreachable_and_probes_go_out_between() {
    let mut lab = Lab::new(&[2]);
    lab.hear(2, 3);
    assert_eq!(lab.reaches(), [(START, node(2), Reach::Up)]);
    lab.take();
    lab.pass(ms(3000));
    assert_eq!(
        lab.reaches(),
        [
            (START + ms(500), node(2), Reach::Suspected),
            (START + ms(1000), node(2), Reach::Unreachable)
        ]
    );
    let probes: Vec<Instant> = lab.sent().iter().filter(|s| s.3.probe).map(|s| s.0).collect();
    assert!(probes.len() >= 2 * 10, "{} probes", probes.len());
    assert_eq!(probes.first(), Some(&(START + ms(500))));
    assert!(*probes.last().unwrap() < START + ms(1000));
    lab.take();
    lab.hear(2, 3);
    assert_eq!(lab.reaches().len(), 1);
    assert_eq!(lab.reaches()[0].2, Reach::Up);
}

#[test]
fn one_path_that_speaks_keeps_the_peer_up_and_the_other_is_reported() {
    let mut lab = Lab::new(&[2]);
    for n in 0..30 {
        let heartbeat = beat(3, lab.now);
        lab.hear_on(A, 2, heartbeat.clone());
        if n == 0 {
            lab.hear_on(B, 2, heartbeat);
        }
        lab.pass(ms(100));
    }
    assert_eq!(lab.reaches(), [(START, node(2), Reach::Up)]);
    let paths: Vec<_> = lab
        .out
        .iter()
        .filter_map(|(at, output)| match output {
            Output::Notice(HeartbeatNotice::Path { network, up, .. }) => Some((*at, *network, *up)),
            _ => None,
        })
        .collect();
    assert_eq!(paths, [(START, A, true), (START, B, true), (START + ms(1000), B, false)]);
}

#[test]
fn a_peer_never_heard_is_given_up_once() {
    let mut lab = Lab::new(&[2]);
    lab.pass(ms(5000));
    assert_eq!(lab.reaches(), [(START + ms(1100), node(2), Reach::Unreachable)]);
    assert!(lab.sent().iter().all(|s| s.3.row.is_empty()));
}

#[test]
fn the_row_names_whom_we_hear() {
    let mut lab = Lab::new(&[2, 3]);
    lab.hear(3, 1);
    lab.pass(ms(100));
    assert_eq!(lab.sent().last().unwrap().3.row, NodeSet::from_iter([node(3)]));
    lab.pass(ms(1100));
    assert!(lab.sent().last().unwrap().3.row.is_empty());
}

#[test]
fn an_own_stall_is_said_excuses_peers_and_does_not_extend_the_lease() {
    let mut lab = Lab::new(&[2]);
    lab.command(terms(vec![table(&[(1, 1), (2, 1)], 0)], false));
    lab.hear_on(A, 2, acking(3, START, START));
    assert_eq!(lab.detector.lease_end(), START + Times::STANDARD.lease);
    lab.pass(ms(100));
    lab.take();
    lab.stall(ms(5000));
    lab.give(Input::Deadline);
    let notices = lab.notices();
    assert_eq!(notices[0], HeartbeatNotice::Stalled { late: ms(4900) });
    assert!(matches!(notices[1..], [HeartbeatNotice::Delays { safe: false, .. }]));
    assert_eq!(lab.detector.lease_end(), START + Times::STANDARD.lease);
    lab.take();
    // The peer's silence goes on from where it was: 200 ms were counted before and after.
    lab.pass(ms(250));
    assert_eq!(lab.reaches(), []);
    lab.pass(ms(1000));
    assert_eq!(lab.reaches().len(), 2);
}

#[test]
fn what_waited_in_the_socket_counts_after_a_stall() {
    let mut lab = Lab::new(&[2]);
    lab.hear(2, 3);
    lab.pass(ms(100));
    lab.take();
    lab.stall(ms(10_000));
    let heartbeat = beat(3, lab.now.before(ms(9000)));
    lab.hear_on(A, 2, heartbeat);
    lab.give(Input::Deadline);
    lab.pass(ms(400));
    assert_eq!(lab.reaches(), []);
    let stalls = |n: &HeartbeatNotice| matches!(n, HeartbeatNotice::Stalled { .. });
    assert_eq!(lab.notices().iter().filter(|n| stalls(n)).count(), 1, "a stall is said once");
    // Heard again, the peer has no excuse left.
    lab.hear(2, 3);
    let heard = lab.now;
    lab.pass(ms(3000));
    assert_eq!(lab.reaches().last().unwrap().0, heard + Times::STANDARD.detect());
}

#[test]
fn only_lives_in_the_mask_are_acknowledged() {
    let mut lab = Lab::new(&[2, 3]);
    lab.hear(2, 3);
    lab.hear(3, 4);
    lab.pass(ms(350));
    assert_eq!(lab.acks_sent(), [], "no mask, no acknowledgement");
    lab.take();
    let mask = BTreeSet::from([life(2, 3), life(3, 5)]);
    lab.command(HeartbeatCommand::SetMask { id: 1, mask });
    assert!(!lab.sent().is_empty(), "newly possible acknowledgements are sent at once");
    let acks = lab.acks_sent();
    assert!(acks.iter().all(|ack| *ack == Ack { inc: Incarnation(3), clock: START }), "{acks:?}");
    lab.take();
    lab.command(HeartbeatCommand::SetMask { id: 2, mask: BTreeSet::new() });
    lab.hear(2, 3);
    lab.pass(ms(500));
    assert_eq!(lab.acks_sent(), []);
}

#[test]
fn an_acknowledgement_goes_to_its_receiver_alone() {
    let mut lab = Lab::new(&[2, 3]);
    lab.hear(2, 3);
    lab.hear(3, 4);
    let mask = BTreeSet::from([life(2, 3), life(3, 4)]);
    lab.command(HeartbeatCommand::SetMask { id: 1, mask });
    lab.pass(ms(200));
    for (_, _, to, heartbeat) in lab.sent() {
        assert!(heartbeat.acks.keys().all(|node| node == to));
    }
    assert!(!lab.acks_sent().is_empty());
}

#[test]
fn last_ack_is_the_receive_time_of_the_newest_acknowledged() {
    let mut lab = Lab::new(&[2]);
    assert_eq!(lab.last_ack(&[life(2, 3)])[&node(2)], START, "at first the own start");
    lab.pass(ms(130));
    lab.hear(2, 3);
    lab.pass(ms(10));
    // Heard, and acknowledged at once, since it is the first of its life.
    assert_eq!(lab.last_ack(&[life(2, 3)])[&node(2)], START + ms(130));
    lab.hear(2, 3);
    assert_eq!(
        lab.last_ack(&[])[&node(2)],
        START + ms(130),
        "heard but not acknowledged does not count"
    );
    lab.pass(ms(500));
    assert_eq!(lab.last_ack(&[])[&node(2)], START + ms(130));
}

#[test]
fn the_mask_is_confirmed_after_what_was_acknowledged_before() {
    let mut lab = Lab::new(&[2]);
    lab.hear(2, 3);
    let last = lab.last_ack(&[life(2, 3)]);
    assert_eq!(last[&node(2)], START);
    assert_eq!(last.keys().copied().collect::<Vec<_>>(), [node(1), node(2)]);
}

#[test]
fn broken_rules_break_exactly_their_promise() {
    let mut lab = Lab::with(config(&[2], Rules::without([Rule::NoRestartRule])));
    assert_eq!(lab.last_ack(&[])[&node(2)], Instant::ZERO);
    let mut lab = Lab::with(config(&[2], Rules::without([Rule::NoMask])));
    lab.hear(2, 3);
    lab.pass(ms(100));
    assert!(!lab.acks_sent().is_empty());
}

#[test]
fn a_higher_incarnation_replaces_and_a_lower_is_ignored() {
    let mut lab = Lab::new(&[2]);
    lab.hear(2, 3);
    lab.hear(2, 5);
    lab.take();
    lab.hear(2, 4);
    assert_eq!(lab.notices(), []);
    lab.pass(ms(700));
    lab.hear(2, 4);
    assert_eq!(lab.reaches().last().unwrap().2, Reach::Suspected, "the former life is no sign");
    lab.command(HeartbeatCommand::Note { id: 4 });
    let noted = HeartbeatNotice::Noted { id: 4, newest: BTreeMap::from([(life(2, 5), START)]) };
    assert!(lab.notices().contains(&noted));
}

#[test]
fn heard_is_said_when_life_standing_or_row_is_new() {
    let mut lab = Lab::new(&[2]);
    let heard = |lab: &Lab| {
        lab.notices().iter().filter(|n| matches!(n, HeartbeatNotice::Heard { .. })).count()
    };
    let mut heartbeat = beat(3, lab.now);
    let mut say = |lab: &mut Lab, change: &dyn Fn(&mut Heartbeat), expected: usize| {
        lab.pass(ms(20));
        heartbeat.clock = lab.now;
        change(&mut heartbeat);
        lab.hear_on(A, 2, heartbeat.clone());
        assert_eq!(heard(lab), expected);
    };
    say(&mut lab, &|_| {}, 1);
    say(&mut lab, &|_| {}, 1);
    say(&mut lab, &|h| h.standing.commit_seq = Seq(1), 2);
    say(&mut lab, &|h| h.row = NodeSet::from_iter([node(1)]), 3);
    say(&mut lab, &|h| h.networks.set(A, node(1), true), 4);
    say(&mut lab, &|h| h.inc = Incarnation(4), 5);
    // Overtaken by a newer one on another path: its standing is old.
    let old = Heartbeat { standing: Standing::default(), ..beat(4, lab.now.before(ms(30))) };
    lab.hear_on(B, 2, old);
    assert_eq!(heard(&lab), 5);
}

#[test]
fn a_probe_is_answered_at_once_on_its_path_but_not_without_limit() {
    let mut lab = Lab::new(&[2]);
    lab.hear(2, 3);
    lab.pass(ms(30));
    lab.take();
    let probe = Heartbeat { probe: true, ..beat(3, lab.now) };
    for _ in 0..100 {
        lab.hear_on(B, 2, probe.clone());
    }
    let sent = lab.sent();
    assert_eq!(sent.len(), 1);
    assert!(sent[0].1 == B && !sent[0].3.probe, "an answer is no question");
}

#[test]
fn who_is_introduced_hears_at_once() {
    let mut lab = Lab::new(&[2]);
    lab.pass(ms(30));
    lab.take();
    lab.give(Input::Introduced { node: node(9) });
    assert_eq!(lab.out, []);
    lab.give(Input::Introduced { node: node(2) });
    assert_eq!(lab.sent().len(), 2);
}

#[test]
fn a_hint_probes_that_path_only_and_decides_nothing() {
    let mut lab = Lab::new(&[2]);
    lab.give(Input::PathHint { network: A, node: node(2) });
    lab.give(Input::PathHint { network: NetworkId(7), node: node(9) });
    lab.hear(2, 3);
    lab.pass(ms(10));
    lab.take();
    for _ in 0..50 {
        lab.give(Input::PathHint { network: A, node: node(2) });
    }
    lab.pass(ms(300));
    let probes: Vec<_> = lab.sent().into_iter().filter(|s| s.3.probe).collect();
    assert!((2..=4).contains(&probes.len()), "{} probes", probes.len());
    assert!(probes.iter().all(|s| s.1 == A));
    assert_eq!(lab.reaches(), []);
}

#[test]
fn a_life_declared_dead_is_unreachable_at_once_and_heard_no_more() {
    let mut lab = Lab::new(&[2]);
    lab.hear(2, 3);
    lab.take();
    lab.command(HeartbeatCommand::DeclareDead(life(2, 2)));
    assert_eq!(lab.reaches(), [], "an earlier life");
    lab.command(HeartbeatCommand::DeclareDead(life(2, 3)));
    assert_eq!(lab.reaches(), [(START, node(2), Reach::Unreachable)]);
    lab.hear(2, 3);
    assert_eq!(lab.reaches().len(), 1);
    lab.take();
    lab.command(HeartbeatCommand::Note { id: 1 });
    assert_eq!(lab.notices(), [HeartbeatNotice::Noted { id: 1, newest: BTreeMap::new() }]);
    lab.hear(2, 4);
    assert_eq!(lab.reaches(), [(START, node(2), Reach::Up)]);
}

#[test]
fn lease_of_two_nodes_follows_the_acknowledgement() {
    let mut lab = Lab::new(&[2]);
    lab.command(terms(vec![table(&[(1, 1), (2, 1)], 0)], false));
    assert_eq!(lab.detector.lease_end(), Instant::ZERO);
    lab.pass(ms(300));
    lab.hear_on(A, 2, acking(3, lab.now, START + ms(200)));
    let end = START + ms(200) + Times::STANDARD.lease;
    assert!(lab.notices().contains(&HeartbeatNotice::Lease { end }));
    // Overtaken acknowledgements take nothing away; those of the future count for nothing.
    lab.hear_on(A, 2, acking(3, lab.now, START));
    lab.hear_on(A, 2, acking(3, lab.now, lab.now + ms(1)));
    assert_eq!(lab.detector.lease_end(), end);
    let mut other = acking(3, lab.now, lab.now);
    other.acks.get_mut(&node(1)).unwrap().inc = Incarnation(6);
    lab.hear_on(A, 2, other);
    assert_eq!(lab.detector.lease_end(), end, "a former life was acknowledged");
    lab.command(HeartbeatCommand::SetLeaseTerms(LeaseTerms::default()));
    assert_eq!(lab.detector.lease_end(), Instant::ZERO);
}

#[test]
fn own_majority_lasts_while_the_detector_runs() {
    let mut lab = Lab::new(&[]);
    lab.command(terms(vec![table(&[(1, 1)], 0)], false));
    lab.pass(ms(450));
    assert_eq!(lab.detector.lease_end(), START + ms(400) + Times::STANDARD.lease);
    lab.stall(ms(60));
    assert_eq!(lab.detector.lease_end(), START + ms(400) + Times::STANDARD.lease);
}

#[test]
fn every_table_must_be_exceeded() {
    let mut lab = Lab::new(&[2, 3]);
    let both = vec![table(&[(1, 1)], 0), table(&[(1, 1), (2, 1), (3, 1)], 0)];
    lab.command(terms(both, false));
    assert_eq!(lab.detector.lease_end(), Instant::ZERO);
    lab.hear_on(A, 3, acking(1, START, START));
    assert_eq!(lab.detector.lease_end(), START + Times::STANDARD.lease);
    lab.command(terms(vec![VoteTable::default()], true));
    assert_eq!(lab.detector.lease_end(), Instant::ZERO, "an empty table has no majority");
}

#[test]
fn the_register_counts_only_by_the_terms_and_never_beyond_the_own_vote() {
    let table = table(&[(1, 1), (2, 1)], 1);
    let mut lab = Lab::new(&[2]);
    lab.command(terms(vec![table.clone()], false));
    lab.command(HeartbeatCommand::RegisterGrant { sent: START });
    assert_eq!(lab.detector.lease_end(), Instant::ZERO);
    lab.command(terms(vec![table], true));
    assert_eq!(lab.detector.lease_end(), START + Times::STANDARD.lease, "the own vote is older");
    lab.pass(ms(4000));
    assert_eq!(lab.detector.lease_end(), START + Times::STANDARD.register_lease);
    lab.command(HeartbeatCommand::RegisterGrant { sent: lab.now + ms(10_000) });
    assert!(lab.detector.lease_end() <= lab.now + Times::STANDARD.lease, "no future renewal");
}

#[test]
fn a_proxy_grant_counts_from_the_leader_under_the_accepted_ballot_for_this_life() {
    let disk_alone = table(&[(1, 0), (2, 0), (3, 0)], 1);
    let good = ProxyGrant { ballot: ballot(5, 2), inc: Incarnation(7), clock: START };
    let granting =
        |grant| Heartbeat { grants: NodeMap::from([(node(1), grant)]), ..beat(1, START) };
    let cases = [
        (2, good, true),
        (3, good, false),
        (2, ProxyGrant { ballot: ballot(6, 2), ..good }, false),
        (2, ProxyGrant { inc: Incarnation(6), ..good }, false),
        (2, ProxyGrant { clock: START + ms(1), ..good }, false),
    ];
    for (from, grant, counts) in cases {
        let mut lab = Lab::new(&[2, 3]);
        lab.command(terms(vec![disk_alone.clone()], true));
        lab.hear_on(A, from, granting(grant));
        let end = if counts { START + Times::STANDARD.register_lease } else { Instant::ZERO };
        assert_eq!(lab.detector.lease_end(), end, "{from} {grant:?}");
    }
}

#[test]
fn the_first_proxy_grant_of_a_ballot_goes_out_at_once_to_its_member() {
    let mut lab = Lab::new(&[2, 3]);
    lab.pass(ms(50));
    lab.take();
    let grant = |clock| ProxyGrant { ballot: ballot(5, 1), inc: Incarnation(3), clock };
    lab.command(HeartbeatCommand::SetProxyGrants(BTreeMap::from([(node(2), grant(START))])));
    let sent = lab.sent();
    assert_eq!(sent.len(), 4);
    for (_, _, to, heartbeat) in &sent {
        assert_eq!(heartbeat.grants.contains_key(&node(2)), *to == node(2));
    }
    lab.take();
    lab.pass(ms(20));
    lab.command(HeartbeatCommand::SetProxyGrants(BTreeMap::from([(node(2), grant(lab.now))])));
    assert!(lab.sent().is_empty(), "a newer one waits for its turn");
}

#[test]
fn nobody_is_unreachable_unprobed() {
    let times = Times { misses: 2, ..Times::STANDARD };
    let mut lab = Lab::with(DetectorConfig { times, ..config(&[2], Rules::ALL) });
    lab.hear(2, 3);
    lab.pass(ms(50));
    // Late, but by less than a period: no stall. Suspected at 160 ms instead of 100.
    lab.stall(ms(110));
    lab.give(Input::Deadline);
    lab.pass(ms(500));
    let at: Vec<Instant> = lab.reaches().iter().map(|reach| reach.0).collect();
    assert_eq!(at, [START, START + ms(160), START + ms(260)]);
}

#[test]
fn strangers_and_wrong_networks_are_ignored() {
    let mut lab = Lab::new(&[2]);
    lab.take();
    lab.hear(9, 1);
    lab.hear(1, 7);
    let heartbeat = beat(1, lab.now);
    lab.hear_on(NetworkId(5), 2, heartbeat);
    assert_eq!(lab.notices(), []);
}

fn figures(lab: &mut Lab) -> wolfpack_types::networks::NetworkFigures {
    lab.command(HeartbeatCommand::Report { id: 4 });
    let found = lab.notices().into_iter().rev().find_map(|notice| match notice {
        HeartbeatNotice::Figures { id: 4, figures } => Some(*figures),
        _ => None,
    });
    found.expect("a report is answered at once")
}

#[test]
fn figures_are_of_each_path_alone() {
    let mut lab = Lab::new(&[2]);
    for seq in [1, 2, 5] {
        lab.pass(ms(20));
        let heartbeat = Heartbeat { seq, ..beat(3, lab.now) };
        lab.hear_on(A, 2, heartbeat);
    }
    let echo = lab.sent().into_iter().rev().find(|s| s.1 == A).unwrap().3.echo;
    assert!(echo.is_some(), "what is heard on a path is echoed on it");
    assert!(lab.sent().iter().filter(|s| s.1 == B).all(|s| s.3.echo.is_none()));
    let report = figures(&mut lab);
    let on = |net| report.paths.iter().find(|p| p.network == net).unwrap();
    assert_eq!((on(A).received, on(A).lost, on(A).loss_permille(), on(A).up), (3, 2, 400, true));
    assert_eq!((on(B).received, on(B).lost, on(B).up), (0, 0, false));
    // A new life counts anew.
    lab.hear_on(A, 2, Heartbeat { seq: 900, ..beat(4, lab.now) });
    let report = figures(&mut lab);
    assert_eq!((report.paths[0].received, report.paths[0].lost), (1, 0));
}

#[test]
fn rows_by_network_are_told_to_the_core_and_to_the_peers() {
    let mut lab = Lab::new(&[2, 3]);
    lab.hear_on(A, 2, beat(3, lab.now));
    lab.give(Input::Interface { network: B, works: false });
    lab.pass(ms(200));
    let rows = lab.sent().last().unwrap().3.networks;
    assert_eq!(rows.row(A), NodeSet::from_iter([node(2)]));
    assert!(rows.row(B).is_empty() && rows.broken(B) && !rows.broken(A));
    assert_eq!(
        lab.notices().iter().rev().find_map(|n| match n {
            HeartbeatNotice::Networks(rows) => Some(*rows),
            _ => None,
        }),
        Some(rows)
    );
    lab.take();
    lab.pass(ms(3000));
    assert!(
        lab.notices()
            .iter()
            .any(|n| matches!(n, HeartbeatNotice::Networks(r) if r.row(A).is_empty()))
    );
}

#[test]
fn a_late_driver_is_said_to_be_unsafe_for_its_times_once() {
    let mut lab = Lab::new(&[2]);
    let allowed = Times::STANDARD.delay_allowed();
    for _ in 0..3 {
        let due = lab.detector.next_deadline().unwrap();
        lab.now = due + allowed + ms(1);
        lab.give(Input::Deadline);
    }
    let said: Vec<bool> = lab
        .notices()
        .iter()
        .filter_map(|n| match n {
            HeartbeatNotice::Delays { safe, .. } => Some(*safe),
            _ => None,
        })
        .collect();
    assert_eq!(said, [false]);
    assert_eq!(figures(&mut lab).delays.worst_ever, allowed + ms(1));
}
