//! Netlink's framing (`linux/netlink.h`): message headers, acknowledgements, attributes. Pure bytes,
//! in the machine's own byte order as the kernel wants it.

/// Bytes of a message header.
pub(crate) const HEADER_BYTES: usize = 16;

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLA_TYPE_MASK: u16 = 0x3fff;
const NLA_NESTED: u16 = 0x8000;

/// The dump was disturbed by a change and may miss things.
pub(crate) const NLM_F_DUMP_INTR: u16 = 0x10;

/// What one message of an answer is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    /// `NLMSG_ERROR`: zero is an acknowledgement, else a positive errno.
    Ack(i32),
    /// The end of a dump.
    Done,
    /// Of the protocol, with its type.
    Data(u16),
}

/// One message of an answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Frame<'a> {
    pub(crate) kind: Kind,
    pub(crate) flags: u16,
    pub(crate) seq: u32,
    /// Header and body.
    pub(crate) whole: &'a [u8],
}

impl<'a> Frame<'a> {
    /// The body, without the header.
    pub(crate) fn body(&self) -> &'a [u8] {
        &self.whole[HEADER_BYTES..]
    }
}

/// Splits a datagram into its messages. Ends at the first header that does not fit; the rest cannot
/// be told from noise.
#[derive(Clone, Debug)]
pub(crate) struct Frames<'a>(pub(crate) &'a [u8]);

impl<'a> Iterator for Frames<'a> {
    type Item = Frame<'a>;

    fn next(&mut self) -> Option<Frame<'a>> {
        let head: &[u8; HEADER_BYTES] = self.0.first_chunk()?;
        let length = usize::try_from(u32_at(head, 0)).ok()?;
        if length < HEADER_BYTES || length > self.0.len() {
            return None;
        }
        let whole = &self.0[..length];
        let kind = match u16::from_ne_bytes([head[4], head[5]]) {
            NLMSG_ERROR => {
                let code = whole.get(HEADER_BYTES..HEADER_BYTES + 4)?;
                Kind::Ack(i32::from_ne_bytes(code.try_into().ok()?).wrapping_neg())
            }
            NLMSG_DONE => Kind::Done,
            other => Kind::Data(other),
        };
        self.0 = &self.0[aligned(length).min(self.0.len())..];
        Some(Frame {
            kind,
            flags: u16::from_ne_bytes([head[6], head[7]]),
            seq: u32_at(head, 8),
            whole,
        })
    }
}

/// The attributes of a body: (type without flags, value). Ends at the first that does not fit.
#[derive(Clone, Debug)]
pub(crate) struct Attributes<'a>(pub(crate) &'a [u8]);

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<(u16, &'a [u8])> {
        let head: &[u8; 4] = self.0.first_chunk()?;
        let length = usize::from(u16::from_ne_bytes([head[0], head[1]]));
        let kind = u16::from_ne_bytes([head[2], head[3]]) & NLA_TYPE_MASK;
        let value = self.0.get(4..length)?;
        self.0 = &self.0[aligned(length).min(self.0.len())..];
        Some((kind, value))
    }
}

/// Writes messages one after the other into one buffer.
#[derive(Debug, Default)]
pub(crate) struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    /// One message; `body` writes what follows the header.
    pub(crate) fn message(
        &mut self,
        kind: u16,
        flags: u16,
        seq: u32,
        body: impl FnOnce(&mut Self),
    ) -> &mut Self {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(&flags.to_ne_bytes());
        self.bytes.extend_from_slice(&seq.to_ne_bytes());
        self.bytes.extend_from_slice(&[0; 4]);
        body(self);
        let length = u32::try_from(self.bytes.len() - start).expect("messages are small");
        self.bytes[start..start + 4].copy_from_slice(&length.to_ne_bytes());
        self.pad();
        self
    }

    /// An attribute with a value.
    pub(crate) fn attribute(&mut self, kind: u16, value: &[u8]) -> &mut Self {
        self.open(kind, |w| w.raw(value))
    }

    /// An attribute that holds attributes.
    pub(crate) fn nested(&mut self, kind: u16, inside: impl FnOnce(&mut Self)) -> &mut Self {
        self.open(kind | NLA_NESTED, inside)
    }

    /// Bytes as they are.
    pub(crate) fn raw(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    pub(crate) fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    fn open(&mut self, kind: u16, inside: impl FnOnce(&mut Self)) -> &mut Self {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 2]);
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        inside(self);
        let length = u16::try_from(self.bytes.len() - start).expect("attributes are small");
        self.bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        self.pad();
        self
    }

    fn pad(&mut self) {
        self.bytes.resize(aligned(self.bytes.len()), 0);
    }
}

const fn aligned(length: usize) -> usize {
    length.next_multiple_of(4)
}

fn u32_at(bytes: &[u8; HEADER_BYTES], at: usize) -> u32 {
    u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn reads_what_it_writes() {
        let mut w = Writer::default();
        w.message(0x0a0c, 5, 7, |w| {
            w.raw(&[1, 2, 3, 4]);
            w.attribute(1, b"abc\0");
            w.nested(3, |w| {
                w.attribute(1, &[9]);
            });
        });
        w.message(0x11, 1, 8, |_| ());
        let bytes = w.into_bytes();
        let frames: Vec<_> = Frames(&bytes).collect();
        assert_eq!(frames.len(), 2);
        assert_eq!((frames[0].kind, frames[0].flags, frames[0].seq), (Kind::Data(0x0a0c), 5, 7));
        let attributes: Vec<_> = Attributes(&frames[0].body()[4..]).collect();
        assert_eq!(attributes[0], (1, &b"abc\0"[..]));
        let inside: Vec<_> = Attributes(attributes[1].1).collect();
        assert_eq!(inside, [(1, &[9u8][..])]);
        assert_eq!((frames[1].kind, frames[1].body()), (Kind::Data(0x11), &[][..]));
    }

    #[test]
    fn acknowledgements_carry_a_positive_errno() {
        let mut w = Writer::default();
        w.message(NLMSG_ERROR, 0, 3, |w| w.raw(&(-17i32).to_ne_bytes()));
        w.message(NLMSG_ERROR, 0, 4, |w| w.raw(&0i32.to_ne_bytes()));
        let bytes = w.into_bytes();
        let kinds: Vec<_> = Frames(&bytes).map(|f| (f.kind, f.seq)).collect();
        assert_eq!(kinds, [(Kind::Ack(17), 3), (Kind::Ack(0), 4)]);
    }

    proptest! {
        #[test]
        fn any_bytes_end(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            for frame in Frames(&bytes) {
                prop_assert!(frame.whole.len() >= HEADER_BYTES);
            }
            prop_assert!(Attributes(&bytes).count() <= bytes.len());
        }
    }
}
