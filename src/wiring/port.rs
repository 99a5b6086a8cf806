//! The edge's questions, answered with the actors' handles.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use blyan_chain::{ChainError, ChainHandle, Need, RocksStore, Store as _};
use blyan_expert_cache::{CorruptPayload, ExpertCacheHandle};
use blyan_formats::{BlockHash, ChainId, TensorName};
use blyan_inference::actor::InferenceActor;
use blyan_inference::engine::Engine;
use blyan_inference::handle::InferenceHandle;
use blyan_inference::usage::ExpertUsage;
use blyan_protocol::{
    BoxFuture, ChatRequest, ErrorCode, ExpertFault, ModelDescription, ModelEntry, ModelId,
    PublicError,
};
use blyan_supervisors::{ChildRef, ChildState, NodeKind, TreeHandle, TreeNode};
use parking_lot::Mutex;

use super::snapshots;
use super::tree::REPLICAS;
use super::versions;
use crate::config::Config;
use crate::edge::replies::{
    BlockReply, ChainHead, CorruptBlock, ExpertStats, Health, HealthStatus, IntegrityStatus,
    LineageReply, SnapshotReply, VersionReply,
};
use crate::edge::{Answer, NodePort, ServedModel};

/// When a node that has no engine yet suggests another try.
const STARTING_RETRY_MS: u64 = 1000;

/// The model that answers.
pub struct Published {
    /// Its weights.
    pub model: Arc<ModelDescription>,
    /// What the edge says of it.
    pub served: Arc<ServedModel>,
}

/// Joins the handles for the edge.
pub struct Port {
    /// The chain.
    pub chain: ChainHandle,
    /// The chain's files.
    pub store: Arc<RocksStore>,
    /// The cache.
    pub cache: ExpertCacheHandle,
    /// The replicas' handle, once there is an engine.
    pub inference: OnceLock<InferenceHandle>,
    /// The tree.
    pub tree: TreeHandle,
    /// The engine of the newest model; its successor shares its memory.
    pub engine: Mutex<Weak<Engine>>,
    published: ArcSwap<Published>,
    /// A model that is committed and cannot answer, and why.
    behind: Mutex<Option<(ModelId, String)>>,
    /// Held by whoever makes a model answer: one at a time, each after the newest manifest.
    pub changing: tokio::sync::Mutex<()>,
    replicas: OnceLock<Vec<ChildRef<InferenceActor>>>,
    replicas_configured: usize,
    request_timeout: Duration,
    started: Instant,
}

impl Port {
    /// A node whose replicas come later.
    pub fn new(
        config: &Config,
        chain: ChainHandle,
        store: Arc<RocksStore>,
        cache: ExpertCacheHandle,
        tree: TreeHandle,
        published: Published,
    ) -> Self {
        Self {
            chain,
            store,
            cache,
            inference: OnceLock::new(),
            tree,
            engine: Mutex::default(),
            published: ArcSwap::from_pointee(published),
            behind: Mutex::default(),
            changing: tokio::sync::Mutex::default(),
            replicas: OnceLock::new(),
            replicas_configured: config.inference.replicas as usize,
            request_timeout: config.inference.request_timeout(),
            started: Instant::now(),
        }
    }

    /// From now on these answer.
    pub fn serve_with(&self, handle: InferenceHandle, replicas: Vec<ChildRef<InferenceActor>>) {
        self.replicas.get_or_init(|| replicas);
        self.inference.get_or_init(|| handle);
    }

    /// The model that answers new requests.
    pub fn model(&self) -> Arc<ModelDescription> {
        Arc::clone(&self.published.load().model)
    }

    /// From now on this model answers.
    pub fn publish(&self, published: Published) {
        self.published.store(Arc::new(published));
    }

    /// Keeps for `/health` which committed model does not answer, or that none is behind.
    pub fn note_behind(&self, behind: Option<(ModelId, String)>) {
        *self.behind.lock() = behind;
    }

    /// The replicas; none before there is an engine.
    pub fn replicas(&self) -> &[ChildRef<InferenceActor>] {
        self.replicas.get().map_or(&[], Vec::as_slice)
    }

    /// The replicas, or why they cannot answer: none are there yet, a weight that every answer needs is corrupt, or
    /// there is no room for the receipt that every answer ends with.
    fn inference(&self) -> Result<&InferenceHandle, PublicError> {
        self.store.payloads().room().check(Need::Receipts)?;
        let corrupt = self.cache.status().corrupt;
        if let Some(record) = corrupt.iter().find(|record| record.name.expert().is_none()) {
            return Err(corrupt_weight(record));
        }
        self.inference.get().ok_or_else(starting)
    }

