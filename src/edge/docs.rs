//! `/openapi.json` and the page that shows it.

use actix_web::HttpResponse;
use utoipa::OpenApi;

use super::{
    admin, adoption, chat, economy, error, health, openai, reads, rollback, snapshots, stream,
    uploads, ws,
};

/// Every endpoint of the edge.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "Blyan node",
        description = "Chat with a Mixture-of-Experts model whose experts are blocks on a chain."
    ),
    paths(
        chat::chat,
        chat::stream,
        chat::stream_by_query,
        ws::connect,
        openai::completions,
        openai::models,
        openai::model,
        reads::experts_top,
        reads::expert_stats,
        reads::expert_versions,
        reads::chain_head,
        reads::block,
        reads::lineage,
        reads::genesis_hash,
        health::health,
        health::ready,
        health::monitoring,
        health::tree,
        health::subtree,
        health::integrity,
        health::metrics,
        admin::quarantine,
        admin::recover,
        admin::failover,
        admin::node_status,
        admin::threat_indicators,
        admin::dashboard,
        admin::events,
        snapshots::make,
        snapshots::list,
        adoption::adopt,
        rollback::begin,
        rollback::last,
        economy::supply,
        economy::leaderboard,
        economy::rewards,
        economy::balance,
        economy::distribute,
        uploads::begin,
        uploads::status,
        uploads::write,
        uploads::remove,
        uploads::signers,
        uploads::grant,
    ),
    components(schemas(
        error::ErrorBody,
        error::OpenAiErrorBody,
        stream::StreamStart,
        stream::StreamToken,
        stream::StreamEnd,
    ))
)]
pub struct Document;

/// `GET /openapi.json`
pub async fn openapi() -> HttpResponse {
    HttpResponse::Ok().json(Document::openapi())
}
