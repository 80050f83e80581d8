//! Two sides of the handshake, and everything that must not pass for one.

use proptest::prelude::*;

use super::*;

const NET: NetworkId = NetworkId(0);
const OTHER: NetworkId = NetworkId(1);
const NOW: Instant = Instant(1_000_000_000);

fn node(n: u8) -> NodeId {
    NodeId::new(n).unwrap()
}

fn life(n: u8, inc: u64) -> NodeInc {
    NodeInc::new(node(n), Incarnation(inc))
}

fn side(me: NodeInc, salt: u8) -> Sessions {
    let peer = node(3 - me.node.get());
    let paths = BTreeMap::from([(peer, BTreeSet::from([NET, OTHER]))]);
    Sessions::new(me, &ClusterKey::from_bytes([1; 32]), [salt; 16], &paths, NOW)
}

fn pair() -> (Sessions, Sessions) {
    (side(life(1, 5), 10), side(life(2, 8), 20))
}

fn hello(from: &Sessions, to: u8) -> Vec<u8> {
    let mut bytes = Vec::new();
    from.seal_hello(&mut bytes, NET, node(to));
    bytes
}

/// Gives a hello to a side and its answers back and forth until both are silent.
fn exchange(first: &mut Sessions, second: &mut Sessions, mut bytes: Vec<u8>) -> Vec<NodeInc> {
    let mut established = Vec::new();
    let (mut to, mut from) = (second, first);
    loop {
        let greeted = to.greet(NOW, NET, &Datagram::parse(&bytes).unwrap()).unwrap();
        established.extend(greeted.established);
        let Some(answer) = greeted.answer else { return established };
        bytes.clear();
        to.seal_answer(&mut bytes, NET, from.me.node, answer);
        std::mem::swap(&mut to, &mut from);
    }
}

fn greet(to: &mut Sessions, bytes: &[u8]) -> Result<Greeted, DropReason> {
    to.greet(NOW, NET, &Datagram::parse(bytes).unwrap())
}

fn data(from: &mut Sessions, to: u8, network: NetworkId) -> Vec<u8> {
    let mut bytes = Vec::new();
    assert!(from.seal(&mut bytes, Kind::Heartbeat, network, node(to), b"alive"));
    bytes
}

fn open(to: &mut Sessions, network: NetworkId, bytes: &[u8]) -> Result<NodeInc, DropReason> {
    to.open(network, &Datagram::parse(bytes).unwrap())
}

#[test]
fn three_hellos_make_a_session_and_data_confirms_it() {
    let (mut one, mut two) = pair();
    let bytes = hello(&one, 2);
    assert_eq!(exchange(&mut one, &mut two, bytes), [life(2, 8), life(1, 5)]);
    assert!(one.unconfirmed(node(2)) && two.unconfirmed(node(1)));
    let bytes = data(&mut one, 2, NET);
    assert_eq!(open(&mut two, NET, &bytes), Ok(life(1, 5)));
    assert!(!two.unconfirmed(node(1)));
    let bytes = data(&mut two, 1, OTHER);
    assert_eq!(open(&mut one, OTHER, &bytes), Ok(life(2, 8)));
    assert!(!one.unconfirmed(node(2)));
}

#[test]
fn a_session_is_one_however_the_hellos_cross() {
    let (mut one, mut two) = pair();
    let (from_one, from_two) = (hello(&one, 2), hello(&two, 1));
    exchange(&mut one, &mut two, from_one);
    assert_eq!(exchange(&mut two, &mut one, from_two), [], "nothing new");
    let bytes = data(&mut one, 2, NET);
    assert_eq!(open(&mut two, NET, &bytes), Ok(life(1, 5)));
}

#[test]
fn recorded_hellos_make_no_session_with_a_later_life() {
    let (mut one, mut two) = pair();
    let mut recorded = vec![hello(&one, 2)];
    let answer = greet(&mut two, &recorded[0]).unwrap().answer.unwrap();
    let mut bytes = Vec::new();
    two.seal_answer(&mut bytes, NET, node(1), answer);
    let answer = greet(&mut one, &bytes).unwrap().answer.unwrap();
    one.seal_answer(&mut bytes, NET, node(2), answer);
    recorded.push(bytes);
    assert!(greet(&mut two, &recorded[1]).unwrap().established.is_some());
    // Node 2 starts anew; all that node 1 ever said comes again.
    let mut two = side(life(2, 9), 21);
    for bytes in &recorded {
        assert_eq!(greet(&mut two, bytes).unwrap().established, None);
    }
    let bytes = data(&mut one, 2, NET);
    assert_eq!(open(&mut two, NET, &bytes), Err(DropReason::NoSession));
}