    fn corrupt(&self) -> Vec<CorruptPayload> {
        let mut corrupt = self.cache.status().corrupt;
        let model = self.model();
        corrupt.retain(|record| {
            model
                .entries
                .values()
                .any(|entry| entry.payload == record.payload)
        });
        corrupt
    }

    fn stats(&self, name: &TensorName, entry: &ModelEntry, usage: ExpertUsage) -> ExpertStats {
        let corrupt = self
            .cache
            .status()
            .corrupt
            .iter()
            .any(|record| record.payload == entry.payload);
        ExpertStats {
            name: name.to_string(),
            block: entry.block.to_string(),
            payload_hash: entry.payload.to_string(),
            payload_len: entry.payload_len,
            always_on: name
                .expert()
                .is_some_and(|expert| expert < self.model().architecture.experts.always_on),
            tokens: usage.tokens,
            requests: usage.requests,
            state: if corrupt { "corrupt" } else { "ok" }.to_owned(),
            earned: None,
        }
    }

    fn usage(&self, name: &TensorName) -> ExpertUsage {
        self.inference
            .get()
            .map_or_else(ExpertUsage::default, |inference| {
                inference.expert_usage(name)
            })
    }

    fn health_now(&self) -> Health {
        let tree = self.tree.describe();
        let mut parts = BTreeMap::new();
        collect_states(&tree, &mut parts);
        let corrupt = self.corrupt();
        let full = self.store.payloads().room().check(Need::Growth).err();
        let mut reasons = reasons(&parts, &corrupt);
        let behind = self.behind.lock().clone();
        reasons.extend(behind.map(|(model, why)| format!("model {model} does not answer: {why}")));
        reasons.extend(full.as_ref().map(ToString::to_string));
        let ready = self.ready();
        let status = match (&ready, reasons.is_empty()) {
            (Err(_), _) => HealthStatus::Unavailable,
            (Ok(()), false) => HealthStatus::Degraded,
            (Ok(()), true) => HealthStatus::Ok,
        };
        let running = |path: &String, state: &String| {
            path.starts_with(REPLICAS) && *state == ChildState::Running.name()
        };
        let (requests, waiting) = self.inference.get().map_or((0, 0), InferenceHandle::load);
        Health {
            status,
            reasons: ready
                .err()
                .map(|error| error.message)
                .into_iter()
                .chain(reasons)
                .collect(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_s: self.started.elapsed().as_secs(),
            model_id: Some(self.model().id.to_string()),
            replicas_running: parts
                .iter()
                .filter(|(path, state)| running(path, state))
                .count(),
            replicas_configured: self.replicas_configured,
            corrupt_blocks: corrupt.len(),
            read_only: full.is_some(),
            zombies: self.tree.zombies(),
            requests,
            waiting,
            parts,
        }
    }
}

impl NodePort for Port {
    fn model(&self) -> Result<Arc<ServedModel>, PublicError> {
        Ok(Arc::clone(&self.published.load().served))
    }

    fn chat(&self, request: ChatRequest) -> BoxFuture<'_, Result<Answer, PublicError>> {
        Box::pin(async move {
            let stream = self
                .inference()?
                .submit(request, self.request_timeout)
                .await?;
            let (events, canceller) = stream.into_parts();
            Ok(Answer::new(events, move || canceller.cancel()))
        })
    }

    fn ready(&self) -> Result<(), PublicError> {
        self.inference()?.ready()
    }

