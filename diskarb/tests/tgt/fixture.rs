//! A tgtd of its own for one test: started on a free port of loopback, ended by its process id.

use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use wolfpack_diskarb::device::{Naming, Purpose};
use wolfpack_types::{ClusterId, Guid, NodeId};

pub(crate) const CLUSTER: ClusterId = ClusterId(Guid(0xc0ff_ee00_0000_0000_0000_0000_0000_0001));
const TARGET: &str = "iqn.2026-11.test:t";
/// For conditions that always come, on machines however slow.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct Target {
    tgtd: Child,
    dir: TempDir,
    port: u16,
    luns: u32,
}

/// Whether the programs are here; says loudly if not.
pub(crate) fn available() -> bool {
    let here = |program: &str| {
        let paths = std::env::var_os("PATH").unwrap_or_default();
        let sbin = ["/usr/sbin", "/sbin"].map(PathBuf::from);
        std::env::split_paths(&paths).chain(sbin).any(|dir| dir.join(program).exists())
    };
    for program in ["tgtd", "tgtadm", "setpriv"] {
        if !here(program) {
            eprintln!("SKIPPED: missing {program} (Debian packages tgt and util-linux)");
            return false;
        }
    }
    true
}

pub(crate) fn naming(node: u8, purpose: Purpose) -> Naming {
    Naming { cluster: CLUSTER, node: NodeId::new(node).unwrap(), purpose }
}

/// Waits for a condition that must come.
pub(crate) fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < PATIENCE, "never came: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

impl Target {
    /// A target without units.
    pub(crate) fn start() -> Self {
        let dir = tempfile::Builder::new().prefix("wp").tempdir_in("/tmp").unwrap();
        let tgtd = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "tgtd", "-f", "-C", "0", "-t", "1"])
            .args(["--iscsi", "portal=127.0.0.1:0"])
            .env("TGT_IPC_SOCKET", dir.path().join("s"))
            .env("PATH", path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut target = Self { tgtd, dir, port: 0, luns: 0 };
        let new = ["--mode", "target", "--op", "new", "--tid", "1", "--targetname", TARGET];
        until("tgtd answers", || target.try_admin(&new).status.success());
        target.admin(&["--mode", "target", "--op", "bind", "--tid", "1", "-I", "ALL"]);
        let portal = target.admin(&["--mode", "portal", "--op", "show"]);
        let port = portal.split("127.0.0.1:").nth(1).and_then(|rest| rest.split(',').next());
        target.port = port.and_then(|p| p.trim().parse().ok()).expect(&portal);
        target
    }

    /// Adds a unit of so many MiB; its name.
    pub(crate) fn unit(&mut self, mib: u64) -> String {
        self.luns += 1;
        let (lun, image) = (self.luns.to_string(), self.image(self.luns));
        std::fs::File::create(&image).unwrap().set_len(mib << 20).unwrap();
        let image = image.to_str().unwrap();
        let new = ["--mode", "logicalunit", "--op", "new", "--tid", "1", "--lun"];
        self.admin(&[&new[..], &[&lun, "-b", image]].concat());
        self.name(self.luns)
    }

    pub(crate) fn name(&self, lun: u32) -> String {
        format!("iscsi://127.0.0.1:{}/{TARGET}/{lun}", self.port)
    }

    pub(crate) fn image(&self, lun: u32) -> PathBuf {
        self.dir.path().join(format!("u{lun}"))
    }

    pub(crate) fn try_admin(&self, args: &[&str]) -> Output {
        Command::new("tgtadm")
            .args(["-C", "0", "--lld", "iscsi"])
            .args(args)
            .env("TGT_IPC_SOCKET", self.dir.path().join("s"))
            .env("PATH", path())
            .output()
            .unwrap()
    }

    pub(crate) fn admin(&self, args: &[&str]) -> String {
        let output = self.try_admin(args);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "tgtadm {args:?}: {text}{error}");
        text
    }

    /// Cuts every session, as a path that fails does.
    pub(crate) fn cut_sessions(&self) {
        let shown = self.admin(&["--mode", "conn", "--op", "show", "--tid", "1"]);
        let sids = shown.lines().filter_map(|l| l.trim().strip_prefix("Session: "));
        for sid in sids {
            let conn = ["--mode", "conn", "--op", "delete", "--tid", "1", "--cid", "0", "--sid"];
            self.try_admin(&[&conn[..], &[sid.trim()]].concat());
        }
    }

    /// Whether the target answers commands.
    pub(crate) fn set_answering(&self, answering: bool) {
        let state = if answering { "ready" } else { "offline" };
        let update = ["--mode", "target", "--op", "update", "--tid", "1", "-n", "state", "-v"];
        self.admin(&[&update[..], &[state]].concat());
    }

    /// Stops or continues the whole target, as an array that hangs.
    pub(crate) fn freeze(&self, frozen: bool) {
        let signal = if frozen { "-STOP" } else { "-CONT" };
        let pid = self.tgtd.id().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        // SIGKILL works on a stopped process too; both fail only if it has ended already.
        let _ = self.tgtd.kill();
        let _ = self.tgtd.wait();
    }
}

fn path() -> String {
    format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default())
}
