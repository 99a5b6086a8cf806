//! The pure part: which sequence is computed when, by whom, and how it ends. No clock, no randomness, no locks; the
//! time is an argument.

mod account;
mod errors;
mod expiry;
mod plan;
mod scheduler;
mod sequence;
mod steps;
#[cfg(test)]
mod tests;

use std::fmt;
use std::time::Duration;

use blyan_protocol::TokenEvent;
use blyan_supervisors::Generation;

pub use account::{Ended, Ending, Phase};
pub use plan::{Drawn, PlannedRow, RowDone, StepShape, Turn};
pub use scheduler::Scheduler;
pub use sequence::NewSequence;

/// Time since the table was made.
pub type Moment = Duration;

/// One admitted request. Ids grow with admission and are never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SequenceId(u64);

/// A replica's number, from 1; it outlives restarts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReplicaId(pub u32);

impl fmt::Display for ReplicaId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "inference-{}", self.0)
    }
}

/// One start of a replica; what an older start says is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Owner {
    /// The replica.
    pub replica: ReplicaId,
    /// Which start of it.
    pub generation: Generation,
}

/// The caller's generation is not the replica's current one: its sequences belong to others now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a newer generation has taken over, or this one was given up")]
pub struct Fenced;

/// Why a request is not admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// As many requests as the node takes are in the house.
    #[error("the queue is full")]
    Overloaded,
    /// The node ends.
    #[error("the node is shutting down")]
    ShuttingDown,
}

/// Bounds of the scheduling.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Requests in the house: waiting, running, or ended and not yet settled.
    pub admitted_max: usize,
    /// A reader that makes its sequence pause for this long is given up.
    pub slow_reader: Duration,
    /// A step that takes longer is to be terminated.
    pub step: Duration,
}

/// What the shell has to do, in this order.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// A token for the sequence's reader; there is room for it.
    Token(SequenceId, TokenEvent),
    /// The end. Comes exactly once for each admitted sequence.
    Ended(SequenceId, Box<Ended>),
    /// The replica's step under way takes too long.
    Terminate(ReplicaId),
}
