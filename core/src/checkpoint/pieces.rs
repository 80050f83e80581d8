//! A checkpoint in the tree: cut into pieces that fit into transactions, and put together again.

use std::collections::VecDeque;

use wolfpack_types::ResourceId;
use wolfpack_types::tree::{Bytes, Precondition, Transaction, TreeOp, TreeValue};

use super::CheckpointId;
use crate::Database;

/// The largest file that is kept: settings and small state. Data belongs on a disk of the group.
pub const BYTES_MAX: usize = 8 << 20;
/// Bytes of one value.
const PIECE: usize = 128 << 10;
/// Pieces of one transaction.
const PIECES: usize = 3;

/// Why a checkpoint cannot be kept, or read.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum CheckpointError {
    #[error(
        "'{path}' has {bytes} bytes, and checkpoints of up to {BYTES_MAX} are kept: put it on a \
         disk of the group"
    )]
    TooLarge { path: String, bytes: usize },
    #[error("the copy of '{path}' in the cluster is damaged: {why}")]
    Damaged { path: String, why: String },
}

/// The copy of a file in the cluster.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Saved {
    /// Counts the copies; the next one is guarded by it.
    pub generation: u64,
    pub content: Vec<u8>,
}

/// The key of a checkpoint in the tree.
#[must_use]
pub fn key((resource, number): CheckpointId) -> String {
    format!("Checkpoints/{resource}/{number}")
}

fn piece_name(number: usize) -> String {
    format!("{number:04}")
}

/// What is to be carried out, one after the other, to replace copy `former` by `new`.
pub(super) fn transactions(
    id: CheckpointId,
    path: &str,
    former: Option<u64>,
    new: &Saved,
) -> Result<VecDeque<Transaction>, CheckpointError> {
    if new.content.len() > BYTES_MAX {
        return Err(CheckpointError::TooLarge { path: path.into(), bytes: new.content.len() });
    }
    let key = key(id);
    let own = format!("{key}/{}", new.generation);
    // Who has not seen the newest copy is no longer the owner.
    let guard = || match former {
        Some(generation) => Precondition::ValueEquals {
            key: key.clone(),
            name: "Generation".into(),
            value: TreeValue::Qword(generation),
        },
        None => Precondition::ValueAbsent { key: key.clone(), name: "Generation".into() },
    };
    let set = |key: &str, name: &str, value| TreeOp::SetValue {
        key: key.into(),
        name: name.into(),
        value,
    };
    let pieces: Vec<&[u8]> = new.content.chunks(PIECE).collect();
    let mut all = VecDeque::new();
    for (number, some) in pieces.chunks(PIECES).enumerate() {
        let op = |(i, piece): (usize, &&[u8])| {
            let name = piece_name(number * PIECES + i);
            set(&own, &name, TreeValue::Binary(Bytes(piece.to_vec())))
        };
        let ops = some.iter().enumerate().map(op).collect();
        all.push_back(Transaction { preconditions: vec![guard()], ops });
    }
    let mut ops = vec![
        set(&key, "Path", TreeValue::Sz(path.into())),
        set(&key, "Generation", TreeValue::Qword(new.generation)),
        set(&key, "Bytes", TreeValue::Qword(new.content.len() as u64)),
        set(&key, "Crc", TreeValue::Dword(crc32c::crc32c(&new.content))),
        TreeOp::CreateKey { key: own },
    ];
    if let Some(former) = former {
        ops.push(TreeOp::CreateKey { key: format!("{key}/{former}") });
        ops.push(TreeOp::DeleteKey { key: format!("{key}/{former}"), subkeys: true });
    }
    all.push_back(Transaction { preconditions: vec![guard()], ops });
    Ok(all)
}

/// The copy that the database has; none where nothing was copied yet.
///
/// # Errors
/// Pieces are missing or wrong.
pub fn read(database: &Database, id: CheckpointId) -> Result<Option<Saved>, CheckpointError> {
    let key = key(id);
    let value = |name: &str| database.tree_value(&key, name).ok().map(|v| v.value);
    let Some(TreeValue::Qword(generation)) = value("Generation") else { return Ok(None) };
    let path = match value("Path") {
        Some(TreeValue::Sz(path)) => path,
        _ => key.clone(),
    };
    let damaged = |why: &str| CheckpointError::Damaged { path: path.clone(), why: why.into() };
    let (Some(TreeValue::Qword(bytes)), Some(TreeValue::Dword(crc))) =
        (value("Bytes"), value("Crc"))
    else {
        return Err(damaged("its size or checksum is missing"));
    };
    if bytes > BYTES_MAX as u64 {
        return Err(damaged("it is larger than any checkpoint"));
    }
    let own = format!("{key}/{generation}");
    let mut content = Vec::new();
    for number in 0.. {
        if content.len() as u64 >= bytes {
            break;
        }
        match database.tree_value(&own, &piece_name(number)).map(|v| v.value) {
            Ok(TreeValue::Binary(Bytes(piece))) if !piece.is_empty() => content.extend(piece),
            _ => return Err(damaged(&format!("piece {number} is missing"))),
        }
    }
    if content.len() as u64 != bytes || crc32c::crc32c(&content) != crc {
        return Err(damaged("wrong checksum"));
    }
    Ok(Some(Saved { generation, content }))
}

/// The checkpoints that are registered for a resource: number and path.
#[must_use]
pub fn registered(database: &Database, resource: ResourceId) -> Vec<(u32, String)> {
    let Ok(found) = database.tree_key(&format!("Checkpoints/{resource}")) else {
        return Vec::new();
    };
    let numbers = found.subkeys.iter().filter_map(|name| name.parse::<u32>().ok());
    numbers
        .filter_map(|number| {
            let value = database.tree_value(&key((resource, number)), "Path").ok()?.value;
            if let TreeValue::Sz(path) = value { Some((number, path)) } else { None }
        })
        .collect()
}
