//! Networks and interfaces: the leader judges them by the reports of all members (`judge`), lets
//! each judgement settle, and tells every member; and what administrators see of it.
//!
//! Nothing is decided by it: membership goes by who is heard on *any* path.

mod judge;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::time::Duration;

use wolfpack_types::api::{
    DelayStatus, ErrorKind, ErrorReply, GapStatus, InterfaceStatus, NetworkStatus, PathDetail,
    Reply, Request, RoundTripStatus,
};
use wolfpack_types::event::{EventKind, Severity};
use wolfpack_types::heartbeat::{HeartbeatCommand, Reach};
use wolfpack_types::networks::{
    Delays, InterfaceState, NETWORKS_MAX, NetworkFigures, NetworkRows, NetworkState,
    NetworkVerdict, PathFigures,
};
use wolfpack_types::peer::PeerMessage;
use wolfpack_types::{Ballot, Instant, NetworkId, NodeId, NodeInc, NodeSet, Times};

use crate::{Core, Output};
use judge::{Reports, judge};

/// Questions that may wait for figures at once; the detector answers each at its next turn.
const QUESTIONS_MAX: usize = 64;
/// A reason in words is not longer than this; the own ones are bounded below it.
const WHY_BYTES_MAX: usize = 4096;

/// What the core keeps about networks.
#[derive(Debug, Default)]
pub(crate) struct Networks {
    /// What this node itself hears.
    pub(crate) own: NetworkRows,
    /// The verdicts in force, as the leader of `told_in` said them last.
    verdicts: Vec<NetworkVerdict>,
    /// The view to whose members this leader has told them.
    told_in: Ballot,
    settling: Settling,
    next_question: u64,
    /// Requests that wait for the figures of the paths.
    questions: BTreeMap<u64, (u64, Request)>,
}

/// A judgement that differs from the one in force, until it is old enough to be told.
#[derive(Debug, Default)]
struct Settling {
    /// The newest judgement, and since when it is the same.
    newest: Option<(Vec<NetworkVerdict>, Instant)>,
    /// Since when it differs from the one in force.
    differs: Option<Instant>,
}

impl Settling {
    /// What to tell, now that this was judged: what has stood for `span`; or, where it changes on
    /// and on, the newest after five of these.
    fn settle(
        &mut self,
        now: Instant,
        judged: Vec<NetworkVerdict>,
        told: &[NetworkVerdict],
        span: Duration,
    ) -> Option<Vec<NetworkVerdict>> {
        if judged == told {
            *self = Self::default();
            return None;
        }
        let differs = *self.differs.get_or_insert(now);
        let since = match &self.newest {
            Some((newest, since)) if *newest == judged => *since,
            _ => now,
        };
        if now.since(since) >= span || now.since(differs) >= span * 5 {
            *self = Self::default();
            return Some(judged);
        }
        self.newest = Some((judged, since));
        None
    }
}

/// How long a judgement must stand: longer than paths need to be given up one after the other, and
/// than a node that dies needs to be known as dead.
fn settle_span(times: &Times) -> Duration {
    times.detect() / 2 + times.probe + times.suspected_wait + times.vote_budget
}

impl Core {
    /// Judges anew where this node leads, and tells what has settled. At every tick.
    pub(crate) fn networks_tick(&mut self, now: Instant) {
        if !self.can_lead() || self.exiting {
            self.networks.settling = Settling::default();
            return;
        }
        let Some(view) = &self.membership.installed else { return };
        let ballot = view.ballot;
        let me = self.config.me.node;
        let reach = |node: &NodeId| self.membership.peers.get(node).map(|peer| peer.reach);
        let members: NodeSet = view.members.keys().copied().collect();
        let doubt = |node: NodeId| node != me && reach(&node) != Some(Reach::Up);
        if members.iter().any(doubt) {
            // A member that dies takes its paths with it, one after the other: first comes a view.
            self.networks.settling = Settling::default();
            return;
        }
        let peers = self.membership.peers.iter();
        let mut rows: BTreeMap<NodeId, NetworkRows> =
            peers.map(|(&node, peer)| (node, peer.networks)).collect();
        rows.insert(me, self.networks.own);
        let judged = judge(&Reports {
            networks: &self.cluster_networks(),
            nodes: &self.config.nodes,
            live: members,
            rows: &rows,
        });
        let span = settle_span(&self.config.times);
        let networks = &mut self.networks;
        let new = networks.settling.settle(now, judged, &networks.verdicts, span);
        if new.is_none() && (networks.told_in == ballot || networks.verdicts.is_empty()) {
            return;
        }
        networks.told_in = ballot;
        let verdicts = new.unwrap_or_else(|| networks.verdicts.clone());
        for to in members.iter() {
            self.send(to, PeerMessage::Networks { ballot, verdicts: verdicts.clone() });
        }
    }

