//! The command line as types.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};
use wolfpack_types::event::{EventFilter, EventKind, EventQuery, Severity};

use crate::database::Database;
use crate::exit;
use crate::membership::{Node, Quorum};

/// Administers a Wolfpack failover cluster from one of its nodes.
#[derive(Parser, Debug)]
#[command(name = "wolfpack", version, after_help = exit::HELP, subcommand_required = true)]
pub(crate) struct Args {
    /// Answer as JSON, one object per line
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Socket of the service on this node
    #[arg(
        long,
        global = true,
        value_name = "PATH",
        env = "WOLFPACK_SOCKET",
        default_value = wolfpack_client::DEFAULT_SOCKET
    )]
    pub(crate) socket: PathBuf,
    /// Seconds to wait for the service's answer
    #[arg(
        long,
        global = true,
        value_name = "SECONDS",
        default_value_t = 15,
        value_parser = clap::value_parser!(u64).range(1..=3600)
    )]
    timeout: u64,
    #[command(subcommand)]
    pub(crate) command: Command,
}

impl Args {
    pub(crate) const fn timeout(&self) -> Duration {
        Duration::from_secs(self.timeout)
    }
}

#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// The cluster as a whole
    #[command(subcommand)]
    Cluster(Cluster),
    /// Everything at a glance, what is wrong first (as 'cluster status')
    Status,
    /// The nodes
    #[command(subcommand)]
    Node(Node),
    /// Groups: what fails over together
    #[command(subcommand)]
    Group(Group),
    /// Resources: the disks, addresses and applications in groups
    #[command(subcommand)]
    Resource(Resource),
    /// Who counts for quorum
    #[command(subcommand)]
    Quorum(Quorum),
    /// The cluster's networks, and the paths to the other nodes
    #[command(subcommand)]
    Network(Network),
    /// The nodes' interfaces on the networks
    #[command(subcommand)]
    NetworkInterface(NetworkInterface),
    /// What has happened, and why, as logged by this node
    Events(Events),
    /// The cluster database: keys and typed values of programs, backups
    #[command(subcommand)]
    Database(Database),
    /// The cluster key, which all nodes share
    #[command(subcommand)]
    Key(Key),
    /// The configuration of a node
    #[command(subcommand)]
    Config(Config),
    /// Writes manual pages and shell completions
    #[command(hide = true)]
    Generate {
        /// Directory to write into
        directory: PathBuf,
    },
}

#[derive(Subcommand, Debug)]
pub(crate) enum Cluster {
    /// Makes a cluster of the configured nodes; the witness disk is prepared for it
    Create {
        name: String,
        /// Overwrite what somebody else has written to the witness disk
        #[arg(long)]
        overwrite: bool,
    },
    /// Everything at a glance, what is wrong first
    Status,
}

#[derive(Subcommand, Debug)]
pub(crate) enum Group {
    /// Makes an empty group
    Create {
        name: String,
        /// Nodes to run it, best first
        #[arg(long, value_name = "NODE,...", value_delimiter = ',')]
        preferred: Vec<String>,
    },
    /// Brings the group's resources online
    Online {
        name: String,
        #[command(flatten)]
        wait: Wait,
    },
    /// Takes the group's resources offline
    Offline {
        name: String,
        #[command(flatten)]
        wait: Wait,
    },
    /// Moves the group to another node
    Move {
        name: String,
        /// The node to move to; without it the best other one
        #[arg(long, value_name = "NODE")]
        to: Option<String>,
        #[command(flatten)]
        wait: Wait,
    },
    /// Deletes an empty group
    Delete { name: String },
    /// State of one group or of all
    Status { name: Option<String> },
}

#[derive(Subcommand, Debug)]
pub(crate) enum Resource {
    /// Makes a resource in a group
    #[command(after_long_help = crate::render::resource_types())]
    Create {
        name: String,
        #[arg(long, value_name = "GROUP")]
        group: String,
        /// physical-disk, ip-address or generic-application (see --help for their properties)
        #[arg(long = "type", value_name = "TYPE")]
        kind: String,
        /// A resource of the group that must be online before this one; may be repeated
        #[arg(long, value_name = "RESOURCE")]
        depends_on: Vec<String>,
        /// A property of the type; may be repeated
        #[arg(long = "set", value_name = "KEY=VALUE", value_parser = property)]
        set: Vec<(String, String)>,
    },
    /// Brings the resource online, and what it depends on
    Online {
        name: String,
        #[command(flatten)]
        wait: Wait,
    },
    /// Takes the resource offline, and what depends on it
    Offline {
        name: String,
        #[command(flatten)]
        wait: Wait,
    },
    /// Makes the resource fail, to see what happens
    Fail { name: String },
    /// Deletes a resource that is offline
    Delete { name: String },
    /// State of one resource or of all
    Status { name: Option<String> },
}

