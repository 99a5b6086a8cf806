//! A node whose answers are decided by the prompt.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use blyan::edge::replies::{
    BlockReply, ChainHead, ExpertStats, Health, HealthStatus, IntegrityStatus, LineageReply,
    SnapshotReply, VersionReply,
};
use blyan::edge::{Answer, NodePort, ServedModel};
use blyan_formats::{BlockHash, ChainId, TensorName};
use blyan_protocol::{
    BoxFuture, ChatEvent, ChatRequest, ChatSummary, ErrorCode, ExpertFault, ExpertsUsed,
    FinishReason, ModelId, PublicError, RequestId, Timing, TokenEvent, Usage,
};
use blyan_supervisors::{ChildState, Generation, LastExit, NodeKind, TreeNode};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

pub const MODEL: &str = "Scripted-1M";
pub const PROMPT_TOKENS: u32 = 7;
/// A panic text that only admins may read.
pub const SECRET: &str = "the prompt was: my password";

/// Prompts: `hello` answers two tokens; `forever` goes on until it is cancelled; `flood` does with long tokens;
/// `silence` says nothing until it is cancelled; `corrupt` and `full` are refused; `fails` fails after a token;
/// `vanishes` ends without a last word; `panics` panics.
#[derive(Default)]
pub struct Script {
    pub cancelled: Arc<AtomicUsize>,
    pub asked: AtomicUsize,
}

pub fn model_id() -> ModelId {
    ModelId(BlockHash::from_bytes([0xab; 32]))
}

/// A first version that the newest manifest names.
fn version(name: TensorName) -> VersionReply {
    VersionReply {
        name: name.to_string(),
        hash: "05".repeat(32),
        index: 0,
        payload_hash: "06".repeat(32),
        payload_len: 9,
        depends_on: Vec::new(),
        meta_ref: Some("07".repeat(32)),
        supersedes: Vec::new(),
        superseded_by: Vec::new(),
        current: true,
    }
}

pub fn unavailable() -> PublicError {
    PublicError::new(ErrorCode::Unavailable, "m", "h").retry_after_ms(2500)
}

fn corrupt() -> PublicError {
    let expert = ExpertFault {
        name: "layer4.expert7".into(),
        hash: "cd".repeat(32),
    };
    PublicError::new(ErrorCode::ExpertCorrupt, "m", "h").about_expert(expert)
}

fn token(index: u32, text: &str) -> ChatEvent {
    ChatEvent::Token(TokenEvent {
        index,
        text: text.into(),
        tokens_per_second: f64::from(index),
    })
}

fn ended(id: RequestId, tokens: u32, finish_reason: FinishReason) -> ChatEvent {
    ChatEvent::Ended(ChatSummary {
        id,
        model: model_id(),
        finish_reason,
        usage: Usage {
            prompt_tokens: PROMPT_TOKENS,
            completion_tokens: tokens,
            total_tokens: PROMPT_TOKENS + tokens,
        },
        experts: ExpertsUsed {
            top_k: 16,
            used: 480,
            loaded: 0,
        },
        timing: Timing::default(),
    })
}

/// Plays the request's part; returns what it says last, if anything.
async fn play(
    request: &ChatRequest,
    out: &mpsc::Sender<ChatEvent>,
    cancel: &CancellationToken,
) -> Option<ChatEvent> {
    let started = ChatEvent::Started {
        prompt_tokens: PROMPT_TOKENS,
        max_tokens: request.max_tokens,
    };
    out.send(started).await.ok()?;
    match request.messages.last()?.content.as_str() {
        "forever" => endless(request.id, "on and ", out, cancel).await,
        "flood" => endless(request.id, &"x".repeat(10_000), out, cancel).await,
        "silence" => {
            cancel.cancelled().await;
            Some(ended(request.id, 0, FinishReason::Cancelled))
        }
        "fails" => {
            out.send(token(0, "Hel")).await.ok()?;
            Some(ChatEvent::Failed(corrupt()))
        }
        "vanishes" => None,
        _ => {
            out.send(token(0, "Hel")).await.ok()?;
            out.send(token(1, "lo")).await.ok()?;
            Some(ended(request.id, 2, FinishReason::Stop))
        }
    }
}

async fn endless(
    id: RequestId,
    text: &str,
    out: &mpsc::Sender<ChatEvent>,
    cancel: &CancellationToken,
) -> Option<ChatEvent> {
    for index in 0.. {
        tokio::select! {
            biased;
            () = cancel.cancelled() => return Some(ended(id, index, FinishReason::Cancelled)),
            sent = out.send(token(index, text)) => sent.ok()?,
        }
        tokio::task::yield_now().await;
    }
    None
}

impl NodePort for Script {
    fn model(&self) -> Result<Arc<ServedModel>, PublicError> {
        Ok(Arc::new(ServedModel {
            id: model_id(),
            name: MODEL.into(),
            created_ms: 1_700_000_000_000,
            experts_per_layer: 16,
            always_on: 4,
            context: 2048,
        }))
    }

