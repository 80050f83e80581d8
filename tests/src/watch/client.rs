//! The client: asks the demo application over HTTP 200 times a second, each time on a connection
//! of its own, and writes down when which node answered. What it sees is the outage.

use std::io::{Read, Write};
use std::net::{SocketAddrV4, TcpStream};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;

use anyhow::Result;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrIn, connect, getsockopt, setsockopt, socket, sockopt,
};

use super::{Shared, Watching};
use crate::clock::now_us;
use crate::netns::Netns;

/// Between two requests.
const PERIOD_US: u64 = 5_000;
/// A request without an answer is given up after this.
const PATIENCE_US: u64 = 1_000_000;
const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n";
const ANSWER_MAX: usize = 4096;

/// One answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Answer {
    /// When the request was sent, CLOCK_BOOTTIME, microseconds.
    pub asked_us: u64,
    /// When the answer was whole.
    pub at_us: u64,
    /// The node that answered.
    pub node: String,
}

/// What the client saw of a fault.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Outage {
    pub last: Answer,
    pub first: Answer,
}

impl Outage {
    /// How long nobody answered, in milliseconds.
    #[must_use]
    pub fn ms(&self) -> f64 {
        millis(self.first.at_us.saturating_sub(self.last.at_us))
    }
}

fn millis(us: u64) -> f64 {
    // Spans of a lab are far below 2^52 microseconds.
    #[expect(clippy::cast_precision_loss, reason = "a lab runs for minutes")]
    let us = us as f64;
    us / 1000.0
}

#[derive(Debug, Default)]
struct Notes {
    answers: Vec<Answer>,
    asked: u64,
    failed: u64,
}

/// The client and its thread.
#[derive(Debug)]
pub struct Client {
    watching: Watching<Notes, Result<()>>,
}

impl Client {
    /// Starts asking.
    ///
    /// # Errors
    /// No thread can be made in the namespace.
    pub fn start(ns: &Netns, server: SocketAddrV4) -> Result<Self> {
        let shared = Arc::new(Shared::<Notes>::default());
        let theirs = Arc::clone(&shared);
        let thread = ns.thread("lab-client", move || ask(&theirs, server))?;
        let thread = std::thread::spawn(move || match thread.join() {
            Ok(done) => done,
            Err(_) => anyhow::bail!("the client's thread panicked"),
        });
        Ok(Self { watching: Watching { shared, thread: Some(thread) } })
    }

    /// Requests sent, and those among them that failed or were given up.
    #[must_use]
    pub fn counts(&self) -> (u64, u64) {
        let notes = self.watching.shared.notes();
        (notes.asked, notes.failed)
    }

    /// All answers since a time.
    #[must_use]
    pub fn answers_since(&self, since_us: u64) -> Vec<Answer> {
        let notes = self.watching.shared.notes();
        let from = notes.answers.partition_point(|a| a.at_us < since_us);
        notes.answers[from..].to_vec()
    }

    /// The newest answer.
    #[must_use]
    pub fn newest(&self) -> Option<Answer> {
        self.watching.shared.notes().answers.last().cloned()
    }

    /// What a fault meant to the client, once answers have come back: the silence at the first
    /// change of the answering node after it, or the longest one where the node did not change.
    #[must_use]
    pub fn outage(&self, fault_us: u64) -> Option<Outage> {
        outage(&self.watching.shared.notes().answers, fault_us)
    }
}

/// The silence that belongs to a fault.
fn outage(answers: &[Answer], fault_us: u64) -> Option<Outage> {
    let silences = || answers.windows(2).filter(|pair| pair[1].at_us >= fault_us);
    silences()
        .find(|pair| pair[0].node != pair[1].node)
        .or_else(|| silences().max_by_key(|pair| pair[1].at_us - pair[0].at_us))
        .map(|pair| Outage { last: pair[0].clone(), first: pair[1].clone() })
}

/// A request under way.
struct Pending {
    stream: TcpStream,
    asked_us: u64,
    sent: bool,
    answer: Vec<u8>,
}

enum Progress {
    Pending,
    Answered(String),
    Failed,
}

fn ask(shared: &Shared<Notes>, server: SocketAddrV4) {
    let mut pending: Vec<Pending> = Vec::new();
    let mut next = now_us();
    while !shared.stopped() {
        let now = now_us();
        if now >= next {
            // Not caught up after a stall: the rate is a rate, not a count.
            next = now.max(next + PERIOD_US);
            shared.notes().asked += 1;
            match begin(server) {
                Ok(stream) => {
                    pending.push(Pending {
                        stream,
                        asked_us: now,
                        sent: false,
                        answer: Vec::new(),
                    });
                }
                Err(_) => shared.notes().failed += 1,
            }
        }
        wait_ready(&pending, next);
        pending.retain_mut(|p| match proceed(p) {
            Progress::Pending if now_us() < p.asked_us + PATIENCE_US => true,
            Progress::Answered(node) => {
                let answer = Answer { asked_us: p.asked_us, at_us: now_us(), node };
                shared.notes().answers.push(answer);
                false
            }
            Progress::Pending | Progress::Failed => {
                shared.notes().failed += 1;
                false
            }
        });
    }
}

