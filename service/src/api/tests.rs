//! The local API on a real socket, with a thread in the place of the core.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use crossbeam_channel::{Receiver, bounded};
use wolfpack_types::NodeId;
use wolfpack_types::api::{ErrorKind, LINE_BYTES_MAX, Reply, Request};
use wolfpack_types::event::{
    Event, EventFilter, EventId, EventKind, EventQuery, Severity, StampedEvent,
};

use super::{Api, ApiCall, CONNECTIONS_MAX, Limits};
use crate::journal::Journal;

const PATIENCE: Duration = Duration::from_secs(60);

const LIMITS: Limits = Limits { idle: PATIENCE, write: PATIENCE, answer: PATIENCE };

struct Fixture {
    _dir: tempfile::TempDir,
    _api: Api,
    path: PathBuf,
    calls: Receiver<ApiCall>,
    journal: Journal,
}

fn fixture(limits: Limits) -> Fixture {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("api.sock");
    let journal = Journal::open(NodeId::new(1).unwrap(), dir.path());
    let (sender, calls) = bounded(64);
    let api = Api::start(&path, sender, journal.clone(), limits).unwrap();
    Fixture { _dir: dir, _api: api, path, calls, journal }
}

impl Fixture {
    fn connect(&self) -> BufReader<UnixStream> {
        let stream = UnixStream::connect(&self.path).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        BufReader::new(stream)
    }
}

fn write(to: &BufReader<UnixStream>, bytes: &[u8]) {
    to.get_ref().write_all(bytes).unwrap();
}

fn ask(to: &BufReader<UnixStream>, request: &Request) {
    let mut line = serde_json::to_vec(request).unwrap();
    line.push(b'\n');
    write(to, &line);
}

fn read(from: &mut BufReader<UnixStream>) -> Option<Reply> {
    let mut line = String::new();
    from.read_line(&mut line).unwrap();
    (!line.is_empty()).then(|| serde_json::from_str(&line).unwrap())
}

fn event(number: u64, text: &str) -> StampedEvent {
    let event = Event { kind: EventKind::QuorumLost, severity: Severity::Info, text: text.into() };
    StampedEvent::plain(EventId::new(NodeId::new(1).unwrap(), number), "a", event)
}

fn after(after: u64, follow: bool) -> Request {
    Request::Events(EventQuery { after, follow, ..EventQuery::default() })
}

