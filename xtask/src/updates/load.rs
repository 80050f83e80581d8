//! Clients that ask as fast as they are answered, and what they found.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, ensure};
use serde::Serialize;

/// Not counted at the beginning.
const WARM_UP: Duration = Duration::from_millis(500);

/// What a measurement gave.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Figures {
    pub(super) updates: usize,
    pub(super) per_second: f64,
    pub(super) median_ms: f64,
    pub(super) p99_ms: f64,
    pub(super) max_ms: f64,
}

/// One client: makes an update and waits for its answer.
pub(super) type Ask = Box<dyn FnMut(u64) -> Result<()> + Send>;

/// Runs the clients that `make` connects, each in a thread, for a span.
pub(super) fn run(clients: Vec<Ask>, span: Duration) -> Result<Figures> {
    let over = Arc::new(AtomicBool::new(false));
    let begin = Instant::now() + WARM_UP;
    let threads: Vec<_> = clients
        .into_iter()
        .map(|mut ask| {
            let over = Arc::clone(&over);
            thread::spawn(move || -> Result<Vec<f64>> {
                let mut took = Vec::new();
                for n in 0.. {
                    if over.load(Ordering::Relaxed) {
                        break;
                    }
                    let asked = Instant::now();
                    ask(n)?;
                    if asked >= begin {
                        took.push(asked.elapsed().as_secs_f64() * 1000.0);
                    }
                }
                Ok(took)
            })
        })
        .collect();
    thread::sleep(WARM_UP + span);
    over.store(true, Ordering::Relaxed);
    let mut all = Vec::new();
    for thread in threads {
        all.extend(thread.join().map_err(|_| anyhow!("a client panicked"))??);
    }
    figures(all, span)
}

fn figures(mut took: Vec<f64>, span: Duration) -> Result<Figures> {
    ensure!(!took.is_empty(), "not one update was answered in {span:?}");
    took.sort_by(f64::total_cmp);
    let at = |permille: usize| took[(took.len() - 1) * permille / 1000];
    let count = u32::try_from(took.len())?;
    Ok(Figures {
        updates: took.len(),
        per_second: f64::from(count) / span.as_secs_f64(),
        median_ms: at(500),
        p99_ms: at(990),
        max_ms: at(1000),
    })
}

/// A value of so many bytes that is another one each time.
pub(super) fn value(client: usize, n: u64, bytes: usize) -> String {
    let mut text = format!("{client}-{n}-");
    text.extend(std::iter::repeat_n('x', bytes.saturating_sub(text.len())));
    text.truncate(bytes);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_of_known_times() {
        let took = (1..=1000).map(f64::from).collect();
        let f = figures(took, Duration::from_secs(2)).unwrap();
        assert_eq!((f.updates, f.per_second), (1000, 500.0));
        assert_eq!((f.median_ms, f.p99_ms, f.max_ms), (500.0, 990.0, 1000.0));
        assert!(figures(vec![], Duration::from_secs(1)).is_err());
    }

    #[test]
    fn values_differ_and_have_their_size() {
        assert_eq!(value(3, 7, 64).len(), 64);
        assert_eq!(value(3, 7, 1024).len(), 1024);
        assert_ne!(value(3, 7, 64), value(3, 8, 64));
    }
}
