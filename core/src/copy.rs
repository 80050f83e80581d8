//! Bringing a node near before it joins (P9): a large database goes to it in pieces, while updates
//! go on, and then the updates since; only when little is missing is it let into a view.
//!
//! The receiver is in no installed view. It makes the copy durable in place of its own database and
//! log, and nothing else: its record (promise, accepted view) stays as it is. That is safe because
//! a copy is only ever of *committed* updates and reaches at least as far as the receiver's own log
//! (checked when it begins and again when it ends): every committed update that the receiver held
//! as a replica of some view is in the copy too. See `docs/internals/update.md`.
//!
//! ```text
//!  sender  --Begin--> --Rows 1..n--> --End--> --Entries ...-->   receiver
//!          <------- Ack of each, when it is durable there --------
//! ```
//! One message is under way; what is not acknowledged in time is given up and begun again.

use std::time::Duration;

use wolfpack_types::peer::{CopyMessage, PeerMessage};
use wolfpack_types::store::{CopyStep, Persist};
use wolfpack_types::update::LogEntry;
use wolfpack_types::{Ballot, Instant, NodeId, NodeInc, Seq};

use crate::Core;
use crate::database::Database;
use crate::durable::After;
use crate::log::Log;

/// A database up to this size goes along with an Accept; a larger one goes ahead of it.
pub(crate) const INLINE_BYTES: usize = 1 << 20;
/// Bytes of rows, or entries, of one message.
const PIECE_BYTES: usize = 512 << 10;
/// Entries of one message.
const PIECE_ENTRIES: usize = 1000;
/// A node that lacks no more than this is near enough to be let in.
const NEAR: u64 = 256;
/// An acknowledgement that takes longer does not come.
const PATIENCE: Duration = Duration::from_secs(5);

/// A copy that this node sends.
#[derive(Debug)]
pub(crate) struct Sending {
    to: NodeInc,
    id: u64,
    rows: std::vec::IntoIter<(String, Vec<u8>)>,
    digest: u64,
    /// Number of the message under way.
    number: u32,
    /// Rows and End are through: the receiver stands here.
    at: (Ballot, Seq),
    ended: bool,
    since: Instant,
}

/// A copy that this node receives.
#[derive(Debug)]
pub(crate) struct Receiving {
    from: NodeInc,
    id: u64,
    at: (Ballot, Seq),
    number: u32,
    /// What has come so far; none once it has been taken.
    database: Option<Database>,
}

impl Core {
    /// For tests and simulations: databases of more bytes than this go ahead of an Accept.
    pub fn copy_databases_above(&mut self, bytes: usize) {
        self.inline_bytes = bytes;
    }

    /// Entries that a copy under way still needs start after this.
    pub(crate) fn copied_up_to(&self) -> Option<Seq> {
        self.sending.as_ref().map(|s| s.at.1)
    }

    /// The node must be brought near before it can be in a view with this one: it lacks more than
    /// goes along with an Accept.
    pub(crate) fn is_far(&self, node: NodeId, committed: Seq) -> bool {
        let member = self.membership.installed.as_ref().is_none_or(|v| v.has_node(node));
        if member || committed >= self.database.seq() {
            return false;
        }
        let missing = self.database.seq().0 - committed.0;
        let large = self.database.row_bytes() > self.inline_bytes;
        if self.log.reaches(committed) { missing > NEAR && large } else { large }
    }

    /// Each tick, at the leader: who waits at the door and is far is brought near.
    pub(crate) fn copy_tick(&mut self, now: Instant) {
        let gone = |s: &Sending, core: &Self| {
            let inc = core.membership.peers.get(&s.to.node).map(|p| p.inc);
            inc != Some(s.to.inc) || now - s.since > PATIENCE || !core.log.reaches(s.at.1)
        };
        if self.sending.as_ref().is_some_and(|s| gone(s, self)) {
            self.sending = None;
        }
        if self.sending.is_some() || !self.can_lead() {
            return;
        }
        let far = self.membership.peers.iter().find(|(n, p)| {
            p.reach == wolfpack_types::heartbeat::Reach::Up
                && self.is_far(**n, p.standing.commit_seq)
        });
        if let Some(node) = far.map(|(&n, _)| n) {
            self.send_copy(now, node);
        }
    }

    /// Begins to copy the database to a node; nothing if a copy is under way.
    pub(crate) fn send_copy(&mut self, now: Instant, node: NodeId) {
        let Some(inc) = self.membership.peers.get(&node).map(|p| p.inc) else { return };
        if self.sending.is_some() {
            return;
        }
        let snapshot = self.database.snapshot();
        let at = (snapshot.ballot, snapshot.seq);
        self.last_copy += 1;
        let id = self.last_copy;
        self.sending = Some(Sending {
            to: NodeInc::new(node, inc),
            id,
            rows: snapshot.rows.into_iter(),
            digest: self.database.digest(),
            number: 0,
            at,
            ended: false,
            since: now,
        });
        let (ballot, seq) = at;
        let begin = CopyMessage::Begin { id, ballot, seq };
        self.send(node, PeerMessage::Copy(Box::new(begin)));
    }

