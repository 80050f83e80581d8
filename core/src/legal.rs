//! Whether a message of a peer fits the state it meets. Every message is decodable when it comes
//! here; what does not fit is refused with a reason, counted by kind, and changes nothing. The
//! handlers trust nothing for that: this is where a refusal gets its name.

use wolfpack_types::membership::Illegal;
use wolfpack_types::peer::{Accept, CopyMessage, PeerMessage, Promise};
use wolfpack_types::update::LogEntry;
use wolfpack_types::{Ballot, Force, Instant, Members, NodeId, NodeInc, Rule, Seq, View, descends};

use crate::Core;
use crate::membership::coordinator::Phase;

/// Counters are increased one by one; nobody gets here honestly, and above it the next one could
/// overflow.
const COUNTER_MAX: u64 = 1 << 62;
/// Forces of one lineage: each is an administrator's decision.
const FORCES_MAX: usize = 64;
/// Lives that one view may name as former: its own members', and those of views that were dead.
const FORMER_MAX: usize = 4096;

type Legal = Result<(), Illegal>;

fn must(holds: bool, otherwise: Illegal) -> Legal {
    if holds { Ok(()) } else { Err(otherwise) }
}

/// The ballot is a possible one, and its coordinator is `from`.
fn coordinated(ballot: Ballot, from: NodeInc) -> Legal {
    must(ballot.counter <= COUNTER_MAX, Illegal::FutureBallot)?;
    must(ballot.node() == Some(from.node), Illegal::NotTheCoordinator)
}

/// `ballot` is the one that is expected.
fn current(ballot: Ballot, expected: Ballot) -> Legal {
    match ballot.cmp(&expected) {
        std::cmp::Ordering::Less => Err(Illegal::PastBallot),
        std::cmp::Ordering::Equal => Ok(()),
        std::cmp::Ordering::Greater => Err(Illegal::FutureBallot),
    }
}

/// The view could have been decided by somebody.
fn plausible(view: &View) -> Legal {
    let leader = view.ballot.node();
    let sane = view.ballot.counter <= COUNTER_MAX
        && leader.is_some_and(|l| view.has_node(l))
        && view.votes.total() > 0
        && view.former.len() <= FORMER_MAX
        && view.forces.len() <= FORCES_MAX
        && (view.votes.witness == 0 || view.witness.is_some());
    must(sane, Illegal::BrokenView)
}

/// The entries follow each other and `after`.
fn gapless(after: Seq, entries: &[LogEntry]) -> Legal {
    let mut next = after.0;
    for entry in entries {
        next = next.checked_add(1).ok_or(Illegal::BrokenLog)?;
        must(entry.seq.0 == next, Illegal::BrokenLog)?;
        must(!entry.update.is_volatile(), Illegal::BrokenUpdate)?;
    }
    Ok(())
}

