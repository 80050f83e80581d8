//! Sessions: who may speak, and that nobody speaks twice.
//!
//! Two lives that hold the cluster key agree on session keys by hello datagrams; every other
//! datagram is authenticated under them and counted.
//!
//! ```text
//!   A                                       B
//!   | hello{inc, salt a, echo -, answer!} ->|
//!   |<- hello{inc, salt b, echo a, answer!} |     A: my salt came back: B lives now. Session.
//!   | hello{inc, salt a, echo b} ---------->|     B: likewise. Session.
//!   |<======= heartbeats, messages ========>|     confirmed: no more hellos
//! ```
//! A salt is made anew for every life, so a recorded hello never has the right echo after a
//! restart, and a recorded datagram never the right key. An answer needs no memory, so strangers
//! cost none. Until a datagram of the session has arrived, hellos go on with every heartbeat.
//!
//! Pure: the salt is given, time is a parameter.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use wolfpack_types::{Incarnation, Instant, NetworkId, NodeId, NodeInc};

use crate::packet::{
    ClusterTag, Datagram, FormError, Header, Kind, MacKey, Reader, cluster_tag, seal,
};
use crate::replay::ReplayWindow;
use crate::{ClusterKey, DropReason};

/// Random bytes that name a life, for one life only.
pub(crate) type Salt = [u8; 16];

/// Answers to hellos, per path: at most a burst of this many, then one in each pause. A flood of
/// recorded hellos is not made into a flood of answers.
const ANSWER_BURST: u32 = 8;
const ANSWER_PAUSE: Duration = Duration::from_millis(10);

/// Body of a hello datagram.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Hello {
    inc: Incarnation,
    salt: Salt,
    /// The receiver's salt, as far as the sender knows it.
    echo: Option<Salt>,
    wants_answer: bool,
}

impl Hello {
    fn encode(&self) -> Vec<u8> {
        let mut body = Vec::with_capacity(41);
        body.extend_from_slice(&self.inc.0.to_le_bytes());
        body.extend_from_slice(&self.salt);
        body.extend_from_slice(&self.echo.unwrap_or_default());
        body.push(u8::from(self.echo.is_some()) | u8::from(self.wants_answer) << 1);
        body
    }

    fn decode(body: &[u8]) -> Result<Self, FormError> {
        let mut reader = Reader(body);
        let inc = Incarnation(u64::from_le_bytes(reader.array()?));
        let salt = reader.array()?;
        let echo = reader.array()?;
        let [flags] = reader.array()?;
        if !reader.rest().is_empty() || flags > 3 {
            return Err(FormError::Truncated);
        }
        let echo = (flags & 1 != 0).then_some(echo);
        Ok(Self { inc, salt, echo, wants_answer: flags & 2 != 0 })
    }
}

/// An agreement with one life of a peer.
#[derive(Debug)]
struct Session {
    life: NodeInc,
    salt: Salt,
    tag: u32,
    send: MacKey,
    receive: MacKey,
    /// A datagram of it has arrived: the peer has it too.
    confirmed: bool,
    counters: BTreeMap<NetworkId, u64>,
    windows: BTreeMap<NetworkId, ReplayWindow>,
}

/// How many answers may still be sent on a path.
#[derive(Debug)]
struct Allowance {
    left: u32,
    since: Instant,
}

impl Allowance {
    fn take(&mut self, now: Instant) -> bool {
        let gained = now.since(self.since).as_nanos() / ANSWER_PAUSE.as_nanos();
        if gained > 0 {
            let gained = u32::try_from(gained).unwrap_or(u32::MAX);
            self.left = self.left.saturating_add(gained).min(ANSWER_BURST);
            self.since = now;
        }
        let may = self.left > 0;
        self.left -= u32::from(may);
        may
    }
}

#[derive(Debug)]
struct Peer {
    session: Option<Session>,
    answers: BTreeMap<NetworkId, Allowance>,
}

