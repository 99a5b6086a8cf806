//! A running answer as every kind of stream tells it: metered, cancelled, watched for slow readers.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use blyan_protocol::{
    ChatEvent, ChatRequest, ChatSummary, ErrorCode, FinishReason, PublicError, RequestId,
    TokenEvent,
};
use futures_util::FutureExt;
use serde::Serialize;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio_util::sync::CancellationToken;
use utoipa::ToSchema;

use super::error::ErrorDetail;
use super::metrics;
use super::port::{Answer, ServedModel};
use super::pricing::MicroBly;
use super::replies::{Experts, Timing, Usage, rounded};
use super::security::internal;
use super::state::{EdgeState, Stopping};
use crate::config::PricingConfig;

/// Frames waiting for a client before its sequence is left out of the batch.
pub const FRAMES_WAITING_MAX: usize = 64;
/// A failure within this time is told by the HTTP status instead of an event.
const FIRST_EVENT_WAIT: Duration = Duration::from_secs(1);

/// The first event of a stream.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct StreamStart {
    /// The request id, as in the receipt.
    #[schema(value_type = String)]
    pub stream_id: RequestId,
    /// The model's name.
    pub model: String,
    /// The manifest's hash.
    pub model_id: String,
    /// Tokens of the prompt in its chat template.
    pub prompt_tokens: u32,
    /// Tokens that are generated at most.
    pub max_tokens: u32,
    /// What the prompt costs, in 10^-6 BLY.
    #[schema(value_type = String)]
    pub input_cost: MicroBly,
    /// Whether it is charged.
    pub charged: bool,
}

/// One token.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct StreamToken {
    /// Its text, whole characters only; may be empty.
    pub token: String,
    /// From 0.
    pub index: u32,
    /// What the stream costs so far, prompt included, in 10^-6 BLY.
    #[schema(value_type = String)]
    pub cumulative_cost: MicroBly,
    /// Since the first token.
    pub tokens_per_second: f64,
}

/// The last event of a stream that did not fail.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct StreamEnd {
    /// The request id.
    #[schema(value_type = String)]
    pub stream_id: RequestId,
    /// `stop`, `length` or `cancelled`.
    #[schema(value_type = String)]
    pub finish_reason: FinishReason,
    /// Prompt and answer.
    pub total_tokens: u32,
    /// In 10^-6 BLY.
    #[schema(value_type = String)]
    pub total_cost: MicroBly,
    /// Whether it was charged.
    pub charged: bool,
    /// Seconds from admission.
    pub duration: f64,
    /// Tokens in and out.
    pub usage: Usage,
    /// What the experts did.
    pub experts: Experts,
    /// Where the time went.
    pub timing: Timing,
}

/// What a stream tells its client.
#[derive(Clone, Debug)]
pub enum StreamEvent {
    /// The request was admitted.
    Start(StreamStart),
    /// The next token.
    Token(StreamToken),
    /// The end.
    End(StreamEnd),
    /// The end by an error.
    Error(ErrorDetail),
    /// Nothing happened for the length of a heartbeat.
    Idle,
}

/// Writes events in the form of one kind of stream.
pub trait Encode {
    /// The event as text for the client; `None` if this kind of stream does not tell it.
    fn encode(&mut self, event: &StreamEvent) -> Option<String>;
}

/// An admitted request with its meter. Dropping it cancels the request.
pub struct Session {
    id: RequestId,
    model: Arc<ServedModel>,
    answer: Answer,
    prices: PricingConfig,
    stopping: Stopping,
    pending: Option<ChatEvent>,
    prompt_tokens: u32,
    began: Instant,
    told_end: bool,
    _permit: OwnedSemaphorePermit,
    _open: metrics::Open,
}

