//! What is shown, in and out of quorum, and the quorum's arithmetic in words.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use wolfpack_types::api::{NodeState, Protection, ServiceState};
use wolfpack_types::event::Cause;
use wolfpack_types::heartbeat::Reach;
use wolfpack_types::membership::QuorumType;
use wolfpack_types::objects::{GroupState, ResourceState};
use wolfpack_types::register::Exclusion;
use wolfpack_types::update::Update;
use wolfpack_types::{
    ClusterId, Guid, Incarnation, Instant, Member, NetworkId, NodeId, Seq, StoreId, View, VoteTable,
};

use super::{Facts, cluster, groups, nodes, quorum, resources};
use crate::database::Database;
use crate::database::tests::{apply, assign, ballot, failure, life, node, rid, web};

const NOW: Instant = Instant(10_000_000_000);

/// Facts that own their parts.
struct Scene {
    view: Option<View>,
    names: BTreeMap<NodeId, String>,
    heard: BTreeMap<NodeId, Incarnation>,
    reach: BTreeMap<NodeId, Reach>,
    paths: BTreeMap<(NodeId, NetworkId), bool>,
    waits: BTreeMap<NodeId, Instant>,
    votes: VoteTable,
    networks: Vec<String>,
    marks: BTreeMap<NodeId, wolfpack_types::objects::Node>,
}

impl Scene {
    /// `members` of `nodes` nodes with one vote each, and the witness' votes.
    fn new(nodes: u8, members: &[u8], witness: u8, witness_in: bool) -> Self {
        let votes = VoteTable { nodes: (1..=nodes).map(|n| (node(n), 1)).collect(), witness };
        let member = |&n: &u8| (node(n), Member { inc: Incarnation(1), store: StoreId::default() });
        let view = View {
            ballot: ballot(4),
            members: members.iter().map(member).collect(),
            former: BTreeSet::new(),
            witness_in,
            votes: votes.clone(),
            prev_votes: None,
            base_seq: Seq(0),
            witness: None,
            forces: Vec::new(),
        };
        Self {
            view: (!members.is_empty()).then_some(view),
            names: (1..=nodes).map(|n| (node(n), format!("n{n}"))).collect(),
            heard: BTreeMap::new(),
            reach: BTreeMap::new(),
            paths: BTreeMap::new(),
            waits: BTreeMap::new(),
            votes,
            networks: vec!["private".into(), "public".into()],
            marks: BTreeMap::new(),
        }
    }

    fn facts(&self) -> Facts<'_> {
        Facts {
            me: life(1, 1),
            now: NOW,
            cluster: ClusterId(Guid(7)),
            state: ServiceState::Member,
            waiting_for: None,
            names: &self.names,
            networks: &self.networks,
            view: self.view.as_ref(),
            stage: None,
            lease_end: NOW + Duration::from_millis(1_500),
            commit_seq: Seq(9),
            protocol: 1,
            heard: &self.heard,
            reach: &self.reach,
            paths: &self.paths,
            waits: &self.waits,
            votes: &self.votes,
            quorum: QuorumType::NodeAndDisk,
            witness: (self.votes.witness > 0).then_some("iscsi://target/1"),
            exclusion: Exclusion::Reserve,
            witness_ok: self.votes.witness > 0,
            dynamic: false,
            marks: &self.marks,
        }
    }

    fn words(&self) -> String {
        quorum(&self.facts()).explanation
    }
}

/// `web` online on life 1 of `owner`.
fn running(owner: u8) -> Database {
    let mut db = web(2);
    assign(&mut db, 1, life(owner, 1), Cause::Administrator);
    for id in [1, 2, 3] {
        db.apply_volatile(&Update::ResourceState {
            resource: rid(id),
            by: life(owner, 1),
            state: ResourceState::Online,
            why: String::new(),
        });
    }
    db
}