    fn chat(&self, request: ChatRequest) -> BoxFuture<'_, Result<Answer, PublicError>> {
        Box::pin(async move {
            self.asked.fetch_add(1, Ordering::SeqCst);
            match request
                .messages
                .last()
                .map(|message| message.content.as_str())
            {
                Some("panics") => panic!("{SECRET}"),
                Some("corrupt") => return Err(corrupt()),
                Some("full") => {
                    return Err(
                        PublicError::new(ErrorCode::Overloaded, "m", "h").retry_after_ms(1500)
                    );
                }
                _ => {}
            }
            let (out, events) = mpsc::channel(4);
            let cancel = CancellationToken::new();
            let (cancelled, asked) = (Arc::clone(&self.cancelled), cancel.clone());
            tokio::spawn(async move {
                if let Some(last) = play(&request, &out, &cancel).await {
                    let _ = out.send(last).await;
                }
                if cancel.is_cancelled() {
                    cancelled.fetch_add(1, Ordering::SeqCst);
                }
            });
            Ok(Answer::new(events, move || asked.cancel()))
        })
    }

    fn ready(&self) -> Result<(), PublicError> {
        Ok(())
    }

    fn health(&self) -> BoxFuture<'_, Health> {
        Box::pin(async {
            Health {
                status: HealthStatus::Ok,
                reasons: Vec::new(),
                version: "0".into(),
                uptime_s: 1,
                model_id: Some(model_id().to_string()),
                parts: Default::default(),
                replicas_running: 2,
                replicas_configured: 2,
                corrupt_blocks: 0,
                read_only: false,
                zombies: 0,
                requests: 0,
                waiting: 0,
            }
        })
    }

    fn tree(&self) -> TreeNode {
        TreeNode {
            id: "node".into(),
            kind: NodeKind::Supervisor,
            state: ChildState::Running,
            generation: Generation(1),
            restarts_in_window: 1,
            last_exit: None,
            quarantine_reason: None,
            mailbox_depth: 0,
            children: vec![TreeNode {
                id: "serving/replicas/inference-1".into(),
                kind: NodeKind::Worker,
                state: ChildState::BackingOff,
                generation: Generation(2),
                restarts_in_window: 1,
                last_exit: Some(LastExit {
                    class: "panicked".into(),
                    text: Some(SECRET.into()),
                    at_ms: 1,
                }),
                quarantine_reason: None,
                mailbox_depth: 0,
                children: Vec::new(),
            }],
        }
    }

    fn integrity(&self) -> BoxFuture<'_, Result<IntegrityStatus, PublicError>> {
        Box::pin(async { Err(unavailable()) })
    }

    fn chain_head(&self, chain: ChainId) -> BoxFuture<'_, Result<Option<ChainHead>, PublicError>> {
        Box::pin(async move {
            let head = ChainHead {
                chain: chain.to_string(),
                hash: "ef".repeat(32),
                index: 2,
                blocks: 3,
            };
            Ok((chain == ChainId::A).then_some(head))
        })
    }

    fn block(
        &self,
        _: ChainId,
        _: BlockHash,
    ) -> BoxFuture<'_, Result<Option<BlockReply>, PublicError>> {
        Box::pin(async { Ok(None) })
    }

    fn versions(&self, name: TensorName) -> BoxFuture<'_, Result<Vec<VersionReply>, PublicError>> {
        Box::pin(async move {
            let known = name == TensorName::expert_of(0, 1);
            Ok(known.then(|| version(name)).into_iter().collect())
        })
    }

    fn lineage(&self, hash: BlockHash) -> BoxFuture<'_, Result<Option<LineageReply>, PublicError>> {
        Box::pin(async move {
            let known = hash == BlockHash::from_bytes([5; 32]);
            Ok(known.then(|| LineageReply {
                blocks: vec![version(TensorName::expert_of(0, 1))],
                truncated: false,
            }))
        })
    }

    fn make_snapshot(&self) -> BoxFuture<'_, Result<SnapshotReply, PublicError>> {
        Box::pin(async {
            Ok(SnapshotReply {
                id: "1-0".into(),
                created_ms: 1,
                genesis: String::new(),
                blocks: 1,
                receipts: 0,
                payloads: 0,
                payload_bytes: 0,
                root: String::new(),
            })
        })
    }

    fn snapshots(&self) -> BoxFuture<'_, Result<Vec<SnapshotReply>, PublicError>> {
        Box::pin(async { Ok(Vec::new()) })
    }

    fn genesis_hash(&self) -> BoxFuture<'_, Result<BlockHash, PublicError>> {
        Box::pin(async { Ok(BlockHash::from_bytes([1; 32])) })
    }

    fn experts_top(&self, _: usize) -> BoxFuture<'_, Result<Vec<ExpertStats>, PublicError>> {
        Box::pin(async { Ok(Vec::new()) })
    }

    fn expert_stats(
        &self,
        _: TensorName,
    ) -> BoxFuture<'_, Result<Option<ExpertStats>, PublicError>> {
        Box::pin(async { Ok(None) })
    }
}
