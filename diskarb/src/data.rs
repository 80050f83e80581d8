//! A data disk in a resource monitor: taken by RESERVE (with challenge and defence, protocol P7),
//! defended every R, read and written through the same session.
//!
//! ```text
//!  handles (export, any thread) ──requests──▶ ┌─────────────┐ ──▶ device (one session)
//!  DataDisk (the resource)      ──requests──▶ │ disk thread │      RESERVE every R first,
//!  on_event ◀──Lost, once──────────────────── └─────────────┘      requests in between
//! ```
//! One thread owns the session, so that the defence never waits for more than one request. It never
//! takes the disk again by itself: whoever took it is an owner that the cluster chose, or somebody
//! whom the administrator must hear of. A disk without answer, and a session that ended, are lost
//! too: the resource fails, and its restart takes the disk anew, under the lease of then.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded, select};
use wolfpack_types::Times;
use wolfpack_types::disk::{DiskOp, DiskOutcome};

use crate::device::{Capacity, Device, Naming, OpenError, open};
use crate::sense::words;

/// Whether the owner may still act; must not block.
pub type Authority = Arc<dyn Fn() -> bool + Send + Sync>;

/// RESERVE is sent again after this many unit attentions (two resets queue two).
const RESERVE_TRIES: u32 = 4;
/// Requests that wait for the disk thread: few, so that whoever asks feels the disk's pace.
const QUEUE: usize = 16;
/// Largest transfer of one command.
const CHUNK: u64 = 256 << 10;
/// Largest read or write of one request.
pub const REQUEST_MAX: u32 = 1 << 20;

/// A data disk could not be taken.
#[derive(Debug, thiserror::Error)]
pub enum TakeError {
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error("{disk} is held by another initiator that defends it")]
    Defended { disk: String },
    #[error("{disk}: {what} failed: {why}")]
    Io { disk: String, what: &'static str, why: String },
}

/// What happens to a held disk.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum DataEvent {
    /// The reservation is another's, or the path is gone: this node is not the owner any more. Said
    /// once; nothing is written after it.
    Lost { why: String },
}

/// A read, write or check was not carried out.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum IoError {
    #[error("the disk is not held any more")]
    NotHeld,
    #[error("the node has no authority over the disk any more")]
    NoAuthority,
    #[error(
        "{0} bytes at {1} are outside the disk of {2} bytes, or more than one request may have"
    )]
    Range(u64, u64, u64),
    #[error("{what} failed: {why}")]
    Failed { what: &'static str, why: String },
}

/// What is known of a holder that is met when taking a disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Holder {
    /// A former owner whose end is proven or whose lease is over.
    Former,
    /// Not known: it has the time to defend the disk.
    Unknown,
}

/// A disk that this process holds and defends. Dropping it releases.
#[derive(Debug)]
pub struct DataDisk {
    handle: DiskHandle,
    thread: Option<JoinHandle<()>>,
}

/// Reads and writes of a held disk; can be cloned to any thread.
#[derive(Clone, Debug)]
pub struct DiskHandle {
    requests: Sender<Request>,
    held: Arc<AtomicBool>,
    /// Disconnected when the disk thread has ended, however it ended. A request that was sent while
    /// it did stays in the channel for ever: without this its sender would wait as long.
    ended: Receiver<()>,
    capacity: Capacity,
}

impl DataDisk {
    /// Opens and takes the disk: RESERVE; at a conflict LUN RESET and RESERVE at once, since the
    /// cluster gives a disk to a new owner only when the former one is proven dead or its lease is
    /// over (P7); at another conflict the full challenge (LUN RESET, 2R + margin, RESERVE), which a
    /// living defender wins. `on_event` is called from the disk's own thread and must not block.
    ///
    /// # Errors
    /// The disk cannot be opened, is defended, or fails.
    pub fn take(
        disk: &str,
        naming: &Naming,
        times: &Times,
        on_event: impl Fn(DataEvent) + Send + 'static,
    ) -> Result<Self, TakeError> {
        Self::start(disk, naming, times, Holder::Former, on_event)
    }

    /// As [`DataDisk::take`], but for a disk whose holder, if it has one, is not a known former
    /// owner (the first use of a disk by this cluster): a holder that lives keeps it.
    ///
    /// # Errors
    /// The disk cannot be opened, is defended, or fails.
    pub fn challenge(
        disk: &str,
        naming: &Naming,
        times: &Times,
        on_event: impl Fn(DataEvent) + Send + 'static,
    ) -> Result<Self, TakeError> {
        Self::start(disk, naming, times, Holder::Unknown, on_event)
    }

