//! The entry of an event log: identity, cause, objects, time; and how entries travel.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::Event;
use crate::{Incarnation, NodeId};

/// Events of one batch between nodes, at most.
pub const BATCH_EVENTS_MAX: usize = 256;
/// Bytes of the events of one batch, about, at most.
pub const BATCH_BYTES_MAX: usize = 64 * 1024;
/// Numbers that one life has for itself. They make numbers grow over lives even if the end of the
/// log is lost with the machine.
const NUMBERS_PER_LIFE: u64 = 1_000_000;

/// The identity of an event: the node that logged it, and its number there. Numbers grow over the
/// lives of a node; those of a new life begin at its incarnation times a million. Written `2:17`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventId {
    pub node: NodeId,
    pub number: u64,
}

impl EventId {
    /// Joins the two.
    #[must_use]
    pub const fn new(node: NodeId, number: u64) -> Self {
        Self { node, number }
    }

    /// The first number of a life, whatever the log has kept of the former one.
    #[must_use]
    pub const fn first_of_life(inc: Incarnation) -> u64 {
        inc.0.saturating_mul(NUMBERS_PER_LIFE).saturating_add(1)
    }
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.node, self.number)
    }
}

impl fmt::Debug for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "e{self}")
    }
}

/// Not the identity of an event.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is no event: write it as NODE:NUMBER, as in 2:1000017")]
pub struct EventIdError(pub String);

impl FromStr for EventId {
    type Err = EventIdError;
    fn from_str(text: &str) -> Result<Self, EventIdError> {
        let parse = || {
            let (node, number) = text.split_once(':')?;
            Some(Self::new(NodeId::new(node.parse().ok()?).ok()?, number.parse().ok()?))
        };
        parse().ok_or_else(|| EventIdError(text.chars().take(64).collect()))
    }
}

// A string for people's formats, two numbers on the wire.
impl Serialize for EventId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.collect_str(self)
        } else {
            (self.node, self.number).serialize(serializer)
        }
    }
}

impl<'de> Deserialize<'de> for EventId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
        } else {
            <(NodeId, u64)>::deserialize(deserializer).map(|(node, number)| Self { node, number })
        }
    }
}

/// The objects that an event is about, by name, as they were called then.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct About {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nodes: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resource: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<String>,
}

/// An event as logged.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct StampedEvent {
    pub id: EventId,
    /// The event that led to this one, here or on another node; none for one that begins a story.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<EventId>,
    /// `id.number` again.
    pub number: u64,
    /// Wall clock, microseconds since 1970.
    pub wall_us: u64,
    /// CLOCK_BOOTTIME of the node, microseconds.
    pub boot_us: u64,
    /// The name of the node that logged it.
    pub node: String,
    #[serde(default)]
    pub about: About,
    #[serde(flatten)]
    pub event: Event,
}

impl StampedEvent {
    /// An event that nothing led to, about nothing, at no time. For tests and for those who fill in
    /// the rest.
    #[must_use]
    pub fn plain(id: EventId, node: impl Into<String>, event: Event) -> Self {
        let number = id.number;
        let (node, about) = (node.into(), About::default());
        Self { id, cause: None, number, wall_us: 0, boot_us: 0, node, about, event }
    }

    /// Its size on the wire, about: names and text, and a constant for the rest.
    #[must_use]
    pub fn weight(&self) -> usize {
        const REST: usize = 256;
        REST + self.event.text.len() + self.node.len()
    }
}

impl fmt::Display for StampedEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} [{}", self.event.text, self.id)?;
        match self.cause {
            Some(cause) => write!(f, " because of {cause}]"),
            None => f.write_str("]"),
        }
    }
}

/// Events on their way to another node.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct EventBatch {
    /// The `EventFetch` that it answers; none for news.
    pub call: Option<u64>,
    /// Of one node in the order of their numbers.
    #[serde(with = "on_the_wire")]
    pub events: Vec<StampedEvent>,
    /// An answer: there is more after these.
    pub more: bool,
}

/// Events are self-describing (a release may know kinds that another does not), so they travel as
/// JSON inside the binary message. What cannot be read is left out: the rest is still of use.
mod on_the_wire {
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

    use super::{BATCH_EVENTS_MAX, StampedEvent};

    /// One event with everything is never so long.
    const EVENT_BYTES_MAX: usize = 64 * 1024;

    pub(super) fn serialize<S: Serializer>(
        events: &[StampedEvent],
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            return events.serialize(serializer);
        }
        let lines: Vec<String> =
            events.iter().filter_map(|e| serde_json::to_string(e).ok()).collect();
        lines.serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Vec<StampedEvent>, D::Error> {
        if deserializer.is_human_readable() {
            return Vec::deserialize(deserializer);
        }
        let lines = Vec::<String>::deserialize(deserializer)?;
        if lines.len() > BATCH_EVENTS_MAX {
            return Err(de::Error::custom("too many events in a batch"));
        }
        let readable = |line: &String| {
            (line.len() <= EVENT_BYTES_MAX).then(|| serde_json::from_str(line).ok()).flatten()
        };
        Ok(lines.iter().filter_map(readable).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::{decode, encode};
    use crate::event::{EventKind, Severity};

    fn id(node: u8, number: u64) -> EventId {
        EventId::new(NodeId::new(node).unwrap(), number)
    }

    fn event(number: u64) -> StampedEvent {
        let event = Event {
            kind: EventKind::QuorumLost,
            severity: Severity::Error,
            text: "no quorum: waiting for b".into(),
        };
        StampedEvent { cause: Some(id(2, 7)), ..StampedEvent::plain(id(1, number), "a", event) }
    }

    #[test]
    fn identities_are_written_and_read() {
        assert_eq!("2:17".parse(), Ok(id(2, 17)));
        assert_eq!(id(64, u64::MAX).to_string().parse(), Ok(id(64, u64::MAX)));
        for bad in ["", "17", "0:1", "65:1", "2:", ":2", "2:-1", "2:1:1", "a:1"] {
            let error = bad.parse::<EventId>().unwrap_err();
            assert!(error.to_string().contains("NODE:NUMBER"), "{error}");
        }
        assert!(EventId::first_of_life(Incarnation(3)) > EventId::first_of_life(Incarnation(2)));
        assert_eq!(EventId::first_of_life(Incarnation(u64::MAX)), u64::MAX);
    }

    #[test]
    fn an_event_is_one_line_of_json_and_comes_back() {
        let line = serde_json::to_string(&event(3)).unwrap();
        assert!(line.contains(r#""id":"1:3","cause":"2:7","number":3"#), "{line}");
        assert_eq!(serde_json::from_str::<StampedEvent>(&line).unwrap(), event(3));
    }

    #[test]
    fn a_batch_travels_and_what_cannot_be_read_is_left_out() {
        let batch = EventBatch { call: Some(4), events: vec![event(1), event(2)], more: true };
        assert_eq!(decode("batch", &encode(&batch)), Ok(batch.clone()));

        // A later release knows more kinds.
        let strange = serde_json::to_string(&event(2)).unwrap().replace("quorum-lost", "eclipse");
        let lines = vec![serde_json::to_string(&event(1)).unwrap(), strange, "{".into()];
        let bytes = encode(&(Some(4u64), lines, true));
        let got = decode::<EventBatch>("batch", &bytes).unwrap();
        assert_eq!(got, EventBatch { events: vec![event(1)], ..batch });

        let many = vec![String::new(); BATCH_EVENTS_MAX + 1];
        let bytes = encode(&(None::<u64>, many, false));
        assert!(decode::<EventBatch>("batch", &bytes).unwrap_err().why.len() < 200);
    }
}
