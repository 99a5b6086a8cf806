//! `/v1/*`: what OpenAI clients speak.

mod replies;
mod request;
mod stream;

use actix_web::{HttpResponse, web};
use blyan_protocol::{ErrorCode, PublicError};

use super::chat::{MayChat, collect};
use super::error::{ApiError, OpenAiErrorBody};
use super::port::ServedModel;
use super::sse;
use super::state::EdgeState;
use replies::{Completion, ModelCard, ModelList};
use request::CompletionBody;
use stream::Chunks;

/// Chat as OpenAI's clients ask for it, whole or streamed.
#[utoipa::path(post, path = "/v1/chat/completions", tag = "openai", request_body = CompletionBody, responses(
    (status = 200, body = Completion, description = "with stream: chat.completion.chunk events and [DONE]"),
    (status = 400, body = OpenAiErrorBody),
    (status = 404, body = OpenAiErrorBody, description = "the model is not served here"),
))]
pub async fn completions(
    _key: MayChat,
    state: web::Data<EdgeState>,
    body: web::Json<CompletionBody>,
) -> Result<HttpResponse, ApiError> {
    let body = body.into_inner();
    let model = state.node.model().map_err(failed)?;
    check_model(body.model.as_deref(), &model)
        .map_err(|error| ApiError::openai(error, Some("model")))?;
    let streamed = body.streamed();
    let request = body
        .into_request(&state.chat)
        .map_err(|fault| ApiError::openai(*fault.error, fault.param))?;
    let mut session = state.open(request).await.map_err(failed)?;
    if let Some(options) = streamed {
        session.settle().await.map_err(failed)?;
        let chunks = Chunks::new(&session, options);
        return Ok(sse::respond(&state, session, chunks));
    }
    let (text, summary) = collect(session).await.map_err(failed)?;
    Ok(HttpResponse::Ok().json(Completion::new(&model.name, text, &summary)))
}

fn failed(error: PublicError) -> ApiError {
    ApiError::openai(error, None)
}

fn check_model(asked: Option<&str>, served: &ServedModel) -> Result<(), PublicError> {
    match asked {
        None => Ok(()),
        Some(name) if is_named(name, served) => Ok(()),
        Some(name) => Err(no_model(name)),
    }
}

fn is_named(name: &str, served: &ServedModel) -> bool {
    name.eq_ignore_ascii_case(&served.name) || name == served.id.to_string()
}

fn no_model(name: &str) -> PublicError {
    const SHOWN_MAX: usize = 80;
    let shown: String = name.chars().take(SHOWN_MAX).collect();
    PublicError::new(
        ErrorCode::ModelNotFound,
        format!("The model `{shown}` is not served here."),
        "GET /v1/models lists what is.",
    )
}

/// The models that are served: one.
#[utoipa::path(get, path = "/v1/models", tag = "openai", responses((status = 200, body = ModelList)))]
pub async fn models(state: web::Data<EdgeState>) -> Result<HttpResponse, ApiError> {
    let model = state.node.model().map_err(failed)?;
    Ok(HttpResponse::Ok().json(ModelList::of(&model)))
}

/// One model.
#[utoipa::path(get, path = "/v1/models/{id}", tag = "openai", params(("id" = String, Path)), responses(
    (status = 200, body = ModelCard),
    (status = 404, body = OpenAiErrorBody),
))]
pub async fn model(
    state: web::Data<EdgeState>,
    name: web::Path<String>,
) -> Result<HttpResponse, ApiError> {
    let model = state.node.model().map_err(failed)?;
    check_model(Some(&name), &model).map_err(|error| ApiError::openai(error, Some("model")))?;
    Ok(HttpResponse::Ok().json(ModelCard::of(&model)))
}
