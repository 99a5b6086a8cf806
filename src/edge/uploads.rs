//! Experts that miners upload. Who may is decided by the signature of the block, so there is no key to send.

use std::str::FromStr;
use std::time::Duration;

use actix_web::http::header::HeaderName;
use actix_web::web::{self, Bytes};
use actix_web::{HttpRequest, HttpResponse, ResponseError};
use blyan_chain::uploads::UploadId;
use blyan_formats::{BlockHash, PublicKey, SignedBlock};
use blyan_protocol::{BoxFuture, ErrorCode, PublicError};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::admin::admin;
use super::error::{ApiError, ErrorBody, invalid};
use super::state::EdgeState;

/// Where a piece begins; in answers, where the next one does.
const OFFSET: &str = "upload-offset";
/// How long one piece may take to come.
const PIECE_TIME: Duration = Duration::from_secs(60);
/// When to try again where too many pieces are on their way.
const BUSY_RETRY_MS: u64 = 1000;

/// What the edge asks about uploads and about who may sign.
pub trait UploadPort: Send + Sync {
    /// Begins an upload, or finds the one of the same block; says whether it is new.
    fn begin(&self, block: SignedBlock) -> BoxFuture<'_, Result<(UploadReply, bool), PublicError>>;
    /// How far an upload is.
    fn status(&self, id: UploadId) -> Result<UploadReply, PublicError>;
    /// Appends a piece; with the last one the upload becomes a block.
    fn write(
        &self,
        id: UploadId,
        offset: u64,
        piece: Bytes,
    ) -> BoxFuture<'_, Result<UploadReply, PublicError>>;
    /// Removes an upload.
    fn remove(&self, id: UploadId) -> BoxFuture<'_, Result<(), PublicError>>;
    /// The keys that may sign.
    fn signers(&self) -> BoxFuture<'_, Result<SignersReply, PublicError>>;
    /// Lets a key sign experts; `who` is the admin that decides it.
    fn grant(&self, key: PublicKey, who: String) -> BoxFuture<'_, Result<GrantReply, PublicError>>;
}

/// A block that is to be uploaded.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct UploadRequest {
    /// `{"header": {..}, "signature": ".."}`, as the block is stored.
    #[schema(value_type = Object)]
    block: SignedBlock,
}

/// How far an upload is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct UploadReply {
    /// Its name, for the paths below; of a block that is stored and whose upload is forgotten it opens nothing.
    pub upload: String,
    /// Hash of the block.
    pub block: String,
    /// Bytes that the node has, durable.
    pub received: u64,
    /// Bytes of the whole payload.
    pub length: u64,
    /// Bytes of one piece, at most.
    pub chunk_bytes_max: usize,
    /// Whether bytes are missing or the block is on the chain.
    pub state: UploadState,
}

/// What an upload has become.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum UploadState {
    /// Bytes are missing, or the last step is.
    Open,
    /// The block is on the chain: a candidate until a manifest names it.
    Stored,
}

/// The keys that may sign blocks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct SignersReply {
    /// Any block: the keys of the genesis.
    pub authorised: Vec<String>,
    /// Experts only.
    pub granted: Vec<GrantReply>,
}

/// A key that may sign experts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct GrantReply {
    /// The key, 33 bytes in hex.
    pub key: String,
    /// The block on chain A that says so; `null` for a key of the genesis.
    pub block: Option<String>,
}

/// A key that is to sign experts.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct GrantRequest {
    /// The key, 33 bytes in hex.
    #[schema(value_type = String)]
    key: PublicKey,
}

/// Begins an upload of an expert, or finds the one of the same block and says where to go on. Everything that can be
/// said of the block is said here, before any byte of its payload.
#[utoipa::path(post, path = "/upload_moe_experts", tag = "uploads", request_body = UploadRequest, responses(
    (status = 201, body = UploadReply, description = "send the payload with PATCH"),
    (status = 200, body = UploadReply, description = "the upload is there already, or its block is stored"),
    (status = 403, body = ErrorBody, description = "the signer may not upload"),
    (status = 413, body = ErrorBody),
    (status = 422, body = ErrorBody, description = "the block breaks a rule, or is not for the served architecture"),
    (status = 429, body = ErrorBody, description = "a quota is used up"),
))]
pub async fn begin(
    state: web::Data<EdgeState>,
    request: web::Json<UploadRequest>,
) -> Result<HttpResponse, ApiError> {
    let (upload, new) = state.uploads.begin(request.into_inner().block).await?;
    Ok(told(
        if new {
            HttpResponse::Created()
        } else {
            HttpResponse::Ok()
        },
        &upload,
    ))
}

/// How far an upload is.
#[utoipa::path(get, path = "/upload_moe_experts/{upload}", tag = "uploads", params(("upload" = String, Path)), responses(
    (status = 200, body = UploadReply),
    (status = 404, body = ErrorBody),
))]
pub async fn status(
    state: web::Data<EdgeState>,
    id: web::Path<String>,
) -> Result<HttpResponse, ApiError> {
    let upload = state.uploads.status(named(&id)?)?;
    Ok(told(HttpResponse::Ok(), &upload))
}