    fn start(
        disk: &str,
        naming: &Naming,
        times: &Times,
        holder: Holder,
        on_event: impl Fn(DataEvent) + Send + 'static,
    ) -> Result<Self, TakeError> {
        let mut device = open(disk, naming)?;
        acquire(&mut device, times, holder)?;
        let held = Arc::new(AtomicBool::new(true));
        let (requests, inbox) = bounded(QUEUE);
        let (alive, ended) = bounded(0);
        let capacity = device.capacity();
        let handle = DiskHandle { requests, held: Arc::clone(&held), ended, capacity };
        let keeper = Keeper {
            device,
            held,
            inbox,
            period: times.reserve_renew,
            deadline: times.command_timeout,
            on_event: Box::new(on_event),
            _alive: alive,
        };
        let thread = std::thread::Builder::new().name("data-disk".into());
        let thread = thread.spawn(move || keeper.run()).map_err(|e| TakeError::Io {
            disk: disk.to_owned(),
            what: "starting the disk's thread",
            why: e.to_string(),
        })?;
        Ok(Self { handle, thread: Some(thread) })
    }

    /// Whether the last defence succeeded and nothing has been lost since. Never blocks.
    #[must_use]
    pub fn still_held(&self) -> bool {
        self.handle.held.load(Ordering::Acquire)
    }

    /// TEST UNIT READY and a read of block 0, through the session.
    ///
    /// # Errors
    /// Why the disk is not usable.
    pub fn check(&self) -> Result<(), IoError> {
        self.handle.ask(Ask::Check).map(drop)
    }

    /// For reading and writing.
    #[must_use]
    pub fn handle(&self) -> DiskHandle {
        self.handle.clone()
    }

    /// Stops defending, RELEASEs and ends the session; waits for the command in flight. Never fails:
    /// the end of the session releases too.
    pub fn release(self) {
        drop(self);
    }
}

impl Drop for DataDisk {
    fn drop(&mut self) {
        // If the disk was lost the thread has ended, which is what is wanted.
        let _ = self.handle.ask(Ask::Release);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread of a data disk panicked");
        }
    }
}

impl DiskHandle {
    /// Size in bytes.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.capacity.bytes()
    }

    /// Reads `length` bytes (at most [`REQUEST_MAX`]) at `offset`, any alignment.
    ///
    /// # Errors
    /// Outside the disk, not held any more, or failing.
    pub fn read(&self, offset: u64, length: u32) -> Result<Vec<u8>, IoError> {
        self.check_range(offset, u64::from(length))?;
        self.ask(Ask::Read { offset, length })
    }

    /// Writes (at most [`REQUEST_MAX`] bytes) durably (FUA) at `offset`, any alignment.
    ///
    /// # Errors
    /// Outside the disk, not held any more, or failing; then what was written is not known.
    pub fn write(&self, offset: u64, data: Vec<u8>) -> Result<(), IoError> {
        self.write_while(offset, data, &(Arc::new(|| true) as Authority))
    }

    /// As [`DiskHandle::write`]; `authority` is asked right before each command is sent.
    ///
    /// # Errors
    /// As for writing, and when there is no authority any more.
    pub fn write_while(
        &self,
        offset: u64,
        data: Vec<u8>,
        authority: &Authority,
    ) -> Result<(), IoError> {
        self.check_range(offset, data.len() as u64)?;
        let authority = Arc::clone(authority);
        self.ask(Ask::Write { offset, data, authority }).map(drop)
    }

    /// Whether the disk is still held. Never blocks.
    #[must_use]
    pub fn still_held(&self) -> bool {
        self.held.load(Ordering::Acquire)
    }

    fn check_range(&self, offset: u64, length: u64) -> Result<(), IoError> {
        let inside = offset.checked_add(length).is_some_and(|end| end <= self.size());
        if inside && length <= u64::from(REQUEST_MAX) {
            return Ok(());
        }
        Err(IoError::Range(length, offset, self.size()))
    }

    fn ask(&self, ask: Ask) -> Result<Vec<u8>, IoError> {
        let (reply, answer) = bounded(1);
        let request = Request { ask, reply };
        select! {
            send(self.requests, request) -> sent => sent.map_err(|_| IoError::NotHeld)?,
            recv(self.ended) -> _ => return Err(IoError::NotHeld),
        }
        select! {
            recv(answer) -> answer => answer.unwrap_or(Err(IoError::NotHeld)),
            // It may have answered right before it ended.
            recv(self.ended) -> _ => answer.try_recv().unwrap_or(Err(IoError::NotHeld)),
        }
    }
}

