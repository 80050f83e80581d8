//! The cluster key: its file, its generations, and the keys derived from it.
//!
//! ```text
//!   first key -------HKDF-SHA256--- "wolfpack cluster id"  first 16 bytes: ClusterId
//!   each generation --HKDF-SHA256-+- "wolfpack generation" first 4 bytes: its name in datagrams
//!                                 +- "wolfpack hello" ..   authenticates hello datagrams
//!                                 +- "wolfpack guard"      authenticates AllTerminated
//!                                 +- "wolfpack psk"        goes into the keys of sessions
//! ```
//! The file has one line, the key, until the key is changed. While it is changed, and afterwards,
//! there are more: `also KEY` is accepted beside the key in use, `cluster ID` keeps the identity
//! that the first key gave. So a change is: the new key as `also` on every node, then the two
//! exchanged on every node, then the old one removed from every node; traffic goes on meanwhile.

use std::fmt;
use std::io::{ErrorKind, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use hkdf::Hkdf;
use sha2::Sha256;
use wolfpack_types::{ClusterId, Guid};
use zeroize::Zeroizing;

/// Length of the cluster key and of every key derived from it.
pub(crate) const KEY_BYTES: usize = 32;
/// A key, another, an identity, and room for the words: longer is no key file.
const FILE_BYTES_MAX: usize = 256;

/// A derived key; wiped when dropped.
pub(crate) type Key = Zeroizing<[u8; KEY_BYTES]>;

/// Names a generation of the cluster key in datagrams.
pub(crate) type Generation = u32;

/// The secret of the cluster: the generation in use, perhaps another that is accepted beside it.
/// Wiped from memory when dropped, never shown.
#[derive(Clone)]
pub struct ClusterKey {
    key: Key,
    also: Option<Key>,
    id: ClusterId,
}

impl fmt::Debug for ClusterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClusterKey(..)")
    }
}

/// A key file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    #[error(
        "there is no cluster key {}: make it on one node with 'wolfpack key generate', and copy the \
         file to the same place on every node",
        path.display()
    )]
    Missing { path: PathBuf },
    #[error("cannot read the key file {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("cannot make the key file {}", path.display())]
    Create {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("the key {} is not a regular file", path.display())]
    NotAFile { path: PathBuf },
    #[error(
        "the key file {} has mode {mode:04o}: others may read it; run: chmod 600 {}",
        path.display(), path.display()
    )]
    Mode { path: PathBuf, mode: u32 },
    #[error(
        "the key file {} does not hold 64 hexadecimal digits and a newline: a cluster key is copied \
         again from a node that works, a node key from a backup (or removed, and the new one made \
         known to the other nodes)",
        path.display()
    )]
    Content { path: PathBuf },
}

impl ClusterKey {
    /// A first key from its bytes.
    #[must_use]
    pub fn from_bytes(bytes: [u8; KEY_BYTES]) -> Self {
        let key = Zeroizing::new(bytes);
        Self { id: first_id(&key), key, also: None }
    }

    /// The same cluster with another key in use; `also` is accepted beside it.
    #[must_use]
    pub fn changed(&self, key: [u8; KEY_BYTES], also: Option<[u8; KEY_BYTES]>) -> Self {
        Self { key: Zeroizing::new(key), also: also.map(Zeroizing::new), id: self.id }
    }

    /// Reads a key file: a regular file that nobody but its owner can read or write.
    ///
    /// # Errors
    /// A file that is not there, cannot be read, is no regular file, is open to others, or holds
    /// something else.
    pub fn load(path: &Path) -> Result<Self, KeyError> {
        let text = read_secret_file(path).map_err(|e| match e {
            KeyError::Read { path, source } if source.kind() == ErrorKind::NotFound => {
                KeyError::Missing { path }
            }
            other => other,
        })?;
        Self::parse(&text).ok_or_else(|| KeyError::Content { path: path.into() })
    }