    /// Networks that carry cluster traffic, by name.
    fn cluster_networks(&self) -> BTreeMap<NetworkId, String> {
        let names = (0..=u8::MAX).map(NetworkId).zip(&self.config.networks).take(NETWORKS_MAX);
        names
            .filter(|(id, _)| !self.config.client_networks.contains(id))
            .map(|(id, name)| (id, name.clone()))
            .collect()
    }

    /// The leader has judged.
    pub(crate) fn on_networks(
        &mut self,
        from: NodeInc,
        ballot: Ballot,
        verdicts: Vec<NetworkVerdict>,
    ) {
        let installed = self.membership.installed.as_ref().map(|view| view.ballot);
        let sound = verdicts.len() <= NETWORKS_MAX
            && verdicts.iter().all(|v| {
                v.why.len() <= WHY_BYTES_MAX
                    && v.interfaces.keys().all(|node| self.config.nodes.contains_key(node))
                    && v.interfaces.values().all(|i| i.why.len() <= WHY_BYTES_MAX)
            });
        if ballot.node() != Some(from.node) || installed != Some(ballot) || !sound {
            return;
        }
        let before = std::mem::replace(&mut self.networks.verdicts, verdicts.clone());
        for verdict in &verdicts {
            let old = before.iter().find(|old| old.network == verdict.network);
            self.tell_changes(old, verdict);
        }
    }

    fn tell_changes(&mut self, old: Option<&NetworkVerdict>, new: &NetworkVerdict) {
        let name = self.network_name(new.network);
        for (&node, interface) in &new.interfaces {
            let before = old.and_then(|old| old.interfaces.get(&node)).map(|i| i.state);
            let state = interface.state;
            // That a node is down is said by others; that all is well at the start, by nobody.
            let news = match before {
                Some(before) => before != state && state != InterfaceState::Unavailable,
                None => matches!(state, InterfaceState::Failed | InterfaceState::Unreachable),
            };
            if !news {
                continue;
            }
            let severity =
                if state == InterfaceState::Up { Severity::Info } else { Severity::Warning };
            let text = with_reason(
                &format!(
                    "the interface of node {} on network '{name}' is {state}",
                    self.name(node)
                ),
                &interface.why,
            );
            let kind = EventKind::InterfaceState { network: new.network, node, state };
            self.event(severity, kind, text);
        }
        let (state, before) = (new.state, old.map(|old| old.state));
        let news = match before {
            Some(before) => before != state,
            None => matches!(state, NetworkState::Partitioned | NetworkState::Down),
        };
        if news {
            let severity = match state {
                NetworkState::Up | NetworkState::Unavailable => Severity::Info,
                NetworkState::Partitioned | NetworkState::Down => Severity::Warning,
            };
            let text = with_reason(&format!("network '{name}' is {state}"), &new.why);
            let kind = EventKind::NetworkState { network: new.network, name, state };
            self.event(severity, kind, text);
        }
    }

    /// This machine is too slow for the times in force, or is quick enough again.
    pub(crate) fn on_delays(&mut self, safe: bool, delays: Delays) {
        let (worst_us, allowed_us) = (us(delays.worst), us(delays.allowed));
        let kind = EventKind::DelaysSafe { safe, worst_us, allowed_us };
        let (severity, text) = if safe {
            (
                Severity::Info,
                format!(
                    "the network driver of this node runs on time again: at most {:.1} ms late in \
                     the last minute, {:.1} ms are allowed",
                    ms(delays.worst),
                    ms(delays.allowed)
                ),
            )
        } else {
            (
                Severity::Warning,
                format!(
                    "this node is too slow for its times: its network driver ran {:.1} ms late, and \
                     {:.1} ms (a third of T_detect) are allowed; it may be taken for dead. Allow it \
                     real-time scheduling (CAP_SYS_NICE), relieve the machine, or choose a slower \
                     profile on all nodes",
                    ms(delays.worst),
                    ms(delays.allowed)
                ),
            )
        };
        self.event(severity, kind, text);
    }

    /// An administrator asks about networks. The figures are the detector's: it is asked first.
    pub(crate) fn on_network_question(&mut self, id: u64, request: &Request) {
        if self.networks.questions.len() >= QUESTIONS_MAX {
            self.networks.questions.pop_first();
        }
        self.networks.next_question += 1;
        let question = self.networks.next_question;
        self.networks.questions.insert(question, (id, request.clone()));
        self.output(Output::Heartbeat(HeartbeatCommand::Report { id: question }));
    }

