//! Processes as /proc shows them: who descends from whom, who carries a mark, and ending exactly
//! the one that was meant.
//!
//! A process id alone names nobody for long; a process here is always id *and* start time.

use std::collections::BTreeSet;
use std::fs;
use std::os::fd::AsFd;

use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};

use crate::sys;

/// One process, for as long as this boot lasts.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub(crate) struct ProcessId {
    pub(crate) pid: i32,
    /// Clock ticks since boot (field 22 of /proc/PID/stat).
    pub(crate) start: u64,
}

/// What /proc/PID/stat says of a process.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Process {
    pub(crate) id: ProcessId,
    pub(crate) name: String,
    pub(crate) parent: i32,
    pub(crate) group: i32,
    pub(crate) session: i32,
    /// Ended, not yet reaped.
    pub(crate) zombie: bool,
    /// In an uninterruptible sleep: SIGKILL waits.
    pub(crate) blocked: bool,
}

/// Reads one line of /proc/PID/stat (proc(5)). The name may contain anything, parentheses too.
#[must_use]
pub(crate) fn parse_stat(text: &str) -> Option<Process> {
    let open = text.find('(')?;
    let close = text.rfind(')')?;
    let pid = text[..open].trim().parse().ok()?;
    let name = text.get(open + 1..close)?.to_owned();
    let rest: Vec<&str> = text.get(close + 1..)?.split_ascii_whitespace().collect();
    let state = *rest.first()?;
    Some(Process {
        id: ProcessId { pid, start: rest.get(19)?.parse().ok()? },
        name,
        parent: rest.get(1)?.parse().ok()?,
        group: rest.get(2)?.parse().ok()?,
        session: rest.get(3)?.parse().ok()?,
        zombie: matches!(state, "Z" | "X" | "x"),
        blocked: state == "D",
    })
}

/// One process now.
#[must_use]
pub(crate) fn process(pid: i32) -> Option<Process> {
    // A name need not be UTF-8.
    let bytes = fs::read(format!("/proc/{pid}/stat")).ok()?;
    parse_stat(&String::from_utf8_lossy(&bytes))
}

/// This process itself.
#[must_use]
pub(crate) fn own_id() -> ProcessId {
    let pid = i32::try_from(std::process::id()).unwrap_or(0);
    // Without /proc no process can be told from another; start 0 is nobody's.
    process(pid).map_or(ProcessId { pid, start: 0 }, |p| p.id)
}

/// Whether exactly this process runs (a zombie does not).
#[must_use]
pub(crate) fn runs(id: ProcessId) -> bool {
    process(id.pid).is_some_and(|p| p.id == id && !p.zombie)
}

/// All processes now. One that ends meanwhile may be missing; one that is born may be too: whoever
/// ends processes looks again until nothing is found.
#[must_use]
pub(crate) fn snapshot() -> Vec<Process> {
    let Ok(dir) = fs::read_dir("/proc") else { return Vec::new() };
    dir.filter_map(|entry| process(entry.ok()?.file_name().to_str()?.parse().ok()?)).collect()
}

/// All living processes below `root`, without it.
#[must_use]
pub(crate) fn descendants(all: &[Process], root: i32) -> Vec<&Process> {
    with_descendants(all, &BTreeSet::from([root]))
        .into_iter()
        .filter(|p| p.id.pid != root)
        .collect()
}

/// The living processes among `roots` and everything below them, also below zombies.
#[must_use]
pub(crate) fn with_descendants<'a>(all: &'a [Process], roots: &BTreeSet<i32>) -> Vec<&'a Process> {
    let mut inside = roots.clone();
    loop {
        let born = |p: &&Process| inside.contains(&p.parent) && !inside.contains(&p.id.pid);
        let more: Vec<i32> = all.iter().filter(born).map(|p| p.id.pid).collect();
        if more.is_empty() {
            break;
        }
        inside.extend(more);
    }
    all.iter().filter(|p| inside.contains(&p.id.pid) && !p.zombie).collect()
}

/// Whether the process was started with `mark` ("NAME=value") in its environment. Children inherit
/// it unless they wipe their environment on purpose.
#[must_use]
pub(crate) fn has_mark(pid: i32, mark: &str) -> bool {
    fs::read(format!("/proc/{pid}/environ"))
        .is_ok_and(|bytes| bytes.split(|&b| b == 0).any(|v| v == mark.as_bytes()))
}

