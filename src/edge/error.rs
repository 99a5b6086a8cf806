//! One JSON shape for every error, and OpenAI's for paths under `/v1/`.

use std::fmt::{self, Write};

use actix_web::error::{JsonPayloadError, PathError, QueryPayloadError};
use actix_web::http::{StatusCode, header};
use actix_web::{HttpRequest, HttpResponse, ResponseError};
use blyan_protocol::{ErrorCode, PublicError, RequestId};
use serde::Serialize;
use utoipa::ToSchema;

/// Where a caller without a key is sent (AUTH-09).
const GET_KEY: &str = "/auth/register";
/// Bytes of a sentence that quotes its request, about.
const SENTENCE_BYTES_MAX: usize = 300;
/// Waited for where a refusal does not say how long.
const RETRY_AFTER_DEFAULT_MS: u64 = 1000;

/// An error on its way to the client.
#[derive(Debug)]
pub struct ApiError {
    error: PublicError,
    request_id: Option<RequestId>,
    param: Option<&'static str>,
    openai: bool,
}

/// `{"error": {...}}`
#[derive(Serialize, ToSchema)]
pub struct ErrorBody {
    error: ErrorDetail,
    /// Where a key can be had; only with 401.
    #[serde(skip_serializing_if = "Option::is_none")]
    get_key: Option<&'static str>,
}

/// What went wrong.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct ErrorDetail {
    /// Stable, for programs.
    #[schema(value_type = String, example = "expert_corrupt")]
    code: ErrorCode,
    /// One sentence for a person.
    message: String,
    /// What to do next.
    hint: String,
    /// When another try makes sense.
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after_ms: Option<u64>,
    /// The expert at fault: its name and its payload's hash.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    expert: Option<blyan_protocol::ExpertFault>,
    /// The request, as in its receipt.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    request_id: Option<RequestId>,
}

impl ErrorDetail {
    /// The shape of `error` in replies, stream events and WebSocket messages.
    pub fn new(error: &PublicError, request_id: Option<RequestId>) -> Self {
        Self {
            code: error.code,
            message: error.message.clone(),
            hint: error.hint.clone(),
            retry_after_ms: error.retry_after_ms,
            expert: error.expert.clone(),
            request_id,
        }
    }

    /// The same error as OpenAI clients read it.
    pub fn for_openai(&self) -> OpenAiErrorBody {
        OpenAiErrorBody::of(self.code, &self.message, &self.hint, None)
    }
}

/// OpenAI's `{"error": {...}}`
#[derive(Serialize, ToSchema)]
pub struct OpenAiErrorBody {
    error: OpenAiErrorDetail,
}

/// OpenAI's error object.
#[derive(Serialize, ToSchema)]
pub struct OpenAiErrorDetail {
    message: String,
    r#type: &'static str,
    param: Option<&'static str>,
    code: &'static str,
}

impl OpenAiErrorBody {
    /// The error as OpenAI clients read it, with the hint in its message.
    fn of(code: ErrorCode, message: &str, hint: &str, param: Option<&'static str>) -> Self {
        let r#type = match code.status() {
            401 => "authentication_error",
            403 => "permission_error",
            429 => "rate_limit_error",
            400..=499 => "invalid_request_error",
            503 => "service_unavailable_error",
            _ => "server_error",
        };
        Self {
            error: OpenAiErrorDetail {
                message: format!("{message} {hint}"),
                r#type,
                param,
                code: code.as_str(),
            },
        }
    }
}

impl ApiError {
    /// In the node's own shape.
    pub fn new(error: PublicError) -> Self {
        Self {
            error,
            request_id: None,
            param: None,
            openai: false,
        }
    }

    /// In the shape of the path that was asked for.
    pub fn for_path(path: &str, error: PublicError) -> Self {
        Self {
            openai: path.starts_with("/v1/"),
            ..Self::new(error)
        }
    }

    /// In OpenAI's shape, with the field at fault.
    pub fn openai(error: PublicError, param: Option<&'static str>) -> Self {
        Self {
            param,
            openai: true,
            ..Self::new(error)
        }
    }

    /// Names the request.
    pub fn of_request(mut self, id: RequestId) -> Self {
        self.request_id = Some(id);
        self
    }

    fn retry_after_s(&self) -> Option<u64> {
        let retried = matches!(self.error.code.status(), 429 | 503);
        let ms = self.error.retry_after_ms.unwrap_or(RETRY_AFTER_DEFAULT_MS);
        retried.then(|| ms.div_ceil(1000).max(1))
    }
}

