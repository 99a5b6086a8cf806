//! The way back to a snapshot, for admins.

use std::collections::BTreeMap;

use actix_web::{HttpRequest, HttpResponse, web};
use blyan_protocol::{BoxFuture, ErrorCode, PublicError};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::admin::admin;
use super::error::{ApiError, ErrorBody};
use super::state::EdgeState;

/// What the edge asks about rollbacks.
pub trait RollbackPort: Send + Sync {
    /// Chooses and verifies a snapshot while the node serves, and orders the way back to it; `who` is the admin.
    fn begin(
        &self,
        wanted: RollbackRequest,
        who: String,
    ) -> BoxFuture<'_, Result<RollbackReply, PublicError>>;
    /// The last one; `None` if there was none.
    fn last(&self) -> Result<Option<RollbackReply>, PublicError>;
}

/// Where to go back to: `timestamp`, at most 24 hours ago, or `snapshot`; the newest one without either.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RollbackRequest {
    /// Seconds since 1970-01-01 UTC: of the snapshots that are not younger the newest is taken.
    #[serde(default)]
    pub timestamp: Option<u64>,
    /// A snapshot's id.
    #[serde(default)]
    pub snapshot: Option<String>,
    /// Why, for the audit log.
    pub reason: String,
}

/// How far a rollback is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum RollbackState {
    /// It will be carried out, also if the process is killed now.
    Ordered,
    /// The store is that of the snapshot; whether the node is well is still to be found out.
    Restored,
    /// The store could not be brought back and is as it was; the audit log does not say so yet.
    NotRestored,
    /// The node is well, and its store is that of the snapshot.
    Done,
    /// It did not work, `failure` says why.
    Failed,
}

/// A rollback.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RollbackReply {
    /// Its name.
    pub id: String,
    /// The snapshot's id.
    pub snapshot: String,
    /// Its time, ms since 1970-01-01 UTC.
    pub snapshot_ms: u64,
    /// The heads that the chains go back to, by chain.
    pub heads: BTreeMap<String, String>,
    /// The admin.
    pub who: String,
    /// Their words.
    pub reason: String,
    /// When it was ordered, ms since 1970-01-01 UTC.
    pub ordered_ms: u64,
    /// When it ended.
    pub ended_ms: Option<u64>,
    /// How far it is.
    pub state: RollbackState,
    /// Why it failed.
    pub failure: Option<String>,
}

/// Brings the chains back to a snapshot. The snapshot is verified while the node serves; then the node stops, restores
/// and comes back on the same address, also if it is killed meanwhile. The audit log is not rolled back.
#[utoipa::path(post, path = "/chain/rollback", tag = "chain", request_body = RollbackRequest, responses(
    (status = 202, body = RollbackReply, description = "ordered; GET says how far it is"),
    (status = 400, body = ErrorBody, description = "both or too old a time"),
    (status = 401, body = ErrorBody),
    (status = 404, body = ErrorBody, description = "there is no such snapshot"),
    (status = 409, body = ErrorBody, description = "another one is under way"),
    (status = 500, body = ErrorBody, description = "the snapshot is damaged; nothing was changed"),
))]
pub async fn begin(
    state: web::Data<EdgeState>,
    request: HttpRequest,
    wanted: web::Json<RollbackRequest>,
) -> Result<HttpResponse, ApiError> {
    let who = admin(&state, &request)?;
    let ordered = state.rollbacks.begin(wanted.into_inner(), who).await?;
    Ok(HttpResponse::Accepted().json(ordered))
}

/// The last rollback.
#[utoipa::path(get, path = "/chain/rollback", tag = "chain", responses(
    (status = 200, body = RollbackReply),
    (status = 401, body = ErrorBody),
    (status = 404, body = ErrorBody, description = "there was none"),
))]
pub async fn last(
    state: web::Data<EdgeState>,
    request: HttpRequest,
) -> Result<HttpResponse, ApiError> {
    admin(&state, &request)?;
    let none = || {
        PublicError::new(
            ErrorCode::NotFound,
            "There was no rollback.",
            "Order one with POST.",
        )
    };
    let last = state.rollbacks.last()?.ok_or_else(none)?;
    Ok(HttpResponse::Ok().json(last))
}
