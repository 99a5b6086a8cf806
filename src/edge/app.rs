//! Which path is served by what.

use actix_web::web::{self, Data, ServiceConfig};
use actix_web::{Resource, Route, guard};
use utoipa::OpenApi;
use utoipa_swagger_ui::SwaggerUi;

use super::state::EdgeState;
use super::{
    admin, adoption, chat, docs, economy, error, health, openai, page, reads, rollback, snapshots,
    uploads, ws,
};

/// Adds every route. The layers around them are `security::surround`'s.
pub fn routes(config: &mut ServiceConfig, state: Data<EdgeState>) {
    let bound = state.config.body_bytes_max;
    config
        .app_data(state)
        .app_data(web::PayloadConfig::new(bound))
        .app_data(
            web::JsonConfig::default()
                .limit(bound)
                .error_handler(error::of_json),
        )
        .app_data(web::QueryConfig::default().error_handler(error::of_query))
        .app_data(web::PathConfig::default().error_handler(error::of_path))
        .configure(chat_routes)
        .configure(read_routes)
        .configure(economy_routes)
        .configure(upload_routes)
        .configure(admin_routes)
        .configure(page_routes)
        .default_service(web::to(error::not_found));
}

fn chat_routes(config: &mut ServiceConfig) {
    config
        .service(at("/chat").route(web::post().to(chat::chat)))
        .service(
            at("/chat/stream")
                .route(web::post().to(chat::stream))
                .route(web::get().to(chat::stream_by_query)),
        )
        .service(at("/ws/chat").route(web::get().to(ws::connect)))
        .service(at("/v1/chat/completions").route(web::post().to(openai::completions)))
        .service(at("/v1/models").route(read().to(openai::models)))
        .service(at("/v1/models/{id}").route(read().to(openai::model)));
}

fn read_routes(config: &mut ServiceConfig) {
    config
        .service(at("/experts/top").route(read().to(reads::experts_top)))
        .service(at("/experts/stats/{name}").route(read().to(reads::expert_stats)))
        .service(at("/experts/{name}/versions").route(read().to(reads::expert_versions)))
        .service(at("/chain/{id}/head").route(read().to(reads::chain_head)))
        .service(at("/chain/{id}/blocks/{hash}").route(read().to(reads::block)))
        .service(at("/chain/B/lineage/{hash}").route(read().to(reads::lineage)))
        .service(at("/genesis/hash").route(read().to(reads::genesis_hash)))
        .service(at("/health").route(read().to(health::health)))
        .service(at("/ready").route(read().to(health::ready)))
        .service(at("/monitoring/health").route(read().to(health::monitoring)))
        .service(at("/supervision/tree").route(read().to(health::tree)))
        .service(at("/supervision/tree/{path:.+}").route(read().to(health::subtree)))
        .service(at("/security/integrity_status").route(read().to(health::integrity)))
        .service(at("/metrics").route(read().to(health::metrics)));
}

fn economy_routes(config: &mut ServiceConfig) {
    config
        .service(at("/economy/supply").route(read().to(economy::supply)))
        .service(at("/economy/leaderboard").route(read().to(economy::leaderboard)))
        .service(at("/economy/rewards/user/{address}").route(read().to(economy::rewards)))
        .service(at("/economy/rewards/distribute").route(web::post().to(economy::distribute)))
        .service(at("/wallet/balance/{address}").route(read().to(economy::balance)));
}

fn upload_routes(config: &mut ServiceConfig) {
    config
        .service(at("/upload_moe_experts").route(web::post().to(uploads::begin)))
        .service(
            at("/upload_moe_experts/{upload}")
                .route(read().to(uploads::status))
                .route(web::patch().to(uploads::write))
                .route(web::delete().to(uploads::remove)),
        );
}

fn admin_routes(config: &mut ServiceConfig) {
    config
        .service(at("/security/quarantine_node/{id:.+}").route(web::post().to(admin::quarantine)))
        .service(at("/security/recover_node/{id:.+}").route(web::post().to(admin::recover)))
        .service(at("/security/failover/{id:.+}").route(web::post().to(admin::failover)))
        .service(at("/security/node_status/{id:.+}").route(read().to(admin::node_status)))
        .service(
            at("/chain/snapshots")
                .route(web::post().to(snapshots::make))
                .route(read().to(snapshots::list)),
        )
        .service(
            at("/chain/keys")
                .route(web::post().to(uploads::grant))
                .route(read().to(uploads::signers)),
        )
        .service(
            at("/chain/rollback")
                .route(web::post().to(rollback::begin))
                .route(read().to(rollback::last)),
        )
        .service(at("/model/adopt").route(web::post().to(adoption::adopt)))
        .service(at("/security/threat_indicators").route(read().to(admin::threat_indicators)))
        .service(at("/security/dashboard").route(read().to(admin::dashboard)))
        .service(at("/security/events").route(read().to(admin::events)));
}

fn page_routes(config: &mut ServiceConfig) {
    config
        .service(at("/").route(read().to(page::chat)))
        .service(at("/tree").route(read().to(page::tree)))
        .service(at("/assets/{name}").route(read().to(page::asset)))
        .service(at("/openapi.json").route(read().to(docs::openapi)))
        .service(web::redirect("/docs", "/docs/"))
        .service(
            SwaggerUi::new("/docs/{_:.*}").url("/docs/openapi.json", docs::Document::openapi()),
        );
}

fn at(path: &str) -> Resource {
    web::resource(path).default_service(web::to(error::method_not_allowed))
}

fn read() -> Route {
    web::route().guard(guard::Any(guard::Get()).or(guard::Head()))
}
