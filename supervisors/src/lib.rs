#![doc = include_str!("../README.md")]

#[cfg(panic = "abort")]
compile_error!("supervision needs unwinding: build with panic = \"unwind\"");

mod admission;
mod control;
mod core;
mod driver;
mod error;
mod gate;
mod handle;
mod inbox;
mod log;
mod metrics;
mod planter;
mod policy;
mod probe;
mod reason;
mod runner;
#[cfg(test)]
mod schedules;
mod spec;
mod start;
mod sync;
mod tree;

pub use control::ExitHandle;
pub use error::{CallError, SpecError, TreeError};
pub use gate::ChildRef;
pub use handle::{Tree, TreeHandle};
pub use metrics::describe_metrics;
pub use policy::{Backoff, Placement, Restart, Shutdown, Strategy, Window};
pub use probe::{NoProbe, Probe};
pub use reason::ExitReason;
pub use spec::{ChildSpec, SupervisorSpec};
pub use start::{StartContext, Tasks};
pub use tree::{
    ChildState, Generation, LastExit, NodeKind, TreeEvent, TreeExit, TreeNode, TreeOptions,
};
