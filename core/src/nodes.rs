//! Nodes as administrators want them: paused, evicted, added again; and the quorum resource's place.
//! The database holds the wish, the members act on it: the failover plan places and drains groups,
//! the leader changes views and votes.

use std::collections::BTreeSet;

use wolfpack_types::event::{EventKind, Severity};
use wolfpack_types::heartbeat::Reach;
use wolfpack_types::membership::QuorumType;
use wolfpack_types::peer::PeerMessage;
use wolfpack_types::update::{Refusal, Update};
use wolfpack_types::{Instant, NodeId, NodeInc};

use crate::membership::Asked;
use crate::{Core, ExitReason, Output};

/// How often a life of an evicted node is told so, a lease apart, before it is refused.
const EVICTED_TOLD_MAX: u8 = 3;

impl Core {
    /// A node was paused, resumed, evicted or added.
    pub(crate) fn node_changed(&mut self, now: Instant, node: NodeId) {
        let evicted = self.database.is_evicted(node);
        if !evicted {
            self.membership.evicted.remove(&node);
            self.evicted_told.retain(|who, _| who.node != node);
            return self.plan_soon(now);
        }
        if self.membership.evicted.insert(node, now).is_none() {
            let text = format!("node {} is evicted from the cluster", self.name(node));
            self.event(Severity::Warning, EventKind::Evicted { node }, text);
        }
        if node == self.config.me.node {
            // What it owns moves away; then it goes, and stays away.
            self.begin_leave(now);
        }
        self.plan_soon(now);
    }

    /// The database was replaced, or loaded: who is evicted is known from it.
    pub(crate) fn evicted_anew(&mut self, now: Instant) {
        let evicted = self.database.nodes.values().filter(|n| n.evicted).map(|n| (n.id, now));
        self.membership.evicted = evicted.collect();
    }

    /// A member says that this node was evicted. Who has a lease of its own knows better.
    pub(crate) fn on_evicted(&mut self, now: Instant, from: NodeInc, you: NodeInc) {
        if you != self.config.me || self.has_lease(now) || self.exiting {
            return;
        }
        self.event(
            Severity::Error,
            EventKind::Evicted { node: you.node },
            format!(
                "node {} says that this node was evicted: it stops until an administrator adds it \
                 again",
                self.name(from.node)
            ),
        );
        self.exit(ExitReason::Evicted);
    }

    /// Tells evicted nodes that knock what they are. A life that goes on speaking all the same loses
    /// its session. (Not at once: without a session it could not be told, and would wait for ever.)
    pub(crate) fn tell_evicted(&mut self, now: Instant) {
        let m = &self.membership;
        let Some(view) = &m.installed else { return };
        let knock: Vec<NodeInc> = m
            .evicted
            .keys()
            .filter(|n| !view.has_node(**n) && self.database.is_evicted(**n))
            // One that is silent has perhaps not heard it yet.
            .filter_map(|n| m.peers.get(n).filter(|p| p.reach == Reach::Up).map(|p| (n, p.inc)))
            .map(|(&n, inc)| NodeInc::new(n, inc))
            .collect();
        for you in knock {
            let told = self.restart_told.get(&you);
            if told.is_some_and(|&t| now - t <= self.config.times.lease) {
                continue;
            }
            self.restart_told.insert(you, now);
            let times = self.evicted_told.entry(you).or_insert(0);
            if *times < EVICTED_TOLD_MAX {
                *times += 1;
                self.send(you.node, PeerMessage::Evicted { you });
            } else {
                self.output(Output::Expel(you));
            }
        }
    }

    /// An administrator wants this member to lead.
    pub(crate) fn quorum_to(&mut self, now: Instant, to: NodeId) {
        let leader = self.membership.installed.as_ref().map(|v| v.leader());
        if leader == Some(to) {
            return;
        }
        let text = format!("an administrator moves the quorum resource to node {}", self.name(to));
        self.event(Severity::Info, EventKind::QuorumMoving { to }, text);
        self.witness_rests(now);
        if to == self.config.me.node {
            self.membership.asked = Some(Asked::TakeOver);
        }
    }

