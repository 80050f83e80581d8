//! SIGKILL of a resource monitor: the service names resource and entry point from the crash record,
//! restarts the monitor, and the resources go on or are restored on the same node.
//!
//! Twice: once at rest, and once while an entry point is under way: an application that does not
//! heed SIGTERM is taken offline, which keeps its `offline` busy.

use anyhow::{Result, ensure};
use wolfpack_types::event::EventKind;
use wolfpack_types::objects::ResourceState;

use super::stage::{GROUP, Stage, running};
use crate::lab::PATIENCE;

const STUBBORN: &str = "stubborn";

pub(super) fn run(stage: &mut Stage<'_>) -> Result<()> {
    let owner = stage.owner("a")?;
    let applications = running(stage.lab.node(&owner))?;
    let at = kill_monitor(stage, &owner, "at rest")?;
    stage.wait_event(&owner, "monitor-crashed", at, is_crash)?;
    stage.wait_event(&owner, "monitor-restarted", at, is_restart)?;
    stage.wait_moved(&owner, at)?;
    let after = running(stage.lab.node(&owner))?;
    ensure!(
        after == applications,
        "the application did not run through it: processes {applications:?} became {after:?}"
    );

    let script = "command=/bin/sh -c \"trap '' TERM; while :; do sleep 1; done\"";
    stage.command(&owner, &["group", "create", STUBBORN, "--preferred", &owner])?;
    stage.command(
        &owner,
        &[
            "resource",
            "create",
            STUBBORN,
            "--group",
            STUBBORN,
            "--type",
            "generic-application",
            "--set",
            script,
            "--set",
            "stop_timeout_ms=60000",
        ],
    )?;
    stage.command(&owner, &["group", "online", STUBBORN])?;
    stage.lab.wait_online(&owner, STUBBORN)?;
    stage.command(&owner, &["resource", "offline", STUBBORN])?;
    stage.lab.wait_status(&owner, "the resource to be on its way offline", |s| {
        let r = s.resources.iter().find(|r| r.name == STUBBORN)?;
        (r.state == ResourceState::OfflinePending).then_some(())
    })?;
    let at = kill_monitor(stage, &owner, &format!("while {STUBBORN} is being taken offline"))?;
    let crash = stage.wait_event(&owner, "monitor-crashed", at, is_crash)?;
    stage.say(&format!("the service says: {}", crash.event.text));
    let EventKind::MonitorCrashed { resource, entry_point, .. } = &crash.event.kind else {
        unreachable!("the event was chosen by its kind");
    };
    ensure!(
        resource.as_deref() == Some(STUBBORN)
            && entry_point.as_deref().is_some_and(|e| e.eq_ignore_ascii_case("offline")),
        "the crash was blamed on {resource:?}, {entry_point:?}"
    );
    stage.wait_event(&owner, "monitor-restarted", at, is_restart)?;
    stage.wait_moved(&owner, at)?;
    ensure!(stage.lab.wait_online(&owner, GROUP)? == owner, "the group moved");
    Ok(())
}

fn kill_monitor(stage: &mut Stage<'_>, owner: &str, when: &str) -> Result<u64> {
    let node = stage.lab.node(owner);
    let pid = node.monitor()?;
    let at = node.kill(pid)?;
    stage.strike(&format!("the resource monitor of node {owner} is killed {when}"), at);
    crate::clock::wait_for("another monitor", PATIENCE, || {
        match stage.lab.node(owner).monitor() {
            Ok(new) if new != pid => Ok(()),
            Ok(_) => Err("the killed one is still there".into()),
            Err(e) => Err(e.to_string()),
        }
    })?;
    Ok(at)
}

const fn is_crash(e: &EventKind) -> bool {
    matches!(e, EventKind::MonitorCrashed { .. })
}

const fn is_restart(e: &EventKind) -> bool {
    matches!(e, EventKind::MonitorRestarted { .. })
}
