use std::time::{SystemTime, UNIX_EPOCH};

use blyan_protocol::{ChatSummary, FinishReason, RequestId};
use serde::Serialize;
use utoipa::ToSchema;

use crate::edge::port::ServedModel;
use crate::edge::replies::{Experts, Usage};

/// `chat.completion`
#[derive(Serialize, ToSchema)]
pub struct Completion {
    id: String,
    object: &'static str,
    created: u64,
    model: String,
    choices: Vec<Choice>,
    usage: Usage,
    /// The manifest's hash: which weights answered.
    system_fingerprint: String,
    /// This node's own: what the experts did.
    experts: Experts,
}

#[derive(Serialize, ToSchema)]
struct Choice {
    index: u32,
    message: AssistantMessage,
    #[schema(value_type = Option<Object>)]
    logprobs: Option<()>,
    finish_reason: &'static str,
}

#[derive(Serialize, ToSchema)]
struct AssistantMessage {
    role: &'static str,
    content: String,
    #[schema(value_type = Option<String>)]
    refusal: Option<()>,
}

impl Completion {
    /// A whole answer.
    pub fn new(model: &str, text: String, summary: &ChatSummary) -> Self {
        let message = AssistantMessage {
            role: "assistant",
            content: text,
            refusal: None,
        };
        Self {
            id: completion_id(summary.id),
            object: "chat.completion",
            created: now_s(),
            model: model.to_owned(),
            choices: vec![Choice {
                index: 0,
                message,
                logprobs: None,
                finish_reason: finish_reason(summary.finish_reason),
            }],
            usage: summary.usage.into(),
            system_fingerprint: summary.model.to_string(),
            experts: summary.experts.into(),
        }
    }
}

/// OpenAI's form of a request id.
pub fn completion_id(id: RequestId) -> String {
    format!("chatcmpl-{}", hex::encode(id.as_bytes()))
}

/// OpenAI knows no cancelled answers: what was made of it is a stop.
pub const fn finish_reason(reason: FinishReason) -> &'static str {
    match reason {
        FinishReason::Stop | FinishReason::Cancelled => "stop",
        FinishReason::Length => "length",
    }
}

/// Seconds since 1970.
pub fn now_s() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

/// `GET /v1/models`
#[derive(Serialize, ToSchema)]
pub struct ModelList {
    object: &'static str,
    data: Vec<ModelCard>,
}

/// One model.
#[derive(Serialize, ToSchema)]
pub struct ModelCard {
    id: String,
    object: &'static str,
    created: u64,
    owned_by: &'static str,
    /// The manifest's hash.
    model_id: String,
    /// Prompt and answer together, in tokens.
    context_length: u32,
    /// Experts of a layer.
    experts_per_layer: u32,
    /// Those that take part in every token.
    experts_always_on: u32,
}

impl ModelList {
    /// The one model of this node.
    pub fn of(model: &ServedModel) -> Self {
        Self {
            object: "list",
            data: vec![ModelCard::of(model)],
        }
    }
}

impl ModelCard {
    /// One model.
    pub fn of(model: &ServedModel) -> Self {
        Self {
            id: model.name.clone(),
            object: "model",
            created: model.created_ms / 1000,
            owned_by: "blyan",
            model_id: model.id.to_string(),
            context_length: model.context,
            experts_per_layer: model.experts_per_layer,
            experts_always_on: model.always_on,
        }
    }
}