#[track_caller]
fn assert_refused(reply: Option<Reply>, kind: ErrorKind, part: &str) {
    match reply {
        Some(Reply::Error(e)) => {
            assert_eq!(e.kind, kind);
            assert!(e.what.contains(part), "{}", e.what);
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn requests_reach_the_core_and_answers_come_back() {
    let f = fixture(LIMITS);
    let mut client = f.connect();
    for seq in [7, 8] {
        ask(&client, &Request::GroupOnline { group: "web".into() });
        let call = f.calls.recv_timeout(PATIENCE).unwrap();
        assert_eq!(call.request, Request::GroupOnline { group: "web".into() });
        call.reply.send(Reply::Done { seq }).unwrap();
        assert_eq!(read(&mut client), Some(Reply::Done { seq }));
    }
}

#[test]
fn the_socket_is_for_its_owner_alone() {
    let f = fixture(LIMITS);
    let mode =
        std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&f.path).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn garbage_is_answered_and_the_next_request_is_served() {
    let f = fixture(LIMITS);
    let mut client = f.connect();
    for garbage in [
        &b"\n"[..],
        b"hello\n",
        b"\xff\xfe\x00\n",
        b"{\"verb\":\"format-disk\"}\n",
        b"{\"verb\":\"group-online\",\"group\":\"g\",\"more\":1}\n",
        b"[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[\n",
    ] {
        write(&client, garbage);
        assert_refused(read(&mut client), ErrorKind::Invalid, "this is not a request");
    }
    ask(&client, &Request::NodeStatus);
    let call = f.calls.recv_timeout(PATIENCE).unwrap();
    call.reply.send(Reply::Nodes { nodes: Vec::new() }).unwrap();
    assert_eq!(read(&mut client), Some(Reply::Nodes { nodes: Vec::new() }));
}

#[test]
fn an_endless_line_is_refused() {
    let f = fixture(LIMITS);
    let mut client = f.connect();
    write(&client, &vec![b'['; LINE_BYTES_MAX + 1]);
    assert_refused(read(&mut client), ErrorKind::Invalid, "too long");
    assert_eq!(read(&mut client), None, "hung up");
}

#[test]
fn half_a_request_is_no_request() {
    let f = fixture(LIMITS);
    let mut client = f.connect();
    write(&client, b"{\"verb\":\"node-status\"}");
    client.get_ref().shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(read(&mut client), None);
    assert!(f.calls.is_empty(), "half a request was carried out");
}

#[test]
fn a_silent_core_is_said() {
    let f = fixture(Limits { answer: Duration::from_millis(50), ..LIMITS });
    let mut client = f.connect();
    ask(&client, &Request::NodeStatus);
    assert_refused(read(&mut client), ErrorKind::Busy, "did not find an answer in time");

    let Fixture { _api, path, calls, .. } = &f;
    let mut client = BufReader::new(UnixStream::connect(path).unwrap());
    ask(&client, &Request::NodeStatus);
    // The first, unanswered call and this one: the core forgets both.
    drop(calls.recv_timeout(PATIENCE).unwrap());
    drop(calls.recv_timeout(PATIENCE).unwrap());
    assert_refused(read(&mut client), ErrorKind::Busy, "");
}

#[test]
fn events_are_listed_and_followed() {
    let f = fixture(LIMITS);
    for n in 1..=600 {
        f.journal.record(event(n, &n.to_string()));
    }
    let mut client = f.connect();
    ask(&client, &after(590, false));
    for number in 591..=600 {
        let Some(Reply::Event(e)) = read(&mut client) else { panic!("no event") };
        assert_eq!((e.number, e.event.text), (number, number.to_string()));
    }
    assert_eq!(read(&mut client), Some(Reply::End));

    ask(&client, &after(0, true));
    for number in 1..=600 {
        assert!(matches!(read(&mut client), Some(Reply::Event(e)) if e.number == number));
    }
    f.journal.record(event(601, "news"));
    assert!(matches!(read(&mut client), Some(Reply::Event(e)) if e.event.text == "news"));
}

#[test]
fn a_reader_that_does_not_read_is_dropped() {
    let f = fixture(Limits { write: Duration::from_millis(50), ..LIMITS });
    let long = "x".repeat(100_000);
    for n in 1..=100 {
        f.journal.record(event(n, &long));
    }
    let mut client = f.connect();
    ask(&client, &after(0, true));
    // Reads only once the other side has given up: what was in the socket, then the end.
    let mut all = Vec::new();
    std::thread::sleep(Duration::from_millis(500));
    client.read_to_end(&mut all).unwrap();
    assert!(all.len() < 100 * long.len(), "everything was sent");
}

#[test]
fn one_client_too_many_is_refused_in_words() {
    let f = fixture(LIMITS);
    let mut clients: Vec<_> = (0..CONNECTIONS_MAX).map(|_| f.connect()).collect();
    // Each is being served for certain once it has had an answer.
    for client in &mut clients {
        write(client, b"?\n");
        assert_refused(read(client), ErrorKind::Invalid, "");
    }
    let mut late = f.connect();
    assert_refused(read(&mut late), ErrorKind::Busy, "too many connections");
    drop(clients);
    // Places become free; not at once.
    let mut served = false;
    for _ in 0..600 {
        let mut client = f.connect();
        // A refusal may have closed it already.
        let _ = client.get_ref().write_all(b"?\n");
        let mut line = String::new();
        if client.read_line(&mut line).is_ok() && line.contains("not a request") {
            served = true;
            break;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    assert!(served, "no place became free");
}

#[test]
fn a_watch_is_answered_again_and_again_until_its_client_is_gone() {
    let f = fixture(LIMITS);
    let mut client = f.connect();
    ask(&client, &Request::TreeWatch { key: "a".into(), recursive: true });
    let call = f.calls.recv_timeout(PATIENCE).unwrap();
    let alive = call.watch.clone().unwrap();
    for seq in [1, 2, 3] {
        call.reply.send(Reply::Done { seq }).unwrap();
        assert_eq!(read(&mut client), Some(Reply::Done { seq }));
    }
    assert_eq!(alive.strong_count(), 1);
    drop(client);
    // Its end is seen without anything being sent.
    while alive.strong_count() > 0 {
        std::thread::sleep(Duration::from_millis(10));
    }

    // One that the service gives up (too slow) is told so, and the connection goes on.
    let mut client = f.connect();
    ask(&client, &Request::TreeWatch { key: "a".into(), recursive: true });
    drop(f.calls.recv_timeout(PATIENCE).unwrap().reply);
    assert_refused(read(&mut client), ErrorKind::Busy, "the watch ended");
    ask(&client, &Request::ClusterStatus);
    let call = f.calls.recv_timeout(PATIENCE).unwrap();
    assert!(call.watch.is_none());
}

/// Reads up to the end of a list: events by number, and -1 for "some are missing".
fn numbers(from: &mut BufReader<UnixStream>) -> Vec<i64> {
    let mut all = Vec::new();
    loop {
        match read(from) {
            Some(Reply::Event(e)) => all.push(i64::try_from(e.number).unwrap()),
            Some(Reply::Dropped { .. }) => all.push(-1),
            Some(Reply::End) => return all,
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn events_are_filtered_and_the_future_is_refused() {
    let f = fixture(LIMITS);
    for n in 1..=10 {
        let mut e = event(n, "x");
        e.about.group = Some(if n % 2 == 0 { "web" } else { "mail" }.into());
        if n > 7 {
            e.event.severity = Severity::Error;
        }
        f.journal.record(e);
    }
    let mut client = f.connect();
    let filter = EventFilter {
        group: Some("web".into()),
        severity: Some(Severity::Warning),
        ..EventFilter::default()
    };
    ask(&client, &Request::Events(EventQuery { filter, ..EventQuery::default() }));
    assert_eq!(numbers(&mut client), [8, 10]);
    ask(&client, &after(10, false));
    assert_eq!(numbers(&mut client), [0i64; 0]);
    ask(&client, &after(11, true));
    assert_refused(read(&mut client), ErrorKind::Invalid, "the newest is 10");
}

#[test]
fn a_chain_is_told_from_its_beginning_over_nodes() {
    let f = fixture(LIMITS);
    let id = |node, number| EventId::new(NodeId::new(node).unwrap(), number);
    let other = |number, cause| StampedEvent {
        cause,
        ..StampedEvent::plain(id(2, number), "b", event(1, "y").event)
    };
    f.journal.record(event(1, "x"));
    f.journal.record_others(vec![other(20, Some(id(1, 1))), other(21, Some(id(3, 1)))]);
    f.journal.record(StampedEvent { cause: Some(id(2, 20)), ..event(2, "x") });
    let mut client = f.connect();
    let chain = |id| Request::Events(EventQuery { chain: Some(id), ..EventQuery::default() });
    ask(&client, &chain(id(1, 2)));
    assert_eq!(numbers(&mut client), [1, 20, 2]);
    ask(&client, &chain(id(2, 21)));
    assert_eq!(numbers(&mut client), [-1, 21], "what led to it is not here");
    ask(&client, &chain(id(1, 9)));
    assert_refused(read(&mut client), ErrorKind::Unknown, "1:9 is not in the log");
    ask(
        &client,
        &Request::Events(EventQuery {
            chain: Some(id(1, 2)),
            follow: true,
            ..EventQuery::default()
        }),
    );
    assert_refused(read(&mut client), ErrorKind::Invalid, "cannot be followed");
    ask(&client, &Request::Events(EventQuery { all_nodes: true, ..EventQuery::default() }));
    assert_eq!(numbers(&mut client).len(), 4);
}
