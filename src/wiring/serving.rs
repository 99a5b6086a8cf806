//! The engine and the replicas over it.

use std::sync::Arc;

use blyan_inference::engine::Engine;
use blyan_inference::error::InferenceError;
use blyan_inference::handle::InferenceHandle;
use blyan_inference::serving::Parts;
use blyan_protocol::ModelDescription;
use blyan_security::{SecurityError, SecurityHandle};
use blyan_supervisors::{ChildSpec, TreeError};

use super::Seams;
use super::engine::{PAYLOAD, StartError, engine_options, start_engine, warm};
use super::port::{Port, Published};
use super::tree::{self, REPLICAS};
use crate::config::Config;
use crate::edge::ServedModel;

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
    let _one = port.changing.lock().await;
    let model = port.model();
    let engine = bring_up(config, port, seams, &model).await?;
    let mut inference = config.inference.clone();
    inference.step_timeout_ms =
        u64::try_from(config.step_timeout().as_millis()).unwrap_or(u64::MAX);
    let (handle, specs) = InferenceHandle::new(Parts {
        config: inference,
        model,
        engine: (seams.around_engine)(engine),
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

/// An engine for the model, with its experts mapped as far as the cache's bound goes.
async fn bring_up(
    config: &Config,
    port: &Port,
    seams: &Seams,
    model: &ModelDescription,
) -> Result<Arc<Engine>, StartError> {
    let options = engine_options(config, model, Arc::clone(&seams.probe));
    let backend = config.inference.backend;
    let mut engine = start_engine(options, backend, model, &port.cache).await?;
    if let Some(before) = port.engine.lock().upgrade() {
        engine = engine.sharing_memory_of(&before);
    }
    let bytes_max = config.expert_cache.bytes_max;
    warm(&port.cache, model, backend.form(), bytes_max).await;
    let engine = Arc::new(engine);
    *port.engine.lock() = Arc::downgrade(&engine);
    Ok(engine)
}

/// Lets a model that was published at `created_ms` answer from now on; answers that were begun before end as they
/// began. Where nothing answers yet, it will be the first. The caller holds [`Port::changing`].
///
/// # Errors
/// [`ServeError`]; the model before goes on.
pub async fn change(
    config: &Config,
    port: &Port,
    seams: &Seams,
    model: ModelDescription,
    created_ms: u64,
) -> Result<(), ServeError> {
    let served = Arc::new(served_model(&model, created_ms, config));
    let model = Arc::new(model);
    if let Some(inference) = port.inference.get() {
        let engine = bring_up(config, port, seams, &model).await?;
        let before = inference.change_model(&model, (seams.around_engine)(engine))?;
        tokio::spawn(before.end());
    }
    port.publish(Published { model, served });
    Ok(())
}

/// What the edge says of a model.
pub fn served_model(model: &ModelDescription, created_ms: u64, config: &Config) -> ServedModel {
    let shape = &model.architecture;
    let bound = u32::try_from(config.inference.context_max_tokens).unwrap_or(u32::MAX);
    ServedModel {
        id: model.id,
        name: shape.name.clone(),
        created_ms,
        experts_per_layer: shape.experts.per_layer.into(),
        always_on: shape.experts.always_on.into(),
        context: shape.context.min(bound),
    }
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
