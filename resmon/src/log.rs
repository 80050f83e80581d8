//! Log lines to standard error that never make their writer wait.
//!
//! Standard error may be a pipe whose reader hangs (a stalled journal), and the guard must end
//! things all the same. So lines go through a bounded queue to a thread of their own; what does not
//! fit is dropped and counted, and the count is said when there is room again.

use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

use nix::sys::signal::{SigSet, SigmaskHow};
use tracing_subscriber::fmt::MakeWriter;

/// Lines that may wait.
const QUEUE: usize = 1024;

/// How long the end of the process may wait for its last words.
const LAST_WORDS: Duration = Duration::from_millis(200);

enum Line {
    Text(Vec<u8>),
    /// All before it has been written when this is answered.
    Flush(SyncSender<()>),
}

/// The way to the writing thread.
#[derive(Clone)]
struct Lines {
    queue: SyncSender<Line>,
    dropped: Arc<AtomicU64>,
}

/// One event's text, handed over when it is complete.
struct OneLine {
    lines: Lines,
    text: Vec<u8>,
}

static LINES: OnceLock<Lines> = OnceLock::new();

/// Sends all log events of the process to standard error from now on.
pub fn start() {
    let (queue, inbox) = sync_channel(QUEUE);
    let lines = Lines { queue, dropped: Arc::default() };
    let dropped = Arc::clone(&lines.dropped);
    // Signals are for the main thread, which the guard has take them as data: this thread is born
    // with all of them blocked.
    let before = SigSet::all().thread_swap_mask(SigmaskHow::SIG_BLOCK);
    let thread = thread::Builder::new().name("log".into());
    let thread = thread.spawn(move || write_all(&inbox, &dropped));
    if let Ok(before) = before {
        // The mask was good a moment ago.
        let _ = before.thread_set_mask();
    }
    if thread.is_err() {
        // No thread, no log: still better than no guard.
        return;
    }
    let lines = LINES.get_or_init(|| lines).clone();
    // An error means that there is a subscriber already, which is as good.
    let _ =
        tracing_subscriber::fmt().with_ansi(false).with_target(false).with_writer(lines).try_init();
}

/// Waits a little until what was logged is written: before the process ends.
pub fn flush() {
    if let Some(lines) = LINES.get() {
        let (done, wait) = sync_channel(1);
        if lines.queue.try_send(Line::Flush(done)).is_ok() {
            // Whether it was or not: the process ends.
            let _ = wait.recv_timeout(LAST_WORDS);
        }
    }
}

fn write_all(inbox: &Receiver<Line>, dropped: &AtomicU64) {
    let mut out = io::stderr();
    while let Ok(line) = inbox.recv() {
        match line {
            Line::Text(text) => {
                // Nowhere to say that the log cannot be written.
                let _ = out.write_all(&text);
                let lost = dropped.swap(0, Ordering::Relaxed);
                if lost > 0 {
                    let _ = writeln!(out, "({lost} log lines were dropped: nobody read them)");
                }
            }
            Line::Flush(done) => {
                let _ = done.try_send(());
            }
        }
    }
}

impl MakeWriter<'_> for Lines {
    type Writer = OneLine;
    fn make_writer(&self) -> OneLine {
        OneLine { lines: self.clone(), text: Vec::new() }
    }
}

impl Write for OneLine {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.text.extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for OneLine {
    fn drop(&mut self) {
        let text = std::mem::take(&mut self.text);
        if !text.is_empty() && self.lines.queue.try_send(Line::Text(text)).is_err() {
            self.lines.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}
