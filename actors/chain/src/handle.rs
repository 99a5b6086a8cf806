use std::time::Duration;

use actix::{Actor, Context, Handler, Message};
use blyan_formats::{BlockHash, ChainId, ContentHash, PayloadHash, SignedBlock};
use blyan_protocol::{
    BoxFuture, ModelDescription, ModelId, PayloadLocation, PayloadSource, PublicError, Receipt,
    ReceiptSink, RequestId,
};
use blyan_supervisors::ChildRef;

use crate::actor::{
    AppendBlocks, ChainActor, FindBlocks, GetBlock, GetBody, GetGenesis, GetHead, GetLineage,
    GetModel, GetReceipt, GetSigners, GetUploadTerms, ListModels, ListReceipts, LocatePayload,
    Ping, RecordReceipts, RememberFp32,
};
use crate::checked::CheckedBlock;
use crate::core::{BlockQuery, Head, Lineage, Signers, Version};
use crate::reader::StoredBlock;
use crate::store::{ReceiptCursor, RocksStore, Store};
use crate::uploads::UploadTerms;
use crate::writer::{Acceptance, Appended, NewBlock};
use crate::{ChainConfig, ChainError};

/// What other parts call. It outlives restarts of the actor; while the actor is down every call is refused at once
/// with [`ChainError::Call`]. All calls are idempotent, so a lost or late answer may be asked for again.
pub struct ChainHandle<S: Store = RocksStore> {
    child: ChildRef<ChainActor<S>>,
    reply_timeout: Duration,
}

impl<S: Store> Clone for ChainHandle<S> {
    fn clone(&self) -> Self {
        Self {
            child: self.child.clone(),
            reply_timeout: self.reply_timeout,
        }
    }
}

impl<S: Store> ChainHandle<S> {
    /// The handle of a child made by [`ChainActor::spec`].
    pub fn new(child: ChildRef<ChainActor<S>>, config: &ChainConfig) -> Self {
        Self {
            child,
            reply_timeout: Duration::from_millis(config.reply_timeout_ms),
        }
    }

    /// The child behind the handle.
    pub const fn child(&self) -> &ChildRef<ChainActor<S>> {
        &self.child
    }

    async fn ask<M, T>(&self, message: M) -> Result<T, ChainError>
    where
        ChainActor<S>: Handler<M> + Actor<Context = Context<ChainActor<S>>>,
        M: Message<Result = Result<T, ChainError>> + Send + 'static,
        T: Send + 'static,
    {
        self.child.call(message, self.reply_timeout).await?
    }

    /// Appends blocks in order, all or none. Blocks that are there already stay as they are. Once this returns they
    /// are durable. Signatures are checked here, before the actor is asked: it has no time for them.
    ///
    /// # Errors
    /// [`ChainError::Refused`] for the first block that breaks a rule; [`ChainError::NotDurable`]: nothing was
    /// published.
    pub async fn append(
        &self,
        blocks: Vec<NewBlock>,
        acceptance: Acceptance,
    ) -> Result<Vec<Appended>, ChainError> {
        let checked = CheckedBlock::check_all(blocks)?;
        self.ask(AppendBlocks(checked, acceptance)).await
    }

    /// The newest end of a chain; `None` for an empty one.
    ///
    /// # Errors
    /// [`ChainError::Call`].
    pub async fn head(&self, chain: ChainId) -> Result<Option<Head>, ChainError> {
        self.ask(GetHead(chain)).await
    }

    /// The hash of the genesis block.
    ///
    /// # Errors
    /// [`ChainError::Call`].
    pub async fn genesis(&self) -> Result<Option<BlockHash>, ChainError> {
        self.ask(GetGenesis).await
    }

    /// A block with its commit record.
    ///
    /// # Errors
    /// [`ChainError::NoBlock`]; [`ChainError::Corrupt`].
    pub async fn block(&self, hash: BlockHash) -> Result<StoredBlock, ChainError> {
        self.ask(GetBlock(hash)).await
    }

    /// The JSON payload of a block on chain A, checked.
    ///
    /// # Errors
    /// [`ChainError::NoBlock`]; [`ChainError::Corrupt`].
    pub async fn body(&self, hash: BlockHash) -> Result<Vec<u8>, ChainError> {
        self.ask(GetBody(hash)).await
    }

    /// At most `count_max` and [`BLOCKS_MAX`](crate::BLOCKS_MAX) blocks that a query asks for, in the order of
    /// [`ChainIndex::find`](crate::ChainIndex::find).
    ///
    /// # Errors
    /// [`ChainError::Call`].
    pub async fn find(
        &self,
        query: BlockQuery,
        count_max: usize,
    ) -> Result<Vec<Version>, ChainError> {
        self.ask(FindBlocks(query, count_max)).await
    }

