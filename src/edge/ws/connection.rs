use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix_web::web;
use actix_ws::{CloseCode, CloseReason};
use blyan_protocol::{ErrorCode, PublicError};
use futures_util::FutureExt;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::frames::{self, ClientMessage, StreamFrames};
use super::incoming::{Fault, Incoming, Message};
use crate::edge::chat::ChatBody;
use crate::edge::error::{invalid, too_large};
use crate::edge::metrics;
use crate::edge::security::internal;
use crate::edge::state::EdgeState;
use crate::edge::stream::{FRAMES_WAITING_MAX, Pace, RelayEnd, relay};

/// How long the goodbye may take.
const CLOSE_LIMIT: Duration = Duration::from_secs(1);

/// One client with its streams. Its end cancels them.
pub struct Connection {
    state: Arc<EdgeState>,
    session: actix_ws::Session,
    streams: HashMap<String, CancellationToken>,
    frames: mpsc::Sender<String>,
    outgoing: Option<mpsc::Receiver<String>>,
    ended: (mpsc::UnboundedSender<Ended>, mpsc::UnboundedReceiver<Ended>),
    heard: Instant,
    _open: metrics::Open,
}

/// A stream of this connection is over.
struct Ended {
    id: String,
    end: RelayEnd,
}

/// Why the connection is over.
enum Close {
    Gone,
    Because(CloseCode, &'static str),
}

impl Connection {
    pub fn new(state: Arc<EdgeState>, session: actix_ws::Session) -> Self {
        // Each stream keeps room for its last frame.
        let capacity = FRAMES_WAITING_MAX + state.config.ws_streams_per_connection_max;
        let (frames, outgoing) = mpsc::channel(capacity);
        Self {
            state,
            session,
            streams: HashMap::new(),
            frames,
            outgoing: Some(outgoing),
            ended: mpsc::unbounded_channel(),
            heard: Instant::now(),
            _open: metrics::Open::websocket(),
        }
    }

    /// Serves the connection to its end.
    pub async fn run(mut self, messages: Incoming<web::Payload>) {
        let session = self.session.clone();
        let served = AssertUnwindSafe(self.serve(messages)).catch_unwind().await;
        let reason = match served {
            Ok(Close::Gone) => None,
            Ok(Close::Because(code, text)) => Some(CloseReason::from((code, text))),
            Err(_) => {
                metrics::panicked();
                tracing::error!("a WebSocket connection panicked");
                Some(CloseCode::Error.into())
            }
        };
        for stream in self.streams.values() {
            stream.cancel();
        }
        // The peer may be gone already, or take nothing.
        let _ = tokio::time::timeout(CLOSE_LIMIT, session.close(reason)).await;
    }

    async fn serve(&mut self, mut messages: Incoming<web::Payload>) -> Close {
        let Some(outgoing) = self.outgoing.take() else {
            return Close::Gone;
        };
        let mut writer = std::pin::pin!(write(
            self.session.clone(),
            outgoing,
            self.state.config.slow_reader()
        ));
        let mut heartbeat = tokio::time::interval(self.state.config.heartbeat());
        loop {
            let turn = tokio::select! {
                close = &mut writer => Err(close),
                message = messages.next() => self.hear(message).await,
                Some(ended) = self.ended.1.recv() => self.forget(&ended),
                _ = heartbeat.tick() => self.beat().await,
                () = self.state.stopping.closing.cancelled() => return self.drain(writer).await,
            };
            if let Err(close) = turn {
                return close;
            }
        }
    }

    async fn hear(&mut self, message: Option<Result<Message, Fault>>) -> Result<(), Close> {
        self.heard = Instant::now();
        match message {
            Some(Ok(Message::Text(text))) => match std::str::from_utf8(&text) {
                Ok(text) => {
                    self.follow(text);
                    Ok(())
                }
                Err(_) => Err(Close::Because(CloseCode::Invalid, "messages are UTF-8")),
            },
            Some(Ok(Message::Binary)) => {
                Err(Close::Because(CloseCode::Unsupported, "messages are text"))
            }
            Some(Ok(Message::Ping(data))) => {
                let patience = self.state.config.slow_reader();
                in_time(patience, self.session.pong(&data)).await
            }
            Some(Ok(Message::Pong)) => Ok(()),
            Some(Ok(Message::Close)) | None => Err(Close::Gone),
            Some(Err(Fault::TooLarge)) => Err(self.refuse_size().await),
            Some(Err(Fault::Protocol)) => Err(Close::Because(
                CloseCode::Protocol,
                "this is no WebSocket message",
            )),
        }
    }

    async fn refuse_size(&mut self) -> Close {
        // Past the frames that wait: nothing more of them is written once the connection closes.
        let told = self.session.text(frames::error(None, &too_large()));
        if let Err(close) = in_time(self.state.config.slow_reader(), told).await {
            return close;
        }
        Close::Because(
            CloseCode::Size,
            "the message is larger than this node takes",
        )
    }

    fn follow(&mut self, text: &str) {
        match ClientMessage::parse(text) {
            Ok(ClientMessage::Start { id, body }) => self.start(id, *body),
            Ok(ClientMessage::Cancel { id }) => self.cancel(&id),
            Ok(ClientMessage::Ping { id }) => self.say(frames::pong(&id)),
            Err(refused) => self.say(frames::error(
                refused.id.as_deref(),
                &invalid(refused.message),
            )),
        }
    }

