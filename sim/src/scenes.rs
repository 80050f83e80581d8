//! Directed scenes: narrow interleavings that random runs meet too rarely, played on a quiet
//! network. Each holds under the rules of the protocol, and finds the rule that it is about.
//!
//! A scene cuts and heals links, crashes and starts nodes, holds disk commands back; what the cores
//! do about it is theirs.

use std::collections::BTreeMap;
use std::time::Duration;

use wolfpack_core::Input as CoreInput;
use wolfpack_types::api::Request;
use wolfpack_types::disk::DiskOp;
use wolfpack_types::membership::QuorumType;
use wolfpack_types::peer::PeerMessage;
use wolfpack_types::register::Exclusion;
use wolfpack_types::{Ballot, Incarnation, NodeId, Rule, Rules, Times};

use crate::cluster::{Cluster, End};
use crate::draw::Params;
use crate::event::Event;
use crate::invariants::Violation;
use crate::liveness;
use crate::network::{Fate, Kind};
use crate::node::name_of;
use crate::run::{Outcome, finish};

/// From where a scene goes on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Start {
    /// A cluster that has been quiet for a while.
    Settled,
    /// The very first view, which has the witness in it.
    FirstView,
    /// The same, with a register lease that is over before the second view is wanted (after twice
    /// the detection time): else the bound that the first view's own challenge sets hides what is
    /// looked for.
    FirstViewShortRegister,
}

/// A scene.
#[derive(Clone, Copy, Debug)]
pub struct Scene {
    pub name: &'static str,
    /// The rule without which it goes wrong.
    pub about: Rule,
    nodes: u8,
    quorum: QuorumType,
    exclusion: Exclusion,
    start: Start,
    play: fn(&mut Cluster),
}

/// All scenes.
pub const ALL: &[Scene] = &[
    Scene {
        name: "restarted-voter",
        about: Rule::NoRestartRule,
        nodes: 3,
        quorum: QuorumType::Majority,
        exclusion: Exclusion::None,
        start: Start::Settled,
        play: restarted_voter,
    },
    Scene {
        name: "proxy-at-completion",
        about: Rule::ProxyDone,
        nodes: 3,
        quorum: QuorumType::Disk,
        exclusion: Exclusion::Reserve,
        start: Start::Settled,
        play: proxy_at_completion,
    },
    Scene {
        name: "ineligible-defender",
        about: Rule::DefendAlways,
        nodes: 3,
        quorum: QuorumType::NodeAndDisk,
        exclusion: Exclusion::Reserve,
        start: Start::Settled,
        play: ineligible_defender,
    },
    Scene {
        name: "hand-over",
        about: Rule::DefendForeign,
        nodes: 2,
        quorum: QuorumType::Disk,
        exclusion: Exclusion::Reserve,
        start: Start::Settled,
        play: hand_over,
    },
    Scene {
        name: "dead-view",
        about: Rule::KeepDead,
        nodes: 5,
        quorum: QuorumType::Majority,
        exclusion: Exclusion::None,
        start: Start::Settled,
        play: dead_view,
    },
    Scene {
        name: "register-grant-revived",
        about: Rule::RegisterText,
        nodes: 2,
        quorum: QuorumType::NodeAndDisk,
        exclusion: Exclusion::None,
        start: Start::FirstView,
        play: register_grant_revived,
    },
    Scene {
        name: "register-grant-stale",
        about: Rule::RegisterStale,
        nodes: 2,
        quorum: QuorumType::NodeAndDisk,
        exclusion: Exclusion::None,
        start: Start::FirstViewShortRegister,
        play: register_grant_stale,
    },
    Scene {
        name: "unknown-view",
        about: Rule::SkipAny,
        nodes: 2,
        quorum: QuorumType::NodeAndDisk,
        exclusion: Exclusion::None,
        start: Start::FirstViewShortRegister,
        play: unknown_view,
    },
    Scene {
        name: "forced-twice",
        about: Rule::ForceMerge,
        nodes: 4,
        quorum: QuorumType::Majority,
        exclusion: Exclusion::None,
        start: Start::Settled,
        play: forced_twice,
    },
    Scene {
        name: "evicted-node",
        about: Rule::EvictedReturns,
        nodes: 4,
        quorum: QuorumType::Majority,
        exclusion: Exclusion::None,
        start: Start::Settled,
        play: evicted_node,
    },
    Scene {
        name: "former-votes",
        about: Rule::PrevDrop,
        nodes: 5,
        quorum: QuorumType::Majority,
        exclusion: Exclusion::None,
        start: Start::Settled,
        play: former_votes,
    },
];

