//! Everything random: the seeded generator, and the parameters that a seed draws.
//!
//! Each seed is a different kind of trouble (a swarm): one has clocks at the ends of what is
//! allowed and a fast network, the next slow disks and no loss. What a seed has drawn is printed
//! first, so that a report can be read without the code.

use std::fmt;
use std::time::Duration;

use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore, SeedableRng};
use wolfpack_types::Times;
use wolfpack_types::membership::{QuorumType, WitnessKind, WitnessSpec};
use wolfpack_types::register::Exclusion;
use wolfpack_types::times::Profile;

use crate::node::CLUSTER;

/// The only source of chance.
#[derive(Clone, Debug)]
pub struct Dice(ChaCha8Rng);

impl Dice {
    /// The dice of a seed. `stream` separates uses, so that one does not shift another.
    #[must_use]
    pub fn new(seed: u64, stream: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(stream);
        Self(rng)
    }

    /// Any number.
    pub fn number(&mut self) -> u64 {
        self.0.next_u64()
    }

    /// A number from `low` to `high`, both included.
    pub fn range(&mut self, low: u64, high: u64) -> u64 {
        if high <= low {
            return low;
        }
        let width = u128::from(high - low) + 1;
        let offset = (u128::from(self.number()) * width) >> 64;
        low + u64::try_from(offset).unwrap_or(0)
    }

    /// True with this many chances in a thousand.
    pub fn permille(&mut self, chances: u32) -> bool {
        self.range(0, 999) < u64::from(chances)
    }

    /// A span up to `most`.
    pub fn span(&mut self, most: Duration) -> Duration {
        Duration::from_nanos(self.range(0, nanos(most)))
    }

    /// A span between two.
    pub fn between(&mut self, least: Duration, most: Duration) -> Duration {
        Duration::from_nanos(self.range(nanos(least), nanos(most)))
    }

    /// A position below `len`, which is not zero.
    pub fn index(&mut self, len: usize) -> usize {
        usize::try_from(self.range(0, len as u64 - 1)).unwrap_or(0)
    }

    /// One of these.
    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.index(from.len())]
    }
}

/// Nanoseconds of a span; spans of a simulation fit by far.
#[must_use]
pub fn nanos(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}

/// How long datagrams and thread hand-overs take, in microseconds: half of them up to `quick`,
/// most up to `usual`, some up to `slow`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delays {
    pub quick_us: u64,
    pub usual_us: u64,
    pub slow_us: u64,
}

impl Delays {
    /// One delay.
    pub fn draw(&self, dice: &mut Dice) -> Duration {
        let us = match dice.range(0, 99) {
            0..50 => dice.range(0, self.quick_us),
            50..85 => dice.range(self.quick_us, self.usual_us),
            _ => dice.range(self.usual_us, self.slow_us),
        };
        Duration::from_micros(us)
    }

    /// The same without the slow ones.
    #[must_use]
    pub const fn calm(self) -> Self {
        Self { slow_us: self.usual_us, ..self }
    }
}

/// What a seed has drawn, or a scene has set.
#[derive(Clone, Debug, PartialEq)]
pub struct Params {
    pub seed: u64,
    pub nodes: u8,
    pub networks: u8,
    pub quorum: QuorumType,
    pub exclusion: Exclusion,
    pub profile: Profile,
    pub times: Times,
    /// Length of the phase of faults.
    pub chaos: Duration,
    /// Datagrams lost, in a thousand.
    pub loss: u32,
    /// Datagrams that arrive changed, in a thousand.
    pub corrupt: u32,
    /// Heartbeats that arrive twice, in a thousand.
    pub twice: u32,
    pub wire: Delays,
    /// Hand-over between threads of a service.
    pub thread: Delays,
    pub store: Delays,
    pub disk: Delays,
    /// Disk commands that travel for a good part of the lease or longer, in a thousand.
    pub slow_commands: u32,
    /// Disk threads that see a completion late, in a thousand.
    pub late_completions: u32,
    /// Clock rates at the ends of what is allowed, rather than anywhere between.
    pub extreme_clocks: bool,
    /// Mean pause between two faults.
    pub fault_pause: Duration,
    /// Mean pause between two requests of administrators.
    pub request_pause: Duration,
    /// A second crash soon after a restart, in a thousand.
    pub double_crash: u32,
    /// Power cuts that take the node's store with them, in a thousand.
    pub lost_stores: u32,
    /// Trouble in the midst of a regroup, in a thousand.
    pub hits: u32,
    /// Wishes about nodes and quorum among those of administrators, in a thousand.
    pub wishes: u32,
    pub groups: u8,
    /// Directed: no faults, no requests but those of the scene.
    pub quiet: bool,
}

