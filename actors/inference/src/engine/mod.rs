//! Computes steps: one ONNX Runtime run over all rows, with the experts in an operator of ours.

mod choice;
mod experts;
mod ffn;
mod kernel;
mod operator;
mod runs;
mod session;
mod swiglu;
mod value;
mod weights;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use blyan_formats::TensorName;
use blyan_protocol::{ExpertTable, ModelDescription};
use blyan_supervisors::{NoProbe, Probe};
use ort::environment::Environment;
use ort::session::RunOptions;
use parking_lot::Mutex;

pub use experts::ExpertFfn;
pub use ffn::{FfnCall, FfnCompute, RowSpan, RunState, Workers};
pub use kernel::{ExpertKernel, ExpertSize, ReferenceKernel};
pub use swiglu::swiglu;
pub use weights::WeightSource;

use crate::graph::{ModelShape, step_graph};
use crate::kv::{KvPool, KvSlot};
use crate::step::{Logits, StepEngine, StepError, StepOutput, StepRow, Terminate};
use ffn::Tally;
use operator::Domain;
use runs::Runs;
use session::GraphSession;
use value::Tensor;
use weights::BoundWeights;

/// Where a graph is computed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Provider {
    /// On the processor.
    Cpu,
    /// On a CUDA device; the experts' operator stays on the processor.
    Cuda {
        /// The device's number.
        device: i32,
        /// Memory that ONNX Runtime may take of it.
        memory_bytes: usize,
    },
}

impl Provider {
    fn explain(&self, why: &ort::Error) -> EngineError {
        let why = why.message().to_owned();
        match self {
            Self::Cuda { .. } if why.contains("CUDA") => EngineError::Cuda { why },
            _ => EngineError::Graph(why),
        }
    }
}

/// How an engine is made.
#[derive(Clone)]
pub struct EngineOptions {
    /// `libonnxruntime`; a process can load one.
    pub ort_library: PathBuf,
    /// Threads that share one run, the calling one included.
    pub threads: usize,
    /// Sequences in one step.
    pub rows_max: usize,
    /// Tokens of one row in one step.
    pub chunk_max: usize,
    /// Tokens of one sequence.
    pub context_max: usize,
    /// Bytes of all key/value memory.
    pub kv_bytes_max: u64,
    /// How long a step may wait for experts to be loaded, all waits together.
    pub expert_wait: Duration,
    /// Where the graph is computed.
    pub provider: Provider,
    /// Hit at the start of every call of the expert operator.
    pub probe: Arc<dyn Probe>,
}

impl EngineOptions {
    /// The usual bounds: 4 rows of at most 128 tokens a step, contexts of 2048 tokens, 1 GiB of key/value memory, 3 s
    /// for loads, one thread of the processor.
    #[must_use]
    pub fn new(ort_library: PathBuf) -> Self {
        Self {
            ort_library,
            threads: 1,
            rows_max: 4,
            chunk_max: 128,
            context_max: 2048,
            kv_bytes_max: 1 << 30,
            expert_wait: Duration::from_secs(3),
            provider: Provider::Cpu,
            probe: Arc::new(NoProbe),
        }
    }
}

/// Why there is no engine.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// ONNX Runtime cannot be loaded.
    #[error("cannot load ONNX Runtime from {path}: {why}")]
    Library {
        /// What was to be loaded.
        path: PathBuf,
        /// The loader's words.
        why: String,
    },
    /// A CUDA session was asked for and cannot be had.
    #[error(
        "no CUDA session: {why}. Set ORT_DYLIB_PATH to the libonnxruntime of the package onnxruntime-gpu, with CUDA 13 \
         and cuDNN 9 installed, or choose the provider cpu"
    )]
    Cuda {
        /// ONNX Runtime's words.
        why: String,
    },
    /// A weight is missing or of another size.
    #[error("weight {name}: {why}")]
    Weight {
        /// Which.
        name: TensorName,
        /// What is wrong with it.
        why: String,
    },
    /// The options contradict each other or the model.
    #[error("invalid engine options: {0}")]
    Options(String),
    /// ONNX Runtime refuses the graph, or failed.
    #[error("ONNX Runtime: {0}")]
    Graph(String),
}

impl From<ort::Error> for EngineError {
    fn from(why: ort::Error) -> Self {
        Self::Graph(why.message().to_owned())
    }
}

/// Sessions, weights and key/value bound of one model; shared by all replicas.
pub struct Engine {
    // Sessions before what their runs point to.
    sessions: Vec<Mutex<Option<Arc<GraphSession>>>>,
    domain: Domain,
    environment: Environment,
    weights: BoundWeights,
    runs: Runs,
    pool: KvPool,
    shape: ModelShape,
    options: EngineOptions,
}

