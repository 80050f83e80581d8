//! Events, as they are replicated and kept.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wolfpack_types::codec;
use wolfpack_types::event::Event;

fuzz_target!(|data: &[u8]| {
    let _ = codec::decode::<Event>("event", data);
});
