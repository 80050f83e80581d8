//! Change notification: clients that watch keys of the tree, each told of every change there.
//!
//! A watch ends when its client hangs up ([`crate::Input::Unwatch`]), or with this life.

use wolfpack_types::api::Reply;
use wolfpack_types::tree::{TreeChange, TreeChangeKind, check_key};
use wolfpack_types::update::Refusal;

use crate::database::Change;
use crate::{Core, Output};

/// Watches at a time; each change of the tree is held against all of them.
const WATCHES_MAX: usize = 256;

/// One client's watch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Watch {
    /// Empty: the root.
    key: String,
    recursive: bool,
}

impl Watch {
    fn sees(&self, change: &TreeChange) -> bool {
        if self.key == change.key {
            return true;
        }
        let below = match change.key.strip_prefix(&self.key) {
            Some(rest) if self.key.is_empty() => rest,
            Some(rest) => match rest.strip_prefix('/') {
                Some(rest) => rest,
                None => return false,
            },
            None => return false,
        };
        // Its own set of subkeys is the key's business.
        let subkey_comes_or_goes = !below.contains('/')
            && matches!(change.what, TreeChangeKind::KeyCreated | TreeChangeKind::KeyDeleted);
        self.recursive || subkey_comes_or_goes
    }
}

impl Core {
    /// Begins a watch; its changes are replies to `id`.
    pub(crate) fn watch(&mut self, id: u64, key: &str, recursive: bool) {
        if let Err(why) = if key.is_empty() { Ok(()) } else { check_key(key) } {
            return self.reply_refusal(id, &Refusal::Invalid(why));
        }
        if self.watches.len() >= WATCHES_MAX {
            let why = format!("{WATCHES_MAX} clients of this node watch keys already");
            return self.reply_refusal(id, &Refusal::Busy(why));
        }
        self.watches.insert(id, Watch { key: key.to_owned(), recursive });
    }

    pub(crate) fn unwatch(&mut self, id: u64) {
        self.watches.remove(&id);
    }

    pub(crate) fn tell_watchers(&mut self, changes: &[Change]) {
        if self.watches.is_empty() {
            return;
        }
        for change in changes {
            let Change::Tree(change) = change else { continue };
            let seeing = self.watches.iter().filter(|(_, w)| w.sees(change));
            let ids: Vec<u64> = seeing.map(|(&id, _)| id).collect();
            for id in ids {
                self.output(Output::Reply { id, reply: Reply::TreeChange(change.clone()) });
            }
        }
    }

    /// The database was replaced: what changed in between is not known.
    pub(crate) fn tell_watchers_of_replacement(&mut self) {
        let seq = self.database.seq().0;
        let watches: Vec<(u64, String)> =
            self.watches.iter().map(|(&id, w)| (id, w.key.clone())).collect();
        for (id, key) in watches {
            let change = TreeChange { seq, key, what: TreeChangeKind::Replaced };
            self.output(Output::Reply { id, reply: Reply::TreeChange(change) });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sees(watched: &str, recursive: bool, key: &str, what: TreeChangeKind) -> bool {
        let watch = Watch { key: watched.into(), recursive };
        watch.sees(&TreeChange { seq: 1, key: key.into(), what })
    }

    fn value() -> TreeChangeKind {
        TreeChangeKind::ValueDeleted { name: "n".into() }
    }

    #[test]
    fn a_watch_sees_its_key_and_what_is_asked_below_it() {
        assert!(sees("a/b", false, "a/b", value()));
        assert!(!sees("a/b", false, "a/b/c", value()));
        assert!(sees("a/b", true, "a/b/c", value()));
        assert!(sees("a/b", false, "a/b/c", TreeChangeKind::KeyCreated));
        assert!(!sees("a/b", false, "a/b/c/d", TreeChangeKind::KeyCreated));
        assert!(!sees("a/b", true, "a/bc", value()));
        assert!(!sees("a/b", true, "a", value()));
        assert!(sees("", true, "a", value()));
        assert!(sees("", false, "a", TreeChangeKind::KeyDeleted));
        assert!(!sees("", false, "a", value()));
    }
}
