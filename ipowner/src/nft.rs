//! The words of nftables over nfnetlink (`linux/netfilter/nf_tables.h`) that a lease needs: elements
//! of sets, added, deleted and read in one transaction. Pure bytes.
//!
//! Tables, chains and rules are written once by the program `nft` (see `filter`); elements are
//! renewed many times a second and must not wait for a fork.

use std::net::Ipv4Addr;
use std::time::Duration;

use crate::frame::{Attributes, Frame, Writer};

const SUBSYSTEM: u16 = 10;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const NEW_SETELEM: u16 = SUBSYSTEM << 8 | 12;
const GET_SETELEM: u16 = SUBSYSTEM << 8 | 13;
const DEL_SETELEM: u16 = SUBSYSTEM << 8 | 14;

const F_REQUEST: u16 = 1;
const F_ACK: u16 = 4;
const F_DUMP: u16 = 0x300;
const F_CREATE: u16 = 0x400;

// Attributes of a list of elements, of an element, and of its data.
const LIST_TABLE: u16 = 1;
const LIST_SET: u16 = 2;
const LIST_ELEMENTS: u16 = 3;
const LIST_ELEM: u16 = 1;
const ELEM_KEY: u16 = 1;
const ELEM_TIMEOUT: u16 = 4;
const ELEM_EXPIRATION: u16 = 5;
const DATA_VALUE: u16 = 1;

/// The kernel's families of tables (`NFPROTO_*`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum Family {
    Inet = 1,
    Arp = 3,
}

/// Where an element lives.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Place<'a> {
    pub(crate) family: Family,
    pub(crate) table: &'a str,
    pub(crate) set: &'a str,
}

/// What an element is found by.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Key(Vec<u8>);

impl Key {
    /// `type ipv4_addr`.
    pub(crate) fn address(ip: Ipv4Addr) -> Self {
        Self(ip.octets().to_vec())
    }

    /// `type ipv4_addr . ifname`: the name fills 16 bytes. Names are checked by `Address`.
    pub(crate) fn address_at(ip: Ipv4Addr, interface: &str) -> Self {
        let mut bytes = ip.octets().to_vec();
        bytes.extend_from_slice(interface.as_bytes());
        bytes.resize(20, 0);
        Self(bytes)
    }

    /// The address at the front of the key, and the interface after it where there is one.
    pub(crate) fn read(&self) -> Option<(Ipv4Addr, Option<String>)> {
        let (ip, name) = self.0.split_first_chunk::<4>()?;
        let name = name.split(|&b| b == 0).next().filter(|n| !n.is_empty());
        let name = name.map(|n| String::from_utf8_lossy(n).into_owned());
        Some(((*ip).into(), name))
    }
}

/// One step of a transaction.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Step<'a> {
    /// Add; an element that is there stays (and, on kernels that can, gets the new time).
    Add(Place<'a>, Key, Option<Duration>),
    /// Delete; the whole transaction fails when it is not there.
    Delete(Place<'a>, Key),
}

/// An element as the kernel shows it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Element {
    pub(crate) key: Key,
    /// Time left; `None`: for ever.
    pub(crate) left: Option<Duration>,
}

/// A transaction: all steps or none, visible to packets at one instant. Uses the sequence numbers
/// `seq` (its beginning) to `seq + steps + 1` (its end); each step is acknowledged.
pub(crate) fn transaction(seq: u32, steps: &[Step<'_>]) -> Vec<u8> {
    let mut w = Writer::default();
    w.message(BATCH_BEGIN, F_REQUEST, seq, batch_header);
    let mut at = seq;
    for step in steps {
        at = at.wrapping_add(1);
        match step {
            Step::Add(place, key, timeout) => {
                w.message(NEW_SETELEM, F_REQUEST | F_ACK | F_CREATE, at, |w| {
                    elements(w, *place, Some((key, *timeout)));
                });
            }
            Step::Delete(place, key) => {
                w.message(DEL_SETELEM, F_REQUEST | F_ACK, at, |w| {
                    elements(w, *place, Some((key, None)));
                });
            }
        }
    }
    w.message(BATCH_END, F_REQUEST, at.wrapping_add(1), batch_header);
    w.into_bytes()
}

/// Asks for one element.
pub(crate) fn get(seq: u32, place: Place<'_>, key: &Key) -> Vec<u8> {
    let mut w = Writer::default();
    w.message(GET_SETELEM, F_REQUEST | F_ACK, seq, |w| elements(w, place, Some((key, None))));
    w.into_bytes()
}

/// Asks for all elements of a set.
pub(crate) fn list(seq: u32, place: Place<'_>) -> Vec<u8> {
    let mut w = Writer::default();
    w.message(GET_SETELEM, F_REQUEST | F_DUMP, seq, |w| elements(w, place, None));
    w.into_bytes()
}

/// The elements in a message of an answer to [`get`] or [`list`].
pub(crate) fn read(frame: &Frame<'_>) -> Vec<Element> {
    let body = frame.body().get(4..).unwrap_or_default();
    Attributes(body)
        .filter(|(kind, _)| *kind == LIST_ELEMENTS)
        .flat_map(|(_, list)| Attributes(list))
        .filter(|(kind, _)| *kind == LIST_ELEM)
        .filter_map(|(_, element)| read_element(element))
        .collect()
}

fn read_element(bytes: &[u8]) -> Option<Element> {
    let mut key = None;
    let mut left = None;
    for (kind, value) in Attributes(bytes) {
        match kind {
            ELEM_KEY => {
                key = Attributes(value).find(|(kind, _)| *kind == DATA_VALUE).map(|(_, v)| v);
            }
            ELEM_EXPIRATION => left = Some(u64::from_be_bytes(value.try_into().ok()?)),
            _ => {}
        }
    }
    Some(Element { key: Key(key?.to_vec()), left: left.map(Duration::from_millis) })
}

/// `nfgenmsg` of a batch: no family, version 0, the subsystem in network order.
fn batch_header(w: &mut Writer) {
    w.raw(&[0, 0]);
    w.raw(&SUBSYSTEM.to_be_bytes());
}

fn elements(w: &mut Writer, place: Place<'_>, element: Option<(&Key, Option<Duration>)>) {
    w.raw(&[place.family as u8, 0, 0, 0]);
    w.attribute(LIST_TABLE, &zero_ended(place.table));
    w.attribute(LIST_SET, &zero_ended(place.set));
    let Some((key, timeout)) = element else { return };
    w.nested(LIST_ELEMENTS, |w| {
        w.nested(LIST_ELEM, |w| {
            w.nested(ELEM_KEY, |w| {
                w.attribute(DATA_VALUE, &key.0);
            });
            if let Some(timeout) = timeout {
                let ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX).to_be_bytes();
                w.attribute(ELEM_TIMEOUT, &ms);
                // Without the expiration a kernel that extends elements leaves one alone whose
                // timeout is the same as before.
                w.attribute(ELEM_EXPIRATION, &ms);
            }
        });
    });
}

