//! The handshake of two lives: what a hello says, and the keys that two hellos make.
//!
//! The keys come from four Diffie-Hellman secrets (ephemeral and static, as in the pattern KK of the
//! Noise framework, but without roles, because both sides start at once), the cluster key as a
//! pre-shared secret, and everything that both hellos said. `docs/internals/session.md` argues it.
//!
//! Pure: the seed of all ephemeral keys is given.

use hkdf::Hkdf;
use sha2::{Digest, Sha256};
use wolfpack_types::security::{Cipher, PublicKey, SecurityLevel};
use wolfpack_types::{ClusterId, Incarnation, NodeId, NodeInc};
use zeroize::Zeroizing;

use crate::NodeKey;
use crate::key::{Generation, Key, derive};
use crate::packet::{FormError, Reader};
use crate::seal::{MacKey, SealKey};

/// Random bytes that name a life, for one life only.
pub(crate) type Salt = [u8; 16];

/// The key of the hellos between two nodes: of a generation of the cluster key and of what their
/// static keys make.
pub(crate) fn hello_key(cluster: &Key, a: NodeId, b: NodeId, fixed_shared: &Key) -> MacKey {
    let psk = derive(cluster, &[b"wolfpack hello", &[a.min(b).get(), a.max(b).get()]]);
    let mut both = Key::new([0; 32]);
    Hkdf::<Sha256>::new(Some(psk.as_slice()), fixed_shared.as_slice())
        .expand(b"wolfpack hello", both.as_mut_slice())
        .expect("one block of output is always allowed");
    MacKey::new(&both)
}

/// What a node wants of a session.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Wish {
    pub(crate) level: SecurityLevel,
    pub(crate) cipher: Cipher,
}

/// Body of a hello datagram.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Hello {
    pub(crate) inc: Incarnation,
    pub(crate) salt: Salt,
    /// The sender's ephemeral key.
    pub(crate) offer: PublicKey,
    /// The receiver's, as far as the sender knows it.
    pub(crate) echo: Option<PublicKey>,
    pub(crate) wish: Wish,
    pub(crate) wants_answer: bool,
    /// The sender has the session of these two ephemeral keys.
    pub(crate) agreed: bool,
}

impl Hello {
    pub(crate) const BYTES: usize = 8 + 16 + 32 + 32 + 3;

    pub(crate) fn encode(&self) -> [u8; Self::BYTES] {
        let mut body = [0; Self::BYTES];
        body[..8].copy_from_slice(&self.inc.0.to_le_bytes());
        body[8..24].copy_from_slice(&self.salt);
        body[24..56].copy_from_slice(&self.offer.0);
        body[56..88].copy_from_slice(&self.echo.map_or([0; 32], |echo| echo.0));
        body[88] = u8::from(self.echo.is_some())
            | u8::from(self.wants_answer) << 1
            | u8::from(self.agreed) << 2;
        body[89] = level_code(self.wish.level);
        body[90] = cipher_code(self.wish.cipher);
        body
    }

    pub(crate) fn decode(body: &[u8]) -> Result<Self, FormError> {
        let mut reader = Reader(body);
        let inc = Incarnation(u64::from_le_bytes(reader.array()?));
        let salt = reader.array()?;
        let offer = PublicKey(reader.array()?);
        let echo = PublicKey(reader.array()?);
        let [flags, level, cipher] = reader.array()?;
        if !reader.rest().is_empty() || flags > 7 || flags & 1 == 0 && echo.0 != [0; 32] {
            return Err(FormError::Truncated);
        }
        let level = match level {
            0 => SecurityLevel::Sign,
            1 => SecurityLevel::Encrypt,
            _ => return Err(FormError::Truncated),
        };
        let cipher = match cipher {
            0 => Cipher::Aes256Gcm,
            1 => Cipher::ChaCha20Poly1305,
            _ => return Err(FormError::Truncated),
        };
        Ok(Self {
            inc,
            salt,
            offer,
            echo: (flags & 1 != 0).then_some(echo),
            wish: Wish { level, cipher },
            wants_answer: flags & 2 != 0,
            agreed: flags & 4 != 0,
        })
    }
}

const fn level_code(level: SecurityLevel) -> u8 {
    match level {
        SecurityLevel::Sign => 0,
        SecurityLevel::Encrypt => 1,
    }
}

const fn cipher_code(cipher: Cipher) -> u8 {
    match cipher {
        Cipher::Aes256Gcm => 0,
        Cipher::ChaCha20Poly1305 => 1,
    }
}

/// Gives keys that nobody can compute, from one seed. What it gave cannot be found from what it is.
#[derive(Debug)]
pub(crate) struct Entropy {
    seed: Key,
}

impl Entropy {
    pub(crate) const fn new(seed: Key) -> Self {
        Self { seed }
    }

    pub(crate) fn draw(&mut self) -> Key {
        let drawn = derive(&self.seed, &[b"wolfpack draw"]);
        self.seed = derive(&self.seed, &[b"wolfpack next"]);
        drawn
    }
}