impl Engine {
    /// An engine whose experts come from `table`.
    ///
    /// # Errors
    /// See [`Self::with_ffn`].
    pub fn new(
        options: EngineOptions,
        model: &ModelDescription,
        weights: Arc<dyn WeightSource>,
        table: Arc<dyn ExpertTable>,
        kernel: Arc<dyn ExpertKernel>,
    ) -> Result<Self, EngineError> {
        let shape = ModelShape::from(&model.architecture);
        let ffn = ExpertFfn::new(shape, &model.entries, table, kernel)?;
        Self::with_ffn(options, shape, weights, Arc::new(ffn))
    }

    /// An engine with feed-forward parts of any kind. Loads ONNX Runtime and makes the session for one row; those for
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
        validate(&options, &shape)?;
        let environment = session::environment(&options.ort_library)?;
        let runs = Runs::default();
        let shared = operator::Shared {
            runs: runs.clone(),
            compute: ffn,
            probe: Arc::clone(&options.probe),
            threads: options.threads,
        };
        let engine = Self {
            sessions: (0..options.rows_max).map(|_| Mutex::default()).collect(),
            domain: Domain::new(Arc::new(shared))?,
            environment,
            weights: BoundWeights::new(&shape, options.context_max, weights)?,
            runs,
            pool: KvPool::new(shape.kv(), options.kv_bytes_max),
            shape,
            options,
        };
        engine.session(1)?;
        Ok(engine)
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
        let mut place = self.sessions[rows - 1].lock();
        if let Some(session) = &*place {
            return Ok(Arc::clone(session));
        }
        let graph = step_graph(&self.shape, rows, self.options.context_max);
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
            options.threads,
            &options.provider,
        )?;
        Ok(Arc::clone(place.insert(Arc::new(session))))
    }

    fn check(&self, rows: &[StepRow<'_>]) -> Result<(), StepError> {
        let invalid = |why: String| Err(StepError::Invalid(why));
        if rows.is_empty() || rows.len() > self.options.rows_max {
            return invalid(format!(
                "{} rows, 1 to {} are possible",
                rows.len(),
                self.options.rows_max
            ));
        }
        for (number, row) in rows.iter().enumerate() {
            if let Err(why) = self.check_row(row) {
                return invalid(format!("row {number}: {why}"));
            }
        }
        Ok(())
    }

    fn check_row(&self, row: &StepRow<'_>) -> Result<(), String> {
        let (
            tokens,
            ModelShape {
                always_on, experts, ..
            },
        ) = (row.tokens.len(), self.shape);
        if tokens == 0 || tokens > self.options.chunk_max {
            return Err(format!(
                "{tokens} tokens, 1 to {} are possible",
                self.options.chunk_max
            ));
        }
        if row.kv.shape() != self.shape.kv() || row.kv.context() > self.options.context_max {
            return Err("its memory was made for another model".to_owned());
        }
        if row.kv.len() + tokens > row.kv.context() {
            return Err(format!(
                "{} tokens and {tokens} more exceed {}",
                row.kv.len(),
                row.kv.context()
            ));
        }
        if let Some(token) = row
            .tokens
            .iter()
            .find(|token| **token as usize >= self.shape.vocab)
        {
            return Err(format!("token {token} is not in the vocabulary"));
        }
        if (row.top_k as usize) < always_on || row.top_k as usize > experts {
            return Err(format!(
                "{} experts, {always_on} to {experts} are possible",
                row.top_k
            ));
        }
        Ok(())
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
        let plan = StepPlan::new(rows);
        let mut logits = vec![0.0; plan.positions.len() * self.shape.vocab];
        self.run_on(&session, rows, &plan, run_id, &mut logits, options)
            .map_err(|why| StepError::Runtime(why.message().to_owned()))?;
        Ok(logits)
    }

    fn run_on(
        &self,
        session: &GraphSession,
        rows: &mut [StepRow<'_>],
        plan: &StepPlan,
        run_id: i64,
        logits: &mut [f32],
        options: &RunOptions,
    ) -> ort::Result<()> {
        let run_id = [run_id];
        let step = plan.tensors(&run_id)?;
        let memory = self.memory(rows)?;
        let logits = Tensor::writing(logits, &[1, plan.positions.len(), self.shape.vocab])?;
        let inputs: Vec<_> = step
            .iter()
            .chain(self.weights.tensors())
            .chain(&memory)
            .collect();
        let outputs: Vec<_> = std::iter::once(&logits).chain(&memory).collect();
        session.run(&inputs, &outputs, options)
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
        self.check(rows)?;
        let run_options =
            RunOptions::new().map_err(|why| StepError::Runtime(why.message().to_owned()))?;
        let run_options = Arc::new(run_options);
        let _attached = terminate.attach(&run_options);
        let guard = self.runs.enter(RunState {
            rows: spans(rows),
            deadline: Instant::now() + self.options.expert_wait,
            terminate: terminate.clone(),
            tally: Tally::new(rows.len(), self.shape.layers, self.shape.experts),
        });
        let ran = self.run(rows, guard.id, &run_options);
        let logits = ran.map_err(|why| self.fault(guard.context.take_fault(), why, terminate))?;
        if let Some(damage) = self.weights.damage() {
            return Err(damage.into());
        }
        rows.iter_mut()
            .for_each(|row| row.kv.advance(row.tokens.len()));
        Ok(output(
            rows,
            logits,
            self.shape.vocab,
            &guard.context.state.tally,
        ))
    }
}

/// A step's small inputs.
struct StepPlan {
    tokens: Vec<i64>,
    positions: Vec<i64>,
    row_lengths: Vec<i64>,
    last_index: Vec<i32>,
    total_length: Vec<i32>,
}

impl StepPlan {
    fn new(rows: &[StepRow<'_>]) -> Self {
        let total = |row: &StepRow<'_>| (row.kv.len() + row.tokens.len()) as i32;
        let total_length: Vec<_> = rows.iter().map(total).collect();
        Self {
            tokens: rows
                .iter()
                .flat_map(|row| row.tokens)
                .map(|token| i64::from(*token))
                .collect(),
            positions: positions(rows),
            row_lengths: rows.iter().map(|row| row.tokens.len() as i64).collect(),
            last_index: total_length.iter().map(|total| total - 1).collect(),
            total_length,
        }
    }

    /// In the order of the step graph's inputs.
    fn tensors<'a>(&'a self, run_id: &'a [i64; 1]) -> ort::Result<Vec<Tensor<'a>>> {
        let mut tensors = vec![
            Tensor::reading(&self.tokens, &[1, self.tokens.len()])?,
            Tensor::reading(&self.positions, &[self.positions.len()])?,
            Tensor::reading(run_id, &[1])?,
        ];
        if self.row_lengths.len() > 1 {
            tensors.push(Tensor::reading(
                &self.row_lengths,
                &[self.row_lengths.len()],
            )?);
        }
        for (last, total) in self.last_index.iter().zip(&self.total_length) {
            tensors.push(Tensor::reading(std::slice::from_ref(last), &[1])?);
            tensors.push(Tensor::reading(std::slice::from_ref(total), &[])?);
        }
        Ok(tensors)
    }
}

fn spans(rows: &[StepRow<'_>]) -> Vec<RowSpan> {
    let mut end = 0;
    let span = |row: &StepRow<'_>| {
        let start = end;
        end += row.tokens.len();
        RowSpan {
            tokens: start..end,
            top_k: row.top_k as usize,
        }
    };
    rows.iter().map(span).collect()
}

/// Where in `[1, T, H]` logits are wanted.
fn positions(rows: &[StepRow<'_>]) -> Vec<i64> {
    let wanted = |(row, span): (&StepRow<'_>, RowSpan)| match row.logits {
        Logits::None => 0..0,
        Logits::Last => span.tokens.end - 1..span.tokens.end,
        Logits::All => span.tokens,
    };
    rows.iter()
        .zip(spans(rows))
        .flat_map(wanted)
        .map(|position| position as i64)
        .collect()
}

fn output(rows: &[StepRow<'_>], mut logits: Vec<f32>, vocab: usize, tally: &Tally) -> StepOutput {
    let mut of_row = |row: &StepRow<'_>| {
        let positions = match row.logits {
            Logits::None => 0,
            Logits::Last => 1,
            Logits::All => row.tokens.len(),
        };
        let rest = logits.split_off(positions * vocab);
        std::mem::replace(&mut logits, rest)
    };
    let counts = |row| {
        let named =
            |(layer, expert, tokens)| (TensorName::expert_of(layer as u16, expert as u16), tokens);
        tally.of_row(row).map(named).collect()
    };
    StepOutput {
        logits: rows.iter().map(&mut of_row).collect(),
        experts: (0..rows.len()).map(counts).collect(),
        loaded: tally.loaded.load(std::sync::atomic::Ordering::Relaxed),
    }
}

fn validate(options: &EngineOptions, shape: &ModelShape) -> Result<(), EngineError> {
    let positive = [
        options.threads,
        options.rows_max,
        options.chunk_max,
        options.context_max,
    ];
    if positive.contains(&0) {
        return Err(EngineError::Options(
            "threads, rows, chunk and context must be at least 1".to_owned(),
        ));
    }
    if options.context_max > shape.context {
        let why = format!(
            "a context of {}, the model was made for {}",
            options.context_max, shape.context
        );
        return Err(EngineError::Options(why));
    }
    if options.threads > i32::MAX as usize {
        return Err(EngineError::Options("too many threads".to_owned()));
    }
    Ok(())
}
