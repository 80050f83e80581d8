//! The form of datagrams, and what two nodes of one cluster make of them.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    wolfpack_netdrv::fuzz::packet(data);
});
