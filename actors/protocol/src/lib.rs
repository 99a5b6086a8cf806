#![doc = include_str!("../README.md")]

mod chat;
mod error;
mod experts;
mod ids;
mod model;
mod receipt;

pub use chat::{
    ChatEvent, ChatRequest, ChatSummary, ExpertsUsed, FinishReason, Message, Role, Sampling,
    Timing, TokenEvent, Usage,
};
pub use error::{ErrorCode, ExpertFault, PublicError};
pub use experts::{ExpertTable, Lease, LeaseError, LeasedExpert, WeightForm};
pub use ids::{ModelId, RequestId};
pub use model::{ModelDescription, ModelEntry, PayloadLocation, PayloadSource};
pub use receipt::{Outcome, Receipt, ReceiptSink};

use std::future::Future;
use std::pin::Pin;

/// A future behind a pointer, for traits that the wiring implements across crates.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;
