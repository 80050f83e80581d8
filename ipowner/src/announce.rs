//! When to say that an address is here. Pure: the caller sends, and tells the time.
//!
//! A gratuitous ARP may be lost, and a switch may still be learning: so it is said at once, five
//! times more within four seconds, and then every minute for neighbours that came later (the same
//! thought as RFC 5227 section 2.3, which asks for two). A change of the view says it all again: a
//! node that was thought dead may have announced the address in between.
//!
//! ```text
//!            Online, Again                    Deadline, after the last step
//!  silent ------------------> burst(step) -----------------------------------> steady (60 s)
//!     ^                          |   ^  |                                         |
//!     |         Offline          |   +--+ Deadline                               |
//!     +--------------------------+-----------------------------------------------+
//! ```

use std::time::Duration;

use wolfpack_types::Instant;

/// Offsets of the announcements from the moment at which the address came online.
pub const BURST: [Duration; 6] = [
    Duration::ZERO,
    Duration::from_millis(100),
    Duration::from_millis(300),
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(4),
];

/// Period of the announcements after the burst.
pub const STEADY: Duration = Duration::from_secs(60);

/// What happened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Input {
    /// The address answers from here now.
    Online,
    /// The view changed, or the administrator asks: say it all again. Nothing if not online.
    Again,
    /// The address is no longer here; from now on nothing is announced.
    Offline,
    /// The time of [`Schedule::next_deadline`] has come (or any other: calling early is harmless).
    Deadline,
}

/// What to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Output {
    /// Send both forms of the gratuitous ARP now.
    Announce,
}

/// The plan of announcements of one address.
///
/// One input, then drain [`Schedule::poll_output`], then the next input.
#[derive(Clone, Debug, Default)]
pub struct Schedule {
    state: State,
    due: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum State {
    #[default]
    Silent,
    /// `step` is the next entry of [`BURST`].
    Burst {
        start: Instant,
        step: usize,
    },
    Steady {
        next: Instant,
    },
}

impl Schedule {
    /// A schedule of an address that is not here.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes one input.
    pub fn handle(&mut self, now: Instant, input: Input) {
        match input {
            Input::Online => self.start(now),
            Input::Again if self.state != State::Silent => self.start(now),
            Input::Again => {}
            Input::Offline => *self = Self::default(),
            Input::Deadline => self.advance(now),
        }
    }

    /// What is to be done now; drain it after each input.
    pub fn poll_output(&mut self) -> Option<Output> {
        std::mem::take(&mut self.due).then_some(Output::Announce)
    }

    /// When to call with [`Input::Deadline`]; `None` while silent.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        match self.state {
            State::Silent => None,
            State::Burst { start, step } => Some(start + BURST[step]),
            State::Steady { next } => Some(next),
        }
    }

    fn start(&mut self, now: Instant) {
        self.state = State::Burst { start: now, step: 0 };
        self.advance(now);
    }

    /// Announces once however many steps have passed: a late driver must not make a burst of its
    /// own.
    fn advance(&mut self, now: Instant) {
        while self.next_deadline().is_some_and(|deadline| deadline <= now) {
            self.due = true;
            self.state = match self.state {
                State::Burst { start, step } if step + 1 < BURST.len() => {
                    State::Burst { start, step: step + 1 }
                }
                State::Burst { .. } | State::Steady { .. } => State::Steady { next: now + STEADY },
                State::Silent => State::Silent,
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(ms: u64) -> Instant {
        Instant(ms * 1_000_000)
    }

    fn run(schedule: &mut Schedule, until: Instant) -> Vec<Instant> {
        let mut said = Vec::new();
        while let Some(deadline) = schedule.next_deadline().filter(|&d| d <= until) {
            schedule.handle(deadline, Input::Deadline);
            while let Some(Output::Announce) = schedule.poll_output() {
                said.push(deadline);
            }
        }
        said
    }

    #[test]
    fn says_it_at_once_then_in_a_burst_then_every_minute() {
        let mut s = Schedule::new();
        assert_eq!(s.next_deadline(), None);
        s.handle(at(5_000), Input::Online);
        assert_eq!(s.poll_output(), Some(Output::Announce));
        assert_eq!(s.poll_output(), None);
        let wanted = [5_100, 5_300, 6_000, 7_000, 9_000, 69_000, 129_000].map(at);
        assert_eq!(run(&mut s, at(130_000)), wanted);
    }

    #[test]
    fn a_view_change_starts_again_only_while_online() {
        let mut s = Schedule::new();
        s.handle(at(0), Input::Again);
        assert_eq!((s.poll_output(), s.next_deadline()), (None, None));
        s.handle(at(0), Input::Online);
        assert!(s.poll_output().is_some());
        run(&mut s, at(20_000));
        s.handle(at(20_500), Input::Again);
        assert!(s.poll_output().is_some());
        assert_eq!(s.next_deadline(), Some(at(20_600)));
    }

    #[test]
    fn offline_forgets_what_was_due() {
        let mut s = Schedule::new();
        s.handle(at(0), Input::Online);
        s.handle(at(0), Input::Offline);
        assert_eq!((s.poll_output(), s.next_deadline()), (None, None));
    }

    #[test]
    fn a_late_driver_says_it_once() {
        let mut s = Schedule::new();
        s.handle(at(0), Input::Online);
        assert!(s.poll_output().is_some());
        s.handle(at(1_500), Input::Deadline);
        assert!(s.poll_output().is_some());
        assert!(s.poll_output().is_none());
        assert_eq!(s.next_deadline(), Some(at(2_000)));
    }

    proptest! {
        #[test]
        fn online_always_has_a_deadline_ahead(
            steps in prop::collection::vec((0u64..70_000, 0u8..4), 1..60)
        ) {
            let mut s = Schedule::new();
            let mut now = 0;
            let mut online = false;
            for (later, what) in steps {
                now += later;
                let input = [Input::Online, Input::Again, Input::Offline, Input::Deadline]
                    [usize::from(what)];
                s.handle(at(now), input);
                online = match input {
                    Input::Online => true,
                    Input::Offline => false,
                    Input::Again | Input::Deadline => online,
                };
                let said = s.poll_output().is_some();
                prop_assert!(s.poll_output().is_none());
                prop_assert!(online || !said);
                prop_assert_eq!(s.next_deadline().is_some(), online);
                if let Some(next) = s.next_deadline() {
                    prop_assert!(next > at(now) && next <= at(now) + STEADY);
                }
            }
        }
    }
}
