//! The node's own record and log.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    wolfpack_store::fuzz::files(data);
});
