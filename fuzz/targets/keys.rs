//! Files of the cluster key, and names of node keys.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wolfpack_types::security::PublicKey;

fuzz_target!(|data: &[u8]| {
    wolfpack_netdrv::fuzz::key_file(data);
    if let Ok(text) = std::str::from_utf8(data) {
        let _ = text.parse::<PublicKey>();
    }
});
