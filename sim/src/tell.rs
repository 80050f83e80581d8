//! Messages and commands in a few words each, for the story.

use wolfpack_types::monitor::MonitorCommand;
use wolfpack_types::peer::PeerMessage;
use wolfpack_types::register::{RegisterCommand, RegisterEvent};
use wolfpack_types::{Members, NodeInc, View};

fn members(members: &Members) -> String {
    let lives: Vec<String> =
        members.iter().map(|(&node, m)| NodeInc::new(node, m.inc).to_string()).collect();
    format!("{{{}}}", lives.join(", "))
}

/// A view.
#[must_use]
pub fn view(view: &View) -> String {
    let witness = if view.witness_in { " with witness" } else { "" };
    format!("view {} {}{witness}, log to {}", view.ballot, members(&view.members), view.base_seq)
}

/// A message between cores.
#[must_use]
pub fn message(message: &PeerMessage) -> String {
    match message {
        PeerMessage::Prepare { ballot, members: m, .. } => {
            format!("Prepare {ballot} {}", members(m))
        }
        PeerMessage::Promise(p) => format!(
            "Promise {}: accepted {}, log to {} ({}), committed {}, established {}{}{}",
            p.ballot,
            p.accepted.as_ref().map_or_else(|| "none".into(), |v| v.ballot.to_string()),
            p.last.1,
            p.last.0,
            p.commit_seq,
            p.established,
            if p.fresh { ", fresh" } else { "" },
            if p.learner { ", learner" } else { "" }
        ),
        PeerMessage::Nack { ballot, counter, refused } => {
            format!("Nack {ballot}: counter {counter}{}", if *refused { ", refused" } else { "" })
        }
        PeerMessage::Accept(a) => format!(
            "Accept {}, {} entries after {}{}",
            view(&a.view),
            a.entries.len(),
            a.after,
            if a.snapshot.is_some() { " on a snapshot" } else { "" }
        ),
        PeerMessage::LogData { ballot, snapshot, entries } => format!(
            "LogData {ballot}: {} entries{}",
            entries.len(),
            if snapshot.is_some() { " on a snapshot" } else { "" }
        ),
        PeerMessage::Append { ballot, prev, entries } => {
            format!("Append {ballot}: {} entries after {}", entries.len(), prev.1)
        }
        PeerMessage::Volatile { ballot, number, .. } => format!("Volatile {ballot}: {number}"),
        other => format!("{other:?}"),
    }
}

/// A command to the register machine.
#[must_use]
pub fn register_command(command: &RegisterCommand) -> String {
    match command {
        RegisterCommand::Promise { ballot, members: m, .. } => {
            format!("promise {ballot} {}", members(m))
        }
        RegisterCommand::Accept { view: v, entries, .. } => {
            format!("accept {}, {} entries", view(v), entries.len())
        }
        RegisterCommand::Append { ballot, entries, .. } => {
            format!("append {} entries in {ballot}", entries.len())
        }
        RegisterCommand::Renew { view: v, .. } => format!("renew in {}", v.ballot),
        RegisterCommand::ReadLog { slot, .. } => format!("read the log of {slot}"),
        RegisterCommand::Release { .. } => "release".into(),
        RegisterCommand::Cancel => "cancel".into(),
    }
}

/// What a register machine says.
#[must_use]
pub fn register(event: &RegisterEvent) -> String {
    match event {
        RegisterEvent::Promised { best, .. } => format!(
            "promised; highest accepted there: {}",
            best.as_ref()
                .map_or_else(|| "none".into(), |s| format!("{} by {}.{}", s.bal, s.node, s.inc.0))
        ),
        RegisterEvent::Renewed { excluded, .. } => format!("renewed, excluded {excluded:?}"),
        RegisterEvent::Log { snapshot, entries, .. } => {
            format!("log: database at {}, {} entries", snapshot.seq, entries.len())
        }
        other => format!("{other:?}"),
    }
}

/// A command to a monitor.
#[must_use]
pub fn monitor_command(command: &MonitorCommand) -> String {
    match command {
        MonitorCommand::Online { resource, mode, .. } => {
            format!("online {} of group {} ({mode:?})", resource.name, resource.group)
        }
        other => format!("{other:?}"),
    }
}
