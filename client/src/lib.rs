//! A blocking client of the service's local API: one JSON object per line over a Unix socket.
//!
//! It does not interpret what the service says and never retries a change by itself: whether a
//! request was carried out when the connection broke is for the caller to find out. Used by the
//! command line and by the laboratories.

#![forbid(unsafe_code)]

mod error;
mod line;

use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use wolfpack_types::api::{Reply, Request};
use wolfpack_types::event::{EventQuery, StampedEvent};

pub use error::ClientError;
use line::Lines;

/// Where the service listens unless told otherwise.
pub const DEFAULT_SOCKET: &str = "/run/wolfpack/api.sock";

/// A connection to the service of this node.
#[derive(Debug)]
pub struct Client {
    lines: Lines,
    path: PathBuf,
}

impl Client {
    /// Connects to the socket at `path`. `timeout` bounds every later request.
    ///
    /// # Errors
    /// [`ClientError::NotRunning`] if nobody listens there, [`ClientError::Denied`] if this user
    /// may not ask, and [`ClientError::Io`] otherwise.
    pub fn connect(path: &Path, timeout: Duration) -> Result<Self, ClientError> {
        let stream = UnixStream::connect(path).map_err(|e| ClientError::connecting(path, e))?;
        let lines = Lines::new(stream, timeout).map_err(|e| ClientError::io(path, e))?;
        Ok(Self { lines, path: path.to_owned() })
    }

    /// Asks one thing and waits for its answer.
    ///
    /// # Errors
    /// A refusal of the service ([`ClientError::Refused`]), or a connection that broke or stayed
    /// silent for the timeout: a change may then have been carried out or not.
    pub fn request(&mut self, request: &Request) -> Result<Reply, ClientError> {
        self.send(request)?;
        match self.receive()? {
            Reply::Error(refusal) => Err(ClientError::Refused(refusal)),
            reply => Ok(reply),
        }
    }

    /// Reads the events later than number `after`; with `follow` the iterator does not end by
    /// itself but waits for new ones.
    ///
    /// # Errors
    /// As [`Client::request`].
    pub fn events(self, after: u64, follow: bool) -> Result<Events, ClientError> {
        self.events_where(EventQuery { after, follow, ..EventQuery::default() })
    }

    /// Reads the events that the query asks for; see [`Client::events`].
    ///
    /// # Errors
    /// As [`Client::request`].
    pub fn events_where(mut self, query: EventQuery) -> Result<Events, ClientError> {
        let follow = query.follow;
        self.send(&Request::Events(query))?;
        if follow {
            // The next event may come tomorrow.
            self.lines.wait_for_ever().map_err(|e| ClientError::io(&self.path, e))?;
        }
        Ok(Events { client: self, over: false, gap: None })
    }

    /// Asks for something that is answered again and again: each answer as it comes, until the
    /// service ends it. The iterator waits for the next as long as it takes.
    ///
    /// # Errors
    /// As [`Client::request`].
    pub fn watch(mut self, request: &Request) -> Result<Replies, ClientError> {
        self.send(request)?;
        self.lines.wait_for_ever().map_err(|e| ClientError::io(&self.path, e))?;
        Ok(Replies { client: self, over: false })
    }

    fn send(&mut self, request: &Request) -> Result<(), ClientError> {
        let mut line =
            serde_json::to_vec(request).map_err(|e| ClientError::garbled(&self.path, e))?;
        line.push(b'\n');
        self.lines.write(&line).map_err(|e| ClientError::io(&self.path, e))
    }

    fn receive(&mut self) -> Result<Reply, ClientError> {
        let line = self.lines.read().map_err(|e| ClientError::io(&self.path, e))?;
        let line = line.ok_or_else(|| ClientError::Closed { path: self.path.clone() })?;
        serde_json::from_slice(&line).map_err(|e| ClientError::garbled(&self.path, e))
    }
}

/// Answers that come one after the other.
#[derive(Debug)]
pub struct Replies {
    client: Client,
    over: bool,
}

impl Iterator for Replies {
    type Item = Result<Reply, ClientError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.over {
            return None;
        }
        let failure = match self.client.receive() {
            Ok(Reply::Error(refusal)) => ClientError::Refused(refusal),
            Ok(reply) => return Some(Ok(reply)),
            Err(e) => e,
        };
        self.over = true;
        Some(Err(failure))
    }
}

/// The events of a node, oldest first.
#[derive(Debug)]
pub struct Events {
    client: Client,
    over: bool,
    gap: Option<Option<u64>>,
}

impl Events {
    /// Whether events are missing before the last item (no longer kept, or this reader was too
    /// slow), and how many, if that is known. Asked once, it is forgotten.
    pub const fn take_gap(&mut self) -> Option<Option<u64>> {
        self.gap.take()
    }
}

impl Iterator for Events {
    type Item = Result<StampedEvent, ClientError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.over {
            return None;
        }
        let received = loop {
            match self.client.receive() {
                Ok(Reply::Dropped { count }) => {
                    let before = self.gap.unwrap_or(Some(0));
                    let sum = before.zip(count).map(|(a, b)| a.saturating_add(b));
                    self.gap = Some(sum);
                }
                received => break received,
            }
        };
        let item = match received {
            Ok(Reply::Event(event)) => return Some(Ok(*event)),
            Ok(Reply::End) => None,
            Ok(Reply::Error(refusal)) => Some(Err(ClientError::Refused(refusal))),
            Ok(other) => Some(Err(ClientError::Unexpected { got: format!("{other:?}") })),
            Err(e) => Some(Err(e)),
        };
        self.over = true;
        item
    }
}

#[cfg(test)]
mod tests;
