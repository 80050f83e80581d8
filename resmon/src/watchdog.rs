//! What systemd is told of the guard: that it is ready, and that its loop goes round (WatchdogSec).
//!
//! PID 1 is one of the four hands at lease end: a guard that hangs is killed by it with everything
//! in its unit. systemd's socket may block, so a thread of its own does the talking, and only while
//! the loop has gone round since it last talked.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use sd_notify::NotifyState;

/// Counts the rounds of the guard's loop.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pulse {
    rounds: Arc<AtomicU64>,
}

impl Pulse {
    /// Starts the thread. Without systemd there is nobody to talk to and no thread.
    pub(crate) fn start() -> Self {
        let pulse = Self::default();
        if std::env::var_os("NOTIFY_SOCKET").is_none() {
            return pulse;
        }
        let period = sd_notify::watchdog_enabled().map(|limit| limit / 4);
        let rounds = Arc::clone(&pulse.rounds);
        let talk = move || talk(&rounds, period);
        // Without the thread systemd takes the guard for hung and starts it anew: loud enough.
        if let Err(e) = thread::Builder::new().name("watchdog".into()).spawn(talk) {
            tracing::error!("no thread to talk to systemd with: {e}");
        }
        pulse
    }

    /// The loop has gone round.
    pub(crate) fn beat(&self) {
        self.rounds.fetch_add(1, Ordering::Relaxed);
    }
}

fn talk(rounds: &AtomicU64, period: Option<Duration>) {
    let mut seen = 0;
    let mut ready = false;
    loop {
        let now = rounds.load(Ordering::Relaxed);
        if now != seen && !ready {
            ready = tell(&[NotifyState::Ready]);
        } else if now != seen && period.is_some() {
            tell(&[NotifyState::Watchdog]);
        }
        seen = now;
        match period {
            // No watchdog: this thread was needed for the first word only.
            None if ready => return,
            period => thread::sleep(period.unwrap_or(FIRST_LOOK).clamp(FIRST_LOOK, LAST_LOOK)),
        }
    }
}

const FIRST_LOOK: Duration = Duration::from_millis(10);
const LAST_LOOK: Duration = Duration::from_secs(1);

fn tell(state: &[NotifyState<'_>]) -> bool {
    sd_notify::notify(state).inspect_err(|e| tracing::warn!("cannot notify systemd: {e}")).is_ok()
}
