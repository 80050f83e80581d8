//! Sessions: who may speak, and that nobody speaks twice.
//!
//! Two lives agree on session keys by hello datagrams; every other datagram is sealed under them and
//! counted.
//!
//! ```text
//!   A                                               B
//!   | hello{inc, salt, offer a, echo -, answer!} -->|
//!   |<- hello{inc, salt, offer b, echo a, answer!} -|  A: my offer came back: B lives now. Session.
//!   | hello{inc, salt, offer a, echo b, agreed} --->|  B: likewise. Session, confirmed.
//!   |<============ heartbeats, messages ===========>|  A: confirmed: no more hellos
//! ```
//! An offer is an ephemeral key, made anew for every session, so a recorded hello never has the right
//! echo, and a recorded datagram never the right key. Nothing is computed but an authentication code
//! before the echo is right: strangers and repetitions cost next to nothing, and no memory. Until
//! both sides have the session, hellos go on with every heartbeat. A session of two lives is
//! replaced by another of the same two in time (rekeying): the old one speaks until the new one is
//! known to both.
//!
//! Pure: the seed is given, time is a parameter.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt::Write;
use std::time::Duration;

use wolfpack_types::security::PublicKey;
use wolfpack_types::{ClusterId, Incarnation, Instant, NetworkId, NodeId, NodeInc};

use crate::handshake::{Agreement, Entropy, Hello, Salt, Secrets, Side, Wish, agree, hello_key};
use crate::key::{Generation, Key, derive, hex};
use crate::packet::{
    ClusterTag, Datagram, Header, Kind, Protection, cluster_tag, seal as seal_packet, sign,
};
use crate::replay::ReplayWindow;
use crate::seal::{MacKey, SealKey};
use crate::{ClusterKey, DropReason, NodeKey, Security};

/// Answers to hellos that prove nothing new, per path and apart for the life that is known and for
/// others: at most a burst of this many, then one in each pause. A flood of recorded hellos is not
/// made into a flood of answers, and those of the known life do not keep a new one out.
const ANSWER_BURST: u32 = 8;
const ANSWER_PAUSE: Duration = Duration::from_millis(10);
/// Agreements with one life, at most one in this time: a man in the middle that feeds back recorded
/// hellos makes both sides rekey, and no faster.
const AGREE_PAUSE: Duration = Duration::from_secs(1);
/// A session is replaced after this time, or this many datagrams: whichever comes first.
const REKEY_AGE: Duration = Duration::from_secs(3600);
pub(crate) const REKEY_DATAGRAMS: u64 = 1 << 32;
/// How long datagrams of the former session are taken after the peer has used the present one.
const GRACE: Duration = Duration::from_secs(5);

/// An agreement with one life of a peer.
#[derive(Debug)]
struct Session {
    life: NodeInc,
    salt: Salt,
    /// The two ephemeral keys: they name the session.
    mine: PublicKey,
    theirs: PublicKey,
    /// The cluster key that went into it from this side.
    generation: Generation,
    tag: u32,
    send: SealKey,
    receive: SealKey,
    born: Instant,
    /// The peer has it too.
    confirmed: bool,
    /// A datagram of it has arrived.
    used: Option<Instant>,
    sent: u64,
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

/// An ephemeral key that is offered.
#[derive(Debug)]
struct Offer {
    key: NodeKey,
    /// The cluster key that goes with it.
    generation: Generation,
}

#[derive(Debug)]
struct Peer {
    /// Its static key, and what ours and it make.
    fixed: PublicKey,
    shared: Key,
    hello: Vec<(Generation, MacKey)>,
    offer: Option<Offer>,
    current: Option<Session>,
    /// Agreed, but the peer may not have it yet: one that replaces `current`, with the same life.
    next: Option<Session>,
    /// Replaced: takes what is late, and says nothing.
    former: Option<Session>,
    /// For hellos of other lives, and of the known one.
    answers: BTreeMap<NetworkId, [Allowance; 2]>,
    /// A new session is wanted before the present one is old.
    renew: bool,
    /// Not a node any more: whatever it says is refused.
    expelled: bool,
    /// Lives up to this one are over, whatever they say: the streams with them were given up.
    floor: Option<Incarnation>,
}

impl Peer {
    /// From when on hellos are to be sent.
    fn greets_from(&self) -> Option<Instant> {
        let Some(current) = &self.current else {
            return (!self.expelled).then_some(Instant::ZERO);
        };
        let now = !current.confirmed || self.next.is_some() || self.renew;
        Some(if now { Instant::ZERO } else { current.ends() })
    }

