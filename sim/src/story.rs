//! The story of a run: what happened, in words, and a digest of everything for the check that the
//! same seed gives the same run.

use std::fmt::Write as _;

use crate::clock::Time;

/// Tells, remembers or is silent.
#[derive(Debug, Default)]
pub struct Story {
    wanted: bool,
    lines: Vec<String>,
    digest: u64,
}

/// The longest story that is kept; a run that is longer keeps its newest lines.
const LINES_MAX: usize = 200_000;

impl Story {
    /// A story that is told (`wanted`) or only digested.
    #[must_use]
    pub fn new(wanted: bool) -> Self {
        Self { wanted, lines: Vec::new(), digest: 0xcbf2_9ce4_8422_2325 }
    }

    /// One line; `text` is made only if the story is wanted.
    pub fn say(&mut self, now: Time, text: impl FnOnce() -> String) {
        if !self.wanted {
            return;
        }
        if self.lines.len() == LINES_MAX {
            self.lines.drain(..LINES_MAX / 2);
        }
        let mut line = String::new();
        let _ = write!(line, "{:>12.6}  ", now as f64 / 1e9);
        line.push_str(&text());
        self.lines.push(line);
    }

    /// Mixes a number into the digest (FNV-1a over its bytes).
    pub fn mix(&mut self, number: u64) {
        for byte in number.to_le_bytes() {
            self.digest = (self.digest ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    /// Of everything so far.
    #[must_use]
    pub const fn digest(&self) -> u64 {
        self.digest
    }

    /// The lines so far, oldest first.
    #[must_use]
    pub fn lines(&self) -> &[String] {
        &self.lines
    }
}

/// FNV-1a of bytes: a stable hash for values that are compared within one run.
#[must_use]
pub fn hash(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |h, &b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3))
}
