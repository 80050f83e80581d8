//! The story of a fault: the events of the nodes and what the client saw, on one clock, as offsets
//! since the fault; and the same in figures, split into the stages of a fail-over.

use std::fmt::Write as _;

use serde::Serialize;
use wolfpack_types::api::StampedEvent;
use wolfpack_types::event::EventKind;
use wolfpack_types::heartbeat::Reach;
use wolfpack_types::membership::Stage;
use wolfpack_types::objects::ResourceState;

use crate::watch::client::Outage;

/// Events up to this long before the fault are shown: what was in the air when it struck.
const BEFORE_US: u64 = 20_000;
/// Events up to this long after the first answer are shown.
const AFTER_US: u64 = 500_000;

/// One line of the story.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Entry {
    /// Milliseconds since the fault; negative before it.
    pub offset_ms: f64,
    /// The node that says so, or `client`.
    pub who: String,
    pub what: String,
}

/// The stages of a fail-over, each in milliseconds from the end of the one before. A stage that
/// did not occur (no witness was needed, no wait) is none, and its time is in the next one.
#[derive(Clone, PartialEq, Debug, Default, Serialize)]
pub struct Split {
    /// From the fault until a survivor acts.
    pub detection_ms: Option<f64>,
    /// Until the new view is installed, without the witness's part.
    pub regroup_ms: Option<f64>,
    /// Of the regroup, until the witness had promised.
    pub witness_ms: Option<f64>,
    /// Until the group has its new owner.
    pub wait_ms: Option<f64>,
    /// Until its last resource is online there.
    pub online_ms: Option<f64>,
    /// Until the client has its first answer.
    pub answer_ms: Option<f64>,
}

/// A whole story.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Timeline {
    pub fault: String,
    /// CLOCK_BOOTTIME, microseconds.
    pub fault_us: u64,
    /// None: no answer has come back.
    pub outage_ms: Option<f64>,
    pub answered_before: Option<String>,
    pub answered_after: Option<String>,
    pub split: Split,
    pub entries: Vec<Entry>,
}

impl Timeline {
    /// Puts it together. `events`: of the nodes that matter, of any time.
    #[must_use]
    pub fn new(
        fault: &str,
        fault_us: u64,
        mut events: Vec<StampedEvent>,
        outage: Option<&Outage>,
    ) -> Self {
        events.sort_by_key(|e| e.boot_us);
        let end = outage.map_or(u64::MAX, |o| o.first.at_us.max(fault_us) + AFTER_US);
        events.retain(|e| e.boot_us + BEFORE_US >= fault_us && e.boot_us <= end);
        let split = split(fault_us, &events, outage);
        let mut entries: Vec<(u64, Entry)> = events
            .iter()
            .filter(|e| told(&e.event.kind))
            .map(|e| (e.boot_us, entry(fault_us, e.boot_us, &e.node, &e.event.text)))
            .collect();
        if let Some(outage) = outage {
            for (what, answer) in [("last answer", &outage.last), ("first answer", &outage.first)] {
                let what = format!("{what}, from node {}", answer.node);
                entries.push((answer.at_us, entry(fault_us, answer.at_us, "client", &what)));
            }
        }
        entries.push((fault_us, entry(fault_us, fault_us, "lab", fault)));
        entries.sort_by_key(|(at, _)| *at);
        Self {
            fault: fault.into(),
            fault_us,
            outage_ms: outage.map(Outage::ms),
            answered_before: outage.map(|o| o.last.node.clone()),
            answered_after: outage.map(|o| o.first.node.clone()),
            split,
            entries: entries.into_iter().map(|(_, e)| e).collect(),
        }
    }

    /// For people.
    #[must_use]
    pub fn text(&self) -> String {
        let mut out = String::new();
        for e in &self.entries {
            // Writing to a String does not fail.
            let _ = writeln!(out, "{:>+10.1} ms  {:<7} {}", e.offset_ms, e.who, e.what);
        }
        if let Some(outage) = self.outage_ms {
            let _ = writeln!(out, "\nThe client had no answer for {outage:.0} ms.");
        }
        out
    }
}

fn entry(fault_us: u64, at_us: u64, who: &str, what: &str) -> Entry {
    Entry { offset_ms: offset_ms(fault_us, at_us), who: who.into(), what: what.into() }
}

#[expect(clippy::cast_precision_loss, reason = "spans of a lab are minutes in microseconds")]
fn offset_ms(from_us: u64, at_us: u64) -> f64 {
    if at_us >= from_us {
        (at_us - from_us) as f64 / 1000.0
    } else {
        -((from_us - at_us) as f64) / 1000.0
    }
}

