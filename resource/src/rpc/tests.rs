//! Channels on real sockets, and what hostile bytes do to them.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::os::fd::AsRawFd;

use nix::sys::socket::{MsgFlags, send};
use proptest::prelude::*;
use wolfpack_types::monitor::{
    GuardCommand, GuardEvent, MonitorCommand, MonitorEvent, OnlineMode, ResourceSpec,
};
use wolfpack_types::objects::{Policy, ResourceType};
use wolfpack_types::{Incarnation, NodeId, NodeInc};

use super::*;

const SECOND: Duration = Duration::from_secs(10);

type Service = Channel<MonitorCommand, MonitorEvent>;
type Monitor = Channel<MonitorEvent, MonitorCommand>;

fn pair() -> (Service, Monitor) {
    Service::pair().unwrap()
}

fn online(value_len: usize) -> MonitorCommand {
    let resource = ResourceSpec {
        id: wolfpack_types::ResourceId::default(),
        name: "r".into(),
        group: "g".into(),
        kind: ResourceType::IpAddress,
        properties: BTreeMap::from([("k".into(), "v".repeat(value_len))]),
        policy: Policy::default(),
    };
    MonitorCommand::Online { call: 9, resource, mode: OnlineMode::Start { probe: true } }
}

#[test]
fn messages_arrive_whole_and_in_order() {
    let (service, monitor) = pair();
    service.send(&online(40_000), SECOND).unwrap();
    let announce = MonitorCommand::Announce { resource: wolfpack_types::ResourceId::default() };
    service.send(&announce, SECOND).unwrap();
    assert_eq!(monitor.recv(Some(SECOND)).unwrap().unwrap().message, online(40_000));
    assert_eq!(monitor.recv(Some(SECOND)).unwrap().unwrap().message, announce);
    assert!(monitor.recv(Some(Duration::ZERO)).unwrap().is_none());
    monitor.send(&MonitorEvent::Hello { version: 1 }, SECOND).unwrap();
    assert!(service.recv(None).unwrap().is_some());
}

#[test]
fn descriptors_travel_with_their_message() {
    let (guard, service) = Channel::<GuardEvent, GuardCommand>::pair().unwrap();
    let (mut reader, writer) = io::pipe().unwrap();
    let event = GuardEvent::MonitorStarted { number: 1, pid: 2 };
    guard.send_fds(&event, &[writer.as_fd()], SECOND).unwrap();
    drop(writer);
    let got = service.recv(Some(SECOND)).unwrap().unwrap();
    assert_eq!(got.message, event);
    let [fd] = got.fds.try_into().unwrap();
    io::Write::write_all(&mut File::from(fd), b"through").unwrap();
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    assert_eq!(text, "through");
}

#[test]
fn a_closed_side_is_said() {
    let (service, monitor) = pair();
    drop(monitor);
    assert!(matches!(service.recv(Some(SECOND)), Err(RpcError::Closed)));
    assert!(matches!(service.send(&online(1), SECOND), Err(RpcError::Closed)));
    let (service, monitor) = pair();
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| monitor.recv(None));
        service.shutdown();
        assert!(matches!(waiting.join().unwrap(), Err(RpcError::Closed)));
    });
}

#[test]
fn a_full_channel_times_out_and_goes_on_afterwards() {
    let (service, monitor) = pair();
    let mut sent = 0;
    while service.send(&online(30_000), Duration::ZERO).is_ok() {
        sent += 1;
        assert!(sent < 10_000, "a socket without end");
    }
    let err = service.send(&online(30_000), Duration::from_millis(5)).unwrap_err();
    assert!(matches!(err, RpcError::TimedOut(_)), "{err}");
    for _ in 0..sent {
        assert!(monitor.recv(Some(SECOND)).unwrap().is_some());
    }
    service.send(&online(30_000), SECOND).unwrap();
}

#[test]
fn what_is_too_long_is_refused_on_both_sides() {
    let (service, monitor) = pair();
    let err = service.send(&online(PACKET_BYTES_MAX), SECOND).unwrap_err();
    assert!(matches!(err, RpcError::TooLong(_)), "{err}");
    let raw = vec![0_u8; PACKET_BYTES_MAX + 1];
    send(service.as_fd().as_raw_fd(), &raw, MsgFlags::empty()).unwrap();
    assert!(matches!(monitor.recv(Some(SECOND)), Err(RpcError::Oversized)));
}

#[test]
fn other_descriptors_and_paths_are_refused() {
    let file = File::open("/dev/null").unwrap();
    assert!(Service::from_fd(file.into()).is_err());
    let (stream, _other) = std::os::unix::net::UnixStream::pair().unwrap();
    assert!(Service::from_fd(stream.into()).is_err());
    let err = Service::connect(Path::new("/nonexistent/guard.sock")).unwrap_err();
    assert!(matches!(err, RpcError::NobodyListens { .. }), "{err}");
    let err = Service::connect(Path::new(&"x".repeat(200))).unwrap_err();
    assert!(matches!(err, RpcError::Path { .. }), "{err}");
}

#[test]
fn a_listener_knows_its_peer_and_replaces_a_dead_socket() {
    let name = format!("wolfpack-rpc-{}.sock", std::process::id());
    let path = std::env::temp_dir().join(name);
    std::fs::write(&path, "left by a dead process").unwrap();
    let listener = Listener::bind(&path).unwrap();
    let client = Channel::<GuardCommand, GuardEvent>::connect(&path).unwrap();
    let (fd, peer) = listener.accept().unwrap();
    assert_eq!(u32::try_from(peer.pid).unwrap(), std::process::id());
    let me = NodeInc::new(NodeId::new(1).unwrap(), Incarnation(1));
    let attach = GuardCommand::Attach { version: 1, me, margin_ms: 5 };
    client.send(&attach, SECOND).unwrap();
    let guard = Channel::<GuardEvent, GuardCommand>::from_fd(fd).unwrap();
    assert_eq!(guard.recv(Some(SECOND)).unwrap().unwrap().message, attach);
    drop(listener);
    assert!(!path.exists());
}

proptest! {
    #[test]
    fn random_packets_are_errors_or_messages_never_panics(
        bytes in proptest::collection::vec(any::<u8>(), 1..2000),
    ) {
        let (service, monitor) = pair();
        send(service.as_fd().as_raw_fd(), &bytes, MsgFlags::empty()).unwrap();
        prop_assert!(matches!(
            monitor.recv(Some(SECOND)),
            Ok(Some(_)) | Err(RpcError::Malformed(_))
        ));
    }

    #[test]
    fn flipped_bits_never_panic(at in 0_usize..40, bit in 0_u8..8, cut in 0_usize..40) {
        let mut bytes = codec::encode(&online(10));
        let at = at % bytes.len();
        bytes[at] ^= 1 << bit;
        bytes.truncate((bytes.len() - cut % bytes.len()).max(1));
        let (service, monitor) = pair();
        send(service.as_fd().as_raw_fd(), &bytes, MsgFlags::empty()).unwrap();
        prop_assert!(matches!(
            monitor.recv(Some(SECOND)),
            Ok(Some(_)) | Err(RpcError::Malformed(_))
        ));
    }
}
