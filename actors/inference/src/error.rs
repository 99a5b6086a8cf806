//! Why a part of this crate cannot be built or used; what a client sees is a `PublicError`.

use blyan_formats::error::ErrorClass;

use crate::step::StepError;

/// Every way in which building or driving inference fails.
#[derive(Debug, thiserror::Error)]
pub enum InferenceError {
    /// A configuration value is out of its bounds.
    #[error("inference.{key} {must}")]
    Config {
        /// The key below `inference`.
        key: &'static str,
        /// What must hold, as in `must be at least 1`.
        must: String,
    },
    /// The architecture's tokenizer cannot be built.
    #[error("the tokenizer cannot be built: {0}")]
    Tokenizer(String),
    /// A model of another architecture cannot take over while its predecessor answers.
    #[error("the model has another architecture than the one that answers")]
    OtherArchitecture,
    /// A text could not be turned into tokens.
    #[error("the text cannot be tokenised: {0}")]
    Encode(String),
    /// The request is not acceptable.
    #[error("{0}")]
    Request(blyan_protocol::PublicError),
    /// A step failed.
    #[error(transparent)]
    Step(#[from] StepError),
    /// The step gave logits from which nothing can be drawn (none, or nothing but NaN).
    #[error("the model gave no usable logits")]
    NoLogits,
}

impl InferenceError {
    /// What a supervisor must do with it.
    #[must_use]
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Config { .. } | Self::OtherArchitecture | Self::Encode(_) | Self::Request(_) => {
                ErrorClass::Rejected
            }
            Self::Tokenizer(_) | Self::NoLogits => ErrorClass::Fatal,
            Self::Step(StepError::Expert(blyan_protocol::LeaseError::Corrupt { .. })) => {
                ErrorClass::Corrupt
            }
            Self::Step(StepError::Invalid(_)) => ErrorClass::Rejected,
            Self::Step(_) => ErrorClass::Transient,
        }
    }
}