    fn health(&self) -> BoxFuture<'_, Health> {
        Box::pin(async move { self.health_now() })
    }

    fn tree(&self) -> TreeNode {
        self.tree.describe()
    }

    fn integrity(&self) -> BoxFuture<'_, Result<IntegrityStatus, PublicError>> {
        Box::pin(async move {
            let corrupt = self.corrupt();
            Ok(IntegrityStatus {
                status: if corrupt.is_empty() { "ok" } else { "corrupt" }.to_owned(),
                model_id: Some(self.model().id.to_string()),
                blocks: self.model().entries.len(),
                corrupt: corrupt
                    .iter()
                    .map(|record| self.corrupt_block(record))
                    .collect(),
            })
        })
    }

    fn chain_head(&self, chain: ChainId) -> BoxFuture<'_, Result<Option<ChainHead>, PublicError>> {
        Box::pin(async move {
            let head = self.chain.head(chain).await?;
            Ok(head.map(|head| ChainHead {
                chain: head.chain.to_string(),
                hash: head.hash.to_string(),
                index: head.index,
                blocks: head.blocks,
            }))
        })
    }

    fn block(
        &self,
        chain: ChainId,
        hash: BlockHash,
    ) -> BoxFuture<'_, Result<Option<BlockReply>, PublicError>> {
        Box::pin(async move {
            let stored = match self.chain.block(hash).await {
                Ok(stored) if stored.block.header.chain == chain => stored,
                Ok(_) | Err(ChainError::NoBlock(_)) => return Ok(None),
                Err(error) => return Err(error.into()),
            };
            Ok(Some(BlockReply {
                hash: stored.hash.to_string(),
                header: json(&stored.block.header)?,
                signature: stored.block.signature.to_string(),
                commit: json(&stored.commit)?,
            }))
        })
    }

    fn versions(&self, name: TensorName) -> BoxFuture<'_, Result<Vec<VersionReply>, PublicError>> {
        Box::pin(async move { Ok(versions::versions(&self.chain, name).await?) })
    }

    fn lineage(&self, hash: BlockHash) -> BoxFuture<'_, Result<Option<LineageReply>, PublicError>> {
        Box::pin(async move { Ok(versions::lineage(&self.chain, hash).await?) })
    }

    fn make_snapshot(&self) -> BoxFuture<'_, Result<SnapshotReply, PublicError>> {
        Box::pin(async move { Ok(snapshots::make(&self.store).await?) })
    }

    fn snapshots(&self) -> BoxFuture<'_, Result<Vec<SnapshotReply>, PublicError>> {
        Box::pin(async move { Ok(snapshots::all(&self.store).await?) })
    }

    fn genesis_hash(&self) -> BoxFuture<'_, Result<BlockHash, PublicError>> {
        Box::pin(async move { self.chain.genesis().await?.ok_or_else(starting) })
    }

    fn experts_top(&self, limit: usize) -> BoxFuture<'_, Result<Vec<ExpertStats>, PublicError>> {
        Box::pin(async move {
            let model = self.model();
            let experts = model
                .entries
                .iter()
                .filter(|(name, _)| name.expert().is_some());
            let mut all: Vec<_> = experts
                .map(|(name, entry)| (self.usage(name), name, entry))
                .collect();
            all.sort_by_key(|(usage, name, _)| (std::cmp::Reverse(usage.tokens), **name));
            let top = all.into_iter().take(limit);
            Ok(top
                .map(|(usage, name, entry)| self.stats(name, entry, usage))
                .collect())
        })
    }

    fn expert_stats(
        &self,
        name: TensorName,
    ) -> BoxFuture<'_, Result<Option<ExpertStats>, PublicError>> {
        Box::pin(async move {
            let model = self.model();
            let entry = model.entries.get(&name).filter(|_| name.expert().is_some());
            Ok(entry.map(|entry| self.stats(&name, entry, self.usage(&name))))
        })
    }
}

impl Port {
    fn corrupt_block(&self, record: &CorruptPayload) -> CorruptBlock {
        let model = self.model();
        let named = || Some(model.entries.get(&record.name)?.block);
        let block = record.block.or_else(named);
        CorruptBlock {
            name: record.name.to_string(),
            block: block.map(|block| block.to_string()).unwrap_or_default(),
            payload_hash: record.payload.to_string(),
            fault: record.fault.clone(),
        }
    }
}

fn collect_states(node: &TreeNode, states: &mut BTreeMap<String, String>) {
    if node.kind == NodeKind::Worker {
        states.insert(node.id.clone(), node.state.name().to_owned());
    }
    node.children
        .iter()
        .for_each(|child| collect_states(child, states));
}

fn reasons(parts: &BTreeMap<String, String>, corrupt: &[CorruptPayload]) -> Vec<String> {
    let down = parts
        .iter()
        .filter(|(_, state)| *state != ChildState::Running.name());
    let down = down.map(|(path, state)| format!("{path} is {state}"));
    let corrupt = corrupt
        .iter()
        .map(|record| format!("{} is corrupt", record.name));
    down.chain(corrupt).collect()
}

fn json(value: &impl serde::Serialize) -> Result<serde_json::Value, PublicError> {
    serde_json::to_value(value).map_err(|fault| {
        PublicError::new(
            ErrorCode::Internal,
            format!("The block cannot be shown: {fault}."),
            "Look at the node's log.",
        )
    })
}

fn starting() -> PublicError {
    let sentence = "The node is starting: its model is not mapped yet.";
    PublicError::new(ErrorCode::Unavailable, sentence, "Try again shortly.")
        .retry_after_ms(STARTING_RETRY_MS)
}

fn corrupt_weight(record: &CorruptPayload) -> PublicError {
    let sentence = format!(
        "The weight {} fails its hash, and every answer needs it.",
        record.name
    );
    let hint =
        "The operator has to restore its file (`blyan verify` names it) and to restart the node.";
    let fault = ExpertFault {
        name: record.name.to_string(),
        hash: record.payload.to_string(),
    };
    PublicError::new(ErrorCode::ExpertCorrupt, sentence, hint).about_expert(fault)
}
