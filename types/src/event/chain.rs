//! Chains of causes: this because of that, back to what began it; and one timeline of many nodes.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use super::{EventId, StampedEvent};

/// Chains longer than this are cut: real ones have a dozen links.
const LINKS_MAX: usize = 256;

/// An event and what led to it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Chain<'a> {
    /// The first cause first, the event asked for last. Empty: the event is not known.
    pub links: Vec<&'a StampedEvent>,
    /// The chain goes on with this event, which is not known (not yet received, or no longer
    /// kept). None: `links` begins with a root.
    pub missing: Option<EventId>,
}

/// Follows the causes of an event among those that `find` knows. It ends whatever the events say:
/// a circle (which no node makes, but bytes from elsewhere may claim) is cut where it closes.
pub fn chain<'a>(find: impl Fn(EventId) -> Option<&'a StampedEvent>, id: EventId) -> Chain<'a> {
    let (mut links, mut seen, mut next) = (Vec::new(), BTreeSet::new(), Some(id));
    while let Some(id) = next {
        let Some(event) = find(id).filter(|_| links.len() < LINKS_MAX && seen.insert(id)) else {
            break;
        };
        links.push(event);
        next = event.cause;
    }
    links.reverse();
    Chain { links, missing: next }
}

impl Chain<'_> {
    /// The story in words, one event a line, each indented under what led to it.
    #[must_use]
    pub fn explain(&self) -> String {
        let mut out = String::new();
        let mut depth = 0;
        let mut say = |line: String| {
            let lead = if depth == 0 { "" } else { "so: " };
            // Writing to a String does not fail.
            let _ = writeln!(out, "{:width$}{lead}{line}", "", width = 2 * depth);
            depth += 1;
        };
        if let Some(id) = self.missing.filter(|_| !self.links.is_empty()) {
            say(format!("(event {id}, which this node does not have)"));
        }
        for e in &self.links {
            say(format!("{} [{} on {}]", e.event.text, e.id, e.node));
        }
        out
    }
}

/// Puts the events of several nodes into one order: by wall clock, but never an event before its
/// cause or before what its own node logged earlier (the clocks of two nodes differ).
pub fn timeline(events: &mut [&StampedEvent]) {
    events.sort_by_key(|e| e.id);
    let known: BTreeMap<EventId, &StampedEvent> = events.iter().map(|e| (e.id, *e)).collect();
    let before: BTreeMap<EventId, EventId> = events
        .windows(2)
        .filter(|w| w[0].id.node == w[1].id.node)
        .map(|w| (w[1].id, w[0].id))
        .collect();
    // The place of each event: its time, at least that of what precedes it, and among equals the
    // order in which the search leaves them, which is what precedes first.
    let mut place: BTreeMap<EventId, (u64, usize)> = BTreeMap::new();
    let mut left = 0;
    for e in events.iter() {
        // Depth first, without recursion: chains from elsewhere may be long.
        let mut open = vec![(e.id, false)];
        while let Some((id, entered)) = open.pop() {
            if !entered && place.contains_key(&id) {
                continue;
            }
            let Some(event) = known.get(&id) else { continue };
            let earlier = [before.get(&id).copied(), event.cause];
            let earlier = earlier.into_iter().flatten();
            if entered {
                let floor = earlier.filter_map(|id| place.get(&id)).map(|p| p.0).max();
                left += 1;
                place.insert(id, (event.wall_us.max(floor.unwrap_or(0)), left));
            } else {
                // A mark, so that a circle ends; the place itself follows.
                place.insert(id, (event.wall_us, 0));
                open.push((id, true));
                open.extend(earlier.map(|id| (id, false)));
            }
        }
    }
    events.sort_by_key(|e| place.get(&e.id).copied());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::NodeId;
    use crate::event::{Event, EventKind, Severity};

    fn id(node: u8, number: u64) -> EventId {
        EventId::new(NodeId::new(node).unwrap(), number)
    }

    fn event(id: EventId, cause: Option<EventId>, wall_us: u64) -> StampedEvent {
        let text = format!("event {id}");
        let event = Event { kind: EventKind::QuorumLost, severity: Severity::Info, text };
        StampedEvent { cause, wall_us, ..StampedEvent::plain(id, format!("n{}", id.node), event) }
    }

    fn ids(events: &[&StampedEvent]) -> Vec<String> {
        events.iter().map(|e| e.id.to_string()).collect()
    }

    #[test]
    fn a_chain_crosses_nodes_and_ends_at_its_root_or_says_what_is_missing() {
        let all = [
            event(id(1, 5), None, 1),
            event(id(2, 9), Some(id(1, 5)), 2),
            event(id(2, 10), Some(id(2, 9)), 3),
            event(id(2, 11), Some(id(3, 1)), 3),
        ];
        let find = |id| all.iter().find(|e| e.id == id);
        let whole = chain(find, id(2, 10));
        assert_eq!(
            (ids(&whole.links), whole.missing),
            (vec!["1:5".into(), "2:9".into(), "2:10".into()], None)
        );
        let told = whole.explain();
        assert_eq!(
            told,
            "event 1:5 [1:5 on n1]\n  so: event 2:9 [2:9 on n2]\n    so: event 2:10 [2:10 on n2]\n"
        );
        let torn = chain(find, id(2, 11));
        assert_eq!((ids(&torn.links), torn.missing), (vec!["2:11".into()], Some(id(3, 1))));
        assert!(torn.explain().starts_with("(event 3:1, which this node does not have)\n  so: "));
        let none = chain(find, id(4, 4));
        assert_eq!(
            (none.links.len(), none.missing, none.explain()),
            (0, Some(id(4, 4)), String::new())
        );
    }

    #[test]
    fn circles_and_endless_chains_are_cut() {
        let all = [event(id(1, 1), Some(id(1, 2)), 0), event(id(1, 2), Some(id(1, 1)), 0)];
        let got = chain(|id| all.iter().find(|e| e.id == id), id(1, 1));
        assert_eq!(
            (ids(&got.links), got.missing),
            (vec!["1:2".into(), "1:1".into()], Some(id(1, 1)))
        );
        let mut order: Vec<_> = all.iter().collect();
        timeline(&mut order);
        assert_eq!(order.len(), 2);

        let long: Vec<_> =
            (1..=10_000).map(|n| event(id(1, n), (n > 1).then(|| id(1, n - 1)), 0)).collect();
        let find = |id: EventId| long.get(usize::try_from(id.number).unwrap() - 1);
        assert_eq!(chain(find, id(1, 10_000)).links.len(), LINKS_MAX);
        let mut order: Vec<_> = long.iter().rev().collect();
        timeline(&mut order);
        assert!(order.windows(2).all(|w| w[0].id < w[1].id));
    }

    #[test]
    fn the_timeline_keeps_causes_and_each_node_in_order_over_crooked_clocks() {
        // The clock of node 2 is a second behind; node 1 steps its own back between 2 and 3.
        let all = [
            event(id(1, 1), None, 1_000_000),
            event(id(2, 1), None, 5),
            event(id(2, 2), Some(id(1, 1)), 10),
            event(id(1, 2), Some(id(2, 2)), 1_000_010),
            event(id(1, 3), None, 900_000),
        ];
        let mut order: Vec<_> = all.iter().rev().collect();
        timeline(&mut order);
        assert_eq!(ids(&order), ["2:1", "1:1", "2:2", "1:2", "1:3"]);
    }
}
