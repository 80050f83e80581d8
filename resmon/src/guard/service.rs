//! The guard's side of its socket: who may attach, and what an attached service may ask.

use std::os::fd::AsFd;
use std::time::Duration;

use wolfpack_resource::boottime;
use wolfpack_resource::rpc::{Channel, Peer, RpcError};
use wolfpack_resource::section::{MONITORS_MAX, Section};
use wolfpack_types::monitor::{GuardCommand, GuardEvent, MONITOR_PROTOCOL};
use wolfpack_types::{Instant, NodeInc};

use super::{Guard, State};

/// A connection that says nothing for this long is closed.
const SILENCE_MAX: Duration = Duration::from_secs(5);

/// Connections that have not attached; more are turned away.
const CALLERS_MAX: usize = 8;

/// How long an answer may wait for room in the socket of a service that has just asked.
const PATIENCE: Duration = Duration::from_millis(100);

pub(super) type ServiceChannel = Channel<GuardEvent, GuardCommand>;

/// The attached service.
#[derive(Debug)]
pub(super) struct Service {
    pub(super) channel: ServiceChannel,
    pub(super) peer: Peer,
    /// In which everything must be over after the lease's end.
    pub(super) margin: Duration,
}

/// Somebody who has connected.
#[derive(Debug)]
pub(super) struct Caller {
    pub(super) channel: ServiceChannel,
    peer: Peer,
    /// He asked to attach with this life and margin, and waits until leftovers are ended.
    pub(super) asked: Option<(NodeInc, Duration)>,
    /// When his time is over.
    pub(super) until: Instant,
}

impl Guard {
    /// Accepts connections, and reads what they say first.
    pub(super) fn take_callers(&mut self) {
        if readable(&self.listener) {
            match self.listener.accept() {
                Ok((fd, peer)) => self.admit(fd, peer),
                Err(e) => tracing::warn!("a connection was not accepted: {e}"),
            }
        }
        let mut i = 0;
        while i < self.callers.len() {
            if self.hear(i) {
                i += 1;
            } else {
                self.callers.remove(i);
            }
        }
    }

    fn admit(&mut self, fd: std::os::fd::OwnedFd, peer: Peer) {
        let me = nix::unistd::geteuid().as_raw();
        if peer.uid != 0 && peer.uid != me {
            tracing::warn!(uid = peer.uid, pid = peer.pid, "a stranger was turned away");
            return;
        }
        if self.callers.len() >= CALLERS_MAX {
            tracing::warn!(pid = peer.pid, "too many connections: this one was turned away");
            return;
        }
        match ServiceChannel::from_fd(fd) {
            Ok(channel) => {
                let until = boottime() + SILENCE_MAX;
                self.callers.push(Caller { channel, peer, asked: None, until });
            }
            Err(e) => tracing::warn!("a connection was not accepted: {e}"),
        }
    }

    /// Reads the first words of a caller; false: he is to be dropped.
    fn hear(&mut self, i: usize) -> bool {
        let caller = &mut self.callers[i];
        if caller.asked.is_some() {
            return true;
        }
        let received = match caller.channel.recv(Some(Duration::ZERO)) {
            Ok(None) => return boottime() < caller.until,
            Ok(Some(received)) => received.message,
            Err(RpcError::Closed) => return false,
            Err(e) => {
                tracing::warn!(pid = caller.peer.pid, "a caller was dropped: {e}");
                return false;
            }
        };
        let GuardCommand::Attach { version, me, margin_ms } = received else {
            refuse(caller, "attach first");
            return false;
        };
        if version != MONITOR_PROTOCOL {
            let why = format!(
                "the service speaks version {version} of the monitor protocol, this guard version \
                 {MONITOR_PROTOCOL}: install the same release of both"
            );
            refuse(caller, &why);
            return false;
        }
        // More than the configured margin would break the wait of the others.
        let margin = Duration::from_millis(margin_ms).min(self.node.config.times.margin);
        caller.asked = Some((me, margin));
        // Time to end what a former life left, and as much again.
        caller.until = boottime() + self.node.config.times.margin * 4;
        true
    }

