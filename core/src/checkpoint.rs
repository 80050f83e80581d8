//! The Checkpoint Manager: files that belong to a resource travel with it. While the resource is
//! online they are watched and copied to the cluster's database in batches; before it comes online
//! elsewhere they are put back.
//!
//! Pure: when to read, what to save and what to put back, as data; who watches, reads and writes
//! files (a resource monitor) and who carries out transactions drives it. It decides nothing about
//! ownership: only the owner's monitor runs it, and a former owner that comes late is refused by
//! the precondition of its transaction (the generation that it has seen).
//!
//! ```text
//!          Begin                 all put back             Changed, quiet for SETTLE
//!   (none) -----> Restoring(n) ----------------> Watching --------------------------> Reading
//!                    | one failed                  ^  ^                                  | content
//!                    v                       Saved |  +---- the same as saved -----------+
//!                 Failed                           +------ Saving (step by step) <-------+
//!   End: what has changed is read and saved first, then Ended. Lost: nothing more, at once.
//! ```
//! In the tree a checkpoint is the key `Checkpoints/<resource>/<number>`: values `Path`,
//! `Generation`, `Bytes`, `Crc`, and a subkey per generation with the pieces. The last transaction
//! of a copy names the new generation and deletes the former one, so readers see one copy or the
//! other, never parts of both.

mod pieces;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use wolfpack_types::tree::Transaction;
use wolfpack_types::{Instant, ResourceId};

pub use pieces::{BYTES_MAX, CheckpointError, Saved, key, read, registered};

/// A change is copied when nothing more has changed for so long ...
const SETTLE: Duration = Duration::from_secs(1);
/// ... but not later than this.
const SETTLE_MAX: Duration = Duration::from_secs(10);
/// A copy that failed is tried again after this.
const AGAIN: Duration = Duration::from_secs(5);

/// One file of one resource: the resource, and the number of the checkpoint.
pub type CheckpointId = (ResourceId, u32);

/// One thing that happened.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum CheckpointInput {
    /// The resource is about to come online here: its files, each with the copy that the cluster
    /// has.
    Begin { resource: ResourceId, files: Vec<(u32, String, Option<Saved>)> },
    /// A file was put back, or could not be.
    PutBack { id: CheckpointId, result: Result<(), String> },
    /// A watched file has changed, or may have.
    Changed { id: CheckpointId },
    /// A file was read; none: it does not exist (any more), and the last copy stays.
    Content { id: CheckpointId, content: Result<Option<Vec<u8>>, String> },
    /// A transaction was carried out, or refused.
    Saved { id: CheckpointId, result: Result<(), String> },
    /// The resource goes offline in good order.
    End { resource: ResourceId },
    /// The resource is no longer this node's.
    Lost { resource: ResourceId },
    /// A deadline has come, or may have.
    Deadline,
}

/// One thing to do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum CheckpointOutput {
    /// Write this content to the file, whole or not at all (beside it, then renamed).
    PutBack { id: CheckpointId, path: String, content: Vec<u8> },
    /// All files are in place and are to be watched: the resource may come online.
    Ready { resource: ResourceId, watch: Vec<(u32, String)> },
    /// A file could not be put back: the resource must not come online with another one's state.
    Failed { resource: ResourceId, why: String },
    /// Read the file whole.
    Read { id: CheckpointId, path: String },
    /// Carry out this transaction, then say how it went.
    Save { id: CheckpointId, transaction: Transaction },
    /// The copy could not be made; it is tried again. To be told to people.
    Trouble { id: CheckpointId, why: String },
    /// Everything that had changed is saved; the files are no longer to be watched.
    Ended { resource: ResourceId },
}

#[derive(Debug)]
enum Phase {
    Restoring,
    Watching,
    Reading,
    /// Transactions that are still to be carried out; the first is under way.
    Saving {
        rest: VecDeque<Transaction>,
        new: Saved,
    },
}

#[derive(Debug)]
struct File {
    path: String,
    phase: Phase,
    /// What the cluster has.
    saved: Option<Saved>,
    /// First and last change that is not yet read.
    changed: Option<(Instant, Instant)>,
    not_before: Option<Instant>,
}

#[derive(Debug, Default)]
struct Watched {
    files: BTreeMap<u32, File>,
    ready: bool,
    ending: bool,
}

/// The manager of one node. One input, drain [`Self::poll_output`], next input.
#[derive(Debug, Default)]
pub struct CheckpointManager {
    resources: BTreeMap<ResourceId, Watched>,
    output: VecDeque<CheckpointOutput>,
}

impl CheckpointManager {
    /// One input. Call with [`CheckpointInput::Deadline`] when [`Self::next_deadline`] has come.
    pub fn handle(&mut self, now: Instant, input: CheckpointInput) {
        match input {
            CheckpointInput::Begin { resource, files } => self.begin(resource, files),
            CheckpointInput::PutBack { id, result } => self.put_back(id, result),
            CheckpointInput::Changed { id } => self.changed(now, id),
            CheckpointInput::Content { id, content } => self.content(now, id, content),
            CheckpointInput::Saved { id, result } => self.saved(now, id, result),
            CheckpointInput::End { resource } => {
                if let Some(watched) = self.resources.get_mut(&resource) {
                    watched.ending = true;
                }
            }
            CheckpointInput::Lost { resource } => {
                self.resources.remove(&resource);
            }
            CheckpointInput::Deadline => {}
        }
        self.read_what_is_due(now);
        self.end_what_is_done();
    }

    /// The next output.
    pub fn poll_output(&mut self) -> Option<CheckpointOutput> {
        self.output.pop_front()
    }

