//! The iSCSI transport: commands, reservations, unit attentions, path loss, hanging targets.

use std::time::Duration;

use wolfpack_diskarb::device::{Device, Late, OpenError, Purpose, open};
use wolfpack_types::disk::{DiskOp, DiskOutcome};

use crate::fixture::{Target, available, naming, until};

const DEADLINE: Duration = Duration::from_secs(20);

fn device(name: &str, node: u8) -> Device {
    open(name, &naming(node, Purpose::Witness)).unwrap()
}

fn good() -> DiskOutcome {
    DiskOutcome::Good(vec![])
}

#[test]
fn a_unit_says_who_it_is_and_keeps_what_is_written() {
    if !available() {
        return;
    }
    let mut target = Target::start();
    let name = target.unit(64);
    let mut a = device(&name, 1);
    assert_eq!((a.capacity().bytes(), a.capacity().block_size), (64 << 20, 512));
    assert_eq!(a.identity().vendor, "IET");
    assert!(!a.identity().serial.is_empty() && !a.identity().designator.is_empty());
    let data: Vec<u8> = (0..300 * 512u32).map(|i| (i % 251) as u8).collect();
    assert_eq!(a.execute(&DiskOp::Write { lba: 77, data: data.clone() }, DEADLINE), good());
    let mut b = device(&name, 2);
    assert_eq!(
        b.execute(&DiskOp::Read { lba: 77, blocks: 300 }, DEADLINE),
        DiskOutcome::Good(data)
    );
    let beyond = b.execute(&DiskOp::Read { lba: 1 << 40, blocks: 1 }, DEADLINE);
    assert!(matches!(beyond, DiskOutcome::Sense { key: 5, asc: 0x21, .. }), "{beyond:?}");
}

#[test]
fn reservations_exclude_and_only_a_lun_reset_breaks_them() {
    if !available() {
        return;
    }
    let mut target = Target::start();
    let name = target.unit(1);
    let (mut a, mut b) = (device(&name, 1), device(&name, 2));
    assert_eq!(a.execute(&DiskOp::Reserve, DEADLINE), good());
    assert_eq!(a.execute(&DiskOp::Reserve, DEADLINE), good());
    let write = DiskOp::Write { lba: 0, data: vec![1; 512] };
    for op in [&DiskOp::Reserve, &DiskOp::Test, &write, &DiskOp::Read { lba: 0, blocks: 1 }] {
        assert_eq!(b.execute(op, DEADLINE), DiskOutcome::Conflict, "{op:?}");
    }
    assert_eq!(b.execute(&DiskOp::Release, DEADLINE), good());
    assert_eq!(b.execute(&DiskOp::Reserve, DEADLINE), DiskOutcome::Conflict);
    assert_eq!(b.execute(&DiskOp::LunReset, DEADLINE), good());
    let attention = DiskOutcome::UnitAttention { asc: 0x29, ascq: 0 };
    assert_eq!(a.execute(&write, DEADLINE), attention);
    assert_eq!(b.execute(&DiskOp::Reserve, DEADLINE), attention);
    assert_eq!(b.execute(&DiskOp::Reserve, DEADLINE), good());
    assert_eq!(a.execute(&write, DEADLINE), DiskOutcome::Conflict);
    // The end of a session frees the unit.
    drop(b);
    until("free", || a.execute(&DiskOp::Reserve, DEADLINE) == good());
}

#[test]
fn a_new_session_of_the_same_node_replaces_the_former_one() {
    if !available() {
        return;
    }
    let mut target = Target::start();
    let name = target.unit(1);
    let mut former = device(&name, 1);
    assert_eq!(former.execute(&DiskOp::Reserve, DEADLINE), good());
    let mut next = device(&name, 1);
    assert_eq!(next.execute(&DiskOp::Reserve, DEADLINE), good());
    let end = former.execute(&DiskOp::Test, DEADLINE);
    assert!(matches!(end, DiskOutcome::Transport(_)), "{end:?}");
    // Another purpose is another nexus.
    let mut admin = open(&name, &naming(1, Purpose::Admin)).unwrap();
    assert_eq!(admin.execute(&DiskOp::Reserve, DEADLINE), DiskOutcome::Conflict);
}

#[test]
fn a_lost_path_is_said_and_found_again() {
    if !available() {
        return;
    }
    let mut target = Target::start();
    let name = target.unit(1);
    let mut a = device(&name, 1);
    target.cut_sessions();
    let lost = a.execute(&DiskOp::Test, DEADLINE);
    assert!(matches!(lost, DiskOutcome::Transport(_)), "{lost:?}");
    assert!(!a.connected());
    let still = a.execute(&DiskOp::Test, DEADLINE);
    assert!(matches!(still, DiskOutcome::Transport(_)), "{still:?}");
    a.reconnect().unwrap();
    assert_eq!(a.execute(&DiskOp::Test, DEADLINE), good());
}

#[test]
fn a_hanging_target_is_a_timeout_and_its_late_answer_the_end() {
    if !available() {
        return;
    }
    let mut target = Target::start();
    let name = target.unit(1);
    let mut a = device(&name, 1);
    target.freeze(true);
    let short = Duration::from_millis(100);
    let write = DiskOp::Write { lba: 3, data: vec![5; 512] };
    assert_eq!(a.execute(&write, short), DiskOutcome::Timeout);
    assert_eq!(a.execute(&DiskOp::Test, short), DiskOutcome::Timeout, "nothing else is sent");
    assert_eq!(a.late(short), Late::Pending);
    target.freeze(false);
    until("late end", || a.late(short) == Late::Ended);
    // It *was* carried out, after its sender had given up.
    let read = a.execute(&DiskOp::Read { lba: 3, blocks: 1 }, DEADLINE);
    assert_eq!(read, DiskOutcome::Good(vec![5; 512]));
}

#[test]
fn what_cannot_be_opened_says_what_and_why() {
    if !available() {
        return;
    }
    let mut target = Target::start();
    let name = target.unit(1);
    let admin = naming(1, Purpose::Admin);
    let refused = |name: &str| open(name, &admin).unwrap_err();
    let missing = refused(&target.name(9));
    assert!(matches!(missing, OpenError::NoUnit { .. }), "{missing}");
    let controller = refused(&target.name(0));
    assert!(matches!(controller, OpenError::NotADisk { kind: 0x0c, .. }), "{controller}");
    let other = refused(&name.replace("test:t", "test:other"));
    assert!(matches!(other, OpenError::Login { .. }), "{other}");
    let bad = refused("/tmp/image");
    assert!(matches!(bad, OpenError::BadName { .. }), "{bad}");
    target.freeze(true);
    let hanging = refused(&name);
    assert!(hanging.to_string().contains("timed out after 3 s): is the storage network up?"));
    drop(target);
    let gone = refused(&name);
    assert!(matches!(gone, OpenError::Unreachable { .. }), "{gone}");
}
