//! Short stories of three nodes without a witness, on an ideal network.

#[expect(dead_code, reason = "each test binary uses a part of the rig")]
mod rig;
#[path = "stories/updates.rs"]
mod updates;

use std::time::Duration;

use rig::{Rig, n};
use wolfpack_core::{ExitReason, Input};
use wolfpack_types::api::{NodeState, Reply, Request};
use wolfpack_types::event::{EventId, EventKind, StampedEvent, chain};
use wolfpack_types::heartbeat::{HeartbeatNotice, Standing};
use wolfpack_types::networks::NetworkRows;
use wolfpack_types::objects::{GroupState, ResourceState};
use wolfpack_types::peer::PeerMessage;
use wolfpack_types::{Guid, Incarnation, NodeInc, StoreId, VersionRange};

const LONG: Duration = Duration::from_secs(30);

fn members(rig: &Rig, i: u8) -> usize {
    rig.see(i).installed.map_or(0, |v| v.members.len())
}

fn cluster() -> Rig {
    let mut rig = Rig::new(3);
    rig.run(Duration::from_millis(500));
    assert!(matches!(rig.create(1), Reply::Done { .. }), "{}", rig.tell());
    rig.until(LONG, "all three are members", |r| (1..=3).all(|i| members(r, i) == 3));
    rig
}

fn with_group() -> Rig {
    let mut rig = cluster();
    let create = Request::GroupCreate { group: "web".into(), preferred: vec!["node2".into()] };
    assert!(matches!(rig.ask(3, create), Reply::Done { .. }));
    let create = Request::ResourceCreate {
        resource: "app".into(),
        group: "web".into(),
        kind: "generic-application".into(),
        properties: [("command".to_owned(), "/bin/true".to_owned())].into(),
        depends_on: vec![],
    };
    let reply = rig.ask(1, create);
    assert!(matches!(reply, Reply::Done { .. }), "{reply:?}");
    assert!(matches!(rig.ask(1, Request::GroupOnline { group: "web".into() }), Reply::Done { .. }));
    rig.until(LONG, "online on the preferred node", |r| r.nodes[&n(2)].running.len() == 1);
    rig
}

fn runners(rig: &Rig) -> Vec<u8> {
    rig.nodes.iter().filter(|(_, x)| !x.running.is_empty()).map(|(id, _)| id.get()).collect()
}

#[test]
fn a_cluster_is_created_once() {
    let mut rig = cluster();
    assert!(matches!(rig.create(2), Reply::Error(_)));
    assert_eq!(rig.see(1).digest, rig.see(3).digest);
}

#[test]
fn a_minority_cannot_create() {
    let mut rig = Rig::new(3);
    rig.cut(1, 2);
    rig.cut(1, 3);
    rig.run(Duration::from_secs(2));
    let Reply::Error(e) = rig.create(1) else { panic!("created by a minority") };
    assert!(e.what.contains("1 of 3 votes"), "{e}");
}

#[test]
fn a_group_runs_where_it_prefers_and_all_members_know() {
    let mut rig = with_group();
    rig.run(Duration::from_millis(50));
    for i in 1..=3 {
        let Reply::Groups { groups } = rig.ask(i, Request::GroupStatus { group: None }) else {
            panic!("no status")
        };
        assert_eq!(groups[0].state, GroupState::Online, "node {i}");
        assert_eq!(groups[0].owner.as_deref(), Some("node2"));
    }
}

#[test]
fn a_power_cut_moves_the_group_after_the_wait() {
    let mut rig = with_group();
    rig.run(Duration::from_secs(3));
    let cut = rig.now;
    rig.power_cut(2);
    rig.until(LONG, "the group runs elsewhere", |r| !runners(r).is_empty());
    let outage = rig.now - cut;
    assert!(outage >= Duration::from_millis(2300), "before the lease was over: {outage:?}");
    assert!(outage <= Duration::from_millis(2700), "{outage:?}\n{}", rig.tell());
}

#[test]
fn a_proven_death_needs_no_wait() {
    let mut rig = with_group();
    rig.run(Duration::from_secs(3));
    let who = rig.nodes[&n(2)].me;
    rig.power_cut(2);
    let cut = rig.now;
    rig.prove_dead(who);
    rig.until(LONG, "the group runs elsewhere", |r| !runners(r).is_empty());
    assert!(rig.now - cut < Duration::from_millis(300), "{:?}", rig.now - cut);
}

