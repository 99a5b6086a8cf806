//! The seam between scheduling and computing: what one step is given and what it gives back.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use blyan_formats::TensorName;
use blyan_protocol::LeaseError;
use ort::session::RunOptions;
use parking_lot::Mutex;

use crate::kv::KvSlot;

/// Which positions of a row's tokens need logits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Logits {
    /// None: a prefill chunk that is not the last.
    None,
    /// Only the last token's.
    Last,
    /// Every token's (perplexity, teacher forcing).
    All,
}

/// One sequence's share of a step.
pub struct StepRow<'a> {
    /// At least one token and at most the prefill chunk; they follow what `kv` already holds.
    pub tokens: &'a [u32],
    /// The sequence's memory; its length grows by `tokens.len()` only if the step succeeds.
    pub kv: &'a mut KvSlot,
    /// Experts per layer for these tokens, the always-on ones included.
    pub top_k: u32,
    /// Where logits are wanted.
    pub logits: Logits,
}

/// What a step computed.
#[derive(Debug, Default)]
pub struct StepOutput {
    /// Per row: the wanted positions' logits, each of vocabulary length, concatenated.
    pub logits: Vec<Vec<f32>>,
    /// Per row: how many of its tokens each expert computed.
    pub experts: Vec<BTreeMap<TensorName, u64>>,
    /// Experts that had to be loaded during the step.
    pub loaded: u32,
}

/// Ends a running step from another thread: ONNX Runtime looks at it between operators, the expert operator between
/// experts. A clone ends the same step. One step at a time may run under it; once set it stays set.
#[derive(Clone, Default)]
pub struct Terminate(Arc<TerminateState>);

#[derive(Default)]
struct TerminateState {
    asked: AtomicBool,
    run: Mutex<Option<Arc<RunOptions>>>,
}

impl Terminate {
    /// Asks the step to end with [`StepError::Terminated`]; returns at once.
    pub fn set(&self) {
        self.0.asked.store(true, Ordering::SeqCst);
        if let Some(run) = &*self.0.run.lock() {
            end(run);
        }
    }

    /// Whether someone asked.
    #[must_use]
    pub fn is_set(&self) -> bool {
        self.0.asked.load(Ordering::SeqCst)
    }

    /// Lets [`Self::set`] end `run` until the guard is dropped.
    pub(crate) fn attach(&self, run: &Arc<RunOptions>) -> Attached<'_> {
        *self.0.run.lock() = Some(Arc::clone(run));
        if self.is_set() {
            end(run);
        }
        Attached(self)
    }
}

fn end(run: &RunOptions) {
    if let Err(why) = run.terminate() {
        tracing::warn!("a run cannot be terminated: {why}");
    }
}

pub(crate) struct Attached<'a>(&'a Terminate);

impl Drop for Attached<'_> {
    fn drop(&mut self) {
        *self.0.0.run.lock() = None;
    }
}

/// Why a step gave nothing. The rows' memory is as long as before the step.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StepError {
    /// An expert that at least one row needs cannot be leased.
    #[error(transparent)]
    Expert(#[from] LeaseError),
    /// [`Terminate::set`] was called.
    #[error("the step was terminated")]
    Terminated,
    /// The expert operator panicked; the text is its payload.
    #[error("the expert operator panicked: {0}")]
    Panicked(String),
    /// ONNX Runtime refused or failed.
    #[error("ONNX Runtime: {0}")]
    Runtime(String),
    /// The bound on key/value memory leaves too little for another slot.
    #[error("key/value memory is full: {needs_bytes} bytes needed, {free_bytes} free")]
    KvFull {
        /// Bytes of the slot that was asked for.
        needs_bytes: u64,
        /// Bytes below the bound that no slot holds.
        free_bytes: u64,
    },
    /// The caller broke a bound (no tokens, context full, too many rows).
    #[error("invalid step: {0}")]
    Invalid(String),
}

/// Computes steps. Shared by all replicas; a restart of a replica never rebuilds it.
pub trait StepEngine: Send + Sync {
    /// Sequences in one step, at most.
    fn rows_max(&self) -> usize;
    /// Tokens of one row in one step, at most.
    fn chunk_max(&self) -> usize;
    /// Length of one position's logits.
    fn vocabulary(&self) -> usize;
    /// A fresh memory for one sequence of at most `context` tokens, counted against the engine's pool.
    fn new_slot(&self, context: usize) -> Result<KvSlot, StepError>;
    /// Runs one step over `rows`; either every row advances or none does.
    fn step(
        &self,
        rows: &mut [StepRow<'_>],
        terminate: &Terminate,
    ) -> Result<StepOutput, StepError>;
}
