use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use blyan_supervisors::{NoProbe, Probe};

use super::EngineError;
use crate::graph::ModelShape;

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
    /// What a refused session means.
    pub(super) fn explain(&self, why: &ort::Error) -> EngineError {
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

    /// # Errors
    /// [`EngineError::Options`].
    pub(super) fn validate(&self, shape: &ModelShape) -> Result<(), EngineError> {
        let positive = [
            self.threads,
            self.rows_max,
            self.chunk_max,
            self.context_max,
        ];
        if positive.contains(&0) {
            return Err(EngineError::Options(
                "threads, rows, chunk and context must be at least 1".to_owned(),
            ));
        }
        if self.context_max > shape.context {
            let why = format!(
                "a context of {}, the model was made for {}",
                self.context_max, shape.context
            );
            return Err(EngineError::Options(why));
        }
        if self.threads > i32::MAX as usize {
            return Err(EngineError::Options("too many threads".to_owned()));
        }
        Ok(())
    }
}
