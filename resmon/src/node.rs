//! What the processes of a node know of it: its configuration and cluster, as read by the guard at
//! its start and handed to each monitor. A file that is edited meanwhile changes nothing.

use std::fs::{self, File};
use std::io::{self, Read, Seek, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use nix::sys::memfd::{MFdFlags, memfd_create};
use serde::{Deserialize, Serialize};
use wolfpack_netdrv::{ClusterKey, KeyError};
use wolfpack_types::codec::{self, DecodeError};
use wolfpack_types::config::{Config, ConfigError};
use wolfpack_types::{ClusterId, NodeInc};

use crate::cgroup::Base;

/// No configuration is longer.
const CONFIG_BYTES_MAX: u64 = 1 << 20;

/// A node that cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    #[error("cannot read the configuration {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{}: {source}", path.display())]
    Config { path: PathBuf, source: ConfigError },
    #[error(transparent)]
    Key(#[from] KeyError),
    #[error("cannot hand the node's configuration to a monitor")]
    Hand(#[source] io::Error),
    #[error("what the guard handed over is not a monitor's set-up")]
    Handed(#[source] DecodeError),
    #[error("what the guard handed over is not a configuration")]
    HandedConfig(#[source] ConfigError),
}

/// A node as its guard knows it.
#[derive(Debug)]
pub(crate) struct Node {
    text: String,
    pub(crate) config: Config,
    pub(crate) key: ClusterKey,
}

/// A node as a monitor knows it.
#[derive(Debug)]
pub(crate) struct Setup {
    pub(crate) config: Config,
    pub(crate) cluster: ClusterId,
    pub(crate) life: NodeInc,
    pub(crate) number: u32,
    pub(crate) cgroups: Option<Base>,
}

#[derive(Serialize, Deserialize)]
struct Handed {
    text: String,
    cluster: ClusterId,
    life: NodeInc,
    number: u32,
    cgroups: Option<Base>,
}

impl Node {
    /// Reads configuration and cluster key.
    ///
    /// # Errors
    /// Either cannot be read or used; the words say which and why.
    pub(crate) fn load(path: &Path) -> Result<Self, NodeError> {
        let fail = |source| NodeError::Read { path: path.into(), source };
        let mut text = String::new();
        let file = File::open(path).map_err(fail)?;
        file.take(CONFIG_BYTES_MAX).read_to_string(&mut text).map_err(fail)?;
        let config = Config::parse(&text)
            .map_err(|source| NodeError::Config { path: path.into(), source })?;
        let key = ClusterKey::load(&config.key_file)?;
        Ok(Self { text, config, key })
    }

    /// Reads the cluster key again, after a step of its change. What cannot be used changes nothing:
    /// the peers would not believe AllTerminated, and wait for the lease instead.
    pub(crate) fn reload_key(&mut self) {
        let path = self.config.key_file.display();
        match ClusterKey::load(&self.config.key_file) {
            Ok(key) if key.cluster_id() == self.key.cluster_id() => self.key = key,
            Ok(_) => tracing::error!("{path} is the key of another cluster: the former key stays"),
            Err(e) => tracing::error!("{e}: the former key stays"),
        }
    }

    /// What a monitor of this node inherits, as a file in memory.
    ///
    /// # Errors
    /// No memory.
    pub(crate) fn hand(
        &self,
        life: NodeInc,
        number: u32,
        cgroups: Option<&Base>,
    ) -> Result<OwnedFd, NodeError> {
        let handed = Handed {
            text: self.text.clone(),
            cluster: self.key.cluster_id(),
            life,
            number,
            cgroups: cgroups.cloned(),
        };
        let fd = memfd_create(c"wolfpack-setup", MFdFlags::MFD_CLOEXEC)
            .map_err(|e| NodeError::Hand(e.into()))?;
        let mut file = File::from(fd);
        file.write_all(&codec::encode(&handed)).map_err(NodeError::Hand)?;
        file.rewind().map_err(NodeError::Hand)?;
        Ok(file.into())
    }
}

impl Setup {
    /// Reads what [`Node::hand`] made.
    ///
    /// # Errors
    /// It is something else.
    pub(crate) fn receive(fd: OwnedFd) -> Result<Self, NodeError> {
        let mut bytes = Vec::new();
        let limit = CONFIG_BYTES_MAX + 64 * 1024;
        File::from(fd).take(limit).read_to_end(&mut bytes).map_err(NodeError::Hand)?;
        let Handed { text, cluster, life, number, cgroups } =
            codec::decode("monitor's set-up", &bytes).map_err(NodeError::Handed)?;
        let config = Config::parse(&text).map_err(NodeError::HandedConfig)?;
        Ok(Self { config, cluster, life, number, cgroups })
    }
}

/// Makes the run directory.
///
/// # Errors
/// It cannot be made.
pub(crate) fn make_run_dir(path: &Path) -> io::Result<()> {
    fs::create_dir_all(path)
}
