//! The layout of a datagram: fixed little-endian header, body, authentication code.
//!
//! ```text
//!   0               4       5       6       7       8
//!   +---------------+-------+-------+-------+-------+
//!   | magic "WPCK"  |version| kind  | from  |  to   |
//!   +-------+-------+-------+-------+-------+-------+
//!   |network|protec.|body length (2)|  session (4)  |
//!   +-------+-------+---------------+---------------+ 16
//!   | cluster tag: first 8 bytes of the cluster id  |
//!   +-----------------------------------------------+ 24
//!   | counter of this session on this network       |
//!   +-----------------------------------------------+ 32
//!   | body, 0 to 1352 bytes                         |
//!   +-----------------------------------------------+
//!   | authentication code (16)                      |
//!   +-----------------------------------------------+
//! ```
//! Hello and AllTerminated datagrams have keys of their own (HMAC-SHA256, first 16 bytes), and the
//! generation of the cluster key where others have the session. All others are sealed by the cipher
//! of their session. Whether the sender may say what it says is the business of `session`; here is
//! only form.

use subtle::ConstantTimeEq;
use wolfpack_types::security::{Cipher, SecurityLevel};
use wolfpack_types::{ClusterId, NodeId};

use crate::seal::{MAC_BYTES, MacKey, SealKey};

/// What this release speaks. Raised when an older release could not understand a datagram.
pub(crate) const VERSION: u8 = 2;
/// The longest datagram: passes every Ethernet with room for tunnels, unfragmented.
pub(crate) const DATAGRAM_BYTES_MAX: usize = 1400;
/// The shortest that a path may be told to carry at most: passes every IPv4 path.
pub(crate) const DATAGRAM_BYTES_MIN: usize = 548;
/// The longest body.
pub(crate) const BODY_BYTES_MAX: usize = DATAGRAM_BYTES_MAX - OVERHEAD_BYTES;
/// What a datagram has beside its body.
pub(crate) const OVERHEAD_BYTES: usize = HEADER_BYTES + MAC_BYTES;

pub(crate) const MAGIC: [u8; 4] = *b"WPCK";
/// For the filter in the kernel: where kind and cluster tag lie, and which kind needs no known
/// sender. The version follows the magic.
pub(crate) const KIND_AT: usize = 5;
pub(crate) const TAG_AT: usize = 16;
pub(crate) const TESTAMENT_KIND: u8 = Kind::AllTerminated.code();
pub(crate) const HEADER_BYTES: usize = 32;
/// `network` of a datagram that may come over any.
pub(crate) const NETWORK_ANY: u8 = 0xff;

/// First bytes of the cluster's identity.
pub(crate) type ClusterTag = [u8; 8];

/// The tag that tells clusters apart which share a network.
pub(crate) fn cluster_tag(cluster: ClusterId) -> ClusterTag {
    let [a, b, c, d, e, f, g, h, ..] = cluster.0.0.to_be_bytes();
    [a, b, c, d, e, f, g, h]
}

/// What a datagram is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    Hello,
    Heartbeat,
    /// Pieces of messages, and acknowledgements of such.
    Stream,
    AllTerminated,
}

impl Kind {
    const fn code(self) -> u8 {
        match self {
            Self::Hello => 1,
            Self::Heartbeat => 2,
            Self::Stream => 3,
            Self::AllTerminated => 5,
        }
    }

    const fn of(code: u8) -> Option<Self> {
        match code {
            1 => Some(Self::Hello),
            2 => Some(Self::Heartbeat),
            3 => Some(Self::Stream),
            5 => Some(Self::AllTerminated),
            _ => None,
        }
    }

    /// Whether it is authenticated outside of any session.
    const fn stands_alone(self) -> bool {
        matches!(self, Self::Hello | Self::AllTerminated)
    }
}

/// How a datagram is protected.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Protection {
    /// Readable, with an HMAC: hello and AllTerminated.
    Mac,
    /// By the cipher of the session.
    Sealed(SecurityLevel, Cipher),
}

