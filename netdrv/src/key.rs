//! The cluster key: its file, and the keys derived from it. Whoever has it is a node of the cluster.
//!
//! ```text
//!   cluster key --HKDF-SHA256--+-- "wolfpack cluster id"  first 16 bytes: ClusterId
//!                              +-- "wolfpack hello"       authenticates hello datagrams
//!                              +-- "wolfpack guard"       authenticates AllTerminated
//!                              +-- "wolfpack session" .. both lives, both salts: session keys
//! ```

use std::fmt;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use hkdf::Hkdf;
use sha2::Sha256;
use wolfpack_types::{ClusterId, Guid};
use zeroize::Zeroizing;

/// Length of the cluster key and of every key derived from it.
pub(crate) const KEY_BYTES: usize = 32;
/// 64 hexadecimal digits and a newline.
const FILE_BYTES: usize = 2 * KEY_BYTES + 1;

/// A derived key; wiped when dropped.
pub(crate) type Key = Zeroizing<[u8; KEY_BYTES]>;

/// The secret of the cluster. Wiped from memory when dropped, never shown.
#[derive(Clone)]
pub struct ClusterKey(Key);

impl fmt::Debug for ClusterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClusterKey(..)")
    }
}

/// A key file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    #[error("cannot read the cluster key file {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("the cluster key {} is not a regular file", path.display())]
    NotAFile { path: PathBuf },
    #[error(
        "the cluster key file {} has mode {mode:04o}: others may read it; run: chmod 600 {}",
        path.display(), path.display()
    )]
    Mode { path: PathBuf, mode: u32 },
    #[error(
        "the cluster key file {} does not hold 64 hexadecimal digits and a newline: copy it again \
         from a node that works",
        path.display()
    )]
    Content { path: PathBuf },
}

impl ClusterKey {
    /// A key from its bytes.
    #[must_use]
    pub fn from_bytes(bytes: [u8; KEY_BYTES]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// Reads a key file: a regular file of 64 hexadecimal digits and a newline that nobody but its
    /// owner can read or write.
    ///
    /// # Errors
    /// A file that cannot be read, is no regular file, is open to others, or holds something else.
    pub fn load(path: &Path) -> Result<Self, KeyError> {
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
        let mut text = Zeroizing::new([0u8; FILE_BYTES + 1]);
        let mut len = 0;
        while len < text.len() {
            match file.read(&mut text[len..]).map_err(read)? {
                0 => break,
                n => len += n,
            }
        }
        Self::parse(&text[..len]).ok_or_else(|| KeyError::Content { path: path.into() })
    }

    fn parse(text: &[u8]) -> Option<Self> {
        let digits = text.strip_suffix(b"\n")?;
        if digits.len() != 2 * KEY_BYTES {
            return None;
        }
        let mut key = Zeroizing::new([0u8; KEY_BYTES]);
        for (byte, pair) in key.iter_mut().zip(digits.chunks_exact(2)) {
            *byte = hex_digit(pair[0])? << 4 | hex_digit(pair[1])?;
        }
        Some(Self(key))
    }

    /// The identity of the cluster that has this key: all nodes compute the same one.
    #[must_use]
    pub fn cluster_id(&self) -> ClusterId {
        let full = self.derive(&[b"wolfpack cluster id"]);
        let mut id = [0; 16];
        id.copy_from_slice(&full[..16]);
        ClusterId(Guid(u128::from_be_bytes(id)))
    }

    /// A key for one use, named by the parts joined.
    pub(crate) fn derive(&self, info: &[&[u8]]) -> Key {
        let mut key = Zeroizing::new([0u8; KEY_BYTES]);
        Hkdf::<Sha256>::new(None, self.0.as_slice())
            .expand_multi_info(info, key.as_mut_slice())
            .expect("one block of output is always allowed");
        key
    }
}

fn hex_digit(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|d| u8::try_from(d).ok())
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
            assert_eq!(key.0[31], 0x1f);
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
        for text in ["", "\n", TEXT.trim_end(), &TEXT[2..], &long, &bad, &signed] {
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
        assert!(matches!(error, KeyError::Read { .. }), "{error}");
    }

    #[test]
    fn the_cluster_id_is_a_function_of_the_key() {
        // HKDF-SHA256 of RFC 5869 without salt, computed apart from this program.
        let key = ClusterKey::from_bytes([0; 32]);
        assert_eq!(key.cluster_id().to_string(), CLUSTER_ID_OF_ZEROS);
        assert_ne!(ClusterKey::from_bytes([1; 32]).cluster_id(), key.cluster_id());
    }

    const CLUSTER_ID_OF_ZEROS: &str = "15d023e0e5928a6d6408538edcd197ff";
}
