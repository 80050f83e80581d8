//! The client against a hand-made service on a real socket.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use wolfpack_types::NodeId;
use wolfpack_types::api::{ErrorKind, ErrorReply, Reply, Request};
use wolfpack_types::event::{Event, EventId, EventKind, EventQuery, Severity, StampedEvent};

use crate::{Client, ClientError};

const PATIENCE: Duration = Duration::from_secs(30);

/// Serves one connection with `act` and returns the socket's place.
fn served(
    act: impl FnOnce(UnixStream) + Send + 'static,
) -> (tempfile::TempDir, std::path::PathBuf, JoinHandle<()>) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let listener = UnixListener::bind(&path).unwrap();
    let server = thread::spawn(move || act(listener.accept().unwrap().0));
    (dir, path, server)
}

fn read_request(stream: &UnixStream) -> Request {
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).unwrap();
    serde_json::from_str(&line).unwrap()
}

fn say(mut stream: &UnixStream, reply: &Reply) {
    let mut line = serde_json::to_vec(reply).unwrap();
    line.push(b'\n');
    stream.write_all(&line).unwrap();
}

fn event(number: u64) -> StampedEvent {
    let event =
        Event { kind: EventKind::QuorumLost, severity: Severity::Error, text: "no quorum".into() };
    StampedEvent::plain(EventId::new(NodeId::new(1).unwrap(), number), "a", event)
}

#[test]
fn nobody_listens() {
    let dir = tempfile::tempdir().unwrap();
    let err = Client::connect(&dir.path().join("none"), PATIENCE).unwrap_err();
    assert!(matches!(err, ClientError::NotRunning { .. }));
    assert!(err.to_string().contains("wolfpackd is not running on this node"), "{err}");
    assert!(err.advice().contains("systemctl start wolfpackd"));

    // A socket that a dead service left behind.
    let left = dir.path().join("left");
    drop(UnixListener::bind(&left).unwrap());
    let err = Client::connect(&left, PATIENCE).unwrap_err();
    assert!(matches!(err, ClientError::NotRunning { .. }), "{err:?}");
}

#[test]
fn asks_and_is_answered_in_pieces() {
    let (_dir, path, server) = served(|mut stream| {
        assert_eq!(read_request(&stream), Request::GroupOnline { group: "web".into() });
        let line = serde_json::to_vec(&Reply::Done { seq: 7 }).unwrap();
        for byte in line.iter().chain(b"\n") {
            stream.write_all(&[*byte]).unwrap();
        }
    });
    let mut client = Client::connect(&path, PATIENCE).unwrap();
    let reply = client.request(&Request::GroupOnline { group: "web".into() }).unwrap();
    assert_eq!(reply, Reply::Done { seq: 7 });
    server.join().unwrap();
}

#[test]
fn a_refusal_is_an_error_with_advice() {
    let (_dir, path, server) = served(|stream| {
        read_request(&stream);
        say(
            &stream,
            &Reply::Error(ErrorReply {
                kind: ErrorKind::NoQuorum,
                what: "no quorum".into(),
                advice: "start node b".into(),
            }),
        );
    });
    let mut client = Client::connect(&path, PATIENCE).unwrap();
    let err = client.request(&Request::ClusterStatus).unwrap_err();
    assert_eq!(err.to_string(), "no quorum");
    assert_eq!(err.advice(), "start node b");
    server.join().unwrap();
}

#[test]
fn events_end_or_break_off() {
    let (_dir, path, server) = served(|stream| {
        assert_eq!(
            read_request(&stream),
            Request::Events(EventQuery { after: 3, ..EventQuery::default() })
        );
        say(&stream, &Reply::Event(Box::new(event(4))));
        say(&stream, &Reply::Dropped { count: Some(2) });
        say(&stream, &Reply::Event(Box::new(event(5))));
        say(&stream, &Reply::End);
    });
    let client = Client::connect(&path, PATIENCE).unwrap();
    let mut events = client.events(3, false).unwrap();
    let got: Result<Vec<_>, _> = events.by_ref().collect();
    assert_eq!(got.unwrap(), [event(4), event(5)]);
    assert_eq!((events.take_gap(), events.take_gap()), (Some(Some(2)), None));
    server.join().unwrap();

    let (_dir, path, server) = served(|stream| {
        read_request(&stream);
        say(&stream, &Reply::Event(Box::new(event(1))));
    });
    let client = Client::connect(&path, PATIENCE).unwrap();
    let got: Vec<_> = client.events(0, true).unwrap().collect();
    assert_eq!(got.len(), 2);
    assert!(matches!(got[1], Err(ClientError::Closed { .. })), "{:?}", got[1]);
    server.join().unwrap();
}

#[test]
fn silence_and_garbage_are_errors() {
    let (_dir, path, server) = served(|stream| {
        read_request(&stream);
        // Silent until the client hangs up.
        let mut rest = String::new();
        BufReader::new(stream).read_line(&mut rest).unwrap();
    });
    let mut client = Client::connect(&path, Duration::from_millis(50)).unwrap();
    let err = client.request(&Request::NodeStatus).unwrap_err();
    assert!(matches!(err, ClientError::Timeout { .. }), "{err:?}");
    drop(client);
    server.join().unwrap();

    assert!(matches!(answered_with(b"{\"reply\":\"nonsense\"}\n"), ClientError::Garbled { .. }));
    assert!(matches!(answered_with(b"\xff\xfe\n"), ClientError::Garbled { .. }));
    assert!(matches!(answered_with(b"half"), ClientError::Garbled { .. }));
    assert!(matches!(answered_with(b""), ClientError::Closed { .. }));
    let endless = vec![b'x'; wolfpack_types::api::LINE_BYTES_MAX + 2];
    assert!(matches!(answered_with(&endless), ClientError::Garbled { .. }));
}

fn answered_with(bytes: &[u8]) -> ClientError {
    let bytes = bytes.to_vec();
    let (_dir, path, server) = served(move |mut stream| {
        read_request(&stream);
        // The client may have heard enough before all is written.
        let _ = stream.write_all(&bytes);
    });
    let err = ask(&path);
    server.join().unwrap();
    err
}

fn ask(path: &Path) -> ClientError {
    Client::connect(path, PATIENCE).unwrap().request(&Request::NodeStatus).unwrap_err()
}