impl Protection {
    const fn code(self) -> u8 {
        match self {
            Self::Mac => 0,
            Self::Sealed(SecurityLevel::Sign, Cipher::Aes256Gcm) => 1,
            Self::Sealed(SecurityLevel::Encrypt, Cipher::Aes256Gcm) => 2,
            Self::Sealed(SecurityLevel::Sign, Cipher::ChaCha20Poly1305) => 3,
            Self::Sealed(SecurityLevel::Encrypt, Cipher::ChaCha20Poly1305) => 4,
        }
    }

    const fn of(code: u8) -> Option<Self> {
        match code {
            0 => Some(Self::Mac),
            1 => Some(Self::Sealed(SecurityLevel::Sign, Cipher::Aes256Gcm)),
            2 => Some(Self::Sealed(SecurityLevel::Encrypt, Cipher::Aes256Gcm)),
            3 => Some(Self::Sealed(SecurityLevel::Sign, Cipher::ChaCha20Poly1305)),
            4 => Some(Self::Sealed(SecurityLevel::Encrypt, Cipher::ChaCha20Poly1305)),
            _ => None,
        }
    }
}

/// All but the body.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Header {
    pub(crate) kind: Kind,
    pub(crate) from: NodeId,
    /// None: to whom it may concern.
    pub(crate) to: Option<NodeId>,
    pub(crate) network: u8,
    pub(crate) protection: Protection,
    /// Of hello and AllTerminated: the generation of the cluster key.
    pub(crate) session: u32,
    pub(crate) tag: ClusterTag,
    pub(crate) counter: u64,
}

impl Header {
    fn write(&self, out: &mut [u8], body: usize) {
        let length = u16::try_from(body).expect("bodies are bounded by their makers");
        out[..4].copy_from_slice(&MAGIC);
        let to = self.to.map_or(0, NodeId::get);
        let bytes = [VERSION, self.kind.code(), self.from.get(), to, self.network];
        out[4..9].copy_from_slice(&bytes);
        out[9] = self.protection.code();
        out[10..12].copy_from_slice(&length.to_le_bytes());
        out[12..16].copy_from_slice(&self.session.to_le_bytes());
        out[16..24].copy_from_slice(&self.tag);
        out[24..32].copy_from_slice(&self.counter.to_le_bytes());
    }

    /// Never used twice under one key: counters go up, and each network has its own.
    fn nonce(&self) -> [u8; 12] {
        let mut nonce = [0; 12];
        nonce[0] = self.network;
        nonce[4..].copy_from_slice(&self.counter.to_le_bytes());
        nonce
    }
}

/// A datagram whose form is right. Nothing is authenticated yet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Datagram<'a> {
    pub(crate) header: Header,
    /// As it came: unreadable where it is encrypted.
    pub(crate) body: &'a [u8],
    signed: &'a [u8],
    code: &'a [u8; MAC_BYTES],
}

/// Bytes that are no datagram of ours.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum FormError {
    Truncated,
    Foreign,
    Version { theirs: u8 },
}

/// Makes room for a header; the body is to be appended, then [`seal`] called.
pub(crate) fn begin(out: &mut Vec<u8>) {
    out.clear();
    out.resize(HEADER_BYTES, 0);
}

/// Completes a datagram of a session, begun by [`begin`]. `header.protection` is the key's.
///
/// # Panics
/// If the body is longer than [`BODY_BYTES_MAX`]: bodies are made by this crate.
pub(crate) fn seal(out: &mut Vec<u8>, header: &Header, key: &SealKey) {
    let (level, cipher) = key.protection();
    assert!(header.protection == Protection::Sealed(level, cipher), "the key's protection");
    let length = out.len() - HEADER_BYTES;
    assert!(length <= BODY_BYTES_MAX, "body of {length} bytes");
    header.write(out, length);
    let code = key.seal(&header.nonce(), out, HEADER_BYTES);
    out.extend_from_slice(&code);
}

/// Writes a datagram that stands outside of any session.
pub(crate) fn sign(out: &mut Vec<u8>, header: &Header, body: &[u8], key: &MacKey) {
    begin(out);
    out.extend_from_slice(body);
    header.write(out, body.len());
    let code = key.mac(out);
    out.extend_from_slice(&code);
}

