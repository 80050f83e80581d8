//! The object log: identity and name of every object, and of those lately deleted, so that an
//! event about an object can be read after the object is gone.

use serde::{Deserialize, Serialize};
use wolfpack_types::api::ObjectName;
use wolfpack_types::update::LogEntry;
use wolfpack_types::{Guid, Seq};

use super::Database;
use super::apply::Touched;
use super::key::Key;

/// Deleted objects remembered; beyond it the one deleted first is forgotten.
pub(crate) const GONE_MAX: usize = 1000;

/// Kinds of objects that have an identity and a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum ObjectKind {
    Group,
    Resource,
}

impl ObjectKind {
    const fn name(self) -> &'static str {
        match self {
            Self::Group => "group",
            Self::Resource => "resource",
        }
    }

    /// The key of the tree under which programs keep what belongs to the object.
    fn key(self, name: &str) -> String {
        match self {
            Self::Group => format!("Groups/{name}"),
            Self::Resource => format!("Resources/{name}"),
        }
    }
}

/// A deleted object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Gone {
    pub(super) kind: ObjectKind,
    pub(super) name: String,
    /// The update that deleted it.
    pub(super) seq: Seq,
    pub(super) wall_ms: u64,
}

impl Database {
    /// The name of a group or resource, of one deleted lately too.
    #[must_use]
    pub fn object_name(&self, id: Guid) -> Option<&str> {
        let group = self.groups.get(&wolfpack_types::GroupId(id)).map(|g| &g.name);
        let resource = || self.resources.get(&wolfpack_types::ResourceId(id)).map(|r| &r.name);
        let gone = || self.gone.get(&id).map(|g| &g.name);
        group.or_else(resource).or_else(gone).map(String::as_str)
    }

    /// Everything that the object log knows: what is there, then what is gone, by age.
    pub(crate) fn object_log(&self) -> Vec<ObjectName> {
        let named = |id: Guid, kind: &str, name: &str, deleted: Option<Seq>| ObjectName {
            id: id.to_string(),
            kind: kind.into(),
            name: name.into(),
            deleted: deleted.map(|seq| seq.0),
        };
        let groups = self.groups.values().map(|g| named(g.id.0, "group", &g.name, None));
        let resources = self.resources.values().map(|r| named(r.id.0, "resource", &r.name, None));
        let gone = self.gone_order.iter().filter_map(|(seq, id)| {
            let gone = self.gone.get(id)?;
            Some(named(*id, gone.kind.name(), &gone.name, Some(*seq)))
        });
        groups.chain(resources).chain(gone).collect()
    }

    /// An object was deleted: its name is kept, and what programs kept under its key is deleted.
    pub(super) fn object_gone(
        &mut self,
        id: Guid,
        kind: ObjectKind,
        name: String,
        entry: &LogEntry,
        touched: &mut Touched,
    ) {
        let mut rows = Vec::new();
        self.tree.subtree_footprint(&kind.key(&name), &mut rows);
        touched.keys.extend(rows);
        let seq = entry.seq;
        self.tree.delete(&kind.key(&name), seq, &mut |key, what| touched.tree(seq, key, what));
        touched.keys.insert(Key::Gone(id));
        self.set_gone(id, Some(Gone { kind, name, seq, wall_ms: entry.wall_ms }));
        while self.gone.len() > GONE_MAX
            && let Some(&(_, oldest)) = self.gone_order.first()
        {
            self.set_gone(oldest, None);
            touched.keys.insert(Key::Gone(oldest));
        }
    }

    /// The rows that [`Database::object_gone`] may change.
    pub(super) fn gone_footprint(
        &self,
        id: Guid,
        kind: ObjectKind,
        name: Option<&str>,
        keys: &mut Vec<Key>,
    ) {
        keys.push(Key::Gone(id));
        keys.extend(self.gone_order.first().map(|&(_, id)| Key::Gone(id)));
        if let Some(name) = name {
            self.tree.subtree_footprint(&kind.key(name), keys);
        }
    }
}
