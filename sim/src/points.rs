//! Crashes at a chosen persistence point: power is cut at the moment at which a certain step of a
//! node's store becomes durable, just before (lost) or just after, before anybody is told (kept).
//! Played at every point there is, one after the other (`--crash-points`).

use std::ops::Range;
use std::time::Duration;

use wolfpack_types::membership::QuorumType;
use wolfpack_types::register::Exclusion;
use wolfpack_types::{NodeId, NodeInc, Rules};

use crate::cluster::{Cluster, End, gap_in_log};
use crate::draw::Params;
use crate::event::Event;
use crate::invariants::Violation;
use crate::liveness;
use crate::node::Node;

/// Where power is cut.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CrashPoint {
    pub node: NodeId,
    /// The step, counted over all lives of the node.
    pub step: u64,
    /// The step has become durable.
    pub kept: bool,
}

impl CrashPoint {
    /// Whether the node's next durable step is this one.
    #[must_use]
    pub const fn hits(self, node: &Node) -> bool {
        self.node.get() == node.id.get() && self.step == node.steps
    }
}

impl Cluster {
    pub(crate) fn crash_at_step(&mut self, who: NodeInc) {
        let kept = self.crash_point.take().is_some_and(|point| point.kept);
        let node = &mut self.nodes[who.node.index()];
        let before = node.store.record().clone();
        if kept {
            let verdict = match node.store.complete() {
                Ok(Some((_, step))) => self.oracle.step_durable(who, &before, &step),
                Ok(None) => Ok(()),
                Err(gap) => gap_in_log(&gap),
            };
            self.judge(verdict);
        }
        self.say(who, || format!("power is cut at a persistence point (kept: {kept})"));
        self.tally.crashes += 1;
        self.end(who.node, End::PowerCut);
        self.restart_after(who.node, self.params.times.lease / 4);
    }
}

/// A quiet cluster comes up, moves a group, loses and regains a node. With a crash at a point;
/// None: which steps each node has, from the first view on. (A creation that breaks off may leave its
/// view at the witness alone; people repeat it with `--overwrite`.)
fn play(params: &Params, point: Option<CrashPoint>) -> (Vec<Range<u64>>, Option<Violation>) {
    let mut cluster = Cluster::new(params.clone(), Rules::ALL, false);
    cluster.crash_point = point;
    for id in cluster.ids() {
        cluster.soon(Event::Start(id));
    }
    cluster.soon(Event::Administer);
    cluster.run_while_not(liveness::SETUP, Duration::from_micros(50), |c| {
        !c.oracle.established.is_empty()
    });
    let first: Vec<u64> = cluster.nodes.iter().map(|node| node.steps).collect();
    let verdict = liveness::settles(&mut cluster, liveness::SETUP);
    cluster.judge(verdict);
    if let Some(&last) = cluster.ids().last() {
        cluster.end(last, End::Killed);
        cluster.run_for(cluster.params.times.lease * 3);
        cluster.restart_after(last, cluster.params.times.lease / 4);
    }
    let verdict = liveness::settles(&mut cluster, liveness::MENDED);
    cluster.judge(verdict);
    let steps = cluster.nodes.iter().zip(first).map(|(node, first)| first..node.steps).collect();
    (steps, cluster.violation().cloned())
}

/// The clusters in which every point is played.
#[must_use]
pub fn histories() -> Vec<Params> {
    vec![
        Params::quiet(3, QuorumType::Majority, Exclusion::None),
        Params::quiet(2, QuorumType::NodeAndDisk, Exclusion::None),
        Params::quiet(2, QuorumType::NodeAndDisk, Exclusion::Reserve),
        Params::quiet(3, QuorumType::Disk, Exclusion::Reserve),
    ]
}

/// Plays a crash at every persistence point of every node. How many there were, and the first
/// violation with its point.
#[must_use]
pub fn every_point(params: &Params) -> (u64, Option<(Option<CrashPoint>, Violation)>) {
    let (steps, violation) = play(params, None);
    if let Some(violation) = violation {
        return (0, Some((None, violation)));
    }
    let mut played = 0;
    for (node, steps) in (1..).zip(steps) {
        let Ok(node) = NodeId::new(node) else { continue };
        for step in steps {
            for kept in [false, true] {
                let point = CrashPoint { node, step, kept };
                played += 1;
                if let (_, Some(violation)) = play(params, Some(point)) {
                    return (played, Some((Some(point), violation)));
                }
            }
        }
    }
    (played, None)
}
