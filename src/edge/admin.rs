//! What admins see and decide. Every try is in the audit log, also the refused ones.

use std::time::Duration;

use actix_web::http::header;
use actix_web::web::{self, Bytes};
use actix_web::{HttpRequest, HttpResponse};
use blyan_protocol::{ErrorCode, PublicError};
use blyan_security::{Decision, Order, Report, SecurityEvent};
use futures_util::stream;
use serde::Deserialize;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;
use tokio_util::sync::CancellationToken;
use utoipa::ToSchema;

use super::error::{ApiError, ErrorBody, invalid};
use super::sse::{COMMENT, json};
use super::state::EdgeState;

/// Bytes of an order's body.
const ORDER_BYTES_MAX: usize = 4096;

/// The body of an order; it may be left out.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct OrderBody {
    /// Why, for the audit log.
    reason: String,
    /// Also where nothing would be left that serves.
    force: bool,
}

/// Takes a component, or this node as `node`, out of service.
#[utoipa::path(post, path = "/security/quarantine_node/{id}", tag = "security", params(("id" = String, Path)),
    request_body = OrderBody, responses(
    (status = 200, body = Object, description = "path, standing, changed, record"),
    (status = 400, body = ErrorBody, description = "nothing would be left that serves; force does it all the same"),
    (status = 401, body = ErrorBody),
    (status = 404, body = ErrorBody),
))]
pub async fn quarantine(
    state: web::Data<EdgeState>,
    request: HttpRequest,
    id: web::Path<String>,
    body: Bytes,
) -> Result<HttpResponse, ApiError> {
    decide(
        &state,
        &request,
        id.into_inner(),
        &body,
        Decision::Quarantine,
    )
    .await
}

/// Brings a component back, after a full verification where its data was damaged.
#[utoipa::path(post, path = "/security/recover_node/{id}", tag = "security", params(("id" = String, Path)),
    request_body = OrderBody, responses(
    (status = 200, body = Object, description = "path, standing, changed, record"),
    (status = 401, body = ErrorBody),
    (status = 404, body = ErrorBody),
    (status = 503, body = ErrorBody, description = "it is decided, and the component did not come back yet"),
))]
pub async fn recover(
    state: web::Data<EdgeState>,
    request: HttpRequest,
    id: web::Path<String>,
    body: Bytes,
) -> Result<HttpResponse, ApiError> {
    decide(&state, &request, id.into_inner(), &body, Decision::Recover).await
}

/// Moves a component's work elsewhere and restarts it; answers when it is ready again.
#[utoipa::path(post, path = "/security/failover/{id}", tag = "security", params(("id" = String, Path)),
    request_body = OrderBody, responses(
    (status = 200, body = Object, description = "path, standing, changed, record"),
    (status = 401, body = ErrorBody),
    (status = 404, body = ErrorBody),
    (status = 503, body = ErrorBody, description = "it is quarantined, or did not come back yet"),
))]
pub async fn failover(
    state: web::Data<EdgeState>,
    request: HttpRequest,
    id: web::Path<String>,
    body: Bytes,
) -> Result<HttpResponse, ApiError> {
    decide(&state, &request, id.into_inner(), &body, Decision::Failover).await
}

async fn decide(
    state: &EdgeState,
    request: &HttpRequest,
    path: String,
    body: &Bytes,
    decision: Decision,
) -> Result<HttpResponse, ApiError> {
    let who = admin(state, request)?;
    let OrderBody { reason, force } = order_of(body)?;
    let order = Order {
        decision,
        path,
        who,
        reason,
        force,
    };
    let decided = state
        .security
        .decide(order)
        .await
        .map_err(PublicError::from)?;
    Ok(HttpResponse::Ok().json(decided))
}

fn order_of(body: &Bytes) -> Result<OrderBody, PublicError> {
    if body.len() > ORDER_BYTES_MAX {
        return Err(invalid(format_args!(
            "An order's body has at most {ORDER_BYTES_MAX} bytes."
        )));
    }
    if body.is_empty() {
        return Ok(OrderBody::default());
    }
    serde_json::from_slice(body)
        .map_err(|why| invalid(format_args!("The body is not {{reason?, force?}}: {why}.")))
}

/// How a component stands, and why.
#[utoipa::path(get, path = "/security/node_status/{id}", tag = "security", params(("id" = String, Path)), responses(
    (status = 200, body = Object, description = "path, state, component, trust; why and since when if it is quarantined"),
    (status = 401, body = ErrorBody),
    (status = 404, body = ErrorBody),
))]
pub async fn node_status(
    state: web::Data<EdgeState>,
    request: HttpRequest,
    id: web::Path<String>,
) -> Result<HttpResponse, ApiError> {
    admin(&state, &request)?;
    let status = state.security.status(id.into_inner()).await;
    Ok(HttpResponse::Ok().json(status.map_err(PublicError::from)?))
}

