//! The times of the cluster (protocol P11) and the inequalities that tie them (P6).

use std::time::Duration;

use serde::{Deserialize, Serialize};

const fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// A named set of times.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Profile {
    #[default]
    Standard,
    Fast,
    Turbo,
    Wan,
}

impl Profile {
    /// All profiles, by growing times.
    pub const ALL: [Self; 4] = [Self::Turbo, Self::Fast, Self::Standard, Self::Wan];

    /// The name as configured.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Standard => "standard",
            Self::Fast => "fast",
            Self::Turbo => "turbo",
            Self::Wan => "wan",
        }
    }
}

/// All times of one cluster; the same on every node.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Times {
    /// Heartbeat period on every path.
    pub heartbeat: Duration,
    /// Heartbeats missed on all paths that make a peer silent: T_detect = heartbeat x misses.
    pub misses: u32,
    /// Burst of direct probes before the silence is reported.
    pub probe: Duration,
    /// Activate waits this long for suspected members (two ticks).
    pub suspected_wait: Duration,
    /// Activate waits at most this long for unsuspected members, and an attempt may take this long
    /// before it is given up (challenge time comes on top).
    pub vote_budget: Duration,
    /// Head start of the quorum owner and of larger parts at the witness.
    pub tie_break: Duration,
    /// Lease L.
    pub lease: Duration,
    /// Margin M: from lease end to the end of everything.
    pub margin: Duration,
    /// Renewal period at the register, R_d.
    pub register_renew: Duration,
    /// Register lease, L_r.
    pub register_lease: Duration,
    /// Period of re-RESERVE, R.
    pub reserve_renew: Duration,
    /// What a challenger waits beyond 2R between LUN reset and RESERVE.
    pub challenge_margin: Duration,
    /// Longest life of a disk command before the disk thread gives up waiting for it.
    pub command_timeout: Duration,
    /// A member that cannot acknowledge an update within this is removed, T_upd.
    pub update_timeout: Duration,
    /// A service whose core is silent for this long stops sending heartbeats.
    pub hang_timeout: Duration,
}

/// What the times mean for people: spans from a power cut on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Budget {
    /// Until the silence is reported.
    pub detect: Duration,
    /// From then until the survivors have a view, at the longest and without a challenge.
    pub regroup: Duration,
    /// A lost node's lease, on any clock.
    pub lease: Duration,
    /// From lease end to the end of everything there.
    pub margin: Duration,
    /// Until its groups may start elsewhere: the lease and the margin, or detection and regroup.
    pub failover: Duration,
}

impl std::fmt::Display for Budget {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "time budget after a power cut: silence is reported after {} ms, a regroup takes up \
             to {} ms; the lost node's lease ends within {} ms and everything of it {} ms later; \
             its groups start elsewhere after {} ms",
            self.detect.as_millis(),
            self.regroup.as_millis(),
            self.lease.as_millis(),
            self.margin.as_millis(),
            self.failover.as_millis()
        )
    }
}

/// Clocks of running nodes differ in rate by at most this many parts per million (rho = 0.1 %).
pub const DRIFT_PPM: u32 = 1000;

/// An inequality that a configuration breaks.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{rule}: {left} ms is not above {right} ms; {advice}")]
pub struct BrokenInequality {
    pub rule: &'static str,
    pub left: u128,
    pub right: u128,
    pub advice: &'static str,
}

impl Times {
    /// The default: for any network.
    pub const STANDARD: Self = Self {
        heartbeat: ms(100),
        misses: 10,
        probe: ms(100),
        suspected_wait: ms(100),
        vote_budget: ms(300),
        tie_break: ms(300),
        lease: ms(2000),
        margin: ms(500),
        register_renew: ms(500),
        register_lease: ms(5000),
        reserve_renew: ms(250),
        challenge_margin: ms(250),
        command_timeout: ms(1500),
        update_timeout: ms(5000),
        hang_timeout: ms(10_000),
    };

    /// For a quiet network of its own.
    pub const FAST: Self = Self {
        heartbeat: ms(50),
        misses: 6,
        probe: ms(50),
        suspected_wait: ms(50),
        vote_budget: ms(150),
        tie_break: ms(150),
        lease: ms(800),
        margin: ms(200),
        register_renew: ms(200),
        register_lease: ms(2000),
        reserve_renew: ms(100),
        challenge_margin: ms(100),
        command_timeout: ms(700),
        update_timeout: ms(2000),
        hang_timeout: ms(6000),
    };

    /// For real-time nodes on a network of their own.
    pub const TURBO: Self = Self {
        heartbeat: ms(10),
        misses: 6,
        probe: ms(10),
        suspected_wait: ms(10),
        vote_budget: ms(30),
        tie_break: ms(20),
        lease: ms(130),
        margin: ms(40),
        ..Self::FAST
    };

    /// For nodes in different places: round trips up to 300 ms, and networks that are gone for
    /// seconds.
    pub const WAN: Self = Self {
        heartbeat: ms(500),
        misses: 10,
        probe: ms(1000),
        suspected_wait: ms(1000),
        vote_budget: ms(3000),
        tie_break: ms(1500),
        lease: ms(12_000),
        margin: ms(1000),
        register_renew: ms(2000),
        register_lease: ms(20_000),
        reserve_renew: ms(1000),
        challenge_margin: ms(1000),
        command_timeout: ms(4000),
        update_timeout: ms(20_000),
        hang_timeout: ms(30_000),
    };