impl<'a> Datagram<'a> {
    /// Looks at the form of what came in.
    pub(crate) fn parse(bytes: &'a [u8]) -> Result<Self, FormError> {
        // Magic and version keep their place in all versions, so that a version can be said.
        let mut reader = Reader(bytes);
        if reader.array::<4>()? != MAGIC {
            return Err(FormError::Foreign);
        }
        let [theirs] = reader.array()?;
        if theirs != VERSION {
            return Err(FormError::Version { theirs });
        }
        let [kind, from, to, network, protection] = reader.array()?;
        let length = usize::from(u16::from_le_bytes(reader.array()?));
        let session = u32::from_le_bytes(reader.array()?);
        let tag = reader.array()?;
        let counter = u64::from_le_bytes(reader.array()?);
        if length > BODY_BYTES_MAX || reader.0.len() != length + MAC_BYTES {
            return Err(FormError::Truncated);
        }
        let (body, code) = reader.0.split_last_chunk().ok_or(FormError::Truncated)?;
        let kind = Kind::of(kind).ok_or(FormError::Foreign)?;
        let from = NodeId::new(from).map_err(|_| FormError::Foreign)?;
        let to = match to {
            0 => None,
            to => Some(NodeId::new(to).map_err(|_| FormError::Foreign)?),
        };
        let protection = Protection::of(protection).ok_or(FormError::Foreign)?;
        if kind.stands_alone() != (protection == Protection::Mac) {
            return Err(FormError::Foreign);
        }
        let header = Header { kind, from, to, network, protection, session, tag, counter };
        Ok(Self { header, body, signed: &bytes[..HEADER_BYTES + length], code })
    }

    /// Whether the holder of the key made it.
    pub(crate) fn signed_by(&self, key: &MacKey) -> bool {
        key.mac(self.signed).ct_eq(self.code).into()
    }

    /// The readable body, if the holder of the key made it. `space` is for it; its former content
    /// is lost.
    pub(crate) fn open<'s>(&self, key: &SealKey, space: &'s mut Vec<u8>) -> Option<&'s [u8]> {
        let (level, cipher) = key.protection();
        if self.header.protection != Protection::Sealed(level, cipher) {
            return None;
        }
        space.clear();
        space.extend_from_slice(self.signed);
        let good = key.open(&self.header.nonce(), space, HEADER_BYTES, self.code);
        good.then_some(&space[HEADER_BYTES..])
    }
}

/// Reads fixed-size fields from bytes of unknown origin.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reader<'a>(pub(crate) &'a [u8]);

