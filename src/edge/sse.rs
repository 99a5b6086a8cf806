//! Server-Sent Events.

use actix_web::HttpResponse;
use actix_web::http::header;
use actix_web::web::Bytes;
use futures_util::stream;
use serde::Serialize;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::state::EdgeState;
use super::stream::{Encode, FRAMES_WAITING_MAX, Pace, Session, StreamEvent, relay};

/// The node's own events: `stream_start`, `token`, `stream_end`, `error`, and comments as heartbeat.
pub struct NodeEvents;

#[derive(Serialize)]
struct ErrorEvent<'a> {
    error: &'a super::error::ErrorDetail,
}

impl Encode for NodeEvents {
    fn encode(&mut self, event: &StreamEvent) -> Option<String> {
        Some(match event {
            StreamEvent::Start(start) => frame("stream_start", start),
            // The id makes a browser that reconnects by itself say so; it is then told to stop, see `chat::stream`.
            StreamEvent::Token(token) => format!("id: {}\n{}", token.index, frame("token", token)),
            StreamEvent::End(end) => frame("stream_end", end),
            StreamEvent::Error(error) => frame("error", &ErrorEvent { error }),
            StreamEvent::Idle => COMMENT.to_owned(),
        })
    }
}

/// A heartbeat that clients skip.
pub const COMMENT: &str = ": keep-alive\n\n";

fn frame(name: &str, data: &impl Serialize) -> String {
    format!("event: {name}\ndata: {}\n\n", json(data))
}

/// JSON of a reply type, which has string keys and finite numbers only and so cannot fail.
pub fn json(data: &impl Serialize) -> String {
    serde_json::to_string(data).unwrap_or_else(|_| "null".to_owned())
}

/// Answers with a stream that ends with the session.
pub fn respond(
    state: &EdgeState,
    session: Session,
    encoder: impl Encode + 'static,
) -> HttpResponse {
    let (out, mut frames) = mpsc::channel(FRAMES_WAITING_MAX);
    let pace = Pace {
        heartbeat: state.config.heartbeat(),
        slow_reader: state.config.slow_reader(),
    };
    let carried = relay(session, encoder, out, CancellationToken::new(), pace);
    actix_web::rt::spawn(async move {
        carried.await;
    });
    let body = stream::poll_fn(move |cx| {
        let frame = frames.poll_recv(cx);
        frame.map(|frame| frame.map(|text| Ok::<_, actix_web::Error>(Bytes::from(text))))
    });
    HttpResponse::Ok()
        .content_type("text/event-stream; charset=utf-8")
        .insert_header((header::CACHE_CONTROL, "no-store"))
        .insert_header(("x-accel-buffering", "no"))
        .streaming(body)
}
