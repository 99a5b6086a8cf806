//! The engine and the replicas over it.

use std::sync::Arc;
use std::time::Duration;

use blyan_inference::error::InferenceError;
use blyan_inference::handle::InferenceHandle;
use blyan_inference::serving::Parts;
use blyan_protocol::{LeaseError, WeightForm};
use blyan_supervisors::{ChildSpec, Probe, TreeError};

use super::engine::{StartError, engine_options, start_engine};
use super::port::Port;
use super::tree::{self, REPLICAS};
use crate::config::Config;

/// Why no replica serves.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// There is no engine.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The model's tokenizer or the configuration.
    #[error(transparent)]
    Inference(#[from] InferenceError),
    /// The tree does not take the replicas.
    #[error(transparent)]
    Tree(#[from] TreeError),
}

impl ServeError {
    /// Whether mending a file mends it.
    pub fn is_corrupt(&self) -> bool {
        matches!(self, Self::Start(error) if error.is_corrupt())
    }
}

/// How long the load or the check of one payload may take.
const PAYLOAD: Duration = Duration::from_secs(30);

/// Makes the engine, maps what the cache holds of the experts, and starts the replicas.
///
/// # Errors
/// [`ServeError`], each variant.
pub async fn begin(config: &Config, port: &Port, probe: &Arc<dyn Probe>) -> Result<(), ServeError> {
    let options = engine_options(config, &port.model, Arc::clone(probe));
    let engine = start_engine(options, &port.model, &port.cache).await?;
    warm(port, config.expert_cache.bytes_max).await;
    let mut inference = config.inference.clone();
    inference.step_timeout_ms = u64::try_from(config.step_timeout().as_millis()).unwrap_or(u64::MAX);
    let (handle, specs) = InferenceHandle::new(Parts {
        config: inference,
        model: Arc::clone(&port.model),
        engine: Arc::new(engine),
        experts: Arc::new(port.cache.table()),
        receipts: Arc::new(port.chain.clone()),
    })?;
    port.serve_with(handle, specs.iter().map(ChildSpec::child_ref).collect());
    for spec in specs {
        let replica = tree::replica(spec, &config.supervision);
        port.tree.add_child(REPLICAS, replica).await?;
    }
    Ok(())
}

/// Maps experts as far as the cache's bound goes, so that no request waits for its first load. What fails is known by
/// the cache from then on, or is tried again by the request that needs it.
async fn warm(port: &Port, bytes_max: u64) {
    let shape = &port.model.architecture;
    let expert_bytes = 3 * u64::from(shape.experts.neurons) * u64::from(shape.hidden) * size_of::<f32>() as u64;
    let fitting = usize::try_from(bytes_max / expert_bytes.max(1)).unwrap_or(usize::MAX);
    let experts = port.model.entries.iter().filter(|(name, _)| name.expert().is_some());
    for (name, entry) in experts.take(fitting) {
        match port.cache.load(*name, entry.payload, WeightForm::Fp32, PAYLOAD).await {
            Ok(_) | Err(LeaseError::Corrupt { .. }) => {}
            Err(error) => return tracing::warn!(%error, "the other experts are loaded when they are needed"),
        }
    }
}

/// Checks the corrupt shared weights again.
pub async fn readmit_shared(port: &Port) {
    let corrupt = port.cache.status().corrupt;
    for record in corrupt.iter().filter(|record| record.name.expert().is_none()) {
        if let Err(error) = port.cache.readmit(record.payload, PAYLOAD).await {
            tracing::debug!(%error, "still corrupt");
        }
    }
}
