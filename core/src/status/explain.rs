//! `quorum explain`: the arithmetic in plain words, what can still fail, and who is waited for. One
//! sentence per line.

use std::collections::BTreeSet;

use wolfpack_types::NodeId;
use wolfpack_types::VoteTable;

use super::Facts;

/// So many pairs of losses are named.
const PAIRS_SHOWN: usize = 8;

/// What may be lost: a member, or the witness.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Voter {
    Node(NodeId),
    Witness,
}

/// The explanation.
pub(crate) fn lines(facts: &Facts<'_>) -> Vec<String> {
    let table = facts.view.map_or(facts.votes, |v| &v.votes);
    let dynamic = if facts.dynamic { ", with dynamic votes" } else { "" };
    let mut lines = vec![
        format!("The quorum type is '{}'{dynamic}.", facts.quorum),
        format!("Votes: {}. More than half is needed: {}.", listed(facts, table), half(table)),
    ];
    if let Some(former) = facts.view.and_then(|v| v.prev_votes.as_ref())
        && former != table
    {
        let votes = listed(facts, former);
        lines.push(format!("They were changed by this view; until it is known established the former ones count too: {votes}."));
    }
    if facts.dynamic && table.witness == 0 && facts.witness.is_some() {
        lines.push("The witness has no vote now: the nodes' votes are odd, or it fails.".into());
    }
    match facts.view {
        Some(_) => present(facts, table, &mut lines),
        None => absent(facts, table, &mut lines),
    }
    lines
}

fn half(table: &VoteTable) -> u32 {
    table.total() / 2 + 1
}

fn listed(facts: &Facts<'_>, table: &VoteTable) -> String {
    let nodes = table.nodes.iter().map(|(&n, v)| format!("'{}' {v}", facts.name(n)));
    let witness = facts.witness.map(|_| format!("the witness {}", table.witness));
    let all: Vec<String> = nodes.chain(witness).collect();
    format!("{}, {} in all", all.join(", "), table.total())
}

fn name(facts: &Facts<'_>, voter: Voter) -> String {
    match voter {
        Voter::Node(n) => format!("'{}'", facts.name(n)),
        Voter::Witness => "the witness".into(),
    }
}

/// Whether the quorum stands without these.
fn stands(facts: &Facts<'_>, table: &VoteTable, lost: &[Voter]) -> bool {
    let members = facts.members();
    let rest = members.iter().copied().filter(|&n| !lost.contains(&Voter::Node(n)));
    let witness = facts.witness_ok && !lost.contains(&Voter::Witness);
    table.exceeds_half(rest, witness)
}

fn present(facts: &Facts<'_>, table: &VoteTable, lines: &mut Vec<String>) {
    let members = facts.members();
    let have = table.sum(members.iter().copied(), facts.witness_ok);
    let names: Vec<String> = members.iter().map(|&n| name(facts, Voter::Node(n))).collect();
    let witness = match (facts.witness, facts.witness_ok) {
        (None, _) => "",
        (Some(_), true) => " and the witness",
        (Some(_), false) => "; the witness does not answer",
    };
    lines.push(format!("Present: {}{witness}, with {have} votes.", names.join(", ")));
    let mut voters: Vec<Voter> = members.iter().map(|&n| Voter::Node(n)).collect();
    voters.extend((facts.witness_ok && table.witness > 0).then_some(Voter::Witness));
    for &voter in &voters {
        let holds = stands(facts, table, &[voter]);
        let then = if holds { "the quorum holds" } else { "the quorum is lost" };
        lines.push(format!("Without {}: {then}.", name(facts, voter)));
    }
    let mut fatal = Vec::new();
    let mut pairs = 0_usize;
    for (i, &a) in voters.iter().enumerate() {
        for &b in voters.iter().skip(i + 1) {
            let alone = stands(facts, table, &[a]) && stands(facts, table, &[b]);
            pairs += usize::from(alone);
            if alone && !stands(facts, table, &[a, b]) {
                fatal.push(format!("{} with {}", name(facts, a), name(facts, b)));
            }
        }
    }
    if pairs == 0 {
        return;
    }
    lines.push(if fatal.is_empty() {
        "Any two of those that may fail alone may fail together.".into()
    } else if fatal.len() == pairs {
        "No two of them may fail together.".into()
    } else {
        let more = fatal.len().saturating_sub(PAIRS_SHOWN);
        let shown = fatal.iter().take(PAIRS_SHOWN).cloned().collect::<Vec<_>>().join("; ");
        let more = if more > 0 { format!("; and {more} more pairs") } else { String::new() };
        format!("These may not fail together: {shown}{more}.")
    });
    if facts.dynamic {
        lines.push(
            "One after the other more may fail: the votes of the lost are taken away when their \
             leases are over."
                .into(),
        );
    }
}

fn absent(facts: &Facts<'_>, table: &VoteTable, lines: &mut Vec<String>) {
    let waits = facts.waiting_for.unwrap_or("enough votes to form a view");
    lines.push(format!("This node is in no view and may run nothing; it waits for {waits}."));
    let heard: BTreeSet<NodeId> =
        facts.heard.keys().copied().chain([facts.me.node]).filter(|&n| alive(facts, n)).collect();
    let have = table.sum(heard.iter().copied(), facts.witness_ok);
    lines.push(format!("{have} votes are here, with those that are heard."));
    let missing: Vec<NodeId> =
        table.nodes.keys().copied().filter(|n| !heard.contains(n) && table.of(*n) > 0).collect();
    let enough: Vec<String> = missing
        .iter()
        .filter(|&&n| have + table.of(n) >= half(table))
        .map(|&n| name(facts, Voter::Node(n)))
        .collect();
    let all: Vec<String> = missing.iter().map(|&n| name(facts, Voter::Node(n))).collect();
    if have >= half(table) || all.is_empty() {
        lines.push("It goes on trying by itself.".into());
        return;
    }
    lines.push(if enough.is_empty() {
        format!("Several of these must come back: {}.", all.join(", "))
    } else {
        format!("The return of one of these is enough: {}.", enough.join(", "))
    });
    let dead: Vec<String> = missing.iter().map(|&n| facts.name(n)).collect();
    lines.push(format!(
        "If all of them are switched off for certain, 'wolfpack quorum force --dead {}' goes on \
         without them; if one of them runs, two nodes may run the same groups, and what was changed \
         there is lost.",
        dead.join(" ")
    ));
}

fn alive(facts: &Facts<'_>, node: NodeId) -> bool {
    use wolfpack_types::heartbeat::Reach;
    node == facts.me.node || matches!(facts.reach.get(&node), Some(Reach::Up | Reach::Suspected))
}
