//! The static key of this machine (X25519): its file, made at the first start.
//!
//! It says *which* node speaks; that it is a node of the cluster is the cluster key's to say. Where
//! none is configured, a key stands in that is derived from the cluster's identity and the node's
//! number. It is no secret: then every holder of the cluster key can speak as every node.

use std::fmt;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use sha2::{Digest, Sha256};
use wolfpack_types::NodeId;
use wolfpack_types::security::PublicKey;
use x25519_dalek::{PublicKey as Point, StaticSecret};
use zeroize::Zeroizing;

use crate::key::{derive, hex, read_secret_file};
use crate::{ClusterKey, KeyError};

/// A private key and its public half. Wiped from memory when dropped, never shown.
#[derive(Clone)]
pub struct NodeKey {
    secret: StaticSecret,
    public: PublicKey,
}

impl fmt::Debug for NodeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NodeKey({}, ..)", self.public)
    }
}

impl NodeKey {
    /// A key from 32 secret random bytes.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        let secret = StaticSecret::from(bytes);
        let public = PublicKey(Point::from(&secret).to_bytes());
        Self { secret, public }
    }

    /// What stands in for the key of a node that has none.
    pub(crate) fn derived(cluster: &ClusterKey, node: NodeId) -> Self {
        let id = Zeroizing::new(Sha256::digest(cluster.cluster_id().0.0.to_be_bytes()).into());
        Self::from_bytes(*derive(&id, &[b"wolfpack node", &[node.get()]]))
    }

    /// What the other nodes are told.
    #[must_use]
    pub const fn public(&self) -> PublicKey {
        self.public
    }

    /// Reads the key file; makes it, readable by its owner alone, if it is not there.
    ///
    /// # Errors
    /// A file that cannot be read or made, is no regular file, is open to others, or holds something
    /// else. Never replaced: a machine's name is not to be lost by mistake.
    pub fn load_or_create(path: &Path) -> Result<Self, KeyError> {
        match read_secret_file(path) {
            Ok(text) => Self::parse(&text).ok_or_else(|| KeyError::Content { path: path.into() }),
            Err(KeyError::Read { source, .. }) if source.kind() == ErrorKind::NotFound => {
                Self::create(path)
            }
            Err(error) => Err(error),
        }
    }

    fn parse(text: &[u8]) -> Option<Self> {
        let digits = text.strip_suffix(b"\n")?;
        hex::decode::<32>(digits).map(|bytes| Self::from_bytes(*bytes))
    }

    fn create(path: &Path) -> Result<Self, KeyError> {
        let failed = |source| KeyError::Create { path: path.into(), source };
        let mut bytes = Zeroizing::new([0; 32]);
        getrandom::fill(bytes.as_mut_slice()).map_err(|error| failed(error.into()))?;
        // Complete under another name first: a power cut leaves no half of a key.
        let mut partial = path.as_os_str().to_owned();
        partial.push(".new");
        let mut file = std::fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&partial)
            .map_err(failed)?;
        let text = Zeroizing::new(format!("{}\n", hex::encode(bytes.as_slice()).as_str()));
        file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(failed)?;
        std::fs::rename(&partial, path).map_err(failed)?;
        if let Some(folder) = path.parent() {
            std::fs::File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed)?;
        }
        Ok(Self::from_bytes(*bytes))
    }

    /// The secret that only the two holders of these keys share. None for a point that gives away
    /// the result (of small order).
    pub(crate) fn agree(&self, theirs: &PublicKey) -> Option<Zeroizing<[u8; 32]>> {
        let shared = self.secret.diffie_hellman(&Point::from(theirs.0));
        shared.was_contributory().then(|| Zeroizing::new(shared.to_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn the_first_start_makes_the_file_and_the_next_reads_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("node.key");
        let made = NodeKey::load_or_create(&path).unwrap();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o600);
        assert_eq!(NodeKey::load_or_create(&path).unwrap().public(), made.public());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "nothing is left behind");
        let other = NodeKey::load_or_create(&dir.path().join("other.key")).unwrap();
        assert_ne!(other.public(), made.public());
        let (one, two) = (made.agree(&other.public()), other.agree(&made.public()));
        assert_eq!(one, two);
        assert!(!format!("{made:?}").contains(hex::encode(one.unwrap().as_slice()).as_str()));
    }

    #[test]
    fn a_bad_file_is_refused_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("node.key");
        std::fs::write(&path, "not a key\n").unwrap();
        let mode = NodeKey::load_or_create(&path).unwrap_err();
        assert!(matches!(mode, KeyError::Mode { .. }), "{mode}");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        let content = NodeKey::load_or_create(&path).unwrap_err();
        assert!(matches!(content, KeyError::Content { .. }), "{content}");
        assert_eq!(std::fs::read(&path).unwrap(), b"not a key\n");
        let nowhere = NodeKey::load_or_create(&dir.path().join("no/node.key")).unwrap_err();
        assert!(matches!(nowhere, KeyError::Create { .. }), "{nowhere}");
    }

    #[test]
    fn points_of_small_order_agree_with_nobody() {
        let key = NodeKey::from_bytes([7; 32]);
        assert!(key.agree(&PublicKey([0; 32])).is_none());
        let mut one = [0; 32];
        one[0] = 1;
        assert!(key.agree(&PublicKey(one)).is_none());
    }
}