struct Request {
    ask: Ask,
    reply: Sender<Result<Vec<u8>, IoError>>,
}

enum Ask {
    Read { offset: u64, length: u32 },
    Write { offset: u64, data: Vec<u8>, authority: Authority },
    Check,
    Release,
}

/// The disk thread.
struct Keeper {
    device: Device,
    held: Arc<AtomicBool>,
    inbox: Receiver<Request>,
    period: Duration,
    deadline: Duration,
    on_event: Box<dyn Fn(DataEvent) + Send>,
    /// See [`DiskHandle`]'s `ended`.
    _alive: Sender<()>,
}

impl Keeper {
    fn run(mut self) {
        let mut next = Instant::now() + self.period;
        let why = loop {
            if Instant::now() >= next {
                next = Instant::now() + self.period;
                if let Err(why) = self.defend() {
                    break why;
                }
            }
            let request = match self.inbox.recv_deadline(next) {
                Ok(request) => request,
                Err(RecvTimeoutError::Timeout) => continue,
                Err(RecvTimeoutError::Disconnected) => return self.release(),
            };
            if matches!(request.ask, Ask::Release) {
                self.release();
                // Whoever asked may have gone.
                let _ = request.reply.send(Ok(Vec::new()));
                return;
            }
            let (answer, lost) = match self.serve(request.ask) {
                Ok(data) => (Ok(data), None),
                Err(Trouble::Failed(e)) => (Err(e), None),
                Err(Trouble::Lost(why)) => {
                    // Before the answer: who gets it must not find the disk held.
                    self.held.store(false, Ordering::Release);
                    (Err(IoError::Failed { what: "the command", why: why.clone() }), Some(why))
                }
            };
            // Whoever asked may have gone.
            let _ = request.reply.send(answer);
            if let Some(why) = lost {
                break why;
            }
        };
        self.held.store(false, Ordering::Release);
        tracing::warn!(disk = self.device.describe(), why, "data disk lost");
        (self.on_event)(DataEvent::Lost { why });
        // Ending the thread ends the session; requests that wait are answered with NotHeld.
    }

    fn release(&mut self) {
        self.held.store(false, Ordering::Release);
        for _ in 0..RESERVE_TRIES {
            let outcome = self.device.execute(&DiskOp::Release, self.deadline);
            if !matches!(outcome, DiskOutcome::UnitAttention { .. }) {
                break;
            }
        }
    }

    /// RESERVE by the holder; says why the disk is lost.
    fn defend(&mut self) -> Result<(), String> {
        match reserve(&mut self.device, self.deadline) {
            DiskOutcome::Good(_) | DiskOutcome::Busy => Ok(()),
            DiskOutcome::Conflict => Err("another initiator has reserved it".into()),
            DiskOutcome::Timeout => Err("the disk does not answer".into()),
            other => Err(format!("the reservation could not be renewed: {}", words(&other))),
        }
    }

    fn serve(&mut self, ask: Ask) -> Result<Vec<u8>, Trouble> {
        match ask {
            Ask::Read { offset, length } => self.read(offset, u64::from(length)),
            Ask::Write { offset, data, authority } => self.write(offset, data, &authority),
            Ask::Check => {
                self.command("TEST UNIT READY", &DiskOp::Test, None)?;
                self.command("READ", &DiskOp::Read { lba: 0, blocks: 1 }, None)
            }
            Ask::Release => Ok(Vec::new()),
        }
    }

    /// The blocks around a range: first block, number, and the range's place in their bytes.
    fn around(&self, offset: u64, length: u64) -> (u64, u64, usize) {
        let size = u64::from(self.device.capacity().block_size);
        let first = offset / size;
        let end = (offset + length).div_ceil(size);
        (first, end - first, usize::try_from(offset % size).unwrap_or(0))
    }

    fn read(&mut self, offset: u64, length: u64) -> Result<Vec<u8>, Trouble> {
        if length == 0 {
            return Ok(Vec::new());
        }
        let (first, count, skip) = self.around(offset, length);
        let mut data = self.read_blocks(first, count)?;
        data.drain(..skip);
        data.truncate(usize::try_from(length).unwrap_or(usize::MAX));
        Ok(data)
    }

    fn read_blocks(&mut self, first: u64, count: u64) -> Result<Vec<u8>, Trouble> {
        let step = CHUNK / u64::from(self.device.capacity().block_size);
        let mut data = Vec::new();
        let mut at = 0;
        while at < count {
            let blocks = u32::try_from(step.min(count - at)).unwrap_or(1);
            let op = DiskOp::Read { lba: first + at, blocks };
            data.extend(self.command("READ", &op, None)?);
            at += u64::from(blocks);
        }
        Ok(data)
    }

