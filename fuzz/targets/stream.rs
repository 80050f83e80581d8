//! Bodies of stream datagrams, authentic ones: pieces, acknowledgements.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    wolfpack_netdrv::fuzz::stream(data);
});