/// What a hello led to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Greeted {
    /// A session with this life has begun; one with an earlier life has ended.
    pub(crate) established: Option<NodeInc>,
    /// To be sent back on the same path at once.
    pub(crate) answer: Option<Answer>,
}

/// An answer to a hello, to be made by [`Sessions::seal_answer`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Answer {
    echo: Salt,
    wants_answer: bool,
}

/// The sessions of this life with all its peers.
#[derive(Debug)]
pub(crate) struct Sessions {
    me: NodeInc,
    salt: Salt,
    key: ClusterKey,
    tag: ClusterTag,
    hello: MacKey,
    peers: BTreeMap<NodeId, Peer>,
}

impl Sessions {
    pub(crate) fn new(
        me: NodeInc,
        key: &ClusterKey,
        salt: Salt,
        paths: &BTreeMap<NodeId, BTreeSet<NetworkId>>,
        now: Instant,
    ) -> Self {
        let allowance = || Allowance { left: ANSWER_BURST, since: now };
        let peer = |networks: &BTreeSet<NetworkId>| Peer {
            session: None,
            answers: networks.iter().map(|&network| (network, allowance())).collect(),
        };
        Self {
            me,
            salt,
            tag: cluster_tag(key.cluster_id()),
            hello: MacKey::new(&key.derive(&[b"wolfpack hello"])),
            key: key.clone(),
            peers: paths.iter().map(|(&node, networks)| (node, peer(networks))).collect(),
        }
    }

    pub(crate) const fn tag(&self) -> ClusterTag {
        self.tag
    }

    /// The life that there is a session with.
    pub(crate) fn life(&self, node: NodeId) -> Option<NodeInc> {
        Some(self.peers.get(&node)?.session.as_ref()?.life)
    }

    /// Whether hellos are still to be sent to this peer.
    pub(crate) fn unconfirmed(&self, node: NodeId) -> bool {
        self.peers.get(&node).is_some_and(|p| p.session.as_ref().is_none_or(|s| !s.confirmed))
    }

    /// A hello that nobody asked for: sent until the session is confirmed.
    pub(crate) fn seal_hello(&self, out: &mut Vec<u8>, network: NetworkId, to: NodeId) {
        let session = self.peers.get(&to).and_then(|peer| peer.session.as_ref());
        let echo = session.map(|session| session.salt);
        let wants_answer = true;
        self.seal_greeting(out, network, to, echo, wants_answer);
    }

    /// The answer to a hello.
    pub(crate) fn seal_answer(
        &self,
        out: &mut Vec<u8>,
        network: NetworkId,
        to: NodeId,
        answer: Answer,
    ) {
        self.seal_greeting(out, network, to, Some(answer.echo), answer.wants_answer);
    }

    fn seal_greeting(
        &self,
        out: &mut Vec<u8>,
        network: NetworkId,
        to: NodeId,
        echo: Option<Salt>,
        wants_answer: bool,
    ) {
        let hello = Hello { inc: self.me.inc, salt: self.salt, echo, wants_answer };
        let header = Header {
            kind: Kind::Hello,
            from: self.me.node,
            to: Some(to),
            network: network.0,
            session: 0,
            tag: self.tag,
            counter: 0,
        };
        seal(out, &header, &hello.encode(), &self.hello);
    }

    /// Writes a datagram of the session with `to`; false without one.
    pub(crate) fn seal(
        &mut self,
        out: &mut Vec<u8>,
        kind: Kind,
        network: NetworkId,
        to: NodeId,
        body: &[u8],
    ) -> bool {
        let peer = self.peers.get_mut(&to);
        let Some(session) = peer.and_then(|peer| peer.session.as_mut()) else { return false };
        let counter = session.counters.entry(network).or_insert(0);
        *counter += 1;
        let header = Header {
            kind,
            from: self.me.node,
            to: Some(to),
            network: network.0,
            session: session.tag,
            tag: self.tag,
            counter: *counter,
        };
        seal(out, &header, body, &session.send);
        true
    }

