//! The witness disk's superblock, slots and bodies.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wolfpack_diskarb::layout::Layout;
use wolfpack_types::register::Slot;
use wolfpack_types::{ClusterId, Guid, codec};

fuzz_target!(|data: &[u8]| {
    let _ = Layout::parse(data);
    let layout = Layout::new(ClusterId(Guid(1)), 512, 4);
    let _ = layout.superblock();
    let _ = codec::decode::<Slot>("slot", data);
});
