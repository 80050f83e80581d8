//! What the kernel refuses for us while a network is flooded: a classic BPF program on the socket.
//!
//! In ordinary times every datagram comes up, so that what is refused can be counted and told with
//! its reason. But a refused datagram costs a microsecond or two up here; so when too many come, the
//! kernel is given the cheap half of the rules (form, version, cluster, address of a peer) until the
//! flood is over. One in [`SAMPLE`] of what it refuses comes up all the same: by that the flood, and
//! its end, are seen.

use std::net::IpAddr;
use std::time::Duration;

use socket2::SockFilter;
use wolfpack_types::Instant;

use crate::packet::{ClusterTag, KIND_AT, MAGIC, TAG_AT, TESTAMENT_KIND, VERSION};

/// Of what the filter refuses, one of so many comes up (a power of two).
pub(crate) const SAMPLE: u32 = 256;
/// A flood begins with so many refused datagrams in a period of this length ...
const REFUSED_MAX: u64 = 1000;
const PERIOD: Duration = Duration::from_millis(500);
/// ... and is over when there were fewer for so long.
const QUIET: Duration = Duration::from_secs(10);

/// What to do about a socket's filter.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Act {
    /// A flood, of so many datagrams a second as far as was seen.
    Attach {
        per_second: u64,
    },
    Detach,
}

/// Watches what is refused on one network.
#[derive(Debug)]
pub(crate) struct Flood {
    since: Instant,
    refused: u64,
    attached: bool,
    /// The last period with too much.
    last: Instant,
}

impl Flood {
    pub(crate) fn new(now: Instant) -> Self {
        Self { since: now, refused: 0, attached: false, last: now }
    }

    /// A new socket has no filter.
    pub(crate) fn reset(&mut self) {
        self.attached = false;
    }

    /// A datagram was refused; by the flow of time alone nothing begins.
    pub(crate) fn refused(&mut self) {
        self.refused += if self.attached { u64::from(SAMPLE) } else { 1 };
    }

    /// What follows at this time.
    pub(crate) fn judge(&mut self, now: Instant) -> Option<Act> {
        let span = now.since(self.since);
        if span < PERIOD && (self.attached || self.refused < REFUSED_MAX) {
            return None;
        }
        let refused = std::mem::take(&mut self.refused);
        self.since = now;
        // By rate: what has gathered while nothing was judged is no flood.
        let too_much = refused >= REFUSED_MAX
            && u128::from(refused) * PERIOD.as_nanos() >= u128::from(REFUSED_MAX) * span.as_nanos();
        if too_much {
            self.last = now;
        }
        if too_much && !self.attached {
            self.attached = true;
            let ms = u64::try_from(span.as_millis()).unwrap_or(u64::MAX).max(1);
            return Some(Act::Attach { per_second: refused.saturating_mul(1000) / ms });
        }
        if self.attached && now.since(self.last) >= QUIET {
            self.attached = false;
            return Some(Act::Detach);
        }
        None
    }
}

// linux/bpf_common.h, linux/filter.h
const LOAD_WORD: u16 = 0x20;
const LOAD_BYTE: u16 = 0x30;
const AND: u16 = 0x54;
const JUMP: u16 = 0x05;
const JUMP_EQUAL: u16 = 0x15;
const RETURN: u16 = 0x06;
/// Offsets from here are in the IP header.
const NETWORK_HEADER: u32 = (-0x10_0000_i32).cast_unsigned();
/// A random number, as if it were in the datagram.
const RANDOM: u32 = (-0x1000_i32 + 56).cast_unsigned();
/// A filter of a UDP socket sees the UDP header first.
const UDP_HEADER: u32 = 8;
const ALL: u32 = u32::MAX;

