//! Network namespaces by name, and the `ip` and `nft` commands in them.
//!
//! Named namespaces (`ip netns`) are used, so that a person can look into a running lab with
//! `ip netns exec`. All interfaces of a lab live in its own namespaces, so their names are plain.

use std::fs::File;
use std::io::Write;
use std::process::{Command, Stdio};
use std::thread::{Builder, JoinHandle};

use anyhow::{Context, Result, bail, ensure};
use nix::sched::{CloneFlags, setns};

use crate::sys;

const WHERE: &str = "/run/netns";

/// A network namespace; it lives until [`Netns::delete`] or the lab's cleaning.
#[derive(Clone, Debug)]
pub struct Netns {
    name: String,
}

impl Netns {
    /// Makes it, with its loopback up.
    ///
    /// # Errors
    /// The name is taken, or there is no right to do so.
    pub fn create(name: &str) -> Result<Self> {
        run("ip", &["netns", "add", name], None)?;
        let ns = Self { name: name.into() };
        ns.ip("link set lo up")?;
        Ok(ns)
    }

    /// Its name, for `ip netns exec NAME`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Opens it, for `setns`.
    ///
    /// # Errors
    /// It is gone.
    pub fn open(&self) -> Result<File> {
        let path = format!("{WHERE}/{}", self.name);
        File::open(&path).with_context(|| format!("network namespace {path}"))
    }

    /// Carries out one or several `ip` commands (one a line) in it.
    ///
    /// # Errors
    /// What `ip` says, with its line.
    pub fn ip(&self, lines: &str) -> Result<()> {
        run("ip", &["-n", &self.name, "-batch", "-"], Some(lines))
    }

    /// Feeds `nft` in it.
    ///
    /// # Errors
    /// What `nft` says.
    pub fn nft(&self, ruleset: &str) -> Result<()> {
        run("ip", &["netns", "exec", &self.name, "nft", "-f", "-"], Some(ruleset))
    }

    /// A command that will run in it.
    ///
    /// # Errors
    /// It is gone.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Result<Command> {
        let mut command = Command::new(program);
        sys::spawn_in(&mut command, self.open()?);
        sys::unblock_signals(&mut command);
        Ok(command)
    }

    /// Runs a thread in it.
    ///
    /// # Errors
    /// It is gone, or no thread can be made.
    pub fn thread<T: Send + 'static>(
        &self,
        name: &str,
        body: impl FnOnce() -> T + Send + 'static,
    ) -> Result<JoinHandle<Result<T>>> {
        let ns = self.open()?;
        let handle = Builder::new().name(name.into()).spawn(move || {
            setns(&ns, CloneFlags::CLONE_NEWNET).context("entering a network namespace")?;
            Ok(body())
        })?;
        Ok(handle)
    }

    /// All processes in it, by id.
    ///
    /// # Errors
    /// It is gone.
    pub fn pids(&self) -> Result<Vec<i32>> {
        use std::os::unix::fs::MetadataExt;
        let wanted = self.open()?.metadata()?.ino();
        let mut found = Vec::new();
        for entry in std::fs::read_dir("/proc")? {
            let Ok(entry) = entry else { continue };
            let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse::<i32>().ok()) else {
                continue;
            };
            // A process that ends meanwhile has no namespace any more.
            if std::fs::metadata(entry.path().join("ns/net")).is_ok_and(|m| m.ino() == wanted) {
                found.push(pid);
            }
        }
        Ok(found)
    }

    /// Deletes its name. Sockets that no process holds vanish with it, without a word on the wire.
    ///
    /// # Errors
    /// What `ip` says.
    pub fn delete(&self) -> Result<()> {
        run("ip", &["netns", "del", &self.name], None)
    }
}

/// Runs a program to its end, with input.
///
/// # Errors
/// It cannot be started, or ends with an error: what it said.
pub fn run(program: &str, args: &[&str], input: Option<&str>) -> Result<()> {
    output(program, args, input).map(drop)
}

/// Runs a program to its end, and gives what it printed.
///
/// # Errors
/// As [`run`].
pub fn output(program: &str, args: &[&str], input: Option<&str>) -> Result<String> {
    let mut child = Command::new(program)
        .args(args)
        .stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("starting '{program}'"))?;
    if let (Some(text), Some(mut stdin)) = (input, child.stdin.take()) {
        stdin.write_all(text.as_bytes()).with_context(|| format!("feeding '{program}'"))?;
    }
    let out = child.wait_with_output()?;
    if !out.status.success() {
        bail!(
            "'{program} {}' failed ({}): {}{}",
            args.join(" "),
            out.status,
            String::from_utf8_lossy(&out.stderr).trim(),
            input.map(|i| format!(" (input: {})", i.trim())).unwrap_or_default(),
        );
    }
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}

/// What a namespace lab needs of the machine; an error names what is missing.
///
/// # Errors
/// Not root, or a program is not installed.
pub fn requirements() -> Result<()> {
    ensure!(nix::unistd::geteuid().is_root(), "network namespaces need root: run it as root");
    for (program, package) in
        [("ip", "iproute2"), ("nft", "nftables"), ("tgtd", "tgt"), ("tgtadm", "tgt")]
    {
        let found = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"]
            .iter()
            .any(|dir| std::path::Path::new(dir).join(program).exists());
        ensure!(found, "'{program}' is missing: apt-get install {package}");
    }
    Ok(())
}