    fn has_generation(&self, generation: Generation) -> bool {
        self.hello.iter().any(|(name, _)| *name == generation)
    }

    /// The session of which hellos are still to be repeated.
    fn unconfirmed(&self) -> Option<&Session> {
        let current = self.current.as_ref().filter(|current| !current.confirmed);
        let session = self.next.as_ref().or(current);
        session.filter(|session| self.has_generation(session.generation))
    }

    /// The peer is known to have the session of these ephemeral keys.
    fn confirm(&mut self, mine: &PublicKey, theirs: &PublicKey) {
        if self.next.as_ref().is_some_and(|next| next.is(mine, theirs)) {
            self.former = std::mem::replace(&mut self.current, self.next.take());
        }
        if let Some(current) = self.current.as_mut().filter(|current| current.is(mine, theirs)) {
            current.confirmed = true;
        }
    }
}

impl Session {
    fn is(&self, mine: &PublicKey, theirs: &PublicKey) -> bool {
        self.mine == *mine && self.theirs == *theirs
    }

    /// When it should be replaced.
    fn ends(&self) -> Instant {
        if self.sent >= REKEY_DATAGRAMS { self.born } else { self.born + REKEY_AGE }
    }
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
    offer: PublicKey,
    generation: Generation,
    echo: PublicKey,
    wants_answer: bool,
    agreed: bool,
}

/// The sessions of this life with all its peers.
#[derive(Debug)]
pub(crate) struct Sessions {
    me: NodeInc,
    salt: Salt,
    cluster: ClusterId,
    tag: ClusterTag,
    /// What of each generation of the cluster key goes into sessions; that in use first.
    psks: Vec<(Generation, Key)>,
    fixed: NodeKey,
    wish: Wish,
    entropy: Entropy,
    peers: BTreeMap<NodeId, Peer>,
    /// Lines for the key log, if one is kept.
    key_log: Option<VecDeque<String>>,
}

impl Sessions {
    pub(crate) fn new(
        me: NodeInc,
        key: &ClusterKey,
        security: &Security,
        seed: Key,
        paths: &BTreeMap<NodeId, BTreeSet<NetworkId>>,
        now: Instant,
    ) -> Self {
        let mut entropy = Entropy::new(seed);
        let mut salt = [0; 16];
        salt.copy_from_slice(&entropy.draw()[..16]);
        let fixed = security.node_key.clone().unwrap_or_else(|| NodeKey::derived(key, me.node));
        let peer = |(&node, networks): (&NodeId, &BTreeSet<NetworkId>)| {
            let named = security.peer_keys.get(&node).copied();
            let theirs = named.unwrap_or_else(|| NodeKey::derived(key, node).public());
            let allowance = || Allowance { left: ANSWER_BURST, since: now };
            let peer = Peer {
                fixed: theirs,
                // A key that agrees with nobody is refused by the driver's check of its configuration.
                shared: fixed.agree(&theirs).unwrap_or_else(|| entropy.draw()),
                hello: Vec::new(),
                offer: None,
                current: None,
                next: None,
                former: None,
                answers: networks
                    .iter()
                    .map(|&network| (network, [allowance(), allowance()]))
                    .collect(),
                renew: false,
                expelled: false,
                floor: None,
            };
            (node, peer)
        };
        let peers = paths.iter().map(peer).collect();
        let mut new = Self {
            me,
            salt,
            cluster: key.cluster_id(),
            tag: cluster_tag(key.cluster_id()),
            psks: Vec::new(),
            fixed,
            wish: Wish { level: security.level, cipher: security.cipher },
            entropy,
            peers,
            key_log: security.key_log.is_some().then(VecDeque::new),
        };
        new.take_keys(key);
        new
    }

    fn take_keys(&mut self, key: &ClusterKey) {
        let psk = |key| derive(key, &[b"wolfpack psk"]);
        self.psks = key.generations().map(|(name, key)| (name, psk(key))).collect();
        for (&node, peer) in &mut self.peers {
            let hello = |key: &Key| hello_key(key, self.me.node, node, &peer.shared);
            peer.hello = key.generations().map(|(name, key)| (name, hello(key))).collect();
        }
    }

