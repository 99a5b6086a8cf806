//! The engine over the cache's maps.

use std::sync::Arc;
use std::thread::available_parallelism;
use std::time::Duration;

use blyan_expert_cache::{CacheError, ExpertCacheHandle, SharedWeights};
use blyan_formats::{PayloadHash, Tensor, TensorName};
use blyan_inference::config::Backend;
use blyan_inference::engine::{Engine, EngineError, EngineOptions, Provider, WeightSource};
use blyan_inference::graph::ModelShape;
use blyan_protocol::{LeaseError, ModelDescription, WeightForm};
use blyan_supervisors::Probe;

use crate::config::Config;

/// How long the load or the check of one payload may take.
pub const PAYLOAD: Duration = Duration::from_secs(30);
/// Threads of one run beyond which more do not help.
const THREADS_USEFUL_MAX: usize = 8;

/// Why there is no engine.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The weights outside of the experts cannot be mapped.
    #[error("the shared weights: {0}")]
    Weights(#[from] CacheError),
    /// ONNX Runtime refuses.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

impl StartError {
    /// Whether mending a file mends it, without another configuration or binary.
    pub fn is_corrupt(&self) -> bool {
        matches!(self, Self::Weights(CacheError::Corrupt(_)))
    }
}

/// What an engine is made with.
pub fn engine_options(
    config: &Config,
    model: &ModelDescription,
    probe: Arc<dyn Probe>,
) -> EngineOptions {
    let inference = &config.inference;
    let context = inference
        .context_max_tokens
        .min(model.architecture.context as usize);
    let cores = available_parallelism().map_or(1, usize::from);
    EngineOptions {
        threads: match inference.threads {
            0 => cores.min(THREADS_USEFUL_MAX),
            threads => threads,
        },
        rows_max: inference.slots_per_replica,
        chunk_max: inference.prefill_chunk_tokens,
        context_max: context,
        kv_bytes_max: config.runtime.kv_bytes_max,
        provider: match inference.backend {
            Backend::Fast | Backend::Reference => Provider::Cpu,
            Backend::Cuda => Provider::Cuda {
                device: config.runtime.cuda_device,
                memory_bytes: config.runtime.cuda_memory_bytes_max,
            },
        },
        probe,
        ..EngineOptions::new(config.runtime.onnxruntime())
    }
}

/// Maps the weights outside of the experts and makes the engine. Takes seconds the first time where the backend wants
/// fp32, when the derivations are made.
///
/// # Errors
/// [`StartError`], each variant.
pub async fn start_engine(
    options: EngineOptions,
    backend: Backend,
    model: &ModelDescription,
    cache: &ExpertCacheHandle,
) -> Result<Engine, StartError> {
    let shared = shared_weights(model);
    let shared = cache.load_shared(&shared, backend.form()).await?;
    let weights = Arc::new(SharedSource(shared));
    let table = Arc::new(cache.table());
    Ok(Engine::new(
        options,
        ModelShape::from(&model.architecture),
        &model.entries,
        weights,
        table,
        backend.kernel(),
    )?)
}

/// Maps experts as far as the cache's bound goes, so that no request waits for its first load. What fails is known by
/// the cache from then on, or is tried again by the request that needs it.
pub async fn warm(
    cache: &ExpertCacheHandle,
    model: &ModelDescription,
    form: WeightForm,
    bytes_max: u64,
) {
    let shape = &model.architecture;
    let fp32_bytes =
        3 * u64::from(shape.experts.neurons) * u64::from(shape.hidden) * size_of::<f32>() as u64;
    let mut bytes = 0;
    for (name, entry) in &model.entries {
        if name.expert().is_none() {
            continue;
        }
        bytes += match form {
            WeightForm::Fp32 => fp32_bytes,
            WeightForm::Stored => entry.payload_len,
        };
        if bytes > bytes_max {
            return;
        }
        match cache.load(*name, entry.payload, form, PAYLOAD).await {
            Ok(_) | Err(LeaseError::Corrupt { .. }) => {}
            Err(error) => {
                return tracing::warn!(%error, "the other experts are loaded when they are needed");
            }
        }
    }
}

/// Every weight that is no expert.
pub fn shared_weights(model: &ModelDescription) -> Vec<(TensorName, PayloadHash)> {
    let shared = model
        .entries
        .iter()
        .filter(|(name, _)| name.expert().is_none());
    shared.map(|(name, entry)| (*name, entry.payload)).collect()
}

/// The cache's maps as the engine reads them.
pub struct SharedSource(pub Arc<SharedWeights>);

impl WeightSource for SharedSource {
    fn weight(&self, name: &TensorName) -> Option<Tensor<'_>> {
        self.0.get(name)
    }

    fn damage(&self) -> Option<LeaseError> {
        if self.0.intact() {
            return None;
        }
        let (name, _) = self.0.damaged().into_iter().next()?;
        // Not `Corrupt`: replicas would look for requests that can do without it, and there are none.
        let why = "its file was damaged while it was mapped".to_owned();
        Some(LeaseError::Unavailable { name, why })
    }
}
