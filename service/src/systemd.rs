//! What systemd is told: ready, stopping, status, and that the whole chain is alive.
//!
//! The watchdog is fed by a thread of its own, because systemd's socket may block, but only while
//! everything turns without which this node is none: the core's loop, the network driver's thread,
//! the store's thread.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use sd_notify::NotifyState;
use wolfpack_netdrv::DriverPulse;
use wolfpack_store::StorePulse;

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

/// What must turn for the watchdog to be fed.
#[derive(Clone, Debug)]
pub(crate) struct Chain {
    pub(crate) core: Pulse,
    pub(crate) driver: DriverPulse,
    pub(crate) store: StorePulse,
    /// A part that stands still for longer hangs.
    pub(crate) patience: Duration,
}

impl Chain {
    /// Which part hangs, in words.
    fn hangs(&self, core_turned: bool) -> Option<String> {
        if !core_turned {
            return Some("the core does not turn".into());
        }
        let (driver, store) = (self.driver.silent_for(), self.store.busy_for());
        if driver > self.patience {
            return Some(format!(
                "the network driver has not turned for {} ms",
                driver.as_millis()
            ));
        }
        (store > self.patience).then(|| {
            format!("the store has been waiting for the disk for {} ms", store.as_millis())
        })
    }
}

/// Starts to feed the watchdog, if systemd wants it.
pub(crate) fn watch(chain: Chain) -> std::io::Result<()> {
    let Some(limit) = sd_notify::watchdog_enabled() else { return Ok(()) };
    let period = (limit / 4).max(Duration::from_millis(10));
    thread::Builder::new().name("wolfpack-watchd".into()).stack_size(128 * 1024).spawn(
        move || {
            let mut seen = chain.core.0.load(Ordering::Relaxed);
            let mut hung = false;
            loop {
                thread::sleep(period);
                let now = chain.core.0.load(Ordering::Relaxed);
                let hangs = chain.hangs(now != seen);
                match &hangs {
                    None => tell(&[NotifyState::Watchdog]),
                    Some(why) if !hung => {
                        tracing::error!("{why}: systemd's watchdog is not fed any more");
                        status(why);
                    }
                    Some(_) => {}
                }
                if hung && hangs.is_none() {
                    status("running");
                }
                hung = hangs.is_some();
                seen = now;
            }
        },
    )?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use crossbeam_channel::bounded;
    use wolfpack_netdrv::{
        ClusterKey, DriverConfig, DriverNetwork, EventLoop, Security, start as start_driver,
    };
    use wolfpack_types::{Incarnation, NetworkId, NodeId, NodeInc, Rules, Times};

    use super::*;

    #[test]
    fn the_watchdog_is_fed_only_while_all_parts_turn() {
        let port = std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let me = NodeInc::new(NodeId::new(1).unwrap(), Incarnation(1));
        let network = DriverNetwork {
            id: NetworkId(0),
            name: "lo".into(),
            interface: "lo".into(),
            address: std::net::Ipv4Addr::LOCALHOST.into(),
            peers: BTreeMap::new(),
            priority: 0,
        };
        let config = DriverConfig {
            me,
            key: ClusterKey::from_bytes([1; 32]),
            times: Times::STANDARD,
            port,
            networks: vec![network],
            realtime: false,
            event_loop: EventLoop::Auto,
            rules: Rules::ALL,
            security: Security::default(),
        };
        let (notify, _events) = bounded(100);
        let driver = start_driver(config, Box::new(|_| {}), notify).unwrap();
        let chain = Chain {
            core: Pulse::default(),
            driver: driver.pulse(),
            store: StorePulse::default(),
            patience: Duration::from_secs(5),
        };
        assert_eq!(chain.hangs(true), None);
        assert!(chain.hangs(false).is_some_and(|why| why.contains("core")));
        driver.stop();
        let impatient = Chain { patience: Duration::ZERO, ..chain };
        thread::sleep(Duration::from_millis(1));
        let why = impatient.hangs(true);
        assert!(why.as_ref().is_some_and(|why| why.contains("network driver")), "{why:?}");
    }
}
