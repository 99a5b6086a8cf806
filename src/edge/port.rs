//! The one seam between HTTP and the node: what handlers ask, answered by the wiring with the actors' handles.

use std::sync::Arc;

use blyan_formats::{BlockHash, ChainId, TensorName};
use blyan_protocol::{BoxFuture, ChatEvent, ChatRequest, ModelId, PublicError};
use blyan_supervisors::TreeNode;
use tokio::sync::mpsc;

use super::replies::{
    BlockReply, ChainHead, ExpertStats, Health, IntegrityStatus, LineageReply, SnapshotReply,
    VersionReply,
};

/// The model that answers.
#[derive(Clone, Debug)]
pub struct ServedModel {
    /// The manifest's hash.
    pub id: ModelId,
    /// For people and for OpenAI's `model` field.
    pub name: String,
    /// The manifest's time, ms since 1970.
    pub created_ms: u64,
    /// Experts of a layer.
    pub experts_per_layer: u32,
    /// Experts of a layer that take part in every token.
    pub always_on: u32,
    /// Prompt and answer together, in tokens.
    pub context: u32,
}

/// What the edge asks of the node behind it. Every call answers or refuses soon, also while parts are down.
pub trait NodePort: Send + Sync {
    /// The model that answers.
    fn model(&self) -> Result<Arc<ServedModel>, PublicError>;
    /// Admits a request.
    fn chat(&self, request: ChatRequest) -> BoxFuture<'_, Result<Answer, PublicError>>;
    /// Whether chat is answered, or why not.
    fn ready(&self) -> Result<(), PublicError>;
    /// Every part's state in one report.
    fn health(&self) -> BoxFuture<'_, Health>;
    /// The supervision tree.
    fn tree(&self) -> TreeNode;
    /// What failed its hash.
    fn integrity(&self) -> BoxFuture<'_, Result<IntegrityStatus, PublicError>>;
    /// The newest block of a chain; `None` on an empty chain.
    fn chain_head(&self, chain: ChainId) -> BoxFuture<'_, Result<Option<ChainHead>, PublicError>>;
    /// One block.
    fn block(
        &self,
        chain: ChainId,
        hash: BlockHash,
    ) -> BoxFuture<'_, Result<Option<BlockReply>, PublicError>>;
    /// Every block of a tensor, parents before children; empty where there is none.
    fn versions(&self, name: TensorName) -> BoxFuture<'_, Result<Vec<VersionReply>, PublicError>>;
    /// A block of chain B and its ancestors; `None` where there is no such block.
    fn lineage(&self, hash: BlockHash) -> BoxFuture<'_, Result<Option<LineageReply>, PublicError>>;
    /// Makes a snapshot of the store.
    fn make_snapshot(&self) -> BoxFuture<'_, Result<SnapshotReply, PublicError>>;
    /// The snapshots, oldest first.
    fn snapshots(&self) -> BoxFuture<'_, Result<Vec<SnapshotReply>, PublicError>>;
    /// The hash of the network's first block.
    fn genesis_hash(&self) -> BoxFuture<'_, Result<BlockHash, PublicError>>;
    /// The experts that computed the most tokens, most first.
    fn experts_top(&self, limit: usize) -> BoxFuture<'_, Result<Vec<ExpertStats>, PublicError>>;
    /// One expert; `None` if the model has none of that name.
    fn expert_stats(
        &self,
        name: TensorName,
    ) -> BoxFuture<'_, Result<Option<ExpertStats>, PublicError>>;
}

/// A request on its way. Dropping it cancels the request within one step.
pub struct Answer {
    events: mpsc::Receiver<ChatEvent>,
    cancel: Option<Box<dyn FnOnce() + Send>>,
}

impl Answer {
    /// The request's events, and what asks it to end early.
    pub fn new(events: mpsc::Receiver<ChatEvent>, cancel: impl FnOnce() + Send + 'static) -> Self {
        Self {
            events,
            cancel: Some(Box::new(cancel)),
        }
    }

    /// The next event; `None` if the request's owner went away without a last word.
    pub async fn next(&mut self) -> Option<ChatEvent> {
        self.events.recv().await
    }

    /// Asks the request to end; its last event still comes.
    pub fn cancel(&mut self) {
        if let Some(cancel) = self.cancel.take() {
            cancel();
        }
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        self.cancel();
    }
}
