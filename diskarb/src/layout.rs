//! Where everything is on the witness disk, and how it is encoded: pure.

/// Nodes that a witness is prepared for.
pub const MAX_NODES: u8 = 16;
