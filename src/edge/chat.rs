//! `POST /chat` and `GET|POST /chat/stream`.

use std::fmt;
use std::future::{Ready, ready};

use actix_web::dev::Payload;
use actix_web::{FromRequest, HttpRequest, HttpResponse, web};
use blyan_inference::validate::STOPS_MAX;
use blyan_protocol::{
    ChatEvent, ChatRequest, ChatSummary, ErrorCode, FinishReason, Message, PublicError, RequestId,
    Role, Sampling,
};
use serde::de::{Deserializer, Error, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{OneOfBuilder, Schema};
use utoipa::{IntoParams, PartialSchema, ToSchema};

use super::error::{ApiError, ErrorBody, invalid};
use super::replies::{Experts, Timing, Usage};
use super::sse;
use super::state::{EdgeState, new_request_id, new_seed};
use super::stream::Session;
use crate::config::Config;

/// What a request gets that does not say otherwise.
#[derive(Clone, Copy, Debug)]
pub struct ChatDefaults {
    /// Generated tokens, at most.
    pub max_tokens: u32,
    /// 0 is greedy.
    pub temperature: f32,
    /// Nucleus.
    pub top_p: f32,
}

impl From<&Config> for ChatDefaults {
    fn from(config: &Config) -> Self {
        Self {
            max_tokens: config.inference.max_tokens_default,
            temperature: config.chat.temperature,
            top_p: config.chat.top_p,
        }
    }
}

/// One text, or several in an array.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StopTexts(pub Vec<String>);

/// Not derived: an untagged enum is read into a tree first that is many times as large as its JSON.
impl<'de> Deserialize<'de> for StopTexts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(StopVisitor)
    }
}

struct StopVisitor;

impl<'de> Visitor<'de> for StopVisitor {
    type Value = StopTexts;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("stop is a text or an array of texts")
    }

    fn visit_str<E>(self, text: &str) -> Result<StopTexts, E> {
        Ok(StopTexts(vec![text.to_owned()]))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<StopTexts, A::Error> {
        let mut texts = Vec::new();
        while let Some(text) = list.next_element()? {
            if texts.len() == STOPS_MAX {
                return Err(A::Error::custom(format_args!(
                    "stop takes {STOPS_MAX} texts at most"
                )));
            }
            texts.push(text);
        }
        Ok(StopTexts(texts))
    }
}

impl PartialSchema for StopTexts {
    fn schema() -> RefOr<Schema> {
        let either = OneOfBuilder::new()
            .item(String::schema())
            .item(Vec::<String>::schema());
        either
            .description(Some("One text, or up to four in an array."))
            .into()
    }
}

impl ToSchema for StopTexts {}

/// What `POST /chat`, `POST /chat/stream` and the WebSocket's `start` take. Unknown fields are refused.
#[derive(Clone, Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ChatBody {
    /// One user message; instead of `messages`.
    pub prompt: Option<String>,
    /// The conversation; instead of `prompt`.
    #[schema(value_type = Option<Vec<Object>>)]
    pub messages: Option<Vec<Message>>,
    /// Generated tokens, at most.
    pub max_tokens: Option<u32>,
    /// 0 is greedy; at most 2.
    pub temperature: Option<f32>,
    /// Above 0, at most 1.
    pub top_p: Option<f32>,
    /// Same seed, same draws.
    pub seed: Option<u64>,
    /// Generation ends before the first of these texts.
    pub stop: Option<StopTexts>,
    /// False: all experts.
    pub use_moe: Option<bool>,
    /// Experts per layer and token, the always-on ones included.
    pub top_k_experts: Option<u32>,
}

/// The query of `GET /chat/stream`, as `ChatBody`.
#[derive(Clone, Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct ChatQuery {
    /// One user message.
    prompt: String,
    /// Generated tokens, at most.
    max_tokens: Option<u32>,
    /// 0 is greedy; at most 2.
    temperature: Option<f32>,
    /// Above 0, at most 1.
    top_p: Option<f32>,
    /// Same seed, same draws.
    seed: Option<u64>,
    /// Generation ends before this text.
    stop: Option<String>,
    /// False: all experts.
    use_moe: Option<bool>,
    /// Experts per layer and token.
    top_k_experts: Option<u32>,
}

impl From<ChatQuery> for ChatBody {
    fn from(query: ChatQuery) -> Self {
        Self {
            prompt: Some(query.prompt),
            messages: None,
            max_tokens: query.max_tokens,
            temperature: query.temperature,
            top_p: query.top_p,
            seed: query.seed,
            stop: query.stop.map(|text| StopTexts(vec![text])),
            use_moe: query.use_moe,
            top_k_experts: query.top_k_experts,
        }
    }
}

