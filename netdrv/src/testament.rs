//! AllTerminated: the guard's word that nothing of a life runs any more (P7).
//!
//! Sent by the guard itself, when the service is dead, so it needs no session: it is authenticated
//! under a key of its own. It states a fact that never becomes false again, so a replay is harmless.
//! The incarnation travels in the header's counter; there is no body.

use wolfpack_types::{Incarnation, NodeInc};

use crate::ClusterKey;
use crate::packet::{
    Datagram, Header, Kind, MacKey, NETWORK_ANY, cluster_tag, seal as seal_packet,
};

/// The datagram, to be sent to the cluster port of every peer on every network, several times.
#[must_use]
pub fn seal(key: &ClusterKey, who: NodeInc) -> Vec<u8> {
    let header = Header {
        kind: Kind::AllTerminated,
        from: who.node,
        to: None,
        network: NETWORK_ANY,
        session: 0,
        tag: cluster_tag(key.cluster_id()),
        counter: who.inc.0,
    };
    let mut bytes = Vec::new();
    seal_packet(&mut bytes, &header, &[], &guard_key(key));
    bytes
}

/// The key under which guards speak.
pub(crate) fn guard_key(key: &ClusterKey) -> MacKey {
    MacKey::new(&key.derive(&[b"wolfpack guard"]))
}

/// Whose end a datagram proves. The caller has compared kind and cluster tag.
pub(crate) fn open(datagram: &Datagram<'_>, key: &MacKey) -> Option<NodeInc> {
    let header = &datagram.header;
    (datagram.authentic(key) && datagram.body.is_empty())
        .then(|| NodeInc::new(header.from, Incarnation(header.counter)))
}
