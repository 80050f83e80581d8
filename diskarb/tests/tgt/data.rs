//! Data disks on a real unit: taken, defended, lost, exported.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crossbeam_channel::{Receiver, unbounded};
use wolfpack_diskarb::data::{DataDisk, DataEvent, IoError, TakeError};
use wolfpack_diskarb::device::{Purpose, open};
use wolfpack_diskarb::export::Export;
use wolfpack_diskarb::nbd_client::NbdClient;
use wolfpack_types::Times;
use wolfpack_types::disk::{DiskOp, DiskOutcome};

use crate::fixture::{PATIENCE, Target, available, naming, until};

fn take(name: &str, node: u8) -> Result<(DataDisk, Receiver<DataEvent>), TakeError> {
    let (sender, events) = unbounded();
    let naming = naming(node, Purpose::Data);
    let disk = DataDisk::take(name, &naming, &Times::FAST, move |e| drop(sender.send(e)))?;
    Ok((disk, events))
}

fn challenge(name: &str, node: u8) -> Result<(DataDisk, Receiver<DataEvent>), TakeError> {
    let (sender, events) = unbounded();
    let naming = naming(node, Purpose::Data);
    let disk = DataDisk::challenge(name, &naming, &Times::FAST, move |e| drop(sender.send(e)))?;
    Ok((disk, events))
}

#[test]
fn a_new_owner_takes_the_disk_at_once_and_the_former_one_is_told_and_writes_nothing() {
    if !available() {
        return;
    }
    let mut target = Target::start();
    let name = target.unit(4);
    let (a, a_events) = take(&name, 1).unwrap();
    a.handle().write(1000, b"from a".to_vec()).unwrap();
    a.check().unwrap();
    let (b, _) = take(&name, 2).unwrap();
    // The stale owner's next write, whenever it comes, does not reach the disk.
    assert!(a.handle().write(1000, b"stale!".to_vec()).is_err());
    let DataEvent::Lost { why } = a_events.recv_timeout(PATIENCE).unwrap();
    assert!(why.contains("another initiator"), "{why}");
    assert!(!a.still_held() && b.still_held());
    assert_eq!(a.handle().write(0, vec![1]), Err(IoError::NotHeld));
    assert_eq!(a.check(), Err(IoError::NotHeld));
    assert_eq!(b.handle().read(1000, 6).unwrap(), b"from a");
    // It does not take it back by itself.
    std::thread::sleep(Times::FAST.reserve_renew * 3);
    assert!(b.still_held());
    b.check().unwrap();
    drop(a);
    b.check().unwrap();
}

#[test]
fn an_idle_owner_learns_of_its_loss_by_its_defence() {
    if !available() {
        return;
    }
    let mut target = Target::start();
    let name = target.unit(4);
    let (a, events) = take(&name, 1).unwrap();
    let (_b, _) = take(&name, 2).unwrap();
    let DataEvent::Lost { .. } = events.recv_timeout(PATIENCE).unwrap();
    assert!(!a.still_held());
}

#[test]
fn a_living_holder_that_is_no_former_owner_wins_and_a_dead_one_loses() {
    if !available() {
        return;
    }
    let mut target = Target::start();
    let name = target.unit(4);
    let (a, events) = take(&name, 1).unwrap();
    let refused = challenge(&name, 2).unwrap_err();
    assert!(matches!(refused, TakeError::Defended { .. }), "{refused}");
    assert!(refused.to_string().contains("defends it"));
    assert!(a.still_held() && events.is_empty());
    a.handle().write(0, vec![9; 600]).unwrap();
    drop(a);
    // A session that holds it and does not defend.
    let mut dead = open(&name, &naming(3, Purpose::Data)).unwrap();
    assert!(matches!(dead.execute(&DiskOp::Reserve, PATIENCE), DiskOutcome::Good(_)));
    let (b, _) = challenge(&name, 2).unwrap();
    assert_eq!(b.handle().read(590, 10).unwrap(), vec![9; 10]);
}

#[test]
fn of_many_who_race_exactly_one_keeps_the_disk() {
    if !available() {
        return;
    }
    let mut target = Target::start();
    let name = target.unit(4);
    let racers: Vec<_> = (1..=4)
        .map(|node| {
            let name = name.clone();
            std::thread::spawn(move || take(&name, node))
        })
        .collect();
    let disks: Vec<_> = racers.into_iter().filter_map(|r| r.join().unwrap().ok()).collect();
    let held = || disks.iter().filter(|(disk, _)| disk.still_held()).count();
    until("one holder", || held() <= 1);
    std::thread::sleep(Times::FAST.reserve_renew * 2);
    assert_eq!(held(), 1);
}

#[test]
fn a_reset_by_a_stranger_is_survived_and_a_lost_path_is_not() {
    if !available() {
        return;
    }
    let mut target = Target::start();
    let name = target.unit(4);
    let (a, events) = take(&name, 1).unwrap();
    let mut stranger = open(&name, &naming(9, Purpose::Admin)).unwrap();
    for round in 0..20u8 {
        assert!(matches!(stranger.execute(&DiskOp::LunReset, PATIENCE), DiskOutcome::Good(_)));
        a.handle().write(5, vec![round; 3000]).unwrap();
        assert_eq!(a.handle().read(5, 3000).unwrap(), vec![round; 3000]);
    }
    assert!(a.still_held());
    target.cut_sessions();
    let DataEvent::Lost { .. } = events.recv_timeout(PATIENCE).unwrap();
    drop(a);
    let (a, _) = take(&name, 1).unwrap();
    a.check().unwrap();
    // Released: another needs no reset.
    a.release();
    assert!(!matches!(stranger.execute(&DiskOp::Reserve, PATIENCE), DiskOutcome::Conflict));
}

