//! What every scenario begins with: a lab, a cluster made by the commands that the README teaches,
//! and the group `web` online and answering.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use wolfpack_types::Times;

use crate::clock::{now_us, wait_for};
use crate::lab::{Lab, LabOptions, PATIENCE, PORT, cluster_address};
use crate::network::Wire;
use crate::node::Node;
use crate::san::{Lun, San};
use crate::timeline::Timeline;

/// The group of all scenarios.
pub const GROUP: &str = "web";

/// A lab with a cluster on it, and whom to tell.
pub struct Stage<'a> {
    pub lab: Lab,
    say: &'a mut dyn FnMut(&str),
    started_us: u64,
    fault: Option<(String, u64)>,
}

impl std::fmt::Debug for Stage<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stage").field("lab", &self.lab).finish_non_exhaustive()
    }
}

impl<'a> Stage<'a> {
    /// Makes the lab.
    ///
    /// # Errors
    /// As [`Lab::new`].
    pub fn new(options: LabOptions, say: &'a mut dyn FnMut(&str)) -> Result<Self> {
        let started_us = now_us();
        let mut stage = Self { lab: Lab::new(options)?, say, started_us, fault: None };
        let nodes = stage.lab.nodes.len();
        stage.say(&format!(
            "{nodes} nodes, a client and a disk array are set up in network namespaces"
        ));
        Ok(stage)
    }

    /// Tells what happens.
    pub fn say(&mut self, what: &str) {
        let ms = (now_us() - self.started_us) / 1000;
        (self.say)(&format!("[{:>3}.{:03} s] {what}", ms / 1000, ms % 1000));
    }

    /// Runs a `wolfpack` command on a node, and shows it.
    ///
    /// # Errors
    /// What the command said.
    pub fn command(&mut self, node: &str, args: &[&str]) -> Result<String> {
        let quoted: Vec<String> = args
            .iter()
            .map(|a| if a.contains(' ') { format!("'{a}'") } else { (*a).to_owned() })
            .collect();
        self.say(&format!("{node}$ wolfpack {}", quoted.join(" ")));
        self.lab.wolfpack(node, args)
    }

    /// Switches both nodes on, makes the cluster and its group, and waits until a client is served
    /// by node `a`.
    ///
    /// # Errors
    /// Any of it did not come about.
    pub fn make_cluster(&mut self) -> Result<()> {
        self.make_empty_cluster()?;
        let app = self.lab.binaries.app.display().to_string();
        let address = format!("address={}/24", cluster_address());
        let disk = format!("disk={}", San::url(Lun::Data));
        let command = format!("command={app} --port {PORT} --disk data");
        self.command("a", &["group", "create", GROUP, "--preferred", "a,b"])?;
        let create = ["resource", "create"];
        let web = ["--group", GROUP, "--type"];
        let make = |name, kind, rest: &[&'static str]| {
            [&create[..], &[name], &web[..], &[kind], rest].concat()
        };
        let data = make("data", "physical-disk", &[]);
        self.command("a", &[&data[..], &["--set", &disk]].concat())?;
        let ip = make("address", "ip-address", &["--set", "network=public"]);
        self.command("a", &[&ip[..], &["--set", &address]].concat())?;
        let site = make(
            "site",
            "generic-application",
            &["--depends-on", "data", "--depends-on", "address"],
        );
        self.command("a", &[&site[..], &["--set", &command]].concat())?;
        self.command("a", &["group", "online", GROUP])?;
        self.lab.wait_online("a", GROUP)?;
        self.lab.wait_answer("a", 0)?;
        self.wait_steady("a")?;
        self.say("the group is online on node a, and a client asks it 200 times a second");
        Ok(())
    }

    /// Switches both nodes on and makes the cluster, without a group.
    ///
    /// # Errors
    /// Any of it did not come about.
    pub fn make_empty_cluster(&mut self) -> Result<()> {
        let nodes = self.names();
        for node in &nodes {
            self.lab.power_on(node)?;
            self.lab.wait_status(node, "the service to run", |_| Some(()))?;
        }
        self.command("a", &["cluster", "create", "demo"])?;
        self.lab.wait_members(&nodes)?;
        self.say("all nodes are members");
        Ok(())
    }

