//! P10.1: at every instant at most one life has authority for a group, and none while another's
//! resources of that group run; former lives and machines whose guard alone is left count until
//! everything of them has been ended. Two forced quorums apart (P9) are two clusters: each was formed
//! on the word of people that the other is dead, and what both run only the keys on the data disks
//! (P10.20) keep apart then.

use wolfpack_types::NodeInc;

use super::{Verdict, holds};
use crate::oracle::{LifeFacts, Oracle};
use crate::sight::Sight;

const NAME: &str = "P10.1 one owner";

/// A core looks: for each group that it may run, nobody else may or does.
pub fn authority(oracle: &Oracle, who: NodeInc, sight: &Sight) -> Verdict {
    if !oracle.lives.get(&who.node).is_some_and(|facts| in_time(oracle, facts)) {
        return Ok(());
    }
    for group in &sight.authority {
        let comparable =
            |o: &&LifeFacts| o.who != who && in_time(oracle, o) && !oracle.apart(who, o.who);
        for other in oracle.lives.values().filter(comparable) {
            let too = other.sight.authority.contains(group) && oracle.now < other.lease_end;
            holds(!too, NAME, || {
                format!("{who} and {} have authority for group {group}", other.who)
            })?;
        }
        if let Some(name) = oracle.group_names.get(group) {
            let other = another_runs(oracle, who, name);
            holds(other.is_none(), NAME, || {
                format!("{who} has authority for group '{name}', which {other:?} still runs")
            })?;
        }
    }
    Ok(())
}

/// A monitor starts a resource: no other life runs anything of its group.
pub fn run(oracle: &Oracle, who: NodeInc, group: &str) -> Verdict {
    if !oracle.lives.get(&who.node).is_some_and(|facts| in_time(oracle, facts)) {
        return Ok(());
    }
    let other = another_runs(oracle, who, group);
    holds(other.is_none(), NAME, || {
        format!("{who} starts a resource of group '{group}', which {other:?} still runs")
    })
}

/// A machine that stands still, or whose clock was set back, is left out: no lease can end what it
/// holds (P6). Its data disks are fenced, and its guard looks at the time as soon as it goes on.
fn in_time(oracle: &Oracle, facts: &LifeFacts) -> bool {
    !oracle.frozen.contains(&facts.who.node) && facts.set_back == 0
}

fn another_runs(oracle: &Oracle, who: NodeInc, group: &str) -> Option<NodeInc> {
    let in_time = |life: NodeInc| {
        let facts = oracle.lives.get(&life.node).filter(|facts| facts.who == life);
        !oracle.frozen.contains(&life.node) && facts.is_none_or(|facts| facts.set_back == 0)
    };
    oracle
        .runs
        .get(group)?
        .keys()
        .copied()
        .find(|&other| other != who && in_time(other) && !oracle.apart(who, other))
}