impl Scene {
    /// Plays it under these rules, from a settled cluster on.
    #[must_use]
    pub fn play(&self, rules: &Rules, story: bool) -> Outcome {
        let mut params = Params::quiet(self.nodes, self.quorum, self.exclusion);
        if self.start == Start::FirstViewShortRegister {
            params.times =
                Times { misses: 15, lease: ms(1_200), register_lease: ms(1_400), ..params.times };
            // Who runs nothing survives the end of its lease, and these are about leases.
            params.groups = 0;
        }
        let mut cluster = Cluster::new(params, rules.clone(), story);
        for id in cluster.ids() {
            cluster.soon(Event::Start(id));
        }
        if self.start == Start::Settled {
            cluster.soon(Event::Administer);
            let verdict = liveness::settles(&mut cluster, liveness::SETUP);
            cluster.judge(verdict);
            let verdict = liveness::becomes_quiet(&mut cluster);
            cluster.judge(verdict);
        } else {
            // The founders must have heard each other, so that the first view has both.
            cluster.after(ms(1_000), Event::Administer);
        }
        if cluster.violation().is_none() {
            cluster.story.say(cluster.now, || "--- the scene".into());
            (self.play)(&mut cluster);
        }
        finish(&cluster)
    }

    /// The scene of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<&'static Self> {
        ALL.iter().find(|scene| scene.name == name)
    }
}

pub(crate) const fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

pub(crate) fn n(id: u8) -> NodeId {
    NodeId::new(id).expect("scenes have few nodes")
}

pub(crate) fn cut(cluster: &mut Cluster, a: u8, b: u8) {
    cluster.network.cut_all(n(a), n(b));
    cluster.network.cut_all(n(b), n(a));
}

/// What a scene waits for must come about.
pub(crate) fn must(
    cluster: &mut Cluster,
    most: Duration,
    what: &str,
    holds: impl Fn(&Cluster) -> bool,
) {
    // Finer than any delay on the quiet network: nothing happens unseen in between.
    if !cluster.run_while_not(most, Duration::from_micros(50), holds)
        && cluster.violation().is_none()
    {
        let what = format!("not within {most:?}: {what}");
        cluster.judge(Err(Violation { invariant: "P10.21 liveness", what }));
    }
}

pub(crate) fn together(cluster: &Cluster, ids: &[u8]) -> bool {
    let wanted: Vec<NodeId> = ids.iter().map(|&id| n(id)).collect();
    liveness::together(cluster, &wanted)
}

/// 1 is acknowledged by 2 until 2 restarts; 3 has not heard 1 for a while. The new life of 2 has
/// acknowledged nobody, but must answer for its former one.
fn restarted_voter(cluster: &mut Cluster) {
    cut(cluster, 1, 3);
    cluster.run_for(cluster.params.times.detect() * 2 / 3);
    cut(cluster, 1, 2);
    cluster.end(n(2), End::PowerCut);
    cluster.run_for(ms(10));
    cluster.start(n(2));
    cluster.run_for(cluster.params.times.lease * 4);
}

/// 2 is cut off and starts a new life. Just before it challenges, a renewal of the leader
/// is executed and its completion stalls, and a stranger's reset lets 2 in at once: it forms without
/// 1 and 3. Heartbeats of 3 that 1 has received meanwhile must not count for the renewal.
fn proxy_at_completion(cluster: &mut Cluster) {
    let times = cluster.params.times;
    cut(cluster, 1, 2);
    cut(cluster, 2, 3);
    cluster.end(n(2), End::PowerCut);
    must(cluster, ms(5_000), "1 and 3 form a view without 2", |c| together(c, &[1, 3]));
    cluster.start(n(2));
    // A new life that hears nobody regroups after detection and one second (P9).
    cluster.run_for(times.detect() + ms(1_000) - times.reserve_renew - ms(20));
    let stall = times.command_timeout - ms(20);
    cluster.device.rig(Some(Box::new(move |life, op| {
        let read = matches!(op, DiskOp::Read { .. }) && life.node == n(1);
        Some((Duration::from_micros(100), if read { stall } else { Duration::from_micros(100) }))
    })));
    cluster.run_for(times.reserve_renew + ms(5));
    cluster.device.reset();
    cluster.run_for(times.register_lease * 2);
}

/// 1 holds the reservation and is cut off. 2 and 3 need the disk; 1 cannot form and must let go,
/// though it runs nothing, so that the end of its lease does not end its life.
fn ineligible_defender(cluster: &mut Cluster) {
    cluster.admin.want_all_offline();
    must(cluster, ms(20_000), "all groups are offline", |c| {
        c.admin.is_done() && c.nodes.iter().all(|node| node.machine.runs().next().is_none())
    });
    cut(cluster, 1, 2);
    cut(cluster, 1, 3);
    must(cluster, ms(20_000), "2 and 3 form a view without 1", |c| together(c, &[2, 3]));
}

