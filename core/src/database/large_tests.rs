//! The largest database there may be: 10,000 objects and 100 MB. Costs are counted, not timed: what
//! an update touches, what a message holds.

use wolfpack_types::objects::Resource;
use wolfpack_types::tree::{Bytes, Transaction, TreeOp, TreeValue};
use wolfpack_types::update::{Refusal, Update};

use super::tests::{apply_at, cluster, gid, group, resource};
use super::{Database, OBJECTS_MAX};

fn set(key: String, bytes: usize) -> Update {
    let value = TreeValue::Binary(Bytes(vec![7; bytes]));
    let ops = vec![TreeOp::SetValue { key, name: "v".into(), value }];
    Update::Tree(Transaction { preconditions: Vec::new(), ops })
}

#[test]
fn ten_thousand_objects_and_a_hundred_megabytes_cost_an_update_only_its_own_rows() {
    let mut db = cluster(3);
    let half = OBJECTS_MAX as u128 / 2;
    for i in 0..half {
        let made = Update::CreateGroup(group(i, &format!("g{i}")));
        assert_eq!(apply_at(&mut db, 0, made).outcome, Ok(()));
        let made = Resource { group: gid(i), ..resource(half + i, &format!("r{i}"), &[]) };
        assert_eq!(apply_at(&mut db, 0, Update::CreateResource(made)).outcome, Ok(()));
    }
    let one_more = Update::CreateGroup(group(OBJECTS_MAX as u128, "more"));
    let Err(Refusal::Invalid(why)) = db.check(&one_more) else { panic!("it fits") };
    assert!(why.contains("no more fit"), "{why}");
    for i in 0..400 {
        assert_eq!(apply_at(&mut db, 0, set(format!("data/{i}"), 250_000)).outcome, Ok(()));
    }
    assert!(db.row_bytes() > 100_000_000, "{} bytes", db.row_bytes());
    // One update: its value, its key, and the key above.
    let applied = apply_at(&mut db, 0, set("small/x".into(), 64));
    let bytes: usize =
        applied.rows.iter().map(|(k, v)| k.len() + v.as_ref().map_or(0, Vec::len)).sum();
    assert!(applied.rows.len() <= 4 && bytes < 1000, "{} rows, {bytes} bytes", applied.rows.len());
    // The whole goes over in pieces and is the same.
    let snapshot = db.snapshot();
    let mut copy = Database::default();
    for (key, row) in &snapshot.rows {
        copy.take_row(key, row).expect("its own row");
    }
    let copy = copy.taken((db.ballot, db.seq)).expect("its own rows");
    assert_eq!((copy.digest(), copy.row_bytes()), (db.digest(), db.row_bytes()));
}
