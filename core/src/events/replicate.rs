//! The Event Log Replication Manager: events of this node go to the others in batches, and a life
//! that comes into a view asks for those that it missed.
//!
//! Best effort, and last in line: a batch goes out when it is full or 20 s old, one at a time with a
//! pause between two, so that a regroup never waits behind events. What is kept for the others is
//! bounded; what falls out before anybody had it is counted and said. Nothing is decided by what
//! comes in: the worst that a wrong event can do is to be shown.
//!
//! ```text
//!  own events --> kept --- full, 20 s old, or somebody came ---> EventBatch to every other member
//!  first view of this life: EventFetch{after} --> the leader; EventBatch{call, more} ... until done
//! ```

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use wolfpack_types::event::{BATCH_BYTES_MAX, BATCH_EVENTS_MAX, EventBatch, EventId, StampedEvent};
use wolfpack_types::peer::PeerMessage;
use wolfpack_types::{Incarnation, Instant, NodeId, NodeInc};

use crate::communicate::Calls;

/// Events kept to be sent, of all nodes.
const KEPT_MAX: usize = 4096;
/// And their weight, in bytes.
const KEPT_BYTES_MAX: usize = 4 << 20;
/// An event waits so long for others to go with.
const BATCH_AGE: Duration = Duration::from_secs(20);
/// Pause between two batches: a backlog must not fill the streams.
const BATCH_PAUSE: Duration = Duration::from_millis(100);
/// Own events of former lives that are sent once more: the end of a life was in a hurry.
const AGAIN_MAX: usize = BATCH_EVENTS_MAX;
/// An answer takes at most so long; then another member is asked.
const FETCH_PATIENCE: Duration = Duration::from_secs(5);
/// Texts and names longer than this are no event of this program's.
const TEXT_MAX: usize = 8192;

/// One thing to do.
#[derive(Clone, PartialEq, Debug)]
pub(crate) enum ReplicationOutput {
    Send {
        to: NodeId,
        message: PeerMessage,
    },
    /// To be logged here: events of others, for the first time.
    Log(Vec<StampedEvent>),
    /// So many own events will never be sent.
    NotSent {
        count: u64,
    },
    /// Others know events of this node up to this number, which the own log does not have: it was
    /// lost. Numbers go on after it.
    NumbersTaken {
        to: u64,
    },
}

/// A fetch under way.
#[derive(Clone, Debug)]
struct Fetch {
    /// Of each node, what is here already.
    after: BTreeMap<NodeId, u64>,
    /// Members asked in vain.
    tried: BTreeSet<NodeId>,
}

/// The machine.
#[derive(Debug)]
pub(crate) struct Replicator {
    me: NodeInc,
    nodes: BTreeSet<NodeId>,
    kept: BTreeMap<EventId, StampedEvent>,
    /// In the order in which they came: the first goes first.
    order: VecDeque<EventId>,
    weight: usize,
    /// Own events up to this number were sent, or are lost.
    sent: u64,
    /// Own events that wait, their weight, and since when.
    waiting: (usize, usize, Option<Instant>),
    /// What waits is sent now: somebody has come who asks another for what it missed, and that one
    /// does not have it yet.
    hurry: bool,
    /// No batch before this.
    pause: Instant,
    lost: u64,
    members: BTreeMap<NodeId, Incarnation>,
    leader: Option<NodeId>,
    /// What a fetch of this life starts from; none once it has begun.
    missing: Option<BTreeMap<NodeId, u64>>,
    fetches: Calls<Fetch>,
    out: VecDeque<ReplicationOutput>,
}

impl Replicator {
    /// A new life, with what the log has kept.
    pub(crate) fn new(
        me: NodeInc,
        nodes: impl IntoIterator<Item = NodeId>,
        recent: &[StampedEvent],
        now: Instant,
    ) -> Self {
        let mut machine = Self {
            me,
            nodes: nodes.into_iter().collect(),
            kept: BTreeMap::new(),
            order: VecDeque::new(),
            weight: 0,
            sent: 0,
            waiting: (0, 0, None),
            hurry: false,
            pause: now,
            lost: 0,
            members: BTreeMap::new(),
            leader: None,
            missing: None,
            fetches: Calls::new(),
            out: VecDeque::new(),
        };
        let mut known = BTreeMap::new();
        for e in recent {
            if !machine.plausible(e) || machine.kept.contains_key(&e.id) {
                continue;
            }
            let newest = known.entry(e.id.node).or_insert(0);
            *newest = e.id.number.max(*newest);
            machine.keep(e.clone());
        }
        let own: Vec<usize> = machine.own_after(0).map(StampedEvent::weight).collect();
        let again = own.len().min(AGAIN_MAX);
        let sent = machine.own_after(0).nth_back(again).map_or(0, |e| e.id.number);
        machine.sent = sent;
        if again > 0 {
            machine.waiting = (again, own.iter().rev().take(again).sum(), Some(now));
        }
        machine.lost = 0;
        machine.missing = Some(known);
        machine
    }