#[test]
fn two_nodes_and_a_disk() {
    let both = Scene::new(2, &[1, 2], 1, false);
    assert_eq!(
        both.words(),
        "There are 3 votes: 2 nodes and the witness disk. More than half is 2. Present are \
         'n1', 'n2', with 2. The witness disk is not needed now and is asked when nodes fail. \
         Any one node may fail; the witness disk may fail instead, not as well."
    );
    let one = Scene::new(2, &[1], 1, true);
    assert_eq!(
        one.words(),
        "There are 3 votes: 2 nodes and the witness disk. More than half is 2. Present are \
         'n1' and the witness disk, with 2. With the loss of 'n1' the quorum is lost; with the \
         loss of the witness disk the quorum is lost."
    );
    let status = quorum(&one.facts());
    assert_eq!((status.have, status.total, status.has_quorum), (2, 3, true));
    assert_eq!(status.votes, BTreeMap::from([("n1".into(), 1), ("n2".into(), 1)]));
    assert_eq!(status.exclusion.as_deref(), Some("reserve"));
}

#[test]
fn three_nodes_by_majority() {
    let all = Scene::new(3, &[1, 2, 3], 0, false);
    assert_eq!(
        all.words(),
        "There are 3 votes: 3 nodes. More than half is 2. Present are 'n1', 'n2', 'n3', with 3. \
         Any one node may fail."
    );
    let two = Scene::new(3, &[1, 2], 0, false);
    assert!(two.words().ends_with("With the loss of 'n1' or 'n2' the quorum is lost."));
    assert_eq!(quorum(&two.facts()).exclusion, None);
}

#[test]
fn the_disk_alone() {
    let mut s = Scene::new(2, &[1, 2], 1, true);
    for table in [&mut s.votes, &mut s.view.as_mut().unwrap().votes] {
        table.nodes.values_mut().for_each(|v| *v = 0);
    }
    assert_eq!(
        s.words(),
        "There is 1 vote: none of a node and the witness disk. More than half is 1. Present are \
         'n1', 'n2' and the witness disk, with 1. Any one node may fail; with the loss of the \
         witness disk the quorum is lost."
    );
}

#[test]
fn out_of_quorum_it_says_what_it_waits_for_and_what_it_cannot_know() {
    let s = Scene::new(2, &[], 1, false);
    let facts = Facts { waiting_for: Some("node 'n2'"), lease_end: Instant::ZERO, ..s.facts() };
    let status = quorum(&facts);
    assert!(!status.has_quorum);
    assert!(
        status
            .explanation
            .ends_with("This node is in no view and may run nothing; it waits for node 'n2'.")
    );
    let db = running(1);
    let group = &groups(&facts, &db, None).unwrap()[0];
    assert_eq!(group.state, GroupState::Offline);
    assert!(group.because.contains("without quorum nothing newer is known"));
    let resource = &resources(&facts, &db, Some("ip")).unwrap()[0];
    assert_eq!(resource.state, ResourceState::Offline);
    assert_eq!(resource.why, "not known: this node is in no view");
    let all = cluster(&facts, &db);
    assert_eq!((all.lease_ms, all.view, all.name.as_deref()), (None, None, Some("pack")));
}

#[test]
fn a_running_group() {
    let s = Scene::new(2, &[1, 2], 1, false);
    let db = running(2);
    let all = cluster(&s.facts(), &db);
    let group = &all.groups[0];
    assert_eq!((group.state, group.owner.as_deref()), (GroupState::Online, Some("n2")));
    assert_eq!(group.because, "an administrator moved it");
    assert_eq!(group.protection, Protection::Reserved);
    assert_eq!(all.lease_ms, Some(1_500));
    assert_eq!(all.view.as_ref().unwrap().leader, "n1");
    let names: Vec<_> = all.resources.iter().map(|r| r.name.as_str()).collect();
    assert_eq!(names, ["app", "disk", "ip"]);
    assert_eq!(all.resources[0].depends_on, ["disk", "ip"]);
    assert_eq!(all.resources[0].node.as_deref(), Some("n2"));
    assert!(groups(&s.facts(), &db, Some("mail")).is_err());
    assert!(resources(&s.facts(), &db, Some("mail")).is_err());
}

