//! Lines of the local API: requests to the service, replies to the command line.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wolfpack_types::api::{Reply, Request};

fuzz_target!(|data: &[u8]| {
    let _ = serde_json::from_slice::<Request>(data);
    let _ = serde_json::from_slice::<Reply>(data);
});
