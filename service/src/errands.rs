//! Requests for which something must be done outside before the core is asked: a witness prepared,
//! a file written or read. Each is done by a thread of its own; its end comes back to the core's
//! loop.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::thread;

use wolfpack_core::{Input, backup};
use wolfpack_diskarb::format::Overwrite;
use wolfpack_netdrv::ClusterKey;
use wolfpack_types::api::{ErrorKind, ErrorReply, Reply, Request};
use wolfpack_types::backup::Backup;
use wolfpack_types::config::valid_name;
use wolfpack_types::membership::QuorumConfig;
use wolfpack_types::objects::Cluster;
use wolfpack_types::register::Exclusion;
use wolfpack_types::{ClusterId, Guid, NodeId};

use crate::outside::{Outside, entropy, refusal};
use crate::witness;

/// Backups that may be under way: each is a whole copy of the database in memory.
const BACKUPS_AT_ONCE: usize = 2;

/// How an errand ended.
#[derive(Debug)]
pub(crate) enum Done {
    /// The witness that a request waits for is prepared, or cannot be.
    /// The bytes of the database that it keeps; none if it keeps only views.
    Witness(Result<Option<u64>, ErrorReply>),
    /// A backup is written, or could not be.
    Written { id: u64, reply: Reply },
    /// A backup is read and checked, or refused.
    Read { id: u64, backup: Result<Box<Backup>, ErrorReply>, dead: BTreeSet<NodeId>, foreign: bool },
    /// The cluster key file is read, or refused; for a request or for a signal.
    Key { id: Option<u64>, key: Result<ClusterKey, ErrorReply> },
}

/// A request that waits for its witness.
#[derive(Debug)]
pub(crate) enum Waiting {
    Create {
        request: u64,
        cluster: Cluster,
    },
    /// `QuorumSet`, with the identity of the register that is being prepared for it.
    Set {
        id: u64,
        register: u128,
        request: Request,
    },
}

impl Outside {
    /// `cluster create`: all that can be checked before the witness is touched, then the witness.
    pub(crate) fn create(
        &mut self,
        request: u64,
        name: String,
        overwrite: bool,
    ) -> Result<Option<Input>, ErrorReply> {
        if !valid_name(&name) {
            return Err(refusal(
                ErrorKind::Invalid,
                format!("'{}' is no name for a cluster", name.escape_debug()),
                "use 1 to 63 letters, digits, '-', '_' and '.', beginning with a letter or digit",
            ));
        }
        if self.in_cluster {
            let what = "this node belongs to a cluster already";
            return Err(refusal(ErrorKind::Exists, what, "see 'wolfpack cluster status'"));
        }
        if let Some(&node) = self.peers_in_cluster.first() {
            return Err(refusal(
                ErrorKind::Exists,
                format!("node '{}' belongs to a cluster already", self.config.name_of(node)),
                "this node joins it by itself: wait a moment and see 'wolfpack cluster status'",
            ));
        }
        let spec = witness::configured(&self.config, self.cluster);
        let quorum = QuorumConfig::of(self.config.quorum, spec.clone());
        let cluster = Cluster { id: self.cluster, name, quorum };
        let Some(spec) = spec else {
            return Ok(Some(Input::Create { id: request, cluster, entropy: entropy() }));
        };
        let place = (spec.place, spec.exclusion, self.cluster);
        self.prepare(place, overwrite, Waiting::Create { request, cluster })
    }

