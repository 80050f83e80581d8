//! The laboratory: two nodes on three networks, a disk array, a client, and watchers, all in
//! network namespaces of this machine. Scenarios and the demo are written in its terms.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use wolfpack_client::Client as ApiClient;
use wolfpack_types::api::{ClusterStatus, Reply, Request, ServiceState};
use wolfpack_types::objects::GroupState;
use wolfpack_types::times::Profile;

use crate::binaries::Binaries;
use crate::clock::wait_for;
use crate::netns::{self, Netns};
use crate::network::{Switch, Wire};
use crate::node::{LabQuorum, Node, NodeOptions};
use crate::reaper::{Reaper, directories};
use crate::san::{Lun, San};
use crate::timeline::Timeline;
use crate::watch::address::AddressWatcher;
use crate::watch::client::Client;
use crate::watch::disk::DiskWatcher;

/// How long anything may take before a scenario gives up. Generous: it only ends what hangs.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// How long the service may take for one request.
const ASK_PATIENCE: Duration = Duration::from_secs(10);

/// The demo's port.
pub const PORT: u16 = 8080;
const CLUSTER_HOST: u8 = 50;
const CLIENT_HOST: u8 = 200;
const WATCHER_HOST: u8 = 201;
/// A cluster key for labs, which is no secret.
const LAB_KEY: &str = "776f6c667061636b";

/// The cluster's address on the public network.
#[must_use]
pub fn cluster_address() -> Ipv4Addr {
    Wire::Public.address(CLUSTER_HOST)
}

/// What a lab is to be like.
#[derive(Clone, Debug)]
pub struct LabOptions {
    pub nodes: u8,
    pub quorum: LabQuorum,
    pub profile: Profile,
    /// Where the programs are; none: beside the running one.
    pub binaries: Option<PathBuf>,
    /// Size of the quorum LUN.
    pub quorum_bytes: u64,
    /// The nodes speak IPv6 alone with each other (clients and disks are reached by IPv4).
    pub ipv6: bool,
}

impl Default for LabOptions {
    fn default() -> Self {
        Self {
            nodes: 2,
            quorum: LabQuorum::default(),
            profile: Profile::Standard,
            binaries: None,
            quorum_bytes: crate::san::QUORUM_BYTES,
            ipv6: false,
        }
    }
}

/// The laboratory. Dropping it ends and removes everything; so do a panic and a signal.
#[derive(Debug)]
pub struct Lab {
    pub nodes: Vec<Node>,
    pub client: Client,
    pub address: AddressWatcher,
    pub disk: DiskWatcher,
    pub san: San,
    pub switch: Switch,
    pub client_ns: Netns,
    pub binaries: Binaries,
    dir: PathBuf,
    options: LabOptions,
    // Last: it cleans when all the others have let go.
    reaper: Reaper,
}

impl Lab {
    /// Makes it, with all nodes switched off.
    ///
    /// # Errors
    /// The machine lacks something: what, and how to get it.
    pub fn new(options: LabOptions) -> Result<Self> {
        netns::requirements()?;
        let binaries = match &options.binaries {
            Some(dir) => Binaries::in_dir(dir)?,
            None => Binaries::find()?,
        };
        let reaper = Reaper::start()?;
        let prefix = reaper.prefix().to_owned();
        let [dir, memory] = directories(&prefix);
        std::fs::create_dir_all(dir.join("share"))?;
        let switch = Switch::create(&prefix)?;
        let san = San::start(&prefix, &switch, &dir, &memory)?;
        if options.quorum_bytes != crate::san::QUORUM_BYTES {
            san.replace(Lun::Quorum, options.quorum_bytes)?;
        }
        let client_ns = Netns::create(&format!("{prefix}-client"))?;
        switch.plug(&client_ns, "client", Wire::Public, CLIENT_HOST)?;
        let client = Client::start(&client_ns, SocketAddrV4::new(cluster_address(), PORT))?;
        let asker = Wire::Public.address(WATCHER_HOST);
        let name = Wire::Public.name();
        let address = AddressWatcher::start(&client_ns, name, asker, cluster_address())?;
        let disk = DiskWatcher::start(&san.image(Lun::Data))?;
        let nodes = Vec::new();
        let mut lab = Self {
            nodes,
            client,
            address,
            disk,
            san,
            switch,
            client_ns,
            binaries,
            dir,
            options,
            reaper,
        };
        let all: Vec<u8> = (1..=lab.options.nodes).collect();
        for &host in &all {
            let node = Node::new(
                lab.reaper.prefix(),
                &lab.dir,
                host,
                &all,
                &lab.binaries,
                &lab.node_options(),
            )?;
            lab.nodes.push(node);
        }
        Ok(lab)
    }

