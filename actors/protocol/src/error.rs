use std::fmt;

use serde::{Deserialize, Serialize};

/// Every stable error code that a caller can meet, with its HTTP status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// The request's body, query or headers are malformed.
    InvalidRequest,
    /// `top_k_experts` is below the always-on experts or above the experts of a layer.
    InvalidTopK,
    /// Prompt and `max_tokens` do not fit the context.
    ContextTooLong,
    /// The key is missing or wrong.
    Unauthorized,
    /// The Host or Origin is not allowed.
    Forbidden,
    /// Nothing is there under that path or name.
    NotFound,
    /// The path is there, but not for that HTTP method.
    MethodNotAllowed,
    /// The model asked for is not served here.
    ModelNotFound,
    /// The body is larger than the limit.
    PayloadTooLarge,
    /// The request does not fit the state of what it is about.
    Conflict,
    /// An uploaded block or its payload breaks a rule.
    UploadRefused,
    /// What one key, or all together, may have is used up.
    QuotaExceeded,
    /// The node's disk is full: it reads, and writes nothing.
    StorageFull,
    /// The queue is full.
    Overloaded,
    /// The part that must answer is restarting.
    Unavailable,
    /// The part that must answer is quarantined.
    Quarantined,
    /// An expert that the request needs fails its hash.
    ExpertCorrupt,
    /// An expert does not fit the cache's bound, or its weights are not there.
    ExpertUnavailable,
    /// The request failed in every step that it was part of.
    PoisonedRequest,
    /// The deadline passed.
    Timeout,
    /// The node is shutting down.
    ShuttingDown,
    /// The chain goes back to a snapshot; the node is back soon, as it was then.
    RollingBack,
    /// The client did not read its stream for too long.
    SlowReader,
    /// A fault of the node.
    Internal,
}

impl ErrorCode {
    /// The HTTP status that goes with the code.
    pub const fn status(self) -> u16 {
        match self {
            Self::InvalidRequest | Self::InvalidTopK | Self::ContextTooLong => 400,
            Self::Unauthorized => 401,
            Self::Forbidden => 403,
            Self::NotFound | Self::ModelNotFound => 404,
            Self::MethodNotAllowed => 405,
            Self::Conflict => 409,
            Self::PayloadTooLarge => 413,
            Self::UploadRefused => 422,
            Self::QuotaExceeded | Self::Overloaded => 429,
            Self::PoisonedRequest | Self::Internal => 500,
            Self::Unavailable
            | Self::Quarantined
            | Self::ExpertCorrupt
            | Self::ExpertUnavailable
            | Self::ShuttingDown
            | Self::RollingBack => 503,
            Self::Timeout => 504,
            Self::StorageFull => 507,
            Self::SlowReader => 408,
        }
    }

    /// The stable name, as in JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::InvalidRequest => "invalid_request",
            Self::InvalidTopK => "invalid_top_k",
            Self::ContextTooLong => "context_too_long",
            Self::Unauthorized => "unauthorized",
            Self::Forbidden => "forbidden",
            Self::NotFound => "not_found",
            Self::MethodNotAllowed => "method_not_allowed",
            Self::ModelNotFound => "model_not_found",
            Self::PayloadTooLarge => "payload_too_large",
            Self::Conflict => "conflict",
            Self::UploadRefused => "upload_refused",
            Self::QuotaExceeded => "quota_exceeded",
            Self::StorageFull => "storage_full",
            Self::Overloaded => "overloaded",
            Self::Unavailable => "unavailable",
            Self::Quarantined => "quarantined",
            Self::ExpertCorrupt => "expert_corrupt",
            Self::ExpertUnavailable => "expert_unavailable",
            Self::PoisonedRequest => "poisoned_request",
            Self::Timeout => "timeout",
            Self::ShuttingDown => "shutting_down",
            Self::RollingBack => "rolling_back",
            Self::SlowReader => "slow_reader",
            Self::Internal => "internal",
        }
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The expert that an error is about: its name, and the hash of its block's payload in hex.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExpertFault {
    /// For example `layer4.expert7`.
    pub name: String,
    /// 64 hex digits.
    pub hash: String,
}

/// The one shape of every error that leaves the node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{code}: {message}")]
pub struct PublicError {
    /// Stable, for programs.
    pub code: ErrorCode,
    /// One sentence for a person.
    pub message: String,
    /// What to do next.
    pub hint: String,
    /// When another try makes sense.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub retry_after_ms: Option<u64>,
    /// The expert at fault, where there is one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub expert: Option<ExpertFault>,
}

impl PublicError {
    /// An error of `code` with its sentence and what to do.
    pub fn new(code: ErrorCode, message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            hint: hint.into(),
            retry_after_ms: None,
            expert: None,
        }
    }

    /// Adds when another try makes sense.
    pub fn retry_after_ms(mut self, ms: u64) -> Self {
        self.retry_after_ms = Some(ms);
        self
    }

    /// Adds the expert at fault.
    pub fn about_expert(mut self, expert: ExpertFault) -> Self {
        self.expert = Some(expert);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_json_name_is_the_stable_name() {
        for code in [
            ErrorCode::InvalidTopK,
            ErrorCode::ExpertCorrupt,
            ErrorCode::SlowReader,
            ErrorCode::RollingBack,
        ] {
            let json = serde_json::to_string(&code).unwrap();
            assert_eq!(json, format!("\"{}\"", code.as_str()));
        }
    }
}
