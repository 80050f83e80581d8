//! Rendering against plain expected text.

use std::collections::BTreeMap;

use wolfpack_types::api::{PathStatus, Protection, ViewStatus};
use wolfpack_types::event::{Event, EventId, EventKind};
use wolfpack_types::membership::{Illegal, QuorumType, Stage};

use super::*;

fn node(id: u8, name: &str, state: NodeState) -> NodeStatus {
    NodeStatus {
        id,
        name: name.into(),
        state,
        reach: Some(if state == NodeState::Up { Reach::Up } else { Reach::Unreachable }),
        incarnation: Some(3),
        paths: vec![
            PathStatus { network: "private".into(), up: state == NodeState::Up },
            PathStatus { network: "public".into(), up: state == NodeState::Up },
        ],
    }
}

fn group(state: GroupState) -> GroupStatus {
    GroupStatus {
        name: "web".into(),
        id: "0".repeat(32),
        state,
        wanted: Wanted::Online,
        owner: Some("a".into()),
        moving_to: None,
        preferred: vec!["a".into(), "b".into()],
        because: "it was created there".into(),
        protection: Protection::Reserved,
    }
}

fn resource(state: ResourceState, why: &str) -> ResourceStatus {
    ResourceStatus {
        name: "ip".into(),
        id: "1".repeat(32),
        group: "web".into(),
        kind: "ip-address".into(),
        state,
        node: Some("a".into()),
        why: why.into(),
        depends_on: vec!["disk".into()],
        properties: BTreeMap::from([("address".into(), "10.0.0.5/24".into())]),
    }
}

fn quorum(has_quorum: bool) -> QuorumStatus {
    QuorumStatus {
        kind: Some(QuorumType::NodeAndDisk),
        witness: Some("iscsi://san/1".into()),
        exclusion: Some("reserve".into()),
        votes: BTreeMap::from([("a".into(), 1), ("b".into(), 1)]),
        witness_votes: 1,
        have: if has_quorum { 3 } else { 1 },
        total: 3,
        has_quorum,
        explanation: "any one of three may fail".into(),
    }
}

fn status() -> ClusterStatus {
    ClusterStatus {
        name: Some("demo".into()),
        cluster: "c".into(),
        node: "a".into(),
        incarnation: 3,
        state: ServiceState::Member,
        waiting_for: None,
        view: Some(ViewStatus {
            ballot: "12.1".into(),
            leader: "a".into(),
            members: vec!["a".into(), "b".into()],
            witness_in: false,
        }),
        stage: None,
        lease_ms: Some(1900),
        commit_seq: 7,
        protocol: 1,
        stuck: Vec::new(),
        refused: BTreeMap::new(),
        nodes: vec![node(1, "a", NodeState::Up), node(2, "b", NodeState::Up)],
        groups: vec![group(GroupState::Online)],
        resources: vec![resource(ResourceState::Online, "")],
        quorum: quorum(true),
    }
}

