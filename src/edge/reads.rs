//! What can be read about chain and experts.

use actix_web::{HttpResponse, web};
use blyan_formats::{BlockHash, ChainId, TensorName};
use blyan_protocol::{ErrorCode, PublicError};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::error::{ApiError, ErrorBody, invalid};
use super::replies::{BlockReply, ChainHead, ExpertStats, LineageReply, VersionReply};
use super::state::EdgeState;

const TOP_DEFAULT: usize = 20;
const TOP_MAX: usize = 1000;

/// The query of `GET /experts/top`.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct TopQuery {
    /// How many, 1 to 1000; 20 where it is not said.
    limit: Option<usize>,
}

/// `GET /experts/top`
#[derive(Serialize, ToSchema)]
pub struct TopReply {
    /// Most tokens first.
    experts: Vec<ExpertStats>,
}

/// The experts that computed the most tokens.
#[utoipa::path(get, path = "/experts/top", tag = "experts", params(TopQuery), responses(
    (status = 200, body = TopReply),
))]
pub async fn experts_top(
    state: web::Data<EdgeState>,
    query: web::Query<TopQuery>,
) -> Result<HttpResponse, ApiError> {
    let limit = query.limit.unwrap_or(TOP_DEFAULT);
    if !(1..=TOP_MAX).contains(&limit) {
        return Err(invalid(format_args!("limit must be 1 to {TOP_MAX}.")).into());
    }
    let mut experts = state.node.experts_top(limit).await?;
    let earned = state.economy.earned_by_expert().await.ok();
    for expert in &mut experts {
        let of_expert = earned.as_ref().map(|earned| earned.get(&expert.name));
        expert.earned = of_expert.map(|earned| earned.copied().unwrap_or_default().to_string());
    }
    Ok(HttpResponse::Ok().json(TopReply { experts }))
}

/// One expert's usage.
#[utoipa::path(get, path = "/experts/stats/{name}", tag = "experts", params(("name" = String, Path)), responses(
    (status = 200, body = ExpertStats),
    (status = 404, body = ErrorBody),
))]
pub async fn expert_stats(
    state: web::Data<EdgeState>,
    name: web::Path<String>,
) -> Result<HttpResponse, ApiError> {
    let nothing = || {
        missing(
            "The model has no expert of this name.",
            "GET /experts/top?limit=1000 lists them.",
        )
    };
    let name: TensorName = name.parse().map_err(|_| nothing())?;
    let stats = state.node.expert_stats(name).await?;
    Ok(HttpResponse::Ok().json(stats.ok_or_else(nothing)?))
}

/// `GET /experts/{name}/versions`
#[derive(Serialize, ToSchema)]
pub struct VersionsReply {
    /// Parents before children; at most 1000.
    versions: Vec<VersionReply>,
}

/// Every block that carries a tensor, deprecated ones too.
#[utoipa::path(get, path = "/experts/{name}/versions", tag = "experts", params(("name" = String, Path)), responses(
    (status = 200, body = VersionsReply),
    (status = 404, body = ErrorBody),
))]
pub async fn expert_versions(
    state: web::Data<EdgeState>,
    name: web::Path<String>,
) -> Result<HttpResponse, ApiError> {
    let nothing = || {
        missing(
            "The chain has no block of this name.",
            "`blyan model info` lists the names of the current model.",
        )
    };
    let name: TensorName = name.parse().map_err(|_| nothing())?;
    let versions = state.node.versions(name).await?;
    if versions.is_empty() {
        return Err(nothing().into());
    }
    Ok(HttpResponse::Ok().json(VersionsReply { versions }))
}

/// What a block of chain B came from: the block and its ancestors, the nearest 1000.
#[utoipa::path(get, path = "/chain/B/lineage/{hash}", tag = "chain", params(("hash" = String, Path)), responses(
    (status = 200, body = LineageReply),
    (status = 404, body = ErrorBody),
))]
pub async fn lineage(
    state: web::Data<EdgeState>,
    hash: web::Path<String>,
) -> Result<HttpResponse, ApiError> {
    let hash = hash_of(&hash)?;
    let nothing = || {
        missing(
            "Chain B has no block of this hash.",
            "GET /experts/{name}/versions names an expert's blocks.",
        )
    };
    let lineage = state.node.lineage(hash).await?;
    Ok(HttpResponse::Ok().json(lineage.ok_or_else(nothing)?))
}

/// The newest end of a chain, which may be empty.
#[derive(Serialize, ToSchema)]
pub struct HeadReply {
    /// `A`, `B`, `C` or `D`.
    chain: String,
    /// The newest block; null on an empty chain.
    hash: Option<String>,
    /// Its index; null on an empty chain.
    index: Option<u64>,
    /// Blocks on the chain.
    blocks: u64,
}

impl HeadReply {
    fn of(chain: ChainId, head: Option<ChainHead>) -> Self {
        Self {
            chain: chain.to_string(),
            blocks: head.as_ref().map_or(0, |head| head.blocks),
            index: head.as_ref().map(|head| head.index),
            hash: head.map(|head| head.hash),
        }
    }
}

/// The newest block of a chain; an empty chain has `hash` null.
#[utoipa::path(get, path = "/chain/{id}/head", tag = "chain", params(("id" = String, Path)), responses(
    (status = 200, body = HeadReply),
    (status = 404, body = ErrorBody),
))]
pub async fn chain_head(
    state: web::Data<EdgeState>,
    id: web::Path<String>,
) -> Result<HttpResponse, ApiError> {
    let chain = chain_of(&id)?;
    let head = state.node.chain_head(chain).await?;
    Ok(HttpResponse::Ok().json(HeadReply::of(chain, head)))
}

/// One block.
#[utoipa::path(get, path = "/chain/{id}/blocks/{hash}", tag = "chain",
    params(("id" = String, Path), ("hash" = String, Path)), responses(
    (status = 200, body = BlockReply),
    (status = 404, body = ErrorBody),
))]
pub async fn block(
    state: web::Data<EdgeState>,
    path: web::Path<(String, String)>,
) -> Result<HttpResponse, ApiError> {
    let chain = chain_of(&path.0)?;
    let hash = hash_of(&path.1)?;
    let block = state.node.block(chain, hash).await?;
    let nothing = || {
        missing(
            "The chain has no block of this hash.",
            "GET /chain/{id}/head names the newest.",
        )
    };
    Ok(HttpResponse::Ok().json(block.ok_or_else(nothing)?))
}

/// `GET /genesis/hash`
#[derive(Serialize, ToSchema)]
pub struct GenesisReply {
    genesis_hash: String,
}

/// The hash of the network's first block.
#[utoipa::path(get, path = "/genesis/hash", tag = "chain", responses((status = 200, body = GenesisReply)))]
pub async fn genesis_hash(state: web::Data<EdgeState>) -> Result<HttpResponse, ApiError> {
    let genesis_hash = state.node.genesis_hash().await?.to_string();
    Ok(HttpResponse::Ok().json(GenesisReply { genesis_hash }))
}

fn hash_of(text: &str) -> Result<BlockHash, PublicError> {
    text.parse()
        .map_err(|_| invalid("A block's hash is 64 lower-case hex digits."))
}

fn chain_of(id: &str) -> Result<ChainId, PublicError> {
    let nothing = || missing("There is no such chain.", "The chains are A, B, C and D.");
    id.to_ascii_uppercase().parse().map_err(|_| nothing())
}

fn missing(message: &str, hint: &str) -> PublicError {
    PublicError::new(ErrorCode::NotFound, message, hint)
}