    pub(crate) fn parse(text: &[u8]) -> Option<Self> {
        let mut lines = text.strip_suffix(b"\n")?.split(|&byte| byte == b'\n');
        let key = hex::decode(lines.next()?)?;
        let (mut also, mut id) = (None, None);
        for line in lines {
            if let Some(digits) = line.strip_prefix(b"also ") {
                also = also.is_none().then_some(hex::decode(digits)?);
                also.as_ref()?;
            } else {
                let digits = line.strip_prefix(b"cluster ").filter(|_| id.is_none())?;
                let bytes = hex::decode::<16>(digits)?;
                id = Some(ClusterId(Guid(u128::from_be_bytes(*bytes))));
            }
        }
        // With two keys it must be said which of them was the first.
        if also.is_some() && id.is_none() {
            return None;
        }
        Some(Self { id: id.unwrap_or_else(|| first_id(&key)), key, also })
    }

    /// The identity of the cluster that has this key: all nodes compute the same one.
    #[must_use]
    pub const fn cluster_id(&self) -> ClusterId {
        self.id
    }

    /// A key for one use, named by the parts joined, of the generation in use.
    #[cfg(test)]
    pub(crate) fn derive(&self, info: &[&[u8]]) -> Key {
        derive(&self.key, info)
    }

    /// The generations, that in use first.
    pub(crate) fn generations(&self) -> impl Iterator<Item = (Generation, &Key)> {
        std::iter::once(&self.key).chain(&self.also).map(|key| (generation(key), key))
    }
}

fn first_id(key: &Key) -> ClusterId {
    let full = derive(key, &[b"wolfpack cluster id"]);
    let mut id = [0; 16];
    id.copy_from_slice(&full[..16]);
    ClusterId(Guid(u128::from_be_bytes(id)))
}

/// The name of a generation; not a secret.
fn generation(key: &Key) -> Generation {
    let [a, b, c, d, ..] = *derive(key, &[b"wolfpack generation"]);
    u32::from_le_bytes([a, b, c, d])
}

/// A key for one use, named by the parts joined.
pub(crate) fn derive(key: &Key, info: &[&[u8]]) -> Key {
    let mut derived = Zeroizing::new([0u8; KEY_BYTES]);
    Hkdf::<Sha256>::new(None, key.as_slice())
        .expand_multi_info(info, derived.as_mut_slice())
        .expect("one block of output is always allowed");
    derived
}

/// Reads a short file that nobody but its owner can read or write.
pub(crate) fn read_secret_file(path: &Path) -> Result<Zeroizing<Vec<u8>>, KeyError> {
    let read = |source| KeyError::Read { path: path.into(), source };
    // Not to block for ever on a FIFO that somebody put there.
    let mut file = std::fs::OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open(path)
        .map_err(read)?;
    // Checked on the open file, so that it cannot be exchanged between check and use.
    let meta = file.metadata().map_err(read)?;
    if !meta.is_file() {
        return Err(KeyError::NotAFile { path: path.into() });
    }
    let mode = meta.mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(KeyError::Mode { path: path.into(), mode });
    }
    // Of its final size at once: a vector that grows leaves copies behind.
    let mut text = Zeroizing::new(vec![0u8; FILE_BYTES_MAX]);
    let mut len = 0;
    while len < text.len() {
        match file.read(&mut text[len..]).map_err(read)? {
            0 => break,
            n => len += n,
        }
    }
    text.truncate(len);
    Ok(text)
}

/// Hexadecimal digits of secrets, wiped like these.
pub(crate) mod hex {
    use zeroize::Zeroizing;

    pub(crate) fn encode(bytes: &[u8]) -> Zeroizing<String> {
        let digit = |n: u8| char::from_digit(n.into(), 16).unwrap_or('?');
        let mut text = Zeroizing::new(String::with_capacity(2 * bytes.len()));
        for byte in bytes {
            text.push(digit(byte >> 4));
            text.push(digit(byte & 15));
        }
        text
    }

