//! The pure part: no I/O, no clock, no randomness, no threads.

mod adamw;
mod bits;
mod compress;
mod round;
mod slice;
mod units;
mod wire;

pub(crate) use adamw::check_finite;
pub use adamw::{AdamW, AdamWConfig};
pub use compress::{Compressor, SUB_TILE_LEN, SubTile};
pub use round::{DELTAS_MAX, Delta, DeltaId, Round};
pub use slice::{Batch, SliceShape, StepGradient, forward, gradient};
pub use units::{UNITS_MAX, UNITS_PER_ONE, to_units};
pub use wire::{decode, encode};
