//! Words for the protection of cluster traffic: level, cipher, and the names of static node keys.
//!
//! What they do is `netdrv`'s business (`docs/internals/session.md`).

use std::fmt;

use serde::{Deserialize, Serialize};

/// What is done to the body of a datagram between two nodes (SecurityLevel of the cluster).
/// Two nodes that differ use the stronger: so that a change of it needs no moment without traffic.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "kebab-case")]
pub enum SecurityLevel {
    /// Authenticated, readable by everyone on the network.
    Sign,
    /// Authenticated and encrypted.
    #[default]
    Encrypt,
}

impl fmt::Display for SecurityLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Sign => "sign",
            Self::Encrypt => "encrypt",
        })
    }
}

/// The cipher of a session. Every node speaks all; where two prefer different ones, the node of the
/// lower number decides.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Hash, Serialize, Deserialize,
)]
pub enum Cipher {
    /// For processors with AES instructions.
    #[default]
    #[serde(rename = "aes-256-gcm")]
    Aes256Gcm,
    /// For those without.
    #[serde(rename = "chacha20-poly1305")]
    ChaCha20Poly1305,
}

impl fmt::Display for Cipher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Aes256Gcm => "aes-256-gcm",
            Self::ChaCha20Poly1305 => "chacha20-poly1305",
        })
    }
}

/// A node's static public key (X25519): names the machine. Text form: 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey(pub [u8; 32]);

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({self})")
    }
}

/// A public key that is none.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("a public key is 64 hexadecimal digits, as 'wolfpack key node' prints them")]
pub struct NotAPublicKey;

impl std::str::FromStr for PublicKey {
    type Err = NotAPublicKey;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut key = [0; 32];
        if text.len() != 64 || !text.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return Err(NotAPublicKey);
        }
        for (n, byte) in key.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&text[2 * n..2 * n + 2], 16).map_err(|_| NotAPublicKey)?;
        }
        Ok(Self(key))
    }
}

impl Serialize for PublicKey {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for PublicKey {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_public_key_is_read_back_and_nothing_else_is() {
        let key = PublicKey(std::array::from_fn(|n| u8::try_from(n * 7).unwrap()));
        assert_eq!(key.to_string().parse(), Ok(key));
        let text = key.to_string();
        let signed = format!("+{}", &text[1..]);
        for bad in ["", &text[1..], &format!("{text}0"), &signed, &text.replace("07", "0g"), "ä"] {
            assert_eq!(bad.parse::<PublicKey>(), Err(NotAPublicKey), "{bad}");
        }
    }
}
