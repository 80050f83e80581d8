//! Somebody on the wire who is up to no good: takes down what a node says to another, and says it
//! again, or says something else in its name. It sits in the switch, so that the victim sees the
//! right interface, the right MAC and the right IP address.

use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::clock::now_us;
use crate::network::{Switch, Wire, mac};
use crate::sys::PacketSocket;

const ETHERTYPE_IP: u16 = 0x0800;
/// All frames: those of one type are the bridge's before a socket on its port sees them.
const ETHERTYPE_ALL: u16 = 3;
const PROTOCOL_UDP: u8 = 17;
const ETHERNET: usize = 14;
const IP: usize = 20;
const UDP: usize = 8;

/// Payloads of UDP datagrams that `from` sends to `to` on a wire, within a span.
///
/// # Errors
/// No packet socket.
pub fn listen(
    switch: &Switch,
    wire: Wire,
    from: (&'static str, u8),
    to: u8,
    span: Duration,
) -> Result<Vec<Vec<u8>>> {
    let port = format!("{}-{}", from.0, wire.name());
    let (source, destination) = (wire.address(from.1), wire.address(to));
    let heard = move || -> Result<Vec<Vec<u8>>> {
        let socket = PacketSocket::open(&port, ETHERTYPE_ALL)?;
        let end = now_us() + u64::try_from(span.as_micros())?;
        let mut heard = Vec::new();
        let mut frame = [0; 2048];
        while now_us() < end {
            let mut fds = [PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
            poll(&mut fds, PollTimeout::from(50_u16))?;
            while let Ok(len) = socket.receive(&mut frame) {
                heard.extend(payload(&frame[..len], source, destination).map(<[u8]>::to_vec));
            }
        }
        Ok(heard)
    };
    let thread = switch.netns().thread("lab-listener", heard)?;
    thread.join().map_err(|_| anyhow!("the listener panicked"))??
}

/// Sends payloads to `to`, on its interface of a wire, as if `from` had sent them.
///
/// # Errors
/// No packet socket, or a frame that the kernel refuses.
pub fn forge(
    switch: &Switch,
    wire: Wire,
    from: u8,
    to: (&'static str, u8),
    udp_port: u16,
    payloads: Vec<Vec<u8>>,
) -> Result<()> {
    let port = format!("{}-{}", to.0, wire.name());
    let send = move || -> Result<()> {
        let socket = PacketSocket::open(&port, ETHERTYPE_IP)?;
        for payload in payloads {
            let frame = frame(wire, from, to.1, udp_port, &payload)?;
            socket.send(&frame).context("sending a forged frame")?;
        }
        Ok(())
    };
    let thread = switch.netns().thread("lab-forger", send)?;
    thread.join().map_err(|_| anyhow!("the forger panicked"))??
}

/// Sends garbage to `to` as fast as one thread can, in the name of `from`: half of it random, half
/// like datagrams of the cluster but for their content. How many datagrams that were.
///
/// # Errors
/// No packet socket.
pub fn flood(
    switch: &Switch,
    wire: Wire,
    from: u8,
    to: (&'static str, u8),
    udp_port: u16,
    span: Duration,
) -> Result<u64> {
    let port = format!("{}-{}", to.0, wire.name());
    let send = move || -> Result<u64> {
        let socket = PacketSocket::open(&port, ETHERTYPE_IP)?;
        let end = now_us() + u64::try_from(span.as_micros())?;
        let (mut sent, mut dice) = (0_u64, 0x2545_f491_4f6c_dd1d_u64);
        while now_us() < end {
            let mut payload = [0; 200];
            for word in payload.chunks_exact_mut(8) {
                dice ^= dice << 13;
                dice ^= dice >> 7;
                dice ^= dice << 17;
                word.copy_from_slice(&dice.to_be_bytes());
            }
            if sent % 2 == 0 {
                payload[..4].copy_from_slice(b"WPCK");
            }
            let frame = frame(wire, from, to.1, udp_port, &payload)?;
            // A full queue loses it, as a wire would.
            sent += u64::from(socket.send(&frame).is_ok());
        }
        Ok(sent)
    };
    let thread = switch.netns().thread("lab-flood", send)?;
    thread.join().map_err(|_| anyhow!("the flooder panicked"))??
}

/// The payload of a UDP datagram between these two, if the frame is one.
pub(crate) fn payload(frame: &[u8], source: Ipv4Addr, destination: Ipv4Addr) -> Option<&[u8]> {
    let ip = frame.get(ETHERNET..)?;
    let header = usize::from(ip.first()? & 0x0f) * 4;
    let right = ip.get(9)? == &PROTOCOL_UDP
        && ip.get(12..16)? == source.octets()
        && ip.get(16..20)? == destination.octets();
    let udp = ip.get(header..)?;
    let len = usize::from(u16::from_be_bytes([*udp.get(4)?, *udp.get(5)?]));
    if right { udp.get(UDP..len) } else { None }
}

/// An Ethernet frame with a UDP datagram; its UDP checksum is zero, which IPv4 allows for "none".
fn frame(wire: Wire, from: u8, to: u8, port: u16, payload: &[u8]) -> Result<Vec<u8>> {
    let udp_len = u16::try_from(UDP + payload.len()).context("a payload too long for UDP")?;
    let ip_len = udp_len.checked_add(20).context("a payload too long for IP")?;
    let mut f = Vec::with_capacity(ETHERNET + IP + UDP + payload.len());
    f.extend_from_slice(&mac(wire, to));
    f.extend_from_slice(&mac(wire, from));
    f.extend_from_slice(&ETHERTYPE_IP.to_be_bytes());
    let mut ip = [0; IP];
    ip[0] = 0x45;
    ip[2..4].copy_from_slice(&ip_len.to_be_bytes());
    ip[8] = 64;
    ip[9] = PROTOCOL_UDP;
    ip[12..16].copy_from_slice(&wire.address(from).octets());
    ip[16..20].copy_from_slice(&wire.address(to).octets());
    let sum = ip_checksum(&ip);
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    f.extend_from_slice(&ip);
    for field in [port, port, udp_len, 0] {
        f.extend_from_slice(&field.to_be_bytes());
    }
    f.extend_from_slice(payload);
    Ok(f)
}

/// RFC 1071.
fn ip_checksum(header: &[u8; IP]) -> u16 {
    let words = header.chunks_exact(2).map(|w| u32::from(u16::from_be_bytes([w[0], w[1]])));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_forged_is_what_would_be_heard() {
        let wire = Wire::Public;
        let f = frame(wire, 2, 1, 3343, b"hello").unwrap();
        assert_eq!(payload(&f, wire.address(2), wire.address(1)), Some(&b"hello"[..]));
        assert_eq!(payload(&f, wire.address(1), wire.address(2)), None);
        assert_eq!(payload(&f[..30], wire.address(2), wire.address(1)), None);
        let header: [u8; IP] = f[ETHERNET..ETHERNET + IP].try_into().unwrap();
        assert_eq!(ip_checksum(&header), 0, "a header with its checksum sums up to nothing");
    }
}
