//! Protocol versions: what a release can speak, and what a cluster of several releases speaks.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The versions of the protocol between nodes that a release can speak, both ends included.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct VersionRange {
    pub min: u16,
    pub max: u16,
}

impl VersionRange {
    /// What this release speaks.
    pub const OWN: Self = Self { min: 1, max: 1 };

    /// The newest version that both speak; none if they have no version in common, or if one of
    /// the ranges is no range.
    #[must_use]
    pub fn common(self, other: Self) -> Option<u16> {
        let (min, max) = (self.min.max(other.min), self.max.min(other.max));
        (min <= max && self.min <= self.max && other.min <= other.max).then_some(max)
    }
}

impl Default for VersionRange {
    fn default() -> Self {
        Self::OWN
    }
}

impl fmt::Display for VersionRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.min == self.max {
            write!(f, "{}", self.max)
        } else {
            write!(f, "{} to {}", self.min, self.max)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_common_version_is_spoken_or_none() {
        let range = |min, max| VersionRange { min, max };
        assert_eq!(range(1, 3).common(range(2, 5)), Some(3));
        assert_eq!(range(2, 5).common(range(1, 3)), Some(3));
        assert_eq!(range(1, 1).common(range(2, 2)), None);
        assert_eq!(range(1, 4).common(range(3, 2)), None, "what is no range is not spoken");
        assert_eq!(
            (range(1, 1).to_string(), range(1, 2).to_string()),
            ("1".into(), "1 to 2".into())
        );
    }
}
