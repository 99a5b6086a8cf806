//! The engine and the replicas over it.

use std::sync::Arc;

use blyan_inference::error::InferenceError;
use blyan_inference::handle::InferenceHandle;
use blyan_inference::serving::Parts;
use blyan_security::{SecurityError, SecurityHandle};
use blyan_supervisors::{ChildSpec, TreeError};

use super::Seams;
use super::engine::{PAYLOAD, StartError, engine_options, start_engine, warm};
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
    /// Nobody says what is out of service.
    #[error("{0}; `blyan audit verify` says whether the audit log is whole")]
    Security(#[from] SecurityError),
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

/// Makes the engine, maps what the cache holds of the experts, and starts the replicas. What was out of service when the
/// process ended is out again when this returns; where nobody can say what was, nothing is served.
///
/// # Errors
/// [`ServeError`], each variant.
pub async fn begin(
    config: &Config,
    port: &Port,
    security: &SecurityHandle,
    seams: &Seams,
) -> Result<(), ServeError> {
    let options = engine_options(config, &port.model, Arc::clone(&seams.probe));
    let backend = config.inference.backend;
    let engine = start_engine(options, backend, &port.model, &port.cache).await?;
    let bytes_max = config.expert_cache.bytes_max;
    warm(&port.cache, &port.model, backend.form(), bytes_max).await;
    let mut inference = config.inference.clone();
    inference.step_timeout_ms =
        u64::try_from(config.step_timeout().as_millis()).unwrap_or(u64::MAX);
    let (handle, specs) = InferenceHandle::new(Parts {
        config: inference,
        model: Arc::clone(&port.model),
        engine: (seams.around_engine)(Arc::new(engine)),
        experts: Arc::new(port.cache.table()),
        receipts: Arc::new(port.chain.clone()),
    })?;
    port.serve_with(handle, specs.iter().map(ChildSpec::child_ref).collect());
    for spec in specs {
        let replica = tree::replica(spec, &config.supervision);
        port.tree.add_child(REPLICAS, replica).await?;
    }
    security.enforce().await?;
    Ok(())
}

/// Checks the corrupt shared weights again.
pub async fn readmit_shared(port: &Port) {
    let corrupt = port.cache.status().corrupt;
    for record in corrupt
        .iter()
        .filter(|record| record.name.expert().is_none())
    {
        if let Err(error) = port.cache.readmit(record.payload, PAYLOAD).await {
            tracing::debug!(%error, "still corrupt");
        }
    }
}
