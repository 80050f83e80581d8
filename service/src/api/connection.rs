//! One connection to the local API: lines in, lines out, everything bounded.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{RecvTimeoutError, SendTimeoutError, bounded};
use nix::sys::socket::sockopt::PeerCredentials;
use nix::sys::socket::{MsgFlags, getsockopt, recv};
use wolfpack_types::api::{ErrorKind, ErrorReply, LINE_BYTES_MAX, Reply, Request};
use wolfpack_types::event::{EventFilter, EventId, EventQuery, StampedEvent, chain, timeline};

use super::{ApiCall, Context};
use crate::journal::{Cursor, NotYet};

/// Events sent between two looks at whether the reader is still there.
const EVENTS_AT_ONCE: usize = 256;
/// How long a follower may have gone before that is noticed.
const HANG_UP_CHECK: Duration = Duration::from_secs(1);
/// Answers to a watch that may wait for its client.
const WATCH_QUEUE: usize = 1024;
/// The core takes a request at once, unless it is overloaded.
const HAND_OVER: Duration = Duration::from_secs(2);

/// Says no and hangs up.
pub(super) fn refuse(stream: UnixStream, what: &str) {
    // A reader that is not there need not be told.
    let _ = stream.set_write_timeout(Some(Duration::from_millis(100)));
    let _ = say(&stream, &error(ErrorKind::Busy, what, "try again in a moment"));
}

/// Serves a connection until it ends, however that is.
pub(super) fn serve(stream: UnixStream, context: &Context) {
    match serve_lines(&stream, context) {
        Ok(()) => {}
        Err(e)
            if matches!(e.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset) => {}
        Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
            tracing::info!("a client of the local API was too slow or idle and is dropped");
        }
        Err(e) => tracing::info!("a connection to the local API ended: {e}"),
    }
}

fn serve_lines(stream: &UnixStream, context: &Context) -> io::Result<()> {
    stream.set_write_timeout(Some(context.limits.write))?;
    stream.set_read_timeout(Some(context.limits.idle))?;
    let who = getsockopt(stream, PeerCredentials)?;
    let own = nix::unistd::geteuid().as_raw();
    if who.uid() != 0 && who.uid() != own {
        let what = format!("user {} may not administer the cluster", who.uid());
        return say(stream, &error(ErrorKind::Invalid, &what, "run the command as root"));
    }
    let mut reader = BufReader::new(stream);
    let mut line = Vec::new();
    loop {
        line.clear();
        let limit = LINE_BYTES_MAX as u64 + 1;
        (&mut reader).take(limit).read_until(b'\n', &mut line)?;
        if line.last() != Some(&b'\n') {
            if line.len() > LINE_BYTES_MAX {
                say(stream, &error(ErrorKind::Invalid, "the request is too long", ""))?;
            }
            // The end, or half a request that will never be whole.
            return Ok(());
        }
        match serde_json::from_slice::<Request>(&line) {
            Ok(Request::Events(query)) => events(stream, context, &query)?,
            Ok(request @ Request::TreeWatch { .. }) => watch(stream, context, request)?,
            Ok(request) => say(stream, &ask(context, request))?,
            Err(e) => {
                let what = format!("this is not a request: {e}");
                let advice = "use the 'wolfpack' command of the same version as the service";
                say(stream, &error(ErrorKind::Invalid, &what, advice))?;
            }
        }
    }
}

/// Asks the core.
fn ask(context: &Context, request: Request) -> Reply {
    let (reply, answer) = bounded(1);
    if let Err(refusal) = hand_over(context, ApiCall { request, reply, watch: None }) {
        return *refusal;
    }
    match answer.recv_timeout(context.limits.answer) {
        Ok(reply) => reply,
        Err(RecvTimeoutError::Timeout) => error(
            ErrorKind::Busy,
            "the service did not find an answer in time; the change may still come about",
            "see 'wolfpack status' before you repeat it",
        ),
        Err(RecvTimeoutError::Disconnected) => ending(),
    }
}

fn hand_over(context: &Context, call: ApiCall) -> Result<(), Box<Reply>> {
    let refusal = match context.calls.send_timeout(call, HAND_OVER) {
        Ok(()) => return Ok(()),
        Err(SendTimeoutError::Timeout(_)) => {
            error(ErrorKind::Busy, "the service is overloaded", "try again in a moment")
        }
        Err(SendTimeoutError::Disconnected(_)) => ending(),
    };
    Err(Box::new(refusal))
}

