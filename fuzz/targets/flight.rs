//! Recordings of the flight recorder.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wolfpack_core::flight::Reader;

fuzz_target!(|data: &[u8]| {
    if let Ok(mut reader) = Reader::new(data) {
        while let Ok(Some(_)) = reader.next_frame() {}
    }
});
