//! The tree of keys and typed values (CMRP 2.2.3), as part of the database: structure and the
//! effect of single operations. All or nothing is the caller's ([`super::undo`]).
//!
//! Invariant: every key but the root has its parent; every value has its key.

use std::collections::BTreeMap;
use std::ops::Bound;

use serde::{Deserialize, Serialize};
use wolfpack_types::Seq;
use wolfpack_types::tree::{
    ENTRIES_MAX, Precondition, TREE_BYTES_MAX, TreeChangeKind, TreeOp, TreeValue,
};
use wolfpack_types::update::Refusal;

use super::key::Key;

/// A value, and the update that set it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Value {
    pub(super) changed: Seq,
    pub(super) value: TreeValue,
}

/// A key: the update that changed its values or its set of subkeys last, and its values.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Node {
    pub(super) changed: Seq,
    pub(super) values: BTreeMap<String, Value>,
}

/// All keys by path.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tree {
    keys: BTreeMap<String, Node>,
    values: usize,
    /// Of names and contents, for the bound.
    bytes: usize,
}

/// The key above; none above the root.
pub(super) fn parent(key: &str) -> Option<&str> {
    (!key.is_empty()).then(|| key.rsplit_once('/').map_or("", |(above, _)| above))
}

/// What is missing, in words.
fn no_key(key: &str) -> Refusal {
    Refusal::Unknown { what: "key".into(), name: key.into(), hint: String::new() }
}

/// The first name behind everything below `key`: `/` is followed by `0`.
fn behind(key: &str) -> String {
    format!("{key}0")
}

impl Tree {
    pub(super) fn get(&self, key: &str) -> Option<&Node> {
        self.keys.get(key)
    }

    pub(super) fn value(&self, key: &str, name: &str) -> Option<&Value> {
        self.keys.get(key)?.values.get(name)
    }

    /// Everything below `key` (not itself), in order of paths.
    fn below(&self, key: &str) -> impl Iterator<Item = (&String, &Node)> {
        let (from, to) = if key.is_empty() {
            (Bound::Excluded(String::new()), Bound::Unbounded)
        } else {
            (Bound::Included(format!("{key}/")), Bound::Excluded(behind(key)))
        };
        self.keys.range((from, to))
    }

    /// Names of the keys directly below, in order. Jumps over what is below those.
    pub(super) fn subkeys(&self, key: &str) -> Vec<String> {
        let prefix = if key.is_empty() { String::new() } else { format!("{key}/") };
        let mut names = Vec::new();
        let mut from = Bound::Excluded(prefix.clone());
        while let Some((path, _)) = self.keys.range((from, Bound::Unbounded)).next() {
            let Some(rest) = path.strip_prefix(&prefix) else { break };
            let name = rest.split('/').next().unwrap_or(rest);
            names.push(name.to_owned());
            // A sibling may sort between "a" and "a/": only what is below is jumped over.
            from = if rest.len() == name.len() {
                Bound::Excluded(path.clone())
            } else {
                Bound::Included(behind(&format!("{prefix}{name}")))
            };
        }
        names.sort_unstable();
        names.dedup();
        names
    }

    /// Whether the precondition holds.
    ///
    /// # Errors
    /// What was expected, and what is.
    pub(super) fn holds(&self, precondition: &Precondition) -> Result<(), Refusal> {
        let failed = |what: String, found: String, wanted: String| {
            Err(Refusal::Precondition { what, wanted, found })
        };
        let absent = || "absent".to_owned();
        match precondition {
            Precondition::KeyExists { key } if !self.keys.contains_key(key) => {
                failed(format!("key '{key}'"), absent(), "present".into())
            }
            Precondition::KeyAbsent { key } if self.keys.contains_key(key) => {
                failed(format!("key '{key}'"), "present".into(), absent())
            }
            Precondition::ValueEquals { key, name, value } => {
                let found = self.value(key, name).map(|v| &v.value);
                if found == Some(value) {
                    return Ok(());
                }
                let found = found.map_or_else(absent, ToString::to_string);
                failed(format!("value '{name}' of key '{key}'"), found, value.to_string())
            }
            Precondition::ValueAbsent { key, name } => match self.value(key, name) {
                None => Ok(()),
                Some(found) => failed(
                    format!("value '{name}' of key '{key}'"),
                    found.value.to_string(),
                    absent(),
                ),
            },
            Precondition::Unchanged { key, since } => match self.keys.get(key) {
                Some(node) if node.changed <= *since => Ok(()),
                Some(node) => failed(
                    format!("key '{key}'"),
                    format!("changed by update {}", node.changed),
                    format!("no change after update {since}"),
                ),
                None => failed(format!("key '{key}'"), absent(), "present".into()),
            },
            Precondition::KeyExists { .. } | Precondition::KeyAbsent { .. } => Ok(()),
        }
    }

