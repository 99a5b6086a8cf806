use serde::{Deserialize, Serialize};

use crate::{ModelId, PublicError, RequestId};

/// Who speaks in a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Instructions for the model.
    System,
    /// The person.
    User,
    /// The model.
    Assistant,
}

/// One turn of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Message {
    /// Who speaks.
    pub role: Role,
    /// What is said.
    pub content: String,
}

/// How the next token is drawn. The draw is a function of (seed, position), never of other requests.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampling {
    /// 0 is greedy; otherwise 0 < temperature <= 2.
    pub temperature: f32,
    /// Nucleus: 0 < top_p <= 1.
    pub top_p: f32,
    /// Keep only the k most likely tokens; `None` keeps all.
    pub top_k: Option<u32>,
    /// Same seed, same draws.
    pub seed: u64,
}

/// A chat request as the InferenceActor takes it: every bound already checked by `ChatRequest::validate`
/// of the inference crate against the model at hand.
#[derive(Clone, Debug, PartialEq)]
pub struct ChatRequest {
    /// Names the request and its receipt.
    pub id: RequestId,
    /// At least one message.
    pub messages: Vec<Message>,
    /// At most this many tokens are generated; at least 1.
    pub max_tokens: u32,
    /// How tokens are drawn.
    pub sampling: Sampling,
    /// Generation ends before the first of these texts; at most 4 of at most 64 bytes.
    pub stop: Vec<String>,
    /// Experts per layer and token, the always-on ones included; `None` is all of them.
    pub top_k_experts: Option<u32>,
}

/// Why a generation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FinishReason {
    /// The model's end token, or a stop text.
    Stop,
    /// `max_tokens` or the context is used up.
    Length,
    /// The client cancelled or went away.
    Cancelled,
}

/// Tokens of one request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Tokens of the prompt in its chat template.
    pub prompt_tokens: u32,
    /// Tokens generated, the end token included.
    pub completion_tokens: u32,
    /// Their sum.
    pub total_tokens: u32,
}

/// What the experts did for one request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExpertsUsed {
    /// Experts per layer and token that were asked for.
    pub top_k: u32,
    /// Distinct experts used, over all layers.
    pub used: u32,
    /// Experts that had to be loaded for this request.
    pub loaded: u32,
}

/// Where a request's time went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Timing {
    /// From admission to the first step, in ms.
    pub queue_ms: f64,
    /// Steps that read the prompt, in ms.
    pub prefill_ms: f64,
    /// Steps after the first token, in ms.
    pub decode_ms: f64,
    /// Generated tokens after the first, over `decode_ms`; 0 with fewer than two tokens.
    pub tokens_per_second: f64,
}

/// One generated token on its way to the client.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenEvent {
    /// 0 for the first token of the answer; without gaps.
    pub index: u32,
    /// Whole characters only; may be empty when a character is not complete yet.
    pub text: String,
    /// Since the first token.
    pub tokens_per_second: f64,
}

/// How a request ended.
#[derive(Clone, Debug, PartialEq)]
pub struct ChatSummary {
    /// The request.
    pub id: RequestId,
    /// The model that answered.
    pub model: ModelId,
    /// Why it ended.
    pub finish_reason: FinishReason,
    /// Tokens in and out.
    pub usage: Usage,
    /// Experts used.
    pub experts: ExpertsUsed,
    /// Where the time went.
    pub timing: Timing,
}

/// What a running request tells its caller: tokens in order, then exactly one `Ended` or `Failed`.
#[derive(Clone, Debug, PartialEq)]
pub enum ChatEvent {
    /// Admitted; how many tokens the prompt has.
    Started {
        /// Tokens of the prompt in its chat template.
        prompt_tokens: u32,
        /// The bound on generated tokens after clamping to the context.
        max_tokens: u32,
    },
    /// The next token.
    Token(TokenEvent),
    /// The end, after its receipt is durable.
    Ended(ChatSummary),
    /// The end by an error.
    Failed(PublicError),
}
