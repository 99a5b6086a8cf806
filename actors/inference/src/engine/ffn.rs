//! The seam between the step graph and whatever computes a layer's feed-forward part.

use std::ops::Range;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Instant;

use crate::step::{StepError, Terminate};

/// One row's part of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowSpan {
    /// Its tokens within the call's `[T, H]`.
    pub tokens: Range<usize>,
    /// Experts per layer, the always-on ones included.
    pub top_k: usize,
}

/// What one run does besides computing: who takes part, when it must end, what is counted.
pub struct RunState {
    /// The rows in order, one after the other without gaps.
    pub rows: Vec<RowSpan>,
    /// No wait for an expert goes beyond this.
    pub deadline: Instant,
    pub(crate) terminate: Terminate,
    pub(crate) tally: Tally,
}

impl RunState {
    /// Whether the step was asked to end; long work looks at it now and then and returns [`StepError::Terminated`].
    #[must_use]
    pub fn is_terminated(&self) -> bool {
        self.terminate.is_set()
    }

    /// Notes that `expert` of `layer` computed `tokens` tokens of the row.
    pub fn count(&self, row: usize, layer: usize, expert: usize, tokens: usize) {
        self.tally
            .slot(row, layer, expert)
            .fetch_add(tokens as u64, Ordering::Relaxed);
    }

    /// Notes that an expert had to be loaded.
    pub fn count_load(&self) {
        self.tally.loaded.fetch_add(1, Ordering::Relaxed);
    }
}

/// Tokens by row, layer and expert, and loads.
pub(crate) struct Tally {
    layers: usize,
    experts: usize,
    tokens: Vec<AtomicU64>,
    pub loaded: AtomicU32,
}

impl Tally {
    pub fn new(rows: usize, layers: usize, experts: usize) -> Self {
        let tokens = std::iter::repeat_with(AtomicU64::default)
            .take(rows * layers * experts)
            .collect();
        Self {
            layers,
            experts,
            tokens,
            loaded: AtomicU32::new(0),
        }
    }

    fn slot(&self, row: usize, layer: usize, expert: usize) -> &AtomicU64 {
        &self.tokens[(row * self.layers + layer) * self.experts + expert]
    }

    /// Layer, expert and tokens of each expert that took part in the row.
    pub fn of_row(&self, row: usize) -> impl Iterator<Item = (usize, usize, u64)> {
        let pairs =
            (0..self.layers).flat_map(|layer| (0..self.experts).map(move |expert| (layer, expert)));
        let counted = pairs.map(move |(layer, expert)| {
            (
                layer,
                expert,
                self.slot(row, layer, expert).load(Ordering::Relaxed),
            )
        });
        counted.filter(|(_, _, tokens)| *tokens > 0)
    }
}

/// Threads that share a call's work: those of ONNX Runtime's own pool.
pub trait Workers {
    /// How many there are, the calling one included.
    fn count(&self) -> usize;

    /// Calls `work` with every index below `count`, each at most once, and returns when all have. A panic in one of
    /// the calls goes on in the calling thread after that.
    fn run(&self, count: usize, work: &(dyn Fn(usize) + Sync));
}

/// One layer's feed-forward part over all tokens of a step.
pub struct FfnCall<'a> {
    /// Which layer.
    pub layer: usize,
    /// H.
    pub hidden: usize,
    /// Normed hidden state, `[T, H]`.
    pub input: &'a [f32],
    /// The router's scores with its bias, `[T, routed]`.
    pub scores: &'a [f32],
    /// To be overwritten: what the residual stream gets added, `[T, H]`.
    pub output: &'a mut [f32],
    /// The run that the call belongs to.
    pub run: &'a RunState,
    /// Threads to share the work with.
    pub workers: &'a dyn Workers,
}

impl FfnCall<'_> {
    /// T.
    #[must_use]
    pub fn tokens(&self) -> usize {
        self.input.len() / self.hidden
    }
}

/// Computes feed-forward parts. [`crate::engine::ExpertFfn`] does so from leased experts; another implementation lets
/// the same graph run on dense weights, or look at what goes in.
pub trait FfnCompute: Send + Sync {
    /// Overwrites the call's output. Called from several threads at one time when steps overlap. A panic is caught
    /// and ends the step as [`StepError::Panicked`].
    ///
    /// # Errors
    /// Any; the step ends with it.
    fn compute(&self, call: &mut FfnCall<'_>) -> Result<(), StepError>;
}
