//! Durable before visible: what follows a step waits until the store says that it is durable.

use std::collections::BTreeMap;

use wolfpack_types::store::Persist;
use wolfpack_types::{Ballot, Instant, NodeId, Seq, View};

use crate::{Core, ExitReason, Output};

/// What to do when a step is durable.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum After {
    /// The own ballot may be sent.
    Ballot {
        ballot: Ballot,
    },
    Promised {
        ballot: Ballot,
    },
    Accepted {
        view: Box<View>,
        to: NodeId,
    },
    Established {
        ballot: Ballot,
    },
    Appended {
        ballot: Ballot,
        last: Seq,
        to: NodeId,
    },
    /// A piece of a copy may be acknowledged.
    Copied {
        to: NodeId,
        id: u64,
        number: u32,
    },
    /// The store is put aside: this life ends.
    Retired,
    Nothing,
}

/// Position, its ballot, and rows set (Some) or deleted (None).
type Applied = (Seq, Ballot, BTreeMap<String, Option<Vec<u8>>>);

/// Steps handed to the store, in order.
#[derive(Debug, Default)]
pub(crate) struct Durable {
    last_id: u64,
    waiting: BTreeMap<u64, After>,
    /// What was applied and not yet handed to the store.
    applied: Option<Applied>,
}

impl Core {
    /// Hands a step to the store; `after` happens when it, and all before it, are durable.
    pub(crate) fn persist(&mut self, step: Persist, after: After) {
        self.persist_applied();
        self.hand_over(step, after);
    }

    fn hand_over(&mut self, step: Persist, after: After) {
        self.durable.last_id += 1;
        let id = self.durable.last_id;
        if after != After::Nothing {
            self.durable.waiting.insert(id, after);
        }
        self.output(Output::Persist { id, step });
    }

    /// The database has moved. The log has all that its file lacks, so this needs no haste: it goes
    /// to the store with the next step that does, or with the next tick.
    pub(crate) fn applied_rows(
        &mut self,
        seq: Seq,
        ballot: Ballot,
        rows: impl IntoIterator<Item = (String, Option<Vec<u8>>)>,
    ) {
        let applied = self.durable.applied.get_or_insert_default();
        (applied.0, applied.1) = (seq, ballot);
        applied.2.extend(rows);
    }

    pub(crate) fn persist_applied(&mut self) {
        if let Some((seq, ballot, rows)) = self.durable.applied.take() {
            let rows = rows.into_iter().collect();
            self.hand_over(Persist::Apply { seq, ballot, rows }, After::Nothing);
        }
    }

    pub(crate) fn on_persisted(&mut self, now: Instant, id: u64) {
        while let Some(entry) = self.durable.waiting.first_entry() {
            if *entry.key() > id {
                break;
            }
            match entry.remove() {
                After::Ballot { ballot } => self.ballot_durable(now, ballot),
                After::Promised { ballot } => self.promise_durable(now, ballot),
                After::Accepted { view, to } => self.accept_durable(now, *view, to),
                After::Established { ballot } => {
                    let record = &mut self.membership.record;
                    record.established = record.established.max(ballot);
                }
                After::Appended { ballot, last, to } => self.append_durable(ballot, last, to),
                After::Copied { to, id, number } => self.copied(to, id, number),
                After::Retired => self.exit(ExitReason::Excluded),
                After::Nothing => {}
            }
        }
    }
}
