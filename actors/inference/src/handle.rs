//! What the rest of the node calls.

use std::sync::Arc;
use std::time::Duration;

use blyan_formats::TensorName;
use blyan_protocol::{ChatEvent, ChatRequest, ErrorCode, ModelDescription, ModelId, PublicError};
use blyan_supervisors::{CallError, ChildRef, ChildSpec, ChildState};
use tokio::sync::mpsc;

use crate::actor::{InferenceActor, Wake};
use crate::core::{NewSequence, Refusal, ReplicaId, SequenceId};
pub use crate::edition::Retired;
use crate::error::InferenceError;
use crate::serving::{Parts, Serving};
use crate::step::StepEngine;
use crate::table::SequenceTable;
use crate::tokenizer::{ChatTokenizer, Transcript};
use crate::usage::ExpertUsage;
use crate::{metrics, validate};

/// When a refusal for want of room suggests another try.
const OVERLOADED_RETRY_MS: u64 = 1000;
/// The same while nothing is known about the replicas.
const DOWN_RETRY_MS: u64 = 1000;
/// The same while only a person can bring a replica back.
const QUARANTINED_RETRY_MS: u64 = 30_000;

/// Asks the replicas for answers. Clones ask the same replicas; it outlives all their restarts.
#[derive(Clone)]
pub struct InferenceHandle {
    serving: Arc<Serving>,
    replicas: Arc<[ChildRef<InferenceActor>]>,
}

/// An answer on its way: events in order, the last of them `Ended` or `Failed`. Dropping it cancels the request; what
/// a step under way computes for it is thrown away.
#[derive(Debug)]
pub struct ChatStream {
    events: mpsc::Receiver<ChatEvent>,
    canceller: Canceller,
}

/// Cancels one request, also when dropped.
pub struct Canceller {
    table: Arc<SequenceTable>,
    id: SequenceId,
}

impl InferenceHandle {
    /// The handle, and the replicas for the supervision tree in their order. The wiring may set windows and limits.
    ///
    /// # Errors
    /// [`InferenceError::Config`], [`InferenceError::Tokenizer`].
    ///
    /// # Panics
    /// Outside of a tokio runtime. That runtime carries receipts and time limits and must outlive the replicas.
    pub fn new(parts: Parts) -> Result<(Self, Vec<ChildSpec<InferenceActor>>), InferenceError> {
        let serving = Serving::new(parts)?;
        let numbers = (1..=serving.config.replicas).map(ReplicaId);
        let specs: Vec<_> = numbers
            .map(|number| InferenceActor::spec(&serving, number))
            .collect();
        let replicas: Arc<[_]> = specs.iter().map(ChildSpec::child_ref).collect();
        let seen = Arc::clone(&replicas);
        serving
            .table
            .ask_when_absent(Box::new(move || gone_for_good(&seen)));
        Ok((Self { serving, replicas }, specs))
    }

    /// Admits a request that may take `within`, at most the configured time. Tokenises in the caller's task.
    ///
    /// # Errors
    /// `invalid_request`, `invalid_top_k`, `payload_too_large`, `context_too_long`; `overloaded`, `unavailable`,
    /// `quarantined` or `shutting_down`, with a time to try again; `expert_corrupt` when an expert that the request
    /// needs is known to be. Then there is no receipt.
    pub async fn submit(
        &self,
        request: ChatRequest,
        within: Duration,
    ) -> Result<ChatStream, PublicError> {
        let admitted = self.admit(request, within);
        if let Err(error) = &admitted {
            metrics::refused(error.code.as_str());
        }
        admitted
    }

    fn admit(&self, request: ChatRequest, within: Duration) -> Result<ChatStream, PublicError> {
        let Serving { config, table, .. } = &*self.serving;
        let edition = self.serving.edition.load_full();
        let experts = edition.shape();
        validate::validate(&request, &experts, config.input_bytes_max)?;
        let default_top_k = config
            .top_k_experts_default
            .unwrap_or(u32::from(experts.per_layer));
        let top_k = request.top_k_experts.unwrap_or(default_top_k);
        if let Some(error) = edition.health.blocker(top_k) {
            return Err(error);
        }
        self.ready()?;
        let prompt = self.prompt(&request)?;
        let room = (self.serving.context - prompt.len()) as u32;
        let new = NewSequence {
            prompt,
            max_new: request.max_tokens.min(room),
            top_k,
            sampling: request.sampling,
            transcript: Transcript::new(
                Arc::clone(self.serving.tokenizer.vocabulary()),
                request.stop,
            ),
            deadline: table.deadline(within.min(config.request_timeout())),
        };
        let (id, events) = table.submit(request.id, edition, new).map_err(refused)?;
        Ok(ChatStream {
            events,
            canceller: Canceller {
                table: Arc::clone(table),
                id,
            },
        })
    }

    /// The request's tokens: at least one, and fewer than the context holds.
    fn prompt(&self, request: &ChatRequest) -> Result<Vec<u32>, PublicError> {
        let prompt = self
            .serving
            .tokenizer
            .encode_chat(&request.messages)
            .map_err(|why| {
                let hint = "Send the messages as plain text.";
                PublicError::new(ErrorCode::InvalidRequest, why.to_string(), hint)
            })?;
        let context = self.serving.context;
        if prompt.len() < context {
            return Ok(prompt);
        }
        let sentence = format!(
            "The prompt has {} tokens; the context holds {context}.",
            prompt.len()
        );
        let hint = "Shorten the conversation.";
        Err(PublicError::new(ErrorCode::ContextTooLong, sentence, hint))
    }

