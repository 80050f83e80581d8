//! A machine of the lab: a namespace with three cables, the guard and the service in it, each
//! restarted as systemd would, and everything that can befall a machine.

use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use wolfpack_types::api::StampedEvent;
use wolfpack_types::event::EventKind;
use wolfpack_types::times::Profile;

use crate::binaries::Binaries;
use crate::clock::{now_us, wait_for};
use crate::netns::Netns;
use crate::network::{Switch, Wire, mac};
use crate::process::{Ended, Supervisor};
use crate::san::{Lun, San};

/// A program of a node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Daemon {
    /// `wolfpackd`.
    Service,
    /// `wolfpack-resmon --guard`.
    Guard,
}

/// The quorum of a lab's cluster.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum LabQuorum {
    /// The nodes and the quorum LUN, with reservations.
    #[default]
    NodeAndDisk,
    /// The quorum LUN alone, with reservations.
    Disk,
    /// The nodes and a directory that all of them see.
    NodeAndShare,
    Majority,
    Local,
}

impl LabQuorum {
    /// The type's name in configurations and commands.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::NodeAndDisk => "node-and-disk",
            Self::Disk => "disk",
            Self::NodeAndShare => "node-and-share",
            Self::Majority => "majority",
            Self::Local => "local",
        }
    }

    /// Whether a view of several nodes at rest has the witness in it.
    #[must_use]
    pub const fn always_witness(self) -> bool {
        matches!(self, Self::Disk)
    }
}

/// What differs from the lab's usual configuration.
#[derive(Clone, Debug)]
pub struct NodeOptions {
    pub profile: Profile,
    pub quorum: LabQuorum,
    /// Directory of the share, for [`LabQuorum::NodeAndShare`].
    pub share: PathBuf,
    /// 64 hex digits.
    pub key: String,
    /// The witness, if not the lab's quorum LUN.
    pub witness: Option<String>,
    /// The nodes speak IPv6 alone with each other.
    pub ipv6: bool,
    /// Lines added at the end of the configuration file.
    pub extra: String,
}

/// A machine.
#[derive(Debug)]
pub struct Node {
    name: &'static str,
    host: u8,
    dir: PathBuf,
    ns_name: String,
    binaries: Binaries,
    power: Option<Power>,
}

/// What lives only while the machine has power.
#[derive(Debug)]
struct Power {
    ns: Netns,
    service: Supervisor,
    guard: Supervisor,
}

/// Names of the nodes, by their number from 1 on.
pub const NODE_NAMES: [&str; 3] = ["a", "b", "c"];

impl Node {
    /// Makes its directories and configuration; it has no power yet. `all`: the hosts of all nodes.
    ///
    /// # Errors
    /// A directory or file cannot be written, or its path is too long for a socket.
    pub fn new(
        prefix: &str,
        base: &Path,
        host: u8,
        all: &[u8],
        binaries: &Binaries,
        options: &NodeOptions,
    ) -> Result<Self> {
        let name = name_of(host);
        let dir = base.join(name);
        fs::create_dir_all(dir.join("state"))?;
        ensure!(
            dir.as_os_str().len() < 60,
            "{} is too long for Unix sockets below it: set TMPDIR to a short path",
            dir.display()
        );
        let node = Self {
            name,
            host,
            ns_name: format!("{prefix}-{name}"),
            dir,
            binaries: binaries.clone(),
            power: None,
        };
        write_secret(&node.dir.join("key"), &options.key)?;
        fs::write(node.config_file(), node.config_text(all, options))?;
        Ok(node)
    }

    fn config_text(&self, all: &[u8], options: &NodeOptions) -> String {
        let profile = options.profile.name();
        let (dir, quorum) = (self.dir.display(), options.quorum.name());
        let address = |wire: Wire, host: u8| -> std::net::IpAddr {
            if options.ipv6 { wire.address_v6(host).into() } else { wire.address(host).into() }
        };
        let mut text = format!(
            "node = \"{}\"\ncluster_key = \"{dir}/key\"\nstate_dir = \"{dir}/state\"\n\
             run_dir = \"{dir}/run\"\nprofile = \"{profile}\"\nquorum = \"{quorum}\"\n\n\
             [[network]]\nname = \"private\"\ninterface = \"private\"\nrole = \"internal\"\n\n\
             [[network]]\nname = \"public\"\ninterface = \"public\"\nrole = \"both\"\n\n",
            self.name
        );
        for &host in all {
            text += &format!(
                "[[peer]]\nid = {host}\nname = \"{}\"\n\
                 addresses = {{ private = \"{}\", public = \"{}\" }}\n\n",
                name_of(host),
                address(Wire::Private, host),
                address(Wire::Public, host),
            );
        }
        let disk = options.witness.clone().unwrap_or_else(|| San::url(Lun::Quorum));
        text += &match options.quorum {
            LabQuorum::NodeAndDisk | LabQuorum::Disk => {
                format!("[witness]\ndisk = \"{disk}\"\nexclusion = \"reserve\"\n")
            }
            LabQuorum::NodeAndShare => {
                format!("[witness]\nshare = \"{}\"\n", options.share.display())
            }
            LabQuorum::Majority | LabQuorum::Local => String::new(),
        };
        text + &options.extra
    }