/// What is counted, against its thresholds.
#[utoipa::path(get, path = "/security/threat_indicators", tag = "security", responses(
    (status = 200, body = Object, description = "indicators: each with count, threshold and window"),
    (status = 401, body = ErrorBody),
))]
pub async fn threat_indicators(
    state: web::Data<EdgeState>,
    request: HttpRequest,
) -> Result<HttpResponse, ApiError> {
    admin(&state, &request)?;
    let indicators = state.security.threat_indicators().await;
    let indicators = indicators.map_err(PublicError::from)?;
    Ok(HttpResponse::Ok().json(serde_json::json!({ "indicators": indicators })))
}

/// Components with their trust, indicators, alerts, and the audit log's end.
#[utoipa::path(get, path = "/security/dashboard", tag = "security", responses(
    (status = 200, body = Object),
    (status = 401, body = ErrorBody),
))]
pub async fn dashboard(
    state: web::Data<EdgeState>,
    request: HttpRequest,
) -> Result<HttpResponse, ApiError> {
    admin(&state, &request)?;
    let dashboard = state.security.dashboard().await;
    Ok(HttpResponse::Ok().json(dashboard.map_err(PublicError::from)?))
}

/// Audit records, alerts and exits as they happen, as Server-Sent Events named `recorded`, `alert` and `exited`; after
/// a client has fallen behind `missed` says how many it has not seen.
#[utoipa::path(get, path = "/security/events", tag = "security", responses(
    (status = 200, content_type = "text/event-stream"),
    (status = 401, body = ErrorBody),
))]
pub async fn events(
    state: web::Data<EdgeState>,
    request: HttpRequest,
) -> Result<HttpResponse, ApiError> {
    admin(&state, &request)?;
    let watch = Watch {
        events: state.security.events(),
        closing: state.stopping.closing.clone(),
        heartbeat: state.config.heartbeat(),
    };
    let body = stream::unfold(watch, |mut watch| async {
        let frame = watch.next().await?;
        Some((Ok::<_, actix_web::Error>(Bytes::from(frame)), watch))
    });
    Ok(HttpResponse::Ok()
        .content_type("text/event-stream; charset=utf-8")
        .insert_header((header::CACHE_CONTROL, "no-store"))
        .streaming(body))
}

struct Watch {
    events: broadcast::Receiver<SecurityEvent>,
    closing: CancellationToken,
    heartbeat: Duration,
}

impl Watch {
    /// `None` when the node stops.
    async fn next(&mut self) -> Option<String> {
        let event = tokio::time::timeout(self.heartbeat, self.events.recv());
        let event = self.closing.run_until_cancelled(event).await?;
        match event {
            Err(_) => Some(COMMENT.to_owned()),
            Ok(Ok(event)) => {
                let name = match event {
                    SecurityEvent::Recorded(_) => "recorded",
                    SecurityEvent::Alert(_) => "alert",
                    SecurityEvent::Exited { .. } => "exited",
                };
                Some(format!("event: {name}\ndata: {}\n\n", json(&event)))
            }
            Ok(Err(RecvError::Lagged(missed))) => Some(format!(
                "event: missed\ndata: {}\n\n",
                json(&serde_json::json!({ "count": missed }))
            )),
            Ok(Err(RecvError::Closed)) => None,
        }
    }
}

/// Who asks, if it is an admin; otherwise the try is reported.
pub fn admin(state: &EdgeState, request: &HttpRequest) -> Result<String, PublicError> {
    let from = request
        .peer_addr()
        .map_or_else(|| "unknown".to_owned(), |peer| peer.ip().to_string());
    if let Some(name) = state.keys.admin(request) {
        return Ok(format!("{name} from {from}"));
    }
    let denied = Report::Denied {
        who: from,
        what: format!("{} {}", request.method(), request.path()),
    };
    if let Err(why) = state.security.report(denied) {
        tracing::warn!(%why, path = request.path(), "a refused try of an admin endpoint is not in the audit log");
    }
    Err(PublicError::new(
        ErrorCode::Unauthorized,
        "This is for admins, and the request does not bring the admin key.",
        "Send the key in the data directory's admin.key as X-API-Key or as Authorization: Bearer.",
    ))
}
