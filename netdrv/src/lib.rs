//! See the crate's README section in docs/ARCHITECTURE.md.
