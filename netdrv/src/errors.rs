//! What the error queue of a socket says: ICMP errors and errors of the own kernel, about a
//! destination (ip(7) IP_RECVERR, ipv6(7) IPV6_RECVERR). Pure: bytes in, meaning out.
//!
//! Anybody on the wire can forge an ICMP error. It is a hint to probe, and for the path's size never
//! less than every network must carry ([`PATH_MTU_MIN`]).

use std::net::IpAddr;

/// The least MTU that is believed: that of IPv6 (RFC 8200 section 5).
pub(crate) const PATH_MTU_MIN: u32 = 1280;

/// SO_EE_ORIGIN_* of linux/errqueue.h.
const ORIGIN_LOCAL: u8 = 1;
const ORIGIN_ICMP: u8 = 2;
const ORIGIN_ICMP6: u8 = 3;

/// One error.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct PathError {
    /// Where the datagram that met it was to go.
    pub(crate) to: IpAddr,
    pub(crate) errno: i32,
    /// The datagram was too long; this is what the path takes, the IP header included.
    pub(crate) mtu: Option<u32>,
}

/// Reads the control messages of one entry of the queue.
pub(crate) fn parse(to: Option<IpAddr>, control: &[u8]) -> Option<PathError> {
    const HEADER: usize = size_of::<usize>() + 8;
    let mut rest = control;
    while let Some((header, _)) = rest.split_at_checked(HEADER) {
        let (length, kind) = header.split_at(size_of::<usize>());
        let length = usize::from_ne_bytes(length.try_into().ok()?);
        let body = rest.get(HEADER..length)?;
        let level = i32::from_ne_bytes(kind.get(..4)?.try_into().ok()?);
        let kind = i32::from_ne_bytes(kind.get(4..)?.try_into().ok()?);
        if matches!(
            (level, kind),
            (libc::SOL_IP, libc::IP_RECVERR) | (libc::SOL_IPV6, libc::IPV6_RECVERR)
        ) {
            return extended(to?, body);
        }
        rest = rest.get(length.checked_next_multiple_of(size_of::<usize>())?..)?;
    }
    None
}

/// A struct sock_extended_err.
fn extended(to: IpAddr, body: &[u8]) -> Option<PathError> {
    let (errno, rest) = body.split_first_chunk::<4>()?;
    let ([origin, _type, _code, _pad], rest) = rest.split_first_chunk::<4>()?;
    let (info, _) = rest.split_first_chunk::<4>()?;
    if !matches!(*origin, ORIGIN_LOCAL | ORIGIN_ICMP | ORIGIN_ICMP6) {
        return None;
    }
    let errno = i32::try_from(u32::from_ne_bytes(*errno)).ok()?;
    let too_long = errno == libc::EMSGSIZE;
    let mtu = too_long.then(|| u32::from_ne_bytes(*info).max(PATH_MTU_MIN));
    Some(PathError { to, errno, mtu })
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use proptest::prelude::*;

    use super::*;

    const TO: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2));

    /// A control message as the kernel writes it.
    fn control(level: i32, kind: i32, body: &[u8]) -> Vec<u8> {
        let length = size_of::<usize>() + 8 + body.len();
        let mut bytes = length.to_ne_bytes().to_vec();
        bytes.extend(level.to_ne_bytes());
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(body);
        bytes.resize(length.next_multiple_of(size_of::<usize>()), 0);
        bytes
    }

    fn error(errno: i32, origin: u8, info: u32) -> Vec<u8> {
        let mut body = errno.to_ne_bytes().to_vec();
        body.extend([origin, 3, 4, 0]);
        body.extend(info.to_ne_bytes());
        body.extend([0; 4 + 16]);
        body
    }

    #[test]
    fn an_icmp_error_is_read_behind_other_messages() {
        let mut bytes = control(libc::SOL_SOCKET, libc::SO_TIMESTAMP, &[0; 13]);
        let refused = error(libc::ECONNREFUSED, ORIGIN_ICMP, 0);
        bytes.extend(control(libc::SOL_IP, libc::IP_RECVERR, &refused));
        let expected = PathError { to: TO, errno: libc::ECONNREFUSED, mtu: None };
        assert_eq!(parse(Some(TO), &bytes), Some(expected));
        assert_eq!(parse(None, &bytes), None);
        assert_eq!(parse(Some(TO), &bytes[..bytes.len() - 40]), None);
    }

    #[test]
    fn a_path_is_not_believed_to_be_narrower_than_every_network_must_be() {
        for (says, believed) in [(1400, 1400), (1280, 1280), (68, 1280), (0, 1280)] {
            let body = error(libc::EMSGSIZE, ORIGIN_ICMP6, says);
            let bytes = control(libc::SOL_IPV6, libc::IPV6_RECVERR, &body);
            assert_eq!(parse(Some(TO), &bytes).unwrap().mtu, Some(believed));
        }
    }

    proptest! {
        /// Whatever comes, nothing panics, nothing loops, and no narrow path is believed.
        #[test]
        fn any_bytes_are_borne(bytes in prop::collection::vec(any::<u8>(), 0..256)) {
            if let Some(error) = parse(Some(TO), &bytes) {
                prop_assert!(error.mtu.is_none_or(|mtu| mtu >= PATH_MTU_MIN));
            }
        }

        /// Real messages, damaged.
        #[test]
        fn damaged_messages_are_borne(
            info in any::<u32>(), at in any::<prop::sample::Index>(), to in any::<u8>(), cut in 0..64usize,
        ) {
            let body = error(libc::EMSGSIZE, ORIGIN_ICMP, info);
            let mut bytes = control(libc::SOL_IP, libc::IP_RECVERR, &body);
            let at = at.index(bytes.len());
            bytes[at] = to;
            bytes.truncate(bytes.len().saturating_sub(cut));
            if let Some(error) = parse(Some(TO), &bytes) {
                prop_assert!(error.mtu.is_none_or(|mtu| mtu >= PATH_MTU_MIN));
            }
        }
    }
}
