//! Loading ONNX Runtime, making sessions, and running them on borrowed memory.

use std::ffi::{CString, c_char};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use ort::AsPointer;
use ort::environment::Environment;
use ort::ep::{self, ExecutionProviderDispatch};
use ort::logging::LogLevel;
use ort::session::builder::GraphOptimizationLevel;
use ort::session::{RunOptions, Session, SharedSessionInner};
use parking_lot::Mutex;

use super::operators::Domain;
use super::value::{Tensor, check};
use super::{EngineError, Provider};
use crate::graph::StepGraph;

/// Longer than a norm takes, shorter than a time slice.
const SPIN_MICROSECONDS: &str = "200";

/// The library is loaded once a process and never unloaded.
static LOADED: OnceLock<(PathBuf, Environment)> = OnceLock::new();

/// Loads the library at `path`, or gives what is loaded already.
pub fn environment(path: &Path) -> Result<Environment, EngineError> {
    static LOADING: Mutex<()> = Mutex::new(());
    let _one_at_a_time = LOADING.lock();
    if let Some((loaded, environment)) = LOADED.get() {
        return same_library(loaded, path).map(|()| environment.clone());
    }
    let environment = load(path)?;
    Ok(LOADED
        .get_or_init(|| (path.to_owned(), environment))
        .1
        .clone())
}

fn same_library(loaded: &Path, wanted: &Path) -> Result<(), EngineError> {
    if loaded == wanted {
        return Ok(());
    }
    let why = format!(
        "{} is loaded already; a process has one ONNX Runtime",
        loaded.display()
    );
    Err(EngineError::Library {
        path: wanted.to_owned(),
        why,
    })
}

fn load(path: &Path) -> Result<Environment, EngineError> {
    let refused = |why: String| EngineError::Library {
        path: path.to_owned(),
        why,
    };
    let builder = ort::init_from(path).map_err(|why| refused(why.to_string()))?;
    let environment = builder
        .with_name("blyan")
        .with_telemetry(false)
        .with_logger(Arc::new(log))
        .build();
    let environment = environment.map_err(|why| refused(why.to_string()))?;
    environment.set_log_level(LogLevel::Warning);
    Ok(environment)
}

fn log(level: LogLevel, _category: &str, _id: &str, location: &str, message: &str) {
    match level {
        LogLevel::Verbose | LogLevel::Info => tracing::trace!(location, "onnxruntime: {message}"),
        LogLevel::Warning => tracing::debug!(location, "onnxruntime: {message}"),
        // A failed run comes back as an error too; whoever gets it says what it means.
        LogLevel::Error | LogLevel::Fatal => tracing::warn!(location, "onnxruntime: {message}"),
    }
}

/// How a session's threads wait for the next piece of work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waiting {
    /// Asleep: others can use the processor.
    Sleeping,
    /// Awake for a moment, longer than what lies between two pieces of one step.
    Spinning,
}

/// A session of one graph. Any number of threads may run it at one time.
pub struct GraphSession {
    session: Arc<SharedSessionInner>,
    input_names: Vec<CString>,
    output_names: Vec<CString>,
}

impl GraphSession {
    /// `domain` holds the operators of ours that `graph` names.
    pub fn new(
        environment: &Environment,
        graph: &StepGraph,
        domain: &Domain,
        threads: (usize, Waiting),
        provider: &Provider,
    ) -> Result<Self, EngineError> {
        // ONNX Runtime registers the operators' domain for the whole process, without a lock of its own.
        static COMMITTING: Mutex<()> = Mutex::new(());
        let one_at_a_time = COMMITTING.lock();
        let session = commit(environment, graph, domain, threads, provider)
            .map_err(|why| provider.explain(&why))?;
        drop(one_at_a_time);
        let (input_names, output_names) = (c_names(&graph.inputs)?, c_names(&graph.outputs)?);
        Ok(Self {
            session: session.inner(),
            input_names,
            output_names,
        })
    }

    /// Runs the graph. Both lists stand in the graph's order.
    pub fn run(
        &self,
        inputs: &[&Tensor<'_>],
        outputs: &[&Tensor<'_>],
        options: &RunOptions,
    ) -> ort::Result<()> {
        if inputs.len() != self.input_names.len() || outputs.len() != self.output_names.len() {
            return Err(ort::Error::new("wrong number of inputs or outputs"));
        }
        let (input_names, output_names) =
            (pointers(&self.input_names), pointers(&self.output_names));
        let inputs: Vec<_> = inputs
            .iter()
            .map(|tensor| tensor.as_ptr().cast_const())
            .collect();
        let mut outputs: Vec<_> = outputs.iter().map(|tensor| tensor.as_ptr()).collect();
        // SAFETY: all arrays are as long as said and outlive the call; names are NUL-terminated; every value is alive
        // (borrowed) during the call, and each output's memory is borrowed exclusively by its tensor. Concurrent `Run`
        // calls on one session are allowed by ONNX Runtime. No output is null, so none is allocated.
        check(unsafe {
            (ort::api().Run)(
                self.session.ptr().cast_mut(),
                options.ptr(),
                input_names.as_ptr(),
                inputs.as_ptr(),
                inputs.len(),
                output_names.as_ptr(),
                output_names.len(),
                outputs.as_mut_ptr(),
            )
        })
    }
}

fn c_names(names: &[String]) -> Result<Vec<CString>, EngineError> {
    let names = names
        .iter()
        .map(|name| CString::new(name.as_str()))
        .collect::<Result<_, _>>();
    names.map_err(|why| EngineError::Graph(format!("a name: {why}")))
}

fn pointers(names: &[CString]) -> Vec<*const c_char> {
    names.iter().map(|name| name.as_ptr()).collect()
}

fn commit(
    environment: &Environment,
    graph: &StepGraph,
    domain: &Domain,
    (threads, waiting): (usize, Waiting),
    provider: &Provider,
) -> ort::Result<Session> {
    // The graph is written in its fused form, so there is nothing to optimise. Shapes differ from step to step, so
    // memory patterns would be made for nothing.
    let mut builder = Session::builder(environment)?
        .with_optimization_level(GraphOptimizationLevel::Disable)?
        .with_memory_pattern(false)?
        .with_intra_threads(threads)?
        .with_intra_op_spinning(waiting == Waiting::Spinning)?
        .with_config_entry("session.intra_op.spin_duration_us", SPIN_MICROSECONDS)?
        // A step's threads sleep between steps.
        .with_config_entry("session.force_spinning_stop", "1")?
        .with_log_level(LogLevel::Warning)?
        .with_operators(domain.get())?
        .with_execution_providers(providers(provider))?;
    builder.commit_from_memory(&graph.model)
}

fn providers(provider: &Provider) -> Vec<ExecutionProviderDispatch> {
    // Without an arena what a step allocates goes back when it ends, instead of staying with the session at its peak.
    let cpu = ep::CPU::default()
        .with_arena_allocator(false)
        .build()
        .error_on_failure();
    match provider {
        Provider::Cpu => vec![cpu],
        Provider::Cuda {
            device,
            memory_bytes,
        } => {
            let cuda = ep::CUDA::default()
                .with_device_id(*device)
                .with_memory_limit(*memory_bytes);
            vec![cuda.build().error_on_failure(), cpu]
        }
    }
}
