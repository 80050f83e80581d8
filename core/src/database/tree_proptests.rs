//! The tree against a model that could not be simpler: a sorted map of paths. All or nothing, the
//! preconditions, and taking back.

use std::collections::BTreeMap;

use proptest::collection::vec;
use proptest::prelude::*;
use wolfpack_types::tree::{Bytes, Precondition, Transaction, TreeChangeKind, TreeOp, TreeValue};
use wolfpack_types::update::{LogEntry, Refusal, Update};
use wolfpack_types::{Seq, tree};

use super::tests::{apply_at, ballot, cluster, web};
use super::{Change, Database, Undo};

/// Keys with their values; the root is there from the beginning.
type Model = BTreeMap<String, BTreeMap<String, TreeValue>>;

fn ancestors(key: &str) -> Vec<String> {
    let ends = key.match_indices('/').map(|(at, _)| at).chain([key.len()]);
    ends.map(|end| key[..end].to_owned()).collect()
}

fn model_op(model: &mut Model, op: &TreeOp) -> Option<()> {
    match op {
        TreeOp::CreateKey { key } => {
            for key in ancestors(key) {
                model.entry(key).or_default();
            }
        }
        TreeOp::SetValue { key, name, value } => {
            for key in ancestors(key) {
                model.entry(key).or_default();
            }
            model.get_mut(key)?.insert(name.clone(), value.clone());
        }
        TreeOp::DeleteValue { key, name } => {
            model.get_mut(key)?.remove(name)?;
        }
        TreeOp::DeleteKey { key, subkeys } => {
            let below = format!("{key}/");
            model.get(key)?;
            if !subkeys && model.keys().any(|k| k.starts_with(&below)) {
                return None;
            }
            model.retain(|k, _| k != key && !k.starts_with(&below));
        }
    }
    Some(())
}

/// The model of a transaction without preconditions: none where it must be refused.
fn model_all(model: &Model, ops: &[TreeOp]) -> Option<Model> {
    let mut copy = model.clone();
    ops.iter().try_for_each(|op| model_op(&mut copy, op))?;
    Some(copy)
}

/// What the database says, by walking it as readers do (the objects' keys left out).
fn read(db: &Database) -> Model {
    let mut all = Model::new();
    db.tree_walk("", true, None, &mut |key| {
        if !key.of_object {
            let values = key.values.into_iter().map(|v| (v.name, v.value)).collect();
            all.insert(key.key, values);
        }
        std::ops::ControlFlow::Continue(())
    })
    .expect("the root");
    all
}

fn key() -> impl Strategy<Value = String> {
    // Names that sort before and after '/', to catch orders of whole paths.
    vec("(a|a b|a-|b|b0)", 1..4).prop_map(|parts| format!("K/{}", parts.join("/")))
}

fn value() -> impl Strategy<Value = TreeValue> {
    prop_oneof![
        any::<u32>().prop_map(TreeValue::Dword),
        any::<u64>().prop_map(TreeValue::Qword),
        "\\PC{0,6}".prop_map(TreeValue::Sz),
        vec("[a-c]{0,2}", 0..3).prop_map(TreeValue::MultiSz),
        vec(any::<u8>(), 0..5).prop_map(|b| TreeValue::Binary(Bytes(b))),
    ]
}

fn name() -> impl Strategy<Value = String> {
    "(|x|y/z)"
}

pub(super) fn op() -> impl Strategy<Value = TreeOp> {
    prop_oneof![
        2 => key().prop_map(|key| TreeOp::CreateKey { key }),
        4 => (key(), name(), value())
            .prop_map(|(key, name, value)| TreeOp::SetValue { key, name, value }),
        2 => (key(), name()).prop_map(|(key, name)| TreeOp::DeleteValue { key, name }),
        2 => (key(), any::<bool>()).prop_map(|(key, subkeys)| TreeOp::DeleteKey { key, subkeys }),
    ]
}