    fn start(&mut self, id: String, body: ChatBody) {
        if let Err(error) = self.room_for(&id) {
            return self.say(frames::error(Some(&id), &error));
        }
        let cancel = CancellationToken::new();
        self.streams.insert(id.clone(), cancel.clone());
        let (state, out, ended) = (
            Arc::clone(&self.state),
            self.frames.clone(),
            self.ended.0.clone(),
        );
        actix_web::rt::spawn(async move {
            let streamed = AssertUnwindSafe(stream(&state, &id, body, &out, cancel)).catch_unwind();
            let end = match streamed.await {
                Ok(end) => end,
                Err(_) => {
                    metrics::panicked();
                    tracing::error!("a stream panicked before it began");
                    tell(&out, frames::error(Some(&id), &internal())).await
                }
            };
            // The connection may be over before its streams.
            let _ = ended.send(Ended { id, end });
        });
    }

    fn room_for(&self, id: &str) -> Result<(), PublicError> {
        if self.streams.contains_key(id) {
            let hint = "Give each stream an id of its own.";
            return Err(PublicError::new(
                ErrorCode::InvalidRequest,
                "A stream of this id is running.",
                hint,
            ));
        }
        if self.streams.len() >= self.state.config.ws_streams_per_connection_max {
            let hint = "Wait for a stream's end, or open another connection.";
            return Err(PublicError::new(
                ErrorCode::Overloaded,
                "This connection has all the streams it may have.",
                hint,
            )
            .retry_after_ms(1000));
        }
        Ok(())
    }

    fn cancel(&self, id: &str) {
        match self.streams.get(id) {
            Some(stream) => stream.cancel(),
            None => {
                let hint = "It may have ended already.";
                let error = PublicError::new(
                    ErrorCode::NotFound,
                    "No stream of this id is running.",
                    hint,
                );
                self.say(frames::error(Some(id), &error));
            }
        }
    }

    /// A reply outside of any stream. A client that floods without reading loses it: it is slow, and is closed as such.
    fn say(&self, frame: String) {
        let _ = self.frames.try_send(frame);
    }

    fn forget(&mut self, ended: &Ended) -> Result<(), Close> {
        self.streams.remove(&ended.id);
        match ended.end {
            RelayEnd::Slow => Err(slow()),
            RelayEnd::Told | RelayEnd::Gone => Ok(()),
        }
    }

    async fn beat(&mut self) -> Result<(), Close> {
        if self.heard.elapsed() > self.state.config.ws_silence() {
            return Err(Close::Because(CloseCode::Away, "nothing was heard"));
        }
        in_time(self.state.config.slow_reader(), self.session.ping(b"")).await
    }

    /// The node stops: every stream says so, then the connection closes.
    async fn drain(
        &mut self,
        mut writer: std::pin::Pin<&mut impl Future<Output = Close>>,
    ) -> Close {
        while !self.streams.is_empty() {
            tokio::select! {
                close = &mut writer => return close,
                Some(ended) = self.ended.1.recv() => if let Err(close) = self.forget(&ended) {
                    return close;
                },
            }
        }
        // With the last sender gone the writer ends once it has written every frame.
        self.frames = mpsc::channel(1).0;
        match writer.await {
            Close::Gone => Close::Because(CloseCode::Restart, "the node is shutting down"),
            slow => slow,
        }
    }
}

async fn stream(
    state: &EdgeState,
    id: &str,
    body: ChatBody,
    out: &mpsc::Sender<String>,
    cancel: CancellationToken,
) -> RelayEnd {
    let opened = async {
        let request = body.into_request(&state.chat)?;
        state.open(request).await
    };
    let pace = Pace {
        heartbeat: state.config.heartbeat(),
        slow_reader: state.config.slow_reader(),
    };
    match opened.await {
        Ok(session) => {
            relay(
                session,
                StreamFrames { id: id.to_owned() },
                out.clone(),
                cancel,
                pace,
            )
            .await
        }
        Err(error) => tell(out, frames::error(Some(id), &error)).await,
    }
}

async fn tell(out: &mpsc::Sender<String>, frame: String) -> RelayEnd {
    match out.send(frame).await {
        Ok(()) => RelayEnd::Told,
        Err(_) => RelayEnd::Gone,
    }
}

/// Carries frames to the socket until the client takes none for too long.
async fn write(
    mut session: actix_ws::Session,
    mut outgoing: mpsc::Receiver<String>,
    patience: Duration,
) -> Close {
    while let Some(frame) = outgoing.recv().await {
        if let Err(close) = in_time(patience, session.text(frame)).await {
            return close;
        }
    }
    Close::Gone
}

/// A message for the socket, which a client that reads takes in time.
async fn in_time(
    patience: Duration,
    sent: impl Future<Output = Result<(), actix_ws::Closed>>,
) -> Result<(), Close> {
    match tokio::time::timeout(patience, sent).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) => Err(Close::Gone),
        Err(_) => Err(slow()),
    }
}

const fn slow() -> Close {
    Close::Because(CloseCode::Policy, "the stream was not read for too long")
}