    pub(crate) fn on_copy(&mut self, now: Instant, from: NodeInc, message: CopyMessage) {
        match message {
            CopyMessage::Begin { id, ballot, seq } => self.copy_begins(from, id, (ballot, seq)),
            CopyMessage::Rows { id, number, rows } => self.copy_rows(from, id, number, rows),
            CopyMessage::End { id, number, digest } => {
                self.copy_ends(now, from, id, number, digest);
            }
            CopyMessage::Entries { id, number, prev, entries } => {
                self.copy_entries(now, from, id, number, prev, entries);
            }
            CopyMessage::Ack { id, number } => self.copy_acknowledged(now, from, id, number),
        }
    }

    fn copy_acknowledged(&mut self, now: Instant, from: NodeInc, id: u64, number: u32) {
        let committed = self.database.seq();
        let Some(s) =
            self.sending.as_mut().filter(|s| s.to == from && s.id == id && s.number == number)
        else {
            return;
        };
        s.number += 1;
        s.since = now;
        let number = s.number;
        let message = if !s.ended {
            let (mut rows, mut bytes) = (Vec::new(), 0);
            while bytes < PIECE_BYTES
                && let Some((key, row)) = s.rows.next()
            {
                bytes += key.len() + row.len();
                rows.push((key, row));
            }
            if rows.is_empty() {
                s.ended = true;
                CopyMessage::End { id, number, digest: s.digest }
            } else {
                CopyMessage::Rows { id, number, rows }
            }
        } else {
            // Committed updates only: what is in the own database.
            let prev = s.at;
            let entries = self.log.some_after(prev.1, committed, PIECE_ENTRIES, PIECE_BYTES);
            let Some(last) = entries.last().filter(|_| committed.0 - prev.1.0 > NEAR / 2) else {
                self.sending = None;
                return;
            };
            s.at = (last.ballot, last.seq);
            CopyMessage::Entries { id, number, prev, entries }
        };
        self.send(from.node, PeerMessage::Copy(Box::new(message)));
    }

    /// Only a node in no view, with nothing under way, takes a copy, and only one that reaches at
    /// least as far as its own log.
    fn takes_copies(&self, seq: Seq) -> bool {
        self.membership.installed.is_none()
            && self.incoming.is_none()
            && self.membership.attempt.is_none()
            && seq >= self.log.last().1
            && self.membership.record.accepted.as_ref().map(|v| v.ballot)
                == self.membership.queued.accepted.as_ref().map(|v| v.ballot)
    }

    fn copy_begins(&mut self, from: NodeInc, id: u64, at: (Ballot, Seq)) {
        if !self.takes_copies(at.1) {
            return;
        }
        let database = Some(Database::default());
        self.receiving = Some(Receiving { from, id, at, number: 0, database });
        self.persist(
            Persist::Copy(CopyStep::Begin),
            After::Copied { to: from.node, id, number: 0 },
        );
    }

    /// The copy under way that this message continues.
    fn copy_in_hand(&mut self, from: NodeInc, id: u64, number: u32) -> Option<&mut Receiving> {
        let r = self.receiving.as_mut()?;
        (r.from == from && r.id == id && r.number.checked_add(1) == Some(number)).then(|| {
            r.number = number;
            r
        })
    }

    fn copy_rows(&mut self, from: NodeInc, id: u64, number: u32, rows: Vec<(String, Vec<u8>)>) {
        let Some(r) = self.copy_in_hand(from, id, number) else { return };
        let Some(database) = &mut r.database else { return };
        if rows.iter().any(|(key, row)| database.take_row(key, row).is_err()) {
            self.receiving = None;
            return;
        }
        let step = Persist::Copy(CopyStep::Rows { rows });
        self.persist(step, After::Copied { to: from.node, id, number });
    }

    fn copy_ends(&mut self, now: Instant, from: NodeInc, id: u64, number: u32, digest: u64) {
        let Some(r) = self.copy_in_hand(from, id, number) else { return };
        let at = r.at;
        let Some(database) = r.database.take().and_then(|d| d.taken(at).ok()) else {
            self.receiving = None;
            return;
        };
        if database.digest() != digest || !self.takes_copies(at.1) {
            self.receiving = None;
            return;
        }
        // What was applied before is older than the copy.
        let (ballot, seq) = at;
        let step = Persist::Copy(CopyStep::End { ballot, seq });
        self.persist(step, After::Copied { to: from.node, id, number });
        self.log = Log::new(at, []);
        self.database = database;
        self.history_end = self.history_end.max(seq);
        self.tell_watchers_of_replacement();
        self.manager_changed(now);
        self.publish_standing();
    }

    fn copy_entries(
        &mut self,
        now: Instant,
        from: NodeInc,
        id: u64,
        number: u32,
        prev: (Ballot, Seq),
        entries: Vec<LogEntry>,
    ) {
        let stands = prev == self.log.last() && prev.1 == self.database.seq();
        let follows = entries.iter().zip(prev.1.0 + 1..).all(|(e, seq)| e.seq.0 == seq);
        let Some(last) = entries.last().map(|e| e.seq) else { return };
        if !stands || !follows || !self.takes_copies(last) {
            return;
        }
        if self.copy_in_hand(from, id, number).is_none_or(|r| r.database.is_some()) {
            return;
        }
        for entry in &entries {
            self.log.push(entry.clone());
        }
        self.history_end = self.history_end.max(last);
        self.persist(Persist::Append { entries }, After::Copied { to: from.node, id, number });
        self.commit_to(now, last);
    }

    pub(crate) fn copied(&mut self, to: NodeId, id: u64, number: u32) {
        self.send(to, PeerMessage::Copy(Box::new(CopyMessage::Ack { id, number })));
    }
}