#[test]
fn refused_messages_are_counted_and_explained() {
    let mut s = status();
    assert!(!cluster(&s).contains("Refused"));
    assert!(nodes_in_full(&s).contains("Node a has refused no message of the others."));
    s.refused = BTreeMap::from([(Illegal::PastBallot, 4), (Illegal::DeadLife, 1)]);
    let line = "Refused   5 messages of the other nodes: 'wolfpack node status --verbose' says why";
    assert!(cluster(&s).lines().any(|l| l == line), "{}", cluster(&s));
    let expected = "
Messages that node a has refused since it began:
  COUNT  BECAUSE
  1      the sender's life is over
  4      its ballot is past
";
    assert!(nodes_in_full(&s).ends_with(expected), "{}", nodes_in_full(&s));
    let reply = serde_json::to_string(&Reply::Cluster(Box::new(s.clone()))).unwrap();
    assert!(reply.contains(r#""refused":{"dead-life":1,"past-ballot":4}"#), "{reply}");
    let Reply::Cluster(back) = serde_json::from_str(&reply).unwrap() else { panic!("{reply}") };
    assert_eq!(back.refused, s.refused);
}

#[test]
fn a_healthy_cluster() {
    let expected = "\
Cluster   demo
This node a, incarnation 3, a member
View      12.1 of a, b, led by a
Quorum    node-and-disk, 3 of 3 votes

NODES
  NODE  ID  STATE  HEARD  INCARNATION  PATHS
  a     1   up     yes    3            private up, public up
  b     2   up     yes    3            private up, public up

GROUPS
  GROUP  STATE   WANTED  NODE  MOVING TO  PREFERRED
  web    online  online  a     -          a, b

RESOURCES
  RESOURCE  GROUP  TYPE        STATE   NODE  DEPENDS ON
  ip        web    ip-address  online  a     disk
";
    assert_eq!(cluster(&status()), expected);
}

#[test]
fn what_is_wrong_comes_first_the_gravest_first() {
    let mut s = status();
    s.state = ServiceState::Regrouping;
    s.stage = Some(Stage::Cleanup1);
    s.groups[0].state = GroupState::Failed;
    s.groups[0].because = "resource 'ip' failed".into();
    s.resources[0] = resource(ResourceState::Failed, "address in use\nby 02:00");
    s.nodes[1] = node(2, "b", NodeState::Down);
    s.nodes[0].paths[1].up = false;
    let expected = "\
PROBLEMS
  ! this node is regrouping, stage cleanup 1 (promise)
  ! group 'web' failed: resource 'ip' failed
  ! resource 'ip' failed on a: address in use by 02:00
  ! network 'public' to node 'a' is down
  ! node 'b' is down

Cluster ";
    let text = cluster(&s);
    assert!(text.starts_with(expected), "{text}");
}

#[test]
fn no_quorum_says_what_it_waits_for() {
    let mut s = status();
    s.state = ServiceState::Waiting;
    s.quorum = quorum(false);
    s.waiting_for = Some("the witness or node 'b'".into());
    let text = cluster(&s);
    assert!(text.starts_with("PROBLEMS\n  ! no quorum: the witness or node 'b'\n"), "{text}");
}

#[test]
fn a_group_that_should_run_and_does_not_is_a_problem() {
    let mut s = status();
    s.groups[0].state = GroupState::Offline;
    assert_eq!(problems(&s), ["group 'web' should be online and is offline"]);
    s.groups[0].owner = None;
    s.groups[0].because = "node 2 was lost".into();
    assert_eq!(problems(&s), ["group 'web' has no node to run on: node 2 was lost"]);
    s.groups[0].wanted = Wanted::Offline;
    assert!(problems(&s).is_empty());
}

#[test]
fn an_empty_node_says_how_to_begin() {
    let mut s = status();
    s.state = ServiceState::Empty;
    s.name = None;
    s.view = None;
    s.nodes[1] = node(2, "b", NodeState::Down);
    s.quorum = quorum(false);
    s.groups.clear();
    s.resources.clear();
    let text = cluster(&s);
    let first = "PROBLEMS\n  ! there is no cluster yet on this node\n  ! it waits for a cluster: \
                 'wolfpack cluster create NAME'\n\n";
    assert!(text.starts_with(first), "{text}");
    assert!(text.contains("Cluster   (none yet)"), "{text}");
}

#[test]
fn quorum_in_words() {
    let expected = "\
Type    node-and-disk
Votes   3 of 3
Witness iscsi://san/1 (exclusion: reserve)

VOTER      VOTES
a          1
b          1
(witness)  1

any one of three may fail
";
    assert_eq!(quorum_details(&quorum(true)), expected);
    assert!(quorum_details(&quorum(false)).starts_with("PROBLEMS\n  ! there is no quorum\n"));
}

#[test]
fn details_of_groups_and_resources() {
    let text = group_details(&[group(GroupState::Online)]);
    assert!(
        text.ends_with(
            "web: it was created there; its disks are reserved (exclusion, not a full fence)\n"
        ),
        "{text}"
    );
    let text = resource_details(&[resource(ResourceState::Failed, "exit code 1")]);
    assert!(text.ends_with("\nip\n  why: exit code 1\n  address = 10.0.0.5/24\n"), "{text}");
    assert!(group_details(&[]).contains("wolfpack group create"));
    assert!(resource_details(&[]).contains("wolfpack resource create"));
}

#[test]
fn an_event_is_one_line() {
    let kind = EventKind::QuorumLost;
    let e = Event { kind, severity: Severity::Error, text: "quorum is\nlost".into() };
    let node = |n| wolfpack_types::NodeId::new(n).unwrap();
    let mut e = StampedEvent::plain(EventId::new(node(1), 12), "a", e);
    e.wall_us = 1_795_199_000_123_456;
    let line = "      1:12  2026-11-20 18:23:20.123456Z  a  ERROR    quorum is lost";
    assert_eq!(event(&e), line);
    e.cause = Some(EventId::new(node(2), 7));
    assert_eq!(event(&e), format!("{line}  (because of 2:7)"));
    let told = "quorum is lost  [1:12 on a, 2026-11-20 18:23:20.123456Z]";
    assert_eq!(link(&e, 0), told);
    assert_eq!(link(&e, 2), format!("    so: {told}"));
}

#[test]
fn an_update_that_waits_names_whom_it_waits_for() {
    use wolfpack_types::api::{StuckNode, WaitingFor};
    let mut s = status();
    let stuck = |waiting_for| StuckNode { node: "b".into(), waiting_for, since_ms: 3400, seq: 41 };
    s.stuck = vec![stuck(WaitingFor::Log), stuck(WaitingFor::Apply), stuck(WaitingFor::Witness)];
    let text = cluster(&s);
    assert!(text.contains("! update 41 waits for node b to make it durable, for 3 s"), "{text}");
    assert!(text.contains("! update 41 waits for node b to apply it, for 3 s"), "{text}");
    assert!(text.contains("! update 41 waits for the witness b, for 3 s"), "{text}");
}