    /// What the database alone cannot judge: whether the quorum would survive the update.
    ///
    /// # Errors
    /// Why it would not.
    pub(crate) fn survivable(&self, now: Instant, update: &Update) -> Result<(), Refusal> {
        match update {
            Update::EvictNode { node } => {
                // Who was evicted before may be heard still, and counts for nothing any more; its
                // vote counts until the view without it.
                let mut rest = self.alive();
                rest.retain(|n| n != node && !self.database.is_evicted(*n));
                if !self.eligible(&rest) {
                    return Err(Refusal::NoQuorum(format!(
                        "without node '{}' the nodes that are up have no majority; start more of \
                         them first",
                        self.name(*node)
                    )));
                }
                // Who is not in the view may lack what was decided last, and no share has it.
                let view = self.membership.installed.as_ref();
                if !view.is_some_and(|v| rest.iter().any(|n| v.has_node(*n))) {
                    return Err(Refusal::NoQuorum(format!(
                        "node '{}' is the only member that is up; wait until another one has joined",
                        self.name(*node)
                    )));
                }
                if self.quorum_type() == QuorumType::Majority
                    && self.database.active_nodes().count() == 3
                {
                    return Err(Refusal::Invalid(
                        "two nodes without a witness cannot survive the loss of either; give the \
                         cluster a witness first ('wolfpack quorum set')"
                            .into(),
                    ));
                }
                Ok(())
            }
            Update::SetQuorum(config) => {
                let table = self.database.full_table(config);
                let set: BTreeSet<NodeId> = self.pruned(now);
                if !table.exceeds_half(set.iter().copied(), table.witness > 0) {
                    return Err(Refusal::NoQuorum(format!(
                        "the nodes that are up would hold {} of {} votes, and more than half is \
                         needed",
                        table.sum(set.iter().copied(), true),
                        table.total()
                    )));
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// The quorum type in force, or to be.
    pub(crate) fn quorum_type(&self) -> QuorumType {
        self.database.cluster.as_ref().map_or(self.config.quorum, |c| c.quorum.kind)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use wolfpack_types::objects::Node;
    use wolfpack_types::register::Exclusion;
    use wolfpack_types::store::{Loaded, Record};
    use wolfpack_types::{
        Ballot, ClusterId, Force, Guid, Incarnation, Member, Members, Rules, Seq, StoreId, Times,
        View, VoteTable,
    };

    use super::*;
    use crate::membership::Peer;
    use crate::{CoreConfig, EventStart};

    const START: Instant = Instant(1_000_000_000);

    fn node(i: u8) -> NodeId {
        NodeId::new(i).unwrap()
    }

    fn life(i: u8, inc: u64) -> NodeInc {
        NodeInc::new(node(i), Incarnation(inc))
    }

    /// Node 1, alone in its view; node 2 is evicted.
    fn core() -> Core {
        let votes = VoteTable { nodes: BTreeMap::from([(node(1), 1)]), witness: 0 };
        let config = CoreConfig {
            me: life(1, 1),
            cluster: ClusterId(Guid(1)),
            nodes: (1..=2).map(|i| (node(i), format!("n{i}"))).collect(),
            networks: vec!["private".into()],
            client_networks: BTreeSet::new(),
            votes: votes.clone(),
            quorum: QuorumType::Majority,
            witness: None,
            exclusion: Exclusion::None,
            times: Times::STANDARD,
            loaded: Loaded { record: Record::default(), ..Loaded::default() },
            seed: 7,
            rules: Rules::ALL,
            events: EventStart::default(),
        };
        let mut core = Core::new(config, START);
        let member = Member { inc: Incarnation(1), store: StoreId(Guid(1)) };
        core.membership.installed = Some(View {
            ballot: Ballot::new(Force::default(), 1, node(1)),
            members: Members::from([(node(1), member)]),
            former: BTreeSet::new(),
            witness_in: false,
            votes,
            prev_votes: None,
            base_seq: Seq(0),
            witness: None,
            forces: Vec::new(),
        });
        let mut evicted = Node::new(node(2), "n2".into());
        evicted.evicted = true;
        core.database.nodes.insert(node(2), evicted);
        core.evicted_anew(START);
        core
    }

    fn hears(core: &mut Core, who: NodeInc, reach: Reach) {
        let peer = Peer {
            inc: who.inc,
            reach,
            standing: Default::default(),
            row: BTreeSet::new(),
            networks: Default::default(),
            paths: BTreeMap::new(),
        };
        core.membership.peers.insert(who.node, peer);
    }

    /// What the life gets in so many leases: told, and refused.
    fn gets(core: &mut Core, now: &mut Instant, who: NodeInc, leases: u32) -> (usize, usize) {
        let (mut told, mut refused) = (0, 0);
        for _ in 0..leases {
            *now = *now + core.config.times.lease + Duration::from_millis(1);
            core.tell_evicted(*now);
            while let Some(output) = core.poll_output() {
                match output {
                    Output::Send { to, message: PeerMessage::Evicted { you } } => {
                        assert_eq!((to, you), (who.node, who));
                        told += 1;
                    }
                    Output::Expel(life) => {
                        assert_eq!(life, who);
                        refused += 1;
                    }
                    _ => {}
                }
            }
        }
        (told, refused)
    }

    #[test]
    fn an_evicted_life_that_does_not_go_is_refused_and_the_next_is_told_first() {
        let (mut core, mut now) = (core(), START);
        hears(&mut core, life(2, 5), Reach::Unreachable);
        assert_eq!(gets(&mut core, &mut now, life(2, 5), 9), (0, 0), "it may be frozen");
        hears(&mut core, life(2, 5), Reach::Up);
        assert_eq!(gets(&mut core, &mut now, life(2, 5), 3), (3, 0));
        assert_eq!(gets(&mut core, &mut now, life(2, 5), 1), (0, 1));
        hears(&mut core, life(2, 6), Reach::Up);
        assert_eq!(gets(&mut core, &mut now, life(2, 6), 4), (3, 1));
        // Added again, it is left in peace.
        core.database.nodes.get_mut(&node(2)).unwrap().evicted = false;
        core.node_changed(now, node(2));
        assert_eq!(gets(&mut core, &mut now, life(2, 6), 4), (0, 0));
    }
}