impl Core {
    /// Whether `message` may be acted on.
    ///
    /// # Errors
    /// Why not.
    pub(crate) fn legal(&self, now: Instant, from: NodeInc, message: &PeerMessage) -> Legal {
        self.legal_sender(from)?;
        match message {
            PeerMessage::Prepare { ballot, members, forces, .. } => {
                self.legal_prepare(from, *ballot, members, forces)
            }
            PeerMessage::Promise(promise) => self.legal_promise(from, promise),
            PeerMessage::Nack { ballot, counter, .. } => {
                must(*counter <= COUNTER_MAX, Illegal::FutureBallot)?;
                self.legal_answer(from.node, *ballot).map(|_| ())
            }
            PeerMessage::FetchLog { ballot, .. } => {
                coordinated(*ballot, from)?;
                current(*ballot, self.membership.record.promised)
            }
            PeerMessage::LogData { ballot, snapshot, entries } => {
                self.legal_answer(from.node, *ballot)?;
                self.in_phase(Phase::Level)?;
                let start = snapshot.as_ref().map_or_else(
                    || Seq(entries.first().map_or(0, |e| e.seq.0.saturating_sub(1))),
                    |s| s.seq,
                );
                gapless(start, entries)
            }
            PeerMessage::Accept(accept) => self.legal_accept(from, accept),
            PeerMessage::Accepted { ballot } => {
                self.legal_answer(from.node, *ballot)?;
                self.in_phase(Phase::Accept)
            }
            PeerMessage::Established { ballot, .. } => {
                coordinated(*ballot, from)?;
                current(*ballot, self.membership.accepted_ballot())
            }
            PeerMessage::Restart { you, because, .. } => self.legal_restart(now, *you, *because),
            PeerMessage::Append { ballot, prev, entries } => {
                self.legal_append(from, *ballot, *prev, entries)
            }
            PeerMessage::Appended { ballot, .. } | PeerMessage::Applied { ballot, .. } => {
                let led = self.led_ballot().ok_or(Illegal::ImpossibleStage)?;
                current(*ballot, led)?;
                self.legal_member(from)
            }
            PeerMessage::Commit { ballot, seq } => {
                coordinated(*ballot, from)?;
                current(*ballot, self.membership.accepted_ballot())?;
                must(*seq <= self.log_last(), Illegal::Contradiction)
            }
            PeerMessage::Volatile { ballot, update, .. } => {
                coordinated(*ballot, from)?;
                must(update.is_volatile(), Illegal::BrokenUpdate)?;
                current(*ballot, self.installed_ballot())
            }
            PeerMessage::Request { id, .. } => must(id.from == from, Illegal::NotTheSender),
            PeerMessage::RequestDone { id, .. } => {
                must(id.from == self.config.me, Illegal::NotThisLife)
            }
            PeerMessage::Leaving { who, .. } | PeerMessage::Exit { who, .. } => {
                must(*who == from, Illegal::NotTheSender)
            }
            PeerMessage::Resign { ballot, .. } => {
                coordinated(*ballot, from)?;
                current(*ballot, self.installed_ballot())
            }
            PeerMessage::Evicted { you } => must(*you == self.config.me, Illegal::NotThisLife),
            PeerMessage::Differs { ballot, .. } => {
                coordinated(*ballot, from)?;
                current(*ballot, self.installed_ballot())
            }
            PeerMessage::Copy(copy) => self.legal_copy(copy),
            PeerMessage::Networks { .. }
            | PeerMessage::EventBatch(_)
            | PeerMessage::EventFetch { .. } => Ok(()),
        }
    }

    /// A copy is for a node in no view; what answers it, for one that sends it. (Which copy and
    /// which piece it must be is checked where it is taken.)
    fn legal_copy(&self, copy: &CopyMessage) -> Legal {
        match copy {
            CopyMessage::Ack { .. } => Ok(()),
            CopyMessage::Entries { prev, entries, .. } => {
                must(self.membership.installed.is_none(), Illegal::ImpossibleStage)?;
                gapless(prev.1, entries)
            }
            CopyMessage::Begin { .. } | CopyMessage::Rows { .. } | CopyMessage::End { .. } => {
                must(self.membership.installed.is_none(), Illegal::ImpossibleStage)
            }
        }
    }

    fn legal_sender(&self, from: NodeInc) -> Legal {
        let m = &self.membership;
        must(self.config.nodes.contains_key(&from.node), Illegal::UnknownNode)?;
        let older = m.peers.get(&from.node).is_some_and(|p| p.inc > from.inc);
        must(!older && !m.dead.contains_key(&from), Illegal::DeadLife)?;
        let own_older = from.node == self.config.me.node && from != self.config.me;
        must(!own_older, Illegal::NotThisLife)?;
        let out = self.database.is_evicted(from.node)
            && m.installed.as_ref().is_some_and(|v| !v.has(from))
            && !self.config.rules.broken(Rule::EvictedReturns);
        must(!out, Illegal::EvictedNode)
    }

    fn legal_prepare(
        &self,
        from: NodeInc,
        ballot: Ballot,
        members: &Members,
        forces: &[Force],
    ) -> Legal {
        coordinated(ballot, from)?;
        must(forces.len() <= FORCES_MAX, Illegal::TooLarge)?;
        let has = |who| wolfpack_types::same_members(members, who);
        must(has(from) && has(self.config.me), Illegal::NotAMember)?;
        let own = self.membership.record.accepted.as_ref().map(|v| v.ballot.force);
        let follows = own.is_none_or(|own| descends(forces, ballot.force, own));
        must(follows || self.config.rules.broken(Rule::ForceMerge), Illegal::OtherForce)
    }

    /// An answer to an attempt of this node: which phase it is in.
    fn legal_answer(&self, from: NodeId, ballot: Ballot) -> Result<Phase, Illegal> {
        let m = &self.membership;
        must(ballot.node() == Some(self.config.me.node), Illegal::NotTheCoordinator)?;
        must(ballot <= m.queued.max_ballot, Illegal::FutureBallot)?;
        let attempt = m.attempt.as_ref().ok_or(Illegal::PastBallot)?;
        current(ballot, attempt.ballot)?;
        must(attempt.members.contains_key(&from), Illegal::NotAMember)?;
        must(attempt.phase > Phase::Ballot, Illegal::ImpossibleStage)?;
        Ok(attempt.phase)
    }

