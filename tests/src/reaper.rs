//! Cleaning up, whatever happens: a small helper process holds the read end of a pipe; when the
//! lab's process lets go of the other end (drop, panic, Ctrl-C or SIGKILL), it ends everything that
//! lives in the lab's namespaces, by process id, and removes namespaces and directories.
//!
//! What a lab of a process that died together with its helper left behind is found by name at the
//! start of the next lab.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result};

use crate::sys;

/// Prefix of all names that labs give on a machine; the owner's pid follows.
const PREFIX: &str = "wplab";

/// `$1`: name prefix of the namespaces; then the directories. End of input is the signal.
const SCRIPT: &str = r#"
prefix=$1; shift
cat >/dev/null
for ns in $(ip netns list | cut -d' ' -f1 | grep "^$prefix-"); do
  for try in 1 2 3 4 5; do
    pids=$(ip netns pids "$ns") || break
    [ -n "$pids" ] || break
    kill -KILL $pids 2>/dev/null
    sleep 0.05
  done
  ip netns del "$ns"
done
for dir in "$@"; do
  grep -o " $dir[^ ]*" /proc/mounts | sort -r | while read -r mount; do umount -l "$mount"; done
  rm -rf "$dir"
done
"#;

/// The helper of one lab.
#[derive(Debug)]
pub struct Reaper {
    prefix: String,
    child: Arc<Mutex<Option<Child>>>,
}

static ACTIVE: Mutex<Vec<Arc<Mutex<Option<Child>>>>> = Mutex::new(Vec::new());

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The directories that a lab uses: a plain one, and one in memory where the machine has one.
pub(crate) fn directories(prefix: &str) -> [PathBuf; 2] {
    let plain = std::env::temp_dir().join(prefix);
    let shm = Path::new("/dev/shm");
    let memory = if shm.is_dir() { shm.join(prefix) } else { plain.join("memory") };
    [plain, memory]
}

impl Reaper {
    /// Starts the helper for a new lab; to be done before anything else is made.
    ///
    /// # Errors
    /// There is no shell.
    pub fn start() -> Result<Self> {
        static NUMBER: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        clean_stale();
        let number = NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let prefix = format!("{PREFIX}{}x{number}", std::process::id());
        let child = helper(&prefix)?;
        let child = Arc::new(Mutex::new(Some(child)));
        lock(&ACTIVE).push(Arc::clone(&child));
        Ok(Self { prefix, child })
    }

    /// What all names of this lab begin with.
    #[must_use]
    pub fn prefix(&self) -> &str {
        &self.prefix
    }
}

impl Drop for Reaper {
    fn drop(&mut self) {
        finish(&self.child);
        lock(&ACTIVE).retain(|c| !Arc::ptr_eq(c, &self.child));
    }
}

fn helper(prefix: &str) -> Result<Child> {
    let mut command = Command::new("/bin/sh");
    command
        .args(["-c", SCRIPT, "wolfpack-lab-reaper", prefix])
        .args(directories(prefix))
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    sys::new_session(&mut command);
    command.spawn().context("starting the lab's cleaning helper (/bin/sh)")
}

fn finish(child: &Mutex<Option<Child>>) {
    if let Some(mut child) = lock(child).take() {
        drop(child.stdin.take());
        // Its own failure is seen by the next lab, which cleans again.
        let _ = child.wait();
    }
}

/// Ends and removes all labs of this process at once, and waits for it. For signal handlers'
/// threads, before `exit`.
pub fn clean_up_all() {
    let all: Vec<_> = lock(&ACTIVE).clone();
    for child in all {
        finish(&child);
    }
}

/// Cleans what labs of dead processes left behind.
fn clean_stale() {
    let mut prefixes = std::collections::BTreeSet::new();
    for dir in [PathBuf::from("/run/netns"), std::env::temp_dir(), PathBuf::from("/dev/shm")] {
        let Ok(entries) = std::fs::read_dir(dir) else { continue };
        for entry in entries.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let prefix = name.split('-').next().unwrap_or_default();
            if owner(prefix).is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
                prefixes.insert(prefix.to_owned());
            }
        }
    }
    for prefix in prefixes {
        if let Ok(child) = helper(&prefix) {
            finish(&Mutex::new(Some(child)));
        }
    }
}

/// The process that made a lab of this prefix.
fn owner(prefix: &str) -> Option<u32> {
    prefix.strip_prefix(PREFIX)?.split_once('x')?.0.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_labs_have_an_owner() {
        assert_eq!(owner("wplab123x0"), Some(123));
        assert_eq!(owner("wplab"), None);
        assert_eq!(owner("wplabax0"), None);
        assert_eq!(owner("other12x0"), None);
    }
}