/// Appends a piece. It is durable when this answers. With the last one the payload is verified and the block stored;
/// an empty piece at the end does that where it was cut off.
#[utoipa::path(patch, path = "/upload_moe_experts/{upload}", tag = "uploads",
    params(("upload" = String, Path), ("Upload-Offset" = u64, Header, description = "where the piece begins")),
    request_body(content = Vec<u8>, content_type = "application/octet-stream"), responses(
    (status = 200, body = UploadReply),
    (status = 404, body = ErrorBody),
    (status = 409, body = ErrorBody, description = "the upload goes on elsewhere: the header Upload-Offset says where"),
    (status = 413, body = ErrorBody, description = "the piece is longer than chunk_bytes_max"),
    (status = 422, body = ErrorBody, description = "the payload is not what the block says; the upload is gone"),
))]
pub async fn write(
    state: web::Data<EdgeState>,
    request: HttpRequest,
    id: web::Path<String>,
    body: web::Payload,
) -> Result<HttpResponse, ApiError> {
    let id = named(&id)?;
    let offset = offset_of(&request)?;
    let upload = state.uploads.status(id)?;
    let _room = state.pieces.try_acquire().map_err(|_| busy())?;
    let piece = piece_of(body, upload.chunk_bytes_max).await?;
    match state.uploads.write(id, offset, piece).await {
        Ok(upload) => Ok(told(HttpResponse::Ok(), &upload)),
        Err(error) if error.code == ErrorCode::Conflict => Ok(conflict(&state, id, error)),
        Err(error) => Err(error.into()),
    }
}

/// Removes an upload; a block that is stored stays.
#[utoipa::path(delete, path = "/upload_moe_experts/{upload}", tag = "uploads", params(("upload" = String, Path)), responses(
    (status = 204),
    (status = 404, body = ErrorBody),
))]
pub async fn remove(
    state: web::Data<EdgeState>,
    id: web::Path<String>,
) -> Result<HttpResponse, ApiError> {
    state.uploads.remove(named(&id)?).await?;
    Ok(HttpResponse::NoContent().finish())
}

/// The keys that may sign.
#[utoipa::path(get, path = "/chain/keys", tag = "chain", responses(
    (status = 200, body = SignersReply),
    (status = 401, body = ErrorBody),
))]
pub async fn signers(
    state: web::Data<EdgeState>,
    request: HttpRequest,
) -> Result<HttpResponse, ApiError> {
    admin(&state, &request)?;
    Ok(HttpResponse::Ok().json(state.uploads.signers().await?))
}

/// Lets a key sign experts, by a block on chain A. It cannot be taken back; what is served stays the manifest's to say.
#[utoipa::path(post, path = "/chain/keys", tag = "chain", request_body = GrantRequest, responses(
    (status = 200, body = GrantReply, description = "it may now, or could before"),
    (status = 401, body = ErrorBody),
    (status = 403, body = ErrorBody, description = "this node's own key may not grant"),
))]
pub async fn grant(
    state: web::Data<EdgeState>,
    request: HttpRequest,
    body: web::Json<GrantRequest>,
) -> Result<HttpResponse, ApiError> {
    let who = admin(&state, &request)?;
    let granted = state.uploads.grant(body.key, who).await?;
    Ok(HttpResponse::Ok().json(granted))
}

fn told(mut reply: actix_web::HttpResponseBuilder, upload: &UploadReply) -> HttpResponse {
    reply
        .insert_header((OFFSET, upload.received.to_string()))
        .json(upload)
}

/// A 409 with where to go on.
fn conflict(state: &EdgeState, id: UploadId, error: PublicError) -> HttpResponse {
    let mut reply = ApiError::new(error).error_response();
    if let Ok(upload) = state.uploads.status(id) {
        let name = HeaderName::from_static(OFFSET);
        reply.headers_mut().insert(name, upload.received.into());
    }
    reply
}

fn named(id: &str) -> Result<UploadId, PublicError> {
    id.parse().map_err(|_| {
        PublicError::new(
            ErrorCode::NotFound,
            "There is no upload of this name.",
            "An upload is named by the 32 hex digits in the answer to POST /upload_moe_experts.",
        )
    })
}

fn offset_of(request: &HttpRequest) -> Result<u64, PublicError> {
    let sent = request.headers().get(OFFSET);
    let sent = sent.and_then(|value| u64::from_str(value.to_str().ok()?).ok());
    sent.ok_or_else(|| {
        invalid("A piece says in the header Upload-Offset how many bytes stand before it.")
    })
}

/// The whole piece: what broke off half way is not taken.
async fn piece_of(body: web::Payload, len_max: usize) -> Result<Bytes, PublicError> {
    let read = tokio::time::timeout(PIECE_TIME, body.to_bytes_limited(len_max)).await;
    let late = |_| {
        PublicError::new(
            ErrorCode::SlowReader,
            format!("The piece did not come within {} s.", PIECE_TIME.as_secs()),
            "Send smaller pieces.",
        )
    };
    let read = read.map_err(late)?.map_err(|_| {
        PublicError::new(
            ErrorCode::PayloadTooLarge,
            format!("A piece has at most {len_max} bytes."),
            "Send smaller pieces.",
        )
    })?;
    read.map_err(|why| invalid(format_args!("The piece cannot be read: {why}.")))
}

fn busy() -> PublicError {
    PublicError::new(
        ErrorCode::Overloaded,
        "Too many pieces are on their way at once.",
        "Try again shortly.",
    )
    .retry_after_ms(BUSY_RETRY_MS)
}

impl UploadReply {
    /// Of a block that is stored, and of whose upload nothing is known any more.
    pub fn of_stored(block: BlockHash, length: u64, chunk_bytes_max: usize) -> Self {
        let block = block.to_string();
        Self {
            upload: block[..32].to_owned(),
            block,
            received: length,
            length,
            chunk_bytes_max,
            state: UploadState::Stored,
        }
    }
}
