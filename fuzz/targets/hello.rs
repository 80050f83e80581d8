//! Bodies of hellos, authentic ones: the handshake of a node that holds the keys and is broken.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    wolfpack_netdrv::fuzz::hello(data);
});
