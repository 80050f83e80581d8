//! A backup: a consistent copy of the cluster database, taken on any member, and what a restore
//! asks for. The file's format is `docs/format.md`; reading and checking it is the core's.

use serde::{Deserialize, Serialize};

use crate::store::Snapshot;
use crate::{ClusterId, NodeInc};

/// Whose copy it is, and of when.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct BackupHeader {
    pub cluster: ClusterId,
    pub cluster_name: String,
    /// Who took it.
    pub by: NodeInc,
    /// Wall clock, milliseconds since 1970 (for people).
    pub wall_ms: u64,
    /// The program that took it.
    pub program: String,
    /// Digest of the database at the position of the snapshot.
    pub digest: u64,
}

/// The database at one position of the log, with its header.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Backup {
    pub header: BackupHeader,
    pub snapshot: Snapshot,
}