    /// The rows that the operation may change, before it is carried out.
    pub(super) fn footprint(&self, op: &TreeOp, keys: &mut Vec<Key>) {
        match op {
            TreeOp::CreateKey { key } => self.path_footprint(key, keys),
            TreeOp::SetValue { key, name, .. } => {
                self.path_footprint(key, keys);
                keys.push(Key::Path(key.clone()));
                keys.push(Key::Value(key.clone(), name.clone()));
            }
            TreeOp::DeleteValue { key, name } => {
                keys.push(Key::Path(key.clone()));
                keys.push(Key::Value(key.clone(), name.clone()));
            }
            TreeOp::DeleteKey { key, .. } => self.subtree_footprint(key, keys),
        }
    }

    /// The missing keys on the way, and the lowest one that is there.
    fn path_footprint(&self, key: &str, keys: &mut Vec<Key>) {
        let mut at = Some(key);
        while let Some(key) = at.filter(|k| !self.keys.contains_key(*k)) {
            keys.push(Key::Path(key.to_owned()));
            at = parent(key);
        }
        keys.extend(at.map(|k| Key::Path(k.to_owned())));
    }

    /// The key, everything below it, and the key above.
    pub(super) fn subtree_footprint(&self, key: &str, keys: &mut Vec<Key>) {
        if !self.keys.contains_key(key) {
            return;
        }
        keys.extend(parent(key).map(|k| Key::Path(k.to_owned())));
        let own = self.keys.get_key_value(key);
        for (path, node) in own.into_iter().chain(self.below(key)) {
            keys.push(Key::Path(path.clone()));
            keys.extend(node.values.keys().map(|n| Key::Value(path.clone(), n.clone())));
        }
    }

    /// Carries out one operation. On a refusal nothing was changed by it.
    pub(super) fn carry_out(
        &mut self,
        op: &TreeOp,
        seq: Seq,
        changed: &mut dyn FnMut(&str, TreeChangeKind),
    ) -> Result<(), Refusal> {
        match op {
            TreeOp::CreateKey { key } => self.create(key, seq, changed),
            TreeOp::DeleteKey { key, subkeys } => {
                if !self.keys.contains_key(key) {
                    return Err(no_key(key));
                }
                if !subkeys && let Some((below, _)) = self.below(key).next() {
                    return Err(Refusal::Busy(format!(
                        "key '{key}' is not empty ('{below}' is below it); delete it with its \
                         subkeys, or them first"
                    )));
                }
                self.delete(key, seq, changed);
            }
            TreeOp::SetValue { key, name, value } => {
                self.create(key, seq, changed);
                self.set(key, name, Some(Value { changed: seq, value: value.clone() }));
                self.mark(key, seq);
                changed(key, TreeChangeKind::ValueSet { name: name.clone(), value: value.clone() });
            }
            TreeOp::DeleteValue { key, name } => {
                let node = self.keys.get(key).ok_or_else(|| no_key(key))?;
                if !node.values.contains_key(name) {
                    return Err(Refusal::Unknown {
                        what: "value".into(),
                        name: name.clone(),
                        hint: format!(" in key '{key}'"),
                    });
                }
                self.set(key, name, None);
                self.mark(key, seq);
                changed(key, TreeChangeKind::ValueDeleted { name: name.clone() });
            }
        }
        Ok(())
    }

