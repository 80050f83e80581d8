//! Pacemaker on Corosync: each node in namespaces of its own; each client runs `crm_attribute`, which
//! sets a property of the cluster and returns when it is in the CIB of all nodes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use wolfpack_lab::clock::wait_for;

use super::load::{self, Ask};
use super::{Row, all};
use crate::net::lab::{NETS, NetLab, Program, write_secret};

const PATIENCE: Duration = Duration::from_secs(120);
const PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";

pub(super) fn measure(nodes: u8, span: Duration) -> Result<Vec<Row>> {
    let lab = NetLab::new(nodes)?;
    let cluster = Cluster::start(&lab, nodes)?;
    all("pacemaker", nodes, |bytes, count| {
        let mut clients: Vec<Ask> = Vec::new();
        for client in 0..count {
            let (namespace, init) = (lab.nodes[0].clone(), cluster.inits[0]);
            clients.push(Box::new(move |n| {
                let name = format!("bench-{client}");
                let value = load::value(client, n, bytes);
                let args = ["--type", "crm_config", "--name", &name, "--update", &value];
                let mut command = inside(&namespace, init, "crm_attribute")?;
                let out = command.args(args).output().context("starting crm_attribute")?;
                let said = String::from_utf8_lossy(&out.stderr);
                ensure!(out.status.success(), "crm_attribute: {}: {said}", out.status);
                Ok(())
            }));
        }
        load::run(clients, span)
    })
}

/// A program in the namespaces of a node.
fn inside(node: &wolfpack_lab::netns::Netns, init: i32, program: &str) -> Result<Command> {
    let mut command = node.command("nsenter")?;
    command.args(["-t", &init.to_string(), "-m", "-u", "-i", "-p", program]).env("PATH", PATH);
    Ok(command)
}

struct Cluster {
    /// The first process of each node, as this machine counts.
    inits: Vec<i32>,
    _nodes: Vec<Program>,
}

impl Cluster {
    fn start(lab: &NetLab, count: u8) -> Result<Self> {
        let dir = lab.dir.join(format!("pacemaker-{count}"));
        fs::create_dir_all(&dir)?;
        write_secret(&dir.join("authkey"), &[0x5a; 256])?;
        let (mut nodes, mut inits) = (Vec::new(), Vec::new());
        for n in 1..=count {
            let conf = dir.join(format!("{n}.conf"));
            fs::write(&conf, config(count, &dir, n))?;
            let store = dir.join(format!("store-{n}"));
            fs::create_dir_all(&store)?;
            let mut command = lab.nodes[usize::from(n) - 1].command("unshare")?;
            command.args(["--mount", "--uts", "--ipc", "--pid", "--fork", "--kill-child"]);
            command.args(["--mount-proc", "sh", "-c", &script(n, &conf, &store)]);
            command.env("PATH", PATH);
            let node =
                Program::start(&format!("Pacemaker on node {n}"), command, &dir.join("errors"))?;
            let parent = node.pid()?;
            inits.push(wait_for("the first process of a node", PATIENCE, || child_of(parent))?);
            nodes.push(node);
        }
        let cluster = Self { inits, _nodes: nodes };
        cluster.wait_formed(lab, count)?;
        Ok(cluster)
    }

    /// Waits until every node is online in the CIB, then sets what a bare cluster needs.
    fn wait_formed(&self, lab: &NetLab, count: u8) -> Result<()> {
        wait_for("all nodes to be online in Pacemaker", PATIENCE, || {
            let asked = inside(&lab.nodes[0], self.inits[0], "crm_mon")
                .and_then(|mut c| Ok(c.args(["-1", "--output-as=xml"]).output()?))
                .map_err(|e| format!("{e:#}"))?;
            let said = String::from_utf8_lossy(&asked.stdout).into_owned();
            let online = said.matches("online=\"true\"").count();
            if online == usize::from(count) { Ok(()) } else { Err(format!("{online} are online")) }
        })?;
        let args = ["--type", "crm_config", "--name", "stonith-enabled", "--update", "false"];
        let out = inside(&lab.nodes[0], self.inits[0], "crm_attribute")?.args(args).output()?;
        ensure!(out.status.success(), "crm_attribute: {}", String::from_utf8_lossy(&out.stderr));
        Ok(())
    }
}

/// What a node runs: places of its own for everything that is one for a machine, then both daemons.
/// Its store stays on the disk of the lab.
fn script(n: u8, conf: &Path, store: &Path) -> String {
    let mut script = format!("set -e; mount --make-rprivate /; hostname n{n}; ");
    for place in ["/run", "/dev/shm", "/var/lib/corosync", "/var/log"] {
        script += &format!("mkdir -p {place}; mount -t tmpfs tmpfs {place}; ");
    }
    script += "mkdir -p /run/lock /var/log/pacemaker /var/log/cluster /var/lib/pacemaker; ";
    script += &format!("mount --bind {} /var/lib/pacemaker; ", store.display());
    script += "for d in cib pengine blackbox cores; do mkdir -p /var/lib/pacemaker/$d; done; ";
    script += "chown -R hacluster:haclient /var/lib/pacemaker /var/log/pacemaker; ";
    script += &format!("corosync -f -c {} & ", conf.display());
    script += "until corosync-cfgtool -s >/dev/null 2>&1; do sleep 0.1; done; ";
    script += "PCMK_logfile=/var/log/pacemaker/pacemaker.log exec pacemakerd -f";
    script
}

fn config(count: u8, dir: &Path, n: u8) -> String {
    let key: PathBuf = dir.join("authkey");
    let mut text = format!(
        "totem {{\n  version: 2\n  transport: knet\n  cluster_name: bench\n  crypto_cipher: aes256\n  \
         crypto_hash: sha256\n  keyfile: {}\n}}\nnodelist {{\n",
        key.display()
    );
    for node in 1..=count {
        text += &format!("  node {{\n    nodeid: {node}\n    name: n{node}\n");
        for (i, (_, _, addresses)) in NETS.into_iter().enumerate() {
            text += &format!("    ring{i}_addr: {addresses}{node}\n");
        }
        text += "  }\n";
    }
    text += &format!(
        "}}\nquorum {{\n  provider: corosync_votequorum\n  expected_votes: {count}\n  two_node: {}\n}}\n\
         logging {{\n  to_stderr: no\n  to_syslog: no\n  to_logfile: yes\n  logfile: {}\n}}\n",
        u8::from(count == 2),
        dir.join(format!("corosync-{n}.log")).display()
    );
    text
}

/// The only child of a process.
fn child_of(parent: i32) -> Result<i32, String> {
    let path = format!("/proc/{parent}/task/{parent}/children");
    let text = fs::read_to_string(path).map_err(|e| e.to_string())?;
    text.split_ascii_whitespace()
        .next()
        .and_then(|pid| pid.parse().ok())
        .ok_or_else(|| "it has no child yet".into())
}
