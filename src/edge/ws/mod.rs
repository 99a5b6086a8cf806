//! `WS /ws/chat`: several streams on one connection.

mod connection;
mod frames;

use actix_web::{HttpRequest, HttpResponse, web};

use super::chat::MayChat;
use super::error::{ApiError, invalid};
use super::state::EdgeState;
use connection::Connection;

/// The connection speaks JSON objects with `type` and the client's own stream `id`: the client `start`, `cancel`,
/// `ping`; the node `stream_start`, `token`, `stream_end`, `error`, `pong`.
#[utoipa::path(get, path = "/ws/chat", tag = "chat", responses(
    (status = 101, description = "WebSocket; messages are JSON objects with `type` and the client's stream `id`"),
))]
pub async fn connect(
    _key: MayChat,
    state: web::Data<EdgeState>,
    request: HttpRequest,
    body: web::Payload,
) -> Result<HttpResponse, ApiError> {
    let (response, session, messages) = actix_ws::handle(&request, body)
        .map_err(|fault| invalid(format!("This is no WebSocket handshake: {fault}.")))?;
    let bound = state.config.body_bytes_max;
    let messages = messages
        .max_frame_size(bound)
        .aggregate_continuations()
        .max_continuation_size(bound);
    actix_web::rt::spawn(Connection::new(state.into_inner(), session).run(messages));
    Ok(response)
}