impl Params {
    /// Draws the parameters of a seed.
    #[must_use]
    pub fn draw(seed: u64) -> Self {
        let mut dice = Dice::new(seed, 1);
        let nodes = match dice.range(0, 1999) {
            0..60 => 1,
            60..760 => 2,
            760..1460 => 3,
            1460..1860 => dice.pick(&[4, 5]),
            1860..1985 => dice.pick(&[6, 7, 8]),
            1985..1999 => dice.pick(&[12, 16]),
            _ => dice.pick(&[32, 64]),
        };
        Self::draw_for(seed, nodes, dice)
    }

    /// The same for a given number of nodes.
    #[must_use]
    pub fn draw_of(seed: u64, nodes: u8) -> Self {
        Self::draw_for(seed, nodes, Dice::new(seed, 1))
    }

    /// With the times of a profile instead of those drawn; spans that are fractions of the lease go
    /// with it.
    pub fn set_profile(&mut self, profile: Profile) {
        let times = Times::of(profile);
        let (from, to) = (self.times.lease, times.lease);
        for span in [&mut self.chaos, &mut self.fault_pause, &mut self.request_pause] {
            *span = span.mul_f64(to.as_secs_f64() / from.as_secs_f64());
        }
        self.profile = profile;
        self.times = times;
    }

    fn draw_for(seed: u64, nodes: u8, mut dice: Dice) -> Self {
        let quorum = match (nodes, dice.range(0, 2)) {
            (1, 0) => dice.pick(&[QuorumType::Majority, QuorumType::Local]),
            (3.., 0) => QuorumType::Majority,
            _ if dice.permille(200) => QuorumType::NodeAndShare,
            (_, 0 | 1) => QuorumType::NodeAndDisk,
            _ => QuorumType::Disk,
        };
        let exclusion = if dice.permille(500) { Exclusion::Reserve } else { Exclusion::None };
        let profile = if dice.permille(250) { Profile::Standard } else { Profile::Fast };
        Self::of(seed, nodes, quorum, exclusion, profile, &mut dice)
    }

    fn of(
        seed: u64,
        nodes: u8,
        quorum: QuorumType,
        exclusion: Exclusion,
        profile: Profile,
        dice: &mut Dice,
    ) -> Self {
        let times = Times::of(profile);
        let lease_us = u64::try_from(times.lease.as_micros()).unwrap_or(u64::MAX);
        let stress = dice.permille(300);
        let slow_wire = if stress { lease_us / 4 } else { lease_us / dice.pick(&[8, 40, 400]) };
        let slow_thread = lease_us / dice.pick(&[5, 20, 200]);
        // Heartbeats are as the square of the nodes: what many nodes do is seen in a shorter time.
        let (span, networks) = match nodes {
            0..=8 => (36, dice.pick(&[1, 2, 2, 3])),
            9..=16 => (12, dice.pick(&[1, 2])),
            _ => (4, 1),
        };
        Self {
            seed,
            nodes,
            networks,
            quorum,
            exclusion: match quorum {
                QuorumType::Disk | QuorumType::NodeAndDisk => exclusion,
                _ => Exclusion::None,
            },
            profile,
            times,
            chaos: times.lease * span,
            loss: if stress { 100 } else { dice.pick(&[0, 10, 30]) },
            corrupt: dice.pick(&[0, 0, 15]),
            twice: dice.pick(&[0, 20]),
            wire: Delays { quick_us: 300, usual_us: 2_000.min(slow_wire), slow_us: slow_wire },
            thread: Delays { quick_us: 50, usual_us: 500, slow_us: slow_thread },
            store: Delays {
                quick_us: 500,
                usual_us: 5_000,
                slow_us: lease_us / dice.pick(&[4, 40]),
            },
            disk: Delays {
                quick_us: 300,
                usual_us: 3_000,
                slow_us: lease_us / dice.pick(&[8, 60]),
            },
            slow_commands: dice.pick(&[0, 20, 80]),
            late_completions: if stress { 80 } else { 15 },
            extreme_clocks: dice.permille(500),
            fault_pause: times.lease * dice.pick(&[1, 2, 3]) * if stress { 1 } else { 2 } / 2,
            request_pause: times.lease / dice.pick(&[1, 4]),
            double_crash: dice.pick(&[0, 0, 600]),
            hits: if stress { 200 } else { 30 },
            lost_stores: dice.pick(&[0, 0, 0, 300]),
            wishes: dice.pick(&[0, 0, 150]),
            groups: if dice.permille(700) { 1 } else { 2 },
            quiet: false,
        }
    }

