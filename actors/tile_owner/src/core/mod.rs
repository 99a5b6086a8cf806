//! The pure part: no I/O, no clock, no randomness, no threads.

mod adamw;
mod slice;

pub use adamw::{AdamW, AdamWConfig};
pub use slice::{Batch, SliceShape, StepGradient, forward, gradient};
