//! Requests and the updates that they become, and the words of refusals.

use std::collections::{BTreeMap, BTreeSet};

use wolfpack_types::NodeId;
use wolfpack_types::api::{ErrorKind, Request};
use wolfpack_types::event::Cause;
use wolfpack_types::objects::{ResourceType, Wanted};
use wolfpack_types::update::{Refusal, Update};

use super::{refused, translate};
use crate::database::Database;
use crate::database::tests::{apply, assign, cluster, gid, life, node, rid, web};

fn up() -> BTreeSet<NodeId> {
    [node(1), node(2), node(3)].into()
}

fn update(db: &Database, request: &Request) -> Update {
    translate(db, &up(), request, 77).unwrap().expect("an update")
}

fn error(db: &Database, request: &Request) -> (ErrorKind, String) {
    let e = translate(db, &up(), request, 77).unwrap_err();
    (e.kind, e.to_string())
}

fn set(id: u128, wanted: Wanted) -> Update {
    Update::SetResourceWanted { resource: rid(id), wanted }
}

fn set_group(wanted: Wanted) -> Update {
    Update::SetGroupWanted { group: gid(1), wanted }
}

fn create(resource: &str, kind: &str, depends_on: &[&str]) -> Request {
    Request::ResourceCreate {
        resource: resource.into(),
        group: "web".into(),
        kind: kind.into(),
        properties: BTreeMap::from([("command".into(), "/bin/true".into())]),
        depends_on: depends_on.iter().map(|&d| d.into()).collect(),
    }
}

#[test]
fn objects_are_created_with_their_names_resolved() {
    let mut db = cluster(3);
    let preferred = vec!["n3".into(), "n1".into()];
    let made = update(&db, &Request::GroupCreate { group: "web".into(), preferred });
    let Update::CreateGroup(group) = &made else { panic!("{made:?}") };
    assert_eq!((group.id, &group.preferred), (gid(77), &vec![node(3), node(1)]));
    assert_eq!(group.wanted, Wanted::Offline);
    assert_eq!(db.check(&made), Ok(()));

    db = web(3);
    let made = update(&db, &create("site", "generic-application", &["ip", "disk"]));
    let Update::CreateResource(resource) = &made else { panic!("{made:?}") };
    assert_eq!((resource.id, resource.group), (rid(77), gid(1)));
    assert_eq!(resource.depends_on, [rid(2), rid(1)]);
    assert_eq!(resource.kind, ResourceType::GenericApplication);
    assert_eq!(resource.wanted, Wanted::Offline, "until it is brought online");
    assert_eq!(db.check(&made), Ok(()));
}

#[test]
fn a_group_is_brought_online_with_all_that_is_in_it() {
    let mut db = web(2);
    let online = Request::GroupOnline { group: "web".into() };
    assert_eq!(update(&db, &online), set_group(Wanted::Online));
    apply(&mut db, set(2, Wanted::Offline));
    assert_eq!(
        update(&db, &online),
        Update::Batch(vec![set_group(Wanted::Online), set(2, Wanted::Online)])
    );
    let offline = Request::GroupOffline { group: "web".into() };
    assert_eq!(update(&db, &offline), set_group(Wanted::Offline));
}

#[test]
fn a_resource_is_brought_online_with_all_it_depends_on() {
    let mut db = web(2);
    let online = |name: &str| Request::ResourceOnline { resource: name.into() };
    assert_eq!(update(&db, &online("ip")), set(2, Wanted::Online));
    let app = Update::Batch([1, 2, 3].map(|id| set(id, Wanted::Online)).to_vec());
    assert_eq!(update(&db, &online("app")), app);
    // In a group that is offline nothing else comes up with it.
    apply(&mut db, set_group(Wanted::Offline));
    let alone = vec![
        set(1, Wanted::Offline),
        set(3, Wanted::Offline),
        set_group(Wanted::Online),
        set(2, Wanted::Online),
    ];
    assert_eq!(update(&db, &online("ip")), Update::Batch(alone.clone()));
    assert_eq!(db.check(&Update::Batch(alone)), Ok(()));
    let offline = Request::ResourceOffline { resource: "ip".into() };
    assert_eq!(update(&db, &offline), set(2, Wanted::Offline));
    let fail = Request::ResourceFail { resource: "ip".into() };
    assert_eq!(update(&db, &fail), Update::FailResource(rid(2)));
}