    /// Other generations of the cluster key: what goes on goes on, and sessions are replaced by such
    /// of the generation in use.
    pub(crate) fn set_keys(&mut self, key: &ClusterKey) {
        self.take_keys(key);
        for peer in self.peers.values_mut() {
            peer.offer = None;
            peer.next = None;
            peer.renew = true;
        }
    }

    /// Whether a peer is to be refused for good, whatever keys it has; its session ends.
    pub(crate) fn expel(&mut self, node: NodeId, expelled: bool) {
        if let Some(peer) = self.peers.get_mut(&node) {
            peer.expelled = expelled;
            if expelled {
                let life = peer.current.as_ref().map(|current| current.life.inc);
                peer.floor = peer.floor.max(life);
                (peer.current, peer.next, peer.former, peer.offer) = (None, None, None, None);
            }
        }
    }

    /// Refuses this life of a peer, and those before it, for good; later ones may come. Whether a
    /// session ended with it.
    pub(crate) fn expel_life(&mut self, who: NodeInc) -> bool {
        let Some(peer) = self.peers.get_mut(&who.node) else { return false };
        peer.floor = peer.floor.max(Some(who.inc));
        let over = peer.current.as_ref().is_some_and(|current| current.life.inc <= who.inc);
        if over {
            (peer.current, peer.next, peer.former, peer.offer) = (None, None, None, None);
        }
        over
    }

    pub(crate) const fn tag(&self) -> ClusterTag {
        self.tag
    }

    /// The life that there is a session with.
    pub(crate) fn life(&self, node: NodeId) -> Option<NodeInc> {
        Some(self.peers.get(&node)?.current.as_ref()?.life)
    }

    /// Whether hellos are to be sent to this peer now.
    pub(crate) fn greets(&self, now: Instant, node: NodeId) -> bool {
        let from = self.peers.get(&node).and_then(Peer::greets_from);
        from.is_some_and(|from| now >= from)
    }

    /// From when on hellos are to be sent to some peer; in the past, if now.
    pub(crate) fn greets_from(&self) -> Option<Instant> {
        self.peers.values().filter_map(Peer::greets_from).min()
    }

    /// The key of hellos in use with a peer.
    #[cfg(feature = "fuzz")]
    pub(crate) fn hello_key(&self, node: NodeId) -> Option<(Generation, &MacKey)> {
        self.peers.get(&node)?.hello.first().map(|(name, key)| (*name, key))
    }

    /// The next line for the key log.
    pub(crate) fn poll_key_log(&mut self) -> Option<String> {
        self.key_log.as_mut()?.pop_front()
    }

    /// A hello that nobody asked for: repeated until both sides have a session.
    pub(crate) fn seal_hello(&mut self, out: &mut Vec<u8>, network: NetworkId, to: NodeId) -> bool {
        let generation = self.psks[0].0;
        let Some(peer) = self.peers.get_mut(&to) else { return false };
        let mut answer = match peer.unconfirmed() {
            Some(session) => session.answer(),
            None => {
                let offer = offered(&mut peer.offer, &mut self.entropy, generation);
                let (offer, generation) = (offer.key.public(), offer.generation);
                let echo = PublicKey([0; 32]);
                Answer { offer, generation, echo, wants_answer: true, agreed: false }
            }
        };
        answer.wants_answer = true;
        self.seal_answer(out, network, to, answer)
    }

    /// The answer to a hello; false if there is nothing to be said.
    pub(crate) fn seal_answer(
        &self,
        out: &mut Vec<u8>,
        network: NetworkId,
        to: NodeId,
        answer: Answer,
    ) -> bool {
        let Answer { offer, generation, echo, wants_answer, agreed } = answer;
        let keys = self.peers.get(&to).map_or(&[][..], |peer| &peer.hello);
        let Some((_, key)) = keys.iter().find(|(name, _)| *name == generation) else {
            return false;
        };
        let hello = Hello {
            inc: self.me.inc,
            salt: self.salt,
            offer,
            echo: (echo.0 != [0; 32]).then_some(echo),
            wish: self.wish,
            wants_answer,
            agreed,
        };
        let header = Header {
            kind: Kind::Hello,
            from: self.me.node,
            to: Some(to),
            network: network.0,
            protection: Protection::Mac,
            session: generation,
            tag: self.tag,
            counter: 0,
        };
        sign(out, &header, &hello.encode(), key);
        true
    }