    /// `quorum set`: a witness at another place is prepared first.
    pub(crate) fn set_quorum(
        &mut self,
        id: u64,
        request: Request,
    ) -> Result<Option<Input>, ErrorReply> {
        let register = entropy();
        let mut request = request;
        if let Request::QuorumSet { room, .. } = &mut request {
            // Said by this service alone, once the witness is prepared.
            *room = None;
        }
        let Request::QuorumSet { witness: Some(place), exclusion, overwrite, .. } = &request else {
            return Ok(Some(Input::Request { id, entropy: register, request }));
        };
        let asked = exclusion.unwrap_or_default();
        if let Some(open) = self.seat.spec().filter(|open| open.place == *place) {
            if exclusion.is_some_and(|e| e != open.exclusion) {
                return Err(refusal(
                    ErrorKind::Invalid,
                    format!(
                        "{place} is the witness now, and is not prepared anew under its voters"
                    ),
                    "move the witness to another place first ('wolfpack quorum set --witness'), or \
                     take it away and give it back with the other exclusion",
                ));
            }
            return Ok(Some(Input::Request { id, entropy: register, request }));
        }
        if asked == Exclusion::Reserve && ["share:", "file:"].iter().any(|p| place.starts_with(p)) {
            return Err(refusal(
                ErrorKind::Invalid,
                format!("{place} knows no reservations"),
                "leave --exclusion out",
            ));
        }
        if !self.in_cluster {
            let what = "there is no cluster yet on this node";
            return Err(refusal(ErrorKind::Invalid, what, "see 'wolfpack cluster status'"));
        }
        let place = (place.clone(), asked, ClusterId(Guid(register)));
        let overwrite = *overwrite;
        self.prepare(place, overwrite, Waiting::Set { id, register, request })
    }

    fn prepare(
        &mut self,
        (place, exclusion, register): (String, Exclusion, ClusterId),
        overwrite: bool,
        waiting: Waiting,
    ) -> Result<Option<Input>, ErrorReply> {
        if self.waiting.is_some() {
            let what = "a witness is just being prepared";
            return Err(refusal(ErrorKind::Busy, what, "wait for its end"));
        }
        let job = witness::Job {
            place,
            exclusion,
            cluster: self.cluster,
            register,
            node: self.config.me,
            overwrite: if overwrite { Overwrite::Yes } else { Overwrite::No },
            room: self.witness_bytes,
        };
        witness::start(job, self.errands.clone()).map_err(|e| no_thread(&e))?;
        self.waiting = Some(waiting);
        Ok(None)
    }

    /// An errand has ended.
    pub(crate) fn errand_done(&mut self, done: Done) -> Option<Input> {
        match done {
            Done::Witness(result) => self.witness_prepared(result),
            Done::Written { id, reply } => {
                self.reply(id, reply);
                None
            }
            Done::Key { id, key } => {
                self.key_read(id, key);
                None
            }
            Done::Read { id, backup: Err(e), .. } => {
                self.reply(id, Reply::Error(e));
                None
            }
            Done::Read { id, backup: Ok(backup), dead, foreign } => {
                Some(Input::Restore { id, backup, dead, foreign })
            }
        }
    }

    /// A backup is asked for: refused at once where no file can be made.
    pub(crate) fn backup(&mut self, id: u64, file: &str) -> Result<Option<Input>, ErrorReply> {
        let path = absolute(file)?;
        if path.exists() {
            return Err(refusal(
                ErrorKind::Exists,
                format!("{} exists already; a backup overwrites nothing", path.display()),
                "give the name of a new file",
            ));
        }
        if self.backups.len() >= BACKUPS_AT_ONCE {
            return Err(refusal(ErrorKind::Busy, "other backups are being written", "try again"));
        }
        self.backups.insert(id, path);
        Ok(Some(Input::Backup { id }))
    }

    /// The copy is there: it is written by a thread.
    pub(crate) fn write_backup(&mut self, id: u64, backup: Box<Backup>) {
        let Some(path) = self.backups.remove(&id) else { return };
        let done = self.errands.clone();
        let written = thread::Builder::new().name("wolfpack-backup".into()).spawn(move || {
            let seq = backup.snapshot.seq.0;
            let bytes = backup::encode(&backup);
            let reply = match write_new(&path, &bytes) {
                Ok(()) => Reply::BackedUp {
                    file: path.display().to_string(),
                    seq,
                    bytes: bytes.len() as u64,
                },
                Err(e) => Reply::Error(refusal(
                    ErrorKind::Internal,
                    format!("the backup could not be written to {}: {e}", path.display()),
                    "choose a place with enough space that root may write",
                )),
            };
            // The service may have ended meanwhile.
            let _ = done.send(Done::Written { id, reply });
        });
        if let Err(e) = written {
            self.reply(id, Reply::Error(no_thread(&e)));
        }
    }

