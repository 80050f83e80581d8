//! What membership says to the outside: stages, quorum, and who is waited for.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::register::Exclusion;
use crate::{Guid, NodeId};

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

/// Who counts for quorum.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum QuorumType {
    /// The witness disk alone: the standard quorum of the Cluster Service.
    Disk,
    /// Every node and the witness disk.
    NodeAndDisk,
    /// Every node: the majority node set.
    Majority,
    /// Every node and a file share, which stores views only.
    NodeAndShare,
    /// One node by itself: the lone wolf.
    Local,
}

impl QuorumType {
    /// All of them, as commands list them.
    pub const ALL: [Self; 5] =
        [Self::Disk, Self::NodeAndDisk, Self::NodeAndShare, Self::Majority, Self::Local];

    /// Whether the type needs a witness.
    #[must_use]
    pub const fn has_witness(self) -> bool {
        matches!(self, Self::Disk | Self::NodeAndDisk | Self::NodeAndShare)
    }

    /// What the witness must be; none where the type has no witness.
    #[must_use]
    pub const fn witness_kind(self) -> Option<WitnessKind> {
        match self {
            Self::Disk | Self::NodeAndDisk => Some(WitnessKind::Disk),
            Self::NodeAndShare => Some(WitnessKind::Share),
            Self::Majority | Self::Local => None,
        }
    }

    /// The name as commands and files take it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Disk => "disk",
            Self::NodeAndDisk => "node-and-disk",
            Self::NodeAndShare => "node-and-share",
            Self::Majority => "majority",
            Self::Local => "local",
        }
    }

    /// Finds a type by its name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|t| t.name() == name)
    }
}

impl std::fmt::Display for QuorumType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// What a witness keeps (P4).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WitnessKind {
    /// Views and the log of updates: a disk, or a file used as one.
    #[default]
    Disk,
    /// Views only: a file share. It can name the newest view, never bring its log.
    Share,
}

/// A witness: which register, where, and how others are kept out of it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct WitnessSpec {
    /// `iscsi://host:port/iqn/lun`, a device path, `file:/path`, `share:/directory`. Where a node's
    /// own file names another path to the register of the same `id`, that path is used there.
    pub place: String,
    pub kind: WitnessKind,
    pub exclusion: Exclusion,
    /// Which register it is: written into its superblock in place of the cluster's identity when it
    /// is prepared. One prepared anew has another, so that what the former one promised is never
    /// taken for forgotten. The witness of `cluster create` has the cluster's identity.
    pub id: Guid,
    /// Bytes of the database and the updates behind it that it keeps for each node, as it was found
    /// when it was prepared; 0: not known, so [`CHECKPOINT_BYTES_MIN`]. Without meaning for a share.
    pub checkpoint_bytes: u64,
}

/// Bytes of a checkpoint that every witness disk has room for.
pub const CHECKPOINT_BYTES_MIN: u64 = 1 << 20;

impl WitnessSpec {
    /// Bytes of the database and the updates behind it that it can keep; none: it keeps only views.
    #[must_use]
    pub const fn capacity(&self) -> Option<u64> {
        match self.kind {
            WitnessKind::Share => None,
            WitnessKind::Disk if self.checkpoint_bytes > CHECKPOINT_BYTES_MIN => {
                Some(self.checkpoint_bytes)
            }
            WitnessKind::Disk => Some(CHECKPOINT_BYTES_MIN),
        }
    }
}

/// The quorum as the administrator wants it; the leader brings the views there by planned view
/// changes (P5).
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct QuorumConfig {
    pub kind: QuorumType,
    pub witness: Option<WitnessSpec>,
    /// Votes of nodes that have not one vote. Meaningless for `disk` and `local`.
    pub weights: BTreeMap<NodeId, u8>,
    /// Votes of nodes outside the view are taken away and given back (dynamic quorum).
    pub dynamic: bool,
}

impl QuorumConfig {
    /// Every node one vote, no dynamic votes.
    #[must_use]
    pub const fn of(kind: QuorumType, witness: Option<WitnessSpec>) -> Self {
        Self { kind, witness, weights: BTreeMap::new(), dynamic: false }
    }

    /// The votes that a node has while it takes part.
    #[must_use]
    pub fn weight(&self, node: NodeId) -> u8 {
        match self.kind {
            QuorumType::Disk => 0,
            QuorumType::Local => 1,
            _ => self.weights.get(&node).copied().unwrap_or(1),
        }
    }
}

/// Why a decodable message was refused: it does not fit the state it met. Counted by kind; a late
/// one of a former ballot is ordinary, the others point at a broken or hostile peer.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Illegal {
    /// The sender is no configured node.
    UnknownNode,
    /// The sender was evicted from the cluster.
    EvictedNode,
    /// The sender's life is proven over, or a newer life of it is known.
    DeadLife,
    /// It speaks of another life than the sender's.
    NotTheSender,
    /// It speaks of a life of this node that is not this one.
    NotThisLife,
    /// The ballot is not the sender's, and only its coordinator may say this.
    NotTheCoordinator,
    /// The ballot is below what was promised, accepted or begun: late.
    PastBallot,
    /// The ballot is above anything that could have brought this message about.
    FutureBallot,
    /// The sender, or this life, is not among the members that it concerns.
    NotAMember,
    /// No attempt or stage waits for it.
    ImpossibleStage,
    /// It was said already, with another content.
    Contradiction,
    /// The log in it has gaps, or does not continue what is here.
    BrokenLog,
    /// A view, a table or a set in it cannot be.
    BrokenView,
    /// The update in it is of the wrong class, or malformed.
    BrokenUpdate,
    /// It descends from a force that this node's view does not descend from.
    OtherForce,
    /// It is larger than anything a peer has to say.
    TooLarge,
}

impl Illegal {
    /// In plain words, for status and events.
    #[must_use]
    pub const fn in_words(self) -> &'static str {
        match self {
            Self::UnknownNode => "the sender is no configured node",
            Self::EvictedNode => "the sender was evicted from the cluster",
            Self::DeadLife => "the sender's life is over",
            Self::NotTheSender => "it speaks for another than its sender",
            Self::NotThisLife => "it speaks of another life of this node",
            Self::NotTheCoordinator => "only the coordinator of its ballot may say it",
            Self::PastBallot => "its ballot is past",
            Self::FutureBallot => "its ballot is ahead of anything asked here",
            Self::NotAMember => "it concerns members among whom its sender or this node is not",
            Self::ImpossibleStage => "nothing here waits for it",
            Self::Contradiction => "it contradicts what its sender said before",
            Self::BrokenLog => "its log has gaps or does not continue the log here",
            Self::BrokenView => "the view in it cannot be",
            Self::BrokenUpdate => "the update in it cannot be",
            Self::OtherForce => "it descends from another forced quorum",
            Self::TooLarge => "it is too large",
        }
    }
}

/// Why a quorum is forced.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ForceWhy {
    /// The quorum is lost and will not come back by itself.
    QuorumLost,
    /// An older state of the database is to be the truth (authoritative restore).
    Restore,
}
