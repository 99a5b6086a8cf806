#![doc = include_str!("../README.md")]

pub mod actor;
mod clock;
pub mod config;
pub mod core;
mod edition;
pub mod engine;
pub mod error;
pub mod graph;
pub mod handle;
mod health;
pub mod kernels;
pub mod kv;
pub mod local;
pub mod metrics;
mod receipts;
pub mod sampler;
pub mod serving;
pub mod step;
pub mod table;
pub mod tokenizer;
pub mod usage;
pub mod validate;