fn transaction(ops: Vec<TreeOp>) -> Update {
    Update::Tree(Transaction { preconditions: Vec::new(), ops })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn transactions_do_what_the_model_does_or_nothing(log in vec(vec(op(), 1..5), 0..30)) {
        let (mut db, mut model) = (cluster(1), Model::new());
        for ops in log {
            let (before, update) = (db.clone(), transaction(ops.clone()));
            let expected = model_all(&model, &ops);
            let checked = db.check(&update);
            prop_assert_eq!(&db, &before, "a check leaves nothing behind");
            prop_assert_eq!(checked.is_ok(), expected.is_some());
            let applied = apply_at(&mut db, 0, update);
            prop_assert_eq!(applied.outcome.is_ok(), expected.is_some());
            match expected {
                Some(new) => model = new,
                None => prop_assert!(applied.rows.is_empty() && applied.changes.is_empty()),
            }
            prop_assert_eq!(read(&db), model.clone());
            let again = Database::from_snapshot(&db.snapshot()).expect("its own snapshot");
            prop_assert_eq!(&again, &db, "sizes and hashes too");
        }
    }

    #[test]
    fn what_was_applied_on_trial_is_taken_back(
        first in vec(op(), 1..10), trial in vec(vec(op(), 1..5), 1..8)
    ) {
        let mut db = web(2);
        apply_at(&mut db, 0, transaction(first));
        let before = db.clone();
        let mut undo = Undo::begin(&db);
        for ops in trial {
            let entry = LogEntry {
                ballot: ballot(1), seq: db.seq.next(), wall_ms: 0, request: None,
                update: transaction(ops),
                cause: None,
            };
            let _ = db.apply_on_trial(&entry, &mut undo);
        }
        db.take_back(undo);
        prop_assert_eq!(db, before);
    }

    #[test]
    fn a_watcher_who_follows_the_changes_has_the_tree(log in vec(vec(op(), 1..5), 0..20)) {
        let (mut db, mut copy) = (cluster(1), Model::new());
        for ops in log {
            for change in apply_at(&mut db, 0, transaction(ops)).changes {
                let Change::Tree(change) = change else { continue };
                prop_assert_eq!(change.seq, db.seq.0);
                match change.what {
                    TreeChangeKind::KeyCreated => { copy.insert(change.key, BTreeMap::new()); }
                    TreeChangeKind::KeyDeleted => { copy.remove(&change.key); }
                    TreeChangeKind::ValueSet { name, value } => {
                        copy.get_mut(&change.key).expect("created before").insert(name, value);
                    }
                    TreeChangeKind::ValueDeleted { name } => {
                        copy.get_mut(&change.key).expect("it is there").remove(&name);
                    }
                    TreeChangeKind::Replaced => prop_assert!(false, "nothing was replaced"),
                }
            }
            prop_assert_eq!(read(&db), copy.clone());
        }
    }

    #[test]
    fn a_list_in_pieces_is_the_whole_list(ops in vec(op(), 0..30), piece in 1..4_usize) {
        let mut db = cluster(1);
        for op in ops {
            apply_at(&mut db, 0, transaction(vec![op]));
        }
        let mut whole = Vec::new();
        db.tree_walk("", true, None, &mut |k| {
            whole.push(k.key);
            std::ops::ControlFlow::Continue(())
        }).expect("the root");
        let (mut pieces, mut after): (Vec<String>, Option<String>) = (Vec::new(), None);
        loop {
            let mut some = Vec::new();
            db.tree_walk("", true, after.as_deref(), &mut |k| {
                if some.len() == piece {
                    return std::ops::ControlFlow::Break(());
                }
                some.push(k.key);
                std::ops::ControlFlow::Continue(())
            }).expect("the root");
            let Some(last) = some.last() else { break };
            after = Some(last.clone());
            pieces.extend(some);
        }
        prop_assert_eq!(pieces, whole);
    }
}

fn set(key: &str, name: &str, value: u32) -> TreeOp {
    TreeOp::SetValue { key: key.into(), name: name.into(), value: TreeValue::Dword(value) }
}

fn refused(db: &mut Database, preconditions: Vec<Precondition>) -> String {
    let update = Update::Tree(Transaction { preconditions, ops: vec![set("other", "n", 1)] });
    let refusal = db.check(&update).unwrap_err();
    assert!(matches!(refusal, Refusal::Precondition { .. }), "{refusal}");
    let before = db.digest();
    assert_eq!(apply_at(db, 0, update).outcome, Err(refusal.clone()));
    assert_eq!(db.digest(), before, "refused as a whole");
    refusal.to_string()
}

