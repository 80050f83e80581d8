//! Control groups (version 2), where there are any: one below the node's own for each monitor and
//! each application, so that `cgroup.kill` ends all of it at once, whatever it forks.
//!
//! Where there is no writable cgroup file system (in some containers and namespaces) everything
//! works by the process tree alone; the caller holds an `Option<Base>`.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// Where the unified hierarchy is mounted: alone, or beside version 1 (hybrid).
const MOUNTS: [&str; 2] = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"];

/// The node's own cgroup. The guard itself is not in it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Base {
    path: PathBuf,
}

impl Base {
    /// Finds or makes the node's cgroup, below that of the calling process (which systemd delegates
    /// to the guard's unit). `None`, with the reason, if there is none to be had.
    ///
    /// # Errors
    /// Why there is none.
    pub(crate) fn create(node: &str, run_dir: &Path) -> Result<Self, String> {
        let mount = MOUNTS
            .iter()
            .map(Path::new)
            .find(|m| m.join("cgroup.controllers").exists())
            .ok_or("no cgroup version 2 file system is mounted")?;
        let own = fs::read_to_string("/proc/self/cgroup").map_err(|e| e.to_string())?;
        let own = own_path(&own).ok_or("/proc/self/cgroup names no version 2 cgroup")?;
        // Nodes of a lab share a machine: the name is of this run directory in this network.
        let net = fs::metadata("/proc/self/ns/net").map_or(0, |m| m.ino());
        let place = format!("{}|{net}", run_dir.display());
        let name = format!("wolfpack-{node}-{:08x}", crc32c::crc32c(place.as_bytes()));
        let path = mount.join(own.trim_start_matches('/')).join(name);
        create_dir(&path).map_err(|e| format!("cannot make {}: {e}", path.display()))?;
        if !path.join("cgroup.kill").exists() {
            let _ = fs::remove_dir(&path);
            return Err("this kernel has no cgroup.kill (Linux 5.14)".into());
        }
        Ok(Self { path })
    }

    /// A cgroup below it.
    ///
    /// # Errors
    /// The kernel refuses.
    pub(crate) fn sub(&self, name: &str) -> io::Result<Cgroup> {
        let path = self.path.join(name);
        // Somebody may have tidied away the empty cgroup of a node without resources.
        fs::create_dir_all(&path)?;
        Ok(Cgroup { path })
    }

    /// All of it as one.
    #[must_use]
    pub(crate) fn whole(&self) -> Cgroup {
        Cgroup { path: self.path.clone() }
    }
}

fn create_dir(path: &Path) -> io::Result<()> {
    match fs::create_dir(path) {
        Err(e) if e.kind() == ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }
}

/// The version 2 line of /proc/PID/cgroup: `0::/path`.
fn own_path(text: &str) -> Option<&str> {
    text.lines().find_map(|line| line.strip_prefix("0::")).filter(|p| !p.contains(".."))
}

/// One cgroup and all below it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Cgroup {
    path: PathBuf,
}

impl Cgroup {
    /// Its `cgroup.procs`, for a child to write itself into.
    ///
    /// # Errors
    /// It is gone.
    pub(crate) fn procs_file(&self) -> io::Result<OwnedFd> {
        OpenOptions::new().write(true).open(self.path.join("cgroup.procs")).map(OwnedFd::from)
    }

    /// SIGKILL to everything in it, at once, forks included. No cgroup: nothing to do.
    ///
    /// # Errors
    /// The kernel refuses.
    pub(crate) fn kill(&self) -> io::Result<()> {
        use io::Write;
        let file = OpenOptions::new().write(true).open(self.path.join("cgroup.kill"));
        match file.and_then(|mut f: File| f.write_all(b"1")) {
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }

    /// Process ids in it and below.
    #[must_use]
    pub(crate) fn processes(&self) -> Vec<i32> {
        let mut out = Vec::new();
        for dir in self.dirs() {
            let text = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
            out.extend(text.lines().filter_map(|l| l.parse::<i32>().ok()));
        }
        out
    }

    /// Removes it and all below, as far as they are empty.
    pub(crate) fn remove(&self) {
        self.clear();
        let _ = fs::remove_dir(&self.path);
    }

    /// Removes all below it, as far as it is empty.
    pub(crate) fn clear(&self) {
        for dir in self.dirs().iter().skip(1).rev() {
            // What is busy still has processes, which are dealt with where they are ended.
            let _ = fs::remove_dir(dir);
        }
    }

    /// Itself and all below, parents first. Bounded: a resource cannot keep us busy by making many.
    fn dirs(&self) -> Vec<PathBuf> {
        let mut found = vec![self.path.clone()];
        let mut next = 0;
        while next < found.len() && found.len() < 4096 {
            let entries = fs::read_dir(&found[next]).into_iter().flatten().flatten();
            found.extend(
                entries.filter(|e| e.file_type().is_ok_and(|t| t.is_dir())).map(|e| e.path()),
            );
            next += 1;
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_own_path_is_the_version_2_line() {
        assert_eq!(own_path("9:name=systemd:/x\n0::/a/b\n"), Some("/a/b"));
        assert_eq!(own_path("9:name=systemd:/x\n"), None);
        assert_eq!(own_path("0::/../x\n"), None);
    }

    #[test]
    fn a_cgroup_is_killed_with_all_its_forks() {
        let run_dir = PathBuf::from(format!("/nowhere/{}", std::process::id()));
        let base = match Base::create("t", &run_dir) {
            Ok(base) => base,
            Err(why) => {
                eprintln!("SKIPPED: no cgroup to test with: {why}");
                return;
            }
        };
        let cgroup = base.sub("r").unwrap();
        let procs = cgroup.procs_file().unwrap();
        let mut command = std::process::Command::new("/bin/sh");
        command.args(["-c", "setsid sleep 600 & setsid sleep 600 & wait"]);
        crate::sys::prepare_application(&mut command, Some(&procs));
        let mut child = command.spawn().unwrap();
        while base.whole().processes().len() < 3 {
            std::thread::yield_now();
        }
        base.whole().kill().unwrap();
        child.wait().unwrap();
        while !cgroup.processes().is_empty() {
            std::thread::yield_now();
        }
        // The kernel takes a moment to forget the dead.
        while base.path.exists() {
            base.whole().remove();
            std::thread::yield_now();
        }
    }
}
