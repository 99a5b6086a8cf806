#![doc = include_str!("../README.md")]

mod core;
mod error;
mod store;

pub use crate::core::{
    AdamW, AdamWConfig, Batch, Compressor, DELTAS_MAX, Delta, DeltaId, Round, SUB_TILE_LEN,
    SliceShape, StepGradient, SubTile, UNITS_MAX, UNITS_PER_ONE, decode, encode, forward, gradient,
    to_units,
};
pub use error::TileError;
pub use store::{StoreError, TileStore};