fn zero_ended(text: &str) -> Vec<u8> {
    let mut bytes = text.as_bytes().to_vec();
    bytes.push(0);
    bytes
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::frame::{Frames, Kind};

    const PLACE: Place<'static> = Place { family: Family::Inet, table: "t", set: "leased" };
    const IP: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 5);

    #[cfg(target_endian = "little")]
    #[test]
    fn a_renewal_byte_for_byte() {
        let bytes =
            transaction(1, &[Step::Add(PLACE, Key::address(IP), Some(Duration::from_millis(500)))]);
        #[rustfmt::skip]
        let wanted = [
            // NFNL_MSG_BATCH_BEGIN, subsystem 10
            20, 0, 0, 0,  0x10, 0,  1, 0,  1, 0, 0, 0,  0, 0, 0, 0,  0, 0, 0, 10,
            // NFT_MSG_NEWSETELEM, request + ack + create, family inet
            84, 0, 0, 0,  12, 10,  5, 4,  2, 0, 0, 0,  0, 0, 0, 0,  1, 0, 0, 0,
            6, 0, 1, 0,  b't', 0, 0, 0,
            11, 0, 2, 0,  b'l', b'e', b'a', b's', b'e', b'd', 0, 0,
            44, 0, 3, 0x80,
              40, 0, 1, 0x80,
                12, 0, 1, 0x80,  8, 0, 1, 0,  10, 0, 0, 5,
                12, 0, 4, 0,  0, 0, 0, 0, 0, 0, 1, 0xf4,
                12, 0, 5, 0,  0, 0, 0, 0, 0, 0, 1, 0xf4,
            // NFNL_MSG_BATCH_END
            20, 0, 0, 0,  0x11, 0,  1, 0,  3, 0, 0, 0,  0, 0, 0, 0,  0, 0, 0, 10,
        ];
        assert_eq!(bytes, wanted);
    }

    #[test]
    fn steps_are_numbered_and_acknowledged() {
        let steps =
            [Step::Delete(PLACE, Key::address(IP)), Step::Add(PLACE, Key::address(IP), None)];
        let bytes = transaction(u32::MAX, &steps);
        let seen: Vec<_> = Frames(&bytes).map(|f| (f.kind, f.flags & F_ACK != 0, f.seq)).collect();
        assert_eq!(
            seen,
            [
                (Kind::Data(BATCH_BEGIN), false, u32::MAX),
                (Kind::Data(DEL_SETELEM), true, 0),
                (Kind::Data(NEW_SETELEM), true, 1),
                (Kind::Data(BATCH_END), false, 2),
            ]
        );
    }

    #[test]
    fn reads_elements_back() {
        let key = Key::address_at(IP, "eth0");
        let bytes = transaction(1, &[Step::Add(PLACE, key, Some(Duration::from_secs(2)))]);
        let frame = Frames(&bytes).nth(1).unwrap();
        let elements = read(&frame);
        assert_eq!(elements.len(), 1);
        assert_eq!(elements[0].left, Some(Duration::from_secs(2)));
        assert_eq!(elements[0].key.read(), Some((IP, Some("eth0".into()))));
        assert_eq!(Key::address(IP).read(), Some((IP, None)));
    }

    proptest! {
        #[test]
        fn any_answer_is_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut w = Writer::default();
            w.message(NEW_SETELEM, 0, 1, |w| w.raw(&bytes));
            let whole = w.into_bytes();
            for frame in Frames(&whole) {
                for element in read(&frame) {
                    let _ = element.key.read();
                }
            }
        }
    }
}