#[test]
fn a_later_life_replaces_and_an_earlier_never_comes_back() {
    let (mut one, mut two) = pair();
    let bytes = hello(&one, 2);
    exchange(&mut one, &mut two, bytes);
    let old_hello = hello(&one, 2);
    let old_data = data(&mut one, 2, NET);
    let mut one = side(life(1, 6), 11);
    let bytes = hello(&one, 2);
    assert_eq!(exchange(&mut one, &mut two, bytes), [life(2, 8), life(1, 6)]);
    assert_eq!(greet(&mut two, &old_hello), Err(DropReason::OldLife(node(1))));
    assert_eq!(open(&mut two, NET, &old_data), Err(DropReason::OtherSession(node(1))));
    let bytes = data(&mut one, 2, NET);
    assert_eq!(open(&mut two, NET, &bytes), Ok(life(1, 6)));
}

#[test]
fn a_clone_is_refused_and_the_first_stays() {
    let (mut one, mut two) = pair();
    let bytes = hello(&one, 2);
    exchange(&mut one, &mut two, bytes);
    let mut clone = side(life(1, 5), 99);
    let answer = greet(&mut two, &hello(&clone, 2)).unwrap().answer.unwrap();
    let mut bytes = Vec::new();
    two.seal_answer(&mut bytes, NET, node(1), answer);
    let answer = greet(&mut clone, &bytes).unwrap().answer.unwrap();
    clone.seal_answer(&mut bytes, NET, node(2), answer);
    let refused = DropReason::Clone { node: node(1), inc: Incarnation(5) };
    assert_eq!(greet(&mut two, &bytes), Err(refused));
    let bytes = data(&mut one, 2, NET);
    assert_eq!(open(&mut two, NET, &bytes), Ok(life(1, 5)));
}

#[test]
fn a_datagram_counts_once() {
    let (mut one, mut two) = pair();
    let bytes = hello(&one, 2);
    exchange(&mut one, &mut two, bytes);
    let first = data(&mut one, 2, NET);
    let second = data(&mut one, 2, NET);
    assert!(open(&mut two, NET, &second).is_ok());
    assert!(open(&mut two, NET, &first).is_ok(), "overtaken, not repeated");
    for bytes in [&first, &second] {
        assert_eq!(open(&mut two, NET, bytes), Err(DropReason::Replayed(node(1))));
    }
    // What a side sent never comes back to it as the peer's word.
    let reflected = data(&mut two, 1, NET);
    assert_eq!(open(&mut two, NET, &reflected), Err(DropReason::UnknownSender));
}

#[test]
fn answers_are_rationed() {
    let (one, mut two) = pair();
    let bytes = hello(&one, 2);
    let mut answers = 0;
    for _ in 0..1000 {
        answers += u32::from(greet(&mut two, &bytes).unwrap().answer.is_some());
    }
    assert_eq!(answers, ANSWER_BURST);
    let later = NOW + ANSWER_PAUSE;
    let datagram = Datagram::parse(&bytes).unwrap();
    assert!(two.greet(later, NET, &datagram).unwrap().answer.is_some());
    assert!(two.greet(later, NET, &datagram).unwrap().answer.is_none());
}

#[test]
fn another_keys_hello_is_forged() {
    let (_, mut two) = pair();
    let paths = BTreeMap::from([(node(2), BTreeSet::from([NET]))]);
    let stranger =
        Sessions::new(life(1, 5), &ClusterKey::from_bytes([2; 32]), [0; 16], &paths, NOW);
    let bytes = hello(&stranger, 2);
    assert_eq!(greet(&mut two, &bytes), Err(DropReason::Forged(node(1))));
}

proptest! {
    /// Whatever is lost of the hellos: as soon as they get through, there is one session.
    #[test]
    fn lost_hellos_only_delay(lost in proptest::collection::vec(any::<bool>(), 0..40)) {
        let (mut one, mut two) = pair();
        let mut lost = lost.into_iter().chain(std::iter::repeat(false));
        let mut now = NOW;
        for _ in 0..50 {
            now += Duration::from_millis(100);
            let mut air = Vec::new();
            if one.unconfirmed(node(2)) {
                air.push((2, hello(&one, 2)));
            }
            if two.unconfirmed(node(1)) {
                air.push((1, hello(&two, 1)));
            }
            for (from, to) in [(&mut one, 2), (&mut two, 1)] {
                let mut bytes = Vec::new();
                if from.seal(&mut bytes, Kind::Heartbeat, NET, node(to), b"") {
                    air.push((to, bytes));
                }
            }
            while let Some((to, bytes)) = air.pop() {
                if lost.next().unwrap_or(false) {
                    continue;
                }
                let side = if to == 1 { &mut one } else { &mut two };
                let datagram = Datagram::parse(&bytes).unwrap();
                if datagram.header.kind == Kind::Hello {
                    let greeted = side.greet(now, NET, &datagram).unwrap();
                    if let Some(answer) = greeted.answer {
                        let mut bytes = Vec::new();
                        side.seal_answer(&mut bytes, NET, node(3 - to), answer);
                        air.push((3 - to, bytes));
                    }
                } else {
                    let _ = side.open(NET, &datagram);
                }
            }
        }
        prop_assert!(!one.unconfirmed(node(2)) && !two.unconfirmed(node(1)));
    }

    #[test]
    fn rubbish_bodies_never_panic(body in proptest::collection::vec(any::<u8>(), 0..100)) {
        let _ = Hello::decode(&body);
    }
}