#[test]
fn a_group_whose_owner_is_lost_is_not_shown_as_running() {
    let mut s = Scene::new(2, &[1], 1, true);
    s.waits.insert(node(2), NOW + Duration::from_millis(700));
    let mut db = running(2);
    let group = &groups(&s.facts(), &db, Some("web")).unwrap()[0];
    assert_eq!(group.state, GroupState::Offline);
    assert_eq!(group.because, "node 'n2' is lost; its lease, with margin, is over in 700 ms");
    let resource = &resources(&s.facts(), &db, Some("ip")).unwrap()[0];
    assert_eq!(
        (resource.state, resource.why.as_str()),
        (ResourceState::Offline, "its owner 'n2' is lost")
    );
    let failed = failure(&db, 1, "broke");
    apply(&mut db, failed);
    let group = &groups(&s.facts(), &db, Some("web")).unwrap()[0];
    assert_eq!((group.state, group.because.as_str()), (GroupState::Failed, "broke"));
}

#[test]
fn nodes_up_down_and_joining() {
    let mut s = Scene::new(4, &[1, 2], 1, false);
    s.heard = [(2, 1), (3, 6), (4, 2)].map(|(n, i)| (node(n), Incarnation(i))).into();
    s.reach =
        [(2, Reach::Up), (3, Reach::Up), (4, Reach::Unreachable)].map(|(n, r)| (node(n), r)).into();
    s.paths = [((2, 0), true), ((2, 1), false), ((3, 5), true)]
        .map(|((n, net), up)| ((node(n), NetworkId(net)), up))
        .into();
    let list = nodes(&s.facts());
    let states: Vec<_> = list.iter().map(|n| n.state).collect();
    assert_eq!(states, [NodeState::Up, NodeState::Up, NodeState::Joining, NodeState::Down]);
    let paths: Vec<_> = list[1].paths.iter().map(|p| (p.network.as_str(), p.up)).collect();
    assert_eq!(paths, [("private", true), ("public", false)]);
    assert_eq!(list[2].paths[0].network, "network 5");
    assert_eq!(list[0].reach, None);
    // A member that comes back in a newer life has yet to join.
    s.heard.insert(node(2), Incarnation(2));
    assert_eq!(nodes(&s.facts())[1].state, NodeState::Joining);
}

#[test]
fn the_explanation_names_each_loss_and_each_pair() {
    let s = Scene::new(2, &[1, 2], 1, false);
    let text = super::explain(&s.facts()).join("\n");
    assert!(text.contains("'n1' 1, 'n2' 1, the witness 1, 3 in all. More than half is needed: 2."));
    assert!(text.contains("Without 'n1': the quorum holds."), "{text}");
    assert!(text.contains("Without the witness: the quorum holds."), "{text}");
    assert!(text.contains("No two of them may fail together."), "{text}");
    let s = Scene::new(5, &[1, 2, 3, 4, 5], 0, false);
    let text = super::explain(&s.facts()).join("\n");
    assert!(text.contains("may fail together."), "{text}");
    let s = Scene::new(5, &[1, 2, 3], 0, false);
    let text = super::explain(&s.facts()).join("\n");
    assert!(text.contains("Without 'n3': the quorum is lost."), "{text}");
}

#[test]
fn out_of_quorum_the_explanation_says_whose_return_is_enough() {
    let mut s = Scene::new(3, &[], 0, false);
    let text = super::explain(&s.facts()).join("\n");
    assert!(text.contains("The return of one of these is enough: 'n2', 'n3'."), "{text}");
    assert!(text.contains("quorum force --dead n2 n3"), "{text}");
    s = Scene::new(5, &[], 0, false);
    let text = super::explain(&s.facts()).join("\n");
    assert!(text.contains("Several of these must come back"), "{text}");
}

#[test]
fn paused_and_evicted_nodes_are_called_so() {
    use wolfpack_types::objects::Node;
    let mut s = Scene::new(3, &[1, 2], 0, false);
    s.marks.insert(node(2), Node { paused: true, ..Node::new(node(2), "n2".into()) });
    s.marks.insert(node(3), Node { evicted: true, ..Node::new(node(3), "n3".into()) });
    let states: Vec<NodeState> = nodes(&s.facts()).iter().map(|n| n.state).collect();
    assert_eq!(states, [NodeState::Up, NodeState::Paused, NodeState::Evicted]);
}
