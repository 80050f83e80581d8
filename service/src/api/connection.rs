//! One connection to the local API: lines in, lines out, everything bounded.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{RecvTimeoutError, SendTimeoutError, bounded};
use nix::sys::socket::sockopt::PeerCredentials;
use nix::sys::socket::{MsgFlags, getsockopt, recv};
use wolfpack_types::api::{ErrorKind, ErrorReply, LINE_BYTES_MAX, Reply, Request};

use super::{ApiCall, Context};

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
            Ok(Request::Events { after, follow }) => events(stream, context, after, follow)?,
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
        return refusal;
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

fn hand_over(context: &Context, call: ApiCall) -> Result<(), Reply> {
    match context.calls.send_timeout(call, HAND_OVER) {
        Ok(()) => Ok(()),
        Err(SendTimeoutError::Timeout(_)) => {
            Err(error(ErrorKind::Busy, "the service is overloaded", "try again in a moment"))
        }
        Err(SendTimeoutError::Disconnected(_)) => Err(ending()),
    }
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
fn events(stream: &UnixStream, context: &Context, after: u64, follow: bool) -> io::Result<()> {
    let mut last = after;
    loop {
        let batch = context.journal.later(last, EVENTS_AT_ONCE);
        for event in &batch {
            say(stream, &Reply::Event(event.as_ref().clone()))?;
            last = event.number;
        }
        if !batch.is_empty() {
            continue;
        }
        if !follow {
            return say(stream, &Reply::End);
        }
        context.journal.wait(last, HANG_UP_CHECK);
        if hung_up(stream) {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
    }
}

fn hung_up(stream: &UnixStream) -> bool {
    let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
    matches!(recv(stream.as_raw_fd(), &mut [0], flags), Ok(0))
}