    /// Answers those who have asked, as far as that is possible now.
    pub(super) fn answer_callers(&mut self) {
        let now = boottime();
        let mut waiting = Vec::new();
        for caller in std::mem::take(&mut self.callers) {
            let Some((me, margin)) = caller.asked else {
                waiting.push(caller);
                continue;
            };
            let refusal = match &self.state {
                _ if self.stopping => Some("the guard is being stopped".to_owned()),
                State::Attached(section) => Some(self.occupied(section)),
                State::Ending(_) if now < caller.until => {
                    waiting.push(caller);
                    continue;
                }
                State::Ending(ending) => Some(format!(
                    "things of a former life have been ended for {} ms, and these are left: {}",
                    now.since(ending.since).as_millis(),
                    ending.left.join(", ")
                )),
                State::Idle => self.objection(me),
            };
            match refusal {
                Some(why) => {
                    tracing::warn!(pid = caller.peer.pid, life = %me, "attach refused: {why}");
                    refuse(&caller, &why);
                }
                None => self.attach(caller, me, margin),
            }
        }
        self.callers = waiting;
    }

    fn occupied(&self, section: &Section) -> String {
        let pid = self.service.as_ref().map_or(0, |s| s.peer.pid);
        format!("a service (process {pid}, life {}) is attached already", section.life())
    }

    fn objection(&self, me: NodeInc) -> Option<String> {
        if me.node != self.node.config.me {
            let mine = self.node.config.me;
            return Some(format!("this is the guard of node {mine}, not of node {}", me.node));
        }
        let last = self.last?;
        (me.inc <= last.inc)
            .then(|| format!("life {me} is not after {last}, which this guard has seen the end of"))
    }

    fn attach(&mut self, caller: Caller, me: NodeInc, margin: Duration) {
        let section = match Section::create(me) {
            Ok(section) => section,
            Err(e) => {
                tracing::error!("no section for a service: {e}");
                return refuse(&caller, &e.to_string());
            }
        };
        let attached = GuardEvent::Attached { version: MONITOR_PROTOCOL };
        if let Err(e) = caller.channel.send_fds(&attached, &[section.as_fd()], PATIENCE) {
            tracing::warn!("a service asked to attach and went away: {e}");
            return;
        }
        tracing::info!(life = %me, pid = caller.peer.pid, "a service has attached");
        // The service has read it just now; it may have been changed while none ran.
        self.node.reload_key();
        let now = boottime();
        section.beat(now);
        self.last = Some(me);
        self.next_renewal = now;
        self.service = Some(Service { channel: caller.channel, peer: caller.peer, margin });
        self.state = State::Attached(section);
    }

    /// Reads what the service says; learns that it is gone.
    pub(super) fn take_service(&mut self) {
        while let Some(service) = &self.service {
            match service.channel.recv(Some(Duration::ZERO)) {
                Ok(None) => return,
                Ok(Some(received)) => self.obey(received.message),
                Err(e) => {
                    tracing::warn!(pid = service.peer.pid, "the service is lost: {e}");
                    self.service = None;
                }
            }
        }
    }

    fn obey(&mut self, command: GuardCommand) {
        match command {
            GuardCommand::StartMonitor { number } => self.start_monitor(number),
            GuardCommand::TerminateAll { why } => self.end(&why, boottime()),
            GuardCommand::ReloadKey => self.node.reload_key(),
            GuardCommand::Attach { .. } => {
                self.tell(&GuardEvent::Refused { why: "this service is attached already".into() });
            }
        }
    }

    fn start_monitor(&mut self, number: u32) {
        let State::Attached(section) = &self.state else {
            let why = "everything of this life was ended: no monitor is started any more".into();
            return self.tell(&GuardEvent::Refused { why });
        };
        if !(1..=MONITORS_MAX).contains(&number) {
            let why = format!("there is no monitor {number}: they are 1 to {MONITORS_MAX}");
            return self.tell(&GuardEvent::Refused { why });
        }
        let poke = self.poke.as_fd();
        let started = self.monitors.start(number, &self.node, section, poke, self.cgroups.as_ref());
        match started {
            Ok((pid, socket)) => {
                tracing::info!(monitor = number, pid, "a resource monitor runs");
                let event = GuardEvent::MonitorStarted { number, pid };
                if let Some(service) = &self.service
                    && let Err(e) = service.channel.send_fds(&event, &[socket.as_fd()], PATIENCE)
                {
                    // Its socket closes here, and the monitor ends by itself.
                    tracing::warn!("the service did not take its monitor's socket: {e}");
                }
            }
            Err(fault) => {
                tracing::error!(monitor = number, "cannot start: {fault}");
                self.tell(&GuardEvent::Refused { why: fault.to_string() });
            }
        }
    }
}

fn refuse(caller: &Caller, why: &str) {
    // If he does not listen he learns it from the closed channel.
    let _ = caller.channel.send(&GuardEvent::Refused { why: why.into() }, Duration::ZERO);
}

fn readable(fd: &impl AsFd) -> bool {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    poll(&mut [PollFd::new(fd.as_fd(), PollFlags::POLLIN)], PollTimeout::ZERO) == Ok(1)
}
