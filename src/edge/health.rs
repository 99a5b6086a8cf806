//! How the node is.

use actix_web::http::header;
use actix_web::{HttpRequest, HttpResponse, web};
use blyan_protocol::{ErrorCode, PublicError};
use serde::Serialize;
use utoipa::ToSchema;

use super::error::{ApiError, ErrorBody};
use super::replies::{Health, IntegrityStatus};
use super::state::EdgeState;

/// `GET /health`
#[derive(Serialize, ToSchema)]
pub struct Alive {
    /// `ok`
    status: &'static str,
    /// The binary's version.
    version: &'static str,
    /// Since the start of the process.
    uptime_s: u64,
}

/// The process answers HTTP.
#[utoipa::path(get, path = "/health", tag = "health", responses((status = 200, body = Alive)))]
pub async fn health(state: web::Data<EdgeState>) -> HttpResponse {
    HttpResponse::Ok().json(Alive {
        status: "ok",
        version: env!("CARGO_PKG_VERSION"),
        uptime_s: state.started.elapsed().as_secs(),
    })
}

/// `GET /ready`
#[derive(Serialize, ToSchema)]
pub struct Ready {
    /// True.
    ready: bool,
}

/// Chat is answered.
#[utoipa::path(get, path = "/ready", tag = "health", responses(
    (status = 200, body = Ready),
    (status = 503, body = ErrorBody, description = "starting, stopping, or no replica serves"),
))]
pub async fn ready(state: web::Data<EdgeState>) -> Result<HttpResponse, ApiError> {
    if state.stopping.closing.is_cancelled() {
        return Err(state.stopping.why().into());
    }
    state.node.ready()?;
    Ok(HttpResponse::Ok().json(Ready { ready: true }))
}

/// Every part's state; 200 also when degraded.
#[utoipa::path(get, path = "/monitoring/health", tag = "health", responses((status = 200, body = Health)))]
pub async fn monitoring(state: web::Data<EdgeState>) -> HttpResponse {
    HttpResponse::Ok().json(state.node.health().await)
}

/// The supervision tree. With the admin key `last_exit` has its text.
#[utoipa::path(get, path = "/supervision/tree", tag = "health", responses(
    (status = 200, body = Object, description = "id, kind, state, generation, restarts_in_window, last_exit, children"),
))]
pub async fn tree(state: web::Data<EdgeState>, request: HttpRequest) -> HttpResponse {
    let tree = state.node.tree();
    let admin = state.keys.admin(&request).is_some();
    HttpResponse::Ok().json(if admin { tree } else { tree.redacted() })
}

/// One node of the supervision tree, by its path.
#[utoipa::path(get, path = "/supervision/tree/{path}", tag = "health", params(("path" = String, Path)), responses(
    (status = 200, body = Object),
    (status = 404, body = ErrorBody),
))]
pub async fn subtree(
    state: web::Data<EdgeState>,
    request: HttpRequest,
    path: web::Path<String>,
) -> Result<HttpResponse, ApiError> {
    let tree = state.node.tree();
    let found = tree.find(&path).cloned().ok_or_else(|| {
        let hint = "GET /supervision/tree names every part.";
        PublicError::new(ErrorCode::NotFound, "There is no part at this path.", hint)
    })?;
    let admin = state.keys.admin(&request).is_some();
    Ok(HttpResponse::Ok().json(if admin { found } else { found.redacted() }))
}

/// What failed its hash.
#[utoipa::path(get, path = "/security/integrity_status", tag = "health", responses(
    (status = 200, body = IntegrityStatus),
))]
pub async fn integrity(state: web::Data<EdgeState>) -> Result<HttpResponse, ApiError> {
    Ok(HttpResponse::Ok().json(state.node.integrity().await?))
}

/// Metrics in Prometheus' text format.
#[utoipa::path(get, path = "/metrics", tag = "health", responses(
    (status = 200, content_type = "text/plain"),
))]
pub async fn metrics(state: web::Data<EdgeState>) -> HttpResponse {
    HttpResponse::Ok()
        .content_type("text/plain; version=0.0.4; charset=utf-8")
        .insert_header((header::CACHE_CONTROL, "no-store"))
        .body(state.metrics.render())
}
