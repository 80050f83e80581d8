//! Disk commands as data: what the pure machines of `diskarb` ask of a disk thread (or of the
//! simulator's device), and what comes back.

use serde::{Deserialize, Serialize};

/// One command to a logical unit. Blocks are `block_size` bytes of the unit.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum DiskOp {
    /// RESERVE(6) (SPC-2).
    Reserve,
    /// RELEASE(6) (SPC-2).
    Release,
    /// LOGICAL UNIT RESET (SAM-5).
    LunReset,
    /// TEST UNIT READY.
    Test,
    Read {
        lba: u64,
        blocks: u32,
    },
    /// WRITE with FUA; the data is a whole number of blocks.
    Write {
        lba: u64,
        data: Vec<u8>,
    },
}

impl DiskOp {
    /// The command's name, for messages.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Reserve => "RESERVE",
            Self::Release => "RELEASE",
            Self::LunReset => "LUN RESET",
            Self::Test => "TEST UNIT READY",
            Self::Read { .. } => "READ",
            Self::Write { .. } => "WRITE",
        }
    }
}

/// How a command ended.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum DiskOutcome {
    /// GOOD, with the data of a read.
    Good(Vec<u8>),
    /// RESERVATION CONFLICT (18h): somebody else holds the unit.
    Conflict,
    /// CHECK CONDITION, UNIT ATTENTION: not executed; reservation unknown.
    UnitAttention { asc: u8, ascq: u8 },
    /// Aborted (by a reset) or never executed as far as is known.
    Aborted,
    /// CHECK CONDITION with another sense key.
    Sense { key: u8, asc: u8, ascq: u8 },
    /// BUSY or TASK SET FULL.
    Busy,
    /// The transport failed; whether the command was executed is not known.
    Transport(String),
    /// No answer within the deadline: *the command may still be executed*, until the driver
    /// reports it dead.
    Timeout,
}
