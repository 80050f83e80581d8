//! A node's own configuration: one TOML file. Everything else lives in the replicated database.
//!
//! Reading a file is the caller's; here text becomes a checked value or an error that names line
//! and reason.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

use crate::membership::{QuorumType, WitnessKind};
use crate::register::Exclusion;
use crate::security::{Cipher, PublicKey, SecurityLevel};
use crate::times::{BrokenInequality, Profile, Times};
use crate::{NetworkId, NodeId, VoteTable};

/// The UDP port of the cluster, as registered for the cluster network driver.
pub const CLUSTER_PORT: u16 = 3343;

/// A checked configuration.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Config {
    pub me: NodeId,
    pub name: String,
    pub key_file: PathBuf,
    pub state_dir: PathBuf,
    pub run_dir: PathBuf,
    pub port: u16,
    /// The event loop of the network driver.
    pub event_loop: EventLoop,
    pub times: Times,
    /// The profile that the times began with.
    pub profile: Profile,
    /// Start with times that need real-time scheduling also where there is none: with a warning.
    pub without_realtime: bool,
    pub networks: Vec<Network>,
    pub nodes: BTreeMap<NodeId, NodeConfig>,
    pub quorum: QuorumType,
    pub witness: Option<Witness>,
    /// Space of the flight recorder's files in the state directory; 0: nothing is recorded.
    pub recorder_bytes: u64,
    pub security: Security,
}

/// How the traffic between the nodes is protected.
#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Security {
    pub level: SecurityLevel,
    pub cipher: Cipher,
    /// For debugging alone: the keys of all sessions are written to this file, and whoever reads
    /// it can read captured traffic.
    pub key_log: Option<PathBuf>,
}

/// A cluster network as this node sees it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Network {
    pub id: NetworkId,
    pub name: String,
    pub interface: String,
    pub role: Role,
    /// Messages take the usable network of the lowest number; heartbeats take all.
    pub priority: u8,
}

/// By what the network driver waits for the kernel.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EventLoop {
    /// io_uring where the kernel has what is needed, else epoll.
    #[default]
    Auto,
    /// io_uring, or no start.
    #[serde(alias = "io-uring")]
    Uring,
    /// epoll and recvmmsg.
    #[serde(alias = "mio")]
    Epoll,
}

/// What a network carries.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Cluster traffic alone.
    Internal,
    /// Clients alone: no heartbeats.
    Client,
    #[default]
    Both,
}

/// A configured node, this one included.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NodeConfig {
    pub id: NodeId,
    pub name: String,
    pub addresses: BTreeMap<NetworkId, IpAddr>,
    /// The machine's static key. None: one that everyone with the cluster key can compute, so the
    /// cluster key alone decides who is a node.
    pub public_key: Option<PublicKey>,
}

/// The witness.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Witness {
    /// `iscsi://host:port/iqn/lun`, a device path, `file:/path`, or `share:/directory`.
    pub place: String,
    pub exclusion: Exclusion,
}

/// A configuration that cannot be used.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("{0}")]
    Syntax(String),
    #[error("{key}: {reason}")]
    Value { key: String, reason: String },
    #[error("times: {0}")]
    Times(#[from] BrokenInequality),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    node: String,
    cluster_key: PathBuf,
    #[serde(default = "default_state_dir")]
    state_dir: PathBuf,
    #[serde(default = "default_run_dir")]
    run_dir: PathBuf,
    #[serde(default = "default_port")]
    port: u16,
    #[serde(default, rename = "loop")]
    event_loop: EventLoop,
    #[serde(default)]
    profile: Profile,
    #[serde(default)]
    times: FileTimes,
    #[serde(default)]
    network: Vec<FileNetwork>,
    #[serde(default)]
    peer: Vec<FilePeer>,
    quorum: QuorumType,
    witness: Option<FileWitness>,
    #[serde(default)]
    recorder: FileRecorder,
    #[serde(default)]
    security: Security,
}

fn default_state_dir() -> PathBuf {
    "/var/lib/wolfpack".into()
}

fn default_run_dir() -> PathBuf {
    "/run/wolfpack".into()
}

