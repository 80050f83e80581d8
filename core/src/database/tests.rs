//! Exact effects of single updates, and the fixtures of the other modules' tests.
