//! What a fresh Debian 12 lacks: as root it is installed, and said so; otherwise the exact line to
//! run is printed.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};
use wolfpack_lab::process::with_signals;

use crate::step;

/// Debian packages, and what each is for.
const PACKAGES: [(&str, &str); 5] = [
    ("iproute2", "network namespaces of the labs (ip)"),
    ("nftables", "the kernel's lease on addresses, and faults of networks (nft)"),
    ("tgt", "the labs' disk array (tgtd)"),
    ("libiscsi-dev", "userspace iSCSI, to build with"),
    ("libiscsi7", "userspace iSCSI, to run with"),
];

/// What the network driver is measured beside, and what makes a machine busy.
const PEERS: [(&str, &str); 5] = [
    ("corosync", "the peer of the network driver (benchmark)"),
    ("libcpg-dev", "its client library, to build a client with (benchmark)"),
    ("gcc", "to build that client (benchmark)"),
    ("keepalived", "the peer of a failover of an address (benchmark)"),
    ("stress-ng", "a busy machine (benchmark)"),
];

/// What the core is measured beside.
const CORE_PEERS: [(&str, &str); 5] = [
    ("etcd-server", "a peer of global updates (benchmark)"),
    ("corosync", "what Pacemaker speaks through (benchmark)"),
    ("pacemaker", "a peer of global updates (benchmark)"),
    ("pacemaker-cli-utils", "its commands (benchmark)"),
    ("util-linux", "namespaces of its nodes (benchmark)"),
];

/// Installs what the benchmark of the network driver lacks.
///
/// # Errors
/// As [`run`].
pub(crate) fn peers() -> Result<()> {
    install_quietly(&PEERS)
}

/// Installs what the benchmark of the core lacks.
///
/// # Errors
/// As [`run`].
pub(crate) fn core_peers() -> Result<()> {
    install_quietly(&CORE_PEERS)
}

/// Installs, and starts none of the services: a policy forbids it meanwhile.
fn install_quietly(packages: &[(&str, &str)]) -> Result<()> {
    let policy = Path::new("/usr/sbin/policy-rc.d");
    let ours = !policy.exists() && packages.iter().any(|(name, _)| !installed(name));
    if ours && nix::unistd::geteuid().is_root() {
        std::fs::write(policy, "#!/bin/sh\nexit 101\n")?;
        std::fs::set_permissions(policy, std::fs::Permissions::from_mode(0o755))?;
    }
    let done = install(packages);
    if ours && policy.exists() {
        std::fs::remove_file(policy)?;
    }
    done
}

/// Installs what is missing.
///
/// # Errors
/// Not root (with the line to run), no Debian, or apt-get fails.
pub(crate) fn run() -> Result<()> {
    install(&PACKAGES)
}

fn install(packages: &[(&str, &str)]) -> Result<()> {
    if !step::works("dpkg-query", &["--version"]) {
        eprintln!(
            "    this is no Debian: make sure that `ip`, `nft`, `tgtd` and the development files \
             of libiscsi are installed"
        );
        return Ok(());
    }
    let missing: Vec<_> = packages.iter().filter(|(name, _)| !installed(name)).collect();
    if missing.is_empty() {
        eprintln!("    all Debian packages that are needed are installed");
        return Ok(());
    }
    let names: Vec<&str> = missing.iter().map(|(name, _)| *name).collect();
    if !nix::unistd::geteuid().is_root() {
        bail!(
            "packages are missing; run this, then try again:\n\n    \
             sudo apt-get install --no-install-recommends {}\n",
            names.join(" ")
        );
    }
    for (name, purpose) in missing {
        eprintln!("    installing {name}: {purpose}");
    }
    let fresh = apt(&[&["install", "-y", "--no-install-recommends"], names.as_slice()].concat());
    if fresh.is_ok() {
        return Ok(());
    }
    eprintln!("    the package lists may be old: fetching them");
    apt(&["update"])?;
    apt(&[&["install", "-y", "--no-install-recommends"], names.as_slice()].concat())
}

fn apt(args: &[&str]) -> Result<()> {
    let mut command = Command::new("apt-get");
    command.args(["-q", "-o", "DPkg::Lock::Timeout=120"]).args(args);
    let status = with_signals(command.env("DEBIAN_FRONTEND", "noninteractive")).status();
    let status = status.context("starting apt-get")?;
    if !status.success() {
        bail!("`apt-get {}` failed: {status}", args.join(" "));
    }
    Ok(())
}

fn installed(package: &str) -> bool {
    let mut command = Command::new("dpkg-query");
    command.args(["-W", "-f", "${db:Status-Status}", package]);
    command.output().is_ok_and(|out| out.status.success() && out.stdout == b"installed")
}
