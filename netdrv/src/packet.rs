//! The layout of a datagram: fixed little-endian header, body, authentication code.
//!
//! ```text
//!   0               4       5       6       7       8
//!   +---------------+-------+-------+-------+-------+
//!   | magic "WPCK"  |version| kind  | from  |  to   |
//!   +-------+-------+-------+-------+-------+-------+
//!   |network|   0   |body length (2)|  session (4)  |
//!   +-------+-------+---------------+---------------+ 16
//!   | cluster tag: first 8 bytes of the cluster id  |
//!   +-----------------------------------------------+ 24
//!   | counter of this session on this network       |
//!   +-----------------------------------------------+ 32
//!   | body, 0 to 1352 bytes                         |
//!   +-----------------------------------------------+
//!   | HMAC-SHA256 of all before, first 16 bytes     |
//!   +-----------------------------------------------+
//! ```
//! `session` is 0 in hello and AllTerminated datagrams, which have keys of their own. Whether the
//! sender may say what it says is the business of `session`; here is only form.

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use subtle::ConstantTimeEq;
use wolfpack_types::{ClusterId, NodeId};

use crate::key::Key;

/// What this release speaks. Raised when an older release could not understand a datagram.
pub(crate) const VERSION: u8 = 1;
/// The longest datagram: passes every Ethernet with room for tunnels, unfragmented.
pub(crate) const DATAGRAM_BYTES_MAX: usize = 1400;
/// The longest body.
pub(crate) const BODY_BYTES_MAX: usize = DATAGRAM_BYTES_MAX - HEADER_BYTES - MAC_BYTES;

pub(crate) const MAGIC: [u8; 4] = *b"WPCK";
/// For the filter in the kernel: where kind and cluster tag lie, and which kind needs no known
/// sender. The version follows the magic.
pub(crate) const KIND_AT: usize = 5;
pub(crate) const TAG_AT: usize = 16;
pub(crate) const TESTAMENT_KIND: u8 = Kind::AllTerminated.code();
const HEADER_BYTES: usize = 32;
const MAC_BYTES: usize = 16;
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
    Fragment,
    MessageAck,
    AllTerminated,
}

impl Kind {
    const fn code(self) -> u8 {
        match self {
            Self::Hello => 1,
            Self::Heartbeat => 2,
            Self::Fragment => 3,
            Self::MessageAck => 4,
            Self::AllTerminated => 5,
        }
    }

    const fn of(code: u8) -> Option<Self> {
        match code {
            1 => Some(Self::Hello),
            2 => Some(Self::Heartbeat),
            3 => Some(Self::Fragment),
            4 => Some(Self::MessageAck),
            5 => Some(Self::AllTerminated),
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
    pub(crate) session: u32,
    pub(crate) tag: ClusterTag,
    pub(crate) counter: u64,
}

/// A datagram whose form is right. Nothing is authenticated yet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Datagram<'a> {
    pub(crate) header: Header,
    pub(crate) body: &'a [u8],
    signed: &'a [u8],
    mac: &'a [u8],
}

/// Bytes that are no datagram of ours.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum FormError {
    Truncated,
    Foreign,
    Version { theirs: u8 },
}

/// A key ready to authenticate.
#[derive(Clone)]
pub(crate) struct MacKey(Hmac<Sha256>);

impl std::fmt::Debug for MacKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("MacKey(..)")
    }
}

impl MacKey {
    pub(crate) fn new(key: &Key) -> Self {
        Self(Hmac::new_from_slice(key.as_slice()).expect("HMAC takes keys of any length"))
    }

    fn mac(&self, signed: &[u8]) -> [u8; MAC_BYTES] {
        let mut mac = self.0.clone();
        mac.update(signed);
        let full = mac.finalize().into_bytes();
        let mut cut = [0; MAC_BYTES];
        cut.copy_from_slice(&full[..MAC_BYTES]);
        cut
    }
}

