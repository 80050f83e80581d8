//! What can go wrong between an administrator and the service, each with what to do about it.

use std::io;
use std::path::{Path, PathBuf};

use wolfpack_types::api::ErrorReply;

/// A request without an answer, or with a refusal for an answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("wolfpackd is not running on this node (nobody listens at {})", path.display())]
    NotRunning {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("this user may not talk to wolfpackd at {}", path.display())]
    Denied {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("wolfpackd at {} did not answer in time; a change may still be carried out", path.display())]
    Timeout { path: PathBuf },
    #[error("wolfpackd closed the connection at {} before it had answered", path.display())]
    Closed { path: PathBuf },
    #[error("the connection to wolfpackd at {} failed", path.display())]
    Io {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("wolfpackd at {} speaks another language: {why}", path.display())]
    Garbled { path: PathBuf, why: String },
    #[error("wolfpackd answered something else than was asked: {got}")]
    Unexpected { got: String },
    #[error("{}", .0.what)]
    Refused(#[from] ErrorReply),
}

impl ClientError {
    /// What the administrator can do; empty if nothing is known to help.
    #[must_use]
    pub fn advice(&self) -> &str {
        match self {
            Self::NotRunning { .. } => {
                "start it with 'systemctl start wolfpackd', or name the right socket with --socket"
            }
            Self::Denied { .. } => "run the command as root",
            Self::Timeout { .. } => {
                "look at 'wolfpack status' and 'journalctl -u wolfpackd' before you repeat it"
            }
            Self::Closed { .. } => {
                "look at 'journalctl -u wolfpackd': it may just be starting anew"
            }
            Self::Io { .. } => "try again; 'journalctl -u wolfpackd' may tell more",
            Self::Garbled { .. } | Self::Unexpected { .. } => {
                "use the 'wolfpack' command of the same version as the service"
            }
            Self::Refused(refusal) => &refusal.advice,
        }
    }

    pub(crate) fn connecting(path: &Path, source: io::Error) -> Self {
        let path = path.to_owned();
        match source.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                Self::NotRunning { path, source }
            }
            io::ErrorKind::PermissionDenied => Self::Denied { path, source },
            _ => Self::Io { path, source },
        }
    }

    pub(crate) fn io(path: &Path, source: io::Error) -> Self {
        let path = path.to_owned();
        match source.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Self::Timeout { path },
            io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => Self::Closed { path },
            io::ErrorKind::InvalidData => Self::Garbled { path, why: source.to_string() },
            _ => Self::Io { path, source },
        }
    }

    pub(crate) fn garbled(path: &Path, why: impl std::fmt::Display) -> Self {
        Self::Garbled { path: path.to_owned(), why: why.to_string() }
    }
}