#[test]
fn deletions_name_what_goes() {
    let db = web(2);
    let group = Request::GroupDelete { group: "web".into() };
    assert_eq!(update(&db, &group), Update::DeleteGroup(gid(1)));
    let resource = Request::ResourceDelete { resource: "app".into() };
    assert_eq!(update(&db, &resource), Update::DeleteResource(rid(3)));
}

#[test]
fn a_group_moves_to_the_best_node_or_the_named_one() {
    let mut db = web(3);
    let go = |to: Option<&str>| Request::GroupMove { group: "web".into(), to: to.map(Into::into) };
    let moved = |to| Update::MoveGroup { group: gid(1), to: node(to), cause: Cause::Administrator };
    assert_eq!(
        error(&db, &go(None)),
        (ErrorKind::Busy, "group 'web' has no owner yet; try again".into())
    );
    assign(&mut db, 1, life(1, 1), Cause::Created);
    assert_eq!(update(&db, &go(Some("n2"))), moved(2));
    let preferred =
        Update::SetPreferredOwners { group: gid(1), nodes: vec![node(1), node(3), node(2)] };
    apply(&mut db, preferred);
    assert_eq!(update(&db, &go(None)), moved(3), "the highest that is not the owner");
    let alone: BTreeSet<_> = [node(1)].into();
    let nowhere = translate(&db, &alone, &go(None), 1).unwrap_err();
    assert_eq!(nowhere.to_string(), "no other node is up to take group 'web'");
    let down = translate(&db, &alone, &go(Some("n2")), 1).unwrap_err();
    assert!(down.to_string().contains("'n2' is not an active member"));
    let stay = db.check(&update(&db, &go(Some("n1")))).unwrap_err();
    assert_eq!(stay.to_string(), "group 'web' is on node 'n1' already");
}

#[test]
fn what_cannot_be_understood_is_refused_with_advice() {
    let db = web(2);
    assert_eq!(
        error(&db, &Request::GroupOnline { group: "wep".into() }),
        (ErrorKind::Unknown, "group 'wep' does not exist; did you mean 'web'?".into())
    );
    assert_eq!(
        error(&db, &Request::GroupOnline { group: "database".into() }).1,
        "group 'database' does not exist; there is: web; 'wolfpack group status' lists what \
         there is"
    );
    let (kind, text) = error(&db, &create("x", "ip-adress", &[]));
    assert_eq!(kind, ErrorKind::Unknown);
    assert!(
        text.starts_with("resource type 'ip-adress' does not exist; did you mean 'ip-address'?")
    );
    let (kind, text) = error(&db, &create("x", "ip-address", &["x"]));
    assert_eq!(kind, ErrorKind::Invalid);
    assert!(text.contains("that is a cycle"));
    let (_, text) = error(&db, &create("x", "ip-address", &["dissk"]));
    assert!(text.contains("did you mean 'disk'?"));
    let (kind, text) = error(&Database::default(), &Request::GroupOnline { group: "web".into() });
    assert_eq!(kind, ErrorKind::Unknown);
    assert_eq!(text, "there is no cluster yet; create it with 'wolfpack cluster create NAME'");
}

#[test]
fn questions_are_no_updates() {
    let db = web(2);
    for request in [
        Request::ClusterStatus,
        Request::QuorumShow,
        Request::ClusterCreate { name: "pack".into(), overwrite: false },
    ] {
        assert_eq!(translate(&db, &up(), &request, 1), Ok(None));
    }
}

#[test]
fn refusals_have_their_kinds() {
    let no_quorum = refused(&Refusal::NoQuorum("1 of 3 votes".into()));
    assert_eq!(no_quorum.kind, ErrorKind::NoQuorum);
    assert_eq!(
        no_quorum.to_string(),
        "no quorum: 1 of 3 votes; 'wolfpack quorum show' says what is missing"
    );
    assert_eq!(refused(&Refusal::Regrouping).kind, ErrorKind::Busy);
    let exists = refused(&Refusal::Exists { what: "group".into(), name: "web".into() });
    assert_eq!(exists.kind, ErrorKind::Exists);
    assert_eq!(
        exists.to_string(),
        "group 'web' exists already; choose another name, or delete that group first"
    );
}
