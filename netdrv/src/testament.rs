//! AllTerminated: the guard's word that nothing of a life runs any more (P7).
//!
//! Sent by the guard itself, when the service is dead, so it needs no session: it is authenticated
//! under a key of its own. It states a fact that never becomes false again, so a replay is harmless.
//! The incarnation travels in the header's counter; there is no body.

use wolfpack_types::{Incarnation, NodeInc};

use crate::ClusterKey;
use crate::key::{Generation, derive};
use crate::packet::{Datagram, Header, Kind, NETWORK_ANY, Protection, cluster_tag, sign};
use crate::seal::MacKey;

/// The datagram, to be sent to the cluster port of every peer on every network, several times.
#[must_use]
pub fn seal(key: &ClusterKey, who: NodeInc) -> Vec<u8> {
    let keys = guard_keys(key);
    let (generation, guard) = &keys[0];
    let header = Header {
        kind: Kind::AllTerminated,
        from: who.node,
        to: None,
        network: NETWORK_ANY,
        protection: Protection::Mac,
        session: *generation,
        tag: cluster_tag(key.cluster_id()),
        counter: who.inc.0,
    };
    let mut bytes = Vec::new();
    sign(&mut bytes, &header, &[], guard);
    bytes
}

/// The keys under which guards speak; first the one in use.
pub(crate) fn guard_keys(key: &ClusterKey) -> Vec<(Generation, MacKey)> {
    let guard = |key| MacKey::new(&derive(key, &[b"wolfpack guard"]));
    key.generations().map(|(generation, key)| (generation, guard(key))).collect()
}

/// Whose end a datagram proves. The caller has compared kind and cluster tag.
pub(crate) fn open(datagram: &Datagram<'_>, keys: &[(Generation, MacKey)]) -> Option<NodeInc> {
    let header = &datagram.header;
    let (_, key) = keys.iter().find(|(generation, _)| *generation == header.session)?;
    (datagram.body.is_empty() && datagram.signed_by(key))
        .then(|| NodeInc::new(header.from, Incarnation(header.counter)))
}
