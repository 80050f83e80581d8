//! Captured datagrams in words, as far as the keys at hand allow.
//!
//! With the cluster key: whether hellos and the guard's words are authentic. With a key log: bodies
//! of sessions, and the messages in them if the capture begins before them. Without: headers, and
//! bodies that are not encrypted. Nothing here is trusted: a capture is bytes from anywhere.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write;

use wolfpack_types::heartbeat::Heartbeat;
use wolfpack_types::peer::{Class, PeerMessage};
use wolfpack_types::security::SecurityLevel;
use wolfpack_types::{NodeId, codec};

use crate::handshake::{Hello, hello_key};
use crate::key::{Key, hex};
use crate::packet::{Datagram, FormError, Header, Kind, Protection, VERSION, cluster_tag};
use crate::seal::SealKey;
use crate::stream::Receiver;
use crate::stream::wire::{Body, Frame};
use crate::{ClusterKey, NodeKey, testament};

/// Streams that are put together at once, at most.
const STREAMS_MAX: usize = 1024;
/// Characters of a message that are shown.
const MESSAGE_CHARS_MAX: usize = 160;

/// Says datagrams in words.
#[derive(Debug, Default)]
pub struct Dissector {
    cluster: Option<ClusterKey>,
    /// By name, the keys of the lower and of the higher node.
    sessions: BTreeMap<u32, [Key; 2]>,
    /// By sender, receiver and class.
    streams: BTreeMap<(NodeId, NodeId, Class), Receiver>,
    /// The salts of lives, by their hellos: streams end with them.
    lives: BTreeMap<NodeId, [u8; 16]>,
    space: Vec<u8>,
}

/// A line of a key log that is none.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("line {line} of the key log is not one of ours")]
pub struct KeyLogError {
    pub line: usize,
}

impl Dissector {
    /// Without any key.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the cluster key.
    pub fn set_cluster_key(&mut self, key: ClusterKey) {
        self.cluster = Some(key);
    }

    /// Takes the text of a key log.
    ///
    /// # Errors
    /// A line that is not of a key log; those before it are taken.
    pub fn add_key_log(&mut self, text: &str) -> Result<(), KeyLogError> {
        for (n, line) in text.lines().enumerate() {
            let words: Vec<&str> = line.split(' ').collect();
            let taken = match words[..] {
                ["SESSION", name, _, _, low, high] => (|| {
                    let name = u32::from_str_radix(name, 16).ok()?;
                    let keys = [hex::decode(low.as_bytes())?, hex::decode(high.as_bytes())?];
                    self.sessions.insert(name, keys);
                    Some(())
                })(),
                _ => None,
            };
            taken.ok_or(KeyLogError { line: n + 1 })?;
        }
        Ok(())
    }

    /// A datagram in words: one line, and one for each part of its body.
    #[must_use]
    pub fn describe(&mut self, bytes: &[u8]) -> String {
        let datagram = match Datagram::parse(bytes) {
            Ok(datagram) => datagram,
            Err(FormError::Truncated) => return "cut, or of another length than it says".into(),
            Err(FormError::Foreign) => return "not a cluster datagram".into(),
            Err(FormError::Version { theirs }) => {
                return format!("cluster protocol version {theirs}; this is version {VERSION}");
            }
        };
        let mut text = head(&datagram.header, bytes.len());
        if let Some(key) = &self.cluster
            && cluster_tag(key.cluster_id()) != datagram.header.tag
        {
            text.push_str("; of another cluster than the key's");
        }
        match datagram.header.kind {
            Kind::Hello => self.hello(&mut text, &datagram),
            Kind::AllTerminated => self.testament(&mut text, &datagram),
            Kind::Heartbeat | Kind::Stream => self.session(&mut text, &datagram),
        }
        text
    }

