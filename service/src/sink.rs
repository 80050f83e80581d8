//! A thread that writes lines somewhere that may block, fed by a bounded queue that never does.
//! Lines that do not fit are counted, and the count is written as soon as there is room.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Sender, bounded};

/// Lines that may wait.
const QUEUE: usize = 4096;

/// What goes to the thread.
enum Item {
    Line(Vec<u8>),
    /// Answer when everything before it is written.
    Flush(Sender<()>),
}

/// Handle of the thread.
#[derive(Clone, Debug)]
pub(crate) struct Sink {
    lines: Sender<Item>,
    dropped: Arc<AtomicU64>,
}

/// Makes the line that says how many are missing.
pub(crate) type Note = fn(dropped: u64) -> Vec<u8>;

impl Sink {
    /// Starts the thread.
    pub(crate) fn start(
        name: &str,
        mut target: Box<dyn Write + Send>,
        note: Note,
    ) -> std::io::Result<Self> {
        let (lines, queue) = bounded(QUEUE);
        let dropped = Arc::new(AtomicU64::new(0));
        let missing = Arc::clone(&dropped);
        thread::Builder::new().name(name.into()).stack_size(128 * 1024).spawn(move || {
            for item in queue {
                match item {
                    Item::Line(line) => {
                        // Nobody is left to tell if even this cannot be written.
                        let _ = target.write_all(&line);
                        let n = missing.swap(0, Ordering::Relaxed);
                        if n > 0 {
                            let _ = target.write_all(&note(n));
                        }
                    }
                    Item::Flush(done) => {
                        let _ = target.flush();
                        let _ = done.send(());
                    }
                }
            }
        })?;
        Ok(Self { lines, dropped })
    }

    /// Queues a line, with its end. Never waits.
    pub(crate) fn write(&self, line: Vec<u8>) {
        if self.lines.try_send(Item::Line(line)).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Waits until everything queued is written, at most `patience`.
    pub(crate) fn flush(&self, patience: Duration) {
        let (done, wait) = bounded(1);
        if self.lines.send_timeout(Item::Flush(done), patience).is_ok() {
            let _ = wait.recv_timeout(patience);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    /// A target that blocks until it is let go.
    #[derive(Clone, Default)]
    struct Gate(Arc<Mutex<Vec<u8>>>);

    impl Write for Gate {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_stalled_target_holds_up_nobody_and_the_loss_is_counted() {
        let gate = Gate::default();
        let note = |n: u64| format!("{n} lost\n").into_bytes();
        let held = gate.0.lock().unwrap();
        let sink = Sink::start("sink-test", Box::new(gate.clone()), note).unwrap();
        // One line is in the writer's hands at most, the queue holds QUEUE, the rest is lost.
        for _ in 0..QUEUE + 100 {
            sink.write(b"x\n".to_vec());
        }
        assert!(sink.dropped.load(Ordering::Relaxed) >= 99);
        drop(held);
        sink.flush(Duration::from_secs(60));
        let text = String::from_utf8(gate.0.lock().unwrap().clone()).unwrap();
        let lost: u64 = text
            .lines()
            .filter_map(|l| l.strip_suffix(" lost"))
            .map(|n| n.parse::<u64>().unwrap())
            .sum();
        let kept = text.lines().filter(|l| *l == "x").count() as u64;
        assert_eq!(kept + lost, QUEUE as u64 + 100);
    }
}
