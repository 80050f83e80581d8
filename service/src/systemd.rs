//! What systemd is told: ready, stopping, status, and that the core is alive.
//!
//! The watchdog is fed by a thread of its own, because systemd's socket may block, but only while
//! the core's loop goes round.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use sd_notify::NotifyState;

/// Tells systemd something; without systemd it does nothing.
fn tell(states: &[NotifyState<'_>]) {
    if let Err(e) = sd_notify::notify(states) {
        tracing::warn!("cannot notify systemd: {e}");
    }
}

/// What the service waits for, in words.
pub(crate) fn status(text: &str) {
    tell(&[NotifyState::Status(text)]);
}

/// The service works.
pub(crate) fn ready() {
    tell(&[NotifyState::Ready, NotifyState::Status("running")]);
}

/// The service ends.
pub(crate) fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// Counts the rounds of the core's loop.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pulse(Arc<AtomicU64>);

impl Pulse {
    pub(crate) fn beat(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// Starts to feed the watchdog, if systemd wants it.
pub(crate) fn watch(pulse: &Pulse) -> std::io::Result<()> {
    let Some(limit) = sd_notify::watchdog_enabled() else { return Ok(()) };
    let period = (limit / 4).max(Duration::from_millis(10));
    let pulse = pulse.clone();
    thread::Builder::new().name("wolfpack-watchd".into()).stack_size(128 * 1024).spawn(
        move || {
            let mut seen = pulse.0.load(Ordering::Relaxed);
            loop {
                thread::sleep(period);
                let now = pulse.0.load(Ordering::Relaxed);
                if now != seen {
                    tell(&[NotifyState::Watchdog]);
                }
                seen = now;
            }
        },
    )?;
    Ok(())
}
