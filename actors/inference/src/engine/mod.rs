//! Computes steps: one ONNX Runtime run over all rows, with the experts in an operator of ours.
//!
//! An [`Engine`] belongs to no replica: it holds the weights' tensors (over the source's memory, no copy), its sessions
//! (one; with fp32 weights one for each number of rows), and the bound on key/value memory. Any number of threads may step at one time, each with
//! rows of its own. Sessions hold no weights and no arena, so another thread costs what its step allocates.
//!
//! | id | invariant | shown by (in `tests/engine`) |
//! |---|---|---|
//! | ENGINE-I1 | a step that fails changes the length of no row's memory, and the next step works | `faults` |
//! | ENGINE-I2 | no panic leaves the operator: the step ends as `Panicked` | `a_panic_in_the_operator_is_an_error_and_the_next_step_works` |
//! | ENGINE-I3 | a row's logits do not depend on the rows beside it, on how its prompt was cut, or on the number of threads, but for rounding | `rows_of_a_ragged_batch_equal_rows_alone`, `prefill_in_chunks_equals_prefill_as_a_whole`, `the_result_does_not_depend_on_threads`; with stored weights not even in rounding: `fast` |
//! | ENGINE-I4 | a corrupt expert is passed over where a row's `top_k` leaves enough healthy ones; otherwise the step ends with its name and payload | `a_corrupt_routed_expert_is_passed_over_while_others_suffice`, `a_corrupt_expert_is_named_when_all_are_needed` |
//! | ENGINE-I5 | a worker thread holds at most one lease, and none while it waits for another | `leases_are_held_one_at_a_time` |
//! | ENGINE-I6 | after `Terminate::set` a step ends before its next operator or expert | `terminate_ends_a_step_that_is_under_way`, `steps_ended_at_any_time_leave_no_trace` |
//!
//! With all experts active the sum of their shares is the dense layer; `tests/oracle` compares the logits with another
//! implementation.

mod attention;
mod batch;
mod choice;
mod contention;
mod error;
mod experts;
mod ffn;
mod kernel;
mod matrices;
mod operators;
mod options;
mod product;
mod record;
mod runs;
mod session;
mod swiglu;
mod value;
mod weights;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use blyan_formats::TensorName;
use blyan_protocol::{ExpertTable, ModelEntry, WeightForm};
use ort::environment::Environment;
use ort::session::RunOptions;
use parking_lot::Mutex;

pub use error::EngineError;
pub use experts::ExpertFfn;
pub use ffn::{FfnCall, FfnCompute, RowSpan, RunState, Workers};
pub use kernel::{ExpertKernel, ExpertSize, FastKernel, LayerInput, ReferenceKernel};
pub use options::{EngineOptions, Provider};
pub use record::{LayerRecord, Recorder};
pub use swiglu::swiglu;
pub use weights::WeightSource;

use crate::graph::{ModelShape, step_graph};
use crate::kv::{KvPool, KvSlot};
use crate::step::{StepEngine, StepError, StepOutput, StepRow, Terminate};
use attention::{Attention, RowMemory};
use batch::StepInputs;
use contention::Contention;
use ffn::Tally;
use matrices::Matrices;
use operators::{Domain, Shared};
use runs::Runs;
use session::{GraphSession, Waiting};
use value::Tensor;
use weights::{BoundWeights, rope_tables};

/// Sessions, weights and key/value bound of one model; shared by all replicas.
pub struct Engine {
    // Sessions before what their runs point to.
    /// By number of rows, how threads wait.
    sessions: Vec<[Mutex<Option<Arc<GraphSession>>>; 2]>,
    domain: Domain,
    environment: Environment,
    weights: BoundWeights,
    runs: Runs,
    pool: KvPool,
    shape: ModelShape,
    form: WeightForm,
    contention: Contention,
    options: EngineOptions,
}

impl Engine {
    /// An engine whose experts are those of `entries`, a manifest's, and come from `table`. All weights are in the form
    /// that `kernel` reads.
    ///
    /// # Errors
    /// See [`Self::with_ffn`].
    pub fn new(
        options: EngineOptions,
        shape: ModelShape,
        entries: &BTreeMap<TensorName, ModelEntry>,
        weights: Arc<dyn WeightSource>,
        table: Arc<dyn ExpertTable>,
        kernel: Arc<dyn ExpertKernel>,
    ) -> Result<Self, EngineError> {
        let form = kernel.form();
        let ffn = ExpertFfn::new(shape, entries, table, kernel)?;
        Self::with_weights(options, shape, (weights, form), Arc::new(ffn))
    }