impl From<PublicError> for ApiError {
    fn from(error: PublicError) -> Self {
        Self::new(error)
    }
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl ResponseError for ApiError {
    fn status_code(&self) -> StatusCode {
        StatusCode::from_u16(self.error.code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    fn error_response(&self) -> HttpResponse {
        super::metrics::refused(self.error.code);
        let mut reply = HttpResponse::build(self.status_code());
        if let Some(seconds) = self.retry_after_s() {
            reply.insert_header((header::RETRY_AFTER, seconds.to_string()));
        }
        let unauthorized = self.error.code == ErrorCode::Unauthorized;
        if unauthorized {
            reply.insert_header((header::WWW_AUTHENTICATE, "Bearer"));
        }
        if self.openai {
            let PublicError {
                code,
                message,
                hint,
                ..
            } = &self.error;
            return reply.json(OpenAiErrorBody::of(*code, message, hint, self.param));
        }
        reply.json(ErrorBody {
            error: ErrorDetail::new(&self.error, self.request_id),
            get_key: unauthorized.then_some(GET_KEY),
        })
    }
}

/// A request that is malformed in the named way. What it quotes of the request is cut where it gets long.
pub fn invalid(message: impl fmt::Display) -> PublicError {
    PublicError::new(
        ErrorCode::InvalidRequest,
        clipped(message),
        "Correct the request; /docs describes every field.",
    )
}

/// The sentence, cut where it gets long: the fault of a parser names the field or the text that it stumbled over, whole.
pub fn clipped(sentence: impl fmt::Display) -> String {
    let mut clip = Clip(String::new());
    // Fails where the sentence is cut.
    let _ = write!(clip, "{sentence}");
    clip.0
}

struct Clip(String);

impl fmt::Write for Clip {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = SENTENCE_BYTES_MAX - self.0.len();
        let taken = (0..=room.min(text.len()))
            .rev()
            .find(|end| text.is_char_boundary(*end))
            .unwrap_or(0);
        self.0.push_str(&text[..taken]);
        if taken == text.len() {
            return Ok(());
        }
        self.0.push('\u{2026}');
        Err(fmt::Error)
    }
}

/// Nothing under that path.
pub async fn not_found(request: HttpRequest) -> Result<HttpResponse, ApiError> {
    let message = clipped(format_args!("There is nothing at {}.", request.path()));
    let error = PublicError::new(ErrorCode::NotFound, message, "See /docs for every path.");
    Err(ApiError::for_path(request.path(), error))
}

/// The path exists, but not for that method.
pub async fn method_not_allowed(request: HttpRequest) -> Result<HttpResponse, ApiError> {
    let message = clipped(format_args!(
        "{} does not take {}.",
        request.path(),
        request.method()
    ));
    let hint = "See /docs for the methods of every path.";
    let error = PublicError::new(ErrorCode::MethodNotAllowed, message, hint);
    Err(ApiError::for_path(request.path(), error))
}

/// A body that is no JSON of the expected shape.
pub fn of_json(error: JsonPayloadError, request: &HttpRequest) -> actix_web::Error {
    let public = match &error {
        JsonPayloadError::Overflow { .. } | JsonPayloadError::OverflowKnownLength { .. } => {
            too_large()
        }
        JsonPayloadError::ContentType => {
            invalid("The body must be sent as content-type application/json.")
        }
        JsonPayloadError::Deserialize(fault) => {
            invalid(format_args!("The body is not as expected: {fault}."))
        }
        other => invalid(format_args!("The body cannot be read: {other}.")),
    };
    ApiError::for_path(request.path(), public).into()
}

/// A query string of another shape than expected.
pub fn of_query(error: QueryPayloadError, request: &HttpRequest) -> actix_web::Error {
    let public = invalid(format_args!("The query is not as expected: {error}."));
    ApiError::for_path(request.path(), public).into()
}

/// A path segment of another shape than expected.
pub fn of_path(error: PathError, request: &HttpRequest) -> actix_web::Error {
    let public = invalid(format_args!("The path is not as expected: {error}."));
    ApiError::for_path(request.path(), public).into()
}

/// The body is above the bound.
pub fn too_large() -> PublicError {
    PublicError::new(
        ErrorCode::PayloadTooLarge,
        "The request is larger than this node takes.",
        "Send less, or raise edge.body_bytes_max.",
    )
}

#[cfg(test)]
mod tests {
    use actix_web::body::MessageBody;

    use super::*;

    fn body_of(reply: HttpResponse) -> serde_json::Value {
        let bytes = reply.into_body().try_into_bytes().unwrap();
        serde_json::from_slice(&bytes).unwrap()
    }

    #[test]
    fn a_refusal_says_when_to_come_back() {
        let error = PublicError::new(ErrorCode::Overloaded, "m", "h").retry_after_ms(1500);
        let reply = ApiError::new(error).error_response();
        assert_eq!(reply.status(), 429);
        assert_eq!(reply.headers().get("retry-after").unwrap(), "2");
        assert_eq!(body_of(reply)["error"]["retry_after_ms"], 1500);
    }

    #[test]
    fn a_503_without_a_time_still_has_a_header() {
        let error = PublicError::new(ErrorCode::Quarantined, "m", "h");
        let reply = ApiError::new(error).error_response();
        assert_eq!(reply.headers().get("retry-after").unwrap(), "1");
    }

    #[test]
    fn a_401_names_where_keys_come_from() {
        let error = PublicError::new(ErrorCode::Unauthorized, "m", "h");
        let reply = ApiError::new(error).error_response();
        assert_eq!(body_of(reply)["get_key"], GET_KEY);
    }

    #[test]
    fn v1_speaks_openai() {
        let error = PublicError::new(ErrorCode::ModelNotFound, "No model x.", "See /v1/models.");
        let body = body_of(ApiError::openai(error, Some("model")).error_response());
        assert_eq!(
            body,
            serde_json::json!({"error": {
                "message": "No model x. See /v1/models.",
                "type": "invalid_request_error",
                "param": "model",
                "code": "model_not_found",
            }})
        );
    }
}