impl ChatBody {
    /// The request that it asks for. Bounds that depend on the model are checked by whoever admits it.
    pub fn into_request(self, defaults: &ChatDefaults) -> Result<ChatRequest, PublicError> {
        let top_k_experts = self.top_k()?;
        let messages = conversation(self.prompt, self.messages)?;
        let seed = self.seed.map_or_else(new_seed, Ok)?;
        Ok(ChatRequest {
            id: new_request_id()?,
            messages,
            max_tokens: self.max_tokens.unwrap_or(defaults.max_tokens),
            sampling: Sampling {
                temperature: self.temperature.unwrap_or(defaults.temperature),
                top_p: self.top_p.unwrap_or(defaults.top_p),
                top_k: None,
                seed,
            },
            stop: self.stop.map_or_else(Vec::new, |stop| stop.0),
            top_k_experts,
        })
    }

    fn top_k(&self) -> Result<Option<u32>, PublicError> {
        match (self.use_moe, self.top_k_experts) {
            (Some(false), Some(_)) => Err(invalid(
                "use_moe: false means all experts and cannot stand beside top_k_experts.",
            )),
            (_, top_k) => Ok(top_k),
        }
    }
}

fn conversation(
    prompt: Option<String>,
    messages: Option<Vec<Message>>,
) -> Result<Vec<Message>, PublicError> {
    match (prompt, messages) {
        (Some(content), None) => Ok(vec![Message {
            role: Role::User,
            content,
        }]),
        (None, Some(messages)) if !messages.is_empty() => Ok(messages),
        (None, Some(_)) => Err(invalid("messages is empty.")),
        (Some(_), Some(_)) => Err(invalid("prompt and messages cannot stand together.")),
        (None, None) => Err(invalid("Either prompt or messages is needed.")),
    }
}

/// What `POST /chat` answers.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct ChatReply {
    /// As in the receipt.
    #[schema(value_type = String)]
    pub request_id: RequestId,
    /// The model's name.
    pub model: String,
    /// The manifest's hash.
    pub model_id: String,
    /// The answer.
    pub text: String,
    /// `stop` or `length`.
    #[schema(value_type = String)]
    pub finish_reason: FinishReason,
    /// Tokens in and out.
    pub usage: Usage,
    /// What the experts did.
    pub experts: Experts,
    /// Where the time went.
    pub timing: Timing,
}

/// Proof that the caller may chat.
pub struct MayChat;

impl FromRequest for MayChat {
    type Error = ApiError;
    type Future = Ready<Result<Self, ApiError>>;

    fn from_request(request: &HttpRequest, _payload: &mut Payload) -> Self::Future {
        let allowed = request
            .app_data::<web::Data<EdgeState>>()
            .is_some_and(|state| state.keys.may_chat(request));
        ready(if allowed {
            Ok(Self)
        } else {
            Err(ApiError::for_path(request.path(), unauthorized()))
        })
    }
}

fn unauthorized() -> PublicError {
    PublicError::new(
        ErrorCode::Unauthorized,
        "This node answers with an API key only, and the request brings none that it knows.",
        "Send the key as X-API-Key or as Authorization: Bearer.",
    )
}

/// The whole answer of a session.
pub async fn collect(mut session: Session) -> Result<(String, ChatSummary), PublicError> {
    let mut text = String::new();
    loop {
        match session.next().await {
            ChatEvent::Started { .. } => {}
            ChatEvent::Token(token) => text.push_str(&token.text),
            ChatEvent::Ended(summary) => return Ok((text, summary)),
            ChatEvent::Failed(error) => return Err(error),
        }
    }
}

/// One answer, whole.
#[utoipa::path(post, path = "/chat", tag = "chat", request_body = ChatBody, responses(
    (status = 200, body = ChatReply),
    (status = 400, body = ErrorBody, description = "malformed, or beyond the model's bounds"),
    (status = 429, body = ErrorBody, description = "all places taken; see Retry-After"),
    (status = 503, body = ErrorBody, description = "a part is down, quarantined or an expert is corrupt"),
))]
pub async fn chat(
    _key: MayChat,
    state: web::Data<EdgeState>,
    body: web::Json<ChatBody>,
) -> Result<HttpResponse, ApiError> {
    let request = body.into_inner().into_request(&state.chat)?;
    let id = request.id;
    let reply = answer(&state, request).await;
    Ok(HttpResponse::Ok().json(reply.map_err(|error| ApiError::new(error).of_request(id))?))
}

