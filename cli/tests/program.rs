//! The real program against a hand-made service: what it asks, what it prints, how it ends.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Output};
use std::thread::{self, JoinHandle};

use wolfpack_types::NodeId;
use wolfpack_types::api::{ErrorKind, ErrorReply, GroupStatus, Protection, Reply, Request};
use wolfpack_types::event::{Event, EventId, EventKind, EventQuery, Severity, StampedEvent};
use wolfpack_types::objects::{GroupState, Wanted};

/// Answers one request after the other, each on a connection of its own or on one; returns what
/// was asked.
fn service(path: &Path, answers: Vec<Vec<Reply>>) -> JoinHandle<Vec<Request>> {
    let listener = UnixListener::bind(path).unwrap();
    thread::spawn(move || {
        let mut asked = Vec::new();
        for answer in answers {
            let stream = listener.accept().unwrap().0;
            let mut line = String::new();
            BufReader::new(&stream).read_line(&mut line).unwrap();
            asked.push(serde_json::from_str(&line).unwrap());
            for reply in answer {
                let mut line = serde_json::to_vec(&reply).unwrap();
                line.push(b'\n');
                (&stream).write_all(&line).unwrap();
            }
        }
        asked
    })
}

fn wolfpack(socket: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_wolfpack"))
        .env("WOLFPACK_SOCKET", socket)
        .args(args)
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn every_kind_of_refusal_has_its_exit_code_and_its_advice() {
    let cases = [
        (ErrorKind::Internal, 1),
        (ErrorKind::Unknown, 3),
        (ErrorKind::Invalid, 4),
        (ErrorKind::Exists, 4),
        (ErrorKind::NoQuorum, 5),
        (ErrorKind::Busy, 6),
    ];
    for (kind, code) in cases {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("s");
        let refusal = ErrorReply { kind, what: "it is not so".into(), advice: "make it so".into() };
        let served = service(&socket, vec![vec![Reply::Error(refusal)]]);
        let output = wolfpack(&socket, &["group", "online", "web"]);
        assert_eq!(output.status.code(), Some(code), "{kind:?}");
        assert_eq!(text(&output.stderr), "wolfpack: it is not so\n  make it so\n");
        assert!(output.stdout.is_empty());
        assert_eq!(served.join().unwrap(), [Request::GroupOnline { group: "web".into() }]);
    }
}

#[test]
fn without_a_service_it_says_how_to_start_one() {
    let dir = tempfile::tempdir().unwrap();
    let output = wolfpack(&dir.path().join("none"), &["status"]);
    assert_eq!(output.status.code(), Some(7));
    assert!(text(&output.stderr).contains("systemctl start wolfpackd"));
    let output = wolfpack(&dir.path().join("none"), &["status", "--json"]);
    assert_eq!(output.status.code(), Some(7));
    let failure: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&failure["reply"], &failure["exit"]), (&"failure".into(), &7.into()));
}

#[test]
fn wrong_usage_is_two() {
    let output = wolfpack(Path::new("/none"), &["group", "online"]);
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn json_is_the_answer_of_the_service_unchanged() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("s");
    let served = service(&socket, vec![vec![Reply::Done { seq: 12 }]]);
    let output = wolfpack(&socket, &["--json", "group", "create", "web", "--preferred", "a,b"]);
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(text(&output.stdout), "{\"reply\":\"done\",\"seq\":12}\n");
    let preferred = vec!["a".into(), "b".into()];
    let asked = Request::GroupCreate { group: "web".into(), preferred };
    assert_eq!(served.join().unwrap(), [asked]);
}

fn group(state: GroupState) -> Reply {
    let group = GroupStatus {
        name: "web".into(),
        id: String::new(),
        state,
        wanted: Wanted::Online,
        owner: Some("a".into()),
        moving_to: None,
        preferred: Vec::new(),
        because: String::new(),
        protection: Protection::Lease,
    };
    Reply::Groups { groups: vec![group] }
}

#[test]
fn waiting_shows_the_way_and_ends_when_it_is_there() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("s");
    let served = service(
        &socket,
        vec![
            vec![Reply::Done { seq: 3 }],
            vec![group(GroupState::Pending)],
            vec![group(GroupState::Pending)],
            vec![group(GroupState::Online)],
        ],
    );
    let output = wolfpack(&socket, &["group", "online", "web", "--wait"]);
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(text(&output.stdout), "group 'web' online: done\n");
    assert_eq!(text(&output.stderr), "group 'web' online: pending on a\n");
    assert_eq!(served.join().unwrap().len(), 4);
}

#[test]
fn events_are_lines() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("s");
    let event = |number| {
        let event = Event {
            kind: EventKind::QuorumLost,
            severity: Severity::Warning,
            text: format!("event {number}"),
        };
        let id = EventId::new(NodeId::new(1).unwrap(), number);
        Reply::Event(Box::new(StampedEvent::plain(id, "a", event)))
    };
    let served = service(&socket, vec![vec![event(8), event(9), Reply::End]]);
    let output = wolfpack(&socket, &["events", "--after", "7"]);
    assert_eq!(output.status.code(), Some(0));
    let lines = text(&output.stdout);
    assert_eq!(lines.lines().count(), 2);
    assert!(lines.ends_with("a  WARNING  event 9\n"), "{lines}");
    assert_eq!(
        served.join().unwrap(),
        [Request::Events(EventQuery { after: 7, ..EventQuery::default() })]
    );
}
