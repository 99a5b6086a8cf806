//! What all replicas and all handles share.

use std::sync::Arc;

use blyan_formats::bodies::ExpertShape;
use blyan_protocol::{ExpertTable, ModelDescription, ModelId, ReceiptSink};

use crate::config::InferenceConfig;
use crate::core::{Limits, StepShape};
use crate::error::InferenceError;
use crate::health::ExpertHealth;
use crate::step::StepEngine;
use crate::table::{SequenceTable, TableParts};
use crate::tokenizer::ChatTokenizer;
use crate::usage::UsageBook;

/// What the wiring brings together.
pub struct Parts {
    /// The section `inference`.
    pub config: InferenceConfig,
    /// The model that is served.
    pub model: Arc<ModelDescription>,
    /// Computes the steps of all replicas.
    pub engine: Arc<dyn StepEngine>,
    /// Says which experts are corrupt.
    pub experts: Arc<dyn ExpertTable>,
    /// Keeps the receipts.
    pub receipts: Arc<dyn ReceiptSink>,
}

/// Shared by replicas and handles; outlives all restarts.
pub struct Serving {
    pub(crate) config: InferenceConfig,
    pub(crate) model: ModelId,
    pub(crate) experts: ExpertShape,
    pub(crate) context: usize,
    pub(crate) tokenizer: ChatTokenizer,
    pub(crate) engine: Arc<dyn StepEngine>,
    pub(crate) health: ExpertHealth,
    pub(crate) table: Arc<SequenceTable>,
    pub(crate) usage: Arc<UsageBook>,
}

impl Serving {
    /// Checks the configuration and builds tokenizer and table.
    ///
    /// # Errors
    /// [`InferenceError::Config`], [`InferenceError::Tokenizer`].
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn new(parts: Parts) -> Result<Arc<Self>, InferenceError> {
        let Parts {
            config,
            model,
            engine,
            experts,
            receipts,
        } = parts;
        config.validate()?;
        check_default_top_k(&config, &model.architecture.experts)?;
        let usage = Arc::new(UsageBook::default());
        let table = SequenceTable::new(TableParts {
            model: model.id,
            limits: Limits {
                admitted_max: config.admitted_max(),
                slow_reader: config.slow_reader_timeout(),
                step: config.step_timeout(),
            },
            stream_buffer_events: config.stream_buffer_events,
            receipts,
            usage: Arc::clone(&usage),
        });
        Ok(Arc::new(Self {
            context: config
                .context_max_tokens
                .min(model.architecture.context as usize),
            config,
            model: model.id,
            experts: model.architecture.experts,
            tokenizer: ChatTokenizer::new(&model.architecture)?,
            engine,
            health: ExpertHealth::new(&model, experts),
            table,
            usage,
        }))
    }

    /// All sequences.
    #[must_use]
    pub fn table(&self) -> &Arc<SequenceTable> {
        &self.table
    }

    pub(crate) fn step_shape(&self) -> StepShape {
        StepShape {
            rows_max: self.engine.rows_max().min(self.config.slots_per_replica),
            chunk_max: self
                .engine
                .chunk_max()
                .min(self.config.prefill_chunk_tokens),
        }
    }
}

fn check_default_top_k(
    config: &InferenceConfig,
    experts: &ExpertShape,
) -> Result<(), InferenceError> {
    let range = u32::from(experts.always_on)..=u32::from(experts.per_layer);
    if config
        .top_k_experts_default
        .is_none_or(|k| range.contains(&k))
    {
        return Ok(());
    }
    let must = format!(
        "must be {} to {} for this model",
        range.start(),
        range.end()
    );
    Err(InferenceError::Config {
        key: "top_k_experts_default",
        must,
    })
}
