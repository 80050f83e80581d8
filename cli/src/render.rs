//! Answers as text: what is wrong comes first, then tables. Pure.

use wolfpack_types::api::{
    ClusterStatus, GroupStatus, NodeState, NodeStatus, QuorumStatus, Reply, ResourceStatus,
    ServiceState, WaitingFor,
};
use wolfpack_types::event::{Severity, StampedEvent};
use wolfpack_types::heartbeat::Reach;
use wolfpack_types::objects::{GroupState, ResourceState, ResourceType, Wanted};
use wolfpack_types::properties;

use crate::network;
use crate::table::{Table, clean};
use crate::tree;

/// Any answer.
pub(crate) fn reply(reply: &Reply) -> String {
    match reply {
        Reply::Done { seq } => format!("done (update {seq})"),
        Reply::Cluster(status) => cluster(status),
        Reply::Nodes { nodes } => node_table(nodes, 0),
        Reply::Groups { groups } => group_details(groups),
        Reply::Resources { resources } => resource_details(resources),
        Reply::Quorum(quorum) => quorum_details(quorum),
        Reply::Explanation(explained) => explained.lines.iter().map(|l| clean(l) + "\n").collect(),
        Reply::Event(e) => event(e),
        Reply::Dropped { count } => gap(*count, false),
        Reply::End => String::new(),
        Reply::Error(e) => clean(&e.to_string()),
        Reply::TreeKey(key) => tree::key(key),
        Reply::TreeValue(entry) => tree::entry(entry),
        Reply::TreeKeys { keys, .. } => keys.iter().map(tree::key).collect(),
        Reply::TreeChange(change) => tree::change(change),
        Reply::Networks { networks, delays } => network::networks(networks, delays),
        Reply::NetworkInterfaces { interfaces } => network::interfaces(interfaces),
        Reply::Objects { objects } => tree::objects(objects),
        Reply::BackedUp { file, seq, bytes } => {
            format!("the database at update {seq} is in '{}' ({bytes} bytes)", clean(file))
        }
    }
}

/// The cluster at a glance.
fn cluster(s: &ClusterStatus) -> String {
    let mut out = String::new();
    let problems = problems(s);
    if !problems.is_empty() {
        out.push_str("PROBLEMS\n");
        for problem in &problems {
            out.push_str(&format!("  ! {}\n", clean(problem)));
        }
        out.push('\n');
    }
    let name = s.name.as_deref().unwrap_or("(none yet)");
    out.push_str(&format!("Cluster   {}\n", clean(name)));
    let state = service_state(s.state);
    out.push_str(&format!(
        "This node {}, incarnation {}, {state}\n",
        clean(&s.node),
        s.incarnation
    ));
    if let Some(view) = &s.view {
        out.push_str(&format!(
            "View      {} of {}, led by {}{}\n",
            clean(&view.ballot),
            clean(&view.members.join(", ")),
            clean(&view.leader),
            if view.witness_in { ", with the witness" } else { "" }
        ));
    }
    let q = &s.quorum;
    let kind = q.kind.map_or_else(|| "unknown".to_owned(), |k| k.to_string());
    out.push_str(&format!("Quorum    {kind}, {} of {} votes\n", q.have, q.total));
    if !s.refused.is_empty() {
        out.push_str(&format!(
            "Refused   {} of the other nodes: 'wolfpack node status --verbose' says why\n",
            messages(s.refused.values().fold(0, |sum, &n| sum.saturating_add(n)))
        ));
    }
    if !s.nodes.is_empty() {
        out.push_str(&format!("\nNODES\n{}", node_table(&s.nodes, 2)));
    }
    if !s.groups.is_empty() {
        out.push_str(&format!("\nGROUPS\n{}", group_table(&s.groups, 2)));
    }
    if !s.resources.is_empty() {
        out.push_str(&format!("\nRESOURCES\n{}", resource_table(&s.resources, 2)));
    }
    out
}

fn messages(count: u64) -> String {
    if count == 1 { "1 message".to_owned() } else { format!("{count} messages") }
}

/// The nodes, and what this one refused to act upon since it began.
pub(crate) fn nodes_in_full(s: &ClusterStatus) -> String {
    let mut out = node_table(&s.nodes, 0);
    if s.refused.is_empty() {
        out.push_str("\nNode ");
        out.push_str(&clean(&s.node));
        out.push_str(" has refused no message of the others.\n");
        return out;
    }
    out.push_str(&format!("\nMessages that node {} has refused since it began:\n", clean(&s.node)));
    let mut table = Table::new(&["COUNT", "BECAUSE"]);
    for (why, count) in &s.refused {
        table.row(&[&count.to_string(), why.in_words()]);
    }
    out.push_str(&table.render(2));
    out
}

fn service_state(state: ServiceState) -> &'static str {
    match state {
        ServiceState::Empty => "in no cluster yet",
        ServiceState::Waiting => "waiting",
        ServiceState::Regrouping => "regrouping",
        ServiceState::Member => "a member",
        ServiceState::Leaving => "leaving",
    }
}