/// One side of an agreement: what its hello said, and its static key.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Side {
    pub(crate) life: NodeInc,
    pub(crate) salt: Salt,
    pub(crate) offer: PublicKey,
    pub(crate) fixed: PublicKey,
    pub(crate) generation: Generation,
    pub(crate) wish: Wish,
}

impl Side {
    fn write(&self, transcript: &mut Sha256) {
        transcript.update([self.life.node.get()]);
        transcript.update(self.life.inc.0.to_le_bytes());
        transcript.update(self.salt);
        transcript.update(self.offer.0);
        transcript.update(self.fixed.0);
        transcript.update(self.generation.to_le_bytes());
        transcript.update([level_code(self.wish.level), cipher_code(self.wish.cipher)]);
    }
}

/// What one side knows beside the hellos.
#[derive(Debug)]
pub(crate) struct Secrets<'a> {
    /// Of my offer.
    pub(crate) offer: &'a NodeKey,
    pub(crate) fixed: &'a NodeKey,
    /// Of both static keys, computed once.
    pub(crate) fixed_shared: &'a Key,
    /// The generations of the cluster key that the hellos named.
    pub(crate) my_generation: &'a Key,
    pub(crate) their_generation: &'a Key,
}

/// Keys of a session.
#[derive(Debug)]
pub(crate) struct Agreement {
    pub(crate) tag: u32,
    pub(crate) send: SealKey,
    pub(crate) receive: SealKey,
    /// For the key log, if one is kept: the keys of the lower and of the higher node.
    pub(crate) keys: [Key; 2],
}

/// The session of two lives: both sides come to the same one. The lower node is named first.
/// None: an offer that would give the secret away.
pub(crate) fn agree(
    cluster: ClusterId,
    mine: &Side,
    theirs: &Side,
    secrets: &Secrets<'_>,
) -> Option<Agreement> {
    let i_am_low = mine.life.node < theirs.life.node;
    let ordered = |a, b| if i_am_low { (a, b) } else { (b, a) };
    let (low, high) = ordered(mine, theirs);
    let mut transcript = Sha256::new();
    transcript.update(b"wolfpack session 2");
    transcript.update(cluster.0.0.to_be_bytes());
    low.write(&mut transcript);
    high.write(&mut transcript);

    let both_offers = secrets.offer.agree(&theirs.offer)?;
    let my_fixed = secrets.fixed.agree(&theirs.offer)?;
    let their_fixed = secrets.offer.agree(&theirs.fixed)?;
    let (psk_low, psk_high) =
        ordered_keys(i_am_low, secrets.my_generation, secrets.their_generation);
    let (fixed_low, fixed_high) = ordered_keys(i_am_low, &my_fixed, &their_fixed);
    let mut secret = Zeroizing::new([0; 6 * 32]);
    let parts = [psk_low, psk_high, &*both_offers, fixed_low, fixed_high, secrets.fixed_shared];
    for (place, part) in secret.chunks_exact_mut(32).zip(parts) {
        place.copy_from_slice(part.as_slice());
    }
    let hkdf = Hkdf::<Sha256>::new(Some(&transcript.finalize()), secret.as_slice());
    let expand = |what: &[u8]| {
        let mut key = Key::new([0; 32]);
        hkdf.expand(what, key.as_mut_slice()).expect("one block of output is always allowed");
        key
    };
    // The stronger wish; of two ciphers the lower node's.
    let level = mine.wish.level.max(theirs.wish.level);
    let cipher = low.wish.cipher;
    let keys = [expand(b"from the lower"), expand(b"from the higher")];
    let [a, b, c, d, ..] = *expand(b"name");
    let seal = |key: &Key| SealKey::new(key, level, cipher);
    let (send, receive) =
        if i_am_low { (seal(&keys[0]), seal(&keys[1])) } else { (seal(&keys[1]), seal(&keys[0])) };
    Some(Agreement { tag: u32::from_le_bytes([a, b, c, d]), send, receive, keys })
}

const fn ordered_keys<'a>(i_am_low: bool, mine: &'a Key, theirs: &'a Key) -> (&'a Key, &'a Key) {
    if i_am_low { (mine, theirs) } else { (theirs, mine) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_hello_survives_the_wire_and_nothing_else_is_one(
            body in proptest::collection::vec(any::<u8>(), Hello::BYTES - 1..=Hello::BYTES + 1),
            small in any::<[u8; 3]>(), zero in any::<bool>(),
        ) {
            let mut body = body;
            if body.len() >= Hello::BYTES {
                body[88..91].copy_from_slice(&[small[0] & 15, small[1] & 3, small[2] & 3]);
                if zero {
                    body[56..88].fill(0);
                }
            }
            if let Ok(hello) = Hello::decode(&body) {
                prop_assert_eq!(&hello.encode()[..], &body[..]);
            }
        }
    }

    #[test]
    fn what_was_drawn_is_never_drawn_again() {
        let mut entropy = Entropy::new(Key::new([1; 32]));
        let drawn: std::collections::BTreeSet<_> = (0..1000).map(|_| *entropy.draw()).collect();
        assert_eq!(drawn.len(), 1000);
        assert!(!drawn.contains(&*entropy.seed));
    }
}