#[test]
fn an_administrator_moves_a_group_at_once() {
    let mut rig = with_group();
    let start = rig.now;
    let to = Request::GroupMove { group: "web".into(), to: Some("node3".into()) };
    assert!(matches!(rig.ask(1, to), Reply::Done { .. }));
    rig.until(LONG, "moved", |r| runners(r) == [3]);
    assert!(rig.now - start < Duration::from_millis(60), "{:?}", rig.now - start);
}

#[test]
fn an_isolated_owner_ends_before_another_starts() {
    let mut rig = with_group();
    rig.run(Duration::from_secs(3));
    rig.cut(2, 1);
    rig.cut(2, 3);
    while runners(&rig) == [2] {
        rig.run(Duration::from_millis(1));
    }
    assert!(runners(&rig).is_empty(), "two owners: {:?}", runners(&rig));
    assert!(matches!(rig.nodes[&n(2)].exit, Some(ExitReason::Fenced(_))));
    rig.until(LONG, "the group runs elsewhere", |r| !runners(r).is_empty());
    rig.heal();
    rig.start(2);
    rig.until(LONG, "node 2 is back", |r| (1..=3).all(|i| members(r, i) == 3));
}

#[test]
fn a_returning_node_learns_what_it_missed() {
    let mut rig = with_group();
    rig.power_cut(3);
    rig.until(LONG, "out", |r| members(r, 1) == 2);
    for i in 0..20 {
        let group = Request::GroupCreate { group: format!("g{i}"), preferred: vec![] };
        assert!(matches!(rig.ask(1, group), Reply::Done { .. }));
    }
    rig.start(3);
    rig.until(LONG, "back", |r| members(r, 3) == 3);
    rig.run(Duration::from_millis(100));
    assert_eq!(rig.see(1).digest, rig.see(3).digest);
    let Reply::Resources { resources } = rig.ask(3, Request::ResourceStatus { resource: None })
    else {
        panic!("no status")
    };
    assert_eq!(resources[0].state, ResourceState::Online, "volatile states are told again");
}

#[test]
fn all_nodes_power_cycled_form_again() {
    let mut rig = with_group();
    for i in 1..=3 {
        rig.power_cut(i);
    }
    rig.run(Duration::from_secs(1));
    for i in 1..=3 {
        rig.start(i);
    }
    rig.until(LONG, "formed", |r| (1..=3).all(|i| members(r, i) == 3));
    rig.until(LONG, "online once", |r| runners(r).len() == 1);
    rig.run(Duration::from_secs(5));
    assert_eq!(runners(&rig).len(), 1);
}

#[test]
fn a_clean_leave_costs_no_detection() {
    let mut rig = with_group();
    rig.run(Duration::from_secs(2));
    let start = rig.now;
    rig.input(n(2), Input::Leave);
    rig.until(LONG, "the group runs elsewhere", |r| matches!(runners(r).as_slice(), [1] | [3]));
    assert!(rig.now - start < Duration::from_millis(100), "{:?}", rig.now - start);
    rig.until(LONG, "the view is without it", |r| members(r, 1) == 2);
    assert!(rig.now - start < Duration::from_millis(500), "{:?}", rig.now - start);
    assert_eq!(rig.nodes[&n(2)].exit, Some(ExitReason::Left));
}

#[test]
fn the_last_minority_waits_and_says_for_whom() {
    let mut rig = with_group();
    rig.power_cut(2);
    rig.power_cut(3);
    rig.run(Duration::from_secs(8));
    let Reply::Cluster(status) = rig.ask(1, Request::ClusterStatus) else { panic!() };
    let waiting = status.waiting_for.unwrap_or_default();
    assert!(waiting.contains("node2") && waiting.contains("node3"), "{waiting}");
    assert!(!status.quorum.has_quorum);
    rig.start(3);
    rig.until(LONG, "two are enough", |r| members(r, 1) == 2);
}

#[test]
fn a_resource_made_to_fail_is_restarted_and_the_request_is_answered() {
    let mut rig = with_group();
    let reply = rig.ask(3, Request::ResourceFail { resource: "app".into() });
    assert!(matches!(reply, Reply::Done { .. }), "{reply:?}");
    rig.until(LONG, "ended", |r| runners(r).is_empty());
    rig.until(LONG, "restarted on its node", |r| runners(r) == [2]);
    let reply = rig.ask(1, Request::ResourceFail { resource: "ap".into() });
    assert!(matches!(reply, Reply::Error(_)), "{reply:?}");
}