    fn hello(&mut self, text: &mut String, datagram: &Datagram<'_>) {
        let header = &datagram.header;
        if let (Some(cluster), Some(to)) = (&self.cluster, header.to) {
            let known = cluster.generations().find(|(name, _)| *name == header.session);
            let (own, theirs) =
                (NodeKey::derived(cluster, header.from), NodeKey::derived(cluster, to));
            let shared = own.agree(&theirs.public());
            let verdict = match known.zip(shared) {
                None => "of a generation of the cluster key that is not given",
                Some(((_, key), shared)) => {
                    if datagram.signed_by(&hello_key(key, header.from, to, &shared)) {
                        "authentic"
                    } else {
                        "authentic only if these nodes have keys of their own: this key alone \
                         cannot tell"
                    }
                }
            };
            let _ = write!(text, "; {verdict}");
        }
        let Ok(hello) = Hello::decode(datagram.body) else {
            text.push_str("\n  a body that makes no sense");
            return;
        };
        if self.lives.insert(header.from, hello.salt).is_some_and(|before| before != hello.salt) {
            self.streams.retain(|&(from, to, _), _| from != header.from && to != header.from);
        }
        let short = |bytes: &[u8]| hex::encode(&bytes[..8]).to_string();
        let echo = hello.echo.map_or_else(|| "nothing".into(), |echo| short(&echo.0));
        let _ = write!(
            text,
            "\n  incarnation {}, life {}, offers {}, gives back {echo}, wants {} by {}{}{}",
            hello.inc.0,
            short(&hello.salt),
            short(&hello.offer.0),
            hello.wish.level,
            hello.wish.cipher,
            if hello.wants_answer { ", asks for an answer" } else { "" },
            if hello.agreed { ", has the session" } else { "" },
        );
    }

    fn testament(&self, text: &mut String, datagram: &Datagram<'_>) {
        let inc = datagram.header.counter;
        let _ = write!(text, "\n  nothing of incarnation {inc} runs any more");
        if let Some(key) = &self.cluster {
            let good = testament::open(datagram, &testament::guard_keys(key)).is_some();
            text.push_str(if good { "; authentic" } else { "; not authentic under this key" });
        }
    }

    fn session(&mut self, text: &mut String, datagram: &Datagram<'_>) {
        let header = datagram.header;
        let (Protection::Sealed(level, cipher), Some(to)) = (header.protection, header.to) else {
            return;
        };
        let mut space = std::mem::take(&mut self.space);
        if let Some(keys) = self.sessions.get(&header.session) {
            let key = &keys[usize::from(header.from > to)];
            match datagram.open(&SealKey::new(key, level, cipher), &mut space) {
                Some(body) => self.body(text, &header, to, body),
                None => text.push_str("\n  not authentic under the key of the log"),
            }
        } else if level == SecurityLevel::Sign {
            text.push_str("; not verified: its session is not in the key log");
            self.body(text, &header, to, datagram.body);
        } else {
            text.push_str("\n  encrypted; its session is not in the key log");
        }
        self.space = space;
    }

    fn body(&mut self, text: &mut String, header: &Header, to: NodeId, body: &[u8]) {
        if header.kind == Kind::Heartbeat {
            match codec::decode::<Heartbeat>("heartbeat", body) {
                Ok(heartbeat) => drop(write!(text, "\n  {heartbeat:?}")),
                Err(error) => drop(write!(text, "\n  {error}")),
            }
            return;
        }
        let Ok((head, mut frames)) = Body::open(body) else {
            text.push_str("\n  a body that makes no sense");
            return;
        };
        let _ = write!(text, "\n  datagram {} of the stream", head.mark.serial);
        if let Some(echo) = head.echo {
            let _ = write!(text, ", the newest that came was {}", echo.serial);
        }
        loop {
            match frames.next() {
                Ok(None) => return,
                Ok(Some(Frame::Ack(class, ack))) => {
                    let _ = write!(text, "\n  {class:?}: all before {} came", ack.next);
                    for (from, end) in ack.held {
                        let _ = write!(text, ", {from} to {end} too");
                    }
                }
                Ok(Some(Frame::Piece { class, place, bytes })) => {
                    let end = place + bytes.len() as u64;
                    let _ = write!(text, "\n  {class:?}: bytes {place} to {end}");
                    self.messages(text, (header.from, to, class), place, bytes);
                }
                Err(_) => {
                    text.push_str("\n  a rest that makes no sense");
                    return;
                }
            }
        }
    }