fn begin(server: SocketAddrV4) -> Result<TcpStream> {
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let fd = socket(AddressFamily::Inet, SockType::Stream, flags, None)?;
    // Closed by a reset: two hundred connections a second would use up the ports.
    setsockopt(&fd, sockopt::Linger, &libc::linger { l_onoff: 1, l_linger: 0 })?;
    match connect(fd.as_raw_fd(), &SockaddrIn::from(server)) {
        Ok(()) | Err(Errno::EINPROGRESS) => Ok(TcpStream::from(fd)),
        Err(e) => Err(e.into()),
    }
}

fn wait_ready(pending: &[Pending], until_us: u64) {
    let flags = |p: &Pending| if p.sent { PollFlags::POLLIN } else { PollFlags::POLLOUT };
    let mut fds: Vec<_> = pending.iter().map(|p| PollFd::new(p.stream.as_fd(), flags(p))).collect();
    let ms = until_us.saturating_sub(now_us()).div_ceil(1000);
    // An interrupted wait is only a short one.
    let _ = poll(&mut fds, PollTimeout::from(u16::try_from(ms).unwrap_or(5)));
}

fn proceed(p: &mut Pending) -> Progress {
    if !p.sent {
        match getsockopt(&p.stream, sockopt::SocketError) {
            Ok(0) => {}
            _ => return Progress::Failed,
        }
        match p.stream.write(REQUEST) {
            Ok(n) if n == REQUEST.len() => p.sent = true,
            Ok(_) => return Progress::Failed,
            Err(e) => return pending_or_failed(&e),
        }
    }
    let mut bytes = [0; 1024];
    loop {
        match p.stream.read(&mut bytes) {
            Ok(0) => return finished(&p.answer),
            Ok(n) if p.answer.len() + n <= ANSWER_MAX => p.answer.extend_from_slice(&bytes[..n]),
            Ok(_) => return Progress::Failed,
            Err(e) => return pending_or_failed(&e),
        }
    }
}

fn pending_or_failed(e: &std::io::Error) -> Progress {
    use std::io::ErrorKind::{Interrupted, NotConnected, WouldBlock};
    match e.kind() {
        WouldBlock | Interrupted | NotConnected => Progress::Pending,
        _ => Progress::Failed,
    }
}

fn finished(answer: &[u8]) -> Progress {
    let text = String::from_utf8_lossy(answer);
    if !text.starts_with("HTTP/1.1 200 ") {
        return Progress::Failed;
    }
    match text.split_ascii_whitespace().find_map(|w| w.strip_prefix("node=")) {
        Some(node) => Progress::Answered(node.to_owned()),
        None => Progress::Failed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(at_us: u64, node: &str) -> Answer {
        Answer { asked_us: at_us, at_us, node: node.into() }
    }

    #[test]
    fn the_change_of_node_counts_else_the_longest_silence() {
        let times = [(0, "a"), (900, "a"), (1000, "a"), (1500, "a"), (1600, "b"), (2900, "b")];
        let mut answers: Vec<Answer> = times.map(|(at, node)| answer(at, node)).to_vec();
        let moved = outage(&answers, 950).unwrap();
        assert_eq!((moved.last.at_us, moved.first.at_us), (1500, 1600));
        assert_eq!(moved.first.node, "b");
        assert!((moved.ms() - 0.1).abs() < 1e-9);
        let stayed = outage(&answers, 1601).unwrap();
        assert_eq!((stayed.last.at_us, stayed.first.at_us), (1600, 2900));
        answers.truncate(4);
        let stayed = outage(&answers, 950).unwrap();
        assert_eq!((stayed.last.at_us, stayed.first.at_us), (1000, 1500));
        assert!(outage(&answers, 1501).is_none(), "no answer since the fault, no outage known");
    }

    #[test]
    fn only_whole_good_answers_count() {
        assert!(
            matches!(finished(b"HTTP/1.1 200 OK\r\n\r\nnode=b x\n"), Progress::Answered(n) if n == "b")
        );
        assert!(matches!(finished(b"HTTP/1.1 500 Oops\r\n\r\nnode=b\n"), Progress::Failed));
        assert!(matches!(finished(b""), Progress::Failed));
    }
}
