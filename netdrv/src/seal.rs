//! Keys ready for use: authentication codes outside of sessions, ciphers inside.
//!
//! The ciphers are RustCrypto's; here is how they are applied. `encrypt`: the body is encrypted, the
//! header authenticated. `sign`: header and body are authenticated and readable.

use std::fmt;

use aes_gcm::Aes256Gcm;
use aes_gcm::aead::AeadInOut;
use aes_gcm::aead::inout::InOutBuf;
use chacha20poly1305::ChaCha20Poly1305;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use wolfpack_types::security::{Cipher, SecurityLevel};

use crate::key::Key;

/// Length of an authentication code.
pub(crate) const MAC_BYTES: usize = 16;

/// A key that authenticates what is outside of sessions. Needs no nonce.
#[derive(Clone)]
pub(crate) struct MacKey(Hmac<Sha256>);

impl fmt::Debug for MacKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MacKey(..)")
    }
}

impl MacKey {
    pub(crate) fn new(key: &Key) -> Self {
        Self(<Hmac<Sha256> as KeyInit>::new_from_slice(key.as_slice()).expect("takes any length"))
    }

    pub(crate) fn mac(&self, signed: &[u8]) -> [u8; MAC_BYTES] {
        let mut mac = self.0.clone();
        mac.update(signed);
        let full = mac.finalize().into_bytes();
        let mut cut = [0; MAC_BYTES];
        cut.copy_from_slice(&full[..MAC_BYTES]);
        cut
    }
}

/// The cipher of one direction of a session.
pub(crate) struct SealKey {
    machine: Machine,
    level: SecurityLevel,
}

enum Machine {
    Aes(Box<Aes256Gcm>),
    ChaCha(Box<ChaCha20Poly1305>),
}

impl fmt::Debug for SealKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SealKey(..)")
    }
}

impl SealKey {
    pub(crate) fn new(key: &Key, level: SecurityLevel, cipher: Cipher) -> Self {
        let machine = match cipher {
            Cipher::Aes256Gcm => {
                Machine::Aes(Box::new(Aes256Gcm::new(key.as_slice().try_into().expect("32 bytes"))))
            }
            Cipher::ChaCha20Poly1305 => Machine::ChaCha(Box::new(ChaCha20Poly1305::new(
                key.as_slice().try_into().expect("32 bytes"),
            ))),
        };
        Self { machine, level }
    }

    pub(crate) const fn protection(&self) -> (SecurityLevel, Cipher) {
        let cipher = match self.machine {
            Machine::Aes(_) => Cipher::Aes256Gcm,
            Machine::ChaCha(_) => Cipher::ChaCha20Poly1305,
        };
        (self.level, cipher)
    }

    /// How many of the first bytes are to stay readable.
    const fn readable(&self, header: usize, all: usize) -> usize {
        match self.level {
            SecurityLevel::Encrypt => header,
            SecurityLevel::Sign => all,
        }
    }

    /// Seals in place; the result is the authentication code.
    pub(crate) fn seal(&self, nonce: &[u8; 12], bytes: &mut [u8], header: usize) -> [u8; 16] {
        let (readable, secret) = bytes.split_at_mut(self.readable(header, bytes.len()));
        let (nonce, secret) = (nonce.into(), InOutBuf::from(secret));
        let code = match &self.machine {
            Machine::Aes(aes) => aes.encrypt_inout_detached(nonce, readable, secret),
            Machine::ChaCha(chacha) => chacha.encrypt_inout_detached(nonce, readable, secret),
        };
        code.expect("a datagram is far below any cipher's limit").into()
    }

    /// Opens in place; whether the holder of the key had sealed it.
    pub(crate) fn open(
        &self,
        nonce: &[u8; 12],
        bytes: &mut [u8],
        header: usize,
        code: &[u8; 16],
    ) -> bool {
        let (readable, secret) = bytes.split_at_mut(self.readable(header, bytes.len()));
        let (nonce, secret, code) = (nonce.into(), InOutBuf::from(secret), code.into());
        let result = match &self.machine {
            Machine::Aes(aes) => aes.decrypt_inout_detached(nonce, readable, secret, code),
            Machine::ChaCha(chacha) => chacha.decrypt_inout_detached(nonce, readable, secret, code),
        };
        result.is_ok()
    }
}