impl EdgeState {
    /// Admits a request, one of `edge.streams_max`.
    pub async fn open(&self, request: ChatRequest) -> Result<Session, PublicError> {
        if self.stopping.closing.is_cancelled() {
            return Err(self.stopping.why());
        }
        let permit = Arc::clone(&self.streams)
            .try_acquire_owned()
            .map_err(|_| too_many())?;
        let model = self.node.model()?;
        let id = request.id;
        let began = Instant::now();
        let answer = self.node.chat(request).await?;
        Ok(Session {
            id,
            model,
            answer,
            prices: self.prices,
            stopping: self.stopping.clone(),
            pending: None,
            prompt_tokens: 0,
            began,
            told_end: false,
            _permit: permit,
            _open: metrics::Open::stream(),
        })
    }
}

impl Session {
    /// The request.
    pub fn id(&self) -> RequestId {
        self.id
    }

    /// The model that answers.
    pub fn model(&self) -> &ServedModel {
        &self.model
    }

    /// Since admission.
    pub fn age(&self) -> Duration {
        self.began.elapsed()
    }

    /// Waits a moment for the first event, so that a request which fails at once fails with an HTTP status.
    pub async fn settle(&mut self) -> Result<(), PublicError> {
        let Ok(event) = tokio::time::timeout(FIRST_EVENT_WAIT, self.next()).await else {
            return Ok(());
        };
        match event {
            ChatEvent::Failed(error) => Err(error),
            other => {
                self.pending = Some(other);
                Ok(())
            }
        }
    }

    /// The next event; the last is `Ended` or `Failed`.
    pub async fn next(&mut self) -> ChatEvent {
        if let Some(event) = self.pending.take() {
            return event;
        }
        let event = tokio::select! {
            biased;
            () = self.stopping.cut.cancelled() => ChatEvent::Failed(self.stopping.why()),
            event = self.answer.next() => event.unwrap_or_else(|| ChatEvent::Failed(lost())),
        };
        self.count(&event);
        event
    }

    /// Asks the request to end; its last event still comes.
    pub fn cancel(&mut self) {
        self.answer.cancel();
    }

    fn count(&mut self, event: &ChatEvent) {
        match event {
            ChatEvent::Started { prompt_tokens, .. } => self.prompt_tokens = *prompt_tokens,
            ChatEvent::Token(token) if token.index == 0 => metrics::first_token(self.age()),
            ChatEvent::Token(_) => {}
            ChatEvent::Ended(summary) => self.end(finish_name(summary.finish_reason)),
            ChatEvent::Failed(error) => self.end(error.code.as_str()),
        }
    }

    fn end(&mut self, how: &'static str) {
        self.told_end = true;
        metrics::stream_ended(how);
    }

    fn tell(&self, event: ChatEvent) -> StreamEvent {
        match event {
            ChatEvent::Started {
                prompt_tokens,
                max_tokens,
            } => StreamEvent::Start(self.start(prompt_tokens, max_tokens)),
            ChatEvent::Token(token) => StreamEvent::Token(self.token(token)),
            ChatEvent::Ended(summary) => StreamEvent::End(self.ended(&summary)),
            ChatEvent::Failed(error) => StreamEvent::Error(self.error(&error)),
        }
    }

    fn start(&self, prompt_tokens: u32, max_tokens: u32) -> StreamStart {
        StreamStart {
            stream_id: self.id,
            model: self.model.name.clone(),
            model_id: self.model.id.to_string(),
            prompt_tokens,
            max_tokens,
            input_cost: self.prices.cost(prompt_tokens.into(), 0),
            charged: false,
        }
    }

    fn token(&self, token: TokenEvent) -> StreamToken {
        let tokens = u64::from(token.index) + 1;
        StreamToken {
            token: token.text,
            index: token.index,
            cumulative_cost: self.prices.cost(self.prompt_tokens.into(), tokens),
            tokens_per_second: rounded(token.tokens_per_second),
        }
    }

    fn ended(&self, summary: &ChatSummary) -> StreamEnd {
        let usage = summary.usage;
        StreamEnd {
            stream_id: self.id,
            finish_reason: summary.finish_reason,
            total_tokens: usage.total_tokens,
            total_cost: self
                .prices
                .cost(usage.prompt_tokens.into(), usage.completion_tokens.into()),
            charged: false,
            duration: rounded(self.age().as_secs_f64()),
            usage: usage.into(),
            experts: summary.experts.into(),
            timing: summary.timing.into(),
        }
    }