async fn answer(state: &EdgeState, request: ChatRequest) -> Result<ChatReply, PublicError> {
    let session = state.open(request).await?;
    let (request_id, model) = (session.id(), session.model().name.clone());
    let (text, summary) = collect(session).await?;
    Ok(ChatReply {
        request_id,
        model,
        model_id: summary.model.to_string(),
        text,
        finish_reason: summary.finish_reason,
        usage: summary.usage.into(),
        experts: summary.experts.into(),
        timing: summary.timing.into(),
    })
}

/// One answer as Server-Sent Events: `stream_start`, `token`, `stream_end`, `error`.
#[utoipa::path(post, path = "/chat/stream", tag = "chat", request_body = ChatBody, responses(
    (status = 200, content_type = "text/event-stream", description = "StreamStart, StreamToken, StreamEnd as data"),
    (status = 400, body = ErrorBody),
    (status = 503, body = ErrorBody),
))]
pub async fn stream(
    _key: MayChat,
    state: web::Data<EdgeState>,
    body: web::Json<ChatBody>,
) -> Result<HttpResponse, ApiError> {
    streamed(&state, body.into_inner()).await
}

/// As `POST /chat/stream`, for an `EventSource`. The prompt then stands in logs of proxies: POST is better.
#[utoipa::path(get, path = "/chat/stream", tag = "chat", params(ChatQuery), responses(
    (status = 200, content_type = "text/event-stream"),
    (status = 204, description = "a reconnection: the stream that ended is not begun again"),
))]
pub async fn stream_by_query(
    _key: MayChat,
    state: web::Data<EdgeState>,
    request: HttpRequest,
    query: web::Query<ChatQuery>,
) -> Result<HttpResponse, ApiError> {
    if request.headers().contains_key("last-event-id") {
        return Ok(HttpResponse::NoContent().finish());
    }
    streamed(&state, query.into_inner().into()).await
}

async fn streamed(state: &EdgeState, body: ChatBody) -> Result<HttpResponse, ApiError> {
    let request = body.into_request(&state.chat)?;
    let id = request.id;
    let failed = |error| ApiError::new(error).of_request(id);
    let mut session = state.open(request).await.map_err(failed)?;
    session.settle().await.map_err(failed)?;
    Ok(sse::respond(state, session, sse::NodeEvents))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEFAULTS: ChatDefaults = ChatDefaults {
        max_tokens: 9,
        temperature: 0.5,
        top_p: 0.9,
    };

    fn parse(json: &str) -> Result<ChatRequest, String> {
        let body: ChatBody = serde_json::from_str(json).map_err(|error| error.to_string())?;
        body.into_request(&DEFAULTS).map_err(|error| error.message)
    }

    #[test]
    fn a_prompt_is_one_user_message_with_the_defaults() {
        let request = parse(r#"{"prompt": "hi"}"#).unwrap();
        assert_eq!(request.messages.len(), 1);
        assert_eq!(request.messages[0].role, Role::User);
        assert_eq!((request.max_tokens, request.sampling.temperature), (9, 0.5));
        assert_eq!(request.top_k_experts, None);
    }

    #[test]
    fn ids_and_seeds_differ_where_none_is_given() {
        let (a, b) = (
            parse(r#"{"prompt": "x"}"#).unwrap(),
            parse(r#"{"prompt": "x"}"#).unwrap(),
        );
        assert_ne!(a.id, b.id);
        assert_ne!(a.sampling.seed, b.sampling.seed);
        assert_eq!(
            parse(r#"{"prompt": "x", "seed": 7}"#)
                .unwrap()
                .sampling
                .seed,
            7
        );
    }

    #[test]
    fn what_does_not_belong_together_is_refused() {
        let refused = [
            (r#"{}"#, "Either prompt or messages"),
            (r#"{"messages": []}"#, "empty"),
            (
                r#"{"prompt": "a", "messages": [{"role": "user", "content": "b"}]}"#,
                "together",
            ),
            (
                r#"{"prompt": "a", "use_moe": false, "top_k_experts": 12}"#,
                "use_moe",
            ),
            (r#"{"prompt": "a", "modle": "x"}"#, "modle"),
            (r#"{"prompt": "a", "stop": 3}"#, "stop is a text"),
            (
                r#"{"messages": [{"role": "robot", "content": "b"}]}"#,
                "robot",
            ),
        ];
        for (json, expected) in refused {
            let fault = parse(json).unwrap_err();
            assert!(fault.contains(expected), "{json}: {fault}");
        }
    }

    #[test]
    fn stop_is_one_text_or_several() {
        assert_eq!(
            parse(r#"{"prompt": "a", "stop": "x"}"#).unwrap().stop,
            ["x"]
        );
        assert_eq!(
            parse(r#"{"prompt": "a", "stop": ["x", "y"]}"#)
                .unwrap()
                .stop,
            ["x", "y"]
        );
    }
}