    fn mark(&mut self, key: &str, seq: Seq) {
        if let Some(node) = self.keys.get_mut(key) {
            node.changed = seq;
        }
    }

    /// Makes the key and those above it that are missing, from the top.
    fn create(&mut self, key: &str, seq: Seq, changed: &mut dyn FnMut(&str, TreeChangeKind)) {
        let mut missing = Vec::new();
        let mut at = Some(key);
        while let Some(key) = at.filter(|k| !self.keys.contains_key(*k)) {
            missing.push(key);
            at = parent(key);
        }
        if let (Some(above), false) = (at, missing.is_empty()) {
            self.mark(above, seq);
        }
        for key in missing.into_iter().rev() {
            self.set_key(key, Some(seq));
            // The root was always there for its readers.
            if !key.is_empty() {
                changed(key, TreeChangeKind::KeyCreated);
            }
        }
    }

    /// Deletes the key and everything below it, if it is there; says so from the lowest to the top.
    pub(super) fn delete(
        &mut self,
        key: &str,
        seq: Seq,
        changed: &mut dyn FnMut(&str, TreeChangeKind),
    ) {
        if !self.keys.contains_key(key) {
            return;
        }
        let mut paths: Vec<String> = self.below(key).map(|(path, _)| path.clone()).collect();
        paths.insert(0, key.to_owned());
        for path in paths.iter().rev() {
            self.set_key(path, None);
            changed(path, TreeChangeKind::KeyDeleted);
        }
        if let Some(above) = parent(key) {
            self.mark(above, seq);
        }
    }

    /// Puts a key in place (its values stay), or takes it away with its values.
    pub(super) fn set_key(&mut self, key: &str, changed: Option<Seq>) {
        match changed {
            Some(seq) => {
                if let Some(node) = self.keys.get_mut(key) {
                    node.changed = seq;
                } else {
                    self.bytes += key.len();
                    let node = Node { changed: seq, values: BTreeMap::new() };
                    self.keys.insert(key.to_owned(), node);
                }
            }
            None => {
                if let Some(node) = self.keys.remove(key) {
                    let values = node.values.iter().map(|(n, v)| n.len() + v.value.bytes());
                    self.bytes -= key.len() + values.sum::<usize>();
                    self.values -= node.values.len();
                }
            }
        }
    }

    /// Puts a value in place, or takes it away; without its key nothing happens.
    pub(super) fn set(&mut self, key: &str, name: &str, value: Option<Value>) {
        let Some(node) = self.keys.get_mut(key) else { return };
        let size = |v: &Value| name.len() + v.value.bytes();
        if let Some(new) = &value {
            self.bytes += size(new);
            self.values += 1;
        }
        let old = match value {
            Some(new) => node.values.insert(name.to_owned(), new),
            None => node.values.remove(name),
        };
        if let Some(old) = old {
            self.bytes -= size(&old);
            self.values -= 1;
        }
    }

    /// The locker's bounds: what one change too many would break.
    pub(super) fn check_room(&self) -> Result<(), Refusal> {
        let entries = self.keys.len() + self.values;
        if entries > ENTRIES_MAX {
            return Err(Refusal::Invalid(format!(
                "the tree would have {entries} keys and values, and {ENTRIES_MAX} fit"
            )));
        }
        if self.bytes > TREE_BYTES_MAX {
            return Err(Refusal::Invalid(format!(
                "the tree would have {} bytes, and {TREE_BYTES_MAX} fit",
                self.bytes
            )));
        }
        Ok(())
    }

    /// The invariant, for rows that come from outside: a key without a key above it.
    pub(super) fn orphan(&self) -> Option<&str> {
        self.keys
            .keys()
            .find(|k| parent(k).is_some_and(|above| !self.keys.contains_key(above)))
            .map(String::as_str)
    }
}