    /// A restore is asked for: the file is read and checked by a thread, before anything is changed.
    pub(crate) fn restore(
        &mut self,
        id: u64,
        file: &str,
        dead: &[String],
        foreign: bool,
    ) -> Result<Option<Input>, ErrorReply> {
        let path = absolute(file)?;
        let dead = self.nodes_named(dead)?;
        let done = self.errands.clone();
        thread::Builder::new()
            .name("wolfpack-restore".into())
            .spawn(move || {
                let backup = read_backup(&path).map(Box::new);
                // The service may have ended meanwhile.
                let _ = done.send(Done::Read { id, backup, dead, foreign });
            })
            .map_err(|e| no_thread(&e))?;
        Ok(None)
    }

    /// The cluster key file is to be read again, by a thread: nobody knows how long a disk takes.
    pub(crate) fn reload_key(&self, id: Option<u64>) -> Result<Option<Input>, ErrorReply> {
        let (path, cluster) = (self.config.key_file.clone(), self.cluster);
        let done = self.errands.clone();
        thread::Builder::new()
            .name("wolfpack-key".into())
            .spawn(move || {
                // The service may have ended meanwhile.
                let _ = done.send(Done::Key { id, key: read_key(&path, cluster) });
            })
            .map_err(|e| no_thread(&e))?;
        Ok(None)
    }

    fn key_read(&mut self, id: Option<u64>, key: Result<ClusterKey, ErrorReply>) {
        let used = key.and_then(|key| {
            self.driver.set_keys(key);
            // It has the lesser part in it: what it says of ended lives only shortens waits.
            self.guard.reload_key().map_err(|e| {
                let what = format!("the new key is in use, but the guard was not told: {e}");
                refusal(ErrorKind::Internal, what, "try again")
            })
        });
        let path = self.config.key_file.display();
        match &used {
            Ok(()) => tracing::info!("the cluster key was read again from {path}"),
            Err(e) => tracing::error!("the cluster key was not exchanged: {e}"),
        }
        if let Some(id) = id {
            self.reply(id, used.map_or_else(Reply::Error, |()| Reply::Done { seq: 0 }));
        }
    }

    fn nodes_named(&self, names: &[String]) -> Result<BTreeSet<NodeId>, ErrorReply> {
        let id = |name: &String| {
            let found = self.config.nodes.values().find(|n| n.name == *name);
            found.map(|n| n.id).ok_or_else(|| {
                let known: Vec<&str> =
                    self.config.nodes.values().map(|n| n.name.as_str()).collect();
                refusal(
                    ErrorKind::Unknown,
                    format!("node '{}' does not exist", name.escape_debug()),
                    &format!("the nodes are {}", known.join(", ")),
                )
            })
        };
        names.iter().map(id).collect()
    }

    /// The witness is prepared, or cannot be.
    fn witness_prepared(&mut self, result: Result<Option<u64>, ErrorReply>) -> Option<Input> {
        let waiting = self.waiting.take()?;
        let found = match result {
            Ok(found) => found,
            Err(e) => {
                let (Waiting::Create { request: id, .. } | Waiting::Set { id, .. }) = waiting;
                self.reply(id, Reply::Error(e));
                return None;
            }
        };
        Some(match waiting {
            Waiting::Create { request, mut cluster } => {
                if let Some(witness) = &mut cluster.quorum.witness {
                    witness.checkpoint_bytes = found.unwrap_or_default();
                }
                // The thread may be in the midst of a pause after it found nothing there.
                self.seat.open_again();
                Input::Create { id: request, cluster, entropy: entropy() }
            }
            Waiting::Set { id, register, mut request } => {
                if let Request::QuorumSet { room, .. } = &mut request {
                    *room = found;
                }
                Input::Request { id, entropy: register, request }
            }
        })
    }
}

