//! Requests for which something must be done outside before the core is asked: a witness prepared,
//! a file written or read. Each is done by a thread of its own; its end comes back to the core's
//! loop.

use wolfpack_core::Input;
use wolfpack_diskarb::format::Overwrite;
use wolfpack_types::api::{ErrorKind, ErrorReply, Reply, Request};
use wolfpack_types::config::valid_name;
use wolfpack_types::membership::QuorumConfig;
use wolfpack_types::objects::Cluster;
use wolfpack_types::register::Exclusion;
use wolfpack_types::{ClusterId, Guid};

use crate::outside::{Outside, entropy, refusal};
use crate::witness;

/// A request that waits for its witness.
#[derive(Debug)]
pub(crate) enum Waiting {
    Create {
        request: u64,
        cluster: Cluster,
    },
    /// `QuorumSet`, with the identity of the register that is being prepared for it.
    Set {
        id: u64,
        register: u128,
        request: Request,
    },
}

impl Outside {
    /// `cluster create`: all that can be checked before the witness is touched, then the witness.
    pub(crate) fn create(
        &mut self,
        request: u64,
        name: String,
        overwrite: bool,
    ) -> Result<Option<Input>, ErrorReply> {
        if !valid_name(&name) {
            return Err(refusal(
                ErrorKind::Invalid,
                format!("'{}' is no name for a cluster", name.escape_debug()),
                "use 1 to 63 letters, digits, '-', '_' and '.', beginning with a letter or digit",
            ));
        }
        if self.in_cluster {
            let what = "this node belongs to a cluster already";
            return Err(refusal(ErrorKind::Exists, what, "see 'wolfpack cluster status'"));
        }
        if let Some(&node) = self.peers_in_cluster.first() {
            return Err(refusal(
                ErrorKind::Exists,
                format!("node '{}' belongs to a cluster already", self.config.name_of(node)),
                "this node joins it by itself: wait a moment and see 'wolfpack cluster status'",
            ));
        }
        let spec = witness::configured(&self.config, self.cluster);
        let quorum = QuorumConfig::of(self.config.quorum, spec.clone());
        let cluster = Cluster { id: self.cluster, name, quorum };
        let Some(spec) = spec else {
            return Ok(Some(Input::Create { id: request, cluster, entropy: entropy() }));
        };
        let place = (spec.place, spec.exclusion, self.cluster);
        self.prepare(place, overwrite, Waiting::Create { request, cluster })
    }

    /// `quorum set`: a witness at another place is prepared first.
    pub(crate) fn set_quorum(
        &mut self,
        id: u64,
        request: Request,
    ) -> Result<Option<Input>, ErrorReply> {
        let register = entropy();
        let Request::QuorumSet { witness: Some(place), exclusion, overwrite, .. } = &request else {
            return Ok(Some(Input::Request { id, entropy: register, request }));
        };
        let asked = exclusion.unwrap_or_default();
        if let Some(open) = self.seat.spec().filter(|open| open.place == *place) {
            if exclusion.is_some_and(|e| e != open.exclusion) {
                return Err(refusal(
                    ErrorKind::Invalid,
                    format!(
                        "{place} is the witness now, and is not prepared anew under its voters"
                    ),
                    "move the witness to another place first ('wolfpack quorum set --witness'), or \
                     take it away and give it back with the other exclusion",
                ));
            }
            return Ok(Some(Input::Request { id, entropy: register, request }));
        }
        if asked == Exclusion::Reserve && ["share:", "file:"].iter().any(|p| place.starts_with(p)) {
            return Err(refusal(
                ErrorKind::Invalid,
                format!("{place} knows no reservations"),
                "leave --exclusion out",
            ));
        }
        if !self.in_cluster {
            let what = "there is no cluster yet on this node";
            return Err(refusal(ErrorKind::Invalid, what, "see 'wolfpack cluster status'"));
        }
        let place = (place.clone(), asked, ClusterId(Guid(register)));
        let overwrite = *overwrite;
        self.prepare(place, overwrite, Waiting::Set { id, register, request })
    }

    fn prepare(
        &mut self,
        (place, exclusion, register): (String, Exclusion, ClusterId),
        overwrite: bool,
        waiting: Waiting,
    ) -> Result<Option<Input>, ErrorReply> {
        if self.waiting.is_some() {
            let what = "a witness is just being prepared";
            return Err(refusal(ErrorKind::Busy, what, "wait for its end"));
        }
        let job = witness::Job {
            place,
            exclusion,
            cluster: self.cluster,
            register,
            node: self.config.me,
            overwrite: if overwrite { Overwrite::Yes } else { Overwrite::No },
        };
        witness::start(job, self.prepared.clone()).map_err(|e| {
            refusal(ErrorKind::Internal, format!("cannot start a thread: {e}"), "try again")
        })?;
        self.waiting = Some(waiting);
        Ok(None)
    }

    /// The witness is prepared, or cannot be.
    pub(crate) fn witness_prepared(&mut self, result: Result<(), ErrorReply>) -> Option<Input> {
        let waiting = self.waiting.take()?;
        if let Err(e) = result {
            let (Waiting::Create { request: id, .. } | Waiting::Set { id, .. }) = waiting;
            self.reply(id, Reply::Error(e));
            return None;
        }
        Some(match waiting {
            Waiting::Create { request, cluster } => {
                Input::Create { id: request, cluster, entropy: entropy() }
            }
            Waiting::Set { id, register, request } => {
                Input::Request { id, entropy: register, request }
            }
        })
    }
}
