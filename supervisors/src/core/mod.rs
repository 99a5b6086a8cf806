//! Who restarts, who stops, when to give up: no actix, no clock, no randomness.

/// A node's place in the arena.
pub(crate) type Ix = usize;
