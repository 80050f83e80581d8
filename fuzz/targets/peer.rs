//! Messages between cores, and the updates and snapshots in them.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wolfpack_types::codec;
use wolfpack_types::peer::PeerMessage;

fuzz_target!(|data: &[u8]| {
    if let Ok(message) = codec::decode::<PeerMessage>("message", data) {
        let again = codec::decode::<PeerMessage>("message", &codec::encode(&message));
        assert_eq!(again, Ok(message));
    }
});