/// The program for one network: datagrams of this cluster from these addresses pass, and the guards'
/// last words from any address.
pub(crate) fn program<'a>(
    tag: ClusterTag,
    peers: impl Iterator<Item = &'a IpAddr>,
) -> Vec<SockFilter> {
    let at = |offset: usize| UDP_HEADER + u32::try_from(offset).unwrap_or(0);
    let [t0, t1, t2, t3, t4, t5, t6, t7] = tag;
    let mut code = Assembly::default();
    code.require(LOAD_WORD, at(0), u32::from_be_bytes(MAGIC));
    code.require(LOAD_BYTE, at(MAGIC.len()), VERSION.into());
    code.require(LOAD_WORD, at(TAG_AT), u32::from_be_bytes([t0, t1, t2, t3]));
    code.require(LOAD_WORD, at(TAG_AT + 4), u32::from_be_bytes([t4, t5, t6, t7]));
    code.pass_if(&[(LOAD_BYTE, at(KIND_AT), TESTAMENT_KIND.into())]);
    for peer in peers {
        match peer {
            IpAddr::V4(v4) => code.pass_if(&[(LOAD_WORD, NETWORK_HEADER + 12, v4.to_bits())]),
            IpAddr::V6(v6) => {
                let word = |n: u32| {
                    let shifted = v6.to_bits() >> (96 - 32 * n) & u128::from(u32::MAX);
                    u32::try_from(shifted).unwrap_or(0)
                };
                let parts = [0, 1, 2, 3].map(|n| (LOAD_WORD, NETWORK_HEADER + 8 + 4 * n, word(n)));
                code.pass_if(&parts);
            }
        }
    }
    code.finish()
}

#[derive(Default)]
struct Assembly {
    code: Vec<SockFilter>,
    /// Jumps to the refusal at the end.
    refusals: Vec<usize>,
}

impl Assembly {
    fn put(&mut self, code: u16, then: u8, or: u8, k: u32) {
        self.code.push(SockFilter::new(code, then, or, k));
    }

    /// Refuses unless the field has the value.
    fn require(&mut self, load: u16, at: u32, value: u32) {
        self.put(load, 0, 0, at);
        self.put(JUMP_EQUAL, 1, 0, value);
        self.refusals.push(self.code.len());
        self.put(JUMP, 0, 0, 0);
    }

    /// Lets pass if all fields have their values; else goes on.
    fn pass_if(&mut self, fields: &[(u16, u32, u32)]) {
        let mut left = u8::try_from(fields.len() * 2).unwrap_or(u8::MAX);
        for &(load, at, value) in fields {
            left = left.saturating_sub(2);
            self.put(load, 0, 0, at);
            // Past the rest of the fields and the return.
            self.put(JUMP_EQUAL, 0, left + 1, value);
        }
        self.put(RETURN, 0, 0, ALL);
    }

