//! The tree of keys, backups and the object log as text. Pure.

use wolfpack_types::api::ObjectName;
use wolfpack_types::tree::{TreeChange, TreeChangeKind, TreeEntry, TreeKey};

use crate::table::{Table, clean};

/// A key with its values; subkeys at the end, with a slash.
pub(crate) fn key(key: &TreeKey) -> String {
    let shown = if key.key.is_empty() { "(root)" } else { key.key.as_str() };
    let mut out = format!("{} (changed by update {})\n", clean(shown), key.changed);
    for e in &key.values {
        out.push_str(&format!("  {}\n", entry(e)));
    }
    for name in &key.subkeys {
        out.push_str(&format!("  {}/\n", clean(name)));
    }
    out
}

/// A value with its name and type.
pub(crate) fn entry(e: &TreeEntry) -> String {
    let name = if e.name.is_empty() { "(default)" } else { e.name.as_str() };
    format!("{} = {}", clean(name), clean(&e.value.to_string()))
}

/// One line per change.
pub(crate) fn change(c: &TreeChange) -> String {
    let what = match &c.what {
        TreeChangeKind::KeyCreated => "created".to_owned(),
        TreeChangeKind::KeyDeleted => "deleted".to_owned(),
        TreeChangeKind::ValueSet { name, value } => format!("'{name}' = {value}"),
        TreeChangeKind::ValueDeleted { name } => format!("'{name}' deleted"),
        TreeChangeKind::Replaced => "the tree was replaced as a whole: read again".to_owned(),
    };
    format!("{}  {}: {}", c.seq, clean(&c.key), clean(&what))
}

/// Identities and names.
pub(crate) fn objects(objects: &[ObjectName]) -> String {
    let mut table = Table::new(&["ID", "KIND", "NAME", "DELETED"]);
    for o in objects {
        let deleted = o.deleted.map_or_else(String::new, |seq| format!("by update {seq}"));
        table.row(&[&o.id, &o.kind, &o.name, &deleted]);
    }
    table.render(0)
}