/// Sends a signal to exactly this process; false if it does not run any more.
#[must_use]
pub(crate) fn signal(id: ProcessId, signal: Signal) -> bool {
    let Ok(fd) = sys::pidfd_open(id.pid) else { return false };
    // The descriptor holds whoever has the number now; the start time says whether it is the one.
    runs(id) && sys::pidfd_send_signal(fd.as_fd(), signal).is_ok()
}

/// Lets a process that is to die do so before ordinary work: its end is its own work too, thread by
/// thread, and on a busy machine it would wait for its turn.
pub(crate) fn hasten(pid: i32) {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { return };
    for thread in threads.flatten() {
        if let Some(tid) = thread.file_name().to_str().and_then(|t| t.parse().ok()) {
            // Without the permission it ends all the same, only later.
            let _ = sys::make_realtime(tid, HASTE);
        }
    }
}

/// Real-time priority of the dying: below that of the guard, which watches them.
const HASTE: i32 = 1;

/// How a process is named to people.
#[must_use]
pub(crate) fn describe(p: &Process) -> String {
    let why = if p.blocked { ", in uninterruptible sleep" } else { "" };
    format!("process {} ({}{why})", p.id.pid, p.name)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn stat_is_read_whatever_the_name() {
        let tail = "S 1 7 8 0 -1 4 0 0 0 0 0 0 0 0 20 0 1 0 4711 9 9";
        let p = parse_stat(&format!("42 (a) b (c) {tail}")).unwrap();
        assert_eq!((p.name.as_str(), p.id), ("a) b (c", ProcessId { pid: 42, start: 4711 }));
        assert_eq!((p.parent, p.group, p.session, p.zombie), (1, 7, 8, false));
        assert!(parse_stat(&format!("42 (x) {}", tail.replace('S', "Z"))).unwrap().zombie);
        assert_eq!(parse_stat("42 (x) S 1"), None);
        assert_eq!(parse_stat(")("), None);
    }

    proptest! {
        #[test]
        fn no_text_panics(text in ".{0,200}") {
            let _ = parse_stat(&text);
        }
    }

    fn born(pid: i32, parent: i32, zombie: bool) -> Process {
        let id = ProcessId { pid, start: 0 };
        let name = String::new();
        Process { id, name, parent, group: 0, session: 0, zombie, blocked: false }
    }

    #[test]
    fn descendants_are_found_through_zombies() {
        let all = [born(5, 4, false), born(2, 1, false), born(4, 2, true), born(3, 9, false)];
        let pids = |v: Vec<&Process>| v.iter().map(|p| p.id.pid).collect::<Vec<_>>();
        assert_eq!(pids(descendants(&all, 2)), [5]);
        assert_eq!(pids(descendants(&all, 1)), [5, 2]);
        assert_eq!(pids(with_descendants(&all, &BTreeSet::from([2, 3]))), [5, 2, 3]);
    }

    #[test]
    fn a_real_child_is_found_signalled_and_gone() {
        let mut child = std::process::Command::new("/bin/sleep")
            .arg("600")
            .env("WOLFPACK_TEST", "tree")
            .spawn()
            .unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let me = i32::try_from(std::process::id()).unwrap();
        let all = snapshot();
        let found = descendants(&all, me).into_iter().find(|p| p.id.pid == pid).unwrap();
        // The kernel shows the environment only at the end of exec, after spawn has returned.
        let end = std::time::Instant::now() + std::time::Duration::from_secs(20);
        while !has_mark(pid, "WOLFPACK_TEST=tree") {
            assert!(std::time::Instant::now() < end, "the mark never appeared");
            std::thread::yield_now();
        }
        assert!(!has_mark(pid, "WOLFPACK_TEST=tre"));
        let other_start = ProcessId { start: found.id.start + 1, ..found.id };
        assert!(!signal(other_start, Signal::SIGKILL), "a reused number is not signalled");
        assert!(runs(found.id) && signal(found.id, Signal::SIGKILL));
        child.wait().unwrap();
        assert!(!runs(found.id) && !signal(found.id, Signal::SIGKILL));
    }
}