/// The kinds along the chain of causes of the last event that satisfies the condition, each with
/// the node that logged it.
fn story(rig: &Rig, wanted: impl Fn(&StampedEvent) -> bool) -> Vec<(u8, &'static str)> {
    let last = rig.history.iter().rev().find(|e| wanted(e)).expect("it happened");
    let chain = chain(|id| rig.history.iter().find(|e| e.id == id), last.id);
    assert_eq!(chain.missing, None, "{}", chain.explain());
    chain.links.iter().map(|e| (e.id.node.get(), e.event.kind.name())).collect()
}

fn is_kind(name: &'static str, node: u8) -> impl Fn(&StampedEvent) -> bool {
    move |e| e.event.kind.name() == name && e.id.node == n(node)
}

fn resource_online(node: u8) -> impl Fn(&StampedEvent) -> bool {
    move |e| {
        e.id.node == n(node)
            && matches!(e.event.kind, EventKind::ResourceState { state: ResourceState::Online, .. })
    }
}

#[test]
fn the_story_of_a_power_cut_begins_with_silence() {
    let mut rig = with_group();
    rig.run(Duration::from_secs(3));
    rig.power_cut(2);
    rig.until(LONG, "the group runs elsewhere", |r| !runners(r).is_empty());
    rig.run(Duration::from_millis(50));
    let new = runners(&rig)[0];
    let told = story(&rig, resource_online(new));
    let kinds: Vec<&str> = told.iter().map(|(_, kind)| *kind).collect();
    let stages = ["regroup-stage"; 6];
    let wanted = [
        &["node-reach", "node-reach"][..],
        &stages[..],
        &["view-installed", "wait-over", "group-owner", "resource-state", "resource-state"][..],
    ]
    .concat();
    assert_eq!(kinds, wanted, "{told:?}");
    // The leader (1) decided; each survivor tells the story from its own log.
    let both = [1, 3].map(|i| story(&rig, is_kind("group-owner", i)));
    assert!(both.iter().all(|s| s[0] == (1, "node-reach")), "{both:?}");
}

#[test]
fn the_story_of_a_move_begins_with_the_administrator_on_another_node() {
    let mut rig = with_group();
    let to = Request::GroupMove { group: "web".into(), to: Some("node3".into()) };
    assert!(matches!(rig.ask(1, to), Reply::Done { .. }));
    rig.until(LONG, "moved", |r| runners(r) == [3]);
    rig.run(Duration::from_millis(50));
    assert_eq!(
        story(&rig, resource_online(3)),
        [
            (1, "administrator-asked"),
            (2, "group-moving"),
            (2, "resource-state"),
            (2, "resource-state"),
            (3, "group-owner"),
            (3, "resource-state"),
            (3, "resource-state"),
        ]
    );
    let asked = rig.history.iter().rev().find(|e| is_kind("administrator-asked", 1)(e)).unwrap();
    assert_eq!(asked.event.text, "an administrator asked for: group-move group=web to=node3");
    let moving = rig.history.iter().rev().find(|e| is_kind("group-moving", 2)(e)).unwrap();
    assert_eq!(
        (moving.about.group.as_deref(), &moving.about.nodes[..]),
        (Some("web"), &["node3".into()][..])
    );
}

#[test]
fn the_story_of_a_clean_stop_begins_with_the_node_that_leaves() {
    let mut rig = with_group();
    rig.input(n(2), Input::Leave);
    rig.until(LONG, "the group runs elsewhere", |r| runners(r).iter().any(|i| *i != 2));
    rig.run(Duration::from_millis(50));
    let new = runners(&rig)[0];
    assert_eq!(story(&rig, is_kind("group-owner", new))[0], (2, "service-stopping"));
}

#[test]
fn the_story_of_a_failure_begins_with_what_made_it_fail() {
    let mut rig = with_group();
    assert!(matches!(
        rig.ask(3, Request::ResourceFail { resource: "app".into() }),
        Reply::Done { .. }
    ));
    rig.until(LONG, "it runs again", |r| {
        r.history.iter().any(|e| e.event.kind.name() == "resource-restart")
            && r.history.last().is_some_and(|e| e.event.kind.name() == "group-state")
            && !runners(r).is_empty()
    });
    let told = story(&rig, resource_online(2));
    assert_eq!(told[0], (3, "administrator-asked"), "{told:?}");
    assert!(told.contains(&(2, "resource-restart")), "{told:?}");
}