    /// The times of a profile.
    #[must_use]
    pub const fn of(profile: Profile) -> Self {
        match profile {
            Profile::Standard => Self::STANDARD,
            Profile::Fast => Self::FAST,
            Profile::Turbo => Self::TURBO,
            Profile::Wan => Self::WAN,
        }
    }

    /// Silence on all paths that makes a peer suspected, T_detect.
    #[must_use]
    pub fn detect(&self) -> Duration {
        self.heartbeat * self.misses
    }

    /// How late the driver may run at the worst, a third of T_detect (P11): beyond that a machine
    /// that merely is slow may be taken for dead.
    #[must_use]
    pub fn delay_allowed(&self) -> Duration {
        self.detect() / 3
    }

    /// Whether these times are so short that only real-time scheduling holds them on a machine that
    /// may become busy: without it delays of 15 ms were measured at the 99th percentile, and worse
    /// beyond.
    #[must_use]
    pub fn needs_realtime(&self) -> bool {
        self.delay_allowed() < ms(50)
    }

    /// The challenger's wait between LUN reset and RESERVE, 2R + margin.
    #[must_use]
    pub fn challenge_wait(&self) -> Duration {
        self.reserve_renew * 2 + self.challenge_margin
    }

    /// One tick of the regroup.
    #[must_use]
    pub fn tick(&self) -> Duration {
        self.suspected_wait / 2
    }

    /// The budget that follows from the times.
    #[must_use]
    pub fn budget(&self) -> Budget {
        let detect = self.detect() + self.probe;
        let regroup = self.suspected_wait + self.vote_budget;
        let lease = Self::drifted(self.lease);
        let failover = (lease + self.margin).max(detect + regroup);
        Budget { detect, regroup, lease, margin: self.margin, failover }
    }

    /// A span that another clock may have measured, made long enough for any two clocks.
    #[must_use]
    pub fn drifted(span: Duration) -> Duration {
        // (1 + rho) / (1 - rho), rounded up.
        let nanos = span.as_nanos() * u128::from(1_000_000 + DRIFT_PPM);
        let nanos = nanos.div_ceil(u128::from(1_000_000 - DRIFT_PPM));
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    /// Checks the inequalities of P6 and P4; `reserve` says that a register with exclusion
    /// `reserve` may be challenged within a regroup.
    ///
    /// # Errors
    /// The first inequality that does not hold, with both sides and what to change.
    pub fn check(&self, reserve: bool) -> Result<(), BrokenInequality> {
        let above = |rule, left: Duration, right: Duration, advice| {
            if left > right {
                Ok(())
            } else {
                Err(BrokenInequality {
                    rule,
                    left: left.as_millis(),
                    right: right.as_millis(),
                    advice,
                })
            }
        };
        above(
            "misses > 1",
            ms(u64::from(self.misses)),
            ms(1),
            "a single lost datagram is no death",
        )?;
        above("heartbeat > 0", self.heartbeat, Duration::ZERO, "give heartbeat_ms")?;
        above(
            "lease L > T_detect + probe + regroup",
            self.lease + self.tick(),
            self.detect() + self.probe + self.suspected_wait + self.vote_budget,
            "raise lease_ms or lower heartbeat_ms x misses",
        )?;
        above(
            "margin M > drift of L",
            self.margin,
            Self::drifted(self.lease) - self.lease,
            "raise margin_ms",
        )?;
        above(
            "register lease L_r > 3 R_d",
            self.register_lease,
            self.register_renew * 3,
            "raise register_lease_ms",
        )?;
        if reserve {
            above(
                "register lease L_r > R + (2R + margin) + command times",
                self.register_lease,
                self.reserve_renew + self.challenge_wait() + self.command_timeout,
                "raise register_lease_ms or lower reserve_renew_ms",
            )?;
        }
        above("update timeout > lease", self.update_timeout, self.lease, "raise update_timeout_ms")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn profiles_hold_their_inequalities() {
        for profile in Profile::ALL {
            Times::of(profile).check(true).unwrap();
        }
    }

    #[test]
    fn turbo_alone_needs_realtime() {
        let needy = Profile::ALL.map(|p| Times::of(p).needs_realtime());
        assert_eq!(needy, [true, false, false, false]);
        assert_eq!(Times::TURBO.delay_allowed(), ms(20));
    }

    #[test]
    fn a_short_lease_is_refused_with_both_sides() {
        let times = Times { lease: ms(900), ..Times::STANDARD };
        let err = times.check(false).unwrap_err().to_string();
        assert!(err.contains("950 ms is not above 1500 ms"), "{err}");
    }

    #[test]
    fn the_budget_is_the_longer_of_wait_and_regroup() {
        let budget = Times::STANDARD.budget();
        assert_eq!(budget.detect, ms(1100));
        assert_eq!(budget.failover, Times::drifted(ms(2000)) + ms(500));
        let short = Times { lease: ms(100), ..Times::STANDARD };
        assert_eq!(short.budget().failover, ms(1100 + 400));
    }

    #[test]
    fn drift_rounds_up() {
        assert!(Times::drifted(ms(1000)) > ms(1002));
        assert_eq!(Times::drifted(Duration::ZERO), Duration::ZERO);
    }
}
