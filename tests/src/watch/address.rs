//! The address watcher: asks on the wire, by ARP, who has the cluster's address, twenty times a
//! second, and checks that no question is answered by two machines.
//!
//! Each question carries a sender MAC address of its own (its number is in it), to which the answer
//! must be addressed: so an answer belongs to one question for certain, and a legitimate move
//! between two questions is never taken for two owners.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::sync::Arc;

use anyhow::{Context, Result};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::{Shared, Watching};
use crate::clock::now_us;
use crate::netns::Netns;
use crate::network::mac_text;
use crate::sys::PacketSocket;

const PERIOD_US: u64 = 50_000;
/// Sender MAC addresses of the questions begin so (locally administered); the number follows.
const ASKER: [u8; 2] = [0x06, 0xA5];
const FRAME: usize = 42;
const ETHERTYPE_ARP: u16 = 0x0806;

type Mac = [u8; 6];

/// Somebody answered for the address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Claim {
    pub at_us: u64,
    pub mac: Mac,
    /// It answered a question; else it announced itself (gratuitous ARP).
    pub asked: bool,
}

#[derive(Debug, Default)]
struct Notes {
    questions: u32,
    claims: Vec<Claim>,
    answers: BTreeMap<u32, BTreeSet<Mac>>,
    breaches: Vec<String>,
}

impl Notes {
    fn take(&mut self, at_us: u64, frame: &[u8], address: Ipv4Addr) {
        let Some(arp) = Arp::parse(frame) else { return };
        if arp.sender_ip != address || arp.sender_mac[..2] == ASKER {
            return;
        }
        let question = number(arp.target_mac).filter(|_| arp.operation == REPLY);
        self.claims.push(Claim { at_us, mac: arp.sender_mac, asked: question.is_some() });
        let Some(question) = question else { return };
        let macs = self.answers.entry(question).or_default();
        macs.insert(arp.sender_mac);
        if macs.len() == 2 {
            let who: Vec<String> = macs.iter().map(|&m| mac_text(m)).collect();
            self.breaches.push(format!(
                "at {at_us} us two machines answered for {address}: {}",
                who.join(" and ")
            ));
        }
    }
}

/// The watcher and its thread.
#[derive(Debug)]
pub struct AddressWatcher {
    watching: Watching<Notes, Result<()>>,
}

impl AddressWatcher {
    /// Starts asking on `interface` of `ns`, as `asker` (an address that nobody else has).
    ///
    /// # Errors
    /// No packet socket, or no such interface.
    pub fn start(ns: &Netns, interface: &str, asker: Ipv4Addr, address: Ipv4Addr) -> Result<Self> {
        let shared = Arc::new(Shared::<Notes>::default());
        let theirs = Arc::clone(&shared);
        let interface = interface.to_owned();
        let (ready, opened) = std::sync::mpsc::channel();
        let thread = ns.thread("lab-arp", move || {
            let socket = PacketSocket::open(&interface, ETHERTYPE_ARP);
            let socket = match socket {
                Ok(socket) => socket,
                Err(e) => {
                    let _ = ready.send(Err(e));
                    return;
                }
            };
            let _ = ready.send(Ok(()));
            watch(&theirs, &socket, asker, address);
        })?;
        opened.recv().context("the address watcher's thread ended")?.context("a packet socket")?;
        Ok(Self { watching: Watching { shared, thread: Some(thread) } })
    }

    /// Questions asked so far.
    #[must_use]
    pub fn questions(&self) -> u32 {
        self.watching.shared.notes().questions
    }

    /// All that was heard since a time.
    #[must_use]
    pub fn claims_since(&self, since_us: u64) -> Vec<Claim> {
        let notes = self.watching.shared.notes();
        notes.claims.iter().filter(|c| c.at_us >= since_us).copied().collect()
    }

    /// The last answer of a machine to a question.
    #[must_use]
    pub fn last_answer_of(&self, mac: Mac) -> Option<u64> {
        let notes = self.watching.shared.notes();
        notes.claims.iter().rev().find(|c| c.asked && c.mac == mac).map(|c| c.at_us)
    }

    /// Whether nobody answers: no answer to any question of the last `span_us`.
    #[must_use]
    pub fn silent_for(&self, span_us: u64) -> bool {
        let from = now_us().saturating_sub(span_us);
        !self.claims_since(from).iter().any(|c| c.asked)
    }

    /// Every question that two machines answered.
    #[must_use]
    pub fn breaches(&self) -> Vec<String> {
        self.watching.shared.notes().breaches.clone()
    }
}