    /// When to call again at the latest.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        let files = self.resources.values().flat_map(|w| w.files.values().map(|f| (w.ending, f)));
        files.filter_map(|(ending, f)| f.due(ending)).min()
    }

    fn begin(&mut self, resource: ResourceId, files: Vec<(u32, String, Option<Saved>)>) {
        let mut watched = Watched::default();
        for (number, path, saved) in files {
            let phase = if let Some(saved) = &saved {
                let (id, path) = ((resource, number), path.clone());
                let content = saved.content.clone();
                self.output.push_back(CheckpointOutput::PutBack { id, path, content });
                Phase::Restoring
            } else {
                Phase::Watching
            };
            // What was never copied is copied as soon as it is online.
            let file = File { path, phase, saved, changed: None, not_before: None };
            watched.files.insert(number, file);
        }
        self.resources.insert(resource, watched);
        self.tell_ready(resource);
    }

    fn tell_ready(&mut self, resource: ResourceId) {
        let Some(watched) = self.resources.get_mut(&resource) else { return };
        let waiting = watched.files.values().any(|f| matches!(f.phase, Phase::Restoring));
        if waiting || watched.ready {
            return;
        }
        watched.ready = true;
        let watch = watched.files.iter().map(|(&n, f)| (n, f.path.clone())).collect();
        self.output.push_back(CheckpointOutput::Ready { resource, watch });
    }

    fn file(&mut self, (resource, number): CheckpointId) -> Option<&mut File> {
        self.resources.get_mut(&resource)?.files.get_mut(&number)
    }

    fn put_back(&mut self, id: CheckpointId, result: Result<(), String>) {
        let Some(file) = self.file(id).filter(|f| matches!(f.phase, Phase::Restoring)) else {
            return;
        };
        match result {
            Ok(()) => {
                file.phase = Phase::Watching;
                self.tell_ready(id.0);
            }
            Err(why) => {
                let why = format!("'{}' could not be put back: {why}", file.path);
                self.resources.remove(&id.0);
                self.output.push_back(CheckpointOutput::Failed { resource: id.0, why });
            }
        }
    }

    fn changed(&mut self, now: Instant, id: CheckpointId) {
        let Some(file) = self.file(id) else { return };
        // Writing what was put back is no change of the application's.
        if !matches!(file.phase, Phase::Restoring) {
            let first = file.changed.map_or(now, |(first, _)| first);
            file.changed = Some((first, now));
        }
    }

    fn content(
        &mut self,
        now: Instant,
        id: CheckpointId,
        content: Result<Option<Vec<u8>>, String>,
    ) {
        let Some(file) = self.file(id).filter(|f| matches!(f.phase, Phase::Reading)) else {
            return;
        };
        file.phase = Phase::Watching;
        let new = match content {
            Ok(None) => return,
            Ok(Some(content)) if file.saved.as_ref().is_some_and(|s| s.content == content) => {
                return;
            }
            Ok(Some(content)) => {
                let generation = file.saved.as_ref().map_or(0, |s| s.generation) + 1;
                Saved { generation, content }
            }
            Err(why) => return self.trouble(now, id, why),
        };
        let former = file.saved.as_ref().map(|s| s.generation);
        match pieces::transactions(id, &file.path, former, &new) {
            Ok(rest) => {
                let first = rest.front().cloned();
                file.phase = Phase::Saving { rest, new };
                let save = first.map(|transaction| CheckpointOutput::Save { id, transaction });
                self.output.extend(save);
            }
            Err(e) => self.trouble(now, id, e.to_string()),
        }
    }

    /// Said, and tried again: the file counts as changed.
    fn trouble(&mut self, now: Instant, id: CheckpointId, why: String) {
        if let Some(file) = self.file(id) {
            file.phase = Phase::Watching;
            file.changed = Some((now, now));
            file.not_before = Some(now + AGAIN);
            self.output.push_back(CheckpointOutput::Trouble { id, why });
        }
    }

    fn saved(&mut self, now: Instant, id: CheckpointId, result: Result<(), String>) {
        let Some(file) = self.file(id) else { return };
        let Phase::Saving { rest, new } = &mut file.phase else { return };
        if let Err(why) = result {
            return self.trouble(now, id, why);
        }
        rest.pop_front();
        if let Some(transaction) = rest.front().cloned() {
            self.output.push_back(CheckpointOutput::Save { id, transaction });
        } else {
            file.saved = Some(new.clone());
            file.phase = Phase::Watching;
        }
    }

    fn read_what_is_due(&mut self, now: Instant) {
        for (&resource, watched) in &mut self.resources {
            let (ending, ready) = (watched.ending, watched.ready);
            for (&number, file) in &mut watched.files {
                if ready && file.due(ending).is_some_and(|due| now >= due) {
                    (file.changed, file.not_before) = (None, None);
                    file.phase = Phase::Reading;
                    let (id, path) = ((resource, number), file.path.clone());
                    self.output.push_back(CheckpointOutput::Read { id, path });
                }
            }
        }
    }

    fn end_what_is_done(&mut self) {
        let quiet = |f: &File| matches!(f.phase, Phase::Watching) && f.changed.is_none();
        let done: BTreeSet<ResourceId> = self
            .resources
            .iter()
            .filter(|(_, w)| w.ending && (!w.ready || w.files.values().all(quiet)))
            .map(|(&id, _)| id)
            .collect();
        for resource in done {
            self.resources.remove(&resource);
            self.output.push_back(CheckpointOutput::Ended { resource });
        }
    }
}

impl File {
    /// When the file is to be read, if it is to be read at all.
    fn due(&self, ending: bool) -> Option<Instant> {
        let (first, last) = self.changed.filter(|_| matches!(self.phase, Phase::Watching))?;
        let quiet = if ending { first } else { (last + SETTLE).min(first + SETTLE_MAX) };
        Some(self.not_before.map_or(quiet, |at| at.max(quiet)))
    }
}