    fn error(&self, error: &PublicError) -> ErrorDetail {
        metrics::refused(error.code);
        ErrorDetail::new(error, Some(self.id))
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if !self.told_end {
            metrics::stream_ended("abandoned");
        }
    }
}

/// How a relay ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RelayEnd {
    /// The client was told the end.
    Told,
    /// The client went away.
    Gone,
    /// The client took nothing for too long.
    Slow,
}

/// The times of a relay.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Between two signs of life.
    pub heartbeat: Duration,
    /// How long a client may take nothing.
    pub slow_reader: Duration,
}

/// Carries an answer to its client until its end. Never keeps a frame back for good: room for the last one is
/// reserved before the first is sent.
pub async fn relay(
    mut session: Session,
    mut encoder: impl Encode,
    out: mpsc::Sender<String>,
    cancel: CancellationToken,
    pace: Pace,
) -> RelayEnd {
    let Ok(room_for_last) = out.clone().reserve_owned().await else {
        return RelayEnd::Gone;
    };
    let carried = AssertUnwindSafe(carry(&mut session, &mut encoder, &out, &cancel, pace));
    let (last, end) = match carried.catch_unwind().await {
        Ok(Carried::Last(event)) => (event, RelayEnd::Told),
        Ok(Carried::Gone) => return RelayEnd::Gone,
        Ok(Carried::Slow) => (
            StreamEvent::Error(session.error(&slow_reader())),
            RelayEnd::Slow,
        ),
        Err(_) => {
            metrics::panicked();
            tracing::error!(request = %session.id, "a stream panicked");
            (
                StreamEvent::Error(session.error(&internal())),
                RelayEnd::Told,
            )
        }
    };
    if let Some(frame) = encoder.encode(&last) {
        room_for_last.send(frame);
    }
    end
}

enum Carried {
    Last(StreamEvent),
    Gone,
    Slow,
}

async fn carry(
    session: &mut Session,
    encoder: &mut impl Encode,
    out: &mpsc::Sender<String>,
    cancel: &CancellationToken,
    pace: Pace,
) -> Carried {
    let mut cancelled = false;
    loop {
        let event = tokio::select! {
            biased;
            () = out.closed() => return Carried::Gone,
            () = cancel.cancelled(), if !cancelled => {
                cancelled = true;
                session.cancel();
                continue;
            }
            event = session.next() => session.tell(event),
            () = tokio::time::sleep(pace.heartbeat) => StreamEvent::Idle,
        };
        if matches!(event, StreamEvent::End(_) | StreamEvent::Error(_)) {
            return Carried::Last(event);
        }
        let Some(frame) = encoder.encode(&event) else {
            continue;
        };
        match tokio::time::timeout(pace.slow_reader, out.send(frame)).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return Carried::Gone,
            Err(_) => return Carried::Slow,
        }
    }
}

const fn finish_name(reason: FinishReason) -> &'static str {
    match reason {
        FinishReason::Stop => "stop",
        FinishReason::Length => "length",
        FinishReason::Cancelled => "cancelled",
    }
}

fn too_many() -> PublicError {
    PublicError::new(
        ErrorCode::Overloaded,
        "As many answers are being made as this node admits.",
        "Wait for the time in retry_after_ms and ask again.",
    )
    .retry_after_ms(1000)
}

fn lost() -> PublicError {
    PublicError::new(
        ErrorCode::Unavailable,
        "The part of the node that made this answer went away.",
        "Ask again; it is being restarted.",
    )
    .retry_after_ms(1000)
}

fn slow_reader() -> PublicError {
    PublicError::new(
        ErrorCode::SlowReader,
        "The stream was not read for too long.",
        "Read the stream while it comes, or ask without streaming.",
    )
}