    fn finish(mut self) -> Vec<SockFilter> {
        let end = self.code.len();
        for at in self.refusals.clone() {
            // Counted from the instruction after the jump.
            let over = u32::try_from(end - at - 1).unwrap_or(0);
            self.code[at] = SockFilter::new(JUMP, 0, 0, over);
        }
        self.put(LOAD_WORD, 0, 0, RANDOM);
        self.put(AND, 0, 0, SAMPLE - 1);
        self.put(JUMP_EQUAL, 0, 1, 0);
        self.put(RETURN, 0, 0, ALL);
        self.put(RETURN, 0, 0, 0);
        self.code
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Instant = Instant(1_000_000_000_000);
    const MS: Duration = Duration::from_millis(1);

    /// How many of so many datagrams the kernel lets pass from `from` to a socket with the program
    /// for these peers.
    fn passed(peers: &[IpAddr], local: &str, datagram: &[u8], count: usize) -> usize {
        use std::net::UdpSocket;
        let tag = *b"clustr01";
        let (to, from) = (UdpSocket::bind(local).unwrap(), UdpSocket::bind(local).unwrap());
        socket2::SockRef::from(&to).attach_filter(&program(tag, peers.iter())).unwrap();
        to.set_nonblocking(true).unwrap();
        let mut seen = 0;
        let mut buffer = [0; 100];
        for _ in 0..count {
            from.send_to(datagram, to.local_addr().unwrap()).unwrap();
            while to.recv(&mut buffer).is_ok() {
                seen += 1;
            }
        }
        seen
    }

    #[test]
    fn the_kernel_lets_pass_what_may_be_a_peers_and_a_sample_of_the_rest() {
        const COUNT: usize = 5000;
        let mut good = [0_u8; 60];
        good[..4].copy_from_slice(&MAGIC);
        good[4] = VERSION;
        good[KIND_AT] = 2;
        good[TAG_AT..TAG_AT + 8].copy_from_slice(b"clustr01");
        let with = |at: usize, byte: u8| {
            let mut bytes = good;
            bytes[at] = byte;
            bytes
        };
        let (v4, v6): (IpAddr, IpAddr) = ("127.0.0.1".parse().unwrap(), "::1".parse().unwrap());
        let others = |n: u8| -> Vec<IpAddr> {
            let other = |n| [IpAddr::from([10, 0, 0, n]), format!("fd00::{n}").parse().unwrap()];
            (1..=n).flat_map(other).collect()
        };
        for (own, local) in [(v4, "127.0.0.1:0"), (v6, "[::1]:0")] {
            // The last of as many peers as there can be.
            let peers = [others(63), vec![own]].concat();
            assert_eq!(passed(&peers, local, &good, 100), 100);
            let guard = with(KIND_AT, TESTAMENT_KIND);
            assert_eq!(passed(&others(63), local, &guard, 100), 100, "a guard, from anywhere");
            let refused = [
                (passed(&others(63), local, &good, COUNT), "an unknown address"),
                (passed(&peers, local, &with(0, b'X'), COUNT), "no datagram of ours"),
                (passed(&peers, local, &with(4, VERSION + 1), COUNT), "another version"),
                (passed(&peers, local, &with(TAG_AT, b'X'), COUNT), "another cluster"),
                (passed(&peers, local, &with(TAG_AT + 7, b'X'), COUNT), "another cluster"),
            ];
            for (seen, what) in refused {
                // About 20 are expected.
                assert!((1..=100).contains(&seen), "{what}: {seen} of {COUNT} came up");
            }
            assert_eq!(passed(&peers, local, &good[..20], COUNT), 0, "cut off");
        }
    }

    #[test]
    fn a_flood_is_seen_at_once_and_its_end_after_a_quiet_time() {
        let mut flood = Flood::new(START);
        for _ in 0..REFUSED_MAX - 1 {
            flood.refused();
        }
        assert_eq!(flood.judge(START + MS * 10), None);
        flood.refused();
        let act = flood.judge(START + MS * 10);
        assert_eq!(act, Some(Act::Attach { per_second: REFUSED_MAX * 100 }));
        // It goes on; of it, few come up.
        let mut now = START + MS * 10;
        for _ in 0..100 {
            now += PERIOD;
            for _ in 0..REFUSED_MAX.div_ceil(u64::from(SAMPLE)) {
                flood.refused();
            }
            assert_eq!(flood.judge(now), None);
        }
        let over = (1..100).find(|&n| flood.judge(now + PERIOD * n).is_some());
        assert_eq!(over, Some(20), "ten seconds");
        assert!(!flood.attached);
    }

    #[test]
    fn what_is_refused_now_and_then_is_no_flood() {
        let mut flood = Flood::new(START);
        for second in 0..100 {
            for _ in 0..REFUSED_MAX / 2 {
                flood.refused();
            }
            assert_eq!(flood.judge(START + MS * 1000 * second), None);
        }
        // Nor is what has gathered over a long silence.
        let mut flood = Flood::new(START);
        for _ in 0..REFUSED_MAX {
            flood.refused();
        }
        assert_eq!(flood.judge(START + MS * 60_000), None);
    }
}