    /// The messages that a piece completes, if the stream was seen from its beginning.
    fn messages(
        &mut self,
        text: &mut String,
        stream: (NodeId, NodeId, Class),
        place: u64,
        bytes: &[u8],
    ) {
        if self.streams.len() >= STREAMS_MAX && !self.streams.contains_key(&stream) {
            return;
        }
        let receiver = self.streams.entry(stream).or_insert_with(Receiver::new);
        let mut messages = VecDeque::new();
        let _ = receiver.take(place, bytes, false, &mut messages);
        for message in messages {
            let words = match codec::decode::<PeerMessage>("message", &message) {
                Ok(message) => format!("{message:?}"),
                Err(_) => "not a message of the core".into(),
            };
            let shown: String = words.chars().take(MESSAGE_CHARS_MAX).collect();
            let dots = if shown.len() < words.len() { " ..." } else { "" };
            let _ = write!(text, "\n    {} bytes: {shown}{dots}", message.len());
        }
    }
}

fn head(header: &Header, length: usize) -> String {
    let kind = match header.kind {
        Kind::Hello => "hello",
        Kind::Heartbeat => "heartbeat",
        Kind::Stream => "messages",
        Kind::AllTerminated => "all terminated",
    };
    let to = header.to.map_or_else(|| "all".into(), |to| format!("node {to}"));
    let mut text = format!("{kind} from node {} to {to}, {length} bytes", header.from);
    if header.network != crate::packet::NETWORK_ANY {
        let _ = write!(text, ", network {}", header.network);
    }
    match header.protection {
        Protection::Mac => drop(write!(text, ", key generation {:08x}", header.session)),
        Protection::Sealed(level, cipher) => drop(write!(
            text,
            ", session {:08x} number {}, {level} by {cipher}",
            header.session, header.counter
        )),
    }
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use wolfpack_types::{Incarnation, NodeInc};

    use super::*;

    #[test]
    fn the_guards_word_is_told_and_checked() {
        let key = ClusterKey::from_bytes([5; 32]);
        let who = NodeInc::new(NodeId::new(3).unwrap(), Incarnation(9));
        let bytes = testament::seal(&key, who);
        let mut without = Dissector::new();
        let text = without.describe(&bytes);
        assert!(text.contains("all terminated from node 3 to all"), "{text}");
        assert!(text.contains("incarnation 9") && !text.contains("authentic"), "{text}");
        let mut with = Dissector::new();
        with.set_cluster_key(key);
        assert!(with.describe(&bytes).contains("; authentic"));
        let mut other = Dissector::new();
        other.set_cluster_key(ClusterKey::from_bytes([6; 32]));
        let text = other.describe(&bytes);
        assert!(text.contains("another cluster") && text.contains("not authentic"), "{text}");
    }

    #[test]
    fn a_bad_key_log_names_its_line() {
        let good = format!("SESSION 0102abcd 1 2 {} {}\n", "ab".repeat(32), "cd".repeat(32));
        let mut dissector = Dissector::new();
        assert_eq!(dissector.add_key_log(&good), Ok(()));
        for bad in ["\n", "SESSION x 1 2 ab cd\n", "OTHER 1\n"] {
            let error = dissector.add_key_log(&format!("{good}{bad}")).unwrap_err();
            assert_eq!(error, KeyLogError { line: 2 });
        }
    }

    proptest! {
        #[test]
        fn nonsense_is_borne(
            bytes in proptest::collection::vec(any::<u8>(), 0..300), mark in any::<bool>(),
            kind in 0..7u8, protection in 0..6u8,
        ) {
            let mut bytes = bytes;
            if mark && bytes.len() >= 48 {
                let length = u16::try_from(bytes.len() - 48).unwrap().to_le_bytes();
                bytes[..12].copy_from_slice(&[
                    b'W', b'P', b'C', b'K', VERSION, kind, 1, 2, 0, protection, length[0], length[1],
                ]);
            }
            let mut dissector = Dissector::new();
            dissector.set_cluster_key(ClusterKey::from_bytes([5; 32]));
            prop_assert!(!dissector.describe(&bytes).is_empty());
        }
    }
}