    /// Exactly `N` bytes, or nothing.
    pub(crate) fn decode<const N: usize>(digits: &[u8]) -> Option<Zeroizing<[u8; N]>> {
        let digit = |d: u8| char::from(d).to_digit(16).and_then(|d| u8::try_from(d).ok());
        if digits.len() != 2 * N {
            return None;
        }
        let mut bytes = Zeroizing::new([0u8; N]);
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            *byte = digit(pair[0])? << 4 | digit(pair[1])?;
        }
        Some(bytes)
    }
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::io::Write;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const TEXT: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191A1B1C1D1E1F\n";

    fn file(text: &str, mode: u32) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        file.as_file().set_permissions(Permissions::from_mode(mode)).unwrap();
        file
    }

    #[test]
    fn a_good_file_is_read_and_never_shown() {
        for mode in [0o600, 0o400] {
            let key = ClusterKey::load(file(TEXT, mode).path()).unwrap();
            assert_eq!(key.key[31], 0x1f);
            assert_eq!(format!("{key:?}"), "ClusterKey(..)");
        }
    }

    #[test]
    fn a_file_open_to_others_is_refused_with_the_remedy() {
        for mode in [0o640, 0o604, 0o666, 0o620] {
            let error = ClusterKey::load(file(TEXT, mode).path()).unwrap_err();
            assert!(matches!(error, KeyError::Mode { .. }), "{error}");
            assert!(error.to_string().contains("chmod 600"), "{error}");
        }
    }

    #[test]
    fn other_contents_are_refused() {
        let long = format!("{}0\n", TEXT.trim_end());
        let bad = TEXT.replace("1F\n", "1G\n");
        let signed = TEXT.replace("000102", "+00102");
        let key = TEXT.trim_end();
        let unsaid = format!("{TEXT}also {key}\n");
        let id = "0f".repeat(16);
        let twice = format!("{TEXT}cluster {id}\ncluster {id}\n");
        let thrice = format!("{TEXT}also {key}\nalso {key}\ncluster {id}\n");
        let short = format!("{TEXT}cluster {}\n", &id[1..]);
        let unknown = format!("{TEXT}other {id}\n");
        let huge = TEXT.repeat(100);
        let more = [&unsaid, &twice, &thrice, &short, &unknown, &huge].map(String::as_str);
        let texts = ["", "\n", key, &TEXT[2..], &long, &bad, &signed];
        for text in texts.into_iter().chain(more) {
            let error = ClusterKey::load(file(text, 0o600).path()).unwrap_err();
            assert!(matches!(error, KeyError::Content { .. }), "{text:?}: {error}");
        }
    }

    #[test]
    fn what_is_no_file_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let error = ClusterKey::load(dir.path()).unwrap_err();
        assert!(matches!(error, KeyError::NotAFile { .. }), "{error}");
        let error = ClusterKey::load(&dir.path().join("none")).unwrap_err();
        assert!(matches!(error, KeyError::Missing { .. }), "{error}");
    }

    #[test]
    fn the_cluster_id_is_a_function_of_the_key() {
        // HKDF-SHA256 of RFC 5869 without salt, computed apart from this program.
        let key = ClusterKey::from_bytes([0; 32]);
        assert_eq!(key.cluster_id().to_string(), CLUSTER_ID_OF_ZEROS);
        assert_ne!(ClusterKey::from_bytes([1; 32]).cluster_id(), key.cluster_id());
    }

    #[test]
    fn the_identity_outlives_the_key() {
        let first = ClusterKey::load(file(TEXT, 0o600).path()).unwrap();
        let (id, new) = (first.cluster_id(), "ab".repeat(32));
        let text = format!("{new}\nalso {TEXT}cluster {id}\n");
        let changed = ClusterKey::load(file(&text, 0o600).path()).unwrap();
        assert_eq!(changed.cluster_id(), id);
        let names = |key: &ClusterKey| key.generations().map(|(name, _)| name).collect::<Vec<_>>();
        assert_eq!(names(&changed)[1..], names(&first));
        let same = first.changed([0xab; 32], Some(*first.key));
        assert_eq!((names(&same), same.cluster_id()), (names(&changed), id));
        let text = format!("{new}\ncluster {id}\n");
        let done = ClusterKey::load(file(&text, 0o600).path()).unwrap();
        assert_eq!((names(&done), done.cluster_id()), (names(&changed)[..1].to_vec(), id));
    }

    const CLUSTER_ID_OF_ZEROS: &str = "15d023e0e5928a6d6408538edcd197ff";
}
