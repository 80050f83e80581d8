//! What membership says to the outside: stages, quorum, and who is waited for.

use serde::{Deserialize, Serialize};

/// The six stages of a regroup.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    Activate,
    Closing,
    Pruning,
    /// Promises.
    Cleanup1,
    /// Accepts.
    Cleanup2,
    Stabilized,
}

impl std::fmt::Display for Stage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Activate => "activate",
            Self::Closing => "closing",
            Self::Pruning => "pruning",
            Self::Cleanup1 => "cleanup 1 (promise)",
            Self::Cleanup2 => "cleanup 2 (accept)",
            Self::Stabilized => "stabilized",
        })
    }
}

/// Who counts for quorum. `disk`: the witness alone; `node-and-disk`: every node and the witness;
/// `majority`: every node.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum QuorumType {
    Disk,
    NodeAndDisk,
    Majority,
}

impl QuorumType {
    /// Whether the type needs a witness.
    #[must_use]
    pub const fn has_witness(self) -> bool {
        !matches!(self, Self::Majority)
    }
}

impl std::fmt::Display for QuorumType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Disk => "disk",
            Self::NodeAndDisk => "node-and-disk",
            Self::Majority => "majority",
        })
    }
}