    /// The names of the lab's nodes.
    #[must_use]
    pub fn names(&self) -> Vec<&'static str> {
        self.lab.nodes.iter().map(Node::name).collect()
    }

    /// Waits until everything is at rest with node `owner` serving: both watchers see it alone.
    ///
    /// # Errors
    /// It does not come to that.
    pub fn wait_steady(&self, owner: &str) -> Result<()> {
        let since = now_us();
        self.lab.wait_answer(owner, since)?;
        let mac = self.lab.node(owner).mac(Wire::Public);
        wait_for(&format!("node {owner} to answer ARP and write to the disk"), PATIENCE, || {
            match self.lab.address.last_answer_of(mac) {
                Some(at) if at > since => {}
                seen => return Err(format!("its last ARP answer was at {seen:?}")),
            }
            match self.lab.disk.tenures().last() {
                Some(t) if t.node == owner && t.last_us > since => Ok(()),
                seen => Err(format!("the last tenure on the disk is {seen:?}")),
            }
        })
    }

    /// The node that has the group.
    ///
    /// # Errors
    /// No node of `asked` says that it is online.
    pub fn owner(&self, asked: &str) -> Result<String> {
        self.lab.wait_online(asked, GROUP)
    }

    /// Notes the fault, for the story.
    pub fn strike(&mut self, what: &str, at_us: u64) {
        self.fault = Some((what.to_owned(), at_us));
        self.say(what);
    }

    /// Waits until the group serves on `to`, which must say so too.
    ///
    /// # Errors
    /// It does not.
    pub fn wait_moved(&mut self, to: &str, since_us: u64) -> Result<()> {
        self.lab.wait_answer(to, since_us)?;
        let owner = self.lab.wait_online(to, GROUP)?;
        ensure!(
            owner == to,
            "the client is served by node {to}, but the owner is said to be {owner}"
        );
        self.wait_steady(to)?;
        self.say(&format!("node {to} serves"));
        Ok(())
    }

    /// Brings the group to a node by command.
    ///
    /// # Errors
    /// It does not come.
    pub fn move_group(&mut self, to: &str) -> Result<()> {
        let since = now_us();
        self.command(to, &["group", "move", GROUP, "--to", to])?;
        self.wait_moved(to, since)
    }

    /// Why the owner is the owner, as a node says.
    ///
    /// # Errors
    /// It does not answer.
    pub fn because(&self, node: &str) -> Result<String> {
        let status = self.lab.status(node)?;
        let group = status.groups.into_iter().find(|g| g.name == GROUP);
        Ok(group.context("the group is unknown")?.because)
    }

    /// Waits until no application of the group is left on a node, and the node's address watcher
    /// no longer gets an answer from it.
    ///
    /// # Errors
    /// Something of it is left.
    pub fn wait_stopped(&self, node: &str) -> Result<()> {
        wait_for(&format!("everything of the group to end on node {node}"), PATIENCE, || {
            let left = running(self.lab.node(node)).map_err(|e| e.to_string())?;
            if left.is_empty() { Ok(()) } else { Err(format!("processes {left:?} are left")) }
        })
        .with_context(|| self.lab.diagnosis())
    }

    /// The story of the fault.
    #[must_use]
    pub fn timeline(&self) -> Timeline {
        let (fault, at) = self.fault.clone().unwrap_or_else(|| ("nothing".into(), now_us()));
        self.lab.timeline(&fault, at)
    }

    /// Copies the nodes' logs, events and configurations to where they outlive the lab.
    #[must_use]
    pub fn keep_logs(&self, name: &str) -> String {
        let to = std::env::temp_dir().join(format!("wolfpack-{name}-{}", std::process::id()));
        let copy = || -> std::io::Result<()> {
            for node in &self.lab.nodes {
                let dir = to.join(node.name());
                std::fs::create_dir_all(&dir)?;
                for file in ["service.log", "guard.log", "config.toml", "state/events.jsonl"] {
                    let from = node.dir().join(file);
                    if from.exists() {
                        std::fs::copy(&from, dir.join(file.replace("state/", "")))?;
                    }
                }
            }
            std::fs::write(to.join("timeline.txt"), self.timeline().text())
        };
        match copy() {
            Ok(()) => format!("the nodes' logs are kept in {}", to.display()),
            Err(e) => format!("the nodes' logs could not be kept: {e}"),
        }
    }

    /// Waits until an event stands in a node's log, since a time.
    ///
    /// # Errors
    /// It does not come.
    pub fn wait_event(
        &self,
        node: &str,
        what: &str,
        since_us: u64,
        wanted: impl Fn(&wolfpack_types::event::EventKind) -> bool,
    ) -> Result<wolfpack_types::api::StampedEvent> {
        let node = self.lab.node(node);
        wait_for(&format!("event '{what}' of node {}", node.name()), PATIENCE, || {
            node.event_since(since_us, &wanted).ok_or_else(|| "it is not in its log".to_owned())
        })
        .with_context(|| self.lab.diagnosis())
    }

    /// Lets the lease at the witness, which the nodes had while the last view with the witness
    /// stood, run out: a node that dies before is waited for until then.
    pub fn rest(&mut self) {
        let times = Times::of(self.lab.options().profile);
        let span = Times::drifted(times.register_lease);
        self.say(&format!(
            "the cluster rests until its leases at the witness are over ({span:.1?})"
        ));
        self.let_pass(span);
    }

    /// Lets time pass in which nothing may happen: there is no condition to wait for.
    pub fn let_pass(&self, span: Duration) {
        std::thread::sleep(span);
    }
}

/// The processes of the demo application on a node.
///
/// # Errors
/// The node has no power.
pub(super) fn running(node: &Node) -> Result<Vec<i32>> {
    node.find(&["wolfpack-demo-app"])
}