    /// Writes a range; what is not whole blocks is read first. Nobody else writes in between: all
    /// requests pass this thread, and the unit is reserved.
    fn write(&mut self, at: u64, data: Vec<u8>, authority: &Authority) -> Result<Vec<u8>, Trouble> {
        if data.is_empty() {
            return Ok(data);
        }
        let (first, count, skip) = self.around(at, data.len() as u64);
        let size = self.device.capacity().block_size as usize;
        let whole = if skip == 0 && data.len().is_multiple_of(size) {
            data
        } else {
            let mut whole = self.read_blocks(first, count)?;
            if let Some(place) = whole.get_mut(skip..skip + data.len()) {
                place.copy_from_slice(&data);
            }
            whole
        };
        let per_chunk = usize::try_from(CHUNK).unwrap_or(usize::MAX);
        for (i, chunk) in (0u64..).zip(whole.chunks(per_chunk)) {
            let lba = first + i * (CHUNK / size as u64);
            let op = DiskOp::Write { lba, data: chunk.to_vec() };
            self.command("WRITE", &op, Some(authority))?;
        }
        Ok(Vec::new())
    }

    /// One command. A unit attention or an abort means that it was not carried out and that the
    /// reservation is unknown: it is checked, and only a holder repeats the command, once.
    fn command(
        &mut self,
        what: &'static str,
        op: &DiskOp,
        authority: Option<&Authority>,
    ) -> Result<Vec<u8>, Trouble> {
        for first in [true, false] {
            if authority.is_some_and(|may| !may()) {
                return Err(Trouble::Failed(IoError::NoAuthority));
            }
            match self.device.execute(op, self.deadline) {
                DiskOutcome::Good(data) => return Ok(data),
                DiskOutcome::Conflict => {
                    return Err(Trouble::Lost("another initiator has reserved it".into()));
                }
                DiskOutcome::UnitAttention { .. } | DiskOutcome::Aborted if first => {
                    self.defend().map_err(Trouble::Lost)?;
                }
                DiskOutcome::Timeout => {
                    return Err(Trouble::Lost(format!("{what}: the disk does not answer")));
                }
                DiskOutcome::Transport(why) if !self.device.connected() => {
                    return Err(Trouble::Lost(format!("{what}: {why}")));
                }
                other => {
                    let why = words(&other);
                    return Err(Trouble::Failed(IoError::Failed { what, why }));
                }
            }
        }
        let why = "aborted again and again".to_owned();
        Err(Trouble::Failed(IoError::Failed { what, why }))
    }
}

/// Why a request was not carried out.
enum Trouble {
    /// This request alone.
    Failed(IoError),
    /// The disk is gone.
    Lost(String),
}

/// RESERVE; a unit attention, an abort or BUSY means that it was not carried out: ask again.
fn reserve(device: &mut Device, deadline: Duration) -> DiskOutcome {
    let mut outcome = DiskOutcome::Busy;
    for _ in 0..RESERVE_TRIES {
        outcome = device.execute(&DiskOp::Reserve, deadline);
        let again = matches!(
            outcome,
            DiskOutcome::UnitAttention { .. } | DiskOutcome::Aborted | DiskOutcome::Busy
        );
        if !again {
            break;
        }
    }
    outcome
}

/// The exclusion part of taking a disk.
fn acquire(device: &mut Device, times: &Times, holder: Holder) -> Result<(), TakeError> {
    let no_wait = (holder == Holder::Former).then_some(Duration::ZERO);
    let waits = no_wait.into_iter().chain([times.challenge_wait()]);
    let mut met = reserve(device, times.command_timeout);
    for wait in waits {
        if met != DiskOutcome::Conflict {
            break;
        }
        let reset = device.execute(&DiskOp::LunReset, times.command_timeout);
        if !matches!(reset, DiskOutcome::Good(_)) {
            return Err(failed(device, "LUN RESET", &reset));
        }
        std::thread::sleep(wait);
        met = reserve(device, times.command_timeout);
    }
    match met {
        DiskOutcome::Good(_) => Ok(()),
        DiskOutcome::Conflict => Err(TakeError::Defended { disk: device.describe().to_owned() }),
        other => Err(failed(device, "RESERVE", &other)),
    }
}

fn failed(device: &Device, what: &'static str, outcome: &DiskOutcome) -> TakeError {
    TakeError::Io { disk: device.describe().to_owned(), what, why: words(outcome) }
}
