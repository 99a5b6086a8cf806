use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{BoxFuture, ErrorCode, ModelId, PublicError, RequestId};

/// How a request ended, as its receipt says it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Outcome {
    /// The model ended, a stop text was met, or `max_tokens` was reached.
    Finished,
    /// The client cancelled or went away.
    Cancelled,
    /// An error ended it.
    Failed {
        /// Its stable code.
        code: ErrorCode,
    },
}

/// The durable record of one request, written once; later payment stands on it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Receipt {
    /// The request.
    pub request_id: RequestId,
    /// The manifest that served it.
    pub model_id: ModelId,
    /// How it ended.
    pub outcome: Outcome,
    /// Tokens read.
    pub tokens_in: u32,
    /// Tokens generated.
    pub tokens_out: u32,
    /// Experts used: name to the number of tokens it computed.
    pub experts: BTreeMap<String, u64>,
    /// Admission, ms since 1970.
    pub admitted_ms: u64,
    /// The end, ms since 1970.
    pub ended_ms: u64,
}

/// Takes receipts. Recording the same request twice keeps the first.
pub trait ReceiptSink: Send + Sync {
    /// Returns once the receipt is durable.
    fn record(&self, receipt: Receipt) -> BoxFuture<'_, Result<(), PublicError>>;
}
