//! For `fuzz/` alone: the decoders of the store's files.

/// Reads bytes as each of the files.
pub fn files(data: &[u8]) {
    let _ = crate::record::newest(data);
    let _ = crate::log::read(1, data);
}
