//! The lab of the comparison: a switch with two bridges, nodes with a cable to each, and programs
//! in them. Both sides run in the same namespaces, one after the other.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use wolfpack_lab::netns::Netns;
use wolfpack_lab::reaper::Reaper;

/// Bridges, interfaces of every node, and what addresses begin with.
pub(crate) const NETS: [(&str, &str, &str); 2] =
    [("private", "eth0", "10.88.0."), ("public", "eth1", "10.77.0.")];

/// The namespaces of the nodes.
#[derive(Debug)]
pub(crate) struct NetLab {
    pub(crate) nodes: Vec<Netns>,
    pub(crate) switch: Netns,
    pub(crate) dir: PathBuf,
    // Last: it cleans when all the others have let go.
    _reaper: Reaper,
}

impl NetLab {
    /// Makes it with so many nodes.
    pub(crate) fn new(count: u8) -> Result<Self> {
        let reaper = Reaper::start()?;
        let prefix = reaper.prefix().to_owned();
        // The cleaning helper removes it.
        let dir = std::env::temp_dir().join(&prefix);
        fs::create_dir_all(&dir)?;
        let switch = Netns::create(&format!("{prefix}-switch"))?;
        for (bridge, ..) in NETS {
            switch
                .ip(&format!("link add {bridge} type bridge stp_state 0\nlink set {bridge} up"))?;
        }
        let mut nodes = Vec::new();
        for n in 1..=count {
            let node = Netns::create(&format!("{prefix}-n{n}"))?;
            for (i, (bridge, interface, addresses)) in NETS.into_iter().enumerate() {
                let inside = node.name();
                switch.ip(&format!(
                    "link add n{n}-{i} type veth peer name {interface} netns {inside}\n\
                     link set n{n}-{i} master {bridge} up"
                ))?;
                node.ip(&format!(
                    "addr add {addresses}{n}/24 dev {interface}\nlink set {interface} up"
                ))?;
            }
            nodes.push(node);
        }
        Ok(Self { nodes, switch, dir, _reaper: reaper })
    }

    /// `eth0:10.88.0.,eth1:10.77.0.`, as our program takes it.
    pub(crate) fn nets() -> String {
        NETS.map(|(_, interface, addresses)| format!("{interface}:{addresses}")).join(",")
    }

    /// Pulls or plugs all cables of a node, on the switch's side.
    pub(crate) fn plug(&self, n: u8, up: bool) -> Result<()> {
        let state = if up { "up" } else { "down" };
        self.switch.ip(&format!("link set n{n}-0 {state}\nlink set n{n}-1 {state}"))
    }
}

/// Complaints that are repeated when a program ends before its time.
const ERROR_LINES: usize = 3;

/// A program that was started; ended, by its id, when it is dropped.
#[derive(Debug)]
pub(crate) struct Program {
    what: String,
    errors: PathBuf,
    child: Child,
    lines: Receiver<String>,
}

impl Program {
    /// Starts it, with its output read line by line and its complaints in a file.
    pub(crate) fn start(what: &str, mut command: Command, errors: &Path) -> Result<Self> {
        let file = fs::File::options().create(true).append(true).open(errors)?;
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(file);
        let mut child = command.spawn().with_context(|| format!("starting {what}"))?;
        let out = child.stdout.take().context("a pipe that was asked for")?;
        let (tell, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(out).lines().map_while(Result::ok) {
                if tell.send(line).is_err() {
                    return;
                }
            }
        });
        Ok(Self { what: what.into(), errors: errors.to_owned(), child, lines })
    }

    pub(crate) fn pid(&self) -> Result<i32> {
        Ok(i32::try_from(self.child.id())?)
    }

    /// The next line that it says.
    pub(crate) fn line(&self, patience: Duration) -> Result<String> {
        self.lines.recv_timeout(patience).map_err(|e| match e {
            RecvTimeoutError::Timeout => anyhow!("{} said nothing for {patience:?}", self.what),
            RecvTimeoutError::Disconnected => {
                let said = fs::read_to_string(&self.errors).unwrap_or_default();
                let last: Vec<&str> = said.lines().rev().take(ERROR_LINES).collect();
                anyhow!("{} has ended; newest complaints first: {}", self.what, last.join(" / "))
            }
        })
    }

    /// Waits until it is ready.
    pub(crate) fn ready(&self, patience: Duration) -> Result<()> {
        let line = self.line(patience)?;
        if line == "ready" { Ok(()) } else { bail!("{} said '{line}'", self.what) }
    }

    /// The line of JSON that it ends with.
    pub(crate) fn result(&self, patience: Duration) -> Result<serde_json::Value> {
        let line = self.line(patience)?;
        serde_json::from_str(&line).with_context(|| format!("{} said '{line}'", self.what))
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // One that has ended meanwhile cannot be killed, and need not be.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Writes a file that others may not read.
pub(crate) fn write_secret(path: &Path, bytes: &[u8]) -> Result<()> {
    use std::io::Write;
    let mut options = fs::File::options();
    let mut file = options.write(true).create(true).truncate(true).mode(0o400).open(path)?;
    Ok(file.write_all(bytes)?)
}

/// Processor time and memory of a process.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cost {
    pub(crate) cpu_percent: f64,
    pub(crate) rss_mb: f64,
}

/// What processes cost over a span, by the scheduler's own count.
pub(crate) fn costs(pids: &[i32], span: Duration) -> Result<Vec<Cost>> {
    let before: Vec<u64> = pids.iter().map(|&pid| run_ns(pid)).collect::<Result<_>>()?;
    let began = Instant::now();
    std::thread::sleep(span);
    let seconds = began.elapsed().as_secs_f64();
    let mut costs = Vec::new();
    for (&pid, before) in pids.iter().zip(before) {
        let used = run_ns(pid)?.saturating_sub(before);
        let cpu_percent = float(used) / 1e9 / seconds * 100.0;
        costs.push(Cost { cpu_percent, rss_mb: rss_mb(pid)? });
    }
    Ok(costs)
}

/// Nanoseconds that all threads of a process have run (/proc/PID/task/TID/schedstat).
fn run_ns(pid: i32) -> Result<u64> {
    let mut sum = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task")).context("a measured program has ended")? {
        let text = fs::read_to_string(task?.path().join("schedstat")).unwrap_or_default();
        sum += text.split_ascii_whitespace().next().map_or(Ok(0), str::parse::<u64>)?;
    }
    Ok(sum)
}

fn rss_mb(pid: i32) -> Result<f64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = text.lines().find_map(|l| l.strip_prefix("VmRSS:")).context("no VmRSS")?;
    Ok(float(line.trim().trim_end_matches(" kB").trim().parse()?) / 1024.0)
}

#[expect(clippy::cast_precision_loss, reason = "times and sizes of one run are far below 2^52")]
fn float(n: u64) -> f64 {
    n as f64
}

/// The middle one of some figures.
pub(crate) fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    match figures.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => figures[n / 2],
        n => f64::midpoint(figures[n / 2 - 1], figures[n / 2]),
    }
}
