//! Stories that everybody should know: what the cluster does in the classical cases, played on a
//! quiet network, told in few words and kept as text (`sim/stories/`), so that a change of what
//! happens is seen in review.
//!
//! What is kept is the order of what matters, without times and messages: a story changes when the
//! cluster does something else, not when it does the same a little later.

use std::time::Duration;

use wolfpack_types::api::Request;
use wolfpack_types::membership::QuorumType;
use wolfpack_types::register::Exclusion;
use wolfpack_types::{NodeId, Rules};

use crate::cluster::{Cluster, End};
use crate::draw::Params;
use crate::event::Event;
use crate::liveness;
use crate::network::{Fate, Kind};
use crate::points::CrashPoint;
use crate::run::{Outcome, finish};
use crate::scenes::{self, cut, ms, must, n, together};

/// A story.
#[derive(Clone, Copy, Debug)]
pub struct Tale {
    pub name: &'static str,
    nodes: u8,
    quorum: QuorumType,
    exclusion: Exclusion,
    play: fn(&mut Cluster),
}

const fn tale(
    name: &'static str,
    nodes: u8,
    quorum: QuorumType,
    exclusion: Exclusion,
    play: fn(&mut Cluster),
) -> Tale {
    Tale { name, nodes, quorum, exclusion, play }
}

/// All stories.
pub const ALL: &[Tale] = &[
    tale("split-3-2", 5, QuorumType::Majority, Exclusion::None, split),
    tale("asymmetric-triangle", 3, QuorumType::Majority, Exclusion::None, triangle),
    tale("locker-crash", 3, QuorumType::Majority, Exclusion::None, locker_crash),
    tale("coordinator-crash", 5, QuorumType::Majority, Exclusion::None, coordinator_crash),
    tale("disk-race", 2, QuorumType::NodeAndDisk, Exclusion::Reserve, disk_race),
    tale("stale-node", 3, QuorumType::Majority, Exclusion::None, stale_node),
    tale("force-quorum-twice", 4, QuorumType::Majority, Exclusion::None, forced_twice),
];

impl Tale {
    /// Plays it, from a settled cluster on.
    #[must_use]
    pub fn play(&self) -> Outcome {
        let params = Params::quiet(self.nodes, self.quorum, self.exclusion);
        let mut cluster = Cluster::new(params, Rules::ALL, true);
        for id in cluster.ids() {
            cluster.soon(Event::Start(id));
        }
        cluster.soon(Event::Administer);
        let verdict = liveness::settles(&mut cluster, liveness::SETUP);
        cluster.judge(verdict);
        let verdict = liveness::becomes_quiet(&mut cluster);
        cluster.judge(verdict);
        if cluster.violation().is_none() {
            cluster.story.say(cluster.now, || format!("{BEGIN}{}", self.name));
            (self.play)(&mut cluster);
        }
        finish(&cluster)
    }

    /// Plays it and tells what matters.
    ///
    /// # Errors
    /// The story in full, if it goes wrong.
    pub fn tell(&self) -> Result<String, String> {
        let outcome = self.play();
        match &outcome.violation {
            None => Ok(condensed(&outcome.lines)),
            Some(violation) => Err(format!("{}\n{violation}", outcome.lines.join("\n"))),
        }
    }
}

const BEGIN: &str = "--- ";

/// What a line must say to be kept.
const KEPT: [&str; 14] = [
    BEGIN,
    "installs ",
    "is over: ",
    " starts; ",
    "exits: ",
    "is Unreachable",
    "Prepare ",
    "register says Challenge",
    "lease over",
    "administrator: ",
    "monitor: online ",
    "power is cut",
    "forces a quorum",
    "never merge by themselves",
];

/// The lines that matter, from the beginning of the story on, without their times.
fn condensed(lines: &[String]) -> String {
    let mut out = String::new();
    let mut last = "";
    let begun = |line: &&String| !line.contains(BEGIN);
    for line in lines.iter().skip_while(begun) {
        let text = line.get(14..).unwrap_or_default();
        let text = text.split(", silent for").next().unwrap_or_default();
        // What is only passed on has been told where it happened.
        let copied = text.contains("EventBatch");
        if !copied && KEPT.iter().any(|kept| text.contains(kept)) && text != last {
            out.push_str(text);
            out.push('\n');
            last = text;
        }
    }
    out
}

fn say(cluster: &mut Cluster, text: &str) {
    cluster.story.say(cluster.now, || format!("{BEGIN}{text}"));
}

fn all_together(cluster: &mut Cluster) {
    cluster.heal_links();
    say(cluster, "everything is mended");
    must(cluster, Duration::from_secs(60), "everybody is in one view, all is online", |c| {
        liveness::settled(c)
    });
}