/// All that an administrator should look at, the gravest first.
fn problems(s: &ClusterStatus) -> Vec<String> {
    let mut out = Vec::new();
    let waiting = s.waiting_for.as_deref();
    match s.state {
        ServiceState::Empty => {
            out.push("there is no cluster yet on this node".to_owned());
            let help = "a cluster: 'wolfpack cluster create NAME'";
            out.push(format!("it waits for {}", waiting.unwrap_or(help)));
        }
        _ if !s.quorum.has_quorum => {
            out.push(format!("no quorum: {}", waiting.unwrap_or(&s.quorum.explanation)));
        }
        ServiceState::Waiting | ServiceState::Regrouping | ServiceState::Leaving => {
            let stage = s.stage.map_or_else(String::new, |stage| format!(", stage {stage}"));
            let waiting = waiting.map_or_else(String::new, |w| format!(": {w}"));
            out.push(format!("this node is {}{stage}{waiting}", service_state(s.state)));
        }
        ServiceState::Member => {}
    }
    for stuck in &s.stuck {
        let seconds = stuck.since_ms / 1000;
        let (node, seq) = (&stuck.node, stuck.seq);
        out.push(match stuck.waiting_for {
            WaitingFor::Log => format!(
                "update {seq} waits for node {node} to make it durable, for {seconds} s: is its \
                 disk slow or full?"
            ),
            WaitingFor::Apply => format!(
                "update {seq} waits for node {node} to apply it, for {seconds} s: is it overloaded?"
            ),
            WaitingFor::Witness => {
                format!("update {seq} waits for the witness {node}, for {seconds} s")
            }
        });
    }
    for g in &s.groups {
        match g.state {
            GroupState::Failed => out.push(format!("group '{}' failed: {}", g.name, g.because)),
            _ if g.wanted == Wanted::Online && g.owner.is_none() => {
                out.push(format!("group '{}' has no node to run on: {}", g.name, g.because));
            }
            GroupState::Offline | GroupState::PartialOnline if g.wanted == Wanted::Online => {
                out.push(format!("group '{}' should be online and is {}", g.name, g.state));
            }
            _ => {}
        }
    }
    for r in s.resources.iter().filter(|r| r.state == ResourceState::Failed) {
        let on = r.node.as_deref().unwrap_or("no node");
        out.push(format!("resource '{}' failed on {on}: {}", r.name, r.why));
    }
    // A service that is in no cluster hears nobody: that is no news.
    let known = s.state != ServiceState::Empty;
    for n in s.nodes.iter().filter(|_| known) {
        if n.state == NodeState::Down {
            out.push(format!("node '{}' is down", n.name));
            continue;
        }
        for path in n.paths.iter().filter(|p| !p.up) {
            out.push(format!("network '{}' to node '{}' is down", path.network, n.name));
        }
    }
    out
}

fn node_table(nodes: &[NodeStatus], indent: usize) -> String {
    let mut table = Table::new(&["NODE", "ID", "STATE", "HEARD", "INCARNATION", "PATHS"]);
    for n in nodes {
        let state = match n.state {
            NodeState::Up => "up",
            NodeState::Down => "down",
            NodeState::Joining => "joining",
            NodeState::Paused => "paused",
            NodeState::Evicted => "evicted",
        };
        let reach = match n.reach {
            None => "",
            Some(Reach::Up) => "yes",
            Some(Reach::Suspected) => "suspected",
            Some(Reach::Unreachable) => "no",
        };
        let paths: Vec<String> = n
            .paths
            .iter()
            .map(|p| format!("{} {}", p.network, if p.up { "up" } else { "DOWN" }))
            .collect();
        let incarnation = n.incarnation.map_or_else(String::new, |i| i.to_string());
        let id = n.id.to_string();
        table.row(&[&n.name, &id, state, reach, &incarnation, &paths.join(", ")]);
    }
    table.render(indent)
}

fn group_table(groups: &[GroupStatus], indent: usize) -> String {
    let mut table = Table::new(&["GROUP", "STATE", "WANTED", "NODE", "MOVING TO", "PREFERRED"]);
    for g in groups {
        table.row(&[
            &g.name,
            &g.state.to_string(),
            wanted(g.wanted),
            g.owner.as_deref().unwrap_or(""),
            g.moving_to.as_deref().unwrap_or(""),
            &g.preferred.join(", "),
        ]);
    }
    table.render(indent)
}

const fn wanted(wanted: Wanted) -> &'static str {
    match wanted {
        Wanted::Online => "online",
        Wanted::Offline => "offline",
    }
}

/// The table, and why each is where it is.
fn group_details(groups: &[GroupStatus]) -> String {
    if groups.is_empty() {
        return "there are no groups; make one with 'wolfpack group create NAME'".into();
    }
    let mut out = group_table(groups, 0);
    out.push('\n');
    for g in groups {
        let protection = match g.protection {
            wolfpack_types::api::Protection::Reserved => {
                "its disks are reserved (exclusion, not a full fence)"
            }
            wolfpack_types::api::Protection::Lease => "it has no disk; leases protect it",
        };
        out.push_str(&format!("{}: {}; {protection}\n", clean(&g.name), clean(&g.because)));
    }
    out
}

