//! The orchestrator in a running tree, over a log on disk and a node that only notes what it is told.

mod audited;
mod failures;
mod house;
mod recovery;
