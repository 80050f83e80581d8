//! The quorum in numbers and in words: who counts, who is there, what can still fail.

use std::collections::BTreeSet;

use wolfpack_types::NodeId;
use wolfpack_types::api::QuorumStatus;
use wolfpack_types::register::Exclusion;

use super::Facts;

/// The quorum as this node sees it.
pub(crate) fn status(facts: &Facts<'_>) -> QuorumStatus {
    let table = facts.view.map_or(facts.votes, |v| &v.votes);
    let witness_in = facts.view.is_some_and(|v| v.witness_in);
    let members = facts.members();
    let have = table.sum(members.iter().copied(), witness_in);
    let votes = table.nodes.iter().map(|(&n, &v)| (facts.name(n), v)).collect();
    QuorumStatus {
        kind: Some(facts.quorum),
        witness: facts.witness.map(Into::into),
        exclusion: facts.witness.map(|_| {
            match facts.exclusion {
                Exclusion::Reserve => "reserve",
                Exclusion::None => "none",
            }
            .into()
        }),
        votes,
        witness_votes: table.witness,
        have,
        total: table.total(),
        has_quorum: facts.view.is_some() && facts.lease_end > facts.now,
        explanation: explain(facts, &members),
    }
}

fn explain(facts: &Facts<'_>, members: &BTreeSet<NodeId>) -> String {
    let table = facts.view.map_or(facts.votes, |v| &v.votes);
    let total = table.total();
    let need = total / 2 + 1;
    let voters = table.nodes.values().filter(|&&v| v > 0).count();
    let mut text = format!(
        "There {} {total} {}: {}{}. More than half is {need}. ",
        if total == 1 { "is" } else { "are" },
        if total == 1 { "vote" } else { "votes" },
        match voters {
            0 => "none of a node".into(),
            1 => "one node".into(),
            n => format!("{n} nodes"),
        },
        if table.witness > 0 { " and the witness disk" } else { "" },
    );
    let Some(view) = facts.view else {
        let waits = facts.waiting_for.unwrap_or("enough votes to form a view");
        text += &format!("This node is in no view and may run nothing; it waits for {waits}.");
        return text;
    };
    let have = table.sum(members.iter().copied(), view.witness_in);
    let names: Vec<_> = members.iter().map(|&n| format!("'{}'", facts.name(n))).collect();
    text += &format!(
        "Present {} {}{}, with {have}. ",
        if names.len() + usize::from(view.witness_in) == 1 { "is" } else { "are" },
        names.join(", "),
        if view.witness_in { " and the witness disk" } else { "" },
    );
    if table.witness > 0 && !view.witness_in {
        text += "The witness disk is not needed now and is asked when nodes fail. ";
    }
    text += &losses(facts, members);
    text
}

/// What may be lost next, one at a time.
fn losses(facts: &Facts<'_>, members: &BTreeSet<NodeId>) -> String {
    let table = facts.view.map_or(facts.votes, |v| &v.votes);
    let has_witness = table.witness > 0;
    let without = |gone: NodeId| members.iter().copied().filter(move |&n| n != gone);
    let (may, may_not): (Vec<NodeId>, Vec<NodeId>) = members
        .iter()
        .partition(|&&n| members.len() > 1 && table.exceeds_half(without(n), has_witness));
    let mut parts = Vec::new();
    if may_not.is_empty() {
        parts.push("Any one node may fail".to_owned());
    } else {
        if !may.is_empty() {
            parts.push(format!("{} may fail", listed(facts, &may)));
        }
        parts.push(format!(
            "with the loss of {} the quorum is lost",
            listed(facts, &may_not).replace(" and ", " or ")
        ));
    }
    if has_witness {
        let holds = table.exceeds_half(members.iter().copied(), false);
        parts.push(if holds {
            "the witness disk may fail instead, not as well".to_owned()
        } else {
            "with the loss of the witness disk the quorum is lost".to_owned()
        });
    }
    let mut text = parts.join("; ");
    if let Some(first) = text.get(..1).map(str::to_uppercase) {
        text.replace_range(..1, &first);
    }
    text.push('.');
    text
}

fn listed(facts: &Facts<'_>, nodes: &[NodeId]) -> String {
    let names: Vec<_> = nodes.iter().map(|&n| format!("'{}'", facts.name(n))).collect();
    names.join(" and ")
}
