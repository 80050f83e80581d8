//! Two sides of the handshake, and everything that must not pass for one.

use proptest::prelude::*;

use wolfpack_types::security::{Cipher, SecurityLevel};

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

fn side_with(me: NodeInc, seed: u8, key: &ClusterKey, security: &Security) -> Sessions {
    let peer = node(3 - me.node.get());
    let paths = BTreeMap::from([(peer, BTreeSet::from([NET, OTHER]))]);
    Sessions::new(me, key, security, Key::new([seed; 32]), &paths, NOW)
}

fn side(me: NodeInc, seed: u8) -> Sessions {
    side_with(me, seed, &ClusterKey::from_bytes([1; 32]), &Security::default())
}

fn pair() -> (Sessions, Sessions) {
    (side(life(1, 5), 10), side(life(2, 8), 20))
}

fn hello(from: &mut Sessions, to: u8) -> Vec<u8> {
    let mut bytes = Vec::new();
    assert!(from.seal_hello(&mut bytes, NET, node(to)));
    bytes
}

/// Gives a hello to a side and its answers back and forth until both are silent.
fn exchange(first: &mut Sessions, second: &mut Sessions, bytes: Vec<u8>) -> Vec<NodeInc> {
    exchange_at(NOW, first, second, bytes)
}

fn exchange_at(
    now: Instant,
    first: &mut Sessions,
    second: &mut Sessions,
    mut bytes: Vec<u8>,
) -> Vec<NodeInc> {
    let mut established = Vec::new();
    let (mut to, mut from) = (second, first);
    loop {
        let greeted = to.greet(now, NET, &Datagram::parse(&bytes).unwrap()).unwrap();
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
    crate::packet::begin(&mut bytes);
    bytes.extend_from_slice(b"alive");
    assert!(from.seal(&mut bytes, Kind::Heartbeat, network, node(to)));
    bytes
}

fn open(to: &mut Sessions, network: NetworkId, bytes: &[u8]) -> Result<NodeInc, DropReason> {
    open_at(NOW, to, network, bytes)
}

fn open_at(
    now: Instant,
    to: &mut Sessions,
    network: NetworkId,
    bytes: &[u8],
) -> Result<NodeInc, DropReason> {
    let mut space = Vec::new();
    let (life, body) = to.open(now, network, &Datagram::parse(bytes).unwrap(), &mut space)?;
    assert_eq!(body, b"alive");
    Ok(life)
}

#[test]
fn three_hellos_make_a_session_and_data_confirms_it() {
    let (mut one, mut two) = pair();
    let bytes = hello(&mut one, 2);
    assert_eq!(exchange(&mut one, &mut two, bytes), [life(2, 8), life(1, 5)]);
    assert!(one.greets(NOW, node(2)), "its word that it has the session may be lost");
    assert!(!two.greets(NOW, node(1)), "it was told that the other has the session");
    let bytes = data(&mut one, 2, NET);
    assert_eq!(open(&mut two, NET, &bytes), Ok(life(1, 5)));
    let bytes = data(&mut two, 1, OTHER);
    assert_eq!(open(&mut one, OTHER, &bytes), Ok(life(2, 8)));
    assert!(!one.greets(NOW, node(2)));
}

#[test]
fn a_session_is_one_however_the_hellos_cross() {
    let (mut one, mut two) = pair();
    let (from_one, from_two) = (hello(&mut one, 2), hello(&mut two, 1));
    exchange(&mut one, &mut two, from_one);
    assert_eq!(exchange(&mut two, &mut one, from_two), [], "nothing new");
    let bytes = data(&mut one, 2, NET);
    assert_eq!(open(&mut two, NET, &bytes), Ok(life(1, 5)));
}

#[test]
fn recorded_hellos_make_no_session_with_a_later_life() {
    let (mut one, mut two) = pair();
    let mut recorded = vec![hello(&mut one, 2)];
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
    let bytes = hello(&mut one, 2);
    exchange(&mut one, &mut two, bytes);
    let old_hello = hello(&mut one, 2);
    let old_data = data(&mut one, 2, NET);
    let mut one = side(life(1, 6), 11);
    let bytes = hello(&mut one, 2);
    assert_eq!(exchange(&mut one, &mut two, bytes), [life(2, 8), life(1, 6)]);
    assert_eq!(greet(&mut two, &old_hello), Err(DropReason::OldLife(node(1))));
    assert_eq!(open(&mut two, NET, &old_data), Err(DropReason::OtherSession(node(1))));
    let bytes = data(&mut one, 2, NET);
    assert_eq!(open(&mut two, NET, &bytes), Ok(life(1, 6)));
}

#[test]
fn a_datagram_counts_once() {
    let (mut one, mut two) = pair();
    let bytes = hello(&mut one, 2);
    exchange(&mut one, &mut two, bytes);
    let first = data(&mut one, 2, NET);
    let second = data(&mut one, 2, NET);
    assert!(open(&mut two, NET, &second).is_ok());
    assert!(open(&mut two, NET, &first).is_ok(), "overtaken, not repeated");
    for bytes in [&first, &second] {
        assert_eq!(open(&mut two, NET, bytes), Err(DropReason::Replayed(node(1))));
    }
    // Nor when the counter is changed.
    let mut renumbered = second;
    renumbered[24] += 1;
    assert_eq!(open(&mut two, NET, &renumbered), Err(DropReason::Forged(node(1))));
    // What a side sent never comes back to it as the peer's word.
    let reflected = data(&mut two, 1, NET);
    assert_eq!(open(&mut two, NET, &reflected), Err(DropReason::UnknownSender));
}

#[test]
fn answers_are_rationed() {
    let (mut one, mut two) = pair();
    let bytes = hello(&mut one, 2);
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
fn a_clone_is_refused_and_the_first_stays() {
    let (mut one, mut two) = pair();
    let bytes = hello(&mut one, 2);
    exchange(&mut one, &mut two, bytes);
    let mut clone = side(life(1, 5), 99);
    let refused = DropReason::Clone { node: node(1), inc: Incarnation(5) };
    assert_eq!(greet(&mut two, &hello(&mut clone, 2)), Err(refused));
    let bytes = data(&mut one, 2, NET);
    assert_eq!(open(&mut two, NET, &bytes), Ok(life(1, 5)));
}

#[test]
fn a_strangers_hello_is_refused() {
    let (_, mut two) = pair();
    let key = ClusterKey::from_bytes([2; 32]);
    let mut stranger = side_with(life(1, 5), 3, &key, &Security::default());
    let mut bytes = hello(&mut stranger, 2);
    assert_eq!(greet(&mut two, &bytes), Err(DropReason::WrongKey(node(1))));
    // Under a name that we know.
    let name = two.psks[0].0.to_le_bytes();
    bytes[12..16].copy_from_slice(&name);
    assert_eq!(greet(&mut two, &bytes), Err(DropReason::Forged(node(1))));
}

fn with_keys(own: u8, theirs: NodeId, key: u8) -> Security {
    let theirs = BTreeMap::from([(theirs, NodeKey::from_bytes([key; 32]).public())]);
    Security {
        node_key: Some(NodeKey::from_bytes([own; 32])),
        peer_keys: theirs,
        ..Security::default()
    }
}

/// The cluster key alone does not make a node where nodes have keys of their own.
#[test]
fn a_node_key_tells_machines_apart() {
    let key = ClusterKey::from_bytes([1; 32]);
    let mut one = side_with(life(1, 5), 10, &key, &with_keys(11, node(2), 22));
    let mut two = side_with(life(2, 8), 20, &key, &with_keys(22, node(1), 11));
    let bytes = hello(&mut one, 2);
    assert_eq!(exchange(&mut one, &mut two, bytes), [life(2, 8), life(1, 5)]);
    let mut other = side_with(life(1, 6), 12, &key, &with_keys(33, node(2), 22));
    let bytes = hello(&mut other, 2);
    assert_eq!(greet(&mut two, &bytes), Err(DropReason::Forged(node(1))));
    let mut none = side(life(1, 6), 13);
    assert_eq!(greet(&mut two, &hello(&mut none, 2)), Err(DropReason::Forged(node(1))));
}

#[test]
fn the_stronger_level_is_taken_and_the_lower_nodes_cipher() {
    let key = ClusterKey::from_bytes([1; 32]);
    let all = [SecurityLevel::Sign, SecurityLevel::Encrypt];
    let both = [Cipher::Aes256Gcm, Cipher::ChaCha20Poly1305];
    for (level, cipher) in all.into_iter().flat_map(|l| both.map(|c| (l, c))) {
        for (other_level, other_cipher) in all.into_iter().flat_map(|l| both.map(|c| (l, c))) {
            let first = Security { level, cipher, ..Security::default() };
            let second =
                Security { level: other_level, cipher: other_cipher, ..Security::default() };
            let mut one = side_with(life(1, 5), 10, &key, &first);
            let mut two = side_with(life(2, 8), 20, &key, &second);
            let bytes = hello(&mut one, 2);
            exchange(&mut one, &mut two, bytes);
            let bytes = data(&mut one, 2, NET);
            let protection = Datagram::parse(&bytes).unwrap().header.protection;
            assert_eq!(protection, Protection::Sealed(level.max(other_level), cipher));
            assert_eq!(open(&mut two, NET, &bytes), Ok(life(1, 5)));
        }
    }
}

fn joined() -> (Sessions, Sessions) {
    let (mut one, mut two) = pair();
    let bytes = hello(&mut one, 2);
    exchange(&mut one, &mut two, bytes);
    for _ in 0..2 {
        let bytes = data(&mut one, 2, NET);
        open(&mut two, NET, &bytes).unwrap();
        let bytes = data(&mut two, 1, NET);
        open(&mut one, NET, &bytes).unwrap();
    }
    (one, two)
}

#[test]
fn an_old_session_is_replaced_while_traffic_goes_on() {
    let (mut one, mut two) = joined();
    assert_eq!(one.greets_from(), Some(NOW + REKEY_AGE));
    let now = NOW + REKEY_AGE;
    assert!(one.greets(now, node(2)));
    let name = |bytes: &[u8]| Datagram::parse(bytes).unwrap().header.session;
    let late = data(&mut one, 2, NET);
    let bytes = hello(&mut one, 2);
    assert_eq!(exchange_at(now, &mut one, &mut two, bytes), [], "the same life goes on");
    // Node 2 knows that both have it, node 1 does not yet.
    let (from_one, from_two) = (data(&mut one, 2, NET), data(&mut two, 1, NET));
    assert_eq!(name(&from_one), name(&late));
    assert_ne!(name(&from_two), name(&late));
    assert_eq!(open_at(now, &mut two, NET, &from_one), Ok(life(1, 5)), "under the former");
    assert_eq!(open_at(now, &mut one, NET, &from_two), Ok(life(2, 8)));
    let from_one = data(&mut one, 2, NET);
    assert_eq!(name(&from_one), name(&from_two));
    assert_eq!(open_at(now, &mut two, NET, &from_one), Ok(life(1, 5)));
    assert!(!one.greets(now, node(2)) && !two.greets(now, node(1)));
    assert_eq!(open_at(now, &mut two, NET, &late), Ok(life(1, 5)), "late, but in time");
    assert_eq!(open_at(now, &mut two, NET, &late), Err(DropReason::Replayed(node(1))));
    let other = open_at(now + GRACE, &mut two, NET, &late);
    assert_eq!(other, Err(DropReason::OtherSession(node(1))), "the keys are gone");
}

#[test]
fn a_session_is_replaced_after_so_many_datagrams() {
    let (mut one, mut two) = joined();
    one.peers.get_mut(&node(2)).unwrap().current.as_mut().unwrap().sent = REKEY_DATAGRAMS - 1;
    assert!(!one.greets(NOW, node(2)));
    let bytes = data(&mut one, 2, NET);
    assert!(one.greets(NOW, node(2)));
    assert_eq!(open(&mut two, NET, &bytes), Ok(life(1, 5)), "the old one speaks on meanwhile");
}

/// Whoever feeds recorded hellos back makes both sides rekey at most: once a second, in the same
/// lives, and nothing is lost by it.
#[test]
fn recorded_hellos_of_this_life_make_no_new_one() {
    let (mut one, mut two) = pair();
    let recorded = hello(&mut one, 2);
    exchange(&mut one, &mut two, recorded.clone());
    let bytes = data(&mut one, 2, NET);
    open(&mut two, NET, &bytes).unwrap();
    let bytes = data(&mut two, 1, NET);
    open(&mut one, NET, &bytes).unwrap();
    let silent = greet(&mut two, &recorded).unwrap();
    assert_eq!(silent, Greeted { established: None, answer: None }, "its offer is in use");
    let start = NOW + REKEY_AGE;
    let bytes = hello(&mut one, 2);
    assert_eq!(exchange_at(start, &mut one, &mut two, bytes), []);
    let (mut agreements, mut before) = (0, None);
    for step in 0..1000u32 {
        let now = start + Duration::from_millis(5) * step;
        assert_eq!(exchange_at(now, &mut one, &mut two, recorded.clone()), []);
        let bytes = data(&mut one, 2, NET);
        assert_eq!(open_at(now, &mut two, NET, &bytes), Ok(life(1, 5)));
        let bytes = data(&mut two, 1, NET);
        assert_eq!(open_at(now, &mut one, NET, &bytes), Ok(life(2, 8)));
        let after = two.peers[&node(1)].current.as_ref().map(|current| current.tag);
        agreements += u32::from(before.is_some() && before != after);
        before = after;
    }
    assert!((1..=5).contains(&agreements), "{agreements} in five seconds");
}

#[test]
fn a_change_of_the_cluster_key_goes_unnoticed_by_traffic() {
    let (mut one, mut two) = joined();
    let first = ClusterKey::from_bytes([1; 32]);
    let added = first.changed([1; 32], Some([9; 32]));
    let swapped = first.changed([9; 32], Some([1; 32]));
    let done = first.changed([9; 32], None);
    let mut now = NOW;
    let mut names = BTreeSet::new();
    for (mine, theirs) in [
        (&added, &first),
        (&added, &added),
        (&swapped, &added),
        (&swapped, &swapped),
        (&done, &swapped),
        (&done, &done),
    ] {
        one.set_keys(mine);
        two.set_keys(theirs);
        for _ in 0..3 {
            now += AGREE_PAUSE;
            for turn in [true, false] {
                let (a, b) = if turn { (&mut one, &mut two) } else { (&mut two, &mut one) };
                let to = b.me.node;
                if a.greets(now, to) {
                    let bytes = hello(a, to.get());
                    assert_eq!(exchange_at(now, a, b, bytes), [], "no new life");
                }
                let bytes = data(a, to.get(), NET);
                assert!(open_at(now, b, NET, &bytes).is_ok());
            }
        }
        assert!(!one.greets(now, node(2)) && !two.greets(now, node(1)));
        names.insert(one.peers[&node(2)].current.as_ref().unwrap().tag);
    }
    assert_eq!(names.len(), 6, "every change made a new session");
    let mut old = side(life(1, 6), 14);
    assert_eq!(greet(&mut two, &hello(&mut old, 2)), Err(DropReason::WrongKey(node(1))));
}

#[test]
fn an_evicted_node_is_refused_and_its_lives_never_return() {
    let (mut one, mut two) = joined();
    two.expel(node(1), true);
    let refused = Err(DropReason::Expelled(node(1)));
    let bytes = data(&mut one, 2, NET);
    assert_eq!(open(&mut two, NET, &bytes), refused);
    assert_eq!(greet(&mut two, &hello(&mut one, 2)), Err(DropReason::Expelled(node(1))));
    assert!(!two.greets(NOW, node(1)) && two.greets_from().is_none());
    two.expel(node(1), false);
    assert_eq!(greet(&mut two, &hello(&mut one, 2)), Err(DropReason::OldLife(node(1))));
    let mut one = side(life(1, 6), 15);
    let bytes = hello(&mut one, 2);
    assert_eq!(exchange(&mut one, &mut two, bytes), [life(2, 8), life(1, 6)]);
}

#[test]
fn of_an_evicted_node_one_life_can_be_refused_and_the_next_let_in() {
    let (mut one, mut two) = joined();
    assert!(!two.expel_life(life(1, 4)), "an earlier life is not this one");
    let bytes = data(&mut one, 2, NET);
    open(&mut two, NET, &bytes).unwrap();
    assert!(two.expel_life(life(1, 5)));
    let bytes = data(&mut one, 2, NET);
    assert_eq!(open(&mut two, NET, &bytes), Err(DropReason::NoSession));
    assert_eq!(greet(&mut two, &hello(&mut one, 2)), Err(DropReason::OldLife(node(1))));
    let mut one = side(life(1, 6), 15);
    let bytes = hello(&mut one, 2);
    assert_eq!(exchange(&mut one, &mut two, bytes), [life(2, 8), life(1, 6)]);
}

#[test]
fn the_key_log_has_what_opens_a_datagram_and_only_if_wanted() {
    let (mut one, _) = joined();
    assert_eq!(one.poll_key_log(), None);
    let key = ClusterKey::from_bytes([1; 32]);
    let wanted = Security { key_log: Some("/unused".into()), ..Security::default() };
    let mut one = side_with(life(1, 5), 10, &key, &wanted);
    let mut two = side(life(2, 8), 20);
    let bytes = hello(&mut one, 2);
    exchange(&mut one, &mut two, bytes);
    let line = one.poll_key_log().unwrap();
    let words: Vec<&str> = line.split(' ').collect();
    let bytes = data(&mut one, 2, NET);
    let datagram = Datagram::parse(&bytes).unwrap();
    let name = format!("{:08x}", datagram.header.session);
    assert_eq!(words[..4], ["SESSION", &name, "1", "2"]);
    let lower = hex::decode::<32>(words[4].as_bytes()).unwrap();
    let opener = SealKey::new(&lower, SecurityLevel::Encrypt, Cipher::Aes256Gcm);
    assert_eq!(datagram.open(&opener, &mut Vec::new()), Some(&b"alive"[..]));
}

/// An offer that gives the shared secret away (a point of small order) makes no session, even if
/// it comes from a holder of the keys.
#[test]
fn a_worthless_offer_is_refused() {
    let (mut one, mut two) = pair();
    let answer = greet(&mut two, &hello(&mut one, 2)).unwrap().answer.unwrap();
    let worthless = PublicKey([0; 32]);
    let echo = answer.offer;
    let evil = Answer { offer: worthless, echo, wants_answer: true, agreed: true, ..answer };
    let mut bytes = Vec::new();
    let own = one.psks[0].0;
    assert!(one.seal_answer(&mut bytes, NET, node(2), Answer { generation: own, ..evil }));
    assert_eq!(greet(&mut two, &bytes), Err(DropReason::Malformed(node(1))));
    assert_eq!(two.life(node(1)), None);
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
            if one.greets(NOW, node(2)) {
                air.push((2, hello(&mut one, 2)));
            }
            if two.greets(NOW, node(1)) {
                air.push((1, hello(&mut two, 1)));
            }
            for (from, to) in [(&mut one, 2), (&mut two, 1)] {
                let mut bytes = Vec::new();
                crate::packet::begin(&mut bytes);
                if from.seal(&mut bytes, Kind::Heartbeat, NET, node(to)) {
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
                    let _ = side.open(now, NET, &datagram, &mut Vec::new());
                }
            }
        }
        prop_assert!(!one.greets(NOW, node(2)) && !two.greets(NOW, node(1)));
    }

    #[test]
    fn rubbish_bodies_never_panic(body in proptest::collection::vec(any::<u8>(), 0..100)) {
        let _ = Hello::decode(&body);
    }
}