    fn in_phase(&self, phase: Phase) -> Legal {
        let attempt = self.membership.attempt.as_ref();
        must(attempt.is_some_and(|a| a.phase == phase), Illegal::ImpossibleStage)
    }

    fn legal_promise(&self, from: NodeInc, promise: &Promise) -> Legal {
        must(promise.who == from, Illegal::NotTheSender)?;
        self.legal_answer(from.node, promise.ballot)?;
        self.in_phase(Phase::Promise)?;
        let attempt = self.membership.attempt.as_ref().ok_or(Illegal::ImpossibleStage)?;
        must(wolfpack_types::same_members(&attempt.members, from), Illegal::NotAMember)?;
        if let Some(view) = &promise.accepted {
            plausible(view)?;
            must(view.ballot < promise.ballot, Illegal::Contradiction)?;
        }
        let newest = promise.accepted.as_ref().map_or(Ballot::ZERO, |v| v.ballot);
        let possible = promise.commit_seq <= promise.last.1
            && promise.established <= newest.max(promise.installed)
            && promise.installed <= newest;
        must(possible, Illegal::Contradiction)
    }

    fn legal_accept(&self, from: NodeInc, accept: &Accept) -> Legal {
        let m = &self.membership;
        let view = &accept.view;
        coordinated(view.ballot, from)?;
        plausible(view)?;
        current(view.ballot, m.queued.promised)?;
        must(view.has(self.config.me) && view.has(from), Illegal::NotAMember)?;
        // What was proposed is what was promised.
        must(view.members == m.queued.promised_members, Illegal::Contradiction)?;
        let newest = m.queued.accepted.as_ref().map_or(Ballot::ZERO, |v| v.ballot);
        must(newest < view.ballot, Illegal::ImpossibleStage)?;
        gapless(accept.snapshot.as_ref().map_or(accept.after, |s| s.seq), &accept.entries)
    }

    fn legal_restart(&self, now: Instant, you: NodeInc, because: Ballot) -> Legal {
        must(you == self.config.me, Illegal::NotThisLife)?;
        must(because > self.membership.accepted_ballot(), Illegal::PastBallot)?;
        // Another force's view means nothing to a view that lives.
        let own = self.membership.accepted_ballot().force;
        must(because.force == own || !self.has_lease(now), Illegal::OtherForce)
    }

    fn legal_append(
        &self,
        from: NodeInc,
        ballot: Ballot,
        prev: (Ballot, Seq),
        entries: &[LogEntry],
    ) -> Legal {
        coordinated(ballot, from)?;
        let m = &self.membership;
        current(ballot, m.queued.promised)?;
        let accepted = m.queued.accepted.as_ref().filter(|v| v.ballot == ballot);
        let view = accepted.ok_or(Illegal::ImpossibleStage)?;
        must(view.has(self.config.me) && view.has(from), Illegal::NotAMember)?;
        must(
            !entries.is_empty() && entries.iter().all(|e| e.ballot == ballot),
            Illegal::BrokenLog,
        )?;
        gapless(prev.1, entries)
    }

    fn legal_member(&self, from: NodeInc) -> Legal {
        let installed = self.membership.installed.as_ref();
        must(installed.is_some_and(|v| v.has(from)), Illegal::NotAMember)
    }

    fn installed_ballot(&self) -> Ballot {
        self.membership.installed.as_ref().map_or(Ballot::ZERO, |v| v.ballot)
    }

    fn led_ballot(&self) -> Option<Ballot> {
        self.leading.as_ref().map(|l| l.ballot)
    }

    fn log_last(&self) -> Seq {
        self.log.last().1
    }

    /// Notes a refusal.
    pub(crate) fn refuse(&mut self, from: NodeInc, message: &PeerMessage, why: Illegal) {
        *self.illegal.entry(why).or_insert(0) += 1;
        if why == Illegal::OtherForce {
            self.note_fork(from.node);
            // Its coordinator need not wait for an answer that never comes.
            if let PeerMessage::Prepare { ballot, .. } = message {
                let counter = self.membership.counter_seen;
                let nack = PeerMessage::Nack { ballot: *ballot, counter, refused: true };
                self.send(from.node, nack);
            }
        }
    }
}