    /// Completes a datagram of the session with `to`, begun by [`crate::packet::begin`]; false
    /// without one.
    pub(crate) fn seal(
        &mut self,
        out: &mut Vec<u8>,
        kind: Kind,
        network: NetworkId,
        to: NodeId,
    ) -> bool {
        let peer = self.peers.get_mut(&to);
        let Some(session) = peer.and_then(|peer| peer.current.as_mut()) else { return false };
        let counter = session.counters.entry(network).or_insert(0);
        *counter += 1;
        session.sent += 1;
        let (level, cipher) = session.send.protection();
        let header = Header {
            kind,
            from: self.me.node,
            to: Some(to),
            network: network.0,
            protection: Protection::Sealed(level, cipher),
            session: session.tag,
            tag: self.tag,
            counter: *counter,
        };
        seal_packet(out, &header, &session.send);
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
        if peer.expelled {
            return Err(DropReason::Expelled(from));
        }
        let theirs = datagram.header.session;
        let key = peer.hello.iter().find(|(name, _)| *name == theirs);
        let (_, key) = key.ok_or(DropReason::WrongKey(from))?;
        if !datagram.signed_by(key) {
            return Err(DropReason::Forged(from));
        }
        let hello = Hello::decode(datagram.body).map_err(|_| DropReason::Malformed(from))?;
        if peer.floor.is_some_and(|floor| hello.inc <= floor) {
            return Err(DropReason::OldLife(from));
        }
        if let Some(current) = &peer.current {
            if hello.inc < current.life.inc {
                return Err(DropReason::OldLife(from));
            }
            if hello.inc == current.life.inc && hello.salt != current.salt {
                return Err(DropReason::Clone { node: from, inc: hello.inc });
            }
        }
        let generation = self.psks[0].0;
        let same_life = peer.current.as_ref().is_some_and(|current| current.salt == hello.salt);
        let mut may_answer = || {
            let allowances = peer.answers.get_mut(&network);
            hello.wants_answer && allowances.is_some_and(|a| a[usize::from(same_life)].take(now))
        };
        let known = [&peer.current, &peer.next].into_iter().flatten();
        let known =
            known.into_iter().find(|s| hello.echo == Some(s.mine) && s.theirs == hello.offer);
        if let Some(session) = known {
            let (mine, answer) = (session.mine, session.answer());
            let answer = may_answer().then_some(answer);
            if hello.agreed {
                peer.confirm(&mine, &hello.offer);
            }
            return Ok(Greeted { established: None, answer });
        }
        // My present offer in it: its sender has heard this life of mine just now.
        let offered_back = peer.offer.as_ref().is_some_and(|o| hello.echo == Some(o.key.public()));
        if !offered_back {
            // Late, or recorded: the session of this offer is in use on both sides.
            let used = |session: &Session| session.used.is_some() && session.theirs == hello.offer;
            if peer.current.as_ref().is_some_and(used) {
                return Ok(Greeted { established: None, answer: None });
            }
            let answer = may_answer().then(|| {
                let offer = offered(&mut peer.offer, &mut self.entropy, generation);
                let (offer, generation) = (offer.key.public(), offer.generation);
                Answer { offer, generation, echo: hello.offer, wants_answer: true, agreed: false }
            });
            return Ok(Greeted { established: None, answer });
        }
        let last = [&peer.current, &peer.next].into_iter().flatten().map(|s| s.born).max();
        if same_life && last.is_some_and(|last| now < last + AGREE_PAUSE) {
            return Ok(Greeted { established: None, answer: None });
        }
        let life = NodeInc::new(from, hello.inc);
        let mut session =
            self.agree(now, life, theirs, &hello).ok_or(DropReason::Malformed(from))?;
        session.confirmed = hello.agreed;
        // Not rationed: an offer is given back once.
        let answer = hello.wants_answer.then_some(session.answer());
        let Some(peer) = self.peers.get_mut(&from) else { return Err(DropReason::UnknownSender) };
        peer.renew = false;
        let established = (!same_life).then_some(life);
        if same_life {
            let mine = session.mine;
            peer.next = Some(session);
            if hello.agreed {
                peer.confirm(&mine, &hello.offer);
            }
        } else {
            (peer.current, peer.next, peer.former) = (Some(session), None, None);
        }
        Ok(Greeted { established, answer })
    }

