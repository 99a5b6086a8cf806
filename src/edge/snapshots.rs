//! Snapshots of the store, for admins.

use actix_web::{HttpRequest, HttpResponse, web};

use super::admin::admin;
use super::error::{ApiError, ErrorBody};
use super::replies::SnapshotReply;
use super::state::EdgeState;

/// Makes a snapshot of the store as it is now; chat goes on meanwhile.
#[utoipa::path(post, path = "/chain/snapshots", tag = "chain", responses(
    (status = 200, body = SnapshotReply),
    (status = 401, body = ErrorBody),
    (status = 500, body = ErrorBody, description = "it could not be made durable; there is none then"),
))]
pub async fn make(
    state: web::Data<EdgeState>,
    request: HttpRequest,
) -> Result<HttpResponse, ApiError> {
    admin(&state, &request)?;
    Ok(HttpResponse::Ok().json(state.node.make_snapshot().await?))
}

/// The snapshots, oldest first.
#[utoipa::path(get, path = "/chain/snapshots", tag = "chain", responses(
    (status = 200, body = Object, description = "snapshots: each as it was answered when it was made"),
    (status = 401, body = ErrorBody),
))]
pub async fn list(
    state: web::Data<EdgeState>,
    request: HttpRequest,
) -> Result<HttpResponse, ApiError> {
    admin(&state, &request)?;
    let snapshots = state.node.snapshots().await?;
    Ok(HttpResponse::Ok().json(serde_json::json!({ "snapshots": snapshots })))
}