    /// Its name: `a`, `b`, `c`.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// Its number in the cluster, which is also its host number on every wire.
    #[must_use]
    pub const fn host(&self) -> u8 {
        self.host
    }

    /// Its address on a wire.
    #[must_use]
    pub fn address(&self, wire: Wire) -> Ipv4Addr {
        wire.address(self.host)
    }

    /// Its MAC address on a wire.
    #[must_use]
    pub fn mac(&self, wire: Wire) -> [u8; 6] {
        mac(wire, self.host)
    }

    /// Its directory: logs, state, run files, configuration.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Its configuration file.
    #[must_use]
    pub fn config_file(&self) -> PathBuf {
        self.dir.join("config.toml")
    }

    /// The socket of its service.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.dir.join("run/api.sock")
    }

    /// Its namespace, while it has power.
    ///
    /// # Errors
    /// It has none.
    pub fn netns(&self) -> Result<&Netns> {
        Ok(&self.powered()?.ns)
    }

    /// Whether it has power.
    #[must_use]
    pub const fn is_on(&self) -> bool {
        self.power.is_some()
    }

    fn powered(&self) -> Result<&Power> {
        self.power.as_ref().with_context(|| format!("node {} has no power", self.name))
    }

    /// One of its daemons.
    ///
    /// # Errors
    /// The node has no power.
    pub fn daemon(&self, which: Daemon) -> Result<&Supervisor> {
        let power = self.powered()?;
        Ok(match which {
            Daemon::Service => &power.service,
            Daemon::Guard => &power.guard,
        })
    }

    /// Switches it on: cables, an empty run directory, guard and service. The state directory is
    /// what it was.
    ///
    /// # Errors
    /// It is on, or what `ip` says.
    pub fn power_on(&mut self, switch: &Switch) -> Result<()> {
        ensure!(self.power.is_none(), "node {} is on already", self.name);
        let ns = Netns::create(&self.ns_name)?;
        for wire in Wire::ALL {
            switch.plug(&ns, self.name, wire, self.host)?;
        }
        let run = self.dir.join("run");
        if run.exists() {
            fs::remove_dir_all(&run)?;
        }
        fs::create_dir_all(&run)?;
        let guard = self.start(&ns, Daemon::Guard)?;
        let service = self.start(&ns, Daemon::Service)?;
        self.power = Some(Power { ns, service, guard });
        Ok(())
    }

    fn start(&self, ns: &Netns, which: Daemon) -> Result<Supervisor> {
        let (ns, config) = (ns.clone(), self.config_file());
        let (program, guard, log) = match which {
            Daemon::Service => (self.binaries.service.clone(), false, "service.log"),
            Daemon::Guard => (self.binaries.resmon.clone(), true, "guard.log"),
        };
        let starter = move || {
            let mut command = ns.command(&program)?;
            if guard {
                command.arg("--guard");
            }
            command.arg("--config").arg(&config);
            Ok(command)
        };
        let name = format!("{}-{}", self.name, if guard { "guard" } else { "service" });
        Supervisor::start(&name, Box::new(starter), self.dir.join(log))
    }

    /// Cuts its power. All its processes are frozen first, so that none can notice that the links
    /// go; then the links go, then the processes, then the sockets, without a word on any wire.
    /// Gives the time of the cut.
    ///
    /// # Errors
    /// It has no power, or what `ip` says.
    pub fn power_cut(&mut self, switch: &Switch) -> Result<u64> {
        let power = self.power.take().with_context(|| format!("node {} is off", self.name))?;
        power.service.set_restart(false);
        power.guard.set_restart(false);
        let at = now_us();
        signal_all(&power.ns, Signal::SIGSTOP)?;
        switch.unplug_all(self.name)?;
        let left = || match signal_all(&power.ns, Signal::SIGKILL) {
            Ok(0) => Ok(()),
            Ok(n) => Err(format!("{n} processes are left")),
            Err(e) => Err(e.to_string()),
        };
        wait_for("the end of all processes", Duration::from_secs(20), left)?;
        // The kernel takes a namespace apart later; the cables must be gone before they are made anew.
        switch.remove(self.name)?;
        power.ns.delete()?;
        Ok(at)
    }

    /// Sends a signal to a daemon.
    ///
    /// # Errors
    /// It does not run.
    pub fn signal(&self, which: Daemon, signal: Signal) -> Result<i32> {
        self.daemon(which)?.signal(signal)
    }

    /// Sends a signal to every process of the node; gives how many there were.
    ///
    /// # Errors
    /// The node has no power.
    pub fn signal_all(&self, signal: Signal) -> Result<usize> {
        signal_all(self.netns()?, signal)
    }

    /// Stops the service as `systemctl stop wolfpackd` does, and waits for its end. The guard
    /// runs on. Gives the time of the signal.
    ///
    /// # Errors
    /// The service does not run, or does not end.
    pub fn stop_cleanly(&self, patience: Duration) -> Result<(u64, Ended)> {
        let service = self.daemon(Daemon::Service)?;
        service.set_restart(false);
        let at = now_us();
        let pid = service.signal(Signal::SIGTERM)?;
        Ok((at, service.wait_end(pid, patience)?))
    }

    /// The processes of the node whose command line contains all of `words`.
    ///
    /// # Errors
    /// The node has no power.
    pub fn find(&self, words: &[&str]) -> Result<Vec<i32>> {
        let matches = |pid: &i32| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let args: Vec<_> = line.split(|&b| b == 0).map(String::from_utf8_lossy).collect();
            words.iter().all(|w| args.iter().any(|a| a.ends_with(w)))
        };
        Ok(self.netns()?.pids()?.into_iter().filter(matches).collect())
    }

    /// The resource monitor: the one that is not the guard.
    ///
    /// # Errors
    /// There is none, or more than one.
    pub fn monitor(&self) -> Result<i32> {
        match self.find(&["wolfpack-resmon", "--monitor"])?.as_slice() {
            [one] => Ok(*one),
            others => bail!("node {} has {} resource monitors", self.name, others.len()),
        }
    }

    /// Kills a process of this node by its id.
    ///
    /// # Errors
    /// It is not (or no longer) a process of this node.
    pub fn kill(&self, pid: i32) -> Result<u64> {
        ensure!(self.netns()?.pids()?.contains(&pid), "{pid} is no process of {}", self.name);
        let at = now_us();
        kill(Pid::from_raw(pid), Signal::SIGKILL)?;
        Ok(at)
    }

    /// All events that its service has logged, over all its lives, oldest first. Lines that are
    /// not whole (a power cut tears the last one) are left out.
    #[must_use]
    pub fn events(&self) -> Vec<StampedEvent> {
        let mut events: Vec<StampedEvent> = Vec::new();
        for file in ["events.jsonl.1", "events.jsonl"] {
            let text = fs::read(self.dir.join("state").join(file)).unwrap_or_default();
            let lines = text.split(|&b| b == b'\n');
            events.extend(lines.filter_map(|l| serde_json::from_slice::<StampedEvent>(l).ok()));
        }
        events.sort_by_key(|e| e.boot_us);
        events
    }

    /// The first event since a time that satisfies a condition.
    #[must_use]
    pub fn event_since(
        &self,
        since_us: u64,
        wanted: impl Fn(&EventKind) -> bool,
    ) -> Option<StampedEvent> {
        self.events().into_iter().find(|e| e.boot_us >= since_us && wanted(&e.event.kind))
    }

    /// The end of a log of the node, for error reports.
    #[must_use]
    pub fn log_tail(&self, file: &str, lines: usize) -> String {
        let text = fs::read(self.dir.join(file)).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let all: Vec<&str> = text.lines().collect();
        all[all.len().saturating_sub(lines)..].join("\n")
    }
}

/// A node's name by its number.
#[must_use]
pub fn name_of(host: u8) -> &'static str {
    NODE_NAMES.get(usize::from(host).wrapping_sub(1)).copied().unwrap_or("?")
}

fn write_secret(path: &Path, key: &str) -> Result<()> {
    use std::io::Write;
    let mut options = fs::OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(path)?;
    Ok(writeln!(file, "{key}")?)
}

/// Signals all processes of a namespace; how many there were.
fn signal_all(ns: &Netns, signal: Signal) -> Result<usize> {
    let pids = ns.pids()?;
    for &pid in &pids {
        // One that has ended meanwhile is as good as signalled.
        let _ = kill(Pid::from_raw(pid), signal);
    }
    Ok(pids.len())
}
