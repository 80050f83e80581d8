//! When a judgement is told.

use super::*;

const SPAN: Duration = Duration::from_secs(1);
const START: Instant = Instant(5_000_000_000);

fn verdict(state: NetworkState) -> Vec<NetworkVerdict> {
    vec![NetworkVerdict {
        network: NetworkId(0),
        state,
        why: String::new(),
        interfaces: BTreeMap::new(),
    }]
}

fn at(ms: u64) -> Instant {
    START + Duration::from_millis(ms)
}

#[test]
fn a_judgement_is_told_when_it_has_stood() {
    let told = verdict(NetworkState::Up);
    let down = || verdict(NetworkState::Down);
    let mut settling = Settling::default();
    assert_eq!(settling.settle(at(0), down(), &told, SPAN), None);
    assert_eq!(settling.settle(at(999), down(), &told, SPAN), None);
    assert_eq!(settling.settle(at(1000), down(), &told, SPAN), Some(down()));
    assert_eq!(settling.settle(at(1050), down(), &down(), SPAN), None, "it is in force");
}

#[test]
fn a_flap_that_ends_as_it_was_is_not_told() {
    let told = verdict(NetworkState::Up);
    let mut settling = Settling::default();
    for ms in (0..60_000).step_by(50) {
        // Down for 600 ms of each second.
        let state = if ms % 1000 < 600 { NetworkState::Down } else { NetworkState::Up };
        assert_eq!(settling.settle(at(ms), verdict(state), &told, SPAN), None, "{ms}");
    }
}

#[test]
fn what_changes_on_and_on_is_told_in_the_end() {
    let told = verdict(NetworkState::Up);
    let mut settling = Settling::default();
    let mut said = None;
    for ms in (0..10_000).step_by(50) {
        let state = if ms % 1000 < 500 { NetworkState::Down } else { NetworkState::Partitioned };
        if settling.settle(at(ms), verdict(state), &told, SPAN).is_some() {
            said = Some(ms);
            break;
        }
    }
    assert_eq!(said, Some(5000));
}

#[test]
fn a_dying_node_is_known_before_its_paths_are_judged() {
    for profile in wolfpack_types::times::Profile::ALL {
        let times = Times::of(profile);
        // From the first path given up to the view without the node.
        let view = times.probe + times.suspected_wait + times.vote_budget;
        assert!(settle_span(&times) > view, "{profile:?}");
    }
}