#[test]
fn a_precondition_that_fails_says_both_values() {
    let mut db = cluster(1);
    assert_eq!(apply_at(&mut db, 0, transaction(vec![set("app/x", "port", 80)])).outcome, Ok(()));
    let at = db.seq;
    let key = || "app/x".to_owned();
    let why = refused(
        &mut db,
        vec![Precondition::ValueEquals {
            key: key(),
            name: "port".into(),
            value: TreeValue::Dword(8080),
        }],
    );
    assert_eq!(
        why,
        "nothing was changed: value 'port' of key 'app/x' is dword 80, and dword 8080 was expected"
    );
    let why = refused(&mut db, vec![Precondition::ValueAbsent { key: key(), name: "port".into() }]);
    assert!(why.contains("is dword 80, and absent was expected"), "{why}");
    let why = refused(&mut db, vec![Precondition::KeyAbsent { key: "app".into() }]);
    assert!(why.contains("key 'app' is present, and absent was expected"), "{why}");
    let why = refused(&mut db, vec![Precondition::KeyExists { key: "none".into() }]);
    assert!(why.contains("key 'none' is absent, and present was expected"), "{why}");
    let unchanged = |since| Precondition::Unchanged { key: "app/x".into(), since };
    let why = refused(&mut db, vec![unchanged(Seq(at.0 - 1))]);
    assert!(why.contains(&format!("changed by update {at}")), "{why}");
    let good =
        Transaction { preconditions: vec![unchanged(at)], ops: vec![set("app/x", "port", 8)] };
    assert_eq!(apply_at(&mut db, 0, Update::Tree(good.clone())).outcome, Ok(()));
    // The same again: it was changed meanwhile, by that very transaction.
    assert!(apply_at(&mut db, 0, Update::Tree(good)).outcome.is_err());
}

#[test]
fn objects_are_seen_in_the_tree_and_not_changed_through_it() {
    let mut db = web(2);
    let parameters = db.tree_key("Resources/app/Parameters").unwrap();
    assert_eq!(parameters.values[0].value, TreeValue::Sz("/bin/true".into()));
    assert_eq!(db.tree_key("Groups").unwrap().subkeys, ["web"]);
    assert_eq!(db.tree_key("").unwrap().subkeys, ["Cluster", "Groups", "Nodes", "Resources"]);
    let forbidden = transaction(vec![set("Resources/app/Parameters", "command", 1)]);
    let why = db.check(&forbidden).unwrap_err().to_string();
    assert!(why.contains("property of that object"), "{why}");
    // Beside them programs keep their own, and it goes with the object.
    let own = transaction(vec![set("Resources/app/Parameters", "mine", 1)]);
    assert_eq!(apply_at(&mut db, 0, own).outcome, Ok(()));
    assert_eq!(
        db.tree_value("Resources/app/Parameters", "mine").unwrap().value,
        TreeValue::Dword(1)
    );
    apply_at(&mut db, 0, Update::DeleteResource(super::tests::rid(3)));
    assert!(db.tree_key("Resources/app").is_err());
    let why = db.tree_key("Group").unwrap_err().to_string();
    assert!(why.contains("did you mean 'Groups'?"), "{why}");
}

#[test]
fn the_bounds_of_the_tree_hold() {
    let mut db = cluster(1);
    let large = TreeValue::Binary(Bytes(vec![7; tree::VALUE_BYTES_MAX + 1]));
    let op = TreeOp::SetValue { key: "k".into(), name: "v".into(), value: large };
    assert!(db.check(&transaction(vec![op])).unwrap_err().to_string().contains("too large"));
    for bad in ["", "/a", "a/", "a//b", "a\nb", &"x/".repeat(600), &"x/".repeat(17)] {
        let op = TreeOp::CreateKey { key: bad.into() };
        assert!(matches!(db.check(&transaction(vec![op])), Err(Refusal::Invalid(_))), "{bad:?}");
    }
    assert!(db.check(&transaction(vec![])).is_err());
}