    /// Makes the session of my present offer, which is used up by it, and a hello.
    fn agree(
        &mut self,
        now: Instant,
        life: NodeInc,
        generation: Generation,
        hello: &Hello,
    ) -> Option<Session> {
        let peer = self.peers.get_mut(&life.node)?;
        let offer = peer.offer.take()?;
        let psk = |name| self.psks.iter().find(|(n, _)| *n == name).map(|(_, key)| key);
        let secrets = Secrets {
            offer: &offer.key,
            fixed: &self.fixed,
            fixed_shared: &peer.shared,
            my_generation: psk(offer.generation)?,
            their_generation: psk(generation)?,
        };
        let mine = Side {
            life: self.me,
            salt: self.salt,
            offer: offer.key.public(),
            fixed: self.fixed.public(),
            generation: offer.generation,
            wish: self.wish,
        };
        let theirs = Side {
            life,
            salt: hello.salt,
            offer: hello.offer,
            fixed: peer.fixed,
            generation,
            wish: hello.wish,
        };
        let Agreement { tag, send, receive, keys } = agree(self.cluster, &mine, &theirs, &secrets)?;
        if let Some(log) = &mut self.key_log {
            log.push_back(key_log_line(tag, self.me.node, life.node, &keys));
        }
        Some(Session {
            life,
            salt: hello.salt,
            mine: mine.offer,
            theirs: hello.offer,
            generation: mine.generation,
            tag,
            send,
            receive,
            born: now,
            confirmed: false,
            used: None,
            sent: 0,
            counters: BTreeMap::new(),
            windows: BTreeMap::new(),
        })
    }

    /// Checks a datagram of a session that came in on `network`: whose life sent it, and what it
    /// says. Says so once for each datagram. The caller has compared tag and receiver. `space` is
    /// for the readable body; its former content is lost.
    pub(crate) fn open<'s>(
        &mut self,
        now: Instant,
        network: NetworkId,
        datagram: &Datagram<'_>,
        space: &'s mut Vec<u8>,
    ) -> Result<(NodeInc, &'s [u8]), DropReason> {
        let header = &datagram.header;
        let from = header.from;
        let peer = self.peers.get_mut(&from).ok_or(DropReason::UnknownSender)?;
        if peer.expelled {
            return Err(DropReason::Expelled(from));
        }
        let current = peer.current.as_mut().ok_or(DropReason::NoSession)?;
        if current.used.is_some_and(|used| now >= used + GRACE) {
            peer.former = None;
        }
        let mut all = [Some(current), peer.next.as_mut(), peer.former.as_mut()];
        let session = all.iter_mut().flatten().find(|session| session.tag == header.session);
        let session = session.ok_or(DropReason::OtherSession(from))?;
        let window = session.windows.entry(network).or_insert_with(ReplayWindow::new);
        // Looked at first, because it is cheaper than opening.
        if !window.is_new(header.counter) {
            return Err(DropReason::Replayed(from));
        }
        let body = datagram.open(&session.receive, space).ok_or(DropReason::Forged(from))?;
        window.admit(header.counter);
        let life = session.life;
        session.used.get_or_insert(now);
        if !session.confirmed {
            let (mine, theirs) = (session.mine, session.theirs);
            peer.confirm(&mine, &theirs);
        }
        Ok((life, body))
    }
}

impl Session {
    /// What is said to a peer that may not have it yet.
    fn answer(&self) -> Answer {
        Answer {
            offer: self.mine,
            generation: self.generation,
            echo: self.theirs,
            wants_answer: false,
            agreed: true,
        }
    }
}

/// The present offer to a peer, made when it is needed.
fn offered<'a>(
    offer: &'a mut Option<Offer>,
    entropy: &mut Entropy,
    generation: Generation,
) -> &'a Offer {
    offer.get_or_insert_with(|| Offer { key: NodeKey::from_bytes(*entropy.draw()), generation })
}

/// `SESSION name lower-node higher-node key-of-lower key-of-higher`, in hexadecimal but for the
/// nodes.
fn key_log_line(tag: u32, a: NodeId, b: NodeId, keys: &[Key; 2]) -> String {
    let mut line = String::with_capacity(160);
    let (low, high) = (a.min(b).get(), a.max(b).get());
    let [first, second] = keys.each_ref().map(|key| hex::encode(key.as_slice()));
    let _ = write!(line, "SESSION {tag:08x} {low} {high} {} {}", *first, *second);
    line
}

#[cfg(test)]
mod tests;
