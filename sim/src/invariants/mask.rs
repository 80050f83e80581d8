//! P10.10: no promise leaves before the mask is in force in the driver, and no acknowledgement goes
//! to a life that the promise leaves out.

use std::collections::BTreeSet;

use wolfpack_types::heartbeat::Heartbeat;
use wolfpack_types::store::Record;
use wolfpack_types::{Ballot, Incarnation, Members, NodeId, NodeInc, same_members};

use super::{Verdict, holds};

const NAME: &str = "P10.10 mask before promise";

/// A promise leaves.
pub fn promise(
    who: NodeInc,
    ballot: Ballot,
    members: Option<&Members>,
    mask: &BTreeSet<NodeInc>,
) -> Verdict {
    let Some(members) = members else {
        return holds(false, NAME, || format!("{who} promises {ballot}, which nobody asked"));
    };
    let outside = mask.iter().find(|&&life| !same_members(members, life));
    holds(outside.is_none(), NAME, || {
        format!("{who} promises {ballot} while its driver still acknowledges {outside:?}")
    })
}

/// A heartbeat leaves, with acknowledgements; `record` is durable. `unsent`: its promise has not left,
/// and will not, since a higher ballot has been asked for meanwhile.
pub fn acks(who: NodeInc, beat: &Heartbeat, record: &Record, unsent: bool) -> Verdict {
    for (node, ack) in beat.acks.iter() {
        let allowed = allowed(record, node, ack.inc, unsent);
        holds(allowed, NAME, || {
            format!(
                "{who} acknowledges {node}.{}, which is not in its promise {} or accepted view",
                ack.inc.0, record.promised
            )
        })?;
    }
    Ok(())
}

fn allowed(record: &Record, node: NodeId, inc: Incarnation, unsent: bool) -> bool {
    let life = NodeInc::new(node, inc);
    (unsent || same_members(&record.promised_members, life))
        && record.accepted.as_ref().is_some_and(|v| v.has(life))
}