    /// The detector has answered.
    pub(crate) fn on_figures(&mut self, now: Instant, question: u64, figures: &NetworkFigures) {
        let Some((id, request)) = self.networks.questions.remove(&question) else { return };
        let reply = match &request {
            Request::NetworkStatus { network, paths } => {
                self.network_status(now, network.as_deref(), paths.then_some(figures), figures)
            }
            _ => {
                let all = self.cluster_networks();
                let interfaces = all.keys().flat_map(|&n| self.interface_status(n)).collect();
                Reply::NetworkInterfaces { interfaces }
            }
        };
        self.output(Output::Reply { id, reply });
    }

    fn network_status(
        &self,
        now: Instant,
        wanted: Option<&str>,
        paths: Option<&NetworkFigures>,
        figures: &NetworkFigures,
    ) -> Reply {
        let all = self.cluster_networks();
        if let Some(wanted) = wanted
            && !all.values().any(|name| name == wanted)
        {
            let names: Vec<&str> = all.values().map(String::as_str).collect();
            let shown: String = wanted.chars().take(80).flat_map(char::escape_default).collect();
            return Reply::Error(ErrorReply {
                kind: ErrorKind::Unknown,
                what: format!("network '{shown}' does not exist"),
                advice: format!("networks with cluster traffic are: {}", names.join(", ")),
            });
        }
        let one = |(&network, name): (&NetworkId, &String)| {
            let verdict = self.verdict(network);
            let paths = paths.map_or(&[][..], |figures| &figures.paths[..]);
            let paths = paths.iter().filter(|path| path.network == network);
            NetworkStatus {
                name: name.clone(),
                state: verdict.map(|v| v.state),
                why: verdict.map_or_else(String::new, |v| v.why.clone()),
                interfaces: self.interface_status(network),
                paths: paths.map(|path| self.path_detail(now, path)).collect(),
            }
        };
        let shown = all.iter().filter(|&(_, name)| wanted.is_none_or(|wanted| name == wanted));
        let delays = figures.delays;
        Reply::Networks {
            networks: shown.map(one).collect(),
            delays: DelayStatus {
                worst_us: us(delays.worst),
                worst_ever_us: us(delays.worst_ever),
                allowed_us: us(delays.allowed),
            },
        }
    }

    /// The verdict in force; without a view there is none.
    fn verdict(&self, network: NetworkId) -> Option<&NetworkVerdict> {
        self.membership.installed.as_ref()?;
        self.networks.verdicts.iter().find(|v| v.network == network)
    }

    fn interface_status(&self, network: NetworkId) -> Vec<InterfaceStatus> {
        let verdict = self.verdict(network);
        let nodes = self.config.nodes.iter();
        nodes
            .map(|(node, name)| {
                let interface = verdict.and_then(|v| v.interfaces.get(node));
                InterfaceStatus {
                    network: self.network_name(network),
                    node: name.clone(),
                    state: interface.map(|i| i.state),
                    why: interface.map_or_else(String::new, |i| i.why.clone()),
                }
            })
            .collect()
    }

    fn path_detail(&self, now: Instant, path: &PathFigures) -> PathDetail {
        let kept = u32::from(path.history_len.min(64));
        let mark = |i: u32| if path.history >> i & 1 == 1 { 'x' } else { '.' };
        PathDetail {
            node: self.name(path.node).to_owned(),
            up: path.up,
            silence_ms: millis(path.silence),
            sent: path.sent,
            received: path.received,
            lost: path.lost,
            reordered: path.reordered,
            loss_permille: path.loss_permille(),
            history: (0..kept).rev().map(mark).collect(),
            jitter_us: us(path.jitter),
            round_trip: path.round_trip.map(|r| RoundTripStatus {
                last_us: us(r.last),
                smoothed_us: us(r.smoothed),
                min_us: us(r.min),
                max_us: us(r.max),
            }),
            gaps: path
                .gaps
                .iter()
                .map(|gap| GapStatus {
                    ago_ms: millis(now.since(gap.at)),
                    missed: gap.missed,
                    silence_ms: millis(gap.silence),
                })
                .collect(),
        }
    }
}

fn us(span: Duration) -> u64 {
    u64::try_from(span.as_micros()).unwrap_or(u64::MAX)
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

fn ms(span: Duration) -> f64 {
    span.as_secs_f64() * 1000.0
}

fn with_reason(what: &str, why: &str) -> String {
    if why.is_empty() { what.to_owned() } else { format!("{what}: {why}") }
}
