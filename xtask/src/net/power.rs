//! Power cut to first answer: whole daemons with profile turbo (lease wait, witness disk, data disk,
//! address and application), beside keepalived, which moves an address and waits for no lease. The
//! client and its clock are the same.

use std::fmt::Write as _;
use std::fs;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::Serialize;
use wolfpack_lab::clock::{now_us, wait_for};
use wolfpack_lab::node::LabQuorum;
use wolfpack_lab::timeline::{Split, Timeline};
use wolfpack_lab::watch::client::Client;
use wolfpack_types::times::Profile;

use super::Programs;
use super::lab::{NetLab, Program, median};

const PATIENCE: Duration = Duration::from_secs(30);
const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 100);
const PORT: u16 = 8080;

#[derive(Debug, Serialize)]
pub(crate) struct PowerRow {
    who: String,
    n: usize,
    min_ms: f64,
    median_ms: f64,
    max_ms: f64,
    /// Medians of the stages, from the cut.
    stages: String,
}

fn row(who: String, outages: Vec<f64>, stages: String) -> PowerRow {
    PowerRow {
        who,
        n: outages.len(),
        min_ms: outages.iter().copied().fold(f64::INFINITY, f64::min),
        max_ms: outages.iter().copied().fold(0.0, f64::max),
        median_ms: median(outages),
        stages,
    }
}

pub(crate) fn measure(programs: &Programs, n: usize) -> Result<Vec<PowerRow>> {
    let mut rows = Vec::new();
    for (interval, realtime) in [("0.05", false), ("0.01", true)] {
        eprintln!("    power cut: keepalived, advert_int {interval}");
        let outages = keepalived(programs, n, interval, realtime)?;
        let rt = if realtime { " + real time" } else { "" };
        rows.push(row(format!("keepalived, advert_int {interval}{rt}"), outages, String::new()));
    }
    // With a reserved witness the challenge costs 2R + margin beyond the lease, where the lost node
    // had led: therefore both.
    let clusters = [
        (3, LabQuorum::Majority, "3 nodes, majority"),
        (2, LabQuorum::NodeAndDisk, "2 nodes and a reserved disk"),
    ];
    for (nodes, quorum, words) in clusters {
        eprintln!("    power cut: profile turbo, {words}");
        let release = programs.release.clone();
        let stories = crate::bench::power_cuts((nodes, quorum), Profile::Turbo, release, n)?;
        let outages: Vec<f64> = stories.iter().filter_map(|s| s.outage_ms).collect();
        let who = format!("Wolfpack, turbo, {words} (whole daemons, data disk)");
        rows.push(row(who, outages, stages(&stories)));
    }
    Ok(rows)
}

/// Medians of the stages.
fn stages(stories: &[Timeline]) -> String {
    let stage = |of: fn(&Split) -> Option<f64>| {
        let all: Vec<f64> = stories.iter().filter_map(|s| of(&s.split)).collect();
        if all.is_empty() { "-".to_owned() } else { format!("{:.0}", median(all)) }
    };
    format!(
        "detection {}, witness {}, regroup {}, wait {}, online {}, answer {}",
        stage(|s| s.detection_ms),
        stage(|s| s.witness_ms),
        stage(|s| s.regroup_ms),
        stage(|s| s.wait_ms),
        stage(|s| s.online_ms),
        stage(|s| s.answer_ms)
    )
}

/// One of the two nodes.
struct Host<'a> {
    lab: &'a NetLab,
    programs: &'a Programs,
    n: u8,
    name: &'static str,
    config: String,
    running: Vec<Program>,
}