    /// A quiet, fast network for directed scenes: every delay is short and the same kind.
    #[must_use]
    pub fn quiet(nodes: u8, quorum: QuorumType, exclusion: Exclusion) -> Self {
        let mut dice = Dice::new(0, 1);
        let even = Delays { quick_us: 300, usual_us: 300, slow_us: 300 };
        let mut params = Self::of(0, nodes, quorum, exclusion, Profile::Fast, &mut dice);
        params.loss = 0;
        params.twice = 0;
        params.corrupt = 0;
        params.networks = 2;
        params.wire = even;
        params.thread = Delays { quick_us: 20, usual_us: 20, slow_us: 20 };
        params.store = Delays { quick_us: 1_000, usual_us: 1_000, slow_us: 1_000 };
        params.disk = even;
        params.slow_commands = 0;
        params.late_completions = 0;
        params.extreme_clocks = false;
        params.double_crash = 0;
        params.hits = 0;
        params.wishes = 0;
        params.lost_stores = 0;
        params.groups = 1;
        params.quiet = true;
        params
    }

    /// The witness of `cluster create`.
    #[must_use]
    pub fn witness(&self) -> Option<WitnessSpec> {
        let kind = self.quorum.witness_kind()?;
        let place = "the witness disk".to_owned();
        Some(WitnessSpec {
            place,
            kind,
            exclusion: self.exclusion,
            id: CLUSTER.0,
            checkpoint_bytes: 0,
        })
    }

    /// Quorum type and exclusion, in words.
    #[must_use]
    pub fn kind(&self) -> String {
        if self.quorum.witness_kind() == Some(WitnessKind::Disk) {
            format!("{} ({})", self.quorum, format!("{:?}", self.exclusion).to_lowercase())
        } else {
            self.quorum.to_string()
        }
    }

    /// How much the delays of heartbeats may differ, drift included.
    #[must_use]
    pub fn blur(&self) -> Duration {
        let slowest = self.wire.slow_us + self.thread.slow_us;
        Duration::from_micros(slowest) * 2 + self.times.lease / 10
    }

    /// Whether there is a witness disk.
    #[must_use]
    pub const fn has_witness(&self) -> bool {
        self.quorum.has_witness()
    }
}

impl fmt::Display for Params {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "seed {}: {} nodes on {} network(s), quorum {}, exclusion {:?}, times {:?}, {} group(s), {:?} of faults",
            self.seed,
            self.nodes,
            self.networks,
            self.quorum,
            self.exclusion,
            self.profile,
            self.groups,
            self.chaos
        )?;
        writeln!(
            f,
            "  network: loss {} in 1000, changed {}, twice {} in 1000, delays {}/{}/{} us; threads up to {} us",
            self.loss,
            self.corrupt,
            self.twice,
            self.wire.quick_us,
            self.wire.usual_us,
            self.wire.slow_us,
            self.thread.slow_us
        )?;
        writeln!(
            f,
            "  store up to {} us; disk up to {} us, slow commands {} in 1000, late completions {}",
            self.store.slow_us, self.disk.slow_us, self.slow_commands, self.late_completions
        )?;
        write!(
            f,
            "  clocks {}; a fault every {:?}, a request every {:?}; hits {}, second crashes {}, lost \
             stores {}, wishes {}",
            if self.extreme_clocks { "at the limits" } else { "within the limits" },
            self.fault_pause,
            self.request_pause,
            self.hits,
            self.double_crash,
            self.lost_stores,
            self.wishes
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_draws_the_same_again() {
        assert_eq!(Params::draw(7), Params::draw(7));
        assert_ne!(Params::draw(7).to_string(), Params::draw(8).to_string());
    }

    #[test]
    fn every_drawn_set_of_times_is_allowed() {
        for seed in 0..200 {
            let p = Params::draw(seed);
            p.times.check(p.exclusion == Exclusion::Reserve).unwrap();
            assert!(p.has_witness() || p.nodes != 2);
        }
    }

    #[test]
    fn ranges_include_both_ends() {
        let mut dice = Dice::new(1, 1);
        let drawn: std::collections::BTreeSet<u64> = (0..200).map(|_| dice.range(3, 5)).collect();
        assert_eq!(drawn.into_iter().collect::<Vec<_>>(), [3, 4, 5]);
    }
}
