//! The one place that knows every actor: opens the store, builds the engine and the tree, and takes them down again.

mod adoption;
mod alerts;
mod chain_a;
mod disk;
mod engine;
mod faults;
mod home;
mod local;
mod node;
mod port;
mod reward;
mod rollback;
mod security;
mod serving;
mod snapshots;
mod tree;
mod uploads;
mod versions;

pub use disk::Pace;
pub use engine::{SharedSource, StartError, engine_options, shared_weights, start_engine};
pub use faults::{AroundEngine, Faults, Poke, Seams};
pub use home::{Home, ImportSource, NODE_KEY_FILE, now_ms};
pub use local::{LocalModel, ReadOnlySource};
pub use node::{NodeEnd, RunningNode, StopSignals};
pub use rollback::resume;
pub use security::anchors;
pub use snapshots::reply as snapshot_reply;