    /// A hello that came in on `network` from a peer. The caller has compared tag and receiver.
    pub(crate) fn greet(
        &mut self,
        now: Instant,
        network: NetworkId,
        datagram: &Datagram<'_>,
    ) -> Result<Greeted, DropReason> {
        let from = datagram.header.from;
        let peer = self.peers.get_mut(&from).ok_or(DropReason::UnknownSender)?;
        if !datagram.authentic(&self.hello) {
            return Err(DropReason::Forged(from));
        }
        let hello = Hello::decode(datagram.body).map_err(|_| DropReason::Malformed(from))?;
        let current = peer.session.as_ref();
        if current.is_some_and(|session| hello.inc < session.life.inc) {
            return Err(DropReason::OldLife(from));
        }
        // My salt in it: its sender has heard this life of mine, so it is not from the past.
        let fresh = hello.echo == Some(self.salt);
        let known = current.is_some_and(|session| session.salt == hello.salt);
        if fresh && !known && current.is_some_and(|session| session.life.inc == hello.inc) {
            return Err(DropReason::Clone { node: from, inc: hello.inc });
        }
        let may_answer =
            hello.wants_answer && peer.answers.get_mut(&network).is_some_and(|a| a.take(now));
        let mut established = None;
        if fresh && !known {
            let life = NodeInc::new(from, hello.inc);
            let session = agree(&self.key, (self.me, &self.salt), (life, &hello.salt));
            peer.session = Some(session);
            established = Some(life);
        }
        let wants_answer = !fresh && !known;
        let answer = may_answer.then_some(Answer { echo: hello.salt, wants_answer });
        Ok(Greeted { established, answer })
    }

    /// Checks a datagram of a session that came in on `network`: whose life sent it. Says so once
    /// for each datagram. The caller has compared tag and receiver.
    pub(crate) fn open(
        &mut self,
        network: NetworkId,
        datagram: &Datagram<'_>,
    ) -> Result<NodeInc, DropReason> {
        let header = &datagram.header;
        let from = header.from;
        let peer = self.peers.get_mut(&from).ok_or(DropReason::UnknownSender)?;
        let session = peer.session.as_mut().ok_or(DropReason::NoSession)?;
        if header.session != session.tag {
            return Err(DropReason::OtherSession(from));
        }
        if !datagram.authentic(&session.receive) {
            return Err(DropReason::Forged(from));
        }
        let window = session.windows.entry(network).or_insert_with(ReplayWindow::new);
        if !window.admit(header.counter) {
            return Err(DropReason::Replayed(from));
        }
        session.confirmed = true;
        Ok(session.life)
    }
}

/// The session of two lives; both sides come to the same one. The lower node is named first.
fn agree(key: &ClusterKey, mine: (NodeInc, &Salt), theirs: (NodeInc, &Salt)) -> Session {
    let (low, high) = if mine.0.node < theirs.0.node { (mine, theirs) } else { (theirs, mine) };
    let derive = |what: &[u8]| {
        let (low_inc, high_inc) = (low.0.inc.0.to_le_bytes(), high.0.inc.0.to_le_bytes());
        key.derive(&[
            b"wolfpack session",
            &[low.0.node.get()],
            &low_inc,
            low.1,
            &[high.0.node.get()],
            &high_inc,
            high.1,
            what,
        ])
    };
    let from = |who: NodeInc| MacKey::new(&derive(&[b'<', who.node.get()]));
    let [a, b, c, d, ..] = *derive(b"tag");
    Session {
        life: theirs.0,
        salt: *theirs.1,
        tag: u32::from_le_bytes([a, b, c, d]),
        send: from(mine.0),
        receive: from(theirs.0),
        confirmed: false,
        counters: BTreeMap::new(),
        windows: BTreeMap::new(),
    }
}

#[cfg(test)]
mod tests;
