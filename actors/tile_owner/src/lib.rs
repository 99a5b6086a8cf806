#![doc = include_str!("../README.md")]

mod core;
mod error;

pub use crate::core::{AdamW, AdamWConfig, Batch, SliceShape, StepGradient, forward, gradient};
pub use error::TileError;