const fn default_port() -> u16 {
    CLUSTER_PORT
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct FileTimes {
    heartbeat_ms: Option<u64>,
    misses: Option<u32>,
    lease_ms: Option<u64>,
    margin_ms: Option<u64>,
    register_renew_ms: Option<u64>,
    register_lease_ms: Option<u64>,
    reserve_renew_ms: Option<u64>,
    command_timeout_ms: Option<u64>,
    update_timeout_ms: Option<u64>,
    hang_timeout_ms: Option<u64>,
    probe_ms: Option<u64>,
    suspected_wait_ms: Option<u64>,
    vote_budget_ms: Option<u64>,
    tie_break_ms: Option<u64>,
    challenge_margin_ms: Option<u64>,
    #[serde(default)]
    without_realtime: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileNetwork {
    name: String,
    interface: String,
    #[serde(default)]
    role: Role,
    priority: Option<u8>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FilePeer {
    id: NodeId,
    name: String,
    addresses: BTreeMap<String, String>,
    public_key: Option<PublicKey>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileWitness {
    disk: Option<String>,
    /// A directory on a file share.
    share: Option<String>,
    exclusion: Option<Exclusion>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileRecorder {
    size_mib: u64,
}

impl Default for FileRecorder {
    fn default() -> Self {
        Self { size_mib: 64 }
    }
}

fn bad(key: impl Into<String>, reason: impl Into<String>) -> ConfigError {
    ConfigError::Value { key: key.into(), reason: reason.into() }
}

/// Names of nodes, networks, groups, resources: 1 to 63 of letters, digits, `-`, `_`, `.`.
#[must_use]
pub fn valid_name(name: &str) -> bool {
    (1..=63).contains(&name.len())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
}

impl Config {
    /// Reads and checks a configuration.
    ///
    /// # Errors
    /// Syntax (with line), an unknown key, a value out of range, or a contradiction.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        let file: File =
            toml::from_str(text).map_err(|e| ConfigError::Syntax(e.to_string().trim().into()))?;
        let networks = networks(&file.network)?;
        let nodes = nodes(&file.peer, &networks)?;
        let me = nodes.values().find(|n| n.name == file.node).map(|n| n.id).ok_or_else(|| {
            bad("node", format!("'{}' is not among the [[peer]] names", file.node))
        })?;
        let witness = witness(&file, nodes.len())?;
        let times = times(&file);
        times.check(witness.as_ref().is_some_and(|w| w.exclusion == Exclusion::Reserve))?;
        for (key, path) in [
            ("cluster_key", &file.cluster_key),
            ("state_dir", &file.state_dir),
            ("run_dir", &file.run_dir),
        ]
        .into_iter()
        .chain(file.security.key_log.as_ref().map(|path| ("security.key_log", path)))
        {
            if !path.is_absolute() {
                return Err(bad(key, format!("'{}' is not an absolute path", path.display())));
            }
        }
        Ok(Self {
            me,
            name: file.node,
            key_file: file.cluster_key,
            state_dir: file.state_dir,
            run_dir: file.run_dir,
            port: file.port,
            event_loop: file.event_loop,
            times,
            profile: file.profile,
            without_realtime: file.times.without_realtime,
            networks,
            nodes,
            quorum: file.quorum,
            witness,
            recorder_bytes: recorder(&file.recorder)?,
            security: file.security,
        })
    }

    /// The peers: all nodes but this one.
    pub fn peers(&self) -> impl Iterator<Item = &NodeConfig> {
        self.nodes.values().filter(|n| n.id != self.me)
    }

    /// A node's name, for messages.
    #[must_use]
    pub fn name_of(&self, node: NodeId) -> &str {
        self.nodes.get(&node).map_or("?", |n| n.name.as_str())
    }

    /// The votes of the configured quorum type.
    #[must_use]
    pub fn votes(&self) -> VoteTable {
        let node_vote = u8::from(self.quorum != QuorumType::Disk);
        VoteTable {
            nodes: self.nodes.keys().map(|&n| (n, node_vote)).collect(),
            witness: u8::from(self.quorum.has_witness()),
        }
    }
}

fn networks(file: &[FileNetwork]) -> Result<Vec<Network>, ConfigError> {
    if file.is_empty() || file.len() > 16 {
        return Err(bad("network", "give 1 to 16 [[network]] sections"));
    }
    let mut seen = BTreeSet::new();
    let mut out = Vec::new();
    for (i, n) in file.iter().enumerate() {
        if !valid_name(&n.name) {
            return Err(bad(format!("network[{i}].name"), format!("'{}' is no name", n.name)));
        }
        if !seen.insert(n.name.clone()) {
            return Err(bad(format!("network[{i}].name"), format!("'{}' is there twice", n.name)));
        }
        if n.interface.is_empty() || n.interface.len() > 15 {
            return Err(bad(format!("network[{i}].interface"), "is not an interface name"));
        }
        // 16 networks at most: the number fits.
        let number = u8::try_from(i).unwrap_or(u8::MAX);
        out.push(Network {
            id: NetworkId(number),
            name: n.name.clone(),
            interface: n.interface.clone(),
            role: n.role,
            // As written, first is best; room between for later ones.
            priority: n.priority.unwrap_or_else(|| number.saturating_mul(10)),
        });
    }
    if out.iter().all(|n| n.role == Role::Client) {
        return Err(bad("network", "at least one network must carry cluster traffic"));
    }
    Ok(out)
}

/// The address of a node as it is written.
fn node_address(text: &str) -> Result<IpAddr, String> {
    if let Some((address, scope)) = text.split_once('%') {
        return Err(format!(
            "'{text}': write '{address}' without '%{scope}': a link-local address belongs to the \
             interface of its network, which each node names for itself"
        ));
    }
    let address: IpAddr =
        text.parse().map_err(|_| format!("'{text}' is not an IPv4 or IPv6 address"))?;
    let none = match address {
        IpAddr::V4(v4) => v4.is_unspecified() || v4.is_multicast() || v4.is_broadcast(),
        IpAddr::V6(v6) => v6.is_unspecified() || v6.is_multicast() || v6.to_ipv4_mapped().is_some(),
    };
    if none { Err(format!("{address} is not the address of a node")) } else { Ok(address) }
}

/// Whether the address means something on its own link only (IPv6, RFC 4291 section 2.5.6).
fn link_local(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local())
}

fn nodes(
    file: &[FilePeer],
    networks: &[Network],
) -> Result<BTreeMap<NodeId, NodeConfig>, ConfigError> {
    let mut out: BTreeMap<NodeId, NodeConfig> = BTreeMap::new();
    let mut used: BTreeSet<(Option<NetworkId>, IpAddr)> = BTreeSet::new();
    let mut families: BTreeMap<NetworkId, (bool, String)> = BTreeMap::new();
    for p in file {
        let key = format!("peer '{}'", p.name);
        if !valid_name(&p.name) {
            return Err(bad(key, "is no name: use letters, digits, '-', '_', '.'"));
        }
        if out.values().any(|n| n.name == p.name) {
            return Err(bad(key, "this name is there twice"));
        }
        if let Some(other) =
            out.values().find(|n| n.public_key.is_some() && n.public_key == p.public_key)
        {
            return Err(bad(key, format!("has the public_key of '{}'", other.name)));
        }
        let mut addresses = BTreeMap::new();
        for (network, text) in &p.addresses {
            let known = networks.iter().find(|n| n.name == *network);
            let network =
                known.ok_or_else(|| bad(&key, format!("'{network}' is not a [[network]]")))?;
            let address = node_address(text).map_err(|reason| bad(&key, reason))?;
            // A link-local address is one of its network alone.
            let scope = link_local(address).then_some(network.id);
            if !used.insert((scope, address)) {
                return Err(bad(&key, format!("address {address} is there twice")));
            }
            let (v6, first) =
                families.entry(network.id).or_insert_with(|| (address.is_ipv6(), p.name.clone()));
            if *v6 != address.is_ipv6() {
                let (here, there) = if *v6 { ("IPv4", "IPv6") } else { ("IPv6", "IPv4") };
                return Err(bad(
                    &key,
                    format!(
                        "{address} on network '{}' is {here}, that of '{first}' is {there}: give \
                         all nodes addresses of one kind, or make a second network of them",
                        network.name
                    ),
                ));
            }
            addresses.insert(network.id, address);
        }
        for n in networks.iter().filter(|n| n.role != Role::Client) {
            if !addresses.contains_key(&n.id) {
                return Err(bad(&key, format!("has no address on network '{}'", n.name)));
            }
        }
        let node =
            NodeConfig { id: p.id, name: p.name.clone(), addresses, public_key: p.public_key };
        if out.insert(p.id, node).is_some() {
            return Err(bad(key, format!("id {} is there twice", p.id)));
        }
    }
    if out.is_empty() {
        return Err(bad("peer", "give one [[peer]] section for every node, this one included"));
    }
    Ok(out)
}

/// Bytes that the recorder's files may have.
fn recorder(file: &FileRecorder) -> Result<u64, ConfigError> {
    match file.size_mib {
        mib @ (0 | 8..=65_536) => Ok(mib << 20),
        mib => Err(bad(
            "recorder.size_mib",
            format!("{mib} cannot be: 0 (no recorder), or 8 to 65536 (64 if not given)"),
        )),
    }
}

/// What an administrator of two nodes can choose.
const CHOICES_OF_TWO: &str = "two nodes without a witness cannot survive the loss of either: use \
    'node-and-disk' or 'disk' with [witness] disk = ..., 'node-and-share' with [witness] share = \
    \"/directory/on/a/file/share\", or a third node";

fn witness(file: &File, nodes: usize) -> Result<Option<Witness>, ConfigError> {
    let kind = file.quorum;
    if kind == QuorumType::Local && nodes != 1 {
        let reason = format!(
            "'local' is for one node by itself, and there are {nodes} [[peer]] sections; with more \
             nodes use 'node-and-disk', 'node-and-share', 'disk' or (from three on) 'majority'"
        );
        return Err(bad("quorum", reason));
    }
    match (&file.witness, kind.witness_kind()) {
        (Some(_), None) => {
            Err(bad("witness", format!("quorum type '{kind}' has no witness; remove [witness]")))
        }
        (None, None) if nodes == 2 => Err(bad("quorum", CHOICES_OF_TWO)),
        (None, None) => Ok(None),
        (None, Some(WitnessKind::Disk)) => {
            Err(bad("witness", format!("quorum type '{kind}' needs a [witness] with a disk")))
        }
        (None, Some(WitnessKind::Share)) => Err(bad(
            "witness",
            format!("quorum type '{kind}' needs a [witness] with share = \"/directory\""),
        )),
        (Some(w), Some(wanted)) => placed(w, wanted).map(Some),
    }
}

fn placed(w: &FileWitness, wanted: WitnessKind) -> Result<Witness, ConfigError> {
    let place = match (wanted, &w.disk, &w.share) {
        (WitnessKind::Disk, Some(disk), None) if disk.starts_with("share:") => {
            let reason = "a share is the witness of quorum type 'node-and-share' alone";
            return Err(bad("witness.disk", reason));
        }
        (WitnessKind::Disk, Some(disk), None) if disk.is_empty() => {
            return Err(bad("witness.disk", "is empty"));
        }
        (WitnessKind::Disk, Some(disk), None) => disk.clone(),
        (WitnessKind::Share, None, Some(share)) if share.starts_with('/') => {
            format!("share:{share}")
        }
        (WitnessKind::Share, None, Some(share)) => {
            return Err(bad("witness.share", format!("'{share}' is not an absolute path")));
        }
        (WitnessKind::Disk, ..) => {
            return Err(bad("witness", "this quorum type has a disk: disk = ... and no share"));
        }
        (WitnessKind::Share, ..) => {
            let reason = "this quorum type has a share: share = \"/directory\" and no disk";
            return Err(bad("witness", reason));
        }
    };
    let exclusion = w.exclusion.unwrap_or_default();
    let files = place.starts_with("share:") || place.starts_with("file:");
    if files && exclusion != Exclusion::None {
        return Err(bad("witness.exclusion", "files know no reservations: leave it out"));
    }
    Ok(Witness { place, exclusion })
}

fn times(file: &File) -> Times {
    let mut t = Times::of(file.profile);
    let given = &file.times;
    let set = |target: &mut Duration, value: Option<u64>| {
        if let Some(v) = value {
            *target = Duration::from_millis(v);
        }
    };
    set(&mut t.heartbeat, given.heartbeat_ms);
    set(&mut t.lease, given.lease_ms);
    set(&mut t.margin, given.margin_ms);
    set(&mut t.register_renew, given.register_renew_ms);
    set(&mut t.register_lease, given.register_lease_ms);
    set(&mut t.reserve_renew, given.reserve_renew_ms);
    set(&mut t.command_timeout, given.command_timeout_ms);
    set(&mut t.update_timeout, given.update_timeout_ms);
    set(&mut t.hang_timeout, given.hang_timeout_ms);
    set(&mut t.probe, given.probe_ms);
    set(&mut t.suspected_wait, given.suspected_wait_ms);
    set(&mut t.vote_budget, given.vote_budget_ms);
    set(&mut t.tie_break, given.tie_break_ms);
    set(&mut t.challenge_margin, given.challenge_margin_ms);
    t.misses = given.misses.unwrap_or(t.misses);
    t
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"
        node = "a"
        cluster_key = "/etc/wolfpack/cluster.key"
        quorum = "node-and-disk"
        [[network]]
        name = "private"
        interface = "eth1"
        [[peer]]
        id = 1
        name = "a"
        addresses = { private = "10.0.0.1" }
        [[peer]]
        id = 2
        name = "b"
        addresses = { private = "10.0.0.2" }
        [witness]
        disk = "iscsi://10.0.0.9:3260/iqn.2026-11.test:q/1"
        exclusion = "reserve"
    "#;

    fn refused(from: &str, to: &str) -> String {
        assert!(GOOD.contains(from));
        Config::parse(&GOOD.replace(from, to)).unwrap_err().to_string()
    }

    #[test]
    fn a_good_file_is_read() {
        let c = Config::parse(GOOD).unwrap();
        assert_eq!(c.me.get(), 1);
        assert_eq!(c.votes().total(), 3);
        assert_eq!(c.peers().count(), 1);
    }

    #[test]
    fn syntax_errors_name_the_line() {
        let err = refused("id = 2", "id = = 2");
        assert!(err.contains("line 13"), "{err}");
        let err = refused("quorum =", "quorun =");
        assert!(err.contains("quorun"), "{err}");
    }

    #[test]
    fn contradictions_are_refused_in_words() {
        assert!(refused("10.0.0.2", "10.0.0.1").contains("address 10.0.0.1 is there twice"));
        assert!(refused("id = 2", "id = 1").contains("id 1 is there twice"));
        assert!(refused("id = 2", "id = 65").contains("65"));
        assert!(refused("name = \"b\"", "name = \"a\"").contains("twice"));
        assert!(refused("node = \"a\"", "node = \"c\"").contains("'c' is not among"));
        assert!(refused("\"node-and-disk\"", "\"majority\"").contains("remove [witness]"));
        assert!(refused("private = \"10.0.0.2\"", "lan = \"10.0.0.2\"").contains("'lan'"));
        let short = refused("[witness]", "[times]\nlease_ms = 700\n[witness]");
        assert!(short.contains("lease L"), "{short}");
    }

    #[test]
    fn the_security_section_is_read() {
        let c = Config::parse(GOOD).unwrap();
        assert_eq!(c.security, Security::default());
        assert_eq!(c.security.level, SecurityLevel::Encrypt);
        let key = "0f".repeat(32);
        let text = GOOD.replace("id = 2", &format!("id = 2\npublic_key = \"{key}\"")).replace(
            "[witness]",
            "[security]\nlevel = \"sign\"\ncipher = \"chacha20-poly1305\"\n[witness]",
        );
        let c = Config::parse(&text).unwrap();
        assert_eq!(c.security.level, SecurityLevel::Sign);
        assert_eq!(c.security.cipher, Cipher::ChaCha20Poly1305);
        let keys: Vec<_> = c.nodes.values().map(|n| n.public_key).collect();
        assert_eq!(keys, [None, key.parse().ok()]);
        let both = text.replace("id = 1", &format!("id = 1\npublic_key = \"{key}\""));
        let err = Config::parse(&both).unwrap_err().to_string();
        assert!(err.contains("has the public_key of 'a'"), "{err}");
        let short = text.replace(&key, "0f0f");
        assert!(Config::parse(&short).unwrap_err().to_string().contains("64 hexadecimal"));
        assert!(refused("[witness]", "[security]\nlevel = \"none\"\n[witness]").contains("none"));
        let relative = refused("[witness]", "[security]\nkey_log = \"keys\"\n[witness]");
        assert!(relative.contains("security.key_log"), "{relative}");
    }

    #[test]
    fn addresses_of_both_kinds_are_taken_and_not_mixed_on_one_network() {
        let v6 = GOOD.replace("10.0.0.1\"", "fd00::1\"").replace("10.0.0.2\"", "fd00::2\"");
        let config = Config::parse(&v6).unwrap();
        assert!(config.nodes.values().all(|n| n.addresses.values().all(IpAddr::is_ipv6)));
        let local = v6.replace("fd00::", "fe80::");
        Config::parse(&local).unwrap();
        let scoped = Config::parse(&local.replace("fe80::2", "fe80::2%eth1")).unwrap_err();
        assert!(scoped.to_string().contains("without '%eth1'"), "{scoped}");
        assert!(refused("10.0.0.2\"", "fd00::2\"").contains("addresses of one kind"));
        assert!(refused("10.0.0.2\"", "ff02::1\"").contains("not the address of a node"));
        assert!(refused("10.0.0.2\"", "::ffff:10.0.0.2\"").contains("not the address of a node"));
        assert!(refused("10.0.0.2\"", "ten\"").contains("'ten' is not an IPv4 or IPv6"));
    }

    #[test]
    fn the_event_loop_and_the_priority_of_a_network_can_be_chosen() {
        let chosen = GOOD
            .replace("quorum =", "loop = \"epoll\"\nquorum =")
            .replace("interface =", "priority = 7\ninterface =");
        let config = Config::parse(&chosen).unwrap();
        assert_eq!((config.event_loop, config.networks[0].priority), (EventLoop::Epoll, 7));
        let config = Config::parse(GOOD).unwrap();
        assert_eq!((config.event_loop, config.networks[0].priority), (EventLoop::Auto, 0));
    }

    #[test]
    fn the_recorder_has_bounds() {
        assert_eq!(Config::parse(GOOD).unwrap().recorder_bytes, 64 << 20);
        let with = |mib: &str| {
            let text = format!("[recorder]\nsize_mib = {mib}\n[witness]");
            Config::parse(&GOOD.replace("[witness]", &text)).map(|c| c.recorder_bytes)
        };
        assert_eq!(with("0"), Ok(0));
        assert_eq!(with("8"), Ok(8 << 20));
        for bad in ["7", "65537", "-1", "\"much\""] {
            assert!(with(bad).unwrap_err().to_string().contains("size_mib"), "{bad}");
        }
    }

    #[test]
    fn two_nodes_without_witness_are_refused_with_the_choices() {
        let text = GOOD.replace("\"node-and-disk\"", "\"majority\"");
        let text = text.split("[witness]").next().unwrap();
        let err = Config::parse(text).unwrap_err().to_string();
        for choice in ["'node-and-disk'", "'disk'", "'node-and-share'", "third node"] {
            assert!(err.contains(choice), "{err}");
        }
    }

    #[test]
    fn each_quorum_type_has_the_witness_that_it_needs_and_no_other() {
        let disk = "disk = \"iscsi://10.0.0.9:3260/iqn.2026-11.test:q/1\"\n        exclusion = \"reserve\"";
        let with = |kind: &str, witness: &str| {
            let text = GOOD.replace("node-and-disk", kind).replace(disk, witness);
            Config::parse(&text).map_err(|e| e.to_string())
        };
        let share = "share = \"/mnt/witness\"";
        let c = with("node-and-share", share).unwrap();
        let witness = c.witness.clone().unwrap();
        assert_eq!(witness.place, "share:/mnt/witness");
        assert_eq!((witness.exclusion, c.votes().total()), (Exclusion::None, 3));
        assert_eq!(with("disk", disk).unwrap().votes().total(), 1);
        assert!(with("node-and-disk", "disk = \"file:/w\"").is_ok());
        for (kind, witness, word) in [
            ("node-and-share", disk, "no disk"),
            ("node-and-share", "share = \"mnt\"", "absolute"),
            ("node-and-share", &format!("{share}\nexclusion = \"reserve\""), "no reservations"),
            ("node-and-disk", "disk = \"file:/w\"\nexclusion = \"reserve\"", "no reservations"),
            ("node-and-disk", share, "no share"),
            ("node-and-disk", "disk = \"share:/mnt\"", "'node-and-share' alone"),
            ("node-and-disk", "disk = \"\"", "empty"),
            ("node-and-disk", "", "disk = ..."),
            ("majority", disk, "remove [witness]"),
            ("local", disk, "one node by itself"),
            ("most", disk, "unknown variant"),
        ] {
            let why = with(kind, witness).unwrap_err();
            assert!(why.contains(word), "{kind}: {why}");
        }
        let no_witness = GOOD.split("[witness]").next().unwrap();
        let share_missing = Config::parse(&no_witness.replace("node-and-disk", "node-and-share"));
        assert!(share_missing.unwrap_err().to_string().contains("share = "));
        let (one, second) = no_witness.rsplit_once("[[peer]]").unwrap();
        assert_eq!(Config::parse(&one.replace("node-and-disk", "local")).unwrap().witness, None);
        let third = second.replace("id = 2", "id = 3").replace("\"b\"", "\"c\"");
        let three = format!("{no_witness}[[peer]]{}", third.replace("10.0.0.2", "10.0.0.3"));
        let c = Config::parse(&three.replace("node-and-disk", "majority")).unwrap();
        assert_eq!((c.votes().total(), c.votes().witness), (3, 0));
    }
}
