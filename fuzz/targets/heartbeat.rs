//! Bodies of heartbeats.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wolfpack_types::codec;
use wolfpack_types::heartbeat::Heartbeat;

fuzz_target!(|data: &[u8]| {
    if let Ok(heartbeat) = codec::decode::<Heartbeat>("heartbeat", data) {
        assert_eq!(codec::decode::<Heartbeat>("heartbeat", &codec::encode(&heartbeat)), Ok(heartbeat));
    }
});
