//! What people want of the cluster itself: weights of votes, dynamic votes, the quorum type, another
//! leader, paused nodes, nodes evicted and added again. Everything is legal to ask for; much of it
//! is refused, and rightly.

use std::collections::BTreeMap;

use wolfpack_types::NodeId;
use wolfpack_types::api::Request;
use wolfpack_types::membership::QuorumType;

use crate::cluster::Cluster;
use crate::node::name_of;

/// `QuorumSet` with nothing set.
fn quorum_set() -> (Option<QuorumType>, BTreeMap<String, u8>, Option<bool>) {
    (None, BTreeMap::new(), None)
}

impl Cluster {
    /// One wish about nodes or quorum.
    pub(crate) fn wish(&mut self) -> Request {
        let ids = self.ids();
        let node = self.dice.pick(&ids);
        match self.dice.range(0, 99) {
            0..25 => {
                let (kind, mut weights, dynamic) = quorum_set();
                let votes = u8::try_from(self.dice.range(0, 2)).unwrap_or(1);
                weights.insert(name_of(node), votes);
                set(kind, weights, dynamic)
            }
            25..40 => {
                let (kind, weights, _) = quorum_set();
                set(kind, weights, Some(self.dice.permille(500)))
            }
            40..50 if self.params.quorum.witness_kind().is_some() => {
                let kinds = [QuorumType::Disk, QuorumType::NodeAndDisk];
                let kind = self.dice.pick(&kinds);
                let same = kind.witness_kind() == self.params.quorum.witness_kind();
                set(same.then_some(kind), BTreeMap::new(), None)
            }
            50..65 => Request::QuorumMove { to: Some(name_of(node)) },
            65..75 => Request::NodePause { node: name_of(node), drain: self.dice.permille(500) },
            75..85 => Request::NodeResume { node: name_of(node) },
            85..92 => Request::NodeEvict { node: name_of(node) },
            _ => Request::NodeAdd { node: name_of(node) },
        }
    }

    /// A node was told that it is evicted: it stays down until it is added again.
    pub(crate) fn stays_down(&mut self, id: NodeId) {
        self.node_mut(id).evicted = true;
        if !self.chaotic && !self.params.quiet {
            self.admin.ask_again(Request::NodeAdd { node: name_of(id) });
        }
    }

    /// An administrator's request was carried out, or was of no use.
    pub(crate) fn wish_done(&mut self, request: &Request) {
        let Request::NodeAdd { node } = request else { return };
        let Some(id) = self.ids().into_iter().find(|&id| name_of(id) == *node) else { return };
        if std::mem::take(&mut self.node_mut(id).evicted) && self.life(id).is_none() {
            let wait = self.dice.span(self.params.times.lease);
            self.restart_after(id, wait);
        }
    }

    /// At the end all nodes take part again.
    pub(crate) fn want_all_nodes(&mut self) {
        if self.params.wishes == 0 {
            return;
        }
        for id in self.ids() {
            self.admin.ask_again(Request::NodeAdd { node: name_of(id) });
            self.admin.ask_again(Request::NodeResume { node: name_of(id) });
        }
    }
}

fn set(kind: Option<QuorumType>, weights: BTreeMap<String, u8>, dynamic: Option<bool>) -> Request {
    Request::QuorumSet {
        kind,
        witness: None,
        exclusion: None,
        weights,
        dynamic,
        overwrite: false,
        room: None,
    }
}