/// Writes a datagram into `out`, whose former content is dropped.
///
/// # Panics
/// If the body is longer than [`BODY_BYTES_MAX`]: bodies are made by this crate.
pub(crate) fn seal(out: &mut Vec<u8>, header: &Header, body: &[u8], key: &MacKey) {
    assert!(body.len() <= BODY_BYTES_MAX, "body of {} bytes", body.len());
    let length = u16::try_from(body.len()).expect("checked just above");
    out.clear();
    out.extend_from_slice(&MAGIC);
    out.push(VERSION);
    out.push(header.kind.code());
    out.push(header.from.get());
    out.push(header.to.map_or(0, NodeId::get));
    out.push(header.network);
    out.push(0);
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(&header.session.to_le_bytes());
    out.extend_from_slice(&header.tag);
    out.extend_from_slice(&header.counter.to_le_bytes());
    out.extend_from_slice(body);
    let mac = key.mac(out);
    out.extend_from_slice(&mac);
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
        let [kind, from, to, network, zero] = reader.array()?;
        let length = usize::from(u16::from_le_bytes(reader.array()?));
        let session = u32::from_le_bytes(reader.array()?);
        let tag = reader.array()?;
        let counter = u64::from_le_bytes(reader.array()?);
        if length > BODY_BYTES_MAX || reader.0.len() != length + MAC_BYTES {
            return Err(FormError::Truncated);
        }
        let (body, mac) = reader.0.split_at(length);
        let kind = Kind::of(kind).ok_or(FormError::Foreign)?;
        let from = NodeId::new(from).map_err(|_| FormError::Foreign)?;
        let to = match to {
            0 => None,
            to => Some(NodeId::new(to).map_err(|_| FormError::Foreign)?),
        };
        if zero != 0 {
            return Err(FormError::Foreign);
        }
        let header = Header { kind, from, to, network, session, tag, counter };
        Ok(Self { header, body, signed: &bytes[..HEADER_BYTES + length], mac })
    }

    /// Whether the holder of the key made it.
    pub(crate) fn authentic(&self, key: &MacKey) -> bool {
        key.mac(self.signed).ct_eq(self.mac).into()
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

    fn key() -> MacKey {
        MacKey::new(&ClusterKey::from_bytes([7; 32]).derive(&[b"test"]))
    }

    fn header() -> Header {
        Header {
            kind: Kind::Fragment,
            from: NodeId::new(1).unwrap(),
            to: NodeId::new(64).ok(),
            network: 3,
            session: 0x0102_0304,
            tag: *b"tag 8 by",
            counter: u64::MAX - 1,
        }
    }

    #[test]
    fn every_truncation_and_extension_is_refused() {
        let mut bytes = Vec::new();
        seal(&mut bytes, &header(), b"body", &key());
        assert!(Datagram::parse(&bytes).unwrap().authentic(&key()));
        for length in 0..bytes.len() {
            assert_eq!(Datagram::parse(&bytes[..length]).unwrap_err(), FormError::Truncated);
        }
        bytes.push(0);
        assert_eq!(Datagram::parse(&bytes).unwrap_err(), FormError::Truncated);
    }

    #[test]
    fn another_version_is_told_apart_from_rubbish() {
        let mut bytes = Vec::new();
        seal(&mut bytes, &header(), b"", &key());
        bytes[4] = 9;
        assert_eq!(Datagram::parse(&bytes).unwrap_err(), FormError::Version { theirs: 9 });
        bytes[0] = b'w';
        assert_eq!(Datagram::parse(&bytes).unwrap_err(), FormError::Foreign);
    }

    #[test]
    fn the_layout_is_as_documented() {
        let mut bytes = Vec::new();
        seal(&mut bytes, &header(), &[0xaa], &key());
        let expected = [
            b"WPCK".as_slice(),
            &[1, 3, 1, 64, 3, 0, 1, 0, 4, 3, 2, 1],
            b"tag 8 by",
            &[0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xaa],
        ];
        assert_eq!(bytes[..33], expected.concat());
        assert_eq!(bytes.len(), 33 + MAC_BYTES);
    }

    proptest! {
        #[test]
        fn what_was_sealed_opens(body in proptest::collection::vec(any::<u8>(), 0..=BODY_BYTES_MAX)) {
            let mut bytes = vec![1, 2, 3];
            seal(&mut bytes, &header(), &body, &key());
            prop_assert!(bytes.len() <= DATAGRAM_BYTES_MAX);
            let datagram = Datagram::parse(&bytes).unwrap();
            prop_assert_eq!(datagram.header, header());
            prop_assert_eq!(datagram.body, &body[..]);
            prop_assert!(datagram.authentic(&key()));
        }

        #[test]
        fn a_flipped_bit_is_never_authentic(bit in 0..(32 + 20 + 16) * 8usize) {
            let mut bytes = Vec::new();
            seal(&mut bytes, &header(), &[5; 20], &key());
            bytes[bit / 8] ^= 1 << (bit % 8);
            if let Ok(datagram) = Datagram::parse(&bytes) {
                prop_assert!(!datagram.authentic(&key()));
            }
        }

        #[test]
        fn rubbish_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
            let _ = Datagram::parse(&bytes);
        }
    }
}
