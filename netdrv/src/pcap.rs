//! Files of captured traffic (classic pcap): frame by frame, and what of a frame is a UDP datagram.
//!
//! Everything in such a file may be wrong; a frame that makes no sense is passed over.

use std::io::{self, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::packet::Reader as Bytes;

/// No frame of a capture is longer.
const FRAME_BYTES_MAX: usize = 256 << 10;

/// A file that is no capture, or breaks off.
#[derive(Debug, thiserror::Error)]
pub enum PcapError {
    #[error("cannot read the capture")]
    Read(#[from] io::Error),
    #[error(
        "this is no pcap file; of a pcapng file make one by: tcpdump -r FILE -w OTHER (or editcap -F \
         pcap FILE OTHER)"
    )]
    NotPcap,
    #[error(
        "frames of link type {0} are not understood: capture on an Ethernet interface or 'any'"
    )]
    LinkType(u32),
    #[error("a frame of {0} bytes: the file is damaged")]
    FrameLength(u32),
}

/// A captured frame.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Frame {
    /// Since the epoch, in nanoseconds.
    pub at_ns: u64,
    /// From the link's header on.
    pub bytes: Vec<u8>,
}

/// A UDP datagram in a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Udp<'a> {
    pub source: (IpAddr, u16),
    pub target: (IpAddr, u16),
    pub payload: &'a [u8],
}

/// Reads a capture, as it grows where it is a pipe.
#[derive(Debug)]
pub struct Pcap<R> {
    input: R,
    big: bool,
    nanoseconds: bool,
    link: u32,
}

impl<R: Read> Pcap<R> {
    /// Reads the head of the file.
    ///
    /// # Errors
    /// Not a pcap file, or of a link that is not understood.
    pub fn open(mut input: R) -> Result<Self, PcapError> {
        let mut head = [0; 24];
        input.read_exact(&mut head).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => PcapError::NotPcap,
            _ => PcapError::Read(error),
        })?;
        let (big, nanoseconds) = match head[..4] {
            [0xd4, 0xc3, 0xb2, 0xa1] => (false, false),
            [0x4d, 0x3c, 0xb2, 0xa1] => (false, true),
            [0xa1, 0xb2, 0xc3, 0xd4] => (true, false),
            [0xa1, 0xb2, 0x3c, 0x4d] => (true, true),
            _ => return Err(PcapError::NotPcap),
        };
        let mut pcap = Self { input, big, nanoseconds, link: 0 };
        pcap.link = pcap.number(head[20..24].try_into().map_err(|_| PcapError::NotPcap)?);
        if matches!(pcap.link, 1 | 12 | 101 | 113 | 276) {
            Ok(pcap)
        } else {
            Err(PcapError::LinkType(pcap.link))
        }
    }

    const fn number(&self, bytes: [u8; 4]) -> u32 {
        if self.big { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) }
    }

    /// The next frame; none at the end of the file, also if it ends within a frame.
    ///
    /// # Errors
    /// The file cannot be read, or is damaged.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, PcapError> {
        let mut head = [[0; 4]; 4];
        for field in &mut head {
            match self.input.read_exact(field) {
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
                other => other?,
            }
        }
        let [seconds, fraction, length, _] = head.map(|field| self.number(field));
        let bytes = usize::try_from(length).unwrap_or(usize::MAX);
        if bytes > FRAME_BYTES_MAX {
            return Err(PcapError::FrameLength(length));
        }
        let mut bytes = vec![0; bytes];
        match self.input.read_exact(&mut bytes) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            other => other?,
        }
        let unit = if self.nanoseconds { 1 } else { 1000 };
        let at_ns = u64::from(seconds) * 1_000_000_000 + u64::from(fraction) * unit;
        Ok(Some(Frame { at_ns, bytes }))
    }

    /// The UDP datagram in a frame, if there is a whole one.
    #[must_use]
    pub fn udp<'a>(&self, frame: &'a Frame) -> Option<Udp<'a>> {
        let mut bytes = Bytes(&frame.bytes);
        let mut kind = match self.link {
            1 => {
                bytes.bytes(12).ok()?;
                u16::from_be_bytes(bytes.array().ok()?)
            }
            113 => {
                bytes.bytes(14).ok()?;
                u16::from_be_bytes(bytes.array().ok()?)
            }
            276 => {
                let kind = u16::from_be_bytes(bytes.array().ok()?);
                bytes.bytes(18).ok()?;
                kind
            }
            _ => match bytes.0.first()? >> 4 {
                4 => 0x0800,
                _ => 0x86dd,
            },
        };
        // Tags of virtual networks.
        while matches!(kind, 0x8100 | 0x88a8) {
            bytes.bytes(2).ok()?;
            kind = u16::from_be_bytes(bytes.array().ok()?);
        }
        match kind {
            0x0800 => ipv4(bytes.rest()),
            0x86dd => ipv6(bytes.rest()),
            _ => None,
        }
    }
}

