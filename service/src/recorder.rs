//! The flight recorder: every input of the core with its time, and digests of what came of it, in
//! bounded files, so that a life in the field can be run again (`wolfpack-sim replay`).
//!
//! ```text
//!  state_dir/flight/00000007-00000.flight   life 7 from its birth: can be run again
//!                   00000007-00003.flight   a later part of it: the latest inputs, to be read
//! ```
//! The first part of a life may take a quarter of the space, every later one an eighth; the oldest
//! files go first, but for the first part of this life. It is never waited for: what does not fit
//! into its queue is dropped, the file ends there and says how many, and the next one begins. It
//! makes nothing durable, and a disk without space ends it, not the service.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use wolfpack_core::flight::{self, Draft, Header};
use wolfpack_core::{CoreConfig, Input, Output};
use wolfpack_types::Instant;
use wolfpack_types::store::Loaded;

/// Steps that may wait for the disk.
const QUEUE: usize = 8192;
/// And their bytes.
const QUEUE_BYTES: usize = 32 << 20;
/// Steps that are written with one call, so many bytes about.
const BATCH_BYTES: usize = 256 << 10;

#[derive(Debug)]
enum Item {
    Step(Vec<u8>),
    /// So many steps before this one are missing.
    Gap(u64),
    End(String),
}

/// The core's side of the recorder.
#[derive(Clone, Debug, Default)]
pub(crate) struct Recorder(Option<Arc<Shared>>);

#[derive(Debug)]
struct Shared {
    steps: Mutex<Steps>,
    /// Bytes of the steps that wait.
    waiting: Arc<AtomicUsize>,
    /// Closed when the thread has ended.
    over: Receiver<()>,
}

#[derive(Debug)]
struct Steps {
    queue: Option<Sender<Item>>,
    missing: u64,
    draft: Option<Draft>,
}

impl Recorder {
    /// Starts the recorder of a life; one that cannot start is said and records nothing.
    /// `space`: bytes that all files may have, 0 for none at all.
    pub(crate) fn start(
        state_dir: &Path,
        space: u64,
        config: &CoreConfig,
        started: Instant,
        wall_ms: u64,
    ) -> Self {
        if space == 0 {
            return Self::default();
        }
        let header = Header {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            commit: option_env!("WOLFPACK_COMMIT").unwrap_or_default().to_owned(),
            wall_ms,
            started,
            config: config.clone(),
        };
        let waiting = Arc::<AtomicUsize>::default();
        let (queue, inbox) = bounded(QUEUE);
        let (end, over) = bounded(0);
        let (directory, count) = (state_dir.join("flight"), Arc::clone(&waiting));
        let thread = thread::Builder::new().name("wolfpack-flight".into()).spawn(move || {
            // Dropped, and so told, at the end of this thread.
            let _end: Sender<()> = end;
            let mut tape = Tape::new(directory, space, header);
            if let Err(e) = tape.run(&inbox, &count) {
                tracing::warn!(
                    "the flight recorder stops ({}): {e}; the service goes on",
                    tape.directory.display()
                );
            }
        });
        if let Err(e) = thread {
            tracing::warn!("no flight recorder: cannot start its thread: {e}");
            return Self::default();
        }
        let steps = Steps { queue: Some(queue), missing: 0, draft: None };
        Self(Some(Arc::new(Shared { steps: Mutex::new(steps), waiting, over })))
    }

    /// A step begins: this input will be given to the core (None: the core is new).
    pub(crate) fn input(&self, now: Instant, input: Option<&Input>) {
        if let Some(shared) = &self.0 {
            let mut steps = shared.steps();
            steps.draft = steps.queue.is_some().then(|| Draft::new(now, input));
        }
    }

    /// The core has put this out.
    pub(crate) fn output(&self, output: &Output) {
        if let Some(shared) = &self.0
            && let Some(draft) = &mut shared.steps().draft
        {
            draft.output(output);
        }
    }

    /// The step is over.
    pub(crate) fn finish(&self) {
        if let Some(shared) = &self.0 {
            shared.finish(&mut shared.steps());
        }
    }

    /// The life is over, with the step that is under way (a panic in it is what is looked for).
    /// Waits until what was recorded is written, at most `patience`.
    pub(crate) fn end(&self, why: &str, patience: Duration) {
        let Some(shared) = &self.0 else { return };
        // A panic may have come in the midst of a step, never with the lock held.
        let Ok(mut steps) = shared.steps.try_lock() else { return };
        shared.finish(&mut steps);
        if let Some(queue) = steps.queue.take() {
            // A recorder that has stopped needs no end.
            let _ = queue.send_timeout(Item::End(why.to_owned()), patience);
        }
        drop(steps);
        // Nothing is ever sent: it ends when the thread does.
        let _ = shared.over.recv_timeout(patience);
    }
}

