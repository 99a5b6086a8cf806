//! The pure part: no I/O, no clock, no randomness, no threads.

mod adamw;
mod round;
mod slice;
mod units;

pub use adamw::{AdamW, AdamWConfig};
pub use round::{DELTAS_MAX, Delta, DeltaId, Round};
pub use slice::{Batch, SliceShape, StepGradient, forward, gradient};
pub use units::{UNITS_MAX, UNITS_PER_ONE, to_units};