fn ipv4(packet: &[u8]) -> Option<Udp<'_>> {
    let head = packet.first_chunk::<20>()?;
    let length = usize::from(u16::from_be_bytes([head[2], head[3]]));
    let fragment = u16::from_be_bytes([head[6], head[7]]) & 0x3fff;
    if head[0] >> 4 != 4 || fragment != 0 || head[9] != 17 {
        return None;
    }
    let rest = packet.get(usize::from(head[0] & 15) * 4..length)?;
    let address =
        |at: usize| IpAddr::from(Ipv4Addr::new(head[at], head[at + 1], head[at + 2], head[at + 3]));
    udp(rest, address(12), address(16))
}

fn ipv6(packet: &[u8]) -> Option<Udp<'_>> {
    let (head, rest) = packet.split_first_chunk::<40>()?;
    let length = usize::from(u16::from_be_bytes([head[4], head[5]]));
    if head[0] >> 4 != 6 || head[6] != 17 {
        return None;
    }
    let address = |at: usize| {
        let bytes: [u8; 16] = head[at..at + 16].try_into().ok()?;
        Some(IpAddr::from(Ipv6Addr::from(bytes)))
    };
    udp(rest.get(..length)?, address(8)?, address(24)?)
}

fn udp(segment: &[u8], source: IpAddr, target: IpAddr) -> Option<Udp<'_>> {
    let (head, _) = segment.split_first_chunk::<8>()?;
    let number = |at: usize| u16::from_be_bytes([head[at], head[at + 1]]);
    let payload = segment.get(8..usize::from(number(4)))?;
    Some(Udp { source: (source, number(0)), target: (target, number(2)), payload })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn file(link: u32, frames: &[Vec<u8>]) -> Vec<u8> {
        let mut file = vec![0xd4, 0xc3, 0xb2, 0xa1, 2, 0, 4, 0];
        file.extend([0; 12]);
        file.extend(link.to_le_bytes());
        for frame in frames {
            let length = u32::try_from(frame.len()).unwrap();
            for field in [7, 5, length, length] {
                file.extend(field.to_le_bytes());
            }
            file.extend(frame);
        }
        file
    }

    fn datagram(payload: &[u8]) -> Vec<u8> {
        let length = u16::try_from(8 + payload.len()).unwrap();
        let mut udp = [3343u16, 3344, length, 0].map(u16::to_be_bytes).concat();
        udp.extend(payload);
        udp
    }

    #[test]
    fn datagrams_are_found_in_both_families_and_behind_a_tag() {
        let udp = datagram(b"payload");
        let mut v4 = vec![0x45, 0];
        v4.extend(u16::try_from(20 + udp.len()).unwrap().to_be_bytes());
        v4.extend([0, 0, 0x40, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        v4.extend(&udp);
        let mut v6 = vec![0x60, 0, 0, 0];
        v6.extend(u16::try_from(udp.len()).unwrap().to_be_bytes());
        v6.extend([17, 64]);
        v6.extend(Ipv6Addr::LOCALHOST.octets());
        v6.extend(Ipv6Addr::LOCALHOST.octets());
        v6.extend(&udp);
        let ethernet = |kind: &[u8], packet: &[u8]| [&[0; 12], kind, packet, &[0; 9]].concat();
        let frames = [
            ethernet(&[8, 0], &v4),
            ethernet(&[0x81, 0, 0, 9, 8, 0], &v4),
            ethernet(&[0x86, 0xdd], &v6),
            ethernet(&[8, 6], &v4),
        ];
        let bytes = file(1, &frames);
        let mut pcap = Pcap::open(&bytes[..]).unwrap();
        let mut found = Vec::new();
        while let Some(frame) = pcap.next_frame().unwrap() {
            assert_eq!(frame.at_ns, 7_000_005_000);
            found
                .push(pcap.udp(&frame).map(|udp| (udp.source.0.to_string(), udp.payload.to_vec())));
        }
        let one = |from: &str| Some((from.to_owned(), b"payload".to_vec()));
        assert_eq!(found, [one("10.0.0.1"), one("10.0.0.1"), one("::1"), None]);
        let raw = file(101, &[v4]);
        let mut pcap = Pcap::open(&raw[..]).unwrap();
        let frame = pcap.next_frame().unwrap().unwrap();
        assert_eq!(pcap.udp(&frame).unwrap().target.1, 3344);
    }

    #[test]
    fn other_files_are_refused_in_words() {
        let error = Pcap::open(&b"\x0a\x0d\x0d\x0a and more of a pcapng file"[..]).unwrap_err();
        assert!(error.to_string().contains("pcapng"), "{error}");
        assert!(matches!(Pcap::open(&b"short"[..]).unwrap_err(), PcapError::NotPcap));
        assert!(matches!(Pcap::open(&file(147, &[])[..]).unwrap_err(), PcapError::LinkType(147)));
    }

    proptest! {
        #[test]
        fn nonsense_is_borne(
            frames in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..200), 0..5),
            link in prop_oneof![Just(1u32), Just(12), Just(101), Just(113), Just(276)],
            cut in 0..50usize,
        ) {
            let mut bytes = file(link, &frames);
            bytes.truncate(bytes.len().saturating_sub(cut).max(24));
            let mut pcap = Pcap::open(&bytes[..]).unwrap();
            while let Ok(Some(frame)) = pcap.next_frame() {
                let _ = pcap.udp(&frame);
            }
        }
    }
}
