//! What answers a request from its first token to its last: one published model.

use std::sync::Arc;
use std::time::Duration;

use blyan_formats::bodies::ExpertShape;
use blyan_protocol::{ExpertTable, ModelDescription, ModelId};

use crate::health::ExpertHealth;
use crate::step::StepEngine;

/// Between two looks at whether a retired model still answers.
const LOOK: Duration = Duration::from_millis(20);

/// A published model and the engine over its weights. A sequence keeps the edition that it began with, so that no answer
/// mixes two models; replicas compute those of one edition at a time.
pub(crate) struct Edition {
    /// Counts up from 0: the order in which editions came.
    pub(crate) number: u64,
    pub(crate) model: ModelId,
    pub(crate) engine: Arc<dyn StepEngine>,
    pub(crate) health: ExpertHealth,
}

impl Edition {
    pub(crate) fn new(
        number: u64,
        model: &ModelDescription,
        engine: Arc<dyn StepEngine>,
        experts: Arc<dyn ExpertTable>,
    ) -> Arc<Self> {
        Arc::new(Self {
            number,
            model: model.id,
            engine,
            health: ExpertHealth::new(model, experts),
        })
    }

    pub(crate) fn shape(&self) -> ExpertShape {
        self.health.shape()
    }
}

/// A model that takes no more requests. Dropping it lets the last of its answers free its engine.
pub struct Retired(pub(crate) Arc<Edition>);

impl Retired {
    /// The model.
    #[must_use]
    pub fn model(&self) -> ModelId {
        self.0.model
    }

    /// Waits until its last answer has ended and frees its engine, away from the threads that answer.
    pub async fn end(self) {
        while Arc::strong_count(&self.0) > 1 {
            tokio::time::sleep(LOOK).await;
        }
        let freed = tokio::task::spawn_blocking(move || drop(self)).await;
        if let Err(error) = freed {
            tracing::error!(%error, "an engine was not freed in order");
        }
    }
}