/// The holder 1 has promised the ballot of 2, which needs the disk: it must stop defending.
fn hand_over(cluster: &mut Cluster) {
    let (Some(from), Some(to)) = (cluster.life(n(1)), cluster.life(n(2))) else { return };
    let Some(&ballot) = cluster.oracle.established.keys().next_back() else { return };
    let message = PeerMessage::Resign { ballot, cause: None };
    cluster.soon(Event::ToCore(to, Box::new(CoreInput::Peer { from, message })));
    must(cluster, ms(20_000), "2 leads a view of both", |c| {
        let newest = c.oracle.established.values().next_back();
        together(c, &[1, 2]) && newest.is_some_and(|e| e.view.leader() == n(2))
    });
}

fn accept_reaches_4_only(_: NodeId, to: NodeId, kind: Kind) -> Fate {
    if kind == Kind::Accept && to != n(4) { Fate::Lose } else { Fate::Pass }
}

/// A view of 3, 4 and 5 reaches 4 only, then 3 dies: it was never established and never will be.
/// Whom it left out must not have to restart, and 4 must not keep them out.
fn dead_view(cluster: &mut Cluster) {
    for (a, b) in [(1, 3), (1, 4), (1, 5), (2, 3), (2, 4), (2, 5)] {
        cut(cluster, a, b);
    }
    cluster.network.rig(Some(accept_reaches_4_only));
    must(cluster, ms(5_000), "4 accepts a view of 3", |c| {
        let accepted = c.node(n(4)).store.record().accepted.as_ref();
        accepted.is_some_and(|view| view.leader() == n(3))
    });
    cluster.end(n(3), End::PowerCut);
    cluster.network.rig(None);
    cluster.heal_links();
    must(cluster, ms(20_000), "1, 2, 4 and 5 form a view", |c| together(c, &[1, 2, 4, 5]));
    must(cluster, ms(1), "nobody had to restart", |c| {
        [1, 2, 4, 5].iter().all(|&id| c.life(n(id)).is_some_and(|l| l.inc == Incarnation(1)))
    });
}

/// The first view has the witness, and both nodes in it.
fn first_view(cluster: &mut Cluster) {
    must(cluster, ms(5_000), "1 and 2 form the first view", |c| together(c, &[1, 2]));
}

/// Whether the newest accepted view of a node has the witness and was made by this leader.
fn accepted(cluster: &Cluster, id: u8, witness: bool, leader: u8) -> bool {
    let accepted = cluster.node(n(id)).store.record().accepted.as_ref();
    accepted.is_some_and(|v| v.witness_in == witness && v.leader() == n(leader))
}

/// 1 drops the witness; 2 accepts that view and hears nothing more, so the first view, under which
/// it goes on renewing at the witness, stays installed there.
fn second_view_half_heard(cluster: &mut Cluster) {
    first_view(cluster);
    must(cluster, ms(5_000), "2 accepts a view without the witness", |c| accepted(c, 2, false, 1));
    cluster.network.cut_all(n(1), n(2));
    must(cluster, ms(100), "1 installs it", |c| {
        let view = c.oracle.lives.get(&n(1)).and_then(|facts| facts.view.as_ref());
        view.is_some_and(|v| !v.witness_in)
    });
}

/// Then 1 forms alone, and need not wait for a lease at the witness: 2 has accepted a view without.
fn register_grant_stale(cluster: &mut Cluster) {
    second_view_half_heard(cluster);
    cluster.network.cut_all(n(2), n(1));
    cluster.run_for(cluster.params.times.register_lease * 2);
}

/// As before, but 2 tries alone first: it accepts a third view, with the witness, which never
/// reaches the witness. That must not bring the grant under the first view back.
fn register_grant_revived(cluster: &mut Cluster) {
    second_view_half_heard(cluster);
    must(cluster, ms(5_000), "2 accepts a view of its own", |c| accepted(c, 2, true, 2));
    cluster.device.rig(Some(Box::new(|life, op| {
        let held = matches!(op, DiskOp::Write { .. }) && life.node == n(2);
        let there = if held { Duration::from_secs(1_000) } else { Duration::from_micros(100) };
        Some((there, Duration::from_micros(100)))
    })));
    cluster.network.cut_all(n(2), n(1));
    cluster.run_for(cluster.params.times.register_lease * 2);
}

fn accept_lost_to_2(_: NodeId, to: NodeId, kind: Kind) -> Fate {
    if kind == Kind::Accept && to == n(2) { Fate::Lose } else { Fate::Pass }
}

