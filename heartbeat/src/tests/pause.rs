//! The pause detector: what is a pause of this machine, and what only looks like one.

use super::*;

#[test]
fn delay_is_no_pause_and_a_clock_that_stood_still_is() {
    let mut lab = Lab::new(&[2]);
    let paused =
        |lab: &Lab| lab.notices().iter().any(|n| matches!(n, HeartbeatNotice::Paused { .. }));
    let theirs = |lab: &Lab, ahead: Duration| Instant(lab.now.0 + 77_000_000_000) + ahead;
    for n in 0..50 {
        // Up to 900 ms of delay, coming and going.
        let clock = theirs(&lab, Duration::ZERO).before(ms(n * 37 % 900));
        lab.hear_on(A, 2, beat(3, clock));
        lab.pass(ms(100));
    }
    assert!(!paused(&lab));
    // The machine stood still for 400 ms, less than L/4: not noticed. Then for 300 ms more.
    let clock = theirs(&lab, ms(400));
    lab.hear_on(A, 2, beat(3, clock));
    assert!(!paused(&lab));
    lab.pass(ms(100));
    let clock = theirs(&lab, ms(1000));
    lab.hear_on(A, 2, beat(3, clock));
    assert!(paused(&lab), "{:?}", lab.notices());
    lab.take();
    lab.pass(ms(100));
    let clock = theirs(&lab, ms(1000));
    lab.hear_on(A, 2, beat(3, clock));
    assert!(!paused(&lab), "said once");
}

#[test]
fn heartbeats_that_waited_before_a_frozen_machine_tell_it_of_the_pause() {
    let mut lab = Lab::new(&[2]);
    let theirs = |lab: &Lab, ahead: Duration| Instant(lab.now.0 + 77_000_000_000) + ahead;
    for _ in 0..50 {
        let clock = theirs(&lab, Duration::ZERO);
        lab.hear_on(A, 2, beat(3, clock));
        lab.pass(ms(100));
    }
    // It stood still for two seconds; what was sent meanwhile waited in its network card.
    for n in 0..20 {
        let clock = theirs(&lab, ms(100) * n);
        lab.hear_on(A, 2, beat(3, clock));
    }
    let paused = |n: &HeartbeatNotice| matches!(n, HeartbeatNotice::Paused { .. });
    assert!(lab.notices().iter().any(paused), "the baseline crept up with them");
}

#[test]
fn after_a_pause_no_earlier_grant_counts() {
    let mut lab = Lab::new(&[2]);
    lab.command(terms(vec![table(&[(1, 1), (2, 1)], 1)], true));
    lab.command(HeartbeatCommand::RegisterGrant { sent: START });
    for _ in 0..20 {
        let heartbeat = acking(3, lab.now, lab.now);
        lab.hear_on(A, 2, heartbeat);
        lab.pass(ms(100));
    }
    assert!(lab.detector.lease_end() > lab.now);
    // The machine was frozen for five seconds; what was sent before is acknowledged only now.
    let heartbeat = acking(3, lab.now + ms(5000), lab.now.before(ms(1)));
    lab.hear_on(A, 2, heartbeat);
    assert_eq!(lab.detector.lease_end(), Instant::ZERO);
    lab.command(HeartbeatCommand::RegisterGrant { sent: lab.now.before(ms(1)) });
    assert_eq!(lab.detector.lease_end(), Instant::ZERO);
    lab.pass(ms(100));
    let heartbeat = acking(3, lab.now + ms(5000), lab.now);
    lab.hear_on(A, 2, heartbeat);
    assert!(lab.detector.lease_end() > lab.now, "what was sent since counts");
}

#[test]
fn first_heartbeats_that_waited_together_are_no_pause() {
    let mut lab = Lab::new(&[2]);
    lab.stall(ms(2000));
    for age in [1900, 1800, 0] {
        // Read in one go, sent over two seconds, the most of them lost.
        let heartbeat = beat(3, lab.now.before(ms(age)));
        lab.hear_on(A, 2, heartbeat);
    }
    let paused = |n: &HeartbeatNotice| matches!(n, HeartbeatNotice::Paused { .. });
    assert!(!lab.notices().iter().any(paused));
}

#[test]
fn drift_within_its_bound_is_no_pause_however_long_it_lasts() {
    let mut lab = Lab::new(&[2]);
    for n in 0..20_000u64 {
        // 0.2 % apart: both clocks at the end of what is allowed, for half an hour.
        let clock = Instant(lab.now.0 + n * 200_000);
        lab.hear_on(A, 2, beat(3, clock));
        lab.pass(ms(100));
        lab.out.retain(|(_, o)| matches!(o, Output::Notice(HeartbeatNotice::Paused { .. })));
    }
    assert_eq!(lab.out, []);
}

#[test]
fn drift_over_a_long_silence_is_no_pause() {
    let mut lab = Lab::new(&[2]);
    for _ in 0..20 {
        lab.hear(2, 3);
        lab.pass(ms(100));
    }
    // An hour without the peer, whose clock runs as fast as it may against ours.
    lab.pass(ms(3_600_000));
    lab.out.clear();
    let heartbeat = beat(3, lab.now + ms(7_200));
    lab.hear_on(A, 2, heartbeat);
    let paused = |n: &HeartbeatNotice| matches!(n, HeartbeatNotice::Paused { .. });
    assert!(!lab.notices().iter().any(paused));
    let heartbeat = beat(3, lab.now + ms(8_000));
    lab.hear_on(A, 2, heartbeat);
    assert!(lab.notices().iter().any(paused), "more than drift explains");
}
