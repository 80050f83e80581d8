//! Names of the rows of the database, as the store and snapshots know them.

use wolfpack_types::tree::{check_key, check_name};
use wolfpack_types::{GroupId, Guid, NodeId, ResourceId};

/// Between the key and the name of a value; neither may hold a control character.
const SEPARATOR: char = '\u{1f}';

/// A row of the database.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Key {
    Cluster,
    Node(NodeId),
    Group(GroupId),
    Resource(ResourceId),
    Requests(NodeId),
    /// The name of a deleted object.
    Gone(Guid),
    /// A key of the tree; empty: the root.
    Path(String),
    /// A value of the tree: its key, its name.
    Value(String, String),
}

impl Key {
    pub(super) fn text(&self) -> String {
        match self {
            Self::Cluster => "cluster".into(),
            Self::Node(id) => format!("node/{id}"),
            Self::Group(id) => format!("group/{id}"),
            Self::Resource(id) => format!("resource/{id}"),
            Self::Requests(id) => format!("requests/{id}"),
            Self::Gone(id) => format!("gone/{id}"),
            Self::Path(key) => format!("tree/{key}"),
            Self::Value(key, name) => format!("value/{key}{SEPARATOR}{name}"),
        }
    }

    pub(super) fn parse(text: &str) -> Option<Self> {
        let node = |s: &str| NodeId::new(s.parse().ok()?).ok();
        let key = match text.split_once('/') {
            None => (text == "cluster").then_some(Self::Cluster)?,
            Some(("node", id)) => Self::Node(node(id)?),
            Some(("group", id)) => Self::Group(GroupId(Guid::parse(id)?)),
            Some(("resource", id)) => Self::Resource(ResourceId(Guid::parse(id)?)),
            Some(("requests", id)) => Self::Requests(node(id)?),
            Some(("gone", id)) => Self::Gone(Guid::parse(id)?),
            Some(("tree", key)) => {
                (key.is_empty() || check_key(key).is_ok()).then(|| Self::Path(key.into()))?
            }
            Some(("value", rest)) => {
                let (key, name) = rest.split_once(SEPARATOR)?;
                let good = check_key(key).is_ok() && check_name(name).is_ok();
                good.then(|| Self::Value(key.into(), name.into()))?
            }
            Some(_) => return None,
        };
        // One row has one name: "node/01" is not another way to say "node/1".
        (key.text() == text).then_some(key)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_name_that_is_read_is_written_the_same(text in "(node|group|tree|value|gone|requests|x)/\\PC{0,40}") {
            if let Some(key) = Key::parse(&text) {
                prop_assert_eq!(key.text(), text);
            }
        }

        #[test]
        fn values_keep_key_and_name_apart(key in "[a-c]{1,3}(/[a-c]{1,3}){0,2}", name in "[a-c/ ]{0,5}") {
            let row = Key::Value(key, name);
            prop_assert_eq!(Key::parse(&row.text()), Some(row));
        }
    }
}
