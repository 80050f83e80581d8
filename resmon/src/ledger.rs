//! The ledger: what of each resource may run on this node, one small file each, written *before*
//! the resource is started and removed after it has ended.
//!
//! It outlives monitors and the guard: a restarted monitor finds what it can attach to, a restarted
//! guard what it has to end. It lives in the run directory, which a reboot empties; where it does
//! not, the boot id tells. Files are replaced by rename, so a reader sees one whole entry or none;
//! nothing is synced, because only processes die here, not the machine.

use std::fs;
use std::io::{self, ErrorKind};
use std::net::Ipv4Addr;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use wolfpack_types::{Guid, NodeInc, ResourceId};

use crate::cgroup::Cgroup;
use crate::tree::{self, ProcessId};

/// Version of the entries.
const VERSION: u16 = 1;

/// No entry is longer.
const ENTRY_BYTES_MAX: u64 = 16 * 1024;

/// What may run of one resource.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Entry {
    version: u16,
    /// The boot in which it was started: of another boot nothing runs any more.
    boot: String,
    pub(crate) life: NodeInc,
    /// The process that wrote it and holds the resource.
    pub(crate) monitor: ProcessId,
    pub(crate) resource: ResourceId,
    pub(crate) name: String,
    pub(crate) what: Held,
}

/// What a resource holds.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Held {
    /// Processes: the first one (unknown while it is being started), all in the cgroup, all with
    /// the resource's mark in their environment.
    Application {
        process: Option<ProcessId>,
        cgroup: Option<Cgroup>,
    },
    Address {
        ip: Ipv4Addr,
        prefix: u8,
        interface: String,
    },
    /// A session in the monitor's own process: ends with it.
    Disk {
        disk: String,
    },
}

impl Entry {
    /// An entry of this boot and this process.
    #[must_use]
    pub(crate) fn new(life: NodeInc, resource: ResourceId, name: &str, what: Held) -> Self {
        let monitor = tree::own_id();
        Self { version: VERSION, boot: boot_id(), life, monitor, resource, name: name.into(), what }
    }

    /// Whether it was made since the machine started.
    #[must_use]
    pub(crate) fn of_this_boot(&self) -> bool {
        self.boot == boot_id()
    }
}

/// The mark in the environment of every process of a resource.
#[must_use]
pub(crate) fn mark(resource: ResourceId) -> String {
    format!("{MARK_NAME}={resource}")
}

/// Name of the variable that marks processes of a resource.
pub(crate) const MARK_NAME: &str = "WOLFPACK_RESOURCE_ID";

fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().into()
}

/// The ledger cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    #[error("cannot {act} {}", path.display())]
    Io { act: &'static str, path: PathBuf, source: io::Error },
    #[error(
        "{} cannot be understood ({why}); it names something that may run: end that by hand, then \
         remove the file", path.display()
    )]
    Unreadable { path: PathBuf, why: String },
}

/// The directory of entries.
#[derive(Clone, Debug)]
pub(crate) struct Ledger {
    dir: PathBuf,
}

impl Ledger {
    /// Opens the ledger of a run directory.
    ///
    /// # Errors
    /// The directory cannot be made.
    pub(crate) fn open(run_dir: &Path) -> Result<Self, LedgerError> {
        let dir = run_dir.join("ledger");
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir);
        made.map_err(|source| LedgerError::Io { act: "make", path: dir.clone(), source })?;
        Ok(Self { dir })
    }

    fn path(&self, resource: ResourceId) -> PathBuf {
        self.dir.join(format!("{resource}.json"))
    }

    /// Writes an entry, replacing an older one.
    ///
    /// # Errors
    /// It cannot be written: then the resource must not be started.
    pub(crate) fn put(&self, entry: &Entry) -> Result<(), LedgerError> {
        let path = self.path(entry.resource);
        let fail = |act, source| LedgerError::Io { act, path: path.clone(), source };
        let bytes = serde_json::to_vec_pretty(entry)
            .map_err(|e| LedgerError::Unreadable { path: path.clone(), why: e.to_string() })?;
        let temporary = self.dir.join(format!(".{}.{}", entry.resource, std::process::id()));
        fs::write(&temporary, bytes).map_err(|e| fail("write", e))?;
        fs::rename(&temporary, &path).map_err(|e| fail("replace", e))
    }

    /// Removes an entry: nothing of the resource runs any more.
    ///
    /// # Errors
    /// It cannot be removed.
    pub(crate) fn remove(&self, resource: ResourceId) -> Result<(), LedgerError> {
        let path = self.path(resource);
        match fs::remove_file(&path) {
            Err(source) if source.kind() != ErrorKind::NotFound => {
                Err(LedgerError::Io { act: "remove", path, source })
            }
            _ => Ok(()),
        }
    }

    /// The entry of a resource.
    ///
    /// # Errors
    /// It cannot be read or understood.
    pub(crate) fn get(&self, resource: ResourceId) -> Result<Option<Entry>, LedgerError> {
        read(&self.path(resource))
    }

    /// Whether it holds nothing, not even an entry that cannot be read. A ledger that cannot be
    /// looked at does not count as empty.
    #[must_use]
    pub(crate) fn is_empty(&self) -> bool {
        fs::read_dir(&self.dir).is_ok_and(|mut dir| {
            dir.all(|file| file.is_ok_and(|f| f.file_name().as_encoded_bytes().starts_with(b".")))
        })
    }

    /// All entries, and what is wrong with those that cannot be read.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub(crate) fn all(&self) -> Result<(Vec<Entry>, Vec<LedgerError>), LedgerError> {
        let fail = |source| LedgerError::Io { act: "read", path: self.dir.clone(), source };
        let (mut entries, mut errors) = (Vec::new(), Vec::new());
        for file in fs::read_dir(&self.dir).map_err(fail)? {
            let path = file.map_err(fail)?.path();
            let named = |p: &Path| Guid::parse(p.file_stem()?.to_str()?);
            // Temporary files of a writer that died are no entries.
            if path.extension().is_none_or(|e| e != "json") || named(&path).is_none() {
                continue;
            }
            match read(&path) {
                Ok(entry) => entries.extend(entry),
                Err(e) => errors.push(e),
            }
        }
        Ok((entries, errors))
    }
}