#[test]
fn a_node_that_was_away_learns_what_happened_and_states_are_said_once() {
    let mut rig = with_group();
    rig.run(Duration::from_secs(3));
    rig.power_cut(2);
    rig.until(LONG, "the group runs elsewhere", |r| !runners(r).is_empty());
    rig.run(Duration::from_secs(1));
    let owner = rig.history.iter().rev().find(|e| is_kind("group-owner", 1)(e)).unwrap().id;
    rig.start(2);
    rig.until(LONG, "it is back", |r| members(r, 2) == 3);
    rig.run(Duration::from_secs(1));
    let learned = &rig.nodes[&n(2)].others;
    assert!(learned.iter().any(|e| e.id == owner), "{} events", learned.len());
    let mut ids: Vec<_> = learned.iter().map(|e| e.id).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), learned.len(), "an event came twice");
    // What happens later goes out by itself, in a batch.
    let asked = Request::GroupMove { group: "web".into(), to: Some("node2".into()) };
    assert!(matches!(rig.ask(3, asked), Reply::Done { .. }));
    let id = rig.history.iter().rev().find(|e| is_kind("administrator-asked", 3)(e)).unwrap().id;
    rig.run(Duration::from_secs(21));
    for i in [1, 2] {
        assert!(rig.nodes[&n(i)].others.iter().any(|e| e.id == id), "node {i} did not learn");
    }
    let states: Vec<_> = rig
        .history
        .iter()
        .filter(|e| e.id.node == n(1))
        .filter_map(|e| match e.event.kind {
            EventKind::NodeState { node, state, .. } if node == n(2) => Some(state),
            _ => None,
        })
        .collect();
    use NodeState::{Down, Joining, Up};
    assert_eq!(states, [Up, Down, Joining, Up]);
}

#[test]
fn a_cause_that_cannot_be_is_not_believed() {
    let mut rig = with_group();
    let who = rig.nodes[&n(3)].me;
    let cause = Some(EventId::new(n(1), u64::MAX));
    let from = who;
    rig.input(n(1), Input::Peer { from, message: PeerMessage::Exit { who, cause } });
    let proof = rig.history.iter().rev().find(|e| is_kind("proof-received", 1)(e)).unwrap();
    assert_eq!(proof.cause, None, "of an own event that has not happened");
}

#[test]
fn a_peer_that_speaks_another_version_is_no_peer() {
    let mut rig = with_group();
    let who = NodeInc::new(n(3), Incarnation(9));
    let standing = Standing {
        store: StoreId(Guid(3)),
        versions: VersionRange { min: 7, max: 8 },
        ..Standing::default()
    };
    for _ in 0..3 {
        let row = (1..=3).map(n).collect();
        let networks = NetworkRows::default();
        let heard = HeartbeatNotice::Heard { from: who, standing, row, networks };
        rig.input(n(1), Input::Heartbeat(heard));
    }
    let refused: Vec<_> = rig.history.iter().filter(|e| is_kind("version-refused", 1)(e)).collect();
    assert_eq!(refused.len(), 1, "said once");
    assert!(refused[0].event.text.contains("speaks version 7 to 8"), "{}", refused[0]);
    // What it sends is not read.
    let message = PeerMessage::Exit { who, cause: None };
    rig.input(n(1), Input::Peer { from: who, message });
    assert!(!rig.history.iter().any(is_kind("proof-received", 1)));
}

#[test]
fn the_story_of_a_paused_node_begins_with_the_administrator() {
    let mut rig = with_group();
    let pause = Request::NodePause { node: "node2".into(), drain: false };
    let reply = rig.ask(3, pause);
    assert!(matches!(reply, Reply::Done { .. }), "{reply:?}");
    rig.run(Duration::from_millis(100));
    let paused = |e: &StampedEvent| {
        matches!(e.event.kind, EventKind::NodeState { state: NodeState::Paused, .. })
            && e.id.node == n(1)
    };
    assert_eq!(story(&rig, paused), [(3, "administrator-asked"), (1, "node-state")]);
}
