//! Backup files.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let _ = wolfpack_core::backup::decode(data);
});