    /// A block of chain B and at most `count_max` and [`BLOCKS_MAX`](crate::BLOCKS_MAX) of its ancestors, the nearest.
    ///
    /// # Errors
    /// [`ChainError::NoBlock`] if it is not on chain B.
    pub async fn lineage(&self, hash: BlockHash, count_max: usize) -> Result<Lineage, ChainError> {
        self.ask(GetLineage(hash, count_max)).await
    }

    /// A published model: the newest, or the one with the id.
    ///
    /// # Errors
    /// [`ChainError::NoModel`]; [`ChainError::Corrupt`].
    pub async fn model(&self, id: Option<ModelId>) -> Result<ModelDescription, ChainError> {
        self.ask(GetModel(id)).await
    }

    /// The ids of all published models, oldest first.
    ///
    /// # Errors
    /// [`ChainError::Call`].
    pub async fn models(&self) -> Result<Vec<ModelId>, ChainError> {
        self.ask(ListModels).await
    }

    /// Where a payload lies; its file was found to have the length that its block binds, not more.
    ///
    /// # Errors
    /// [`ChainError::NoPayload`]; [`ChainError::Corrupt`] if the file is not there or has another length.
    pub async fn locate_payload(
        &self,
        payload: PayloadHash,
    ) -> Result<PayloadLocation, ChainError> {
        self.ask(LocatePayload(payload)).await
    }

    /// Remembers the SHA-256 of a fp32 derivation that was just written, synced and renamed.
    ///
    /// # Errors
    /// [`ChainError::NoPayload`]; [`ChainError::NotDurable`].
    pub async fn remember(
        &self,
        payload: PayloadHash,
        sha256: ContentHash,
    ) -> Result<(), ChainError> {
        self.ask(RememberFp32(payload, sha256)).await
    }

    /// Records receipts; returns once they are durable. The first receipt of a request stays.
    ///
    /// # Errors
    /// [`ChainError::NotDurable`].
    pub async fn record_receipts(&self, receipts: Vec<Receipt>) -> Result<(), ChainError> {
        self.ask(RecordReceipts(receipts)).await
    }

    /// The receipt of a request.
    ///
    /// # Errors
    /// [`ChainError::Corrupt`].
    pub async fn receipt(&self, request: RequestId) -> Result<Option<Receipt>, ChainError> {
        self.ask(GetReceipt(request)).await
    }

    /// At most `count_max` and [`RECEIPTS_MAX`](crate::RECEIPTS_MAX) receipts, oldest end first, from the one after
    /// `after` on.
    ///
    /// # Errors
    /// [`ChainError::Corrupt`].
    pub async fn receipts(
        &self,
        after: Option<ReceiptCursor>,
        count_max: usize,
    ) -> Result<Vec<Receipt>, ChainError> {
        self.ask(ListReceipts(after, count_max)).await
    }

    /// Holds a block that somebody wants to upload against every rule, as if its payload were there.
    ///
    /// # Errors
    /// [`ChainError::Refused`]; [`ChainError::NoModel`].
    pub async fn upload_terms(&self, block: SignedBlock) -> Result<UploadTerms, ChainError> {
        self.ask(GetUploadTerms(block)).await
    }

    /// The keys that may sign.
    ///
    /// # Errors
    /// [`ChainError::Call`].
    pub async fn signers(&self) -> Result<Signers, ChainError> {
        self.ask(GetSigners).await
    }

    /// Answers once the actor takes messages.
    ///
    /// # Errors
    /// [`ChainError::Call`].
    pub async fn ping(&self) -> Result<(), ChainError> {
        self.ask(Ping).await
    }
}

impl<S: Store> PayloadSource for ChainHandle<S> {
    fn locate(&self, payload: PayloadHash) -> BoxFuture<'_, Result<PayloadLocation, PublicError>> {
        Box::pin(async move { Ok(self.locate_payload(payload).await?) })
    }

    fn remember_fp32(
        &self,
        payload: PayloadHash,
        sha256: [u8; 32],
    ) -> BoxFuture<'_, Result<(), PublicError>> {
        Box::pin(async move {
            Ok(self
                .remember(payload, ContentHash::from_bytes(sha256))
                .await?)
        })
    }
}

impl<S: Store> ReceiptSink for ChainHandle<S> {
    fn record(&self, receipt: Receipt) -> BoxFuture<'_, Result<(), PublicError>> {
        Box::pin(async move { Ok(self.record_receipts(vec![receipt]).await?) })
    }
}
