//! Experts that become part of the model that answers, by an admin's word.

use actix_web::{HttpRequest, HttpResponse, web};
use blyan_formats::BlockHash;
use blyan_protocol::{BoxFuture, PublicError};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::admin::admin;
use super::error::{ApiError, ErrorBody};
use super::state::EdgeState;

/// What the edge asks for an adoption.
pub trait AdoptionPort: Send + Sync {
    /// Commits a manifest that names these blocks in place of others and lets it answer; `who` is the admin.
    fn adopt(
        &self,
        request: AdoptRequest,
        who: String,
    ) -> BoxFuture<'_, Result<AdoptReply, PublicError>>;
}

/// Blocks that are to be part of the model.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AdoptRequest {
    /// Blocks of experts on chain B, newer or older than those that the model has, at most one for an expert.
    #[schema(value_type = Vec<String>)]
    pub blocks: Vec<BlockHash>,
    /// Why, for the audit log.
    #[serde(default)]
    pub reason: String,
}

/// What answers from now on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AdoptReply {
    /// The model: the hash of its manifest.
    pub model_id: String,
    /// The model before; the same where every block was part of it already.
    pub model_id_before: String,
    /// Experts with other blocks than before.
    pub replaced: Vec<Replaced>,
}

/// An expert of the model with another block.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Replaced {
    /// The expert.
    pub name: String,
    /// Its block before.
    pub from: String,
    /// Its block now.
    pub to: String,
}

/// Commits a manifest with these blocks. Requests that come after the answer are answered by the new model; streams that
/// were begun before end with the model that they began with.
#[utoipa::path(post, path = "/model/adopt", tag = "chain", request_body = AdoptRequest, responses(
    (status = 200, body = AdoptReply),
    (status = 400, body = ErrorBody, description = "no block, or two for one expert"),
    (status = 401, body = ErrorBody),
    (status = 404, body = ErrorBody, description = "there is no such block"),
    (status = 409, body = ErrorBody, description = "another adoption is being carried out"),
    (status = 422, body = ErrorBody, description = "a block is no expert of the served architecture, or its payload is damaged"),
    (status = 500, body = ErrorBody, description = "it is committed, and the node goes on with the model before until its next start"),
))]
pub async fn adopt(
    state: web::Data<EdgeState>,
    request: HttpRequest,
    wanted: web::Json<AdoptRequest>,
) -> Result<HttpResponse, ApiError> {
    let who = admin(&state, &request)?;
    let adopted = state.adoption.adopt(wanted.into_inner(), who).await?;
    Ok(HttpResponse::Ok().json(adopted))
}
