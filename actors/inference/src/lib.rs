#![doc = include_str!("../README.md")]

pub mod config;
pub mod engine;
pub mod error;
pub mod graph;
pub mod kv;
pub mod sampler;
pub mod step;
pub mod tokenizer;
