//! The Communication Manager: which versions of the protocol the peers speak, and requests to a
//! peer's core that have one answer, a deadline, and an end with the life that was asked.
//!
//! Pure and small: sessions, order and repetition are the network driver's. Membership and updates
//! do not go through [`Calls`]: their messages are answered by ballots and positions, which say more
//! than a number.

use std::collections::{BTreeMap, BTreeSet};

use wolfpack_types::{Incarnation, Instant, NodeId, NodeInc, VersionRange};

/// What the peers speak.
#[derive(Debug)]
pub(crate) struct Versions {
    own: VersionRange,
    peers: BTreeMap<NodeId, (Incarnation, VersionRange)>,
    /// Lives that were refused, said once each.
    refused: BTreeSet<NodeInc>,
}

/// What a peer's versions mean for it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Standing {
    Understood,
    /// Nothing that it speaks is spoken here. `news`: this is the first time that it is said.
    Refused {
        news: bool,
    },
}

impl Versions {
    pub(crate) const fn new(own: VersionRange) -> Self {
        Self { own, peers: BTreeMap::new(), refused: BTreeSet::new() }
    }

    /// A peer says what it speaks.
    pub(crate) fn heard(&mut self, from: NodeInc, theirs: VersionRange) -> Standing {
        if self.own.common(theirs).is_none() {
            self.refused.retain(|who| who.node != from.node || who.inc == from.inc);
            return Standing::Refused { news: self.refused.insert(from) };
        }
        self.refused.retain(|who| who.node != from.node);
        self.peers.insert(from.node, (from.inc, theirs));
        Standing::Understood
    }

    /// This life is known to speak nothing that is spoken here.
    pub(crate) fn refuses(&self, who: NodeInc) -> bool {
        self.refused.contains(&who)
    }

    /// The functional level of a set of nodes: the newest version that all of them speak.
    pub(crate) fn level(&self, of: impl Iterator<Item = NodeId>) -> u16 {
        of.filter_map(|n| self.peers.get(&n))
            .filter_map(|(_, theirs)| self.own.common(*theirs))
            .fold(self.own.max, u16::min)
    }
}

/// Requests that wait for their answer. `T`: what the asker wants to know again then.
#[derive(Debug)]
pub(crate) struct Calls<T> {
    last: u64,
    open: BTreeMap<u64, Open<T>>,
}

#[derive(Debug)]
struct Open<T> {
    to: NodeInc,
    deadline: Instant,
    about: T,
}

impl<T> Calls<T> {
    pub(crate) const fn new() -> Self {
        Self { last: 0, open: BTreeMap::new() }
    }

    /// Notes a request; returns the number under which it is sent and answered.
    pub(crate) fn ask(&mut self, to: NodeInc, deadline: Instant, about: T) -> u64 {
        self.last += 1;
        self.open.insert(self.last, Open { to, deadline, about });
        self.last
    }

    /// An answer has come. None: nobody waits for it (any more), or another was asked.
    pub(crate) fn answered(&mut self, call: u64, from: NodeInc) -> Option<T> {
        self.open.get(&call).filter(|open| open.to == from)?;
        self.open.remove(&call).map(|open| open.about)
    }

    /// Requests whose time is over.
    pub(crate) fn expired(&mut self, now: Instant) -> Vec<T> {
        self.take(|open| now >= open.deadline)
    }

    /// A life that may have been asked is over: it answers no more, and its successor knows nothing
    /// of the request.
    pub(crate) fn ended(&mut self, who: NodeInc) -> Vec<T> {
        self.take(|open| open.to.node == who.node && open.to.inc <= who.inc)
    }

    /// When to look for expired requests.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.open.values().map(|open| open.deadline).min()
    }

    fn take(&mut self, over: impl Fn(&Open<T>) -> bool) -> Vec<T> {
        let calls: Vec<u64> =
            self.open.iter().filter(|(_, open)| over(open)).map(|(&call, _)| call).collect();
        calls.iter().filter_map(|call| self.open.remove(call)).map(|open| open.about).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn life(node: u8, inc: u64) -> NodeInc {
        NodeInc::new(NodeId::new(node).unwrap(), Incarnation(inc))
    }

    fn range(min: u16, max: u16) -> VersionRange {
        VersionRange { min, max }
    }

    #[test]
    fn an_answer_counts_once_from_whom_was_asked_and_in_time() {
        let mut calls = Calls::new();
        let a = calls.ask(life(2, 1), Instant(10), "a");
        let b = calls.ask(life(3, 1), Instant(20), "b");
        let c = calls.ask(life(2, 1), Instant(30), "c");
        assert_eq!(calls.answered(a, life(3, 1)), None, "another answers");
        assert_eq!(calls.answered(a, life(2, 2)), None, "another life answers");
        assert_eq!(calls.answered(a, life(2, 1)), Some("a"));
        assert_eq!(calls.answered(a, life(2, 1)), None, "twice");
        assert_eq!(calls.next_deadline(), Some(Instant(20)));
        assert_eq!(calls.expired(Instant(19)), [""; 0]);
        assert_eq!(calls.expired(Instant(20)), ["b"]);
        assert_eq!(calls.answered(b, life(3, 1)), None, "too late");
        assert_eq!(calls.ended(life(3, 9)), [""; 0]);
        assert_eq!(calls.ended(life(2, 1)), ["c"]);
        assert_eq!((calls.answered(c, life(2, 1)), calls.next_deadline()), (None, None));
    }

    #[test]
    fn the_level_is_what_all_members_speak_and_strangers_are_said_once() {
        let mut versions = Versions::new(range(2, 4));
        let all = || (1..=3).map(|n| NodeId::new(n).unwrap());
        assert_eq!(versions.level(all()), 4);
        assert_eq!(versions.heard(life(2, 1), range(1, 3)), Standing::Understood);
        assert_eq!(versions.heard(life(3, 1), range(4, 9)), Standing::Understood);
        assert_eq!(versions.level(all()), 3);
        // It is updated.
        assert_eq!(versions.heard(life(2, 2), range(3, 5)), Standing::Understood);
        assert_eq!(versions.level(all()), 4);

        assert_eq!(versions.heard(life(2, 3), range(5, 6)), Standing::Refused { news: true });
        assert_eq!(versions.heard(life(2, 3), range(5, 6)), Standing::Refused { news: false });
        assert!(versions.refuses(life(2, 3)) && !versions.refuses(life(2, 2)));
        assert_eq!(versions.heard(life(2, 4), range(5, 6)), Standing::Refused { news: true });
        assert_eq!(versions.heard(life(2, 5), range(4, 6)), Standing::Understood);
        assert!(!versions.refuses(life(2, 4)));
    }
}
