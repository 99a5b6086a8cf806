//! What all replicas and all handles share.

use std::sync::Arc;

use arc_swap::ArcSwap;
use blyan_formats::bodies::ExpertShape;
use blyan_protocol::{ExpertTable, ModelDescription, ReceiptSink};
use parking_lot::Mutex;

use crate::config::InferenceConfig;
use crate::core::{Limits, StepShape};
use crate::edition::{Edition, Retired};
use crate::error::InferenceError;
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
    pub(crate) context: usize,
    pub(crate) tokenizer: ChatTokenizer,
    /// What answers new requests.
    pub(crate) edition: ArcSwap<Edition>,
    /// One change at a time.
    changing: Mutex<()>,
    experts: Arc<dyn ExpertTable>,
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
            tokenizer: ChatTokenizer::new(&model.architecture)?,
            edition: ArcSwap::new(Edition::new(0, &model, engine, Arc::clone(&experts))),
            changing: Mutex::default(),
            experts,
            table,
            usage,
        }))
    }

    /// All sequences.
    #[must_use]
    pub fn table(&self) -> &Arc<SequenceTable> {
        &self.table
    }

    /// Lets `model` answer from now on; what was begun before ends as it began.
    ///
    /// # Errors
    /// [`InferenceError::OtherArchitecture`].
    pub(crate) fn change_model(
        &self,
        model: &ModelDescription,
        engine: Arc<dyn StepEngine>,
    ) -> Result<Retired, InferenceError> {
        let _one = self.changing.lock();
        let before = self.edition.load();
        let same = before.shape() == model.architecture.experts
            && before.engine.vocabulary() == engine.vocabulary();
        if !same {
            return Err(InferenceError::OtherArchitecture);
        }
        let experts = Arc::clone(&self.experts);
        let next = Edition::new(before.number + 1, model, engine, experts);
        Ok(Retired(self.edition.swap(next)))
    }

    pub(crate) fn step_shape(&self, engine: &dyn StepEngine) -> StepShape {
        StepShape {
            rows_max: engine.rows_max().min(self.config.slots_per_replica),
            chunk_max: engine.chunk_max().min(self.config.prefill_chunk_tokens),
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