#[derive(Subcommand, Debug)]
pub(crate) enum Network {
    /// State of one network or of all, by the reports of all nodes
    Status {
        name: Option<String>,
        /// With loss, round trip, jitter and the last misses of each path from this node
        #[arg(long)]
        paths: bool,
    },
    /// Captured cluster traffic in words, as far as the keys given allow
    Dump(crate::capture::Dump),
}

#[derive(Subcommand, Debug)]
pub(crate) enum NetworkInterface {
    /// State of each node's interface on each network
    Status,
}

#[derive(Subcommand, Debug)]
#[command(after_help = KEY_CHANGE)]
pub(crate) enum Key {
    /// Makes a new cluster key; copy the file to every node
    Generate { file: PathBuf },
    /// The public key of this machine, for public_key in the configuration; makes it if it is missing
    Node {
        #[arg(default_value = "/var/lib/wolfpack/node.key")]
        file: PathBuf,
    },
    /// Has the service on this node read its cluster key file again (as SIGHUP does)
    #[command(after_help = KEY_CHANGE)]
    Reload,
    /// One step of a change of the cluster key: rewrites this node's key file (then: key reload)
    #[command(after_help = KEY_CHANGE)]
    RotateStep {
        step: RotateStep,
        /// The file with the new key, as 'key generate' made it; the same on all nodes
        new: PathBuf,
        /// The key file of this node
        #[arg(long, value_name = "FILE", default_value = "/etc/wolfpack/cluster.key")]
        file: PathBuf,
    },
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum RotateStep {
    /// 1: the new key is accepted beside the one in use
    Accept,
    /// 2: the new key is used, the old one accepted beside it
    Switch,
    /// 3: the old key is no longer accepted
    Finish,
}

/// How the cluster key is changed.
const KEY_CHANGE: &str = "\
The cluster key is changed while the cluster runs. Make the new key once ('wolfpack key generate
NEW') and copy it to every node. Then three steps, each of them on ALL nodes before the next begins:
  1. wolfpack key rotate-step accept NEW && wolfpack key reload
  2. wolfpack key rotate-step switch NEW && wolfpack key reload
  3. wolfpack key rotate-step finish NEW && wolfpack key reload
Nodes that are one step apart understand each other; nodes that are two steps apart do not. A node
that is down takes the steps too before it is started (without the reload). A step that is repeated
does no harm. At the end remove NEW: the key file has the key.";

#[derive(Subcommand, Debug)]
pub(crate) enum Config {
    /// Checks a configuration file and prints the time budget that follows from it
    Check { file: PathBuf },
}

/// Which events to show.
#[derive(ClapArgs, Clone, Debug)]
pub(crate) struct Events {
    /// Go on with new ones as they happen
    #[arg(long, short)]
    pub(crate) follow: bool,
    /// Only what came after this event of this node
    #[arg(long, visible_alias = "after", value_name = "NUMBER", default_value_t = 0)]
    pub(crate) since: u64,
    /// The events of the other nodes too, as far as they have come here
    #[arg(long, short)]
    pub(crate) all_nodes: bool,
    /// Only of this group
    #[arg(long, value_name = "GROUP")]
    pub(crate) group: Option<String>,
    /// Only of this resource
    #[arg(long, value_name = "RESOURCE")]
    pub(crate) resource: Option<String>,
    /// Only of this network
    #[arg(long, value_name = "NETWORK")]
    pub(crate) network: Option<String>,
    /// Only those that this node has logged or that are about it
    #[arg(long, value_name = "NODE")]
    pub(crate) node: Option<String>,
    /// Only those at least so severe
    #[arg(long, value_name = "SEVERITY", value_parser = ["info", "warning", "error"])]
    pub(crate) severity: Option<String>,
    /// Only of this kind; may be repeated
    #[arg(long, value_name = "KIND", value_parser = EventKind::NAMES, hide_possible_values = true)]
    pub(crate) kind: Vec<String>,
    /// One event and what led to it, step by step, the first cause first
    #[arg(
        long,
        value_name = "[NODE:]NUMBER",
        conflicts_with_all = [
            "follow", "since", "all_nodes", "group", "resource", "network", "node", "severity", "kind"
        ]
    )]
    pub(crate) chain: Option<String>,
}

