//! What is known of one peer: its paths, its present life, how it looks.
//!
//! ```text
//!                       heard                        silent D/2 on all paths
//!   (unknown) ------------------------> Up ----------------------------------> Suspected
//!       |                               ^  ^              heard                   |  probes
//!       | silent D + probe              |  +--------------------------------------+
//!       |                         heard |                                         | silent D, and
//!       +--------------------------> Unreachable <--------------------------------+ probed
//!                                       ^--- declared dead, from anywhere
//! ```
//! D is T_detect. An own stall is excused: it moves the silences later, never the lease.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use wolfpack_types::heartbeat::{Heartbeat, HeartbeatNotice, Reach, Standing};
use wolfpack_types::networks::{NetworkRows, PathFigures};
use wolfpack_types::{Incarnation, Instant, NetworkId, NodeId, NodeInc, NodeSet, Times};

use crate::figures::Figures;
use crate::pause::PauseWatch;

/// One network that leads to the peer.
#[derive(Debug)]
pub(crate) struct Path {
    /// Last sign of life; the start of the detector before the first.
    pub(crate) heard: Instant,
    /// Own stalls since then, during which nothing could be heard.
    excused: Duration,
    /// None until it was heard or given up for the first time.
    pub(crate) up: Option<bool>,
    /// Heartbeats sent on it.
    pub(crate) seq: u64,
    /// Last answer to a probe.
    pub(crate) answered: Option<Instant>,
    pub(crate) hint: Option<Hint>,
    pub(crate) figures: Figures,
}

/// A path may be broken: it is probed for a while, by itself.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Hint {
    pub(crate) next: Instant,
    pub(crate) until: Instant,
}

impl Path {
    /// The start of its silence, own stalls left out.
    fn silent_since(&self) -> Instant {
        self.heard + self.excused
    }
}

/// The present life of a peer.
#[derive(Debug)]
pub(crate) struct Life {
    pub(crate) inc: Incarnation,
    /// Newest of its clocks received, and the own time of that.
    pub(crate) newest: Instant,
    pub(crate) received: Instant,
    pub(crate) standing: Standing,
    pub(crate) row: NodeSet,
    pub(crate) networks: NetworkRows,
    pause: PauseWatch,
}

/// What a received heartbeat brought.
#[derive(Debug, Default)]
pub(crate) struct Heard {
    /// First of its life: earlier lives are gone.
    pub(crate) new_life: bool,
    /// It showed that the own clock had stood still.
    pub(crate) paused: bool,
    pub(crate) notices: Vec<HeartbeatNotice>,
}

/// One peer.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) node: NodeId,
    pub(crate) paths: BTreeMap<NetworkId, Path>,
    pub(crate) life: Option<Life>,
    /// The newest life that is known to be over.
    dead: Option<Incarnation>,
    /// None until the first report.
    pub(crate) reach: Option<Reach>,
    suspected_at: Instant,
    pub(crate) next_probe: Option<Instant>,
}

impl Peer {
    pub(crate) fn new(node: NodeId, networks: &BTreeSet<NetworkId>, now: Instant) -> Self {
        let path = || Path {
            heard: now,
            excused: Duration::ZERO,
            up: None,
            seq: 0,
            answered: None,
            hint: None,
            figures: Figures::new(),
        };
        Self {
            node,
            paths: networks.iter().map(|&network| (network, path())).collect(),
            life: None,
            dead: None,
            reach: None,
            suspected_at: now,
            next_probe: None,
        }
    }

    /// Whether a heartbeat of this life counts.
    pub(crate) fn admits(&self, inc: Incarnation) -> bool {
        self.dead.is_none_or(|dead| inc > dead)
            && self.life.as_ref().is_none_or(|life| inc >= life.inc)
    }

    /// The present life, unless it is known to be over.
    pub(crate) fn living(&self) -> Option<(NodeInc, &Life)> {
        let life = self.life.as_ref().filter(|life| self.admits(life.inc))?;
        Some((NodeInc::new(self.node, life.inc), life))
    }

    /// Heard within T_detect on some path.
    pub(crate) fn in_row(&self) -> bool {
        matches!(self.reach, Some(Reach::Up | Reach::Suspected))
    }

    fn silent_since(&self) -> Instant {
        self.paths.values().map(Path::silent_since).max().unwrap_or_default()
    }

    fn heard_last(&self) -> Instant {
        self.paths.values().map(|path| path.heard).max().unwrap_or_default()
    }

    /// The driver was late: nothing could be heard meanwhile.
    pub(crate) fn excuse(&mut self, late: Duration) {
        for path in self.paths.values_mut() {
            path.excused += late;
        }
    }

    /// A heartbeat that [`Peer::admits`] on a network that leads to this peer.
    pub(crate) fn hear(
        &mut self,
        now: Instant,
        network: NetworkId,
        heartbeat: &Heartbeat,
        times: &Times,
    ) -> Heard {
        let mut heard = Heard::default();
        let silence = now.since(self.heard_last());
        self.learn(now, heartbeat, times, &mut heard);
        if let Some(path) = self.paths.get_mut(&network) {
            let silence = now.since(path.heard);
            path.figures.count(now, heartbeat, silence);
            path.heard = now;
            path.excused = Duration::ZERO;
            path.hint = None;
            if path.up != Some(true) {
                path.up = Some(true);
                let node = self.node;
                heard.notices.push(HeartbeatNotice::Path { network, node, up: true, silence });
            }
        }
        self.next_probe = None;
        self.turn(Reach::Up, silence, &mut heard.notices);
        heard
    }

