//! How the command ends: exit codes by kind of failure, and the failure in words.

use std::process::ExitCode;

use wolfpack_client::ClientError;
use wolfpack_types::api::ErrorKind;

/// Exit codes. Stable: scripts test for them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Exit {
    /// Something that should not happen.
    Internal = 1,
    /// The command line itself is wrong. Also clap's own code.
    Usage = 2,
    /// No such group, resource, node or file.
    Unknown = 3,
    /// A value is refused, or the name is taken.
    Invalid = 4,
    NoQuorum = 5,
    /// Regrouping or overloaded: try again.
    Busy = 6,
    /// No service answers on this node.
    NotRunning = 7,
    /// With `--wait`: it failed, or was not there in time.
    Failed = 8,
}

/// The list for `--help`.
pub(crate) const HELP: &str = "\
Exit codes:
  0  done
  1  internal error
  2  wrong usage
  3  something named does not exist
  4  it exists already, or a value is not valid
  5  no quorum
  6  busy or regrouping: try again
  7  wolfpackd is not running here or does not answer
  8  --wait: it failed, or did not get there in time";

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Why the command was not carried out.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Failure {
    pub(crate) exit: Exit,
    pub(crate) what: String,
    /// What to do about it; may be empty.
    pub(crate) advice: String,
}

impl Failure {
    pub(crate) fn new(exit: Exit, what: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { exit, what: what.into(), advice: advice.into() }
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        let exit = match &error {
            ClientError::NotRunning { .. }
            | ClientError::Denied { .. }
            | ClientError::Timeout { .. }
            | ClientError::Closed { .. }
            | ClientError::Io { .. } => Exit::NotRunning,
            ClientError::Garbled { .. } | ClientError::Unexpected { .. } => Exit::Internal,
            ClientError::Refused(refusal) => match refusal.kind {
                ErrorKind::Invalid | ErrorKind::Exists => Exit::Invalid,
                ErrorKind::Unknown => Exit::Unknown,
                ErrorKind::NoQuorum => Exit::NoQuorum,
                ErrorKind::Busy => Exit::Busy,
                ErrorKind::Internal => Exit::Internal,
            },
        };
        let mut what = error.to_string();
        if let ClientError::Io { source, .. } = &error {
            what = format!("{what}: {source}");
        }
        Self { exit, what, advice: error.advice().to_owned() }
    }
}