    /// An engine with feed-forward parts of any kind, and fp32 weights outside of them. Loads ONNX Runtime and makes the session for one row; those for
    /// more are made when first needed.
    ///
    /// # Errors
    /// [`EngineError`], each variant.
    pub fn with_ffn(
        options: EngineOptions,
        shape: ModelShape,
        weights: Arc<dyn WeightSource>,
        ffn: Arc<dyn FfnCompute>,
    ) -> Result<Self, EngineError> {
        Self::with_weights(options, shape, (weights, WeightForm::Fp32), ffn)
    }

    /// An engine that computes with the experts of `recorder` and lets it write down one layer. All weights are in the form
    /// that its kernel reads.
    ///
    /// # Errors
    /// See [`Self::with_ffn`].
    pub fn recording(
        options: EngineOptions,
        shape: ModelShape,
        weights: Arc<dyn WeightSource>,
        recorder: Arc<Recorder>,
    ) -> Result<Self, EngineError> {
        let form = recorder.form();
        Self::with_weights(options, shape, (weights, form), recorder)
    }

    fn with_weights(
        options: EngineOptions,
        shape: ModelShape,
        (weights, form): (Arc<dyn WeightSource>, WeightForm),
        ffn: Arc<dyn FfnCompute>,
    ) -> Result<Self, EngineError> {
        options.validate(&shape)?;
        let environment = session::environment(&options.ort_library)?;
        let runs = Runs::default();
        let shared = Shared {
            runs: runs.clone(),
            compute: ffn,
            matrices: Matrices::new(&shape, &weights, form)?,
            attention: Attention::new(shape, rope_tables(&shape, options.context_max)),
            shape,
            probe: Arc::clone(&options.probe),
            threads: options.threads,
        };
        let engine = Self {
            sessions: (0..options.rows_max).map(|_| Default::default()).collect(),
            domain: Domain::new(Arc::new(shared))?,
            environment,
            weights: BoundWeights::new(&shape, options.context_max, weights, form)?,
            runs,
            pool: KvPool::new(shape.kv(), options.kv_bytes_max),
            shape,
            form,
            contention: Contention::default(),
            options,
        };
        engine.session(1)?;
        Ok(engine)
    }

    /// The engine with the key/value memory of `other`, whose place it takes: one bound holds for both while both answer.
    /// Where the models' shapes differ it keeps its own.
    #[must_use]
    pub fn sharing_memory_of(mut self, other: &Self) -> Self {
        if self.shape.kv() == other.shape.kv() {
            self.pool = other.pool.clone();
        }
        self
    }

    /// The bound on key/value memory and what is used of it.
    #[must_use]
    pub fn kv_pool(&self) -> &KvPool {
        &self.pool
    }

    /// The model's numbers.
    #[must_use]
    pub fn shape(&self) -> &ModelShape {
        &self.shape
    }

    fn session(&self, rows: usize) -> Result<Arc<GraphSession>, EngineError> {
        let rows = match self.form {
            WeightForm::Fp32 => rows,
            WeightForm::Stored => 1,
        };
        let waiting = match self.options.threads {
            1 => Waiting::Sleeping,
            _ if self.contention.look() => Waiting::Sleeping,
            _ => Waiting::Spinning,
        };
        let mut place = self.sessions[rows - 1][waiting as usize].lock();
        if let Some(session) = &*place {
            return Ok(Arc::clone(session));
        }
        let graph = step_graph(&self.shape, rows, self.options.context_max, self.form);
        let Self {
            environment,
            domain,
            options,
            ..
        } = self;
        let session = GraphSession::new(
            environment,
            &graph,
            domain,
            (options.threads, waiting),
            &options.provider,
        )?;
        Ok(Arc::clone(place.insert(Arc::new(session))))
    }

