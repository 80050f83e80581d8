//! The asker's side of a global update: numbers requests, asks the locker, asks the next one again,
//! and answers the administrator.
//!
//! The database remembers the last [`REQUESTS_KEPT`] requests of a life, so no request is ever asked
//! that is further than that ahead of the oldest one without an answer: what the database has
//! forgotten was answered, and a repetition is always recognised (P8).

use wolfpack_types::api::Reply;
use wolfpack_types::event::EventId;
use wolfpack_types::peer::PeerMessage;
use wolfpack_types::update::{Refusal, Update};
use wolfpack_types::{Instant, RequestId, Seq};

use super::QUEUE_MAX;
use crate::administration::refused;
use crate::database::REQUESTS_KEPT;
use crate::io::REQUEST_PATIENCE;
use crate::{Core, Output};

/// A request of this node that waits for the locker's answer.
#[derive(Debug)]
pub(crate) struct Outstanding {
    update: Update,
    cause: Option<EventId>,
    /// The administrator's request, if one waits.
    api: Option<u64>,
    since: Instant,
}

impl Core {
    /// Asks the locker for an update. `api`: an administrator waits for the answer.
    pub(crate) fn submit(&mut self, now: Instant, update: Update, api: Option<u64>) {
        if update.is_volatile() && self.membership.installed.is_none() {
            // The owner says its states again when a view is there.
            return;
        }
        if self.outstanding.len() >= QUEUE_MAX {
            if let Some(id) = api {
                let refusal = Refusal::Busy("too many requests wait for the locker".into());
                self.reply_refusal(id, &refusal);
            }
            return;
        }
        let cause = self.events.cause_of_update(&update);
        self.last_request += 1;
        let number = self.last_request;
        if update.is_volatile() && api.is_none() {
            // Not repeated at the next locker.
            return self.ask_locker(number, update, cause);
        }
        let outstanding = Outstanding { update, cause, api, since: now };
        self.outstanding.insert(number, outstanding);
        self.ask_those_allowed();
    }

    fn ask_locker(&mut self, number: u64, update: Update, cause: Option<EventId>) {
        if let Some(view) = &self.membership.installed {
            let id = RequestId { from: self.config.me, number };
            self.send(view.leader(), PeerMessage::Request { id, update, cause });
        }
    }

    /// Asks for what may be asked and was not yet, in this view.
    fn ask_those_allowed(&mut self) {
        let Some((&oldest, _)) = self.outstanding.first_key_value() else { return };
        let end = oldest + REQUESTS_KEPT as u64;
        while let Some((&number, o)) = self.outstanding.range(self.asked + 1..end).next() {
            let (update, cause) = (o.update.clone(), o.cause);
            self.asked = number;
            self.ask_locker(number, update, cause);
        }
    }

    /// A new view: whoever leads it is asked again (duplicates are recognised by their id).
    pub(crate) fn ask_again(&mut self) {
        self.asked = 0;
        self.ask_those_allowed();
    }

    pub(crate) fn on_request_done(&mut self, id: RequestId, result: Result<Seq, Refusal>) {
        if id.from != self.config.me {
            return;
        }
        let Some(outstanding) = self.outstanding.remove(&id.number) else { return };
        if let Some(api) = outstanding.api {
            match result {
                Ok(seq) => {
                    self.output(Output::Reply { id: api, reply: Reply::Done { seq: seq.0 } });
                }
                Err(refusal) => self.reply_refusal(api, &refusal),
            }
        }
        self.ask_those_allowed();
    }

    pub(crate) fn reply_refusal(&mut self, id: u64, refusal: &Refusal) {
        let error = refused(refusal);
        self.output(Output::Reply { id, reply: Reply::Error(error) });
    }

    /// Each tick: members that do not acknowledge, requests that nobody answers.
    pub(crate) fn update_tick(&mut self, now: Instant) {
        self.persist_applied();
        self.copy_tick(now);
        self.restore_tick();
        self.watch_progress(now);
        let late: Vec<u64> = self
            .outstanding
            .iter()
            .filter(|(_, o)| now - o.since > REQUEST_PATIENCE)
            .map(|(&n, _)| n)
            .collect();
        for number in late {
            let Some(o) = self.outstanding.remove(&number) else { continue };
            let Some(api) = o.api else { continue };
            let refusal = match self.waiting_for(now) {
                Some(why) if self.membership.installed.is_none() => Refusal::NoQuorum(why),
                _ => Refusal::Regrouping,
            };
            self.reply_refusal(api, &refusal);
        }
    }
}
