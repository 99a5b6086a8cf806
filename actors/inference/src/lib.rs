#![doc = include_str!("../README.md")]

pub mod kv;
pub mod step;
