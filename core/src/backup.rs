//! Backup and restore: the file's format, and whether a file may be restored here. Pure: who reads
//! and writes files is the service.
//!
//! ```text
//!  8  magic "WPBACKUP"
//!  2  format version, 6 zero bytes
//!  8  length of the body
//!  4  CRC-32C of the bytes 8..24 and of the body, 4 zero bytes
//!  -  body: postcard of (header, snapshot)
//! ```
//! A backup is taken on any member: committed updates are the same on all, so one node's database
//! at one position is the cluster's. A restore is authoritative: it is the same operation as
//! forming a view by force, with the backup for the newest database (P9).

use wolfpack_types::backup::{Backup, BackupHeader};
use wolfpack_types::{ClusterId, codec};

use crate::database::Database;

/// Format of the file.
pub const VERSION: u16 = 1;
/// No database is this large; a larger file is not read.
pub const FILE_BYTES_MAX: u64 = 512 << 20;

const MAGIC: &[u8; 8] = b"WPBACKUP";
const HEAD_BYTES: usize = 32;

/// Why a backup is refused.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BackupError {
    #[error("it is no backup of a cluster database")]
    Foreign,
    #[error(
        "it has format version {found}, and this release knows version {VERSION}: install the \
         release that made it, or a later one"
    )]
    Version { found: u16 },
    #[error("it is damaged ({0}): take another copy of it, or an older backup")]
    Damaged(String),
    #[error(
        "it is of cluster '{name}' ({theirs}), and this node belongs to {ours}: if that is meant, \
         say so (--foreign)"
    )]
    OtherCluster { name: String, theirs: ClusterId, ours: ClusterId },
}

/// The bytes of a backup file.
#[must_use]
pub fn encode(backup: &Backup) -> Vec<u8> {
    let body = codec::encode(backup);
    let mut bytes = Vec::with_capacity(HEAD_BYTES + body.len());
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&VERSION.to_le_bytes());
    bytes.extend_from_slice(&[0; 6]);
    bytes.extend_from_slice(&(body.len() as u64).to_le_bytes());
    let crc = crc32c::crc32c_append(crc32c::crc32c(&bytes[8..24]), &body);
    bytes.extend_from_slice(&crc.to_le_bytes());
    bytes.extend_from_slice(&[0; 4]);
    bytes.extend_from_slice(&body);
    bytes
}

/// Reads a backup file and checks all of it: a backup that this lets pass can be restored.
///
/// # Errors
/// What it is instead, and what to do.
pub fn decode(bytes: &[u8]) -> Result<Backup, BackupError> {
    if bytes.get(..8) != Some(MAGIC.as_slice()) {
        return Err(BackupError::Foreign);
    }
    let damaged = |why: &str| BackupError::Damaged(why.into());
    let head = bytes.first_chunk::<HEAD_BYTES>().ok_or_else(|| damaged("it is cut short"))?;
    let found = u16::from_le_bytes([head[8], head[9]]);
    if found != VERSION {
        return Err(BackupError::Version { found });
    }
    let body = &bytes[HEAD_BYTES..];
    let length = head[16..24].first_chunk().map_or(0, |b| u64::from_le_bytes(*b));
    if length != body.len() as u64 {
        return Err(damaged(&format!("it has {} bytes of {length}", body.len())));
    }
    let crc = head[24..28].first_chunk().map_or(0, |b| u32::from_le_bytes(*b));
    if crc32c::crc32c_append(crc32c::crc32c(&head[8..24]), body) != crc {
        return Err(damaged("wrong checksum"));
    }
    let backup: Backup = codec::decode("backup", body).map_err(|e| damaged(&e.to_string()))?;
    let database =
        Database::from_snapshot(&backup.snapshot).map_err(|e| damaged(&e.to_string()))?;
    if database.digest() != backup.header.digest {
        return Err(damaged("its rows are not those that were backed up"));
    }
    if database.cluster.is_none() {
        return Err(damaged("there is no cluster in it"));
    }
    Ok(backup)
}

/// Whether the backup may be restored in this cluster.
///
/// # Errors
/// It is of another cluster, and `foreign` does not say that this is meant.
pub fn fits(header: &BackupHeader, ours: ClusterId, foreign: bool) -> Result<(), BackupError> {
    if foreign || header.cluster == ours {
        return Ok(());
    }
    Err(BackupError::OtherCluster {
        name: header.cluster_name.clone(),
        theirs: header.cluster,
        ours,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use wolfpack_types::{Guid, Seq};

    use super::*;
    use crate::database::tests::{life, web};

    fn backup() -> Backup {
        let database = web(2);
        let header = BackupHeader {
            cluster: ClusterId(Guid(7)),
            cluster_name: "pack".into(),
            by: life(1, 4),
            wall_ms: 5,
            program: "0.1.0".into(),
            digest: database.digest(),
        };
        Backup { header, snapshot: database.snapshot() }
    }

    #[test]
    fn what_was_backed_up_is_read() {
        let backup = backup();
        assert_eq!(decode(&encode(&backup)), Ok(backup));
    }

    #[test]
    fn every_single_flipped_byte_and_every_cut_is_noticed() {
        let bytes = encode(&backup());
        for at in 0..bytes.len() {
            // The zeros of the head stand for nothing yet.
            if (28..32).contains(&at) {
                continue;
            }
            let mut broken = bytes.clone();
            broken[at] ^= 0x10;
            assert!(decode(&broken).is_err(), "byte {at}");
        }
        for length in 0..bytes.len() {
            assert!(decode(&bytes[..length]).is_err(), "{length} bytes");
        }
    }

    #[test]
    fn a_newer_a_foreign_and_another_clusters_backup_are_refused_in_words() {
        let mut bytes = encode(&backup());
        bytes[8] = 9;
        assert_eq!(decode(&bytes), Err(BackupError::Version { found: 9 }));
        assert!(decode(&bytes).unwrap_err().to_string().contains("install the release"));
        assert_eq!(decode(b"#!/bin/sh"), Err(BackupError::Foreign));
        let header = backup().header;
        assert_eq!(fits(&header, ClusterId(Guid(7)), false), Ok(()));
        assert_eq!(fits(&header, ClusterId(Guid(8)), true), Ok(()));
        let why = fits(&header, ClusterId(Guid(8)), false).unwrap_err().to_string();
        assert!(why.contains("'pack'") && why.contains("--foreign"), "{why}");
    }

    #[test]
    fn rows_that_do_not_fit_together_are_damage_though_the_checksum_is_right() {
        let mut wrong = backup();
        wrong.header.digest ^= 1;
        assert!(matches!(decode(&encode(&wrong)), Err(BackupError::Damaged(_))));
        let mut wrong = backup();
        wrong.snapshot.rows.retain(|(key, _)| !key.starts_with("group/"));
        assert!(matches!(decode(&encode(&wrong)), Err(BackupError::Damaged(_))));
        let mut empty = backup();
        empty.snapshot = wolfpack_types::store::Snapshot { seq: Seq(3), ..Default::default() };
        empty.header.digest = 0;
        assert!(matches!(decode(&encode(&empty)), Err(BackupError::Damaged(_))));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_are_refused(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(decode(&bytes).is_err());
            let mut with_magic = MAGIC.to_vec();
            with_magic.extend([1, 0]);
            with_magic.extend(bytes);
            prop_assert!(decode(&with_magic).is_err());
        }
    }
}
