//! The queue of things to come, in true time; ties are broken by the order in which they were
//! planned.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use wolfpack_core::Input as CoreInput;
use wolfpack_diskarb::register::Input as RegisterInput;
use wolfpack_heartbeat::Input as DetectorInput;
use wolfpack_types::heartbeat::Heartbeat;
use wolfpack_types::monitor::MonitorCommand;
use wolfpack_types::peer::PeerMessage;
use wolfpack_types::{NetworkId, NodeId, NodeInc};

use crate::clock::Time;
use crate::device::{Step, Told};
use crate::monitor::CallEnd;
use crate::network::Lane;

/// Something that will happen.
#[derive(Debug)]
pub enum Event {
    /// A deadline of one of the machines of a life.
    Wake(NodeInc),
    ToCore(NodeInc, Box<CoreInput>),
    ToDetector(NodeInc, Box<DetectorInput>),
    ToRegister(NodeInc, Box<RegisterInput>),
    ToMonitor(NodeInc, Box<MonitorCommand>),
    /// A core's message comes out of the queue to the driver, behind the commands before it.
    Leaves(Lane, Box<PeerMessage>),
    /// A stream may have a message for its receiver.
    Stream(Lane),
    Heartbeat {
        network: NetworkId,
        from: NodeInc,
        to: NodeId,
        beat: Box<Heartbeat>,
    },
    /// A guard's proof arrives.
    Testament {
        to: NodeId,
        who: NodeInc,
    },
    Disk {
        command: u64,
        step: Step,
    },
    /// The disk thread of a life is told how a command ended.
    Told {
        who: NodeInc,
        id: u64,
        told: Told,
    },
    /// The next step of a life's store is durable.
    Durable(NodeInc),
    /// Look whether commands of former lives are still under way.
    FormerLives(NodeInc),
    CallEnds(NodeId, CallEnd),
    /// The guard looks at the lease.
    GuardWake(NodeInc),
    /// The guard (or, without `proof`, the kernel alone) has ended everything.
    GuardEnds {
        who: NodeInc,
        proof: bool,
    },
    Start(NodeId),
    Resume(NodeId),
    /// A machine's path to the witness disk works again.
    PathBack(NodeId),
    /// A false alarm of a failure detector is over.
    AlarmOver {
        who: NodeInc,
        about: NodeId,
    },
    /// A machine that stood still as a whole goes on.
    Thaw(NodeId),
    /// A link that comes and goes changes again, so many times more.
    Flap {
        from: NodeId,
        to: NodeId,
        left: u8,
    },
    /// A stranger defends the witness disk, so many times more.
    Stranger {
        left: u8,
    },
    /// The witness disk is as quick as before.
    DiskRecovers,
    /// The key of a life is on the disk of a group, and all others are gone from it.
    DataDisk {
        who: NodeInc,
        group: String,
    },
    /// Somebody sets a machine's wall clock.
    WallClock(NodeId),
    /// The next random fault.
    Fault,
    /// Trouble for whom regroups.
    Hit(NodeId),
    /// The administrators look what is to be done.
    Administer,
}

impl Event {
    /// The node whose service has to run for this to be taken notice of.
    #[must_use]
    pub const fn service(&self) -> Option<NodeId> {
        match self {
            Self::Wake(who)
            | Self::ToCore(who, _)
            | Self::ToDetector(who, _)
            | Self::ToRegister(who, _)
            | Self::Told { who, .. }
            | Self::Durable(who)
            | Self::FormerLives(who)
            | Self::AlarmOver { who, .. } => Some(who.node),
            Self::Leaves((from, _), _) => Some(from.node),
            Self::Stream((_, to)) => Some(to.node),
            Self::Heartbeat { to, .. } | Self::Testament { to, .. } => Some(*to),
            _ => None,
        }
    }