    /// The usual options of a node of this lab.
    #[must_use]
    pub fn node_options(&self) -> NodeOptions {
        NodeOptions {
            profile: self.options.profile,
            quorum: self.options.quorum,
            share: self.share(),
            key: lab_key(),
            ipv6: self.options.ipv6,
            witness: None,
            extra: String::new(),
        }
    }

    /// The directory that is every node's file share.
    #[must_use]
    pub fn share(&self) -> PathBuf {
        self.dir.join("share")
    }

    /// What it was asked to be like.
    #[must_use]
    pub const fn options(&self) -> &LabOptions {
        &self.options
    }

    /// What its names begin with.
    #[must_use]
    pub fn prefix(&self) -> &str {
        self.reaper.prefix()
    }

    /// Its directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// A node by its name.
    ///
    /// # Panics
    /// There is none: a mistake of the scenario.
    #[must_use]
    pub fn node(&self, name: &str) -> &Node {
        self.nodes.iter().find(|n| n.name() == name).expect("a node of this lab")
    }

    /// The node that is not this one, in a lab of two.
    ///
    /// # Panics
    /// There is none: a mistake of the scenario.
    #[must_use]
    pub fn other(&self, name: &str) -> &Node {
        self.nodes.iter().find(|n| n.name() != name).expect("a second node")
    }

    /// Switches a node on.
    ///
    /// # Errors
    /// It is on already, or what `ip` says.
    pub fn power_on(&mut self, name: &str) -> Result<()> {
        let node = self.nodes.iter_mut().find(|n| n.name() == name).context("no such node")?;
        node.power_on(&self.switch)
    }

    /// Cuts a node's power; the time of the cut.
    ///
    /// # Errors
    /// It is off already, or what `ip` says.
    pub fn power_cut(&mut self, name: &str) -> Result<u64> {
        let node = self.nodes.iter_mut().find(|n| n.name() == name).context("no such node")?;
        node.power_cut(&self.switch)
    }

    /// Runs the real `wolfpack` command against a node's service; what it printed.
    ///
    /// # Errors
    /// It ended with an error: what it said.
    pub fn wolfpack(&self, node: &str, args: &[&str]) -> Result<String> {
        let out = self.wolfpack_raw(node, args)?;
        let stdout = String::from_utf8_lossy(&out.stdout).into_owned();
        if !out.status.success() {
            let stderr = String::from_utf8_lossy(&out.stderr);
            bail!("`wolfpack {}` on {node}: {}: {}", args.join(" "), out.status, stderr.trim());
        }
        Ok(stdout)
    }

    /// As [`Self::wolfpack`], but an error of the command is a result.
    ///
    /// # Errors
    /// The command cannot be started.
    pub fn wolfpack_raw(&self, node: &str, args: &[&str]) -> Result<std::process::Output> {
        let mut command = Command::new(&self.binaries.cli);
        command.arg("--socket").arg(self.node(node).socket()).args(args);
        command.output().context("starting the command line")
    }

    /// The cluster as a node's service sees it.
    ///
    /// # Errors
    /// The service does not run or does not answer.
    pub fn status(&self, node: &str) -> Result<ClusterStatus> {
        let mut client = ApiClient::connect(&self.node(node).socket(), ASK_PATIENCE)?;
        match client.request(&Request::ClusterStatus)? {
            Reply::Cluster(status) => Ok(*status),
            other => bail!("node {node} answered the question for the status by {other:?}"),
        }
    }

    /// Waits until a node's status satisfies a condition.
    ///
    /// # Errors
    /// It did not in time: what the status was, and the ends of the node's logs.
    pub fn wait_status<T>(
        &self,
        node: &str,
        what: &str,
        mut look: impl FnMut(&ClusterStatus) -> Option<T>,
    ) -> Result<T> {
        let waited = wait_for(&format!("{what} (as node {node} sees it)"), PATIENCE, || {
            let status = self.status(node).map_err(|e| format!("{e:#}"))?;
            look(&status).ok_or_else(|| summary(&status))
        });
        waited.with_context(|| self.diagnosis())
    }