/// 1 accepts a view without the witness, 2 never hears of it and goes on renewing at the witness.
/// 1 forms alone: nobody knows that view established, so the lease at the witness must be waited for.
fn unknown_view(cluster: &mut Cluster) {
    first_view(cluster);
    cluster.network.rig(Some(accept_lost_to_2));
    must(cluster, ms(5_000), "1 accepts a view without the witness", |c| accepted(c, 1, false, 1));
    cut(cluster, 1, 2);
    cluster.run_for(cluster.params.times.register_lease * 2);
}

/// 1 and 2, 3 and 4 lose each other, and an administrator of each half asserts that the other is dead.
pub(crate) fn force_both(cluster: &mut Cluster) {
    for (a, b) in [(1, 3), (1, 4), (2, 3), (2, 4)] {
        cut(cluster, a, b);
    }
    cluster.only_asked();
    cluster.run_for(cluster.params.times.lease * 4);
    for (id, dead) in [(1, [3, 4]), (3, [1, 2])] {
        let Some(who) = cluster.life(n(id)) else { return };
        let dead = dead.map(|id| name_of(n(id))).into();
        cluster.ask(who, u64::MAX - u64::from(id), Request::QuorumForce { dead });
    }
    must(cluster, ms(60_000), "both halves have a quorum", |c| {
        together(c, &[1, 2]) && together(c, &[3, 4])
    });
    must(cluster, ms(20_000), "both run the group", |c| {
        c.nodes.iter().filter(|node| node.machine.is_online("g1")).count() == 2
    });
}

/// Two forced quorums hear each other again. Neither descends from the other: they never merge.
fn forced_twice(cluster: &mut Cluster) {
    force_both(cluster);
    cluster.heal_links();
    cluster.run_for(ms(30_000));
    must(cluster, ms(1), "two clusters", |c| together(c, &[1, 2]) && together(c, &[3, 4]));
}

fn votes_of(node: u8, votes: u8) -> Request {
    let weights = BTreeMap::from([(name_of(n(node)), votes)]);
    Request::QuorumSet {
        kind: None,
        witness: None,
        exclusion: None,
        weights,
        dynamic: None,
        overwrite: false,
        room: None,
    }
}

/// 4 is evicted, and starts again without having been added.
fn evicted_node(cluster: &mut Cluster) {
    let Some(who) = cluster.life(n(1)) else { return };
    cluster.ask(who, u64::MAX, Request::NodeEvict { node: name_of(n(4)) });
    must(cluster, ms(60_000), "1, 2 and 3 go on without 4", |c| {
        together(c, &[1, 2, 3]) && c.life(n(4)).is_none()
    });
    cluster.start(n(4));
    cluster.run_for(ms(20_000));
    must(cluster, ms(1), "4 stays out, and its vote is gone", |c| {
        let newest = c.oracle.established.values().next_back();
        together(c, &[1, 2, 3]) && newest.is_some_and(|e| !e.view.votes.nodes.contains_key(&n(4)))
    });
}

fn accept_reaches_2_only(_: NodeId, to: NodeId, kind: Kind) -> Fate {
    if kind == Kind::Accept && to != n(2) { Fate::Lose } else { Fate::Pass }
}

fn accept_reaches_1_only(_: NodeId, to: NodeId, kind: Kind) -> Fate {
    if kind == Kind::Accept && to != n(1) { Fate::Lose } else { Fate::Pass }
}

/// The ballot of the view that a node has accepted, if 1 alone holds more than half in it.
fn heavy(cluster: &Cluster, id: u8) -> Option<Ballot> {
    let accepted = cluster.node(n(id)).store.record().accepted.as_ref();
    accepted.filter(|view| view.votes.of(n(1)) > 4).map(|view| view.ballot)
}

/// A view that gives 1 more than half of the votes reaches 1 and 2 only; the next one, which goes on
/// from it, 1 only. 3, 4 and 5 form by the votes that they know: 1 alone must not, by its own.
fn former_votes(cluster: &mut Cluster) {
    let Some(who) = cluster.life(n(1)) else { return };
    cluster.network.rig(Some(accept_reaches_2_only));
    cluster.ask(who, u64::MAX, votes_of(1, 9));
    must(cluster, ms(20_000), "2 accepts the new votes", |c| heavy(c, 2).is_some());
    cluster.network.rig(Some(accept_reaches_1_only));
    must(cluster, ms(20_000), "1 goes on from them", |c| heavy(c, 1) > heavy(c, 2));
    for (a, b) in [(1, 2), (1, 3), (1, 4), (1, 5), (2, 3), (2, 4), (2, 5)] {
        cut(cluster, a, b);
    }
    cluster.network.rig(None);
    must(cluster, ms(20_000), "3, 4 and 5 form a view", |c| together(c, &[3, 4, 5]));
    cluster.run_for(cluster.params.times.lease * 8);
}