    /// Runs the checked rows and returns the logits of all wanted positions.
    fn run(
        &self,
        rows: &mut [StepRow<'_>],
        run_id: i64,
        options: &RunOptions,
    ) -> Result<Vec<f32>, StepError> {
        let session = self
            .session(rows.len())
            .map_err(|why| StepError::Runtime(why.to_string()))?;
        let inputs = StepInputs::new(rows);
        let mut logits = vec![0.0; inputs.wanted() * self.shape.vocab];
        self.run_on(&session, rows, &inputs, run_id, &mut logits, options)
            .map_err(|why| StepError::Runtime(why.message().to_owned()))?;
        Ok(logits)
    }

    fn run_on(
        &self,
        session: &GraphSession,
        rows: &mut [StepRow<'_>],
        inputs: &StepInputs,
        run_id: i64,
        logits: &mut [f32],
        options: &RunOptions,
    ) -> ort::Result<()> {
        let run_id = [run_id];
        let mut step = inputs.tensors(&run_id)?;
        let mut memory = Vec::new();
        if self.form == WeightForm::Fp32 {
            step.extend(inputs.row_tensors()?);
            memory = self.memory(rows)?;
        }
        let logits = Tensor::writing(logits, &[1, inputs.wanted(), self.shape.vocab])?;
        let all_inputs: Vec<_> = step
            .iter()
            .chain(self.weights.tensors())
            .chain(&memory)
            .collect();
        let outputs: Vec<_> = std::iter::once(&logits).chain(&memory).collect();
        session.run(&all_inputs, &outputs, options)
    }

    fn memory<'r>(&self, rows: &'r mut [StepRow<'_>]) -> ort::Result<Vec<Tensor<'r>>> {
        let ModelShape {
            kv_heads, head_dim, ..
        } = self.shape;
        let slots = rows.iter_mut().flat_map(|row| {
            let dims = [1, kv_heads, row.kv.context(), head_dim];
            row.kv
                .tensors()
                .map(move |memory| Tensor::writing(memory, &dims))
        });
        slots.collect()
    }

    /// The fault behind a failed run: the operator's own words first.
    fn fault(&self, left: Option<StepError>, why: StepError, terminate: &Terminate) -> StepError {
        match left {
            Some(fault) => fault,
            None if terminate.is_set() => StepError::Terminated,
            None => why,
        }
    }
}

impl StepEngine for Engine {
    fn rows_max(&self) -> usize {
        self.options.rows_max
    }

    fn chunk_max(&self) -> usize {
        self.options.chunk_max
    }

    fn vocabulary(&self) -> usize {
        self.shape.vocab
    }

    fn new_slot(&self, context: usize) -> Result<KvSlot, StepError> {
        if context > self.options.context_max {
            let bound = self.options.context_max;
            return Err(StepError::Invalid(format!(
                "a context of {context} tokens, {bound} are possible"
            )));
        }
        self.pool.slot(context)
    }

    fn step(
        &self,
        rows: &mut [StepRow<'_>],
        terminate: &Terminate,
    ) -> Result<StepOutput, StepError> {
        batch::check(rows, &self.options, &self.shape)?;
        let run_options =
            RunOptions::new().map_err(|why| StepError::Runtime(why.message().to_owned()))?;
        let run_options = Arc::new(run_options);
        let _attached = terminate.attach(&run_options);
        let state = RunState {
            rows: batch::spans(rows),
            deadline: Instant::now() + self.options.expert_wait,
            terminate: terminate.clone(),
            tally: Tally::new(rows.len(), self.shape.layers, self.shape.experts),
        };
        let memory = match self.form {
            WeightForm::Fp32 => Vec::new(),
            // SAFETY: the guard takes it away when this function ends, which borrows the rows for as long.
            WeightForm::Stored => unsafe { RowMemory::of(rows) },
        };
        let guard = self.runs.enter(state, memory);
        let ran = self.run(rows, guard.id, &run_options);
        let logits = ran.map_err(|why| self.fault(guard.context.take_fault(), why, terminate))?;
        if let Some(damage) = self.weights.damage() {
            return Err(damage.into());
        }
        rows.iter_mut()
            .for_each(|row| row.kv.advance(row.tokens.len()));
        Ok(batch::output(
            rows,
            logits,
            self.shape.vocab,
            &guard.context.state.tally,
        ))
    }
}