/// Five nodes fall into three and two: the three go on, the two end what they run.
fn split(cluster: &mut Cluster) {
    for a in [1, 2] {
        for b in [3, 4, 5] {
            cut(cluster, a, b);
        }
    }
    must(cluster, ms(20_000), "3, 4 and 5 form a view", |c| together(c, &[3, 4, 5]));
    must(cluster, ms(20_000), "all is online there", liveness::groups_online);
    all_together(cluster);
}

/// 2 does not hear 1, everything else works: two of the three go on together, for one of the pair has
/// to leave.
fn triangle(cluster: &mut Cluster) {
    cluster.network.cut_all(n(1), n(2));
    must(cluster, ms(20_000), "two nodes form a view", |c| {
        together(c, &[1, 3]) || together(c, &[2, 3])
    });
    must(cluster, ms(20_000), "all is online there", liveness::groups_online);
    all_together(cluster);
}

/// The locker crashes when an update is durable with it alone, before anybody was told: the update
/// survives or vanishes, as one, and who asked asks again.
fn locker_crash(cluster: &mut Cluster) {
    let leader = cluster.oracle.established.values().next_back().map(|e| e.view.leader());
    let Some((leader, who)) = leader.and_then(|l| Some((l, cluster.life(l)?))) else { return };
    let step = cluster.node(leader).steps;
    cluster.crash_point = Some(CrashPoint { node: leader, step, kept: true });
    cluster.ask(who, u64::MAX, Request::GroupOffline { group: "g1".into() });
    must(cluster, ms(5_000), "the locker is down", |c| c.life(leader).is_none());
    must(cluster, ms(20_000), "its next life is in a view with the others", |c| {
        c.life(leader).is_some() && together(c, &[1, 2, 3])
    });
    cluster.admin.want_all_online(cluster.now);
    all_together(cluster);
}

fn accept_lost(_: NodeId, _: NodeId, kind: Kind) -> Fate {
    if kind == Kind::Accept { Fate::Lose } else { Fate::Pass }
}

/// The leader dies, and who coordinates the next view dies in Cleanup 2, having accepted its own view
/// alone: nobody may act on that view, and the rest goes on.
fn coordinator_crash(cluster: &mut Cluster) {
    cluster.network.rig(Some(accept_lost));
    cluster.end(n(1), End::PowerCut);
    must(cluster, ms(20_000), "2 has accepted its own view", |c| {
        let accepted = c.node(n(2)).store.record().accepted.as_ref();
        accepted.is_some_and(|view| view.leader() == n(2) && !view.has_node(n(1)))
    });
    cluster.end(n(2), End::PowerCut);
    cluster.network.rig(None);
    must(cluster, ms(20_000), "3, 4 and 5 form a view", |c| together(c, &[3, 4, 5]));
    cluster.start(n(1));
    cluster.start(n(2));
    all_together(cluster);
}

/// Two nodes lose each other: the witness disk decides.
fn disk_race(cluster: &mut Cluster) {
    cut(cluster, 1, 2);
    must(cluster, ms(30_000), "one of them goes on", |c| together(c, &[1]) || together(c, &[2]));
    must(cluster, ms(30_000), "all is online there", liveness::groups_online);
    all_together(cluster);
}

/// A node is away while the cluster changes, and comes back with an old log.
fn stale_node(cluster: &mut Cluster) {
    cluster.end(n(3), End::PowerCut);
    must(cluster, ms(20_000), "1 and 2 form a view", |c| together(c, &[1, 2]));
    cluster.admin.want_all_offline();
    must(cluster, ms(20_000), "all is offline", |c| c.admin.is_done());
    cluster.start(n(3));
    must(cluster, ms(20_000), "all three form a view", |c| together(c, &[1, 2, 3]));
    let database = |c: &Cluster, id| c.oracle.lives.get(&n(id)).map(|f| f.sight.applied);
    must(cluster, ms(5_000), "3 knows what 1 knows", |c| database(c, 3) == database(c, 1));
    cluster.admin.want_all_online(cluster.now);
    all_together(cluster);
}

/// Four nodes fall into two and two, and each half is told that the other is dead: they are two
/// clusters from then on, also when they hear each other again. One is given up, and comes back with
/// empty stores.
fn forced_twice(cluster: &mut Cluster) {
    scenes::force_both(cluster);
    say(cluster, "the links are mended, and nothing merges");
    cluster.heal_links();
    cluster.run_for(Duration::from_secs(30));
    must(cluster, ms(1), "two clusters", |c| together(c, &[1, 2]) && together(c, &[3, 4]));
    say(cluster, "the administrator gives 3 and 4 up");
    for id in [3, 4] {
        let Some(who) = cluster.life(n(id)) else { return };
        cluster.ask(who, u64::MAX - u64::from(id), Request::NodeDiscard);
    }
    must(cluster, ms(60_000), "3 and 4 are members of the other quorum", |c| {
        together(c, &[1, 2, 3, 4])
    });
    cluster.admin.want_all_online(cluster.now);
    all_together(cluster);
}