fn watch(shared: &Shared<Notes>, socket: &PacketSocket, asker: Ipv4Addr, address: Ipv4Addr) {
    let mut next = now_us();
    while !shared.stopped() {
        if now_us() >= next {
            next = now_us().max(next + PERIOD_US);
            let mut notes = shared.notes();
            notes.questions += 1;
            let frame = question(notes.questions, asker, address);
            drop(notes);
            // A question that is not sent has no answer: that breaks nothing.
            let _ = socket.send(&frame);
        }
        let ms = next.saturating_sub(now_us()).div_ceil(1000);
        let mut fds = [PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
        let _ = poll(&mut fds, PollTimeout::from(u16::try_from(ms).unwrap_or(50)));
        let mut frame = [0; 128];
        while let Ok(len) = socket.receive(&mut frame) {
            shared.notes().take(now_us(), &frame[..len], address);
        }
    }
}

const REQUEST: u16 = 1;
const REPLY: u16 = 2;

/// An ARP packet for IPv4 over Ethernet (RFC 826).
struct Arp {
    operation: u16,
    sender_mac: Mac,
    sender_ip: Ipv4Addr,
    target_mac: Mac,
}

impl Arp {
    fn parse(frame: &[u8]) -> Option<Self> {
        // Ethernet type ARP; hardware Ethernet, protocol IPv4, lengths 6 and 4.
        let fixed = [0x08, 0x06, 0, 1, 0x08, 0, 6, 4];
        if frame.len() < FRAME || frame[12..20] != fixed {
            return None;
        }
        Some(Self {
            operation: u16::from_be_bytes([frame[20], frame[21]]),
            sender_mac: frame[22..28].try_into().ok()?,
            sender_ip: Ipv4Addr::new(frame[28], frame[29], frame[30], frame[31]),
            target_mac: frame[32..38].try_into().ok()?,
        })
    }
}

fn asker_mac(number: u32) -> Mac {
    let n = number.to_be_bytes();
    [ASKER[0], ASKER[1], n[0], n[1], n[2], n[3]]
}

/// The question that a MAC address belongs to.
fn number(mac: Mac) -> Option<u32> {
    (mac[..2] == ASKER).then(|| u32::from_be_bytes([mac[2], mac[3], mac[4], mac[5]]))
}

fn question(number: u32, asker: Ipv4Addr, address: Ipv4Addr) -> [u8; FRAME] {
    let mac = asker_mac(number);
    let mut frame = [0; FRAME];
    frame[..6].fill(0xff);
    // The frame's own source is always the same, so that the switch does not learn thousands.
    frame[6..12].copy_from_slice(&asker_mac(0));
    frame[12..20].copy_from_slice(&[0x08, 0x06, 0, 1, 0x08, 0, 6, 4]);
    frame[20..22].copy_from_slice(&REQUEST.to_be_bytes());
    frame[22..28].copy_from_slice(&mac);
    frame[28..32].copy_from_slice(&asker.octets());
    frame[38..42].copy_from_slice(&address.octets());
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 50);

    fn answer(number: u32, who: u8) -> [u8; FRAME] {
        let mut frame = question(number, Ipv4Addr::new(10, 77, 0, 201), ADDRESS);
        frame[20..22].copy_from_slice(&REPLY.to_be_bytes());
        frame[22..28].copy_from_slice(&[2, 0, 0, 0, 0, who]);
        frame[28..32].copy_from_slice(&ADDRESS.octets());
        frame[32..38].copy_from_slice(&asker_mac(number));
        frame
    }

    #[test]
    fn two_answers_to_one_question_are_a_breach_two_questions_are_a_move() {
        let mut notes = Notes::default();
        for (at, number, who) in [(1, 7, 1), (2, 7, 1), (3, 8, 2), (4, 9, 1)] {
            notes.take(at, &answer(number, who), ADDRESS);
        }
        assert_eq!(notes.breaches, Vec::<String>::new());
        notes.take(5, &answer(9, 2), ADDRESS);
        assert_eq!(notes.breaches.len(), 1);
        assert!(notes.breaches[0].contains("02:00:00:00:00:01 and 02:00:00:00:00:02"));
    }

    #[test]
    fn questions_and_strangers_are_no_claims() {
        let mut notes = Notes::default();
        notes.take(1, &question(7, ADDRESS, ADDRESS), ADDRESS);
        let mut other = answer(7, 1);
        other[31] = 51;
        notes.take(2, &other, ADDRESS);
        notes.take(3, &answer(7, 1)[..30], ADDRESS);
        assert!(notes.claims.is_empty());
    }
}