    /// Takes over what a heartbeat says of its sender.
    fn learn(&mut self, now: Instant, hb: &Heartbeat, times: &Times, heard: &mut Heard) {
        let fresh = Life {
            inc: hb.inc,
            newest: hb.clock,
            received: now,
            standing: hb.standing,
            row: hb.row,
            networks: hb.networks,
            pause: PauseWatch::new(now, hb.clock),
        };
        match self.life.as_mut().filter(|life| life.inc == hb.inc) {
            None => {
                self.life = Some(fresh);
                heard.new_life = true;
                self.paths.values_mut().for_each(|path| path.figures.reset());
            }
            Some(life) => {
                if let Some(behind) = life.pause.observe(now, hb.clock, times) {
                    heard.paused = true;
                    heard.notices.push(HeartbeatNotice::Paused { behind });
                }
                if hb.clock <= life.newest {
                    // The same round on another path, or overtaken: it has nothing new to say.
                    return;
                }
                life.newest = hb.clock;
                life.received = now;
                let known = (life.standing, life.row, life.networks);
                if known == (hb.standing, hb.row, hb.networks) {
                    return;
                }
                life.standing = hb.standing;
                life.row = hb.row;
                life.networks = hb.networks;
            }
        }
        heard.notices.push(HeartbeatNotice::Heard {
            from: NodeInc::new(self.node, hb.inc),
            standing: hb.standing,
            row: hb.row.to_set(),
            networks: hb.networks,
        });
    }

    /// What was measured on its paths.
    pub(crate) fn figures(&self, now: Instant) -> impl Iterator<Item = PathFigures> {
        self.paths.iter().map(move |(&network, path)| PathFigures {
            network,
            node: self.node,
            up: path.up == Some(true),
            silence: now.since(path.heard),
            sent: path.seq,
            received: path.figures.received,
            lost: path.figures.lost,
            reordered: path.figures.reordered,
            history: path.figures.history,
            history_len: path.figures.history_len,
            jitter: path.figures.jitter(),
            round_trip: path.figures.round_trip,
            gaps: path.figures.gaps(),
        })
    }

    /// This life is over. Reports it as unreachable if it is the present one, or none was heard.
    pub(crate) fn declare_dead(
        &mut self,
        now: Instant,
        inc: Incarnation,
        notices: &mut Vec<HeartbeatNotice>,
    ) {
        self.dead = self.dead.max(Some(inc));
        if self.living().is_none() {
            self.next_probe = None;
            self.turn(Reach::Unreachable, now.since(self.heard_last()), notices);
        }
    }

    /// What the passing of time makes of it.
    pub(crate) fn pass_time(
        &mut self,
        now: Instant,
        times: &Times,
        notices: &mut Vec<HeartbeatNotice>,
    ) {
        let (node, detect) = (self.node, times.detect());
        for (&network, path) in &mut self.paths {
            if path.up != Some(false) && now >= path.silent_since() + detect {
                path.up = Some(false);
                let silence = now.since(path.heard);
                notices.push(HeartbeatNotice::Path { network, node, up: false, silence });
            }
            path.hint = path.hint.filter(|hint| now < hint.until);
        }
        let silence = now.since(self.heard_last());
        if self.reach == Some(Reach::Up) && now >= self.silent_since() + detect / 2 {
            self.suspected_at = now;
            self.next_probe = Some(now);
            self.turn(Reach::Suspected, silence, notices);
        }
        if self.unreachable_at(times).is_some_and(|at| now >= at) {
            self.next_probe = None;
            self.turn(Reach::Unreachable, silence, notices);
        }
    }

    /// When it will have been silent for long enough and through the probes.
    fn unreachable_at(&self, times: &Times) -> Option<Instant> {
        match self.reach {
            None => Some(self.silent_since() + times.detect() + times.probe),
            Some(Reach::Suspected) => {
                Some((self.silent_since() + times.detect()).max(self.suspected_at + times.probe))
            }
            Some(Reach::Up | Reach::Unreachable) => None,
        }
    }

    /// When [`Peer::pass_time`] has something to do.
    pub(crate) fn next_deadline(&self, times: &Times) -> Option<Instant> {
        let path_down = self
            .paths
            .values()
            .filter(|path| path.up != Some(false))
            .map(|path| path.silent_since() + times.detect());
        let suspect =
            (self.reach == Some(Reach::Up)).then(|| self.silent_since() + times.detect() / 2);
        path_down.chain(suspect).chain(self.unreachable_at(times)).min()
    }

    /// When the next probe of a path that was hinted at is due, or the burst ends.
    pub(crate) fn next_hint(&self) -> Option<Instant> {
        self.paths.values().filter_map(|path| path.hint).map(|h| h.next.min(h.until)).min()
    }

    fn turn(&mut self, reach: Reach, silence: Duration, notices: &mut Vec<HeartbeatNotice>) {
        if self.reach != Some(reach) {
            self.reach = Some(reach);
            notices.push(HeartbeatNotice::Reach { node: self.node, reach, silence });
        }
    }

    pub(crate) fn check_invariants(&self, now: Instant) {
        assert!(self.paths.values().all(|path| path.heard <= now), "heard in the future");
        assert!(
            self.next_probe.is_none() || self.reach == Some(Reach::Suspected),
            "only a suspected peer is probed"
        );
        if let Some(life) = &self.life {
            assert!(life.received <= now, "received in the future");
        }
    }
}
