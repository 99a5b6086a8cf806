#![doc = include_str!("../README.md")]

mod actor;
mod cast;
mod config;
mod core;
mod error;
mod guarded_map;
mod handle;
mod loader;
mod metrics;
mod table;

pub use actor::ExpertCacheActor;
pub use config::ExpertCacheConfig;
pub use core::CorruptPayload;
pub use error::CacheError;
pub use guarded_map::{GuardedMap, MAPS_MAX};
pub use handle::ExpertCacheHandle;
pub use loader::SharedWeights;
pub use metrics::describe_metrics;
pub use table::{CacheStatus, SharedTable};