#[test]
fn a_disk_that_does_not_answer_is_lost() {
    if !available() {
        return;
    }
    let mut target = Target::start();
    let name = target.unit(4);
    let (a, events) = take(&name, 1).unwrap();
    target.freeze(true);
    let DataEvent::Lost { why } = events.recv_timeout(PATIENCE).unwrap();
    assert!(why.contains("does not answer"), "{why}");
    assert!(!a.still_held());
    target.freeze(false);
}

#[test]
fn any_alignment_is_kept_and_ranges_are_checked() {
    if !available() {
        return;
    }
    let mut target = Target::start();
    let name = target.unit(4);
    let (a, _) = take(&name, 1).unwrap();
    let disk = a.handle();
    assert_eq!(disk.size(), 4 << 20);
    let mut copy = vec![0u8; 4 << 20];
    let mut seed = 7u64;
    for round in 0..60u8 {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let offset = (seed >> 33) % (3 << 20);
        let length = (seed >> 20) % 700_000;
        let data = vec![round.wrapping_add(1); usize::try_from(length).unwrap()];
        let at = usize::try_from(offset).unwrap();
        copy[at..at + data.len()].copy_from_slice(&data);
        disk.write(offset, data).unwrap();
    }
    for (i, part) in copy.chunks(1 << 20).enumerate() {
        assert!(disk.read((i as u64) << 20, 1 << 20).unwrap() == part, "MiB {i}");
    }
    let outside = |e: Result<Vec<u8>, IoError>| matches!(e, Err(IoError::Range(..)));
    assert!(outside(disk.read(4 << 20, 1)) && outside(disk.read(u64::MAX, 2)));
    assert!(outside(disk.read(0, (1 << 20) + 1)));
    assert_eq!(disk.read(4 << 20, 0).unwrap(), Vec::<u8>::new());
}

#[test]
fn an_application_reads_and_writes_through_the_export_until_authority_ends() {
    if !available() {
        return;
    }
    let mut target = Target::start();
    let name = target.unit(4);
    let (a, _) = take(&name, 1).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk");
    let may = Arc::new(AtomicBool::new(true));
    let asked = Arc::clone(&may);
    let authority = Arc::new(move || asked.load(Ordering::Acquire));
    let export = Export::start(&path, a.handle(), authority.clone()).unwrap();
    let mut app = NbdClient::connect(&path).unwrap();
    assert_eq!(app.size(), 4 << 20);
    let data: Vec<u8> = (0..2_500_000u32).map(|i| (i % 253) as u8).collect();
    app.write_at(77, &data).unwrap();
    app.flush().unwrap();
    let mut second = NbdClient::connect(&path).unwrap();
    let mut back = vec![0; data.len()];
    second.read_at(77, &mut back).unwrap();
    assert!(back == data);
    assert_eq!(app.write_at(4 << 20, b"x").unwrap_err().raw_os_error(), Some(28));
    // Authority ends: EIO from this moment on; reading harms nobody.
    may.store(false, Ordering::Release);
    assert_eq!(app.write_at(0, b"late").unwrap_err().raw_os_error(), Some(5));
    second.read_at(77, &mut back).unwrap();
    may.store(true, Ordering::Release);
    app.write_at(0, b"again").unwrap();
    // A new export replaces the socket; the stop of the old one closes its connections.
    export.stop();
    assert!(app.write_at(0, b"x").is_err());
    assert!(NbdClient::connect(&path).is_err());
    std::fs::write(&path, b"a file").unwrap();
    let refused = Export::start(&path, a.handle(), authority.clone()).unwrap_err();
    assert!(refused.to_string().contains("cannot serve"), "{refused}");
    std::fs::remove_file(&path).unwrap();
    let left_over = std::os::unix::net::UnixListener::bind(&path).unwrap();
    drop(left_over);
    let _export = Export::start(&path, a.handle(), authority).unwrap();
    let mut app = NbdClient::connect(&path).unwrap();
    app.read_at(77, &mut back).unwrap();
    // The disk itself goes to another node.
    let (_b, _) = take(&name, 2).unwrap();
    until("refused", || app.write_at(0, b"stale").is_err());
}

#[test]
fn garbage_at_the_socket_harms_nobody() {
    use std::io::{Read, Write};
    if !available() {
        return;
    }
    let mut target = Target::start();
    let name = target.unit(4);
    let (a, _) = take(&name, 1).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk");
    let _export = Export::start(&path, a.handle(), Arc::new(|| true)).unwrap();
    for garbage in [&[0u8; 100][..], &[255; 100], b"\0\0\0\x03IHAVEOPT\0\0\0\x07\xff\xff\xff\xff"] {
        let mut stream = std::os::unix::net::UnixStream::connect(&path).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(garbage).unwrap();
        // The greeting, then the end; a reset is an end too.
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest);
        assert!(rest.len() <= 18);
    }
    let mut app = NbdClient::connect(&path).unwrap();
    app.write_at(1, b"well").unwrap();
    std::thread::sleep(Duration::from_millis(1));
}

#[test]
fn whoever_asks_while_the_disk_is_lost_or_released_gets_an_answer() {
    if !available() {
        return;
    }
    let mut target = Target::start();
    let name = target.unit(4);
    for round in 0..60 {
        let (a, _) = take(&name, 1).unwrap();
        let askers: Vec<_> = (0..4)
            .map(|_| {
                let disk = a.handle();
                std::thread::spawn(move || while disk.read(0, 512).is_ok() {})
            })
            .collect();
        if round % 2 == 0 {
            target.cut_sessions();
        } else {
            a.release();
        }
        for asker in askers {
            until("an answer", || asker.is_finished());
            asker.join().unwrap();
        }
    }
}