    /// Waits until these nodes are the members of one view, all say so, none regroups, and the view
    /// does without the witness where more than one node is in it: so things are at rest.
    ///
    /// # Errors
    /// They are not in time.
    pub fn wait_members(&self, members: &[&str]) -> Result<()> {
        for node in members {
            self.wait_status(node, &format!("members {}", members.join(", ")), |s| {
                let view = s.view.as_ref()?;
                let there = members.iter().all(|m| view.members.iter().any(|v| v == m));
                let same = there && view.members.len() == members.len();
                let rest =
                    members.len() == 1 || !view.witness_in || self.options.quorum.always_witness();
                (same && rest && s.state == ServiceState::Member && s.stage.is_none()).then_some(())
            })?;
        }
        Ok(())
    }

    /// Waits until the group is online somewhere, as `node` sees it; the owner's name.
    ///
    /// # Errors
    /// It is not in time.
    pub fn wait_online(&self, node: &str, group: &str) -> Result<String> {
        self.wait_status(node, &format!("group {group} to be online"), |s| {
            let group = s.groups.iter().find(|g| g.name == group)?;
            (group.state == GroupState::Online).then(|| group.owner.clone())?
        })
    }

    /// Waits until the client is answered by a node, asked after a time.
    ///
    /// # Errors
    /// It is not in time.
    pub fn wait_answer(&self, from: &str, since_us: u64) -> Result<()> {
        let waited = wait_for(&format!("an answer from node {from}"), PATIENCE, || {
            let answers = self.client.answers_since(since_us);
            if answers.iter().any(|a| a.asked_us >= since_us && a.node == from) {
                return Ok(());
            }
            Err(match answers.last() {
                Some(a) => format!("the newest answer is from node {}", a.node),
                None => "nobody answered".into(),
            })
        });
        waited.with_context(|| self.diagnosis())
    }

    /// Checks what the watchers have seen since the lab was made.
    ///
    /// # Errors
    /// Every breach; or a watcher that cannot have seen anything.
    pub fn check_watchers(&self) -> Result<()> {
        let mut breaches = self.address.breaches();
        breaches.extend(self.disk.breaches());
        ensure!(breaches.is_empty(), "the watchers saw:\n  {}", breaches.join("\n  "));
        ensure!(self.address.questions() > 0, "the address watcher asked nothing");
        Ok(())
    }

    /// The story of a fault, from all nodes' logs and the client.
    #[must_use]
    pub fn timeline(&self, fault: &str, fault_us: u64) -> Timeline {
        let events = self.nodes.iter().flat_map(Node::events).collect();
        Timeline::new(fault, fault_us, events, self.client.outage(fault_us).as_ref())
    }

    /// The ends of all logs, for error reports.
    #[must_use]
    pub fn diagnosis(&self) -> String {
        let mut text = String::from("the nodes' logs end so:\n");
        for node in &self.nodes {
            for file in ["service.log", "guard.log"] {
                text += &format!("--- {} {file}\n{}\n", node.name(), node.log_tail(file, 25));
            }
        }
        text
    }
}

/// The labs' cluster key: 64 hex digits.
#[must_use]
pub fn lab_key() -> String {
    LAB_KEY.repeat(4)
}

fn summary(s: &ClusterStatus) -> String {
    let view = s.view.as_ref().map_or_else(
        || "no view".to_owned(),
        |v| format!("view {} of {}", v.ballot, v.members.join(", ")),
    );
    let groups: Vec<String> = s
        .groups
        .iter()
        .map(|g| format!("{} {} on {}", g.name, g.state, g.owner.as_deref().unwrap_or("none")))
        .collect();
    let resources: Vec<String> =
        s.resources.iter().map(|r| format!("{} {} ({})", r.name, r.state, r.why)).collect();
    format!(
        "it is {:?}{}, {view}, groups [{}], resources [{}]",
        s.state,
        s.waiting_for.as_ref().map(|w| format!(" waiting for {w}")).unwrap_or_default(),
        groups.join("; "),
        resources.join("; "),
    )
}
