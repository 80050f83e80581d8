//! A clean leave (P7): hand over every group, say that nothing runs, go. No detection window.

use std::time::Duration;

use wolfpack_types::api::{ErrorKind, ErrorReply, Reply, Request};
use wolfpack_types::event::{EventKind, Severity};
use wolfpack_types::peer::PeerMessage;
use wolfpack_types::update::Refusal;
use wolfpack_types::{Instant, NodeId};

use crate::administration::translate;
use crate::resource::ResourceInput;
use crate::{Core, ExitReason};

/// Who cannot hand its groups over within this leaves all the same, with everything ended.
const PATIENCE: Duration = Duration::from_secs(20);

/// A leave under way.
#[derive(Debug)]
pub(crate) struct Leave {
    since: Instant,
    told: Instant,
}

impl Core {
    pub(crate) fn begin_leave(&mut self, now: Instant) {
        if self.leave.is_some() || self.exiting {
            return;
        }
        self.event(
            Severity::Info,
            EventKind::ServiceStopping { me: self.config.me },
            "the cluster service of this node leaves: its groups move away first".to_owned(),
        );
        self.leave = Some(Leave { since: now, told: now });
        self.membership.leaving.insert(self.config.me.node);
        self.leave_again();
        self.manage(now, ResourceInput::Leave);
        self.leave_tick(now);
    }

    /// Tells the leader (again) that this node wants to leave.
    pub(crate) fn leave_again(&mut self) {
        if self.leave.is_none() {
            return;
        }
        let who = self.config.me;
        self.membership.leaving.insert(who.node);
        if let Some(leader) = self.membership.installed.as_ref().map(|v| v.leader()) {
            let cause = self.events.causes.leave_cause();
            self.send(leader, PeerMessage::Leaving { who, cause });
        }
    }

    pub(crate) fn leave_tick(&mut self, now: Instant) {
        let Some(leave) = &mut self.leave else { return };
        let late = now - leave.since > PATIENCE;
        let again = now - leave.told > Duration::from_secs(1);
        if again {
            leave.told = now;
        }
        let member = self.membership.installed.is_some() && self.told_authority;
        let done =
            if member { self.manager.handed_over(&self.database) } else { self.manager.idle() };
        if !done && !late {
            if again {
                self.leave_again();
            }
            return;
        }
        self.say_exit();
        let evicted = self.database.is_evicted(self.config.me.node);
        self.exit(if evicted { ExitReason::Evicted } else { ExitReason::Left });
    }

    /// Nothing runs here: the others need not wait.
    fn say_exit(&mut self) {
        if !self.manager.idle() {
            return;
        }
        let who = self.config.me;
        let others: Vec<NodeId> =
            self.membership.peers.keys().copied().filter(|&n| n != who.node).collect();
        let cause = self.events.causes.leave_cause();
        for node in others {
            self.send(node, PeerMessage::Exit { who, cause });
        }
    }

    /// An administrator's request on this node.
    pub(crate) fn on_administrator(
        &mut self,
        now: Instant,
        id: u64,
        entropy: u128,
        request: &Request,
    ) {
        if matches!(request, Request::NetworkStatus { .. } | Request::NetworkInterfaceStatus) {
            return self.on_network_question(id, request);
        }
        if let Request::TreeWatch { key, recursive } = request {
            return self.watch(id, key, *recursive);
        }
        if !request.changes() {
            let reply = self.status_reply(now, request);
            return self.output(crate::Output::Reply { id, reply });
        }
        if self.exiting || self.leave.is_some() {
            let reply = Reply::Error(ErrorReply {
                kind: ErrorKind::Busy,
                what: "the cluster service of this node is leaving".into(),
                advice: "ask another node".into(),
            });
            return self.output(crate::Output::Reply { id, reply });
        }
        match request {
            Request::QuorumForce { dead } => return self.force_quorum(now, id, dead),
            Request::NodeDiscard => return self.discard(now, id),
            _ => {}
        }
        if self.membership.installed.is_none() {
            // The own database may be behind: what the request means is not known here.
            let why = self.waiting_for(now).unwrap_or_default();
            return self.reply_refusal(id, &Refusal::NoQuorum(format!("waiting for {why}")));
        }
        let leaving = &self.membership.leaving;
        let up = self
            .membership
            .installed
            .as_ref()
            .map(|v| {
                let active = |n: &NodeId| !leaving.contains(n) && self.database.takes(*n);
                v.members.keys().copied().filter(active).collect()
            })
            .unwrap_or_default();
        match translate(&self.database, &up, request, entropy) {
            Ok(Some(update)) => match self.survivable(now, &update) {
                Ok(()) => self.submit(now, update, Some(id)),
                Err(refusal) => self.reply_refusal(id, &refusal),
            },
            Ok(None) => {
                let reply = Reply::Error(ErrorReply {
                    kind: ErrorKind::Invalid,
                    what: "the core cannot carry out this request".into(),
                    advice: String::new(),
                });
                self.output(crate::Output::Reply { id, reply });
            }
            Err(error) => {
                self.output(crate::Output::Reply { id, reply: Reply::Error(error) });
            }
        }
    }
}
