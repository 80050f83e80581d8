//! From files to checked values: configuration, key, store.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use wolfpack_netdrv::{ClusterKey, DriverConfig, DriverNetwork, NodeKey, Security};
use wolfpack_types::config::{Config, Role};
use wolfpack_types::{NodeInc, Rules};

use crate::error::StartError;

/// No configuration is longer.
const CONFIG_BYTES_MAX: u64 = 1 << 20;

/// Reads and checks the configuration.
pub(crate) fn config(path: &Path) -> Result<Config, StartError> {
    let read = |source| StartError::Read { path: path.to_owned(), source };
    let file = File::open(path).map_err(read)?;
    let mut text = String::new();
    file.take(CONFIG_BYTES_MAX + 1).read_to_string(&mut text).map_err(read)?;
    if text.len() as u64 > CONFIG_BYTES_MAX {
        return Err(StartError::TooLarge { path: path.to_owned(), max: CONFIG_BYTES_MAX });
    }
    Config::parse(&text).map_err(|source| StartError::Config { path: path.to_owned(), source })
}

/// `--check`: everything that can be said without starting.
pub(crate) fn check(path: &Path) -> Result<u8, StartError> {
    let config = config(path)?;
    let key = ClusterKey::load(&config.key_file)?;
    tracing::info!(
        "{} is good: node '{}' of cluster {}, {} nodes, quorum type {}",
        path.display(),
        config.name,
        key.cluster_id(),
        config.nodes.len(),
        config.quorum
    );
    tracing::info!("{}", config.times.budget());
    Ok(0)
}

/// What the driver must know, from the configuration.
pub(crate) fn driver(
    config: &Config,
    key: ClusterKey,
    node_key: Option<NodeKey>,
    me: NodeInc,
) -> DriverConfig {
    let own = config.nodes.get(&config.me);
    let networks = config
        .networks
        .iter()
        .filter(|n| n.role != Role::Client)
        .filter_map(|n| {
            Some(DriverNetwork {
                id: n.id,
                name: n.name.clone(),
                interface: n.interface.clone(),
                address: *own?.addresses.get(&n.id)?,
                peers: config
                    .peers()
                    .filter_map(|p| Some((p.id, *p.addresses.get(&n.id)?)))
                    .collect(),
                priority: n.priority,
            })
        })
        .collect();
    DriverConfig {
        me,
        key,
        times: config.times,
        port: config.port,
        networks,
        // Refused where it is not allowed, and then only said.
        realtime: true,
        event_loop: config.event_loop,
        rules: Rules::ALL,
        security: Security {
            level: config.security.level,
            cipher: config.security.cipher,
            node_key,
            peer_keys: config.peers().filter_map(|p| Some((p.id, p.public_key?))).collect(),
            key_log: config.security.key_log.clone(),
        },
    }
}

/// This machine's static key, made at the first start. It is used when the configuration names it,
/// and must be the one that it names: or the other nodes would refuse this one without a word here.
pub(crate) fn node_key(config: &Config) -> Result<Option<NodeKey>, StartError> {
    let path = config.state_dir.join("node.key");
    let key = NodeKey::load_or_create(&path)?;
    match config.nodes.get(&config.me).and_then(|own| own.public_key) {
        None => Ok(None),
        Some(named) if named == key.public() => Ok(Some(key)),
        Some(named) => Err(StartError::OtherNodeKey { path, named, ours: key.public() }),
    }
}

#[cfg(test)]
mod tests {
    use wolfpack_types::{Incarnation, NetworkId};

    use super::*;

    const TEXT: &str = r#"
        node = "a"
        cluster_key = "/k"
        quorum = "node-and-disk"
        [[network]]
        name = "private"
        interface = "eth1"
        [[network]]
        name = "lan"
        interface = "eth0"
        role = "client"
        [[peer]]
        id = 1
        name = "a"
        addresses = { private = "10.0.0.1" }
        [[peer]]
        id = 2
        name = "b"
        addresses = { private = "10.0.0.2", lan = "10.1.0.2" }
        [witness]
        disk = "iscsi://10.0.0.9:3260/iqn.2026-11.test:q/1"
    "#;

    #[test]
    fn the_driver_gets_the_networks_that_carry_cluster_traffic() {
        let config = Config::parse(TEXT).unwrap();
        let key = ClusterKey::from_bytes([1; 32]);
        let me = NodeInc::new(config.me, Incarnation(4));
        let driver = driver(&config, key, None, me);
        assert_eq!(driver.networks.len(), 1);
        assert_eq!(driver.networks[0].id, NetworkId(0));
        assert_eq!(driver.networks[0].address.to_string(), "10.0.0.1");
        assert_eq!(driver.networks[0].peers.len(), 1);
    }

    #[test]
    fn a_bad_file_is_named_with_line_and_reason() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("node.toml");
        let missing = config(&path).unwrap_err();
        assert_eq!(missing.exit_code(), 78);
        assert!(missing.in_full().contains("node.toml"), "{}", missing.in_full());

        std::fs::write(&path, TEXT.replace("id = 2", "id = = 2")).unwrap();
        let syntax = config(&path).unwrap_err();
        let text = syntax.in_full();
        assert!(text.contains("node.toml") && text.contains("line 17"), "{text}");
        assert_eq!(syntax.exit_code(), 78);

        std::fs::write(&path, [0xff, 0xfe]).unwrap();
        assert!(config(&path).unwrap_err().in_full().contains("UTF-8"));
        std::fs::write(&path, vec![b'#'; 2 << 20]).unwrap();
        assert!(config(&path).unwrap_err().to_string().contains("larger"));
    }

    #[test]
    fn a_key_that_others_can_read_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let key = dir.path().join("key");
        std::fs::write(&key, "0".repeat(64) + "\n").unwrap();
        std::fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(0o644))
            .unwrap();
        let path = dir.path().join("node.toml");
        std::fs::write(&path, TEXT.replace("/k", key.to_str().unwrap())).unwrap();
        let err = check(&path).unwrap_err();
        assert_eq!(err.exit_code(), 78);
        assert!(err.in_full().contains("chmod 600"), "{}", err.in_full());
        std::fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(0o600))
            .unwrap();
        assert_eq!(check(&path).unwrap(), 0);
    }
}