fn resource_table(resources: &[ResourceStatus], indent: usize) -> String {
    let mut table = Table::new(&["RESOURCE", "GROUP", "TYPE", "STATE", "NODE", "DEPENDS ON"]);
    for r in resources {
        table.row(&[
            &r.name,
            &r.group,
            &r.kind,
            &r.state.to_string(),
            r.node.as_deref().unwrap_or(""),
            &r.depends_on.join(", "),
        ]);
    }
    table.render(indent)
}

/// The table, and for each its properties and what it last said.
fn resource_details(resources: &[ResourceStatus]) -> String {
    if resources.is_empty() {
        return "there are no resources; make one with 'wolfpack resource create'".into();
    }
    let mut out = resource_table(resources, 0);
    for r in resources {
        out.push_str(&format!("\n{}\n", clean(&r.name)));
        if !r.why.is_empty() {
            out.push_str(&format!("  why: {}\n", clean(&r.why)));
        }
        for (key, value) in &r.properties {
            out.push_str(&format!("  {} = {}\n", clean(key), clean(value)));
        }
    }
    out
}

fn quorum_details(q: &QuorumStatus) -> String {
    let mut out = String::new();
    if !q.has_quorum {
        out.push_str("PROBLEMS\n  ! there is no quorum\n\n");
    }
    let kind = q.kind.map_or_else(|| "unknown".to_owned(), |k| k.to_string());
    out.push_str(&format!("Type    {kind}\nVotes   {} of {}\n", q.have, q.total));
    if let Some(witness) = &q.witness {
        let exclusion = q.exclusion.as_deref().unwrap_or("none");
        out.push_str(&format!("Witness {} (exclusion: {})\n", clean(witness), clean(exclusion)));
    }
    let mut table = Table::new(&["VOTER", "VOTES"]);
    for (node, votes) in &q.votes {
        table.row(&[node, &votes.to_string()]);
    }
    if q.witness.is_some() {
        table.row(&["(witness)", &q.witness_votes.to_string()]);
    }
    out.push_str(&format!("\n{}\n{}\n", table.render(0), clean(&q.explanation)));
    out
}

/// One event on one line.
pub(crate) fn event(e: &StampedEvent) -> String {
    let severity = match e.event.severity {
        Severity::Info => "info   ",
        Severity::Warning => "WARNING",
        Severity::Error => "ERROR  ",
    };
    let because = e.cause.map_or_else(String::new, |id| format!("  (because of {id})"));
    format!(
        "{:>10}  {}  {}  {severity}  {}{because}",
        e.id.to_string(),
        wall_clock(e.wall_us),
        clean(&e.node),
        clean(&e.event.text)
    )
}

/// One event of a chain, indented under what led to it.
pub(crate) fn link(e: &StampedEvent, depth: usize) -> String {
    let lead = if depth == 0 { "" } else { "so: " };
    format!(
        "{:indent$}{lead}{}  [{} on {}, {}]",
        "",
        clean(&e.event.text),
        e.id,
        clean(&e.node),
        wall_clock(e.wall_us),
        indent = 2 * depth.min(20)
    )
}

/// In place of events that are missing.
pub(crate) fn gap(count: Option<u64>, chained: bool) -> String {
    match count {
        _ if chained => "(what led to the next event is not in the log of this node)".into(),
        Some(count) => format!("({count} events are missing here: this reader was too slow)"),
        None => "(earlier events are no longer kept)".into(),
    }
}

/// Microseconds since 1970 as UTC.
fn wall_clock(us: u64) -> String {
    let seconds = us / 1_000_000;
    let (days, of_day) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil(days);
    format!(
        "{year:04}-{month:02}-{day:02} {:02}:{:02}:{:02}.{:06}Z",
        of_day / 3600,
        of_day / 60 % 60,
        of_day % 60,
        us % 1_000_000
    )
}

/// Days since 1970 as a date of the Gregorian calendar: Hinnant's `civil_from_days`, which counts
/// years from March so that the leap day comes last.
const fn civil(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let of_era = shifted % 146_097;
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    let year = year_of_era + era * 400 + if month <= 2 { 1 } else { 0 };
    (year, month, day)
}

/// The resource types with their properties, for `resource create --help`.
pub(crate) fn resource_types() -> String {
    let mut out = String::from("Types and their properties (--set KEY=VALUE):\n");
    for kind in ResourceType::ALL {
        out.push_str(&format!("\n{kind}\n"));
        for p in properties::schema(kind) {
            let note = match (p.required, p.default) {
                (true, _) => " (required)".to_owned(),
                (false, Some(default)) => format!(" (default: {default})"),
                (false, None) => String::new(),
            };
            out.push_str(&format!("  {}{note}\n      {}\n", p.name, p.doc));
        }
    }
    out
}

#[cfg(test)]
mod tests;
