//! Every event tells a story that has a beginning: its number is new and grows over the lives of its
//! node, what it names as its cause has happened before it (on whichever node), and only kinds that
//! may begin a story have no cause. So every chain of causes ends at a root, and none is a circle:
//! each change of a group's owner leads back to a wish, a silence, a failure or a start.

use std::collections::BTreeSet;

use wolfpack_types::event::{EventId, StampedEvent};

use super::{Verdict, holds};

const NAME: &str = "every event has a cause that came before it, or begins a story";

/// What has happened so far, on all nodes, in the order of true time.
#[derive(Debug, Default)]
pub struct Happened {
    events: BTreeSet<EventId>,
}

impl Happened {
    /// A node logs an event.
    pub fn event(&mut self, e: &StampedEvent) -> Verdict {
        let own = EventId::new(e.id.node, 0)..=EventId::new(e.id.node, u64::MAX);
        let last = self.events.range(own).next_back().copied();
        holds(last.is_none_or(|last| last < e.id), NAME, || {
            format!("{e} is logged after {last:?} of the same node")
        })?;
        match e.cause {
            Some(cause) => holds(self.events.contains(&cause), NAME, || {
                format!("{e} names a cause that has not happened")
            })?,
            None => holds(e.event.kind.may_be_root(), NAME, || {
                format!("{e} is a {} and has no cause", e.event.kind.name())
            })?,
        }
        self.events.insert(e.id);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wolfpack_types::event::{Event, EventKind, Severity};
    use wolfpack_types::{GroupId, Incarnation, NodeId, NodeInc};

    fn event(number: u64, cause: Option<EventId>, kind: EventKind) -> StampedEvent {
        let id = EventId::new(NodeId::new(1).unwrap(), number);
        let event = Event { kind, severity: Severity::Info, text: "it happened".into() };
        StampedEvent { cause, ..StampedEvent::plain(id, "a", event) }
    }

    #[test]
    fn it_can_fail() {
        let me = NodeInc::new(NodeId::new(1).unwrap(), Incarnation(1));
        let start = || EventKind::ServiceStarted { me };
        let owner =
            || EventKind::GroupOwner { group: GroupId::default(), name: "web".into(), owner: me };
        let id = |number| Some(EventId::new(me.node, number));
        let mut happened = Happened::default();
        happened.event(&event(5, None, start())).unwrap();
        happened.event(&event(6, id(5), owner())).unwrap();
        happened.event(&event(6, None, start())).unwrap_err();
        happened.event(&event(7, None, owner())).unwrap_err();
        happened.event(&event(7, id(7), owner())).unwrap_err();
        happened.event(&event(7, id(8), owner())).unwrap_err();
        happened.event(&event(8, id(6), owner())).unwrap();
    }
}
