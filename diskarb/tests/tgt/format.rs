//! Preparing a witness: too small, in use by something else, another cluster's, our own.

use std::os::unix::fs::FileExt;

use wolfpack_diskarb::device::{Device, Purpose, open};
use wolfpack_diskarb::exclusion::{ExclusionError, prove};
use wolfpack_diskarb::format::{Overwrite, PrepareError, Prepared, needed_bytes, prepare};
use wolfpack_types::disk::{DiskOp, DiskOutcome};
use wolfpack_types::{ClusterId, Guid};

use crate::fixture::{CLUSTER, PATIENCE, Target, available, naming};

fn admin(name: &str, node: u8) -> Device {
    open(name, &naming(node, Purpose::Admin)).unwrap()
}

#[test]
fn a_small_disk_is_refused_with_both_sizes() {
    if !available() {
        return;
    }
    let mut target = Target::start();
    let mut device = admin(&target.unit(8), 1);
    let err = prepare(&mut *device, CLUSTER, Overwrite::Yes).unwrap_err();
    let text = err.to_string();
    assert!(text.contains("8388608 bytes"), "{text}");
    assert!(text.contains(&needed_bytes(512).to_string()), "{text}");
}

#[test]
fn foreign_data_is_named_and_kept_unless_told_otherwise() {
    if !available() {
        return;
    }
    let mut target = Target::start();
    let name = target.unit(128);
    let image = std::fs::OpenOptions::new().write(true).open(target.image(1)).unwrap();
    image.write_all_at(&[0x53, 0xef], 0x438).unwrap();
    let mut device = admin(&name, 1);
    let err = prepare(&mut *device, CLUSTER, Overwrite::No).unwrap_err();
    assert!(err.to_string().contains("ext4"), "{err}");
    image.write_all_at(&[0, 0], 0x438).unwrap();
    image.write_all_at(b"EFI PART", (128 << 20) - 512).unwrap();
    let err = prepare(&mut *device, CLUSTER, Overwrite::No).unwrap_err();
    assert!(err.to_string().contains("at the end"), "{err}");
    let kept = device.execute(&DiskOp::Read { lba: 0, blocks: 1 }, PATIENCE);
    assert_eq!(kept, DiskOutcome::Good(vec![0; 512]));
    assert_eq!(prepare(&mut *device, CLUSTER, Overwrite::Yes).unwrap(), Prepared::Written);
}

#[test]
fn a_witness_is_accepted_by_its_own_cluster_only() {
    if !available() {
        return;
    }
    let mut target = Target::start();
    let mut device = admin(&target.unit(128), 1);
    assert_eq!(prepare(&mut *device, CLUSTER, Overwrite::No).unwrap(), Prepared::Written);
    assert_eq!(prepare(&mut *device, CLUSTER, Overwrite::No).unwrap(), Prepared::Already);
    let other = ClusterId(Guid(5));
    let err = prepare(&mut *device, other, Overwrite::No).unwrap_err();
    assert!(matches!(err, PrepareError::Foreign { .. }));
    assert!(err.to_string().contains(&CLUSTER.to_string()), "{err}");
    assert_eq!(prepare(&mut *device, other, Overwrite::Yes).unwrap(), Prepared::Written);
    assert_eq!(prepare(&mut *device, other, Overwrite::No).unwrap(), Prepared::Already);
}

#[test]
fn a_reserved_disk_is_refused() {
    if !available() {
        return;
    }
    let mut target = Target::start();
    let name = target.unit(128);
    let mut holder = admin(&name, 2);
    assert!(matches!(holder.execute(&DiskOp::Reserve, PATIENCE), DiskOutcome::Good(_)));
    let err = prepare(&mut *admin(&name, 1), CLUSTER, Overwrite::Yes).unwrap_err();
    assert!(matches!(err, PrepareError::Reserved { .. }), "{err}");
}

#[test]
fn a_reservation_that_excludes_is_proven_and_leaves_the_unit_free() {
    if !available() {
        return;
    }
    let mut target = Target::start();
    let name = target.unit(8);
    let me = naming(1, Purpose::Admin);
    prove(&name, &me).unwrap();
    let mut holder = admin(&name, 2);
    assert!(matches!(holder.execute(&DiskOp::Reserve, PATIENCE), DiskOutcome::Good(_)));
    let err = prove(&name, &me).unwrap_err();
    assert!(matches!(err, ExclusionError::Reserved(_)), "{err}");
    let err = prove("/dev/sda", &me).unwrap_err();
    assert!(err.to_string().contains("two nodes"), "{err}");
}
