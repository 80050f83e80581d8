//! Why the service cannot start, and with which exit code it says so.

use std::path::PathBuf;

use wolfpack_netdrv::{DriverError, KeyError};
use wolfpack_resource::rpc::RpcError;
use wolfpack_resource::section::SectionError;
use wolfpack_store::StoreError;
use wolfpack_types::config::ConfigError;
use wolfpack_types::security::PublicKey;

use crate::args::exit;

/// A start that came to nothing.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartError {
    #[error("cannot read the configuration {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("{}: {source}", path.display())]
    Config { path: PathBuf, source: ConfigError },
    #[error("{}: the configuration is larger than {max} bytes", path.display())]
    TooLarge { path: PathBuf, max: u64 },
    #[error(transparent)]
    Key(#[from] KeyError),
    #[error(
        "the configuration gives this node the public_key {named}, but the machine's is {ours} ({}): \
         give the nodes that one, or restore the file",
        path.display()
    )]
    OtherNodeKey { path: PathBuf, named: PublicKey, ours: PublicKey },
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Driver(#[from] DriverError),
    #[error("the guard (wolfpack-resmon --guard) at {} failed", path.display())]
    Guard {
        path: PathBuf,
        #[source]
        source: RpcError,
    },
    #[error("the guard at {} speaks another protocol: {why}", path.display())]
    GuardSpeech { path: PathBuf, why: String },
    #[error("the guard's shared section cannot be used")]
    Section(#[from] SectionError),
    #[error(
        "the times of profile '{profile}' (silence is reported after {detect_ms} ms) need real-time \
         scheduling, and this process may not have it ({why}): allow it (CAP_SYS_NICE, and a control \
         group with a real-time share), choose profile 'fast' or 'standard' on all nodes, or take the \
         risk that busy nodes are taken for dead with 'without_realtime = true' under [times]"
    )]
    NoRealtime { profile: &'static str, detect_ms: u128, why: std::io::Error },
    #[error(
        "this machine is too slow for the times of profile '{profile}': a thread was {worst_ms} ms late, \
         {allowed_ms} ms (a third of T_detect) are allowed: relieve the machine, choose a slower \
         profile on all nodes, or take the risk that busy nodes are taken for dead with \
         'without_realtime = true' under [times]"
    )]
    TooSlow { profile: &'static str, worst_ms: u128, allowed_ms: u128 },
    #[error("cannot {act}")]
    System {
        act: &'static str,
        #[source]
        source: std::io::Error,
    },
    #[error("cannot listen on {}", path.display())]
    Listen {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
}

impl StartError {
    /// The exit code that fits.
    pub(crate) const fn exit_code(&self) -> u8 {
        match self {
            Self::Read { .. }
            | Self::Config { .. }
            | Self::TooLarge { .. }
            | Self::Key(_)
            | Self::OtherNodeKey { .. }
            | Self::NoRealtime { .. }
            | Self::Driver(DriverError::Config(_) | DriverError::NoNetworks) => exit::CONFIG,
            Self::Store(StoreError::Damaged { .. } | StoreError::Version { .. }) => exit::DAMAGED,
            Self::Store(StoreError::InUse { .. })
            | Self::Driver(DriverError::PortInUse { .. })
            | Self::Listen { .. } => exit::UNAVAILABLE,
            Self::Store(_) => exit::STORE,
            Self::Guard { .. } | Self::GuardSpeech { .. } | Self::TooSlow { .. } => exit::AGAIN,
            Self::Driver(_) | Self::Section(_) | Self::System { .. } => exit::SYSTEM,
        }
    }

    /// The error with its causes. A cause that its error already repeats is not said twice.
    pub(crate) fn in_full(&self) -> String {
        let mut text = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(e) = cause {
            let why = e.to_string();
            if !text.contains(&why) {
                text.push_str(": ");
                text.push_str(&why);
            }
            cause = e.source();
        }
        text
    }
}
