//! `WS /ws/chat`: several streams on one connection.

mod connection;
mod frames;
mod incoming;

use actix_web::dev::Payload;
use actix_web::{FromRequest, HttpRequest, HttpResponse, web};

use super::chat::MayChat;
use super::error::{ApiError, invalid};
use super::state::EdgeState;
use connection::Connection;
use incoming::Incoming;

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
    let no_handshake = |fault| invalid(format_args!("This is no WebSocket handshake: {fault}."));
    // What comes in is read by `Incoming` instead.
    let nothing = web::Payload::from_request(&request, &mut Payload::None).into_inner();
    let (response, session, _) = nothing
        .and_then(|nothing| actix_ws::handle(&request, nothing))
        .map_err(no_handshake)?;
    let messages = Incoming::new(body, state.config.body_bytes_max);
    actix_web::rt::spawn(Connection::new(state.into_inner(), session).run(messages));
    Ok(response)
}