/// Sends one answer after the other, until the client hangs up or is too slow to hear them all.
fn watch(stream: &UnixStream, context: &Context, request: Request) -> io::Result<()> {
    let (reply, answers) = bounded(WATCH_QUEUE);
    let alive = Arc::new(());
    let call = ApiCall { request, reply, watch: Some(Arc::downgrade(&alive)) };
    if let Err(refusal) = hand_over(context, call) {
        return say(stream, &refusal);
    }
    loop {
        match answers.recv_timeout(HANG_UP_CHECK) {
            Ok(reply) => {
                say(stream, &reply)?;
                if matches!(reply, Reply::Error(_)) {
                    return Ok(());
                }
            }
            Err(RecvTimeoutError::Timeout) if hung_up(stream) => {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => {
                let what = "the watch ended: changes came faster than they were read, or the \
                            service is ending";
                return say(stream, &error(ErrorKind::Busy, what, "read all, and watch again"));
            }
        }
    }
}

fn ending() -> Reply {
    error(ErrorKind::Busy, "the cluster service is ending", "see 'wolfpack status' in a moment")
}

fn error(kind: ErrorKind, what: &str, advice: &str) -> Reply {
    Reply::Error(ErrorReply { kind, what: what.into(), advice: advice.into() })
}

fn say(mut stream: &UnixStream, reply: &Reply) -> io::Result<()> {
    let mut line = serde_json::to_vec(reply).map_err(io::Error::other)?;
    if line.len() > LINE_BYTES_MAX {
        let what = "the answer is too long for one line";
        let reply = error(ErrorKind::Internal, what, "ask for one group or resource by its name");
        line = serde_json::to_vec(&reply).map_err(io::Error::other)?;
    }
    line.push(b'\n');
    stream.write_all(&line)
}

/// Sends events; with `follow` until the client hangs up.
fn events(stream: &UnixStream, context: &Context, query: &EventQuery) -> io::Result<()> {
    if let Some(id) = query.chain {
        return causes(stream, context, id, query.follow);
    }
    let (mut cursor, gone) = match context.journal.after(query.after, query.all_nodes) {
        Ok(start) => start,
        Err(NotYet { newest }) => {
            let what = format!(
                "event {} has not happened on this node: the newest is {newest}",
                query.after
            );
            let advice = "numbers are of this node's own events; leave it out to see all";
            return say(stream, &error(ErrorKind::Invalid, &what, advice));
        }
    };
    if gone {
        say(stream, &Reply::Dropped { count: None })?;
    }
    if query.all_nodes && !query.follow {
        return merged(stream, context, cursor, &query.filter);
    }
    loop {
        let read = context.journal.read(&mut cursor, EVENTS_AT_ONCE);
        if read.dropped > 0 {
            say(stream, &Reply::Dropped { count: Some(read.dropped) })?;
        }
        for event in read.events.iter().filter(|e| query.filter.matches(e)) {
            say(stream, &Reply::Event(Box::new(event.as_ref().clone())))?;
        }
        if !read.events.is_empty() {
            continue;
        }
        if !query.follow {
            return say(stream, &Reply::End);
        }
        context.journal.wait(cursor, HANG_UP_CHECK);
        if hung_up(stream) {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
    }
}

/// The events of all nodes in one order.
fn merged(
    stream: &UnixStream,
    context: &Context,
    mut cursor: Cursor,
    filter: &EventFilter,
) -> io::Result<()> {
    let kept = context.journal.read(&mut cursor, usize::MAX).events;
    let mut events: Vec<&StampedEvent> = kept.iter().map(AsRef::as_ref).collect();
    timeline(&mut events);
    for event in events.into_iter().filter(|e| filter.matches(e)) {
        say(stream, &Reply::Event(Box::new(event.clone())))?;
    }
    say(stream, &Reply::End)
}

/// An event and what led to it, the first cause first.
fn causes(stream: &UnixStream, context: &Context, id: EventId, follow: bool) -> io::Result<()> {
    if follow {
        let what = "a chain of causes is in the past: it cannot be followed";
        return say(stream, &error(ErrorKind::Invalid, what, "ask without --follow"));
    }
    let kept = context.journal.everything();
    let by_id: BTreeMap<EventId, &StampedEvent> = kept.iter().map(|e| (e.id, e.as_ref())).collect();
    let chain = chain(|id| by_id.get(&id).copied(), id);
    if chain.links.is_empty() {
        let what = format!("event {id} is not in the log of this node");
        let advice = "it may be too old, not have come here yet, or never have been; \
                      'wolfpack events --all-nodes' lists what there is";
        return say(stream, &error(ErrorKind::Unknown, &what, advice));
    }
    if chain.missing.is_some() {
        say(stream, &Reply::Dropped { count: None })?;
    }
    for event in chain.links {
        say(stream, &Reply::Event(Box::new(event.clone())))?;
    }
    say(stream, &Reply::End)
}

fn hung_up(stream: &UnixStream) -> bool {
    let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
    matches!(recv(stream.as_raw_fd(), &mut [0], flags), Ok(0))
}