impl Events {
    /// The query, but for the chain, whose node may have to be looked up.
    pub(crate) fn query(&self) -> EventQuery {
        let severity = self.severity.as_deref().map(|s| match s {
            "error" => Severity::Error,
            "warning" => Severity::Warning,
            _ => Severity::Info,
        });
        EventQuery {
            after: self.since,
            follow: self.follow,
            all_nodes: self.all_nodes,
            filter: EventFilter {
                kinds: self.kind.clone(),
                severity,
                group: self.group.clone(),
                resource: self.resource.clone(),
                network: self.network.clone(),
                node: self.node.clone(),
            },
            chain: None,
        }
    }
}

/// Whether to wait until the thing asked for has come about.
#[derive(ClapArgs, Clone, Copy, Debug)]
pub(crate) struct Wait {
    /// Wait until it is there or has failed, at most so many seconds (60 if not given)
    #[arg(
        long,
        value_name = "SECONDS",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "60",
        value_parser = clap::value_parser!(u64).range(1..=86_400)
    )]
    wait: Option<u64>,
}

impl Wait {
    pub(crate) fn limit(self) -> Option<Duration> {
        self.wait.map(Duration::from_secs)
    }
}

fn property(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("write it as KEY=VALUE".into()),
    }
}

/// The properties as a map; one given twice is a mistake, not a choice.
pub(crate) fn properties(set: &[(String, String)]) -> Result<BTreeMap<String, String>, String> {
    let mut map = BTreeMap::new();
    for (key, value) in set {
        if map.insert(key.clone(), value.clone()).is_some() {
            return Err(format!("property '{key}' is given twice"));
        }
    }
    Ok(map)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn parse(line: &str) -> Result<Args, clap::Error> {
        Args::try_parse_from(std::iter::once("wolfpack").chain(line.split_whitespace()))
    }

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn waiting_is_optional_and_has_a_default() {
        let limit = |line: &str| match parse(line).unwrap().command {
            Command::Group(Group::Online { wait, .. }) => wait.limit(),
            other => panic!("{other:?}"),
        };
        assert_eq!(limit("group online web"), None);
        assert_eq!(limit("group online web --wait"), Some(Duration::from_secs(60)));
        assert_eq!(limit("group online --wait web"), Some(Duration::from_secs(60)));
        assert_eq!(limit("group online --wait=5 web"), Some(Duration::from_secs(5)));
        assert!(parse("group online web --wait=0").is_err());
        assert!(parse("group online web --wait=soon").is_err());
    }

    #[test]
    fn a_resource_with_everything() {
        let args = parse(
            "resource create app --group web --type generic-application --depends-on ip \
             --depends-on disk --set command=/bin/a=b --set directory=/ --json",
        )
        .unwrap();
        assert!(args.json);
        let Command::Resource(Resource::Create { depends_on, set, kind, .. }) = args.command else {
            panic!("something else")
        };
        assert_eq!(kind, "generic-application");
        assert_eq!(depends_on, ["ip", "disk"]);
        let properties = properties(&set).unwrap();
        assert_eq!(properties["command"], "/bin/a=b");
        assert_eq!(properties["directory"], "/");
    }

    #[test]
    fn mistakes_are_refused() {
        for line in [
            "",
            "group",
            "group online",
            "group create",
            "resource create x --group g",
            "resource create x --group g --type t --set novalue",
            "resource create x --group g --type t --set =v",
            "events --after minus",
            "events --severity fatal",
            "events --kind eclipse",
            "events --chain 2:7 --follow",
            "status --timeout 0",
            "frobnicate",
        ] {
            assert_eq!(parse(line).unwrap_err().exit_code(), 2, "accepted '{line}'");
        }
        let twice = [("a".to_owned(), "1".to_owned()), ("a".to_owned(), "2".to_owned())];
        assert!(properties(&twice).unwrap_err().contains("'a' is given twice"));
    }

    #[test]
    fn preferred_owners_are_a_list() {
        let Command::Group(Group::Create { preferred, .. }) =
            parse("group create web --preferred a,b").unwrap().command
        else {
            panic!("something else")
        };
        assert_eq!(preferred, ["a", "b"]);
    }
}
