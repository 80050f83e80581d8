//! Directed scenes: narrow interleavings that random runs meet too rarely, played on a quiet
//! network.

use wolfpack_types::Rules;

use crate::run::Outcome;

/// A scene.
#[derive(Clone, Copy, Debug)]
pub struct Scene {
    pub name: &'static str,
    play: fn(&Rules, bool) -> Outcome,
}

impl Scene {
    /// Plays it under these rules.
    #[must_use]
    pub fn play(&self, rules: &Rules, story: bool) -> Outcome {
        (self.play)(rules, story)
    }
}

/// All scenes.
pub const ALL: &[Scene] = &[];