impl<'a> Reader<'a> {
    /// The next `N` bytes.
    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], FormError> {
        let (field, rest) = self.0.split_first_chunk::<N>().ok_or(FormError::Truncated)?;
        self.0 = rest;
        Ok(*field)
    }

    /// The next `length` bytes.
    pub(crate) fn bytes(&mut self, length: usize) -> Result<&'a [u8], FormError> {
        let (field, rest) = self.0.split_at_checked(length).ok_or(FormError::Truncated)?;
        self.0 = rest;
        Ok(field)
    }

    /// All that is left.
    pub(crate) const fn rest(self) -> &'a [u8] {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::ClusterKey;

    const ALL: [(SecurityLevel, Cipher); 4] = [
        (SecurityLevel::Encrypt, Cipher::Aes256Gcm),
        (SecurityLevel::Sign, Cipher::Aes256Gcm),
        (SecurityLevel::Encrypt, Cipher::ChaCha20Poly1305),
        (SecurityLevel::Sign, Cipher::ChaCha20Poly1305),
    ];

    fn key((level, cipher): (SecurityLevel, Cipher)) -> SealKey {
        SealKey::new(&ClusterKey::from_bytes([7; 32]).derive(&[b"test"]), level, cipher)
    }

    fn header((level, cipher): (SecurityLevel, Cipher)) -> Header {
        Header {
            kind: Kind::Stream,
            from: NodeId::new(1).unwrap(),
            to: NodeId::new(64).ok(),
            network: 3,
            protection: Protection::Sealed(level, cipher),
            session: 0x0102_0304,
            tag: *b"tag 8 by",
            counter: u64::MAX - 1,
        }
    }

    fn sealed(how: (SecurityLevel, Cipher), body: &[u8]) -> Vec<u8> {
        let mut bytes = vec![1, 2, 3];
        begin(&mut bytes);
        bytes.extend_from_slice(body);
        seal(&mut bytes, &header(how), &key(how));
        bytes
    }

    #[test]
    fn every_truncation_and_extension_is_refused() {
        let mut bytes = sealed(ALL[0], b"body");
        let mut space = Vec::new();
        let open = Datagram::parse(&bytes).unwrap();
        assert_eq!(open.open(&key(ALL[0]), &mut space), Some(&b"body"[..]));
        for length in 0..bytes.len() {
            assert_eq!(Datagram::parse(&bytes[..length]).unwrap_err(), FormError::Truncated);
        }
        bytes.push(0);
        assert_eq!(Datagram::parse(&bytes).unwrap_err(), FormError::Truncated);
    }

    #[test]
    fn another_version_is_told_apart_from_rubbish() {
        let mut bytes = sealed(ALL[0], b"");
        bytes[4] = 9;
        assert_eq!(Datagram::parse(&bytes).unwrap_err(), FormError::Version { theirs: 9 });
        bytes[0] = b'w';
        assert_eq!(Datagram::parse(&bytes).unwrap_err(), FormError::Foreign);
    }

    #[test]
    fn the_layout_is_as_documented() {
        for (how, code) in ALL.into_iter().zip([2, 1, 4, 3]) {
            let bytes = sealed(how, &[0xaa; 8]);
            let expected = [
                b"WPCK".as_slice(),
                &[2, 3, 1, 64, 3, code, 8, 0, 4, 3, 2, 1],
                b"tag 8 by",
                &[0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
            ];
            assert_eq!(bytes[..HEADER_BYTES], expected.concat());
            assert_eq!(bytes.len(), HEADER_BYTES + 8 + MAC_BYTES);
            let readable = bytes[HEADER_BYTES..HEADER_BYTES + 8] == [0xaa; 8];
            assert_eq!(readable, how.0 == SecurityLevel::Sign, "{how:?}");
        }
    }

    #[test]
    fn levels_and_ciphers_are_not_taken_for_each_other() {
        let mut space = Vec::new();
        for made in ALL {
            let bytes = sealed(made, b"body");
            for opened in ALL {
                let datagram = Datagram::parse(&bytes).unwrap();
                let result = datagram.open(&key(opened), &mut space).is_some();
                assert_eq!(result, made == opened, "{made:?} {opened:?}");
            }
        }
    }

    #[test]
    fn a_lone_kind_is_never_sealed_and_others_always_are() {
        let mut bytes = sealed(ALL[0], b"body");
        bytes[9] = 0;
        assert_eq!(Datagram::parse(&bytes).unwrap_err(), FormError::Foreign);
        bytes[5] = 1;
        assert!(Datagram::parse(&bytes).is_ok());
        bytes[9] = 2;
        assert_eq!(Datagram::parse(&bytes).unwrap_err(), FormError::Foreign);
    }

    proptest! {
        #[test]
        fn what_was_sealed_opens(
            body in proptest::collection::vec(any::<u8>(), 0..=BODY_BYTES_MAX), how in 0..4usize,
        ) {
            let how = ALL[how];
            let bytes = sealed(how, &body);
            prop_assert!(bytes.len() <= DATAGRAM_BYTES_MAX);
            let datagram = Datagram::parse(&bytes).unwrap();
            prop_assert_eq!(datagram.header, header(how));
            let mut space = Vec::new();
            prop_assert_eq!(datagram.open(&key(how), &mut space), Some(&body[..]));
        }

        #[test]
        fn a_flipped_bit_is_never_authentic(bit in 0..(32 + 20 + 16) * 8usize, how in 0..4usize) {
            let how = ALL[how];
            let mut bytes = sealed(how, &[5; 20]);
            bytes[bit / 8] ^= 1 << (bit % 8);
            if let Ok(datagram) = Datagram::parse(&bytes) {
                prop_assert!(datagram.open(&key(how), &mut Vec::new()).is_none());
            }
        }

        #[test]
        fn rubbish_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
            let _ = Datagram::parse(&bytes);
        }
    }
}
