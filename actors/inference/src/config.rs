//! The section `inference` of the node's configuration.

use std::sync::Arc;
use std::time::Duration;

use blyan_protocol::WeightForm;
use serde::{Deserialize, Serialize};

use crate::engine::{ExpertKernel, FastKernel, ReferenceKernel};
use crate::error::InferenceError;

/// Which engine computes steps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Backend {
    /// Kernels of ours on the CPU, on weights as they are stored. Tokens never depend on what runs beside a sequence.
    #[default]
    Fast,
    /// fp32 on the CPU, multiplied by ONNX Runtime: what the others are compared with.
    Reference,
    /// ONNX Runtime's CUDA provider; refused at start where the library has none.
    Cuda,
}

impl Backend {
    /// The form in which it reads weights.
    #[must_use]
    pub const fn form(self) -> WeightForm {
        match self {
            Self::Fast => WeightForm::Stored,
            Self::Reference | Self::Cuda => WeightForm::Fp32,
        }
    }

    /// How it computes experts.
    #[must_use]
    pub fn kernel(self) -> Arc<dyn ExpertKernel> {
        match self {
            Self::Fast => Arc::new(FastKernel),
            Self::Reference | Self::Cuda => Arc::new(ReferenceKernel),
        }
    }

    /// Whether the tokens of a seeded request depend on nothing but the request and the model.
    #[must_use]
    pub const fn is_strict(self) -> bool {
        matches!(self, Self::Fast)
    }
}

/// How requests are scheduled and computed. Every key has a default.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct InferenceConfig {
    /// Which engine computes steps.
    pub backend: Backend,
    /// Refuses a backend that cannot promise that a seeded request gives the same tokens whatever is computed beside
    /// it, on any number of threads, and after a failover.
    pub strict: bool,
    /// Inference replicas, each on a thread of its own.
    pub replicas: u32,
    /// Sequences that one replica computes together.
    pub slots_per_replica: usize,
    /// Requests that may wait for a slot; one more is refused as `overloaded`.
    pub queue_len_max: usize,
    /// Prompt and answer of one request together, in tokens.
    pub context_max_tokens: usize,
    /// Tokens of a prompt read in one step.
    pub prefill_chunk_tokens: usize,
    /// Events that a stream keeps for its reader; a full stream pauses its sequence.
    pub stream_buffer_events: usize,
    /// A stream that is not read for this long ends as `slow_reader`.
    pub slow_reader_timeout_ms: u64,
    /// The longest that a request may take from admission to its end.
    pub request_timeout_ms: u64,
    /// A step that takes longer is terminated; must be below the replicas' stuck limit.
    pub step_timeout_ms: u64,
    /// Threads of one step; 0 lets ONNX Runtime decide.
    pub threads: usize,
    /// Experts per layer and token of requests that do not say; `None` is all of them.
    pub top_k_experts_default: Option<u32>,
    /// Bytes of one request's messages together.
    pub input_bytes_max: usize,
    /// `max_tokens` of requests that do not say.
    pub max_tokens_default: u32,
}

impl Default for InferenceConfig {
    fn default() -> Self {
        Self {
            backend: Backend::default(),
            strict: false,
            replicas: 2,
            slots_per_replica: 8,
            queue_len_max: 64,
            context_max_tokens: 2048,
            prefill_chunk_tokens: 128,
            stream_buffer_events: 64,
            slow_reader_timeout_ms: 30_000,
            request_timeout_ms: 300_000,
            step_timeout_ms: 4_000,
            threads: 0,
            top_k_experts_default: None,
            input_bytes_max: 256 * 1024,
            max_tokens_default: 256,
        }
    }
}

impl InferenceConfig {
    /// Checks every bound.
    ///
    /// # Errors
    /// The first key that is out of its bounds.
    pub fn validate(&self) -> Result<(), InferenceError> {
        if self.strict && !self.backend.is_strict() {
            let must = "needs inference.backend = \"fast\"".to_owned();
            return Err(InferenceError::Config {
                key: "strict",
                must,
            });
        }
        within("replicas", u64::from(self.replicas), 1, 64)?;
        within("slots_per_replica", self.slots_per_replica as u64, 1, 64)?;
        within("queue_len_max", self.queue_len_max as u64, 1, 65_536)?;
        within(
            "context_max_tokens",
            self.context_max_tokens as u64,
            2,
            1 << 20,
        )?;
        within(
            "prefill_chunk_tokens",
            self.prefill_chunk_tokens as u64,
            1,
            4096,
        )?;
        within(
            "stream_buffer_events",
            self.stream_buffer_events as u64,
            1,
            65_536,
        )?;
        within(
            "slow_reader_timeout_ms",
            self.slow_reader_timeout_ms,
            1,
            DAY_MS,
        )?;
        within("request_timeout_ms", self.request_timeout_ms, 1, DAY_MS)?;
        within("step_timeout_ms", self.step_timeout_ms, 1, DAY_MS)?;
        within("threads", self.threads as u64, 0, 1024)?;
        within("input_bytes_max", self.input_bytes_max as u64, 1, 64 << 20)?;
        within(
            "max_tokens_default",
            u64::from(self.max_tokens_default),
            1,
            1 << 20,
        )
    }

    /// Requests in the house at one time: waiting, running, or ended with a receipt that is not durable yet.
    #[must_use]
    pub fn admitted_max(&self) -> usize {
        self.queue_len_max + self.slots_per_replica * self.replicas as usize
    }

    /// [`Self::slow_reader_timeout_ms`].
    #[must_use]
    pub fn slow_reader_timeout(&self) -> Duration {
        Duration::from_millis(self.slow_reader_timeout_ms)
    }

    /// [`Self::request_timeout_ms`].
    #[must_use]
    pub fn request_timeout(&self) -> Duration {
        Duration::from_millis(self.request_timeout_ms)
    }

    /// [`Self::step_timeout_ms`].
    #[must_use]
    pub fn step_timeout(&self) -> Duration {
        Duration::from_millis(self.step_timeout_ms)
    }
}

const DAY_MS: u64 = 24 * 3600 * 1000;

fn within(key: &'static str, value: u64, min: u64, max: u64) -> Result<(), InferenceError> {
    if (min..=max).contains(&value) {
        return Ok(());
    }
    let must = format!("must be {min} to {max}, not {value}");
    Err(InferenceError::Config { key, must })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_hold() {
        InferenceConfig::default().validate().unwrap();
        let empty: InferenceConfig = serde_json::from_str("{}").unwrap();
        assert_eq!(empty, InferenceConfig::default());
    }

    #[test]
    fn unknown_keys_and_bad_bounds_are_named() {
        let unknown = serde_json::from_str::<InferenceConfig>(r#"{"replica": 3}"#);
        assert!(unknown.unwrap_err().to_string().contains("replica"));
        let none = InferenceConfig {
            replicas: 0,
            ..InferenceConfig::default()
        };
        assert_eq!(
            none.validate().unwrap_err().to_string(),
            "inference.replicas must be 1 to 64, not 0"
        );
        let promise = InferenceConfig {
            strict: true,
            backend: Backend::Reference,
            ..InferenceConfig::default()
        };
        let refusal = promise.validate().unwrap_err().to_string();
        assert!(refusal.contains("inference.strict"), "{refusal}");
    }
}