impl Shared {
    fn steps(&self) -> MutexGuard<'_, Steps> {
        self.steps.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn finish(&self, steps: &mut Steps) {
        let Some(draft) = steps.draft.take() else { return };
        let step = draft.finish();
        if steps.missing > 0 {
            if !steps.push(Item::Gap(steps.missing)) {
                steps.missing += 1;
                return;
            }
            steps.missing = 0;
        }
        let size = step.len();
        // Counted first: the thread may take it at once.
        let waiting = self.waiting.fetch_add(size, Ordering::Relaxed) + size;
        if waiting > QUEUE_BYTES || !steps.push(Item::Step(step)) {
            self.waiting.fetch_sub(size, Ordering::Relaxed);
            steps.missing += 1;
        }
    }
}

impl Steps {
    fn push(&mut self, item: Item) -> bool {
        let Some(queue) = &self.queue else { return false };
        match queue.try_send(item) {
            Ok(()) => true,
            Err(TrySendError::Full(_)) => false,
            Err(TrySendError::Disconnected(_)) => {
                self.queue = None;
                false
            }
        }
    }
}

/// The files.
struct Tape {
    directory: PathBuf,
    space: u64,
    header: Header,
    part: u32,
    file: Option<File>,
    written: u64,
}

impl Tape {
    fn new(directory: PathBuf, space: u64, header: Header) -> Self {
        Self { directory, space, header, part: 0, file: None, written: 0 }
    }

    fn run(&mut self, inbox: &Receiver<Item>, waiting: &AtomicUsize) -> io::Result<()> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.directory)?;
        self.begin()?;
        let mut batch = Vec::new();
        while let Ok(item) = inbox.recv() {
            let mut next = Some(item);
            while let Some(item) = next.take() {
                match item {
                    Item::Step(step) => {
                        waiting.fetch_sub(step.len(), Ordering::Relaxed);
                        batch.extend_from_slice(&step);
                    }
                    Item::Gap(count) => {
                        self.write(&std::mem::take(&mut batch))?;
                        self.cut(&format!(
                            "{count} steps are missing here: the disk did not keep up"
                        ))?;
                    }
                    Item::End(why) => {
                        batch.extend_from_slice(&flight::end(&why));
                        return self.write(&batch);
                    }
                }
                // A batch ends with the file, so that a slow disk does not make the files larger.
                if batch.len() < BATCH_BYTES && self.written + batch.len() as u64 <= self.limit() {
                    next = inbox.try_recv().ok();
                }
            }
            self.write(&std::mem::take(&mut batch))?;
            if self.written > self.limit() {
                self.cut("the file is full; the next one goes on")?;
            }
        }
        Ok(())
    }

    /// Bytes of this part.
    const fn limit(&self) -> u64 {
        if self.part == 0 { self.space / 4 } else { self.space / 8 }
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.written += bytes.len() as u64;
        match &mut self.file {
            Some(file) => file.write_all(bytes),
            None => Ok(()),
        }
    }

    fn cut(&mut self, why: &str) -> io::Result<()> {
        self.write(&flight::end(why))?;
        self.part += 1;
        self.begin()
    }

    /// Begins the next file. Only the first part starts from what the store held; where that alone
    /// is too much, there is no first part.
    fn begin(&mut self) -> io::Result<()> {
        let mut head = flight::begin(&self.header);
        if self.part == 0 && head.len() as u64 > self.space / 4 {
            tracing::warn!(
                "the flight recorder keeps no beginning of this life: the database alone has more \
                 than a quarter of its space"
            );
            self.part = 1;
        }
        self.header.config.loaded = Loaded::default();
        if self.part > 0 {
            head = flight::begin(&self.header);
        }
        self.make_room(self.limit())?;
        let path = self.directory.join(self.name(self.part));
        let file =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
        self.file = Some(file);
        self.written = 0;
        self.write(&head)
    }

    fn name(&self, part: u32) -> String {
        format!("{:08}-{part:05}.flight", self.header.config.me.inc.0)
    }

    /// Deletes the oldest files, so that `needed` bytes more stay within the space.
    fn make_room(&self, needed: u64) -> io::Result<()> {
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.directory)? {
            let entry = entry?;
            if let Some(at) = entry.file_name().to_str().and_then(place) {
                files.push((at, entry.metadata()?.len(), entry.path()));
            }
        }
        files.sort();
        let mut total: u64 = files.iter().map(|(_, size, _)| size).sum();
        let own_first = (self.header.config.me.inc.0, 0);
        for (at, size, path) in files {
            if total + needed <= self.space {
                break;
            }
            if at != own_first {
                fs::remove_file(path)?;
                total -= size;
            }
        }
        Ok(())
    }
}

/// Life and part of a file, by its name.
fn place(name: &str) -> Option<(u64, u32)> {
    let (life, part) = name.strip_suffix(".flight")?.split_once('-')?;
    Some((life.parse().ok()?, part.parse().ok()?))
}

#[cfg(test)]
mod tests;