/// Whether an event belongs into the story that people read.
const fn told(kind: &EventKind) -> bool {
    !matches!(kind, EventKind::UpdateApplied { .. } | EventKind::DatagramsDropped { .. })
}

fn split(fault_us: u64, events: &[StampedEvent], outage: Option<&Outage>) -> Split {
    let first = |from: u64, wanted: &dyn Fn(&EventKind) -> bool| {
        events.iter().find(|e| e.boot_us >= from && wanted(&e.event.kind)).map(|e| e.boot_us)
    };
    let acts = |k: &EventKind| {
        matches!(
            k,
            EventKind::NodeReach { reach: Reach::Unreachable, .. }
                | EventKind::ProofReceived { .. }
                | EventKind::RegroupStage { stage: Stage::Activate, .. }
                | EventKind::GroupMoving { .. }
        )
    };
    let mut at = fault_us;
    let mut stage = |end: Option<u64>| {
        let end = end.filter(|&e| e >= at)?;
        let span = offset_ms(at, end);
        at = end;
        Some(span)
    };
    let detected = first(fault_us, &acts);
    let from = detected.unwrap_or(fault_us);
    let owner = first(from, &|k| matches!(k, EventKind::GroupOwner { .. }));
    let view = first(from, &|k| matches!(k, EventKind::ViewInstalled { .. }))
        .filter(|&v| owner.is_none_or(|o| v <= o));
    let witness = first(from, &|k| matches!(k, EventKind::WitnessWon { .. }))
        .filter(|&w| view.is_some_and(|v| w <= v));
    let answer = outage.map(|o| o.first.at_us);
    let online =
        |k: &EventKind| matches!(k, EventKind::ResourceState { state: ResourceState::Online, .. });
    let last_online = events
        .iter()
        .rfind(|e| {
            e.boot_us >= owner.unwrap_or(u64::MAX)
                && answer.is_none_or(|a| e.boot_us <= a)
                && online(&e.event.kind)
        })
        .map(|e| e.boot_us);
    Split {
        detection_ms: stage(detected),
        witness_ms: stage(witness),
        regroup_ms: stage(view),
        wait_ms: stage(owner),
        online_ms: stage(last_online),
        answer_ms: stage(answer),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::watch::client::Answer;
    use wolfpack_types::NodeId;
    use wolfpack_types::event::{Event, EventId, Severity};

    fn event(boot_us: u64, kind: EventKind) -> StampedEvent {
        let event = Event { kind, severity: Severity::Info, text: "it happened".into() };
        let id = EventId::new(NodeId::new(2).unwrap(), 1);
        StampedEvent { boot_us, ..StampedEvent::plain(id, "b", event) }
    }

    fn answer(at_us: u64, node: &str) -> Answer {
        Answer { asked_us: at_us, at_us, node: node.into() }
    }

    #[test]
    fn a_fail_over_is_split_into_its_stages() {
        let node = NodeId::new(1).unwrap();
        let ballot = || "2.2".to_owned();
        let events = vec![
            event(9_900_000, EventKind::QuorumLost),
            event(11_000_000, EventKind::NodeReach { node, reach: Reach::Unreachable }),
            event(11_200_000, EventKind::WitnessWon { ballot: ballot() }),
            event(
                11_300_000,
                EventKind::ViewInstalled { ballot: ballot(), members: vec![], witness_in: true },
            ),
            event(12_500_000, EventKind::WaitOver { node }),
        ];
        let outage = Outage { last: answer(9_999_000, "a"), first: answer(12_600_000, "b") };
        let t = Timeline::new("power cut of node a", 10_000_000, events, Some(&outage));
        assert_eq!(t.split.detection_ms, Some(1000.0));
        assert_eq!(t.split.witness_ms, Some(200.0));
        assert_eq!(t.split.regroup_ms, Some(100.0));
        assert_eq!(t.split.wait_ms, None, "no new owner was named");
        assert_eq!(t.split.answer_ms, Some(1300.0));
        assert_eq!(t.outage_ms, Some(2601.0));
        let lines: Vec<_> = t.entries.iter().map(|e| e.what.as_str()).collect();
        assert_eq!(lines.first(), Some(&"last answer, from node a"));
        assert_eq!(lines.last(), Some(&"first answer, from node b"));
        assert_eq!(lines.len(), 7, "the event of long ago is left out: {lines:?}");
        assert!(t.text().contains("+1000.0 ms  b       it happened"), "{}", t.text());
    }
}
