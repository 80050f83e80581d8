//! Questions about the tree of keys, answered within the bounds of a line of the local protocol.

use std::ops::ControlFlow;

use wolfpack_types::api::{LINE_BYTES_MAX, Reply};
use wolfpack_types::tree::{TreeKey, check_key};
use wolfpack_types::update::Refusal;

use crate::database::Database;

/// What a reply may hold; the rest of the line is for its frame.
const REPLY_BYTES: usize = LINE_BYTES_MAX - 4096;
/// Keys of one reply at most.
const KEYS_MAX: usize = 1000;

fn checked(key: &str) -> Result<(), Refusal> {
    if key.is_empty() { Ok(()) } else { check_key(key).map_err(Refusal::Invalid) }
}

pub(super) fn key(database: &Database, key: &str) -> Result<Reply, Refusal> {
    checked(key)?;
    let found = database.tree_key(key)?;
    if found.json_bytes() > REPLY_BYTES {
        return Err(Refusal::Invalid(format!(
            "key '{key}' has {} values and {} subkeys, too much for one reply: ask for single \
             values, or list its subkeys",
            found.values.len(),
            found.subkeys.len()
        )));
    }
    Ok(Reply::TreeKey(found))
}

pub(super) fn value(database: &Database, key: &str, name: &str) -> Result<Reply, Refusal> {
    checked(key)?;
    let found = database.tree_value(key, name)?;
    if found.json_bytes() > REPLY_BYTES {
        return Err(Refusal::Invalid(format!(
            "value '{name}' of key '{key}' does not fit into a reply"
        )));
    }
    Ok(Reply::TreeValue(found))
}

/// As many keys as fit. A key that is alone too large for a line comes without its values, which
/// can be asked for one by one.
pub(super) fn list(
    database: &Database,
    key: &str,
    recursive: bool,
    after: Option<&str>,
) -> Result<Reply, Refusal> {
    checked(key)?;
    if let Some(after) = after {
        checked(after)?;
    }
    let (mut keys, mut bytes, mut more) = (Vec::new(), 0, false);
    database.tree_walk(key, recursive, after, &mut |mut found: TreeKey| {
        if found.json_bytes() > REPLY_BYTES {
            found.values.clear();
            found.subkeys.clear();
        }
        bytes += found.json_bytes();
        if bytes > REPLY_BYTES || keys.len() >= KEYS_MAX {
            more = true;
            return ControlFlow::Break(());
        }
        keys.push(found);
        ControlFlow::Continue(())
    })?;
    Ok(Reply::TreeKeys { keys, more })
}
