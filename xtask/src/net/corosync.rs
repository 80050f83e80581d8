//! Corosync, each node in the namespaces that it needs: its own network, and its own /run, /dev/shm
//! and /var/lib/corosync. knet with two links, aes256 and sha256.

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use wolfpack_lab::clock::wait_for;

use super::lab::{NETS, NetLab, Program, write_secret};
use crate::step;

/// How long a membership may take to form: with a token of 3 s some of these.
const PATIENCE: Duration = Duration::from_secs(90);

/// What is configured.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Token {
    /// 3 s whatever the number of nodes: silence is reported after 6.3 s, as by default with two.
    Default,
    /// 70 ms: after 145 ms; with fixed pings, without which idle links flap.
    Short,
}

impl Token {
    const fn lines(self) -> (&'static str, &'static str) {
        match self {
            Self::Default => ("token: 3000\n  token_coefficient: 0", ""),
            Self::Short => (
                "token: 70\n  token_retransmits_before_loss_const: 2\n  join: 30\n  consensus: 84\n  \
                 token_coefficient: 0",
                "knet_ping_interval: 200\n    knet_ping_timeout: 1000\n    knet_pong_count: 1",
            ),
        }
    }
}

/// A running cluster of it.
#[derive(Debug)]
pub(crate) struct Corosync {
    nodes: Vec<Program>,
    logs: Vec<PathBuf>,
    client: PathBuf,
}

impl Corosync {
    /// Starts it on the first `count` nodes, and waits for its membership.
    pub(crate) fn start(lab: &NetLab, count: u8, token: Token, realtime: bool) -> Result<Self> {
        let tag = format!("corosync-{token:?}-{count}-{realtime}");
        let dir = lab.dir.join(&tag);
        if dir.exists() {
            fs::remove_dir_all(&dir)?;
        }
        fs::create_dir_all(&dir)?;
        let key = dir.join("authkey");
        write_secret(&key, &[0x5a; 256])?;
        let (mut nodes, mut logs) = (Vec::new(), Vec::new());
        for n in 1..=count {
            let (conf, log) = (dir.join(format!("{n}.conf")), dir.join(format!("{n}.log")));
            let text = config(count, token, realtime, &key.display().to_string(), &log);
            fs::write(&conf, text)?;
            let private = ["/run", "/dev/shm", "/var/lib/corosync", "/var/log/corosync"];
            let mut script = String::from("mount --make-rprivate / && ");
            for place in private {
                write!(script, "mkdir -p {place} && mount -t tmpfs tmpfs {place} && ")?;
            }
            write!(script, "exec corosync -f -c {}", conf.display())?;
            let mut command = lab.nodes[usize::from(n) - 1].command("unshare")?;
            command.args(["--mount", "sh", "-c", &script]);
            command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
            let what = format!("corosync on node {n}");
            nodes.push(Program::start(&what, command, &dir.join("errors"))?);
            logs.push(log);
        }
        let cluster = Self { nodes, logs, client: client(lab)? };
        let all = format!("Members[{count}]:");
        wait_for(&format!("{all} in every log of {tag}"), PATIENCE, || {
            let has = |log: &PathBuf| fs::read_to_string(log).is_ok_and(|t| t.contains(&all));
            let missing = cluster.logs.iter().filter(|log| !has(log)).count();
            if missing == 0 { Ok(()) } else { Err(format!("{missing} logs lack it")) }
        })?;
        Ok(cluster)
    }

    pub(crate) fn pids(&self) -> Result<Vec<i32>> {
        self.nodes.iter().map(Program::pid).collect()
    }

    /// Memberships formed so far, on all nodes together.
    pub(crate) fn memberships(&self) -> usize {
        let count = |log: &PathBuf| {
            fs::read_to_string(log).unwrap_or_default().matches("A new membership").count()
        };
        self.logs.iter().map(count).sum()
    }

    /// Starts a client of process groups beside a node: in its namespaces.
    pub(crate) fn client(&self, lab: &NetLab, n: u8, args: &[&str]) -> Result<Program> {
        let node = self.nodes.get(usize::from(n) - 1).context("no such node")?;
        let mut command = lab.nodes[usize::from(n) - 1].command("nsenter")?;
        command.args(["-t", &node.pid()?.to_string(), "-m"]).arg(&self.client).args(args);
        Program::start(&format!("the client on node {n}"), command, &lab.dir.join("clients"))
    }
}

fn config(count: u8, token: Token, realtime: bool, key: &str, log: &std::path::Path) -> String {
    let (totem, link) = token.lines();
    let mut text = format!(
        "totem {{\n  version: 2\n  transport: knet\n  cluster_name: bench\n  crypto_cipher: aes256\n  \
         crypto_hash: sha256\n  keyfile: {key}\n  {totem}\n"
    );
    for number in 0..NETS.len() {
        text += &format!("  interface {{\n    linknumber: {number}\n    {link}\n  }}\n");
    }
    text += "}\nnodelist {\n";
    for n in 1..=count {
        text += &format!("  node {{\n    nodeid: {n}\n    name: n{n}\n");
        for (i, (_, _, addresses)) in NETS.into_iter().enumerate() {
            text += &format!("    ring{i}_addr: {addresses}{n}\n");
        }
        text += "  }\n";
    }
    text += &format!(
        "}}\nquorum {{\n  provider: corosync_votequorum\n  expected_votes: {count}\n  two_node: {}\n}}\n",
        u8::from(count == 2)
    );
    text += &format!(
        "logging {{\n  to_stderr: no\n  to_syslog: no\n  to_logfile: yes\n  logfile: {}\n}}\n",
        log.display()
    );
    if !realtime {
        text += "system {\n  sched_rr: no\n  priority: 0\n}\n";
    }
    text
}

/// Compiles the client, once for a lab.
fn client(lab: &NetLab) -> Result<PathBuf> {
    let program = lab.dir.join("cpg-bench");
    if !program.exists() {
        let source = step::root().join("xtask/src/net/cpg_bench.c");
        let mut command = Command::new("gcc");
        command.args(["-O2", "-o"]).arg(&program).arg(&source).arg("-lcpg");
        let out = command.output().context("starting gcc")?;
        ensure!(out.status.success(), "gcc: {}", String::from_utf8_lossy(&out.stderr));
    }
    Ok(program)
}