    /// The node whose machine has to run for this to happen.
    #[must_use]
    pub const fn machine(&self) -> Option<NodeId> {
        match self {
            Self::ToMonitor(who, _) | Self::GuardWake(who) | Self::GuardEnds { who, .. } => {
                Some(who.node)
            }
            Self::DataDisk { who, .. } => Some(who.node),
            Self::CallEnds(node, _) | Self::Start(node) | Self::Resume(node) => Some(*node),
            _ => self.service(),
        }
    }

    /// A number for the digest of the run.
    #[must_use]
    pub fn code(&self) -> u64 {
        let (kind, about) = match self {
            Self::Wake(who) => (1, who.inc.0),
            Self::ToCore(who, _) => (2, who.inc.0),
            Self::ToDetector(who, _) => (3, who.inc.0),
            Self::ToRegister(who, _) => (4, who.inc.0),
            Self::ToMonitor(who, _) => (5, who.inc.0),
            Self::Stream((from, _)) => (6, from.inc.0),
            Self::Heartbeat { beat, .. } => (7, beat.seq),
            Self::Testament { who, .. } => (8, who.inc.0),
            Self::Disk { command, .. } => (9, *command),
            Self::Told { id, .. } => (10, *id),
            Self::Durable(who) => (11, who.inc.0),
            Self::FormerLives(who) => (12, who.inc.0),
            Self::CallEnds(node, _) => (13, u64::from(node.get())),
            Self::GuardWake(who) => (14, who.inc.0),
            Self::GuardEnds { who, .. } => (15, who.inc.0),
            Self::Start(node) => (16, u64::from(node.get())),
            Self::Resume(node) => (17, u64::from(node.get())),
            Self::PathBack(node) => (18, u64::from(node.get())),
            Self::AlarmOver { who, .. } => (19, who.inc.0),
            Self::Fault => (20, 0),
            Self::Hit(node) => (21, u64::from(node.get())),
            Self::Administer => (22, 0),
            Self::Leaves((_, to), _) => (23, to.inc.0),
            Self::Thaw(node) => (24, u64::from(node.get())),
            Self::Flap { from, to, left } => {
                (25, u64::from(from.get()) << 16 | u64::from(to.get()) << 8 | u64::from(*left))
            }
            Self::Stranger { left } => (26, u64::from(*left)),
            Self::DiskRecovers => (27, 0),
            Self::DataDisk { who, .. } => (29, who.inc.0),
            Self::WallClock(node) => (28, u64::from(node.get())),
        };
        kind << 56 ^ self.service().map_or(0, |n| u64::from(n.get())) << 48 ^ about
    }
}

#[derive(Debug)]
struct Planned {
    at: Time,
    serial: u64,
    event: Event,
}

impl PartialEq for Planned {
    fn eq(&self, other: &Self) -> bool {
        self.serial == other.serial
    }
}

impl Eq for Planned {}

impl PartialOrd for Planned {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Planned {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.serial).cmp(&(other.at, other.serial))
    }
}

/// What is to come.
#[derive(Debug, Default)]
pub struct Agenda {
    heap: BinaryHeap<Reverse<Planned>>,
    serial: u64,
}

impl Agenda {
    /// Plans an event.
    pub fn plan(&mut self, at: Time, event: Event) {
        self.serial += 1;
        self.heap.push(Reverse(Planned { at, serial: self.serial, event }));
    }

    /// The next event, if it comes by `until`.
    pub fn next(&mut self, until: Time) -> Option<(Time, Event)> {
        if self.heap.peek().is_none_or(|Reverse(p)| p.at > until) {
            return None;
        }
        self.heap.pop().map(|Reverse(p)| (p.at, p.event))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_come_in_time_and_then_in_order_of_planning() {
        let mut agenda = Agenda::default();
        let node = |n| NodeId::new(n).unwrap();
        agenda.plan(5, Event::Start(node(1)));
        agenda.plan(3, Event::Start(node(2)));
        agenda.plan(5, Event::Start(node(3)));
        let mut order = Vec::new();
        while let Some((at, Event::Start(n))) = agenda.next(5) {
            order.push((at, n.get()));
        }
        assert_eq!(order, [(3, 2), (5, 1), (5, 3)]);
    }
}