impl Host<'_> {
    fn start(&mut self) -> Result<()> {
        let ns = &self.lab.nodes[usize::from(self.n) - 1];
        self.lab.plug(self.n, true)?;
        // What a power cycle would have forgotten; an error says that it is not there.
        let _ = ns.ip(&format!("addr del {ADDRESS}/24 dev eth1"));
        let errors = self.lab.dir.join("keepalived");
        let mut app = ns.command(self.programs.release.join("wolfpack-demo-app"))?;
        app.args(["--port", &PORT.to_string()]).env("WOLFPACK_NODE", self.name);
        let conf = self.lab.dir.join(format!("{}.conf", self.name));
        fs::write(&conf, &self.config)?;
        let mut command = ns.command("unshare")?;
        let script = format!(
            "mount --make-rprivate / && mount -t tmpfs tmpfs /run && exec keepalived -n -P -D -f {}",
            conf.display()
        );
        command.args(["--mount", "sh", "-c", &script]);
        command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        self.running.push(Program::start("the application", app, &errors)?);
        self.running.push(Program::start("keepalived", command, &errors)?);
        Ok(())
    }

    /// As the lab cuts the power of its nodes: frozen, unplugged, killed.
    fn cut(&mut self) -> Result<u64> {
        let ns = &self.lab.nodes[usize::from(self.n) - 1];
        let at = now_us();
        for pid in ns.pids()? {
            let _ = kill(Pid::from_raw(pid), Signal::SIGSTOP);
        }
        self.lab.plug(self.n, false)?;
        for pid in ns.pids()? {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        self.running.clear();
        let left = || match ns.pids() {
            Ok(pids) if pids.is_empty() => Ok(()),
            other => Err(format!("{other:?} are left")),
        };
        wait_for("the end of all processes of a node", PATIENCE, left)?;
        Ok(at)
    }
}

fn config(priority: u8, interval: &str, realtime: bool) -> String {
    let rt = if realtime { "  vrrp_rt_priority 50\n  vrrp_no_swap\n" } else { "" };
    format!(
        "global_defs {{\n  vrrp_version 3\n{rt}}}\nvrrp_instance one {{\n  state BACKUP\n  nopreempt\n  \
         interface eth1\n  virtual_router_id 51\n  priority {priority}\n  advert_int {interval}\n  \
         virtual_ipaddress {{\n    {ADDRESS}/24\n  }}\n}}\n"
    )
}

fn keepalived(programs: &Programs, n: usize, interval: &str, realtime: bool) -> Result<Vec<f64>> {
    let lab = NetLab::new(3)?;
    let host = |n: u8, name, priority| Host {
        lab: &lab,
        programs,
        n,
        name,
        config: config(priority, interval, realtime),
        running: Vec::new(),
    };
    let mut hosts = [host(1, "a", 101), host(2, "b", 100)];
    require(&programs.release.join("wolfpack-demo-app"))?;
    for host in &mut hosts {
        host.start()?;
    }
    let client = Client::start(&lab.nodes[2], SocketAddrV4::new(ADDRESS, PORT))?;
    let answered = |since: u64, not: &str| {
        wait_for("an answer", PATIENCE, || {
            let answers = client.answers_since(since);
            let found = answers.iter().find(|a| a.asked_us >= since && a.node != not);
            found.map(|a| a.node.clone()).ok_or_else(|| "there is none".to_owned())
        })
    };
    let mut outages = Vec::new();
    for _ in 0..n {
        let owner = answered(now_us(), "")?;
        // Until the roles have settled: nothing says when.
        std::thread::sleep(Duration::from_secs(2));
        let owner_again = answered(now_us(), "")?;
        if owner != owner_again {
            bail!("the address moved by itself from {owner} to {owner_again}");
        }
        let victim = hosts.iter_mut().find(|h| h.name == owner).context("an unknown owner")?;
        let at = victim.cut()?;
        answered(at, &owner)?;
        outages.push(client.outage(at).context("the client saw no outage")?.ms());
        victim.start()?;
    }
    Ok(outages)
}

fn require(program: &Path) -> Result<()> {
    if program.is_file() { Ok(()) } else { bail!("{} was not built", program.display()) }
}

pub(crate) fn table(rows: &[PowerRow]) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let mut out = String::from(
        "\nPower cut to first answer, milliseconds (keepalived waits for no lease)\n\n\
         | who | n | min | median | max | stages |\n|---|---|---|---|---|---|\n",
    );
    for r in rows {
        // Writing to a String does not fail.
        let _ = writeln!(
            out,
            "| {} | {} | {:.0} | {:.0} | {:.0} | {} |",
            r.who, r.n, r.min_ms, r.median_ms, r.max_ms, r.stages
        );
    }
    out
}
