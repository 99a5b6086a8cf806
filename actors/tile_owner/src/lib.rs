#![doc = include_str!("../README.md")]

mod core;
mod error;

pub use crate::core::{
    AdamW, AdamWConfig, Batch, DELTAS_MAX, Delta, DeltaId, Round, SliceShape, StepGradient,
    UNITS_MAX, UNITS_PER_ONE, forward, gradient, to_units,
};
pub use error::TileError;
