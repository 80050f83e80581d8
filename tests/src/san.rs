//! The lab's disk array: a tgtd in a namespace of its own on the storage wire, with a quorum LUN
//! and a data LUN, each its own target, on sparse files in memory.
//!
//! A dead machine's session stays, as it does with an array that sends no keep-alive: exactly the
//! case that challenge and defence are for.

use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::clock::wait_for;
use crate::netns::{Netns, output};
use crate::network::{Switch, Wire};
use crate::process;

/// The array's host number on the storage wire.
const HOST: u8 = 9;
const PORT: u16 = 3260;
/// Enough for the register of a cluster of sixteen.
pub const QUORUM_BYTES: u64 = 256 << 20;
/// Enough for the demo's records.
pub const DATA_BYTES: u64 = 64 << 20;

/// A disk of the array.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Lun {
    Quorum,
    Data,
    /// Another one for a witness.
    Spare,
}

impl Lun {
    const fn name(self) -> &'static str {
        match self {
            Self::Quorum => "quorum",
            Self::Data => "data",
            Self::Spare => "spare",
        }
    }

    const fn target(self) -> u32 {
        match self {
            Self::Quorum => 1,
            Self::Data => 2,
            Self::Spare => 3,
        }
    }
}

/// The array.
#[derive(Debug)]
pub struct San {
    tgtd: Child,
    socket: PathBuf,
    images: PathBuf,
}

impl San {
    /// Starts it, with both disks made of zeroes.
    ///
    /// # Errors
    /// tgtd does not start, or refuses.
    pub fn start(prefix: &str, switch: &Switch, dir: &Path, images: &Path) -> Result<Self> {
        let ns = Netns::create(&format!("{prefix}-san"))?;
        switch.plug(&ns, "san", Wire::Storage, HOST)?;
        std::fs::create_dir_all(images)?;
        let socket = dir.join("tgt");
        let portal = format!("portal={}:{PORT}", Wire::Storage.address(HOST));
        let mut command = ns.command("tgtd")?;
        command
            .env("TGT_IPC_SOCKET", &socket)
            .args(["-f", "-C", "0", "-t", "1", "--iscsi", &portal]);
        process::log_to(&mut command, &dir.join("tgtd.log"))?;
        let tgtd = command.spawn().context("starting tgtd")?;
        let san = Self { tgtd, socket, images: images.into() };
        wait_for("tgtd", Duration::from_secs(20), || {
            let shown = san.tgtadm(&["--mode", "portal", "--op", "show"]);
            shown.map_err(|e| e.to_string()).and_then(|portals| {
                let there = portals.contains(&PORT.to_string());
                if there { Ok(()) } else { Err(format!("its portals are '{portals}'")) }
            })
        })?;
        let luns =
            [(Lun::Quorum, QUORUM_BYTES), (Lun::Data, DATA_BYTES), (Lun::Spare, QUORUM_BYTES)];
        for (lun, bytes) in luns {
            san.make_image(lun, bytes)?;
            san.export(lun)?;
        }
        Ok(san)
    }

    /// The backing file of a disk.
    #[must_use]
    pub fn image(&self, lun: Lun) -> PathBuf {
        self.images.join(lun.name())
    }

    /// How nodes name a disk.
    #[must_use]
    pub fn url(lun: Lun) -> String {
        format!("iscsi://{}:{PORT}/{}/1", Wire::Storage.address(HOST), iqn(lun))
    }

    fn make_image(&self, lun: Lun, bytes: u64) -> Result<()> {
        let file = std::fs::File::create(self.image(lun))?;
        Ok(file.set_len(bytes)?)
    }

    /// Replaces a disk, while nobody uses it, by an empty one of another size.
    ///
    /// # Errors
    /// What tgtd says.
    pub fn replace(&self, lun: Lun, bytes: u64) -> Result<()> {
        let tid = lun.target().to_string();
        self.tgtadm(&["--mode", "target", "--op", "delete", "--force", "--tid", &tid])?;
        self.make_image(lun, bytes)?;
        self.export(lun)
    }

    /// Takes a disk away, as if it had failed.
    ///
    /// # Errors
    /// What tgtd says.
    pub fn remove(&self, lun: Lun) -> Result<()> {
        let tid = lun.target().to_string();
        self.tgtadm(&["--mode", "target", "--op", "delete", "--force", "--tid", &tid])?;
        Ok(())
    }

    fn export(&self, lun: Lun) -> Result<()> {
        let (tid, iqn) = (lun.target().to_string(), iqn(lun));
        let image = self.image(lun);
        let image = image.to_str().context("the image's path is not UTF-8")?;
        self.tgtadm(&["--mode", "target", "--op", "new", "--tid", &tid, "--targetname", &iqn])?;
        let unit =
            ["--mode", "logicalunit", "--op", "new", "--tid", &tid, "--lun", "1", "-b", image];
        self.tgtadm(&unit)?;
        self.tgtadm(&["--mode", "target", "--op", "bind", "--tid", &tid, "-I", "ALL"])?;
        Ok(())
    }

    /// Asks tgtd something.
    ///
    /// # Errors
    /// What it says.
    pub fn tgtadm(&self, args: &[&str]) -> Result<String> {
        let socket = format!("TGT_IPC_SOCKET={}", self.socket.display());
        let mut all = vec![socket.as_str(), "tgtadm", "-C", "0", "--lld", "iscsi"];
        all.extend_from_slice(args);
        output("env", &all, None)
    }
}

impl Drop for San {
    fn drop(&mut self) {
        // tgtd ignores SIGTERM. It may be dead already, which is as good.
        let _ = self.tgtd.kill();
        let _ = self.tgtd.wait();
    }
}

fn iqn(lun: Lun) -> String {
    format!("iqn.2026-11.org.wolfpack.lab:{}", lun.name())
}