    /// Whether a replica takes requests.
    ///
    /// # Errors
    /// `unavailable`, or `quarantined` when only a person can bring one back; both with a time to try again.
    pub fn ready(&self) -> Result<(), PublicError> {
        let mut soonest: Option<CallError> = None;
        for replica in self.replicas.iter() {
            match replica.try_tell(Wake) {
                Ok(()) | Err(CallError::Full { .. }) => return Ok(()),
                Err(refusal) => soonest = Some(sooner(soonest, refusal)),
            }
        }
        Err(soonest.map_or_else(|| unavailable(DOWN_RETRY_MS), down))
    }

    /// The model that answers new requests.
    #[must_use]
    pub fn model(&self) -> ModelId {
        self.serving.edition.load().model
    }

    /// Lets another model of the same architecture answer from now on. Every answer that was begun before ends as it
    /// began, and names the model that it began with.
    ///
    /// # Errors
    /// [`InferenceError::OtherArchitecture`].
    pub fn change_model(
        &self,
        model: &ModelDescription,
        engine: Arc<dyn StepEngine>,
    ) -> Result<Retired, InferenceError> {
        self.serving.change_model(model, engine)
    }

    /// What an expert has done since the node was started.
    #[must_use]
    pub fn expert_usage(&self, name: &TensorName) -> ExpertUsage {
        self.serving.usage.of(name)
    }

    /// The `limit` experts that computed the most tokens, most first.
    #[must_use]
    pub fn experts_top(&self, limit: usize) -> Vec<(TensorName, ExpertUsage)> {
        self.serving.usage.top(limit)
    }

    /// Requests in the house, and of them those that wait for a replica.
    #[must_use]
    pub fn load(&self) -> (usize, usize) {
        self.serving.table.load()
    }

    /// Tokens that prompt and answer of one request can have together.
    #[must_use]
    pub fn context(&self) -> usize {
        self.serving.context
    }

    /// The model's tokenizer.
    #[must_use]
    pub fn tokenizer(&self) -> &ChatTokenizer {
        &self.serving.tokenizer
    }

    /// Ends every request with `why`, admits no more, and waits until all receipts are durable, at most `within`.
    /// Returns how many are not.
    pub async fn drain(&self, why: &PublicError, within: Duration) -> usize {
        self.serving.table.drain(why, within).await
    }
}

impl ChatStream {
    /// The next event; `None` after the last.
    pub async fn next(&mut self) -> Option<ChatEvent> {
        self.events.recv().await
    }

    /// Ends the request as cancelled; its last event still comes. Does nothing once it has ended.
    pub fn cancel(&self) {
        self.canceller.cancel();
    }

    /// Events and canceller apart. Dropping the canceller cancels the request.
    #[must_use]
    pub fn into_parts(self) -> (mpsc::Receiver<ChatEvent>, Canceller) {
        (self.events, self.canceller)
    }
}

impl Canceller {
    /// Ends the request as cancelled; does nothing once it has ended.
    pub fn cancel(&self) {
        self.table.cancel(self.id);
    }
}

impl Drop for Canceller {
    fn drop(&mut self) {
        self.cancel();
    }
}

impl std::fmt::Debug for Canceller {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Canceller({:?})", self.id)
    }
}

/// The error that ends waiting requests when no replica will come back by itself.
fn gone_for_good(replicas: &[ChildRef<InferenceActor>]) -> Option<PublicError> {
    let down = |state| matches!(state, ChildState::Quarantined | ChildState::Stopped);
    let quarantined = replicas
        .iter()
        .any(|replica| replica.state() == ChildState::Quarantined);
    let all_down = replicas.iter().all(|replica| down(replica.state()));
    (all_down && quarantined).then(|| quarantine(QUARANTINED_RETRY_MS))
}

/// Of two refusals the one after which another try makes sense first.
fn sooner(known: Option<CallError>, refusal: CallError) -> CallError {
    let known = known.filter(|known| known.retry_after() <= refusal.retry_after());
    known.unwrap_or(refusal)
}

fn down(refusal: CallError) -> PublicError {
    let ms = refusal
        .retry_after()
        .and_then(|after| u64::try_from(after.as_millis()).ok());
    match refusal {
        CallError::Quarantined { .. } => quarantine(ms.unwrap_or(QUARANTINED_RETRY_MS)),
        _ => unavailable(ms.unwrap_or(DOWN_RETRY_MS)),
    }
}

fn unavailable(retry_ms: u64) -> PublicError {
    let sentence = "No inference replica is running at the moment.";
    PublicError::new(ErrorCode::Unavailable, sentence, "Try again shortly.")
        .retry_after_ms(retry_ms)
}

fn quarantine(retry_ms: u64) -> PublicError {
    let sentence = "Every inference replica is quarantined after repeated failures.";
    let hint = "The node's operator has to recover one.";
    PublicError::new(ErrorCode::Quarantined, sentence, hint).retry_after_ms(retry_ms)
}

fn refused(refusal: Refusal) -> PublicError {
    match refusal {
        Refusal::ShuttingDown => shutting_down(),
        Refusal::Overloaded => {
            let sentence = "The node has as many requests as it takes.";
            PublicError::new(
                ErrorCode::Overloaded,
                sentence,
                "Try again when some have been answered.",
            )
            .retry_after_ms(OVERLOADED_RETRY_MS)
        }
    }
}

/// Of a node that stops.
#[must_use]
pub fn shutting_down() -> PublicError {
    let sentence = "The node is shutting down.";
    PublicError::new(
        ErrorCode::ShuttingDown,
        sentence,
        "Ask another node, or this one after its restart.",
    )
}
