//! P10.12: no message leaves before the record that it depends on is durable.

use wolfpack_types::heartbeat::Heartbeat;
use wolfpack_types::peer::PeerMessage;
use wolfpack_types::store::Record;
use wolfpack_types::{Ballot, NodeInc, Seq};

use super::{Verdict, holds};

const NAME: &str = "P10.12 durable before visible";

/// A core sends a message; `record` and the end of the log, `last`, are durable.
pub fn message(who: NodeInc, message: &PeerMessage, record: &Record, last: Seq) -> Verdict {
    let accepted = record.accepted.as_ref().map_or(Ballot::ZERO, |v| v.ballot);
    let (what, durable, said) = match message {
        PeerMessage::Prepare { ballot, .. } => ("Prepare", record.max_ballot, *ballot),
        PeerMessage::Promise(promise) => ("Promise", record.promised, promise.ballot),
        PeerMessage::Accepted { ballot } => ("Accepted", accepted, *ballot),
        PeerMessage::Appended { last: said, .. } => {
            return holds(last >= *said, NAME, || {
                format!("{who} says Appended {said}; its durable log ends at {last}")
            });
        }
        _ => return Ok(()),
    };
    holds(durable >= said, NAME, || {
        format!("{who} sends {what} for ballot {said}; only {durable} is durable")
    })
}

/// A driver sends a heartbeat.
pub fn standing(who: NodeInc, beat: &Heartbeat, record: &Record) -> Verdict {
    let durable = record.accepted.as_ref().map_or(Ballot::ZERO, |v| v.ballot);
    let said = beat.standing.accepted.unwrap_or_default().max(beat.standing.installed);
    holds(said <= durable, NAME, || {
        format!("{who} says in a heartbeat that it accepted {said}; only {durable} is durable")
    })
}