fn no_thread(e: &io::Error) -> ErrorReply {
    refusal(ErrorKind::Internal, format!("cannot start a thread: {e}"), "try again")
}

fn absolute(file: &str) -> Result<PathBuf, ErrorReply> {
    let path = Path::new(file);
    if path.is_absolute() {
        return Ok(path.to_owned());
    }
    let what = format!("'{}' is not an absolute path", file.escape_debug());
    Err(refusal(ErrorKind::Invalid, what, "name the file from / on"))
}

/// Writes a file that did not exist, durably, or leaves none. It has everything that is in the
/// database: for root alone.
fn write_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    let written = file.write_all(bytes).and_then(|()| file.sync_all());
    let written = written.and_then(|()| match path.parent() {
        Some(parent) => File::open(parent)?.sync_all(),
        None => Ok(()),
    });
    if written.is_err() {
        // Half a backup is worse than none; the write error is the one to report.
        let _ = std::fs::remove_file(path);
    }
    written
}

fn read_backup(path: &Path) -> Result<Backup, ErrorReply> {
    let shown = path.display();
    let unreadable = |e: io::Error| {
        let kind = match e.kind() {
            io::ErrorKind::NotFound => ErrorKind::Unknown,
            _ => ErrorKind::Internal,
        };
        refusal(kind, format!("{shown} cannot be read: {e}"), "nothing was changed")
    };
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(unreadable)?;
    file.take(backup::FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > backup::FILE_BYTES_MAX {
        let what = format!("{shown} is larger than any backup");
        return Err(refusal(ErrorKind::Invalid, what, "nothing was changed"));
    }
    backup::decode(&bytes).map_err(|e| {
        refusal(
            ErrorKind::Invalid,
            format!("{shown} cannot be restored: {e}"),
            "nothing was changed",
        )
    })
}

/// The keys of this cluster in a file.
fn read_key(path: &Path, cluster: ClusterId) -> Result<ClusterKey, ErrorReply> {
    const STAYS: &str = "the former key stays in use";
    let key = ClusterKey::load(path).map_err(|e| {
        let cause = std::error::Error::source(&e).map_or_else(String::new, |s| format!(": {s}"));
        refusal(ErrorKind::Invalid, format!("{e}{cause}"), STAYS)
    })?;
    if key.cluster_id() != cluster {
        let what = format!(
            "the key in {} is of another cluster ({}; this one is {cluster}): where a first key was \
             replaced, the line 'cluster {cluster}' must stay",
            path.display(),
            key.cluster_id()
        );
        return Err(refusal(ErrorKind::Invalid, what, STAYS));
    }
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_written_whole_and_never_over_another() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("b");
        write_new(&path, b"all").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"all");
        write_new(&path, b"other").unwrap_err();
        assert_eq!(std::fs::read(&path).unwrap(), b"all");
        write_new(&dir.path().join("none/b"), b"all").unwrap_err();
    }

    #[test]
    fn what_is_no_backup_is_refused_with_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("b");
        let missing = read_backup(&path).unwrap_err();
        assert_eq!(missing.kind, ErrorKind::Unknown);
        std::fs::write(&path, "dear diary").unwrap();
        let foreign = read_backup(&path).unwrap_err();
        assert_eq!(foreign.kind, ErrorKind::Invalid);
        assert!(foreign.what.contains("no backup"), "{}", foreign.what);
        assert_eq!(absolute("b").unwrap_err().kind, ErrorKind::Invalid);
    }
}