fn read(path: &Path) -> Result<Option<Entry>, LedgerError> {
    use io::Read;
    let fail = |source| LedgerError::Io { act: "read", path: path.into(), source };
    let unreadable = |why: String| LedgerError::Unreadable { path: path.into(), why };
    let file = match fs::File::open(path) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        other => other.map_err(fail)?,
    };
    let mut bytes = Vec::new();
    file.take(ENTRY_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(fail)?;
    if bytes.len() as u64 > ENTRY_BYTES_MAX {
        return Err(unreadable(format!("longer than {ENTRY_BYTES_MAX} bytes")));
    }
    let entry: Entry = serde_json::from_slice(&bytes).map_err(|e| unreadable(e.to_string()))?;
    if entry.version != VERSION {
        return Err(unreadable(format!("version {}, not {VERSION}", entry.version)));
    }
    if path.file_stem().and_then(|s| s.to_str()) != Some(entry.resource.to_string().as_str()) {
        return Err(unreadable(format!("it is about resource {}", entry.resource)));
    }
    Ok(Some(entry))
}

#[cfg(test)]
mod tests {
    use wolfpack_types::{Incarnation, NodeId};

    use super::*;

    fn entry(n: u128) -> Entry {
        let life = NodeInc::new(NodeId::new(1).unwrap(), Incarnation(4));
        let what =
            Held::Address { ip: Ipv4Addr::new(10, 0, 0, 5), prefix: 24, interface: "eth0".into() };
        Entry::new(life, ResourceId(Guid(n)), "web-ip", what)
    }

    #[test]
    fn entries_come_back_and_go() {
        let dir = tempfile::tempdir().unwrap();
        let ledger = Ledger::open(dir.path()).unwrap();
        ledger.put(&entry(1)).unwrap();
        ledger.put(&entry(2)).unwrap();
        assert_eq!(ledger.get(ResourceId(Guid(1))).unwrap(), Some(entry(1)));
        assert!(entry(1).of_this_boot());
        assert_eq!(ledger.all().unwrap().0.len(), 2);
        ledger.remove(ResourceId(Guid(1))).unwrap();
        ledger.remove(ResourceId(Guid(1))).unwrap();
        assert_eq!(ledger.get(ResourceId(Guid(1))).unwrap(), None);
    }

    #[test]
    fn what_cannot_be_understood_is_said_not_skipped() {
        let dir = tempfile::tempdir().unwrap();
        let ledger = Ledger::open(dir.path()).unwrap();
        let path = ledger.path(ResourceId(Guid(1)));
        let good = serde_json::to_vec(&entry(1)).unwrap();
        for cut in 0..good.len() {
            fs::write(&path, &good[..cut]).unwrap();
            assert_eq!(ledger.all().unwrap().1.len(), 1, "cut at {cut}");
        }
        fs::write(&path, serde_json::to_vec(&entry(2)).unwrap()).unwrap();
        assert!(ledger.get(ResourceId(Guid(1))).unwrap_err().to_string().contains("about"));
        fs::write(&path, vec![b' '; 20_000]).unwrap();
        assert!(ledger.get(ResourceId(Guid(1))).unwrap_err().to_string().contains("longer"));
        let newer = String::from_utf8(good).unwrap().replace("\"version\":1", "\"version\":9");
        fs::write(&path, newer).unwrap();
        assert!(ledger.get(ResourceId(Guid(1))).unwrap_err().to_string().contains("version 9"));
        fs::write(dir.path().join("ledger/.x.tmp"), b"half").unwrap();
        fs::remove_file(&path).unwrap();
        let (entries, errors) = ledger.all().unwrap();
        assert!(entries.is_empty() && errors.is_empty());
    }
}