    /// The next output.
    pub(crate) fn poll_output(&mut self) -> Option<ReplicationOutput> {
        self.out.pop_front()
    }

    /// When to call [`Self::tick`] at the latest.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        let batch = self.waiting.2.filter(|_| !self.members.is_empty()).map(|since| {
            let due = if self.full() || self.hurry { since } else { since + BATCH_AGE };
            due.max(self.pause)
        });
        [batch, self.fetches.next_deadline()].into_iter().flatten().min()
    }

    /// An event of this node was logged.
    pub(crate) fn logged(&mut self, now: Instant, event: &StampedEvent) {
        self.waiting.0 += 1;
        self.waiting.1 += event.weight();
        self.waiting.2.get_or_insert(now);
        self.keep(event.clone());
    }

    /// A view is installed: who is there to send to, and to ask.
    pub(crate) fn view(
        &mut self,
        now: Instant,
        leader: NodeId,
        members: impl IntoIterator<Item = NodeInc>,
    ) {
        let me = self.me.node;
        let before = std::mem::take(&mut self.members);
        self.members = members
            .into_iter()
            .filter(|who| who.node != me)
            .map(|who| (who.node, who.inc))
            .collect();
        self.leader = Some(leader);
        self.hurry |= self.members.keys().any(|node| !before.contains_key(node));
        if !self.members.is_empty()
            && let Some(after) = self.missing.take()
        {
            self.fetch(now, Fetch { after, tried: BTreeSet::new() });
        }
    }

    /// A life is over: it answers nothing.
    pub(crate) fn ended(&mut self, now: Instant, who: NodeInc) {
        for fetch in self.fetches.ended(who) {
            self.fetch(now, fetch);
        }
    }

    /// What is due.
    pub(crate) fn tick(&mut self, now: Instant) {
        for fetch in self.fetches.expired(now) {
            self.fetch(now, fetch);
        }
        let due = |since: Instant| self.full() || self.hurry || now >= since + BATCH_AGE;
        if self.waiting.2.is_some_and(due) && now >= self.pause && !self.members.is_empty() {
            self.send_batch(now);
        }
        if self.lost > 0 && !self.members.is_empty() {
            let count = std::mem::take(&mut self.lost);
            self.out.push_back(ReplicationOutput::NotSent { count });
        }
    }

    /// Events of another node's log have come.
    pub(crate) fn received(&mut self, now: Instant, from: NodeInc, batch: EventBatch) {
        let fetch = match batch.call {
            Some(call) => match self.fetches.answered(call, from) {
                Some(fetch) => Some(fetch),
                // Of an answer that nobody waits for, nothing is known but that it is late.
                None => return,
            },
            None => None,
        };
        let mut newest = fetch.as_ref().map(|f| f.after.clone()).unwrap_or_default();
        let mut news = Vec::new();
        for e in batch.events.into_iter().take(BATCH_EVENTS_MAX) {
            if !self.plausible(&e) {
                continue;
            }
            let at = newest.entry(e.id.node).or_insert(0);
            *at = e.id.number.max(*at);
            if e.id.node == self.me.node {
                self.out.push_back(ReplicationOutput::NumbersTaken { to: e.id.number });
            } else if !self.kept.contains_key(&e.id) {
                news.push(e.clone());
                self.keep(e);
            }
        }
        if !news.is_empty() {
            self.out.push_back(ReplicationOutput::Log(news));
        }
        if let Some(fetch) = fetch.filter(|f| batch.more && newest != f.after) {
            // The same one goes on: it has what comes next.
            let next = Fetch { after: newest, ..fetch };
            self.ask(now, from, next);
        }
    }

    /// Another node asks for what it missed. Only members are answered.
    pub(crate) fn asked(&mut self, from: NodeInc, call: u64, after: &BTreeMap<NodeId, u64>) {
        if self.members.get(&from.node) != Some(&from.inc) {
            return;
        }
        let missed = self
            .kept
            .iter()
            .filter(|(id, _)| after.get(&id.node).is_none_or(|last| id.number > *last));
        let (events, more) = batch_of(missed.map(|(_, e)| e));
        let batch = EventBatch { call: Some(call), events, more };
        let message = PeerMessage::EventBatch(Box::new(batch));
        self.out.push_back(ReplicationOutput::Send { to: from.node, message });
    }

    /// Asks the leader, or after it the others, each once.
    fn fetch(&mut self, now: Instant, mut fetch: Fetch) {
        let untried = |n: &NodeId| self.members.contains_key(n) && !fetch.tried.contains(n);
        let leader = self.leader.filter(untried);
        let next = leader.or_else(|| self.members.keys().copied().find(untried));
        // Nobody is left: what is missing here stays so.
        let Some(node) = next else { return };
        fetch.tried.insert(node);
        let Some(&inc) = self.members.get(&node) else { return };
        self.ask(now, NodeInc::new(node, inc), fetch);
    }

    fn ask(&mut self, now: Instant, whom: NodeInc, fetch: Fetch) {
        let after = fetch.after.clone();
        let call = self.fetches.ask(whom, now + FETCH_PATIENCE, fetch);
        let message = PeerMessage::EventFetch { call, after };
        self.out.push_back(ReplicationOutput::Send { to: whom.node, message });
    }

    /// Enough waits for a whole batch.
    const fn full(&self) -> bool {
        self.waiting.0 >= BATCH_EVENTS_MAX || self.waiting.1 >= BATCH_BYTES_MAX
    }

    fn send_batch(&mut self, now: Instant) {
        let (events, more) = batch_of(self.own_after(self.sent));
        let weight: usize = events.iter().map(StampedEvent::weight).sum();
        if let Some(last) = events.last() {
            self.sent = last.id.number;
        }
        self.waiting = (
            self.waiting.0.saturating_sub(events.len()),
            self.waiting.1.saturating_sub(weight),
            more.then_some(now),
        );
        self.hurry &= more;
        self.pause = now + BATCH_PAUSE;
        if events.is_empty() {
            return;
        }
        let batch = EventBatch { call: None, events, more: false };
        for &to in self.members.keys() {
            let message = PeerMessage::EventBatch(Box::new(batch.clone()));
            self.out.push_back(ReplicationOutput::Send { to, message });
        }
    }

    fn own_after(&self, number: u64) -> impl DoubleEndedIterator<Item = &StampedEvent> {
        let me = self.me.node;
        let from = EventId::new(me, number.saturating_add(1));
        self.kept.range(from..=EventId::new(me, u64::MAX)).map(|(_, e)| e)
    }

    /// Of a configured node and of a size that an event may have.
    fn plausible(&self, e: &StampedEvent) -> bool {
        let names = [&e.about.group, &e.about.resource, &e.about.network];
        let names = names.into_iter().flatten().chain(&e.about.nodes).chain([&e.node]);
        let fits = |s: &String| s.len() <= TEXT_MAX;
        self.nodes.contains(&e.id.node)
            && e.id.number > 0
            && e.number == e.id.number
            && fits(&e.event.text)
            && e.about.nodes.len() <= usize::from(NodeId::MAX)
            && { names }.all(fits)
    }

    fn keep(&mut self, event: StampedEvent) {
        self.weight += event.weight();
        self.order.push_back(event.id);
        self.kept.insert(event.id, event);
        while self.order.len() > KEPT_MAX || self.weight > KEPT_BYTES_MAX {
            let Some(old) = self.order.pop_front().and_then(|id| self.kept.remove(&id)) else {
                break;
            };
            self.weight -= old.weight();
            if old.id.node == self.me.node && old.id.number > self.sent {
                self.sent = old.id.number;
                self.lost += 1;
                self.waiting.0 = self.waiting.0.saturating_sub(1);
                self.waiting.1 = self.waiting.1.saturating_sub(old.weight());
            }
        }
    }
}

/// As many as fit into a batch, and whether there are more.
fn batch_of<'a>(events: impl Iterator<Item = &'a StampedEvent>) -> (Vec<StampedEvent>, bool) {
    let (mut batch, mut weight) = (Vec::new(), 0);
    for e in events {
        if batch.len() >= BATCH_EVENTS_MAX || (weight >= BATCH_BYTES_MAX && !batch.is_empty()) {
            return (batch, true);
        }
        weight += e.weight();
        batch.push(e.clone());
    }
    (batch, false)
}

#[cfg(test)]
mod tests;
